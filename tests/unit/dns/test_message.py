"""Order, limits, compression, EDNS of answers: protocol/cli-config-dns.md §3.2."""

from random import Random

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.dns import records
from isthmus.dns.instances import Group
from isthmus.dns.message import Answer, Limits, write_answer
from isthmus.dns.records import encode_name
from isthmus.dns.request import NAME_ERROR, PLAIN_SIZE_MAX, Request, read_request
from support.dns import rows

NAME = "web.service.consul"
DEFAULTS = Limits()


def request(kind: str = "A", edns: int | None = None, name: str = NAME) -> Request:
    query = dns.message.make_query(name, kind, id=7)
    if edns is not None:
        query.use_edns(0, payload=edns)
    found = read_request(query.to_wire())
    assert isinstance(found, Request)
    return found


def name(text: str) -> bytes:
    return encode_name(text) or b""


def addresses(count: int) -> tuple[Group, ...]:
    return tuple(
        [Group((records.address(b"", bytes([10, 0, n // 256, n % 256]), 0),)) for n in range(count)]
    )


def srvs(count: int, *, texts: bool = False) -> tuple[Group, ...]:
    found = []
    for n in range(count):
        target = name(f"node-{n}.node.dc1.consul")
        found.append(
            Group(
                (records.srv(b"", weight=1, port=n, target=target, ttl=0),),
                (records.address(target, bytes([10, 0, 0, n]), 0),),
                (records.txt(target, b"rack=1", 0),) if texts else (),
            )
        )
    return tuple(found)


def write(
    asked: Request,
    answer: Answer,
    limits: Limits = DEFAULTS,
    *,
    tcp: bool = False,
    seed: int = 0,
) -> tuple[dns.message.Message, int]:
    data = write_answer(asked, answer, limits, tcp=tcp, rng=Random(seed))
    return dns.message.from_wire(data), len(data)


def test_plain_udp_gets_three_records() -> None:
    message, size = write(request(), Answer(groups=addresses(10)))
    assert len(rows(message.answer)) == 3
    assert size <= PLAIN_SIZE_MAX
    assert not message.flags & dns.flags.TC


@pytest.mark.parametrize(("limit", "count"), [(0, 0), (1, 1), (5, 5), (8, 8), (20, 8)])
def test_plain_udp_gets_at_most_eight(limit: int, count: int) -> None:
    message, _ = write(request(), Answer(groups=addresses(10)), Limits(udp_answer_limit=limit))
    assert len(rows(message.answer)) == count


def test_shortened_answer_says_so_if_wanted() -> None:
    message, _ = write(request(), Answer(groups=addresses(10)), Limits(enable_truncate=True))
    assert message.flags & dns.flags.TC
    message, _ = write(request(), Answer(groups=addresses(3)), Limits(enable_truncate=True))
    assert not message.flags & dns.flags.TC


@pytest.mark.parametrize("payload", [1232, 4096])
def test_edns_gets_all_that_fit(payload: int) -> None:
    message, size = write(request("SRV", payload), Answer(groups=srvs(20)))
    assert len(rows(message.answer)) == len(rows(message.additional)) == 20
    assert size <= payload
    assert message.payload == payload


def test_what_does_not_fit_is_left_out_with_what_belongs_to_it() -> None:
    for payload in range(600, 1500, 97):
        message, size = write(request("SRV", payload), Answer(groups=srvs(40, texts=True)))
        assert size <= payload - 7
        targets = {row.split()[-1] for row in rows(message.answer)}
        assert {row.split()[0] for row in rows(message.additional)} == targets
        assert 0 < len(targets) < 40
        # Another one would not have fitted.
        assert size + 70 > payload - 7


def test_texts_go_along_when_there_is_room() -> None:
    message, _ = write(request("SRV"), Answer(groups=srvs(3, texts=True)))
    assert [row.split()[2] for row in rows(message.additional)].count("TXT") == 3
    message, _ = write(request("SRV"), Answer(groups=srvs(4, texts=True)))
    assert [row.split()[2] for row in rows(message.additional)].count("TXT") == 0


def test_plain_udp_counts_names_in_full() -> None:
    """Somebody on the way may write them so."""
    long = name("n" * 60 + ".node.dc1.consul")
    group = Group(
        (records.srv(b"", weight=1, port=1, target=long, ttl=0),),
        (records.address(long, bytes(4), 0),),
    )
    others = [
        Group((records.srv(b"", weight=1, port=n, target=long, ttl=0),), group.extra)
        for n in range(2, 11)
    ]
    message, size = write(
        request("SRV"), Answer(groups=(group, *others)), Limits(udp_answer_limit=8)
    )
    kept = len(rows(message.answer))
    in_full = (
        12 + len(request().question) + kept * (len(name(NAME)) + 16 + len(long)) + len(long) + 14
    )
    assert size < in_full <= PLAIN_SIZE_MAX - 7
    assert kept == 3


def test_tcp_gets_everything() -> None:
    message, _ = write(request("SRV"), Answer(groups=srvs(200, texts=True)), tcp=True)
    assert len(rows(message.answer)) == 200
    assert len(rows(message.additional)) == 400


def test_tcp_gets_what_its_size_can_express() -> None:
    targets = [name(f"n{n}.{'x' * 60}.consul") for n in range(2000)]
    many = tuple(
        [Group((records.srv(b"", weight=1, port=1, target=one, ttl=0),)) for one in targets]
    )
    limits = Limits(enable_truncate=True)
    message, size = write(request("SRV"), Answer(groups=many), limits, tcp=True)
    assert size <= 65535 - 12
    assert message.flags & dns.flags.TC
    assert 600 < len(rows(message.answer)) <= 1024
    message, _ = write(request(), Answer(groups=addresses(5000)), tcp=True)
    assert len(rows(message.answer)) > 4000


@given(st.integers(0, 2**32), st.integers(2, 30), st.integers(512, 4096), st.booleans())
def test_every_order_is_readable(seed: int, count: int, payload: int, texts: bool) -> None:
    """Pointers follow the names that they point to."""
    groups = srvs(count, texts=texts)
    message, _ = write(request("SRV", payload), Answer(groups=groups, shuffled=True), seed=seed)
    answers, extra = rows(message.answer), rows(message.additional)
    targets = [row.split()[-1] for row in answers]
    assert len(set(targets)) == len(targets)
    for row in extra:
        owner, _, kind, data = row.split()
        assert owner in targets
        number = owner.split(".")[0].removeprefix("node-")
        assert (kind, data) in {("A", f"10.0.0.{number}"), ("TXT", '"rack=1"')}


def test_order_is_new_each_time() -> None:
    answer, rng = Answer(groups=addresses(10), shuffled=True), Random(1)
    seen, first = set(), set()
    for _ in range(200):
        data = write_answer(request(edns=1232), answer, Limits(), tcp=False, rng=rng)
        found = rows(dns.message.from_wire(data).answer)
        seen.add(tuple(found))
        first.add(found[0])
    assert len(first) == 10
    assert len(seen) > 150
    fixed = Answer(groups=addresses(10))
    assert rows(write(request(edns=1232), fixed, seed=1)[0].answer) == rows(
        write(request(edns=1232), fixed, seed=2)[0].answer
    )


def test_limit_of_addresses_holds_for_every_transport_and_not_for_srv() -> None:
    limits = Limits(a_record_limit=2)
    for tcp in (False, True):
        message, _ = write(request(edns=1232), Answer(groups=addresses(10)), limits, tcp=tcp)
        assert len(rows(message.answer)) == 2
    message, _ = write(request("SRV", 1232), Answer(groups=srvs(10)), limits)
    assert len(rows(message.answer)) == 10


def test_alias_is_shown_when_there_is_nothing_else() -> None:
    alias = Group((records.cname(b"", name("db.example"), 0),), host="db.example")
    other = Group((records.cname(b"", name("dc.example"), 0),), host="dc.example")
    message, _ = write(request(), Answer(groups=(alias, other)))
    assert rows(message.answer) == [f"{NAME}. 0 CNAME db.example."]
    message, _ = write(request(), Answer(groups=(alias, *addresses(1))))
    assert rows(message.answer) == [f"{NAME}. 0 A 10.0.0.0"]


def test_names_are_written_in_full_if_wanted() -> None:
    short, size = write(request("SRV", 4096), Answer(groups=srvs(5)))
    full, longer = write(
        request("SRV", 4096), Answer(groups=srvs(5)), Limits(disable_compression=True)
    )
    assert rows(short.answer) == rows(full.answer)
    assert rows(short.additional) == rows(full.additional)
    saved = len(name(NAME)) - 2 + len(name("node-0.node.dc1.consul")) - 2
    assert longer - size == 5 * saved


def test_spelling_and_id_of_the_question_are_repeated() -> None:
    asked = request(name="WeB.service.CONSUL")
    data = write_answer(
        asked,
        Answer(groups=addresses(1)),
        Limits(),
        tcp=False,
        rng=Random(0),
        ident=b"\1\2",
        question=asked.question.replace(b"WeB", b"wEB"),
    )
    message = dns.message.from_wire(data)
    assert message.id == 0x0102
    assert str(message.question[0].name) == "wEB.service.CONSUL."
    assert str(message.answer[0].name) == "wEB.service.CONSUL."


def test_flags_say_what_holds() -> None:
    message, _ = write(request(), Answer(NAME_ERROR), Limits(recursion_available=True))
    assert dns.flags.to_text(message.flags) == "QR AA RD RA"
    assert message.rcode() == dns.rcode.NXDOMAIN
    message, _ = write(request(), Answer(authoritative=False))
    assert dns.flags.to_text(message.flags) == "QR RD"


@pytest.mark.parametrize(
    ("answer", "scope"),
    [(Answer(), 0), (Answer(is_local=True), 24), (Answer(NAME_ERROR, is_local=True), 0)],
)
def test_subnet_is_echoed_with_the_scope_of_the_answer(answer: Answer, scope: int) -> None:
    query = dns.message.make_query(NAME, "A")
    query.use_edns(0, options=[dns.edns.ECSOption("192.0.2.0", 24)])
    asked = read_request(query.to_wire())
    assert isinstance(asked, Request)
    message, _ = write(asked, answer)
    assert message.options == (dns.edns.ECSOption("192.0.2.0", 24, scope),)


def test_explanation_is_for_who_speaks_edns() -> None:
    answer = Answer(5, explanation=(21, "not here"))
    message, _ = write(request(edns=1232), answer)
    assert message.extended_errors() == [
        dns.edns.EDEOption(dns.edns.EDECode.NOT_SUPPORTED, "not here")
    ]
    message, size = write(request(), answer)
    assert message.edns == -1
    assert size == 12 + len(request().question)
