"""Records as MessagePack maps: what is written, and what is accepted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from isthmus.errors import MalformedPacket
from isthmus.wire.fields import (
    Field,
    Fields,
    boolean,
    mapping,
    octets,
    pack,
    sequence,
    signed,
    text,
    unpack,
    unsigned,
)


class Record(Struct, frozen=True, kw_only=True):
    zebra: int = 0
    ant: str = ""
    bee: bytes = b""


FIELDS = Fields(
    Record,
    Field("Zebra", "zebra", unsigned(16)),
    Field("Ant", "ant", text, omit_empty=True),
    Field("Bee", "bee", octets, nil_empty=True),
)


def test_fields_are_written_in_alphabetical_order() -> None:
    record = Record(zebra=1, ant="a", bee=b"b")
    assert FIELDS.encode(record) == b"\x83\xa3Ant\xa1a\xa3Bee\xa1b\xa5Zebra\x01"


def test_empty_fields_are_left_out_or_nil_where_they_say_so() -> None:
    assert FIELDS.encode(Record()) == b"\x82\xa3Bee\xc0\xa5Zebra\x00"


def test_order_unknown_keys_and_missing_ones_do_not_matter() -> None:
    data = pack({"Zebra": 1, "Other": [1, {"x": None}], "Ant": "a"})
    assert FIELDS.decode(data) == Record(zebra=1, ant="a")


def test_bytes_behind_the_record_are_ignored() -> None:
    assert FIELDS.decode(FIELDS.encode(Record(zebra=3)) + b"\xff\xff") == Record(zebra=3)


def test_text_that_is_no_utf8_survives() -> None:
    data = pack({"Ant": b"\xff\xfe", "Bee": b"x", "Zebra": 0})
    assert FIELDS.encode(FIELDS.decode(data)) == data


def test_mistake_names_its_field() -> None:
    with pytest.raises(MalformedPacket, match=r"Record.zebra: 65536 is not an unsigned integer"):
        FIELDS.decode(pack({"Zebra": 65536}))


@pytest.mark.parametrize(
    ("convert", "value", "result"),
    [
        (unsigned(8), 255, 255),
        (unsigned(8), None, 0),
        (signed, -5, -5),
        (signed, None, 0),
        (text, b"x", "x"),
        (text, None, ""),
        (octets, None, b""),
        (boolean, True, True),
        (boolean, None, False),
        (sequence(text), [b"a", b"b"], ("a", "b")),
        (sequence(text), None, ()),
        (mapping(unsigned(8)), {b"a": 1}, {"a": 1}),
        (mapping(unsigned(8)), None, {}),
    ],
)
def test_values_are_converted(convert: object, value: object, result: object) -> None:
    assert callable(convert)
    assert convert(value) == result


@pytest.mark.parametrize(
    ("convert", "value"),
    [
        (unsigned(8), 256),
        (unsigned(8), -1),
        (unsigned(8), True),
        (unsigned(8), 1.0),
        (signed, 2**63),
        (text, 5),
        (octets, "x"),
        (boolean, 1),
        (sequence(text), b"ab"),
        (mapping(text), [b"a"]),
    ],
)
def test_other_kinds_are_malformed(convert: object, value: object) -> None:
    assert callable(convert)
    with pytest.raises(MalformedPacket):
        convert(value)


@given(st.binary(max_size=60))
def test_any_bytes_give_a_value_or_are_malformed(data: bytes) -> None:
    for decode in (unpack, FIELDS.decode):
        try:
            decode(data)
        except MalformedPacket:
            continue


def test_huge_promises_cost_nothing() -> None:
    for data in (b"\xdd\x7f\xff\xff\xff", b"\xdf\x7f\xff\xff\xff", b"\xc6\x7f\xff\xff\xff"):
        with pytest.raises(MalformedPacket):
            unpack(data)
