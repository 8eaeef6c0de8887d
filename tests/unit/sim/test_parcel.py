"""What stands for bytes says the same as the bytes, and counts as many."""

from dataclasses import replace

import pytest

from isthmus.gossip.config import GossipConfig
from isthmus.gossip.envelope import COMPRESS_SIZE_MAX, Envelope
from isthmus.gossip.keyring import Keyring
from isthmus.gossip.members import OUR_VSN
from isthmus.sim.parcel import Parcel, ParcelCodec
from isthmus.wire import memberlist as wire

KEY = bytes(range(16))
PLAIN = replace(GossipConfig.lan(), compress=False)
CONFIGS = pytest.mark.parametrize(
    ("config", "keys"),
    [
        (PLAIN, ()),
        (replace(PLAIN, label=b"dc1"), ()),
        (replace(PLAIN, label=b"dc1"), (KEY,)),
        (replace(PLAIN, verify_incoming=False, verify_outgoing=False), (KEY,)),
    ],
)
LEAVES = [
    wire.encode_message(wire.Ping(seq_no=300, node="beta")),
    wire.encode_message(wire.Alive(incarnation=2, node="x", addr=bytes(4), vsn=OUR_VSN)),
    wire.encode_message(wire.Dead(incarnation=2, node="x", from_="y")),
]


def exchange(count: int, *, meta: int = 40, user: int = 100) -> wire.PushPull:
    nodes = [
        wire.NodeState(
            name=f"n{number}",
            addr=number.to_bytes(4, "big"),
            port=8301,
            meta=bytes(meta),
            incarnation=number,
            vsn=OUR_VSN,
        )
        for number in range(count)
    ]
    return wire.PushPull(join=False, nodes=tuple(nodes), user_state=bytes(user))


def make(config: GossipConfig, keys: tuple[bytes, ...]) -> tuple[ParcelCodec, Envelope]:
    return ParcelCodec(config, encrypted=bool(keys)), Envelope(config, Keyring(keys), bytes)


@CONFIGS
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("checksum", [False, True])
def test_packets_count_as_they_are_before_compression(
    config: GossipConfig, keys: tuple[bytes, ...], count: int, checksum: bool
) -> None:
    codec, envelope = make(config, keys)
    parcel = codec.packet(LEAVES[:count], checksum=checksum)
    data = envelope.packet(LEAVES[:count], checksum=checksum)
    assert parcel.size == len(data)
    assert codec.budget == envelope.budget
    assert codec.read_packet(parcel).messages == envelope.read_packet(data).messages


@CONFIGS
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("dialler", [False, True])
@pytest.mark.parametrize("count", [0, 3, 200, 700])
def test_exchanges_count_exactly(
    config: GossipConfig, keys: tuple[bytes, ...], compress: bool, dialler: bool, count: int
) -> None:
    codec, envelope = make(replace(config, compress=compress), keys)
    message = exchange(count, user=70_000 if count == 700 else 100)
    for _ in range(2):  # The second time from memory.
        assert codec.stream(message, dialler=dialler).size == len(
            envelope.stream(message, dialler=dialler)
        )
    assert (count < 700) == (len(wire.encode_stream(message)) <= COMPRESS_SIZE_MAX)


@CONFIGS
def test_other_streams_count_exactly(config: GossipConfig, keys: tuple[bytes, ...]) -> None:
    codec, envelope = make(config, keys)
    ping = wire.Ping(seq_no=1, node="beta")
    parcel = codec.stream(ping, dialler=True)
    assert parcel.size == len(envelope.stream(ping, dialler=True))
    reader = codec.reader(dialler=False)
    assert reader.message is None
    reader.receive_data(parcel)
    assert reader.message is ping


def test_what_can_not_be_read_is_counted() -> None:
    codec, _ = make(PLAIN, ())
    read = codec.read_packet(Parcel.of(3, messages=[LEAVES[0], b"\x04\xc1", b"\x63"]))
    assert len(read.messages) == 1
    assert read.refused == 2
