"""Queries: a question to all members whose answers come straight back, and the others' questions.

A query spreads like any rumour, with filters that say who is meant; whoever is meant sends its
answer to the asker's address, and through helpers too if the asker wants that.

Source: protocol/gossip.md §13.5.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, isfinite, log10
from random import Random
from typing import Final

from isthmus.errors import InvalidRequest, ProtocolError, Unavailable
from isthmus.gossip.config import GossipConfig
from isthmus.gossip.lamport import LamportClock
from isthmus.gossip.members import addr_text, normalise_addr, pack_addr
from isthmus.gossip.outputs import Address
from isthmus.gossip.patterns import is_found
from isthmus.gossip.recent import RecentQueries
from isthmus.gossip.roster import Member, MemberStatus, Roster
from isthmus.units import SECOND
from isthmus.wire import serf as wire

INTERNAL_QUERY_PREFIX: Final = "_serf_"
"""Queries of this name are between serf cores; applications neither see nor ask them."""
QUERIES_OPEN_MAX: Final = 64
"""Queries of ours that wait for answers; a further one is refused."""
QUERIES_ASKED_MAX: Final = 1024
"""Queries of others that may still be answered; the oldest give way."""
ANSWERS_MIN: Final = 1024
"""So many answers to one query are taken in any case; beyond, twice the members that are meant."""
QUERY_TIMEOUT_MAX: Final = 3600.0
"""Seconds; a longer time-out is refused, and that of another member is cut."""
RELAY_FACTOR_MAX: Final = 255
RELAY_PROTOCOL_MIN: Final = 5
"""Members that speak an older protocol are not asked to relay."""


@dataclass(frozen=True, slots=True)
class QueryReceived:
    """Event: a question that is meant for us; answer with `Serf.respond` within its time."""

    query: wire.Query


@dataclass(frozen=True, slots=True)
class QueryResult:
    """What came of a query of ours.

    Attributes:
        acks: Members that received it, in order of their receipts; empty unless asked for.
        responses: Answers by member, in the order they came.
        timed_out: Somebody who was meant did not answer in time.
    """

    acks: tuple[str, ...]
    responses: Mapping[str, bytes]
    timed_out: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What to ask, and whom.

    Attributes:
        nodes: Only these members answer; empty: all.
        tags: Only members answer in whose tags these expressions are found.
        relay_factor: Members that carry each answer beside the direct way.
        acks: Whether everyone who is meant sends a receipt too.
        timeout: Seconds; None: as the size of the pool suggests.
        patient: Whether to wait for the time-out even if everyone that we know of answered: more
            may be there than we know.
    """

    name: str
    payload: bytes = b""
    nodes: Sequence[str] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    relay_factor: int = 0
    acks: bool = False
    timeout: float | None = None
    patient: bool = False

    def filters(self) -> tuple[bytes, ...]:
        """The filters as they travel."""
        names = [wire.encode_filter(wire.NodeFilter(tuple(self.nodes)))] if self.nodes else []
        tags = [wire.TagFilter(tag=tag, expr=expr) for tag, expr in sorted(self.tags.items())]
        return (*names, *map(wire.encode_filter, tags))

    def is_for(self, member: Member) -> bool:
        """Whether a member is meant, as far as we know its tags."""
        return (not self.nodes or member.name in self.nodes) and all(
            is_found(expr, member.tags.get(tag, "")) for tag, expr in self.tags.items()
        )


@dataclass(frozen=True, slots=True)
class Finished:
    """A query of ours that everyone answered, or whose time is over.

    Attributes:
        id: From `Queries.ask`.
        question: What was asked.
        member_count: Members that were alive then, meant or not.
        result: What came of it.
    """

    id: int
    question: Question
    member_count: int
    result: QueryResult


@dataclass(slots=True)
class _Open:
    """A query of ours that waits for answers."""

    question: Question
    member_count: int
    ltime: int
    deadline: float
    silent: set[str]
    """Members that are meant and did not answer yet."""
    unacked: set[str]
    answers_max: int
    acks: dict[str, None] = field(default_factory=dict)
    responses: dict[str, bytes] = field(default_factory=dict)


class Queries:
    """Asks, gathers answers, and answers.

    Args:
        name: Our name.
        config: Limits and times.
        roster: The members.
        clock: Lamport clock of queries.
        rng: Chooses numbers and helpers.
        send: Sends a serf message to one member: node, address, message.
        spread: Sends a serf message to all.
        on_query: Told a query that we are meant by.
        on_finished: Told what came of a query of ours.
    """

    def __init__(
        self,
        *,
        name: str,
        config: GossipConfig,
        roster: Roster,
        clock: LamportClock,
        rng: Random,
        send: Callable[[str, Address, bytes], None],
        spread: Callable[[bytes], None],
        on_query: Callable[[wire.Query, float], None],
        on_finished: Callable[[Finished], None],
    ) -> None:
        self._name, self._config, self._roster = name, config, roster
        self._clock, self._rng = clock, rng
        self._send, self._spread = send, spread
        self._on_query, self._on_finished = on_query, on_finished
        self.recent = RecentQueries(config.query_buffer)
        self.open: dict[int, _Open] = {}
        """Our queries under way, by id."""
        self._asked: dict[tuple[int, int], float] = {}
        """Queries that we may answer once, by time and number, and until when."""

    # --- Asking -----------------------------------------------------------------------------

    def ask(self, question: Question, *, now: float) -> int:
        """Ask; return the query's number. `on_finished` is told once, maybe before this returns.

        Raises:
            InvalidRequest: It is too long, or a limit is out of range; nothing was sent.
            Unavailable: Too many queries of ours are open.
        """
        alive = self._roster.with_status(MemberStatus.ALIVE)
        timeout = question.timeout
        if timeout is None:
            timeout = default_timeout(self._config, member_count=len(alive))
        if not (isfinite(timeout) and 0 < timeout <= QUERY_TIMEOUT_MAX):
            raise InvalidRequest(
                f"a query's time-out lies between 0 and {QUERY_TIMEOUT_MAX:g} seconds"
            )
        if not 0 <= question.relay_factor <= RELAY_FACTOR_MAX:
            raise InvalidRequest(f"a relay factor lies between 0 and {RELAY_FACTOR_MAX}")
        if len(self.open) >= QUERIES_OPEN_MAX:
            raise Unavailable(
                f"{QUERIES_OPEN_MAX} queries of this agent wait for answers; try again later"
            )
        query = self._query(question, timeout)
        data = wire.encode_message(query)
        limit = self._config.query_size_max
        if len(data) > limit:
            raise InvalidRequest(f"query exceeds limit of {limit} bytes")
        meant = {member.name for member in alive if question.is_for(member)}
        self.open[query.id] = _Open(
            question,
            len(alive),
            query.ltime,
            now + timeout,
            silent=meant,
            unacked=set(meant) if question.acks else set(),
            answers_max=max(ANSWERS_MIN, 2 * len(meant)),
        )
        self.receive(query, now=now)  # We answer too, if we are meant.
        self._spread(data)
        return query.id

    def _query(self, question: Question, timeout: float) -> wire.Query:
        me = self._roster.get(self._name)
        assert me is not None
        number = self._rng.getrandbits(31)
        while number in self.open:
            number = self._rng.getrandbits(31)
        return wire.Query(
            ltime=self._clock.time,
            id=number,
            addr=pack_addr(me.address),
            port=me.port,
            source_node=self._name,
            filters=question.filters(),
            flags=wire.QueryFlag.ACK if question.acks else 0,
            relay_factor=question.relay_factor,
            timeout=round(timeout * SECOND),
            name=question.name,
            payload=question.payload,
        )

    def receive_response(self, response: wire.QueryResponse) -> None:
        """Take in an answer or a receipt; what is late, repeated or not ours changes nothing."""
        found = self.open.get(response.id)
        if found is None or found.ltime != response.ltime:
            return
        member = response.from_
        if response.flags & wire.QueryFlag.ACK:
            if len(found.acks) < found.answers_max:
                found.acks[member] = None
            found.unacked.discard(member)
        elif member not in found.responses:
            if len(found.responses) < found.answers_max:
                found.responses[member] = response.payload
            found.silent.discard(member)
        self._finish_answered((response.id,))

    def forget_member(self, name: str) -> None:
        """A member is gone: do not wait for it."""
        for found in self.open.values():
            found.silent.discard(name)
            found.unacked.discard(name)
        self._finish_answered(self.open)

    def _finish_answered(self, numbers: Iterable[int]) -> None:
        """Finish those of these queries that everyone answered."""
        for number in tuple(numbers):
            found = self.open[number]
            if not (found.silent or found.unacked or found.question.patient):
                self._finish(number)

    def _finish(self, number: int) -> None:
        found = self.open.pop(number)
        silence = bool(found.silent or found.unacked)
        result = QueryResult(tuple(found.acks), found.responses, silence)
        self._on_finished(Finished(number, found.question, found.member_count, result))

    # --- Time -------------------------------------------------------------------------------

    def next_timer(self) -> float | None:
        """When the next query of ours runs out of time."""
        return min(found.deadline for found in self.open.values()) if self.open else None

    def handle_timer(self, *, now: float) -> None:
        """Finish the queries whose time is over."""
        for number in [n for n, found in self.open.items() if found.deadline <= now]:
            self._finish(number)

    # --- Answering --------------------------------------------------------------------------

    def receive(self, query: wire.Query, *, now: float) -> bool:
        """Take in a query; return whether it has to be passed on."""
        self._clock.witness(query.ltime)
        if not self.recent.add(query.ltime, query.id, clock=self._clock.time):
            return False
        if self._is_meant(query):
            if query.flags & wire.QueryFlag.ACK:
                self._send_back(query, self._response(query, flags=wire.QueryFlag.ACK))
            self._note_asked(query, now=now)
            self._on_query(query, now)
        return not query.flags & wire.QueryFlag.NO_BROADCAST

    def respond(self, query: wire.Query, payload: bytes, *, now: float) -> None:
        """Answer a query that `on_query` was told.

        Raises:
            InvalidRequest: The answer is too long, late, or not the first one; nothing was sent.
        """
        deadline = self._asked.get((query.ltime, query.id))
        if deadline is None:
            raise InvalidRequest("response already sent")
        if now > deadline:
            raise InvalidRequest("response is past the deadline")
        response = self._response(query, payload=payload)
        limit = self._config.query_response_size_max
        if len(wire.encode_message(response)) > limit:
            raise InvalidRequest(f"response exceeds limit of {limit} bytes")
        del self._asked[query.ltime, query.id]
        self._send_back(query, response)

    def relay(self, relay: wire.Relay) -> None:
        """Pass a message on for another member."""
        addr = normalise_addr(relay.ip)
        if len(addr) in {4, 16} and relay.port and relay.message:
            self._send(relay.dest_name, (addr_text(addr), relay.port), relay.message)

    def _note_asked(self, query: wire.Query, *, now: float) -> None:
        timeout = min(max(query.timeout / SECOND, 0.0), QUERY_TIMEOUT_MAX)
        self._asked[query.ltime, query.id] = now + timeout
        if len(self._asked) > QUERIES_ASKED_MAX:
            del self._asked[next(iter(self._asked))]

    def _is_meant(self, query: wire.Query) -> bool:
        """Whether all filters let us answer."""
        me = self._roster.get(self._name)
        assert me is not None
        for data in query.filters:
            try:
                query_filter = wire.decode_filter(data)
            except ProtocolError:
                return False
            if isinstance(query_filter, wire.NodeFilter):
                if self._name not in query_filter.nodes:
                    return False
            elif not is_found(query_filter.expr, me.tags.get(query_filter.tag, "")):
                return False
        return True

    def _response(
        self, query: wire.Query, *, flags: int = 0, payload: bytes = b""
    ) -> wire.QueryResponse:
        return wire.QueryResponse(
            ltime=query.ltime, id=query.id, from_=self._name, flags=flags, payload=payload
        )

    def _send_back(self, query: wire.Query, response: wire.QueryResponse) -> None:
        """Send an answer straight to who asks, and through helpers if it wants that."""
        addr = normalise_addr(query.addr)
        if len(addr) not in {4, 16} or not query.port:
            return
        me = self._roster.get(self._name)
        assert me is not None
        address = (addr_text(addr), query.port)
        if query.source_node == self._name and address == (me.address, me.port):
            self.receive_response(response)
            return
        data = wire.encode_message(response)
        self._send(query.source_node, address, data)
        if query.relay_factor and len(self._roster) >= query.relay_factor + 1:
            relay = wire.Relay(ip=addr, port=query.port, dest_name=query.source_node, message=data)
            self._send_through_helpers(query, wire.encode_message(relay))

    def _send_through_helpers(self, query: wire.Query, relay: bytes) -> None:
        others = [
            member
            for member in self._roster.with_status(MemberStatus.ALIVE)
            if member.name not in {self._name, query.source_node}
            and member.protocol_max >= RELAY_PROTOCOL_MIN
        ]
        count = min(query.relay_factor, len(others))
        for member in self._rng.sample(others, k=count):
            self._send(member.name, (member.address, member.port), relay)


def default_timeout(config: GossipConfig, *, member_count: int) -> float:
    """Seconds that a query may take in a pool of `member_count` unless its asker says otherwise."""
    rounds = config.query_timeout_mult * max(1, ceil(log10(member_count + 1)))
    return config.gossip_interval * rounds
