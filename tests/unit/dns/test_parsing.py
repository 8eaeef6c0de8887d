"""Questions as the library reads them."""

import dns.edns
import dns.flags
import dns.message
import dns.rcode
from hypothesis import given
from hypothesis import strategies as st

from isthmus.dns.parsing import parse
from isthmus.dns.request import Edns, Request, Subnet, failure, read_request


def query(name: str = "Web.service.consul", kind: str = "A", *, ident: int = 7) -> bytes:
    return dns.message.make_query(name, kind, id=ident).to_wire()


def refused(data: bytes) -> tuple[int, str]:
    """Id and code of a refusal."""
    answer = parse(data)
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


def test_labels_that_are_no_text_match_nothing() -> None:
    data = query()[:12] + b"\3w.b\2\xff\xfe\0\0\1\0\1"
    request = read_request(data)
    assert isinstance(request, Request)
    assert request.labels == ("\0", "\0")


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
