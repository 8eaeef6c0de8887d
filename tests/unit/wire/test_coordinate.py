"""The coordinate in an ack."""

import math

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import MalformedPacket
from isthmus.model.coordinate import ORIGIN, Coord
from isthmus.wire.coordinate import decode_ack, encode_ack
from support.coordinates import captured, coords

PAYLOAD, COORD = captured()


def test_consuls_bytes_are_read() -> None:
    assert decode_ack(PAYLOAD) == COORD


def test_consuls_bytes_are_written() -> None:
    assert encode_ack(COORD) == PAYLOAD


@given(coord=coords())
def test_what_is_written_is_read(coord: Coord) -> None:
    assert decode_ack(encode_ack(coord)) == coord


@given(data=st.binary() | st.binary().map(lambda tail: PAYLOAD[:40] + tail))
def test_any_bytes_are_a_coordinate_or_malformed(data: bytes) -> None:
    try:
        coord = decode_ack(b"\x01" + data)
    except MalformedPacket:
        return
    assert isinstance(coord, Coord)


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"", "coordinate of unknown version none"),
        (b"\x02" + PAYLOAD[1:], "coordinate of unknown version 02"),
        (b"\x01", "msgpack"),
        (PAYLOAD[:50], "msgpack"),
        (b"\x01\x90", "coordinate is no map but list"),
        (b"\x01" + msgpack.packb({"Vec": "x"}), "coordinate's vector is no list but bytes"),
        (b"\x01" + msgpack.packb({"Vec": [1.0, "x"]}), "coordinate holds a bytes for a number"),
        (b"\x01" + msgpack.packb({"Error": True}), "coordinate holds a bool for a number"),
    ],
)
def test_what_is_wrong_is_said(payload: bytes, text: str) -> None:
    with pytest.raises(MalformedPacket, match=text):
        decode_ack(payload)


def test_other_codecs_forms_are_read() -> None:
    """Single precision, integers, nil, unknown keys and what follows the value."""
    single = msgpack.packb({"Height": 0.5, "Vec": [0, 1], "X": 1}, use_single_float=True)
    assert decode_ack(b"\x01" + single + b"rest") == Coord(vec=(0.0, 1.0), height=0.5)
    assert decode_ack(b"\x01" + msgpack.packb({"Vec": None, "Error": None})) == Coord()


def test_dimensions_and_sizes_are_not_judged_here() -> None:
    strange = Coord(vec=(math.inf,) * 3, error=-1.0)
    assert decode_ack(encode_ack(strange)) == strange
    assert decode_ack(encode_ack(ORIGIN)) == ORIGIN


def test_integer_that_no_float_holds_is_read() -> None:
    assert decode_ack(b"\x01" + msgpack.packb({"Error": 2**64 - 1})).error == 2.0**64
