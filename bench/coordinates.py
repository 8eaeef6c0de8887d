"""Network coordinates: what an ack costs more because of them, and sorting by distance."""

from random import Random

from bench.figures import measure, microseconds, show
from bench.gossip_codec import PING
from isthmus.gossip.config import GossipConfig
from isthmus.gossip.coordinate import PoolCoordinates, Vivaldi
from isthmus.gossip.keyring import Keyring
from isthmus.gossip.serf import Serf
from isthmus.model.coordinate import Coord, distance
from isthmus.wire import memberlist as wire
from isthmus.wire.coordinate import decode_ack, encode_ack

ROUNDS = 5
NODES = 1000


def _coord(rng: Random) -> Coord:
    return Coord(
        vec=tuple(rng.uniform(-0.1, 0.1) for _ in range(8)),
        error=rng.uniform(0.05, 0.5),
        adjustment=rng.uniform(-1e-4, 1e-4),
        height=rng.uniform(1e-5, 1e-3),
    )


def _updates() -> None:
    rng = Random(1)
    others = [_coord(rng) for _ in range(100)]
    vivaldi = Vivaldi(rng=rng)
    payload = encode_ack(others[0])
    pool = PoolCoordinates("me", enabled=True, rng=rng)
    measure("coordinate: one update", lambda: vivaldi.update("x", rng.choice(others), 0.03), 5000)
    measure("ack payload: encode, each time we moved", lambda: encode_ack(others[0]), 5000)
    measure("ack payload: decode", lambda: decode_ack(payload), 5000)
    measure("ack received: payload to new coordinate", lambda: _receive(pool, payload), 5000)


def _receive(pool: PoolCoordinates, payload: bytes) -> None:
    pool.receive_ack("x", payload, rtt=0.03)


def _answers() -> None:
    """Ping in, ack out, through a whole core, with coordinates and without."""
    for what, enabled in (("with", True), ("without", False)):
        serf = Serf(
            name="alpha.dc1",
            address=("10.0.0.1", 8302),
            tags={"role": "consul"},
            config=GossipConfig(coordinates=enabled),
            keyring=Keyring(()),
            merge_check=None,
            rng=Random(1),
            entropy=Random(1).randbytes,
            now=0.0,
        )
        serf.memberlist.rumours.forget("alpha.dc1")
        serf.coordinates.receive_ack("beta", encode_ack(_coord(Random(2))), rtt=0.03)
        packet = wire.encode_message(PING)

        def answer(serf: Serf = serf, packet: bytes = packet) -> None:
            serf.receive_packet(packet, source=("10.0.0.2", 8302), now=0.0)
            assert serf.take_outputs()
            serf.next_timer()

        rates = [1e6 / microseconds(answer, 3000) for _ in range(ROUNDS)]
        show(f"core: pings answered per second, {what} coordinates", rates, "1/s", "15 000")


def _sorting() -> None:
    rng = Random(1)
    nodes = [_coord(rng) for _ in range(NODES)]
    origin = nodes[0]

    def nearest() -> None:
        sorted(nodes, key=lambda node: distance(origin, node))

    measure(f"near: sort {NODES} nodes by distance", nearest, 20)


def main() -> None:
    """Run all of it; takes a few seconds."""
    _updates()
    _answers()
    _sorting()


if __name__ == "__main__":
    main()
