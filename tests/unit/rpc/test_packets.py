"""Gossip packets on a stream: captured frames, any cutting, and lengths that end it."""

import contextlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import MalformedPacket
from isthmus.rpc.packets import PACKET_SIZE_MAX, PacketReader, frame_packet

_VECTORS = Path(__file__).parents[2] / "vectors" / "federation" / "packet_frames.json"
CONNECTIONS: list[dict[str, Any]] = json.loads(_VECTORS.read_text())["connections"]


def chop(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut `data` at the given places."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


@pytest.mark.parametrize("connection", CONNECTIONS, ids=lambda connection: connection["sni"])
def test_frames_of_consul_both_ways(connection: dict[str, Any]) -> None:
    frames = [bytes.fromhex(frame["frame_hex"]) for frame in connection["frames"]]
    assert frames
    reader = PacketReader()
    reader.receive_data(b"".join(frames))
    packets = reader.take_packets()
    assert [len(packet) for packet in packets] == [f["length"] for f in connection["frames"]]
    assert [frame_packet(packet) for packet in packets] == frames
    assert not reader.in_packet


@given(packets=st.lists(st.binary(min_size=1, max_size=300)), cuts=st.lists(st.integers(0, 9999)))
def test_packets_survive_any_cutting(packets: list[bytes], cuts: list[int]) -> None:
    reader, taken = PacketReader(), []
    for piece in chop(b"".join(map(frame_packet, packets)), cuts):
        reader.receive_data(piece)
        taken += reader.take_packets()
    assert taken == packets
    assert not reader.in_packet


@pytest.mark.parametrize("size", [0, PACKET_SIZE_MAX + 1, 2**32 - 1])
def test_a_bad_length_ends_the_stream_but_not_what_came_before(size: int) -> None:
    reader = PacketReader()
    with pytest.raises(MalformedPacket, match=str(size)):
        reader.receive_data(frame_packet(b"good") + size.to_bytes(4, "big") + b"body")
    assert reader.take_packets() == [b"good"]
    with pytest.raises(MalformedPacket):
        reader.receive_data(b"more")
    assert reader.take_packets() == []


def test_the_largest_packet_is_accepted() -> None:
    reader = PacketReader()
    reader.receive_data(frame_packet(bytes(PACKET_SIZE_MAX)))
    assert reader.take_packets() == [bytes(PACKET_SIZE_MAX)]


def test_a_packet_without_its_end_is_noticed() -> None:
    reader = PacketReader()
    reader.receive_data(b"\x00")
    assert reader.in_packet
    reader.receive_data(b"\x00\x00\x02x")
    assert reader.in_packet
    reader.receive_data(b"y")
    assert not reader.in_packet


@given(data=st.binary())
def test_any_bytes_are_packets_or_refused(data: bytes) -> None:
    reader = PacketReader()
    with contextlib.suppress(MalformedPacket):
        reader.receive_data(data)
    assert all(reader.take_packets())
