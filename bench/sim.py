"""The simulator: probes per second of one core, and a thousand datacenters.

``python -m bench sim`` measures pools of 100 and 1 000 members, and a federation of 100 datacenters
for one minute. ``python -m bench.sim 1000 600`` runs the large one: so many datacenters of three
servers, so many virtual seconds; add ``coordinates`` to have acks carry network coordinates.
"""

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from bench.figures import repeat, show
from isthmus.gossip.config import GossipConfig
from isthmus.sim.network import LinkModel, Machine
from isthmus.sim.pool import Member, Pool
from isthmus.sim.world import World

ROUNDS = 3
SERVERS = 3
TAGS = {
    "role": "consul", "dc": "dc1", "segment": "", "id": "d6b7865b-8a0a-50c8-6f28-8676176d99de",
    "vsn": "2", "vsn_min": "2", "vsn_max": "3", "build": "1.10.11:", "acls": "0",
    "raft_vsn": "3", "port": "8300", "ft_fs": "1", "ft_si": "1", "use_tls": "1",
}  # fmt: skip


def _pool(size: int, *, loss: float, coordinates: bool) -> World:
    """A LAN pool that has run for a few seconds."""
    world = World(seed=size, within=LinkModel(loss=loss))
    pool = Pool(world, config=replace(GossipConfig.lan(), coordinates=coordinates))
    for number in range(size):
        name = f"server{number}"
        pool.add(name, world.process(name, world.machine(name, "dc1")), tags=TAGS)
    pool.converge()
    world.run(until=2.0)
    return world


def _probes(size: int, *, loss: float, seconds: float, coordinates: bool = False) -> None:
    world = _pool(size, loss=loss, coordinates=coordinates)

    def measure() -> float:
        started = time.process_time()
        world.run(until=world.now + seconds)
        return size * seconds / (time.process_time() - started)

    what = f"probes, pool of {size}, {loss:.0%} loss"
    if coordinates:
        show(f"{what}, with coordinates", repeat(ROUNDS, measure), "1/s")
    else:
        show(what, repeat(ROUNDS, measure), "1/s", "150 000")


class Federation:
    """Datacenters of three servers; the WAN pool's traffic goes through a gateway on either side.

    Args:
        datacenters: How many.
        coordinates: Whether acks carry network coordinates.
    """

    def __init__(self, datacenters: int, *, coordinates: bool = False) -> None:
        self.world = World(seed=datacenters)
        wan = replace(GossipConfig.wan(), coordinates=coordinates)
        lan = replace(GossipConfig.lan(), coordinates=coordinates)
        self.wan = Pool(self.world, config=wan, route=self._route, port=8302)
        self.lans: list[Pool] = []
        self._gateways: dict[str, Machine] = {}
        for number in range(1, datacenters + 1):
            dc = f"dc{number}"
            self._gateways[dc] = self.world.machine(f"gateway.{dc}", dc)
            self.lans.append(Pool(self.world, config=lan))
            tags = {**TAGS, "dc": dc}
            for server in range(1, SERVERS + 1):
                name = f"server{server}.{dc}"
                process = self.world.process(name, self.world.machine(name, dc))
                self.lans[-1].add(f"server{server}", process, tags=tags)
                self.wan.add(name, process, tags=tags)
            self.lans[-1].converge()
        self.wan.converge()

    def _route(self, source: Member, target: Member) -> Sequence[Machine]:
        here, there = source.machine, target.machine
        if here.group == there.group:
            return here, there
        return here, self._gateways[here.group], self._gateways[there.group], there

    def warnings(self) -> int:
        """How many warnings all cores gave."""
        return sum(member.warnings for pool in self._pools() for member in pool.members.values())

    def rates(self) -> tuple[float, float]:
        """Bytes per second that a server sent into its LAN pool, and into the WAN pool."""
        self.world.settle()
        totals = [
            sum(m.packet_bytes_sent + m.stream_bytes_sent for m in pool.members.values())
            for pool in self._pools()
        ]
        seconds = self.world.now * len(self.wan.members)
        return sum(totals[1:]) / seconds, totals[0] / seconds

    def _pools(self) -> list[Pool]:
        return [self.wan, *self.lans]


def federation(datacenters: int, seconds: float, *, coordinates: bool = False) -> None:
    """Run a federation, and say what it took."""
    started = time.process_time()
    made = Federation(datacenters, coordinates=coordinates)
    built = time.process_time()
    made.world.run(until=seconds)
    ended = time.process_time()
    what = f"{datacenters} datacenters x {SERVERS}, {seconds:g} s"
    if coordinates:
        what += ", with coordinates"
    target = "300" if (datacenters, seconds) == (1000, 600.0) else ""
    show(f"{what}: build", [built - started], "s")
    show(f"{what}: run", [ended - built], "s", target)
    lan, wan = made.rates()
    show(f"{what}: sent by a server, LAN", [lan], "B/s")
    show(f"{what}: sent by a server, WAN", [wan], "B/s")
    show(f"{what}: warnings", [made.warnings()], "")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    show(f"{what}: resident memory at most", [memory], "MiB", "4096" if target else "")


def main() -> None:
    """Run the short ones."""
    _probes(100, loss=0.0, seconds=300.0)
    _probes(100, loss=0.01, seconds=100.0)
    _probes(1000, loss=0.0, seconds=30.0)
    _probes(1000, loss=0.01, seconds=10.0)
    _probes(100, loss=0.0, seconds=20.0, coordinates=True)
    federation(100, 60.0)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        federation(int(sys.argv[1]), float(sys.argv[2]), coordinates="coordinates" in sys.argv)
    else:
        main()
