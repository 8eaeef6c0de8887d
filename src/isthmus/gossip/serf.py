"""The serf core: memberlist below, tags, intents, events and queries on top. The driver runs this.

Queries, keys and conflicts of names have modules of their own; what they want comes together here.

Source: protocol/gossip.md §13.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Final, TypeAlias

from isthmus.errors import InvalidRequest, ProtocolError, Unavailable
from isthmus.gossip.broadcast import Broadcast
from isthmus.gossip.config import GossipConfig
from isthmus.gossip.conflict import CONFLICT_QUERY, ConflictLost, Conflicts, conflict_answer
from isthmus.gossip.coordinate import PoolCoordinates
from isthmus.gossip.envelope import Codec
from isthmus.gossip.keyring import Keyring
from isthmus.gossip.keys import (
    KeyKeeper,
    KeyOperation,
    KeysAnswered,
    StoreKeyring,
    count_answers,
    key_request,
)
from isthmus.gossip.lamport import LamportClock
from isthmus.gossip.leaving import Leaving, Stage
from isthmus.gossip.memberlist import Memberlist
from isthmus.gossip.outputs import (
    Address,
    CloseStream,
    JoinFinished,
    LeaveSent,
    MemberlistOutput,
    NodeConflict,
    NodeJoined,
    NodeLeft,
    NodeUpdated,
    OpenStream,
    PingAcked,
    SendPacket,
    SendStream,
    StateReceived,
    UserMessageReceived,
    Warned,
)
from isthmus.gossip.queries import (
    INTERNAL_QUERY_PREFIX,
    Finished,
    Queries,
    QueryReceived,
    QueryResult,
    Question,
)
from isthmus.gossip.queues import SerfQueues, wrap
from isthmus.gossip.roster import (
    Member,
    MemberEvent,
    MemberFailed,
    MemberLeft,
    MemberReaped,
    MemberStatus,
    Roster,
    member_of,
)
from isthmus.gossip.streams import JoinTarget
from isthmus.gossip.user_events import UserEvents
from isthmus.gossip.userstate import UserState
from isthmus.wire import memberlist as packets
from isthmus.wire import serf as wire

MergeCheck: TypeAlias = Callable[[Sequence[Member]], str | None]
"""Says why these members must not be let in, or None; a pure function."""

QUEUE_CHECK_INTERVAL: Final = 30.0
TAGS_TOO_LONG: Final = f"Encoded length of tags exceeds limit of {wire.TAGS_SIZE_MAX} bytes"

_LEAVE_INTENT_TOKEN: Final = 1
_KEY_OPERATIONS: Final = {operation.query: operation for operation in KeyOperation}


@dataclass(frozen=True, slots=True)
class UserEventReceived:
    """Event: a user event, ours included; `coalesce`: only the newest of its name matters."""

    ltime: int
    name: str
    payload: bytes
    coalesce: bool


@dataclass(frozen=True, slots=True)
class QueryFinished:
    """Event: a query of ours was answered by everyone, or its time is over."""

    id: int
    result: QueryResult


@dataclass(frozen=True, slots=True)
class LeaveFinished:
    """Event: our departure is known and time enough has passed; the pool may be closed."""


SerfEvent: TypeAlias = (
    MemberEvent
    | UserEventReceived
    | QueryReceived
    | QueryFinished
    | KeysAnswered
    | ConflictLost
    | LeaveFinished
)
SerfOutput: TypeAlias = (
    SendPacket
    | OpenStream
    | SendStream
    | CloseStream
    | StoreKeyring
    | JoinFinished
    | Warned
    | SerfEvent
)


class Serf:
    """One pool, complete.

    Args:
        name: Our name, unique in the pool; in a WAN pool ``node.dc``.
        address: Textual IP address and port that others reach us at.
        tags: What we tell about ourselves.
        config: Times and limits.
        keyring: Encryption keys; an empty one: not encrypted.
        merge_check: The pool's rule about who may be in it; None lets in everyone.
        rng: Source of every random choice, so that a seed replays a run.
        entropy: Gives so many unpredictable bytes, for nonces.
        now: Seconds on the driver's monotonic clock.
        route_by_name: Packets and streams are routed by node name (gateway federation).
        is_remote: With routing by name: whether a name belongs to another datacenter.
        resolve_conflicts: Whether to vote, and maybe to stop, when another member claims our name.
        codec: Makes and reads what is sent; without one: an `Envelope` of `config` and `keyring`.

    Raises:
        InvalidRequest: The encoded tags are too long.
    """

    def __init__(
        self,
        *,
        name: str,
        address: Address,
        tags: Mapping[str, str],
        config: GossipConfig,
        keyring: Keyring,
        merge_check: MergeCheck | None,
        rng: Random,
        entropy: Callable[[int], bytes],
        now: float,
        route_by_name: bool = False,
        is_remote: Callable[[str], bool] = lambda name: False,
        resolve_conflicts: bool = False,
        codec: Codec | None = None,
    ) -> None:
        self.name, self.config, self._rng = name, config, rng
        self._resolve_conflicts = resolve_conflicts
        self._merge_check = merge_check
        self._outputs: list[SerfOutput] = []
        self.clock, self.event_clock, self.query_clock = (
            LamportClock(),
            LamportClock(),
            LamportClock(),
        )
        self._queues = SerfQueues(config)
        self.tally = self._queues.tally
        self._user_events = UserEvents(
            config,
            clock=self.event_clock,
            spread=lambda data: self._queues.events.queue(wrap(data)),
            tell=self._tell_event,
        )
        self._user_state = UserState()
        self._roster = Roster(config, emit=self._tell_member)
        self._queries = Queries(
            name=name,
            config=config,
            roster=self._roster,
            clock=self.query_clock,
            rng=rng,
            send=lambda *letter: self.memberlist.send_user_message(*letter),
            spread=self._spread_query,
            on_query=self._answer_query,
            on_finished=self._finish_query,
        )
        self._keys = KeyKeeper(
            keyring,
            store=self._outputs.append,
            respond=lambda query, payload, now: self._queries.respond(query, payload, now=now),
        )
        # With chance of its own: where members lie must not change whom they probe and tell.
        self.coordinates = PoolCoordinates(
            name, enabled=config.coordinates, rng=Random(f"coordinate of {name}")
        )
        """Where we and the members lie."""
        self._conflicts = Conflicts(name, emit=self._outputs.append)
        self._leaving = Leaving(config)
        self._reap_at = now + config.reap_interval
        self._reconnect_at = now + config.reconnect_interval
        self._queue_check_at = now + QUEUE_CHECK_INTERVAL
        self._chores_at = now
        self.memberlist = Memberlist(
            name=name,
            address=address,
            meta=_encode_tags(tags),
            config=config,
            keyring=keyring,
            upper=self,
            rng=rng,
            entropy=entropy,
            now=now,
            route_by_name=route_by_name,
            is_remote=is_remote,
            codec=codec,
        )
        self._news = self.memberlist.outputs
        """What memberlist has for us: asking it each time would cost more than most answers."""
        self._roster.node_joined(self.memberlist.table.me.record())
        self._absorb(now=now)

    # --- Our side -------------------------------------------------------------------------------

    def members(self) -> tuple[Member, ...]:
        """All members, ourselves included; the same object until something changes."""
        return self._roster.members()

    def member(self, name: str) -> Member | None:
        """One of them; None when it is not known."""
        return self._roster.get(name)

    @property
    def conflicts(self) -> Mapping[str, tuple[str, float]]:
        """Names that another member claims too: its address, and when it did so last."""
        return self._conflicts.claims

    def local_member(self) -> Member:
        """Ourselves."""
        me = self._roster.get(self.name)
        assert me is not None
        return me

    def join(self, targets: Sequence[JoinTarget], *, ignore_old: bool, now: float) -> int:
        """Exchange state with each of `targets`; JoinFinished tells how it went."""
        number = self.memberlist.join(targets, ignore_old=ignore_old, now=now)
        self._absorb(now=now)
        return number

    def leave(self, *, now: float) -> None:
        """Leave the pool for good; LeaveFinished follows."""
        if not self._leaving.is_member:
            return
        alone = not self.memberlist.has_live_peers()
        self._leaving.begin(alone=alone, now=now)
        leave = wire.Leave(ltime=self.clock.time, node=self.name)
        self.clock.increment()
        self._roster.receive_leave(leave, now=now)
        if not alone:
            self._queues.intents.queue(wrap(leave), token=_LEAVE_INTENT_TOKEN)

    def force_leave(self, name: str, *, prune: bool, now: float) -> None:
        """Declare that a failed member left; with `prune` it is forgotten at once."""
        leave = wire.Leave(ltime=self.clock.time, node=name, prune=prune)
        self.clock.increment()
        self._receive_leave(leave, now=now)
        if self.memberlist.has_live_peers():
            self._queues.intents.queue(wrap(leave))

    def update_tags(self, tags: Mapping[str, str], *, now: float) -> None:
        """Change our tags; the others are told.

        Raises:
            InvalidRequest: The encoded tags are too long; nothing changed.
        """
        self.memberlist.update_meta(_encode_tags(tags))
        self._absorb(now=now)

    def user_event(self, name: str, payload: bytes, *, coalesce: bool) -> int:
        """Tell all members an event; return its Lamport time.

        Raises:
            InvalidRequest: It is too long; nothing was sent.
        """
        return self._user_events.fire(name, payload, coalesce=coalesce)

    def query(self, question: Question, *, now: float) -> int:
        """Ask all members; return the query's number. QueryFinished follows.

        Raises:
            InvalidRequest: It is too long, a limit is out of range, or the name is one that serf
                keeps for itself; nothing was sent.
            Unavailable: Too many queries of ours are open.
        """
        if question.name.startswith(INTERNAL_QUERY_PREFIX):
            raise InvalidRequest(f"names of queries must not begin with '{INTERNAL_QUERY_PREFIX}'")
        number = self._queries.ask(question, now=now)
        self._absorb(now=now)
        return number

    def respond(self, query: wire.Query, payload: bytes, *, now: float) -> None:
        """Answer a query that QueryReceived told of, once and within its time.

        Raises:
            InvalidRequest: The response is too long, late, or not the first; nothing was sent.
        """
        self._queries.respond(query, payload, now=now)
        self._absorb(now=now)

    def change_keys(
        self, operation: KeyOperation, key: bytes, *, relay_factor: int, now: float
    ) -> int:
        """Let all members, ourselves included, do this to their keyrings; KeysAnswered follows.

        Raises:
            InvalidRequest: `relay_factor` is out of range; nothing was sent.
            Unavailable: Too many queries of ours are open.
        """
        question = Question(
            name=operation.query, payload=key_request(key), relay_factor=relay_factor
        )
        number = self._queries.ask(question, now=now)
        self._absorb(now=now)
        return number

    def keyring_stored(self, store_id: int, problem: str = "", *, now: float) -> None:
        """The keys of a StoreKeyring are stored, or `problem` says why not."""
        self._keys.stored(store_id, problem, now=now)
        self._absorb(now=now)

    def resume(self, *, clock: int, event_clock: int, query_clock: int) -> None:
        """Go on after the Lamport times that an earlier process of ours saw last.

        Events and queries up to them were seen then and are not told again.
        """
        self.clock.witness(clock)
        self.event_clock.witness(event_clock)
        self.query_clock.witness(query_clock)
        self._user_events.recent.ltime_min = event_clock + 1
        self._queries.recent.ltime_min = query_clock + 1

    def hold(self) -> None:
        """Start nothing by ourselves until `release`; go on answering."""
        self.memberlist.hold()

    def release(self, *, now: float) -> None:
        """Take probes, rumours and exchanges up again."""
        self.memberlist.release(now=now)

    def stats(self) -> dict[str, str]:
        """Figures for an operator, named as serf names them."""
        statuses = [member.status for member in self.members()]
        figures = {
            "members": len(statuses),
            "failed": statuses.count(MemberStatus.FAILED),
            "left": statuses.count(MemberStatus.LEFT),
            "health_score": self.memberlist.awareness.score,
            "member_time": self.clock.time,
            "event_time": self.event_clock.time,
            "query_time": self.query_clock.time,
            "intent_queue": len(self._queues.intents),
            "event_queue": len(self._queues.events),
            "query_queue": len(self._queues.queries),
            "coordinate_resets": self.coordinates.resets,
            "coordinates_refused": self.coordinates.refused,
            **dict(sorted(self.memberlist.counters.items())),
        }
        encrypted = str(bool(self.memberlist.keyring)).lower()
        return {name: str(value) for name, value in figures.items()} | {"encrypted": encrypted}

    def copy_from(self, other: "Serf", *, now: float) -> None:
        """Know what another member knows of the pool, us included; for a pool that starts warm.

        Nothing is announced, and what both know is kept once.
        """
        self.memberlist.copy_from(other.memberlist, now=now)
        self._roster.copy_from(other._roster)
        self.clock.witness(other.clock.time - 1)
        self.event_clock.witness(other.event_clock.time - 1)
        self.query_clock.witness(other.query_clock.time - 1)
        other.user_state(join=False)
        self._user_state.copy_from(other._user_state, self.members())
        self.take_outputs()

    def take_outputs(self) -> list[SerfOutput]:
        """Remove and return all that is to be done, oldest first."""
        if not self._outputs:
            return []
        outputs = self._outputs.copy()
        self._outputs.clear()  # The roster holds on to the list.
        return outputs

    # --- From the network -----------------------------------------------------------------------

    def receive_packet(self, data: bytes, *, source: Address | None, now: float) -> None:
        """Take in one datagram; `source` is None where it is of no use for answers."""
        self.memberlist.receive_packet(data, source=source, now=now)
        self._absorb(now=now)

    def packet_failed(self, packet_id: int, *, now: float) -> None:
        """A SendPacket surely did not go out."""
        self.memberlist.packet_failed(packet_id, now=now)
        self._absorb(now=now)

    def accept_stream(self, *, peer: Address, now: float) -> int | None:
        """A peer opened a stream: its number, or None when there are too many; close it then."""
        return self.memberlist.streams.accept(peer=peer, now=now)

    def stream_opened(self, stream_id: int, *, now: float) -> None:
        """The stream of an OpenStream is connected and its data written."""
        self.memberlist.streams.opened(stream_id, now=now)

    def receive_refusal(self, address: Address, *, now: float) -> None:
        """A packet of ours was refused by the host it was sent to: nobody listens there."""
        self.memberlist.receive_refusal(address, now=now)
        self._absorb(now=now)

    def stream_failed(
        self, stream_id: int, text: str, *, refused: bool = False, now: float
    ) -> None:
        """The stream of an OpenStream could not be connected, or broke.

        `refused`: the member's own host said that nobody listens there.
        """
        self.memberlist.streams.failed(stream_id, text, refused=refused, now=now)
        self._absorb(now=now)

    def receive_stream_data(self, stream_id: int, data: bytes, *, now: float) -> None:
        """Take in bytes of a stream."""
        self.memberlist.streams.receive_data(stream_id, data, now=now)
        self._absorb(now=now)

    def receive_stream_eof(self, stream_id: int, *, now: float) -> None:
        """The peer closed a stream."""
        self.memberlist.streams.receive_eof(stream_id, now=now)
        self._absorb(now=now)

    # --- Time -----------------------------------------------------------------------------------

    def next_timer(self, *, answered: bool = False) -> float:
        """Moment at which `handle_timer` is due, on the driver's clock.

        Args:
            answered: As if the ack of the running probe had arrived.
        """
        due = self.memberlist.next_timer(answered=answered)
        if self._chores_at < due:
            due = self._chores_at
        if self._roster.prune_at or self._queries.open or self._leaving.due is not None:
            parts = (self._roster.next_prune(), self._queries.next_timer(), self._leaving.due)
            due = min([due, *(moment for moment in parts if moment is not None)])
        return due

    def handle_timer(self, *, now: float) -> None:
        """Do all that is due by `now`; may be called early or late."""
        self.memberlist.handle_timer(now=now)
        if self._news or self._conflicts.is_vote_due:
            self._absorb(now=now)
        if self._roster.prune_at or self._queries.open or self._leaving.due is not None:
            self._roster.prune(now=now)
            self._queries.handle_timer(now=now)
            self._go_on_leaving(now=now)
        elif now < self._chores_at:  # Most often nothing but our regular rounds was due.
            return
        if now >= self._chores_at:
            self._do_chores(now=now)
        self._absorb(now=now)

    def _do_chores(self, *, now: float) -> None:
        """Forget, reconnect and look after the queues, each at its own interval."""
        if now >= self._reap_at:
            self._reap_at = now + self.config.reap_interval
            self._roster.reap(now=now)
        if now >= self._reconnect_at:
            self._reconnect_at = now + self.config.reconnect_interval
            self._reconnect(now=now)
        if now >= self._queue_check_at:
            self._queue_check_at = now + QUEUE_CHECK_INTERVAL
            for count in self._queues.prune(member_count=len(self._roster)):
                self._outputs.append(Warned(f"queue was too long, dropped {count} messages"))
        self._chores_at = min(self._reap_at, self._reconnect_at, self._queue_check_at)

    def _reconnect(self, *, now: float) -> None:
        if self._leaving.is_member and not self.memberlist.held:
            member = self._roster.pick_failed(self._rng)
            if member is not None:
                target = JoinTarget(member.name, (member.address, member.port))
                self.memberlist.reconnect(target, now=now)

    def _go_on_leaving(self, *, now: float) -> None:
        """Say what we intend, then goodbye, then linger."""
        sent = bool(self._queues.intents.take_finished())
        if not self._leaving.go_on(intent_sent=sent, now=now):
            return
        if self._leaving.stage is Stage.DEPARTURE:
            self.memberlist.leave(timeout=self.config.broadcast_timeout, now=now)
        else:
            self._outputs.append(LeaveFinished())

    # --- From memberlist ------------------------------------------------------------------------

    def _absorb(self, *, now: float) -> None:
        """Pass memberlist's actions on and act on its events, in order, until none is left."""
        while self._news:
            for output in self.memberlist.take_outputs():
                if type(output) is SendPacket:  # Most of them.
                    self._outputs.append(output)
                else:
                    self._receive(output, now=now)
        if self._conflicts.is_vote_due:
            self._vote(now=now)

    def _receive(self, output: MemberlistOutput, *, now: float) -> None:
        match output:
            case NodeJoined(node):
                self._roster.node_joined(node)
            case NodeUpdated(node):
                self._roster.node_updated(node)
            case NodeLeft(node):
                self._roster.node_left(node, now=now)
            case NodeConflict(known, claimed):
                self._conflicts.note(known, claimed, now=now)
            case UserMessageReceived(payload):
                self._receive_user_message(payload, now=now)
            case StateReceived():
                self._receive_state(output, now=now)
            case PingAcked(node_name, rtt, payload):
                self.coordinates.receive_ack(node_name, payload, rtt=rtt)
            case JoinFinished(_, contacted):
                if contacted:
                    self._broadcast_join(now=now)
                self._outputs.append(output)
            case LeaveSent():
                self._leaving.departed(alone=not self.memberlist.has_live_peers(), now=now)
            case SendPacket() | OpenStream() | SendStream() | CloseStream() | Warned():
                self._outputs.append(output)

    def _tell_member(self, event: MemberEvent) -> None:
        if isinstance(event, MemberReaped):
            self.coordinates.forget(event.member.name)
        self._outputs.append(event)
        if isinstance(event, (MemberFailed, MemberLeft, MemberReaped)):
            self._queries.forget_member(event.member.name)

    def _vote(self, *, now: float) -> None:
        """Ask where the others know our name.

        Not before all of a push/pull was taken in: its Lamport times make our query a new one.
        """
        self._conflicts.is_vote_due = False
        if self._resolve_conflicts and self._leaving.is_member:
            with suppress(InvalidRequest, Unavailable):  # At a later claim, then.
                payload = self.name.encode()
                self._queries.ask(
                    Question(name=CONFLICT_QUERY, payload=payload, patient=True), now=now
                )

    def _receive_user_message(self, payload: bytes, *, now: float) -> None:
        try:
            message = wire.decode_message(payload)
        except ProtocolError as error:
            self._outputs.append(Warned(f"serf message dropped: {error}"))
            return
        match message:
            case wire.Leave():
                if self._receive_leave(message, now=now):
                    self._queues.intents.queue(wrap(payload))
            case wire.Join():
                self.clock.witness(message.ltime)
                if self._roster.receive_join(message, now=now):
                    self._queues.intents.queue(wrap(payload))
            case wire.UserEvent():
                if self._user_events.receive(message):
                    self._queues.events.queue(wrap(payload))
            case wire.Query():
                if self._queries.receive(message, now=now):
                    self._queues.queries.queue(wrap(payload))
            case wire.QueryResponse():
                self._queries.receive_response(message)
            case wire.Relay():
                self._queries.relay(message)
            case _:
                self._outputs.append(
                    Warned(f"serf message dropped: {type(message).__name__} does not travel alone")
                )

    def _receive_leave(self, leave: wire.Leave, *, now: float) -> bool:
        self.clock.witness(leave.ltime)
        if leave.node == self.name:
            if self._leaving.is_member and leave.ltime > self.local_member().status_ltime:
                self._broadcast_join(now=now)  # We mean to stay.
            return False
        news = self._roster.receive_leave(leave, now=now)
        self._roster.prune(now=now)
        return news

    def _broadcast_join(self, *, now: float) -> None:
        join = wire.Join(ltime=self.clock.time, node=self.name)
        self.clock.witness(join.ltime)
        self._roster.receive_join(join, now=now)
        self._queues.intents.queue(wrap(join))

    def _tell_event(self, event: wire.UserEvent) -> None:
        received = UserEventReceived(event.ltime, event.name, event.payload, event.cc)
        self._outputs.append(received)

    def _spread_query(self, data: bytes) -> None:
        if self.memberlist.has_live_peers():
            self._queues.queries.queue(wrap(data))

    def _answer_query(self, query: wire.Query, now: float) -> None:
        """Answer what is between serf cores; tell the application of everything else."""
        operation = _KEY_OPERATIONS.get(query.name)
        if operation is not None:
            self._keys.receive(operation, query, now=now)
        elif query.name == CONFLICT_QUERY:
            name = query.payload.decode("utf-8", "surrogateescape")
            if name != self.name:
                self._queries.respond(query, conflict_answer(self._roster.get(name)), now=now)
        elif not query.name.startswith(INTERNAL_QUERY_PREFIX):
            self._outputs.append(QueryReceived(query))

    def _finish_query(self, finished: Finished) -> None:
        """Give the result of a query of ours to whom it concerns."""
        name, result = finished.question.name, finished.result
        if name in _KEY_OPERATIONS:
            counted = count_answers(result, member_count=finished.member_count)
            self._outputs.append(KeysAnswered(finished.id, counted))
        elif name == CONFLICT_QUERY:
            if self._conflicts.finish_vote(result, self.local_member()):
                self.memberlist.hold()
        else:
            self._outputs.append(QueryFinished(finished.id, result))

    def _receive_state(self, received: StateReceived, *, now: float) -> None:
        """Take in the serf half of a push/pull."""
        if not received.join:
            self.user_state(join=False)
            if self._user_state.tells_nothing(received.user_state):
                return
        try:
            state = wire.decode_message(received.user_state)
        except ProtocolError as error:
            self._outputs.append(Warned(f"push/pull state dropped: {error}"))
            return
        if not isinstance(state, wire.SerfPushPull):
            self._outputs.append(Warned("push/pull state dropped: it is another message"))
            return
        for clock, ltime in (
            (self.clock, state.ltime),
            (self.event_clock, state.event_ltime),
            (self.query_clock, state.query_ltime),
        ):
            if ltime > 0:
                clock.witness(ltime - 1)
        left = set(state.left_members)
        for name in state.left_members:
            # The leave itself came after the status that we are told.
            ltime = state.status_ltimes.get(name, 0) + 1
            self._receive_leave(wire.Leave(ltime=ltime, node=name), now=now)
        for name, ltime in state.status_ltimes.items():
            if name not in left:
                self.clock.witness(ltime)
                self._roster.receive_join(wire.Join(ltime=ltime, node=name), now=now, implied=True)
        self._user_events.replay(state, ignore_old=received.join and received.ignore_old)

    # --- For memberlist (Upper) -----------------------------------------------------------------

    def take_broadcasts(self, budget: int, *, overhead: int) -> list[Broadcast]:
        """Intents, queries, events, in this order, for one packet."""
        return self._queues.take(budget, overhead=overhead, member_count=len(self._roster))

    def user_state(self, *, join: bool) -> bytes:
        """Clocks, everyone's status, the remembered events."""
        return self._user_state.encode(
            self.members(),
            self._user_events.recent,
            ltime=self.clock.time,
            event_ltime=self.event_clock.time,
            query_ltime=self.query_clock.time,
        )

    def ack_payload(self) -> bytes:
        """Our network coordinate."""
        return self.coordinates.ack_payload()

    def check_merge(self, nodes: Sequence[packets.NodeState]) -> str | None:
        """Ask the pool's rule."""
        if self._merge_check is None:
            return None
        members: list[Member] = []
        for node in nodes:
            if len(node.meta) > wire.TAGS_SIZE_MAX:
                return TAGS_TOO_LONG
            if len(node.addr) not in {4, 16}:
                return f"IP byte length is invalid: {len(node.addr)} bytes is not either 4 or 16"
            try:
                members.append(member_of(node, status=_STATUS_OF[node.state]))
            except ProtocolError as error:
                return f"tags of '{node.name}' can not be read: {error}"
        return self._merge_check(members)


_STATUS_OF: Final = {
    packets.NodeStatus.ALIVE: MemberStatus.ALIVE,
    packets.NodeStatus.SUSPECT: MemberStatus.ALIVE,
    packets.NodeStatus.DEAD: MemberStatus.FAILED,
    packets.NodeStatus.LEFT: MemberStatus.LEFT,
}


def _encode_tags(tags: Mapping[str, str]) -> bytes:
    meta = wire.encode_tags(tags)
    if len(meta) > wire.TAGS_SIZE_MAX:
        raise InvalidRequest(TAGS_TOO_LONG)
    return meta
