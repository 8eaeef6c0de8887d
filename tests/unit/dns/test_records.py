"""Encoded records, as the library reads them."""

import struct

import dns.rdata
import pytest

from isthmus.dns import records
from isthmus.dns.records import Record, encode_name


def shown(record: Record) -> str:
    """Type, TTL and data of a record."""
    kind, rdclass, ttl, size = struct.unpack_from(">HHIH", record.body)
    assert kind == record.type
    data = dns.rdata.from_wire(rdclass, kind, record.body, 10, size)
    assert len(record.body) == 10 + size
    return f"{ttl} {data}"


def name(text: str) -> bytes:
    encoded = encode_name(text)
    assert encoded is not None
    return encoded


def test_records_are_what_they_say() -> None:
    target = name("n1.node.dc1.consul")
    srv = records.srv(b"", weight=3, port=8080, target=target, ttl=5)
    assert shown(srv) == "5 1 3 8080 n1.node.dc1.consul."
    assert srv.target == target
    assert shown(records.address(b"", bytes([10, 0, 0, 1]), 0)) == "0 10.0.0.1"
    assert shown(records.address(b"", bytes(15) + b"\1", 0)) == "0 ::1"
    assert shown(records.cname(b"", target, 7)) == "7 n1.node.dc1.consul."
    assert shown(records.ns(b"", target, 7)) == "7 n1.node.dc1.consul."
    assert shown(records.ptr(b"", target, 7)) == "7 n1.node.dc1.consul."
    start = records.soa("consul", serial=17, times=(3600, 600, 86400, 0), ttl=0)
    assert shown(start) == "0 ns.consul. hostmaster.consul. 17 3600 600 86400 0"


def test_long_text_is_parted() -> None:
    text = records.txt(b"", b"x" * 300, 0)
    assert shown(text) == f'0 "{"x" * 255}" "{"x" * 45}"'
    assert shown(records.txt(b"", b"", 0)) == '0 ""'


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("rack", "r1", "rack=r1"),
        ("a=b", "c=d", "a`=b=c=d"),
        ("a`b", "c`d", "a``b=c``d"),
        (" a ", "b", "` a` =b"),
        ("rfc1035-note", "v=spf1", "v=spf1"),
        ("RFC1035-note", "x", "x"),
        ("  ", "b", "` ` =b"),
    ],
)
def test_metadata_are_quoted_as_rfc_1464_wants_it(key: str, value: str, text: str) -> None:
    (record,) = records.node_texts(b"", [(key, value)], 0)
    assert record.body[11:].decode() == text


def test_text_that_is_too_long_is_left_out() -> None:
    assert records.node_texts(b"", [("a", "x" * 5000), ("b", "y")], 0) == [
        records.txt(b"", b"b=y", 0)
    ]


def test_name_that_cannot_be_one_is_none() -> None:
    assert encode_name("x" * 64 + ".node.dc1.consul") is None
    assert encode_name(".".join(["x" * 60] * 5)) is None
    assert encode_name("a..b") is None
    assert encode_name("knöten.node") == b"\x07kn\xc3\xb6ten\x04node\0"
    assert encode_name("") is None
    assert encode_name("db.example.") == b"\2db\7example\0"


def test_ttl_can_be_taken_from_another_record() -> None:
    one, other = records.address(b"o", bytes(4), 7), records.address(b"", bytes(4), 70_000)
    assert records.with_ttl_of(one, other) == records.address(b"o", bytes(4), 70_000)
