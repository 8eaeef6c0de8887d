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
    Edns,
    Request,
    Subnet,
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


def test_question_is_read() -> None:
    request = read_request(query())
    assert isinstance(request, Request)
    assert (request.id, request.labels, request.name) == (
        b"\0\7",
        ("web", "service", "consul"),
        "web.service.consul",
    )
    assert request.question == b"\3Web\7service\6consul\0\0\1\0\1"
    assert (request.type, request.recursion_desired, request.edns) == (1, True, None)


def test_edns_is_read() -> None:
    message = dns.message.make_query("web.service.consul", "SRV")
    subnet = dns.edns.ECSOption("192.0.2.0", 24)
    message.use_edns(0, payload=1400, options=[subnet])
    request = read_request(message.to_wire())
    assert isinstance(request, Request)
    assert request.edns == Edns(1400, Subnet("192.0.2.0", 24, subnet.to_wire() or b""))


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


def test_compression_loop_is_refused() -> None:
    header = query()[:12]
    assert refused(header + b"\xc0\x0c\0\1\0\1") == (7, "FORMERR")
    assert refused(header + b"\1a\xc0\x0c\0\1\0\1") == (7, "FORMERR")


def test_newer_edns_is_refused_with_our_version() -> None:
    message = dns.message.make_query("web.service.consul", "A", id=7)
    message.use_edns(1)
    assert refused(message.to_wire()) == (7, "BADVERS")


def test_other_classes_are_refused() -> None:
    message = dns.message.make_query("version.bind", "TXT", "CH", id=7)
    assert refused(message.to_wire()) == (7, "REFUSED")


def test_labels_that_are_no_text_match_nothing() -> None:
    data = query()[:12] + b"\3w.b\2\xff\xfe\0\0\1\0\1"
    request = read_request(data)
    assert isinstance(request, Request)
    assert request.labels == ("\0", "\0")


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


@given(st.data())
def test_damaged_questions_are_read_or_refused(data: st.DataObject) -> None:
    message = dns.message.make_query("web.service.consul", "SRV")
    message.use_edns(0, options=[dns.edns.ECSOption("192.0.2.0", 24)])
    wire = bytearray(message.to_wire())
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(wire)))
    request = read_request(bytes(wire[:cut]))
    if isinstance(request, Request):
        again = dns.message.from_wire(request.data)
        assert again.question[0].name.to_wire() == request.question[:-4]
        assert again.is_response(dns.message.from_wire(failure(bytes(wire[:cut]))))
    elif request is not None:
        assert dns.message.from_wire(request).flags & dns.flags.QR
