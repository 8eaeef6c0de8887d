"""Gossip without a network: codecs, one core's packets, whole pools in virtual time."""

import os
from random import Random

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bench.figures import measure, microseconds, show
from isthmus.gossip.config import GossipConfig
from isthmus.gossip.keyring import Keyring
from isthmus.gossip.members import OUR_VSN
from isthmus.gossip.serf import Serf
from isthmus.wire import lzw
from isthmus.wire import memberlist as wire
from isthmus.wire.serf import encode_tags

ROUNDS = 5
TAGS = {
    "role": "consul", "dc": "dc1", "segment": "", "id": "d6b7865b-8a0a-50c8-6f28-8676176d99de",
    "vsn": "2", "vsn_min": "2", "vsn_max": "3", "build": "1.10.11:", "acls": "0",
    "raft_vsn": "3", "port": "8300", "ft_fs": "1", "ft_si": "1", "use_tls": "1",
}  # fmt: skip
PING = wire.Ping(
    seq_no=7, node="alpha.dc1", source_addr=bytes(4), source_port=8302, source_node="beta.dc2"
)


def _alive(number: int) -> wire.Alive:
    return wire.Alive(
        incarnation=1,
        node=f"server{number}.dc{number % 50}",
        addr=number.to_bytes(4, "big"),
        port=8302,
        meta=encode_tags(TAGS),
        vsn=OUR_VSN,
    )


def _codecs() -> None:
    data = wire.encode_message(PING)
    measure("ping: encode", lambda: wire.encode_message(PING), 5000)
    measure("ping: decode", lambda: wire.decode_message(data), 5000)
    key = AESGCM(bytes(32))
    nonce = bytes(12)
    sealed = wire.seal(data, key, nonce=nonce, associated=b"")
    measure("ping: seal", lambda: wire.seal(data, key, nonce=nonce, associated=b""), 5000)
    measure("ping: unseal", lambda: wire.open_packet(sealed, ciphers=(key,)), 5000)
    parts = [wire.encode_message(_alive(1)), wire.encode_message(_alive(2))]
    packet = wire.add_checksum(wire.compress(wire.join_compound(parts)))
    measure(
        "two alives: compound, compress, checksum",
        lambda: wire.add_checksum(wire.compress(wire.join_compound(parts))),
        300,
    )
    measure("two alives: open and decode", lambda: _decode(packet), 300)
    text = b"".join(wire.encode_message(_alive(number)) for number in range(200))
    packed = lzw.compress(text)
    for what, action in (
        ("LZW: compress", lambda: lzw.compress(text)),
        ("LZW: decompress", lambda: lzw.decompress(packed)),
    ):
        speeds = [len(text) / microseconds(action, 1) for _ in range(ROUNDS)]
        show(what, speeds, "MB/s")


def _decode(packet: bytes) -> None:
    for leaf in wire.open_packet(packet).messages:
        wire.decode_message(leaf)


def _push_pull() -> None:
    states = tuple(
        wire.NodeState(
            name=alive.node,
            addr=alive.addr,
            port=alive.port,
            meta=alive.meta,
            incarnation=1,
            vsn=OUR_VSN,
        )
        for alive in map(_alive, range(1000))
    )
    message = wire.PushPull(join=False, nodes=states, user_state=b"")
    data = wire.encode_stream(message)

    def parse() -> None:
        reader = wire.StreamReader(dialler=False)
        reader.receive_data(data)
        assert reader.message is not None

    build = [microseconds(lambda: wire.encode_stream(message), 1) / 1000 for _ in range(ROUNDS)]
    parsed = [microseconds(parse, 1) / 1000 for _ in range(ROUNDS)]
    show("push/pull of 1 000 members: build", build, "ms", "15")
    show("push/pull of 1 000 members: parse", parsed, "ms", "10")


def _core() -> None:
    """Ping in, ack out, through a whole core; with and without encryption."""
    for what, keys in (("plain", ()), ("encrypted", (bytes(32),))):
        serf = Serf(
            name="alpha.dc1",
            address=("10.0.0.1", 8302),
            tags=TAGS,
            config=GossipConfig.wan(),
            keyring=Keyring(keys),
            merge_check=None,
            rng=Random(1),
            entropy=os.urandom,
            now=0.0,
        )
        packet = wire.encode_message(PING)
        if keys:
            packet = wire.seal(packet, AESGCM(keys[0]), nonce=bytes(12), associated=b"")
        serf.memberlist.rumours.forget("alpha.dc1")

        def answer(serf: Serf = serf, packet: bytes = packet) -> None:
            serf.receive_packet(packet, source=("10.0.0.2", 8302), now=0.0)
            assert serf.take_outputs()
            serf.next_timer()

        rates = [1e6 / microseconds(answer, 3000) for _ in range(ROUNDS)]
        show(f"core: pings answered per second, {what}", rates, "1/s", "15 000")


def main() -> None:
    """Run all of it; takes a few seconds."""
    _codecs()
    _push_pull()
    _core()


if __name__ == "__main__":
    main()
