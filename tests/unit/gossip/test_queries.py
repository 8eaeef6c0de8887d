"""Queries: who is meant, when a question ends, who may answer how often."""

from collections.abc import Iterable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import InvalidRequest, Unavailable
from isthmus.gossip.config import GossipConfig
from isthmus.gossip.lamport import LamportClock
from isthmus.gossip.members import OUR_VSN
from isthmus.gossip.outputs import Address
from isthmus.gossip.queries import (
    ANSWERS_MIN,
    QUERIES_ASKED_MAX,
    QUERIES_OPEN_MAX,
    QUERY_TIMEOUT_MAX,
    Queries,
    QueryResult,
    Question,
    default_timeout,
)
from isthmus.gossip.roster import Roster
from isthmus.units import SECOND
from isthmus.wire import serf as wire
from isthmus.wire.memberlist import NodeState

PORT = 7946


class Pool:
    """The queries of one member, and what came of them."""

    def __init__(self, *others: str, tags: dict[str, str] | None = None) -> None:
        self.roster = Roster(GossipConfig.lan(), emit=lambda event: None)
        self.clock = LamportClock()
        self.sent: list[tuple[str, Address, wire.SerfMessage]] = []
        self.spread: list[wire.SerfMessage] = []
        self.asked: list[wire.Query] = []
        self.finished: list[tuple[int, QueryResult]] = []
        self.add("me", tags=tags)
        for name in others:
            self.add(name)
        self.queries = Queries(
            name="me",
            config=GossipConfig.lan(),
            roster=self.roster,
            clock=self.clock,
            rng=Random(1),
            send=lambda node, place, data: self.sent.append(
                (node, place, wire.decode_message(data))
            ),
            spread=lambda data: self.spread.append(wire.decode_message(data)),
            on_query=lambda query, now: self.asked.append(query),
            on_finished=lambda done: self.finished.append((done.id, done.result)),
        )

    def add(self, name: str, *, tags: dict[str, str] | None = None, vsn: bytes = OUR_VSN) -> None:
        number = len(self.roster) + 1
        node = NodeState(
            name=name, addr=bytes((10, 0, 0, number)), port=PORT, meta=wire.encode_tags(tags or {}),
            vsn=vsn,
        )  # fmt: skip
        self.roster.node_joined(node)

    def ask(self, *, now: float = 0.0, **fields: Any) -> wire.Query:
        """Ask; the question as it travels."""
        self.queries.ask(Question(**({"name": "load"} | fields)), now=now)
        query = self.spread[-1]
        assert isinstance(query, wire.Query)
        return query

    def answer(self, query: wire.Query, names: Iterable[str], *, ack: bool = False) -> None:
        for name in names:
            flags, payload = (wire.QueryFlag.ACK, b"") if ack else (0, name.encode())
            self.queries.receive_response(
                wire.QueryResponse(
                    ltime=query.ltime, id=query.id, from_=name, flags=flags, payload=payload
                )
            )


def theirs(**fields: Any) -> wire.Query:
    base: dict[str, Any] = {
        "ltime": 1, "id": 77, "addr": bytes((10, 0, 0, 9)), "port": PORT, "source_node": "x",
        "timeout": 3 * SECOND, "name": "load",
    }  # fmt: skip
    return wire.Query(**(base | fields))


# --- Asking ---------------------------------------------------------------------------------------


def test_question_travels_with_where_to_answer_and_who_is_meant() -> None:
    pool = Pool("a")
    pool.clock.witness(6)
    query = pool.ask(
        payload=b"1", nodes=("a", "b"), tags={"role": "^web"}, relay_factor=3, acks=True, timeout=2
    )
    assert 0 <= query.id < 1 << 31
    assert query == wire.Query(
        ltime=7,
        id=query.id,
        addr=bytes((10, 0, 0, 1)),
        port=PORT,
        source_node="me",
        filters=(
            wire.encode_filter(wire.NodeFilter(("a", "b"))),
            wire.encode_filter(wire.TagFilter(tag="role", expr="^web")),
        ),
        flags=wire.QueryFlag.ACK,
        relay_factor=3,
        timeout=2 * SECOND,
        name="load",
        payload=b"1",
    )
    assert pool.clock.time == 8


def test_question_ends_when_everyone_answered() -> None:
    pool = Pool("a", "b")
    query = pool.ask()
    assert pool.asked == [query]  # We are meant, too.
    pool.queries.respond(query, b"me", now=0.0)
    pool.answer(query, "a")
    assert pool.finished == []
    pool.answer(query, "b")
    responses = {"me": b"me", "a": b"a", "b": b"b"}
    assert pool.finished == [(query.id, QueryResult((), responses, timed_out=False))]
    assert pool.sent == []  # Our own answer needs no packet.
    assert pool.queries.next_timer() is None


def test_question_with_receipts_waits_for_them() -> None:
    pool = Pool("a")
    query = pool.ask(nodes=("a",), acks=True)
    pool.answer(query, "a")
    assert pool.finished == []
    pool.answer(query, "aa", ack=True)
    assert pool.finished == [(query.id, QueryResult(("a",), {"a": b"a"}, timed_out=False))]


def test_question_ends_with_its_time_and_says_so() -> None:
    pool = Pool("a", "b")
    query = pool.ask(nodes=("a", "b"), now=100.0)
    pool.answer(query, "a")
    assert pool.queries.next_timer() == pytest.approx(103.2)
    pool.queries.handle_timer(now=103.1)
    assert pool.finished == []
    pool.queries.handle_timer(now=103.2)
    assert pool.finished == [(query.id, QueryResult((), {"a": b"a"}, timed_out=True))]


def test_member_that_is_gone_is_not_waited_for() -> None:
    pool = Pool("a", "b")
    query = pool.ask(nodes=("a", "b"), acks=True)
    pool.answer(query, "a")
    pool.answer(query, "a", ack=True)
    pool.queries.forget_member("b")
    assert [result.timed_out for _, result in pool.finished] == [False]


def test_patient_question_waits_for_members_that_we_do_not_know() -> None:
    pool = Pool("a")
    query = pool.ask(nodes=("a",), patient=True)
    pool.answer(query, ["a", "stranger"])
    assert pool.finished == []
    pool.queries.handle_timer(now=3.2)
    assert [list(result.responses) for _, result in pool.finished] == [["a", "stranger"]]


def test_repeated_late_and_foreign_answers_change_nothing() -> None:
    pool = Pool("a", "b")
    query = pool.ask(nodes=("a", "b"))
    pool.answer(query, "a")
    for other in (
        wire.QueryResponse(ltime=query.ltime, id=query.id, from_="a", payload=b"other"),
        wire.QueryResponse(ltime=query.ltime + 1, id=query.id, from_="b"),
        wire.QueryResponse(ltime=query.ltime, id=query.id ^ 1, from_="b"),
    ):
        pool.queries.receive_response(other)
    assert pool.finished == []
    pool.queries.handle_timer(now=9.0)
    pool.answer(query, "b")
    assert [result.responses for _, result in pool.finished] == [{"a": b"a"}]


def test_number_of_answers_is_bounded() -> None:
    pool = Pool("a", "b")
    query = pool.ask(nodes=("a",), acks=True)
    names = [f"x{number}" for number in range(ANSWERS_MIN + 5)]
    pool.answer(query, names)
    pool.answer(query, names, ack=True)
    pool.queries.handle_timer(now=9.0)
    (_, result), *_ = pool.finished
    assert (len(result.responses), len(result.acks)) == (ANSWERS_MIN, ANSWERS_MIN)


def test_number_of_open_questions_is_bounded() -> None:
    pool = Pool("a")
    for _ in range(QUERIES_OPEN_MAX):
        pool.ask()
    with pytest.raises(Unavailable, match="64 queries"):
        pool.ask()
    pool.queries.handle_timer(now=9.0)
    pool.ask(now=9.0)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"payload": bytes(1024)}, "query exceeds limit of 1024 bytes"),
        ({"nodes": tuple(str(n) * 9 for n in range(200))}, "query exceeds limit of 1024 bytes"),
        ({"timeout": 0.0}, "time-out lies between 0 and 3600 seconds"),
        ({"timeout": QUERY_TIMEOUT_MAX * 2}, "time-out lies between 0 and 3600 seconds"),
        ({"timeout": float("nan")}, "time-out lies between 0 and 3600 seconds"),
        ({"relay_factor": 256}, "relay factor lies between 0 and 255"),
    ],
)
def test_question_out_of_bounds_is_not_asked(fields: dict[str, Any], why: str) -> None:
    pool = Pool("a")
    with pytest.raises(InvalidRequest, match=why):
        pool.ask(**fields)
    assert (pool.spread, pool.asked, pool.clock.time) == ([], [], 1)
    assert pool.queries.next_timer() is None


@pytest.mark.parametrize(("members", "seconds"), [(1, 3.2), (9, 3.2), (10, 6.4), (500, 9.6)])
def test_default_time_grows_with_the_pool(members: int, seconds: float) -> None:
    """protocol/gossip.md §13.5: GossipInterval x 16 x ceil(log10(n+1))."""
    assert default_timeout(GossipConfig.lan(), member_count=members) == pytest.approx(seconds)
    if members < 10:
        assert default_timeout(GossipConfig.wan(), member_count=members) == pytest.approx(8)


def test_tags_that_we_know_say_whom_to_wait_for() -> None:
    pool = Pool("a", tags={"role": "db"})
    pool.add("web1", tags={"role": "web"})
    query = pool.ask(tags={"role": "w.b$"})
    pool.answer(query, ["web1"])
    assert [list(result.responses) for _, result in pool.finished] == [["web1"]]
    assert pool.asked == []


# --- Answering ------------------------------------------------------------------------------------


def test_query_may_be_answered_once_and_in_time() -> None:
    pool = Pool()
    pool.queries.receive(theirs(), now=10.0)
    pool.queries.respond(theirs(), b"1", now=13.0)
    answer = wire.QueryResponse(ltime=1, id=77, from_="me", payload=b"1")
    assert pool.sent == [("x", ("10.0.0.9", PORT), answer)]
    with pytest.raises(InvalidRequest, match="response already sent"):
        pool.queries.respond(theirs(), b"2", now=13.0)
    pool.queries.receive(theirs(id=78), now=10.0)
    with pytest.raises(InvalidRequest, match="response is past the deadline"):
        pool.queries.respond(theirs(id=78), b"2", now=13.1)
    assert len(pool.sent) == 1


def test_answer_that_is_too_long_may_be_followed_by_a_shorter_one() -> None:
    pool = Pool()
    pool.queries.receive(theirs(), now=0.0)
    with pytest.raises(InvalidRequest, match="response exceeds limit of 1024 bytes"):
        pool.queries.respond(theirs(), bytes(1024), now=0.0)
    pool.queries.respond(theirs(), b"1", now=0.0)
    assert len(pool.sent) == 1


def test_helpers_are_alive_speak_relay_and_are_neither_of_the_two() -> None:
    pool = Pool("x")
    pool.add("a")
    pool.add("old", vsn=bytes((1, 4, 2, 2, 4, 4)))
    pool.queries.receive(theirs(relay_factor=3, flags=wire.QueryFlag.ACK), now=0.0)
    direct, relayed = pool.sent
    ack = wire.QueryResponse(ltime=1, id=77, from_="me", flags=wire.QueryFlag.ACK)
    assert direct == ("x", ("10.0.0.9", PORT), ack)
    relay = wire.Relay(
        ip=bytes((10, 0, 0, 9)), port=PORT, dest_name="x", message=wire.encode_message(ack)
    )
    assert relayed == ("a", ("10.0.0.3", PORT), relay)


def test_pool_that_is_too_small_has_no_helpers() -> None:
    """protocol/gossip.md §13.5: nothing when members < r + 1."""
    pool = Pool("x", "a")
    pool.queries.receive(theirs(relay_factor=3, flags=wire.QueryFlag.ACK), now=0.0)
    assert len(pool.sent) == 1


@pytest.mark.parametrize("fields", [{"addr": b""}, {"addr": b"abc"}, {"port": 0}])
def test_query_without_a_place_to_answer_gets_no_answer(fields: dict[str, Any]) -> None:
    pool = Pool()
    query = theirs(**fields, flags=wire.QueryFlag.ACK)
    assert pool.queries.receive(query, now=0.0)
    pool.queries.respond(query, b"1", now=0.0)
    assert pool.sent == []


def test_queries_that_may_be_answered_are_bounded() -> None:
    pool = Pool()
    for number in range(QUERIES_ASKED_MAX + 1):
        pool.queries.receive(theirs(ltime=1 + number // 100, id=number), now=0.0)
    with pytest.raises(InvalidRequest):
        pool.queries.respond(theirs(ltime=1, id=0), b"", now=0.0)
    last = theirs(ltime=1 + QUERIES_ASKED_MAX // 100, id=QUERIES_ASKED_MAX)
    pool.queries.respond(last, b"", now=0.0)


@given(timeout=st.integers(-(2**63), 2**63 - 1))
def test_any_time_out_of_a_peer_is_survived(timeout: int) -> None:
    pool = Pool()
    query = theirs(timeout=timeout)
    pool.queries.receive(query, now=0.0)
    with pytest.raises(InvalidRequest):
        pool.queries.respond(query, b"", now=QUERY_TIMEOUT_MAX + 1)
