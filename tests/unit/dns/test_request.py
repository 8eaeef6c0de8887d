"""The entrance: questions, what is none, and anything else."""

import struct

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.dns.request import (
    REQUEST_SIZE_MAX,
    cache_key,
    failure,
    read_request,
)


def query(name: str = "Web.service.consul", kind: str = "A", *, ident: int = 7) -> bytes:
    return dns.message.make_query(name, kind, id=ident).to_wire()


def changed(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + struct.pack(">H", value) + data[at + 2 :]


def refused(data: bytes) -> tuple[int, str]:
    """Id and code of a refusal."""
    answer = read_request(data)
    assert isinstance(answer, bytes)
    message = dns.message.from_wire(answer)
    assert message.flags & dns.flags.QR
    return message.id, dns.rcode.to_text(message.rcode())


def test_answers_sent_to_us_are_ignored() -> None:
    """Or two servers would talk to each other for ever."""
    assert read_request(changed(query(), 2, 0x8180)) is None


def test_what_has_no_header_is_ignored() -> None:
    assert read_request(b"") is None
    assert read_request(query()[:11]) is None


@pytest.mark.parametrize("opcode", [1, 2, 4, 5])
def test_other_operations_are_not_implemented(opcode: int) -> None:
    assert refused(changed(query(), 2, opcode << 11)) == (7, "NOTIMP")


@pytest.mark.parametrize("kind", ["AXFR", "IXFR"])
def test_transfers_are_not_implemented(kind: str) -> None:
    assert refused(query(kind=kind)) == (7, "NOTIMP")


@pytest.mark.parametrize("count", [0, 2, 65535])
def test_there_is_one_question(count: int) -> None:
    assert refused(changed(query(), 4, count)) == (7, "FORMERR")


@pytest.mark.parametrize("at", [6, 8, 10])
def test_records_that_are_announced_must_be_there(at: int) -> None:
    assert refused(changed(query(), at, 1)) == (7, "FORMERR")


def test_request_that_is_too_long_is_refused() -> None:
    assert refused(query() + bytes(REQUEST_SIZE_MAX)) == (7, "FORMERR")


def test_failure_repeats_the_question() -> None:
    message = dns.message.from_wire(failure(query()))
    assert message.rcode() == dns.rcode.SERVFAIL
    assert dns.message.from_wire(query()).is_response(message)


def test_requests_that_differ_in_id_and_spelling_have_one_key() -> None:
    one = cache_key(query("web.service.consul", ident=1))
    assert one == cache_key(query("WEB.Service.consul", ident=2))
    assert one != cache_key(query("web.service.consul", "SRV"))
    assert one != cache_key(query("wec.service.consul"))
    # Type 65 is the letter A, and 97 is another type.
    assert cache_key(query(kind="HTTPS")) != cache_key(query(kind="TYPE97"))
    assert cache_key(b"12345678") is None


@given(st.binary(max_size=300))
def test_any_bytes_are_a_question_or_refused_or_ignored(data: bytes) -> None:
    request = read_request(data)
    cache_key(data)
    if isinstance(request, bytes):
        assert dns.message.from_wire(request).flags & dns.flags.QR
