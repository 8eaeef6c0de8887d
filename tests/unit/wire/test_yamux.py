"""Yamux frame headers against captured ones, both ways."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import MalformedPacket
from isthmus.wire.yamux import (
    HEADER_SIZE,
    Flag,
    FrameType,
    Header,
    decode_header,
    encode_header,
)

_VECTORS = Path(__file__).parents[2] / "vectors" / "rpc"
FRAMES: list[dict[str, Any]] = [
    json.loads(path.read_text()) for path in sorted(_VECTORS.glob("yamux-*.json"))
]
_TYPES = {"data": 0, "window_update": 1, "ping": 2, "go_away": 3}


def described(vector: dict[str, Any]) -> Header:
    decoded = vector["decoded"]
    flags = sum(Flag[name] for name in decoded["flags"])
    return Header(_TYPES[decoded["type"]], flags, decoded["stream"], decoded["length"])


def test_there_are_captured_frames() -> None:
    assert len(FRAMES) == 4


@pytest.mark.parametrize("vector", FRAMES, ids=lambda vector: vector["name"])
def test_frames_of_consul_decode_to_their_meaning(vector: dict[str, Any]) -> None:
    assert decode_header(bytes.fromhex(vector["hex"])) == described(vector)


@pytest.mark.parametrize("vector", FRAMES, ids=lambda vector: vector["name"])
def test_frames_encode_to_the_bytes_of_consul(vector: dict[str, Any]) -> None:
    assert encode_header(*described(vector)).hex() == vector["hex"]


def test_opening_of_a_connection_is_a_window_update_and_data() -> None:
    vector = json.loads((_VECTORS / "conn-plain-multiplex-open.json").read_text())
    data = bytes.fromhex(vector["hex"])
    assert data[0] == vector["decoded"]["type_byte"]
    first = decode_header(data, 1)
    second = decode_header(data, 1 + HEADER_SIZE)
    assert first == Header(FrameType.WINDOW_UPDATE, Flag.SYN, 1, 0)
    assert second == Header(FrameType.DATA, 0, 1, 262)
    assert len(data) == 1 + 2 * HEADER_SIZE + second.length


@given(
    header=st.builds(
        Header,
        st.sampled_from(list(FrameType)),
        st.integers(0, 2**16 - 1),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
    ),
    before=st.binary(max_size=5),
)
def test_headers_survive_the_round_trip(header: Header, before: bytes) -> None:
    assert decode_header(before + encode_header(*header), len(before)) == header


@given(data=st.binary(min_size=HEADER_SIZE, max_size=HEADER_SIZE))
def test_any_bytes_are_a_header_or_refused(data: bytes) -> None:
    try:
        header = decode_header(data)
    except MalformedPacket:
        assert data[0] != 0 or data[1] > 3
    else:
        assert encode_header(*header) == data
