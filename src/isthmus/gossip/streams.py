"""Streams: exchanges of full state, fallback pings, and what peers ask of us over them.

Every stream carries one message in each direction and has a deadline. Nothing of a message is
used before it is complete.

Source: protocol/gossip.md §1.3, §10.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from isthmus.errors import ProtocolError
from isthmus.gossip import pushpull
from isthmus.gossip.config import GossipConfig
from isthmus.gossip.envelope import Codec, Reader
from isthmus.gossip.members import MemberTable, normalise_addr
from isthmus.gossip.outputs import (
    Address,
    CloseStream,
    JoinFinished,
    MemberlistOutput,
    OpenStream,
    SendStream,
    StateReceived,
    UserMessageReceived,
    Warned,
)
from isthmus.gossip.upper import Upper
from isthmus.names import host_port
from isthmus.wire import memberlist as wire

INBOUND_STREAMS_MAX: Final = 128
"""Streams of all peers; when there are more, one of the busiest address gives way."""
INBOUND_SIZE_MAX: Final = 64 * 1024 * 1024
"""Bytes of incomplete messages of all peers; when there are more, the largest gives way."""
OUTBOUND_STREAMS_MAX: Final = 128
JOIN_PARALLEL_MAX: Final = 8
"""Addresses of one join that are tried at the same time."""

_NAME_REQUIRED: Final = (
    "memberlist: node names are required by configuration but one was not provided"
)


@dataclass(frozen=True, slots=True)
class JoinTarget:
    """One address to join through.

    Attributes:
        node: Name of the member there, if known; needed when routing by name.
        address: Textual IP address and port.
    """

    node: str
    address: Address


@dataclass(slots=True)
class _Join:
    """One call of `join` under way."""

    id: int
    waiting: list[JoinTarget]
    ignore_old: bool
    running: int = 0
    contacted: int = 0
    errors: list[str] = field(default_factory=list)

    def fail(self, target: JoinTarget, error: str) -> None:
        """Note why one address did not do."""
        self.errors.append(f"Failed to join {host_port(*target.address)}: {error}")


@dataclass(frozen=True, slots=True)
class _Exchange:
    """Purpose of a stream: push/pull, as a part of `join` or by ourselves."""

    target: JoinTarget
    join: _Join | None
    as_join: bool


@dataclass(frozen=True, slots=True)
class _FallbackPing:
    """Purpose of a stream: is the member there, though no packet says so?"""

    sequence: int


@dataclass(frozen=True, slots=True)
class _Accepted:
    """Purpose of a stream: the peer's."""

    peer: Address


@dataclass(slots=True)
class _Stream:
    purpose: _Exchange | _FallbackPing | _Accepted
    reader: Reader
    deadline: float


class Streams:
    """All open streams of one pool.

    Args:
        config: Times.
        table: The members; exchanges read and change it.
        envelope: The pool's layers.
        upper: The layer above.
        emit: Receives outputs.
        on_ping_acked: Called with the number of a fallback ping that was answered.
        on_ping_refused: Called with the number of one whose target's host refused the stream.
        number: Gives a new stream or join number.
        count: Counts what went wrong, by name.
        route_by_name: Whether a stream must name its member.
    """

    def __init__(
        self,
        config: GossipConfig,
        *,
        table: MemberTable,
        envelope: Codec,
        upper: Upper,
        emit: Callable[[MemberlistOutput], None],
        on_ping_acked: Callable[[int], None],
        on_ping_refused: Callable[[int], None],
        number: Callable[[], int],
        count: Callable[[str], None],
        route_by_name: bool,
    ) -> None:
        self._config, self._table, self._envelope = config, table, envelope
        self._upper, self._emit = upper, emit
        self._on_ping_acked, self._on_ping_refused = on_ping_acked, on_ping_refused
        self._number, self._count, self._route_by_name = number, count, route_by_name
        self.open: dict[int, _Stream] = {}
        """Streams that wait for their message, by number."""
        self._agreed: tuple[wire.NodeState, ...] = ()
        """A peer's members, the last that were judged well and told nothing. Members of one process
        may exchange the very same object, and need not look at it again."""

    # --- Our side -------------------------------------------------------------------------------

    def join(self, targets: Sequence[JoinTarget], *, ignore_old: bool, now: float) -> int:
        """Exchange state with each of `targets`; JoinFinished tells how it went."""
        join = _Join(self._number(), list(targets), ignore_old)
        self._go_on_joining(join, now=now)
        return join.id

    def exchange(self, target: JoinTarget, *, as_join: bool, now: float) -> None:
        """Exchange state with one member; nobody waits for it."""
        self._open_exchange(_Exchange(target, None, as_join), now=now)

    def ping(self, target: JoinTarget, ping: wire.Ping, *, timeout: float, now: float) -> None:
        """Ping over a stream; `on_ping_acked` is called if that is answered in time."""
        data = self._envelope.stream(ping, dialler=True)
        self._open(target, _FallbackPing(ping.seq_no), data, timeout=timeout, now=now)

    def accept(self, *, peer: Address, now: float) -> int | None:
        """A peer opened a stream: its number, or None when there are too many."""
        if len(self._inbound()) >= INBOUND_STREAMS_MAX:
            self._count("streams_refused")
            if not self._make_room(peer[0], now=now):
                return None
        number = self._number()
        deadline = now + self._config.stream_timeout
        self.open[number] = _Stream(_Accepted(peer), self._envelope.reader(dialler=False), deadline)
        return number

    # --- From the network -----------------------------------------------------------------------

    def opened(self, stream_id: int, *, now: float) -> None:
        """A stream of ours is connected and its data written: the answer's time begins."""
        stream = self.open.get(stream_id)
        if stream is not None and isinstance(stream.purpose, _Exchange):
            stream.deadline = now + self._config.stream_timeout

    def failed(self, stream_id: int, text: str, *, refused: bool = False, now: float) -> None:
        """A stream could not be connected, or broke.

        Args:
            stream_id: Its number.
            text: Why.
            refused: Whether the member's own host said that nobody listens there.
            now: Seconds on the driver's monotonic clock.
        """
        stream = self.open.pop(stream_id, None)
        if stream is None:
            return
        if refused and isinstance(stream.purpose, _FallbackPing):
            self._on_ping_refused(stream.purpose.sequence)
        self._end(stream, text, now=now)

    def receive_data(self, stream_id: int, data: bytes, *, now: float) -> None:
        """Take in bytes of a stream; malformed ones end it."""
        stream = self.open.get(stream_id)
        if stream is None:
            return
        try:
            stream.reader.receive_data(data)
        except ProtocolError as error:
            self._refuse(stream_id, stream, str(error), now=now)
            return
        self._check_size(now=now)
        if stream.reader.message is not None and stream_id in self.open:
            del self.open[stream_id]
            self._receive(stream_id, stream.purpose, stream.reader.message, now=now)

    def receive_eof(self, stream_id: int, *, now: float) -> None:
        """The peer closed a stream, cleanly or not."""
        stream = self.open.pop(stream_id, None)
        if stream is not None:
            self._emit(CloseStream(stream_id))
            self._end(stream, "EOF", now=now)

    # --- Time -----------------------------------------------------------------------------------

    def next_timer(self) -> float | None:
        """When the next stream runs out of time."""
        return min((stream.deadline for stream in self.open.values()), default=None)

    def handle_timer(self, *, now: float) -> None:
        """End the streams whose time is over."""
        overdue = [number for number, s in self.open.items() if s.deadline <= now]
        for number in overdue:
            stream = self.open.pop(number)
            self._emit(CloseStream(number))
            self._end(stream, "i/o timeout", now=now)

    # --- Room -----------------------------------------------------------------------------------

    def _inbound(self) -> dict[int, _Accepted]:
        """Peers of the streams that they opened, oldest first."""
        return {
            number: stream.purpose
            for number, stream in self.open.items()
            if isinstance(stream.purpose, _Accepted)
        }

    def _make_room(self, host: str, *, now: float) -> bool:
        """End the oldest stream of the busiest address, unless that is the newcomer's."""
        inbound = self._inbound()
        counts = Counter(accepted.peer[0] for accepted in inbound.values())
        busiest, count = counts.most_common(1)[0]
        if count <= counts[host] + 1:
            return False
        oldest = next(number for number, peer in inbound.items() if peer.peer[0] == busiest)
        self._end_inbound(oldest, "too many streams", now=now)
        return True

    def _check_size(self, *, now: float) -> None:
        """End the inbound stream that holds most, if all together hold too much."""
        sizes = {number: self.open[number].reader.held_size for number in self._inbound()}
        if sum(sizes.values()) > INBOUND_SIZE_MAX:
            self._count("streams_refused")
            self._end_inbound(max(sizes, key=sizes.__getitem__), "too much at once", now=now)

    def _end_inbound(self, number: int, why: str, *, now: float) -> None:
        stream = self.open.pop(number)
        self._emit(CloseStream(number))
        self._end(stream, why, now=now)

    # --- Messages -------------------------------------------------------------------------------

    def _receive(
        self,
        stream_id: int,
        purpose: _Exchange | _FallbackPing | _Accepted,
        message: wire.StreamMessage,
        *,
        now: float,
    ) -> None:
        match purpose:
            case _Accepted(peer):
                self._serve(stream_id, peer, message, now=now)
                self._emit(CloseStream(stream_id))
            case _FallbackPing(sequence):
                self._emit(CloseStream(stream_id))
                if isinstance(message, wire.Ack) and message.seq_no == sequence:
                    self._on_ping_acked(sequence)
            case _Exchange():
                self._emit(CloseStream(stream_id))
                self._end_exchange(purpose, self._take_answer(purpose, message, now=now), now=now)

    def _take_answer(
        self, exchange: _Exchange, message: wire.StreamMessage, *, now: float
    ) -> str | None:
        """Use the answer to an exchange, or say why not."""
        match message:
            case wire.PushPull():
                ignore_old = exchange.join is not None and exchange.join.ignore_old
                return self._merge(message, join=exchange.as_join, ignore_old=ignore_old, now=now)
            case wire.ErrorReply(error=error):
                return f"remote error: {error}"
            case _:
                return f"unexpected answer: {type(message).__name__}"

    def _serve(
        self, stream_id: int, peer: Address, message: wire.StreamMessage, *, now: float
    ) -> None:
        """Do what a peer asks."""
        match message:
            case wire.PushPull():
                # Ours goes out before theirs is judged, as the reference does.
                self._answer(stream_id, self._push_pull(join=message.join))
                error = self._merge(message, join=message.join, ignore_old=False, now=now)
                if error is not None:
                    text = f"Failed push/pull merge: {error} from={host_port(*peer)}"
                    self._emit(Warned(text))
            case wire.Ping():
                if message.node in {"", self._table.me.name}:
                    self._answer(stream_id, wire.Ack(seq_no=message.seq_no))
                else:
                    self._count("pings_for_others")
            case wire.UserMessage():
                self._emit(UserMessageReceived(message.payload, peer))
            case _:
                self._count("streams_refused")

    def _refuse(self, stream_id: int, stream: _Stream, text: str, *, now: float) -> None:
        """End a stream over which something malformed came; tell a peer that asked us."""
        del self.open[stream_id]
        if isinstance(stream.purpose, _Accepted):
            self._count("streams_refused")
            if text in {wire.NOT_ENCRYPTED, wire.ENCRYPTED, wire.NO_KEY}:
                self._answer(stream_id, wire.ErrorReply(error=text))
        self._emit(CloseStream(stream_id))
        self._end(stream, text, now=now)

    def _end(self, stream: _Stream, text: str, *, now: float) -> None:
        """A stream ended without its message."""
        match stream.purpose:
            case _Exchange() as exchange:
                self._end_exchange(exchange, text, now=now)
            case _Accepted(peer):
                self._emit(Warned(f"stream ended: {text} from={host_port(*peer)}"))
            case _FallbackPing():
                pass  # The probe's own deadline decides.

    def _answer(self, stream_id: int, message: wire.StreamMessage) -> None:
        self._emit(SendStream(stream_id, self._envelope.stream(message, dialler=False)))

    # --- Push/pull ------------------------------------------------------------------------------

    def _go_on_joining(self, join: _Join, *, now: float) -> None:
        while join.waiting and join.running < JOIN_PARALLEL_MAX:
            target = join.waiting.pop(0)
            error = self._start_exchange(_Exchange(target, join, as_join=True), now=now)
            if error is None:
                join.running += 1
            else:
                join.fail(target, error)
        if not join.running:
            self._emit(JoinFinished(join.id, join.contacted, tuple(join.errors)))

    def _open_exchange(self, exchange: _Exchange, *, now: float) -> None:
        error = self._start_exchange(exchange, now=now)
        if error is not None:
            self._end_exchange(exchange, error, now=now)

    def _start_exchange(self, exchange: _Exchange, *, now: float) -> str | None:
        data = self._envelope.stream(self._push_pull(join=exchange.as_join), dialler=True)
        timeout = self._config.stream_timeout
        return self._open(exchange.target, exchange, data, timeout=timeout, now=now)

    def _open(
        self,
        target: JoinTarget,
        purpose: _Exchange | _FallbackPing,
        data: bytes,
        *,
        timeout: float,
        now: float,
    ) -> str | None:
        """Ask for a stream, or say why there can be none."""
        if self._route_by_name and not target.node:
            return _NAME_REQUIRED
        outbound = [s for s in self.open.values() if not isinstance(s.purpose, _Accepted)]
        if len(outbound) >= OUTBOUND_STREAMS_MAX:
            return "too many streams are open"
        number = self._number()
        reader = self._envelope.reader(dialler=True)
        self.open[number] = _Stream(purpose, reader, now + timeout)
        self._emit(OpenStream(number, target.node, target.address, data, timeout))
        return None

    def _end_exchange(self, exchange: _Exchange, error: str | None, *, now: float) -> None:
        join = exchange.join
        if join is None:
            if error is not None:
                text = f"Push/Pull with {exchange.target.node} failed: {error}"
                self._emit(Warned(text))
            return
        join.running -= 1
        if error is None:
            join.contacted += 1
        else:
            join.fail(exchange.target, error)
        self._go_on_joining(join, now=now)

    def _push_pull(self, *, join: bool) -> wire.PushPull:
        return wire.PushPull(
            join=join, nodes=self._table.states(), user_state=self._upper.user_state(join=join)
        )

    def _merge(
        self, remote: wire.PushPull, *, join: bool, ignore_old: bool, now: float
    ) -> str | None:
        """Judge the other's full state, then take it in whole; or say why not."""
        if remote.nodes is not self._agreed or remote.nodes is not self._table.states() or join:
            error = self._take_in(remote.nodes, join=join, now=now)
            if error is not None:
                return error
        if remote.user_state:
            self._emit(StateReceived(remote.user_state, join, ignore_old))
        return None

    def _take_in(self, remote: tuple[wire.NodeState, ...], *, join: bool, now: float) -> str | None:
        """Judge the members of the other's state, then take them in; or say why not."""
        nodes: Sequence[wire.NodeState] = remote
        if any(len(node.addr) == 16 for node in nodes):
            nodes = [_normalised(node) for node in nodes]
        error = pushpull.version_conflict(self._table.states(), nodes)
        if error is None and join:
            sound = [node for node in nodes if len(node.vsn) == wire.VSN_SIZE]
            error = self._upper.check_merge(sound)
        if error is not None:
            return error
        news = self._table.news(nodes)
        for node in news:
            self._table.receive_state(node, now=now)
        if not news:
            self._agreed = remote
        return None


def _normalised(node: wire.NodeState) -> wire.NodeState:
    return wire.NodeState(
        name=node.name,
        addr=normalise_addr(node.addr),
        port=node.port,
        meta=node.meta,
        incarnation=node.incarnation,
        state=node.state,
        vsn=node.vsn,
    )
