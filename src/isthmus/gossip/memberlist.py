"""The membership core: packets, streams and time in; packets, streams and events out.

It joins the parts of this package behind one interface: the member table, the prober, the rumours
and the exchange of full state. What it carries for the layer above, it gets through `Upper`.

Source: SWIM; Lifeguard; protocol/gossip.md §4 to §10, §15.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final, Protocol, TypeAlias

from isthmus.errors import ProtocolError
from isthmus.gossip import pushpull
from isthmus.gossip.awareness import Awareness
from isthmus.gossip.broadcast import Broadcast, BroadcastQueue
from isthmus.gossip.config import GossipConfig
from isthmus.gossip.keyring import Keyring
from isthmus.gossip.members import (
    OUR_VSN,
    MemberTable,
    Node,
    addr_text,
    normalise_addr,
    pack_addr,
)
from isthmus.gossip.outputs import (
    Address,
    CloseStream,
    JoinFinished,
    LeaveSent,
    MemberlistOutput,
    OpenStream,
    PingAcked,
    SendPacket,
    SendStream,
    StateReceived,
    UserMessageReceived,
    Warned,
)
from isthmus.gossip.probe import AskHelpers, Prober, ProbeResult, ProbeSucceeded
from isthmus.wire import memberlist as wire

INBOUND_STREAMS_MAX: Final = 128
OUTBOUND_STREAMS_MAX: Final = 128
JOIN_PARALLEL_MAX: Final = 8
"""Addresses of one join that are tried at the same time."""
RELAYED_PINGS_MAX: Final = 1024
"""Pings sent for others whose answers are awaited; further requests are not served."""
SENT_PACKETS_MAX: Final = 1024
"""Sent packets whose contents are kept for `packet_failed`."""
COMPRESS_SIZE_MIN: Final = 128
"""Smaller packets are not worth the attempt."""
COMPRESS_SIZE_MAX: Final = 32 * 1024
"""Larger streams go uncompressed: the time it takes would hold up the loop."""

_COMPOUND_OVERHEAD: Final = 2
_USER_OVERHEAD: Final = 1
_PROTOCOL_STREAM_PING: Final = 3
_PROTOCOL_NACK: Final = 4
_PROTOCOL_CHECKSUM: Final = 5


class Upper(Protocol):
    """What the layer above (serf) contributes; plain functions of its state."""

    def has_broadcasts(self) -> bool:
        """Whether it has rumours of its own."""

    def take_broadcasts(self, budget: int, *, overhead: int) -> list[Broadcast]:
        """Its rumours for one packet."""

    def user_state(self, *, join: bool) -> bytes:
        """Its half of a push/pull."""

    def ack_payload(self) -> bytes:
        """What to put into acks."""

    def check_merge(self, nodes: Sequence[wire.NodeState]) -> str | None:
        """Why these members must not be let in, or None."""


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


@dataclass(frozen=True, slots=True)
class _Exchange:
    """Purpose of a stream: push/pull, as a part of `join` or by ourselves."""

    target: JoinTarget
    join: _Join | None
    as_join: bool


@dataclass(frozen=True, slots=True)
class _StreamPing:
    """Purpose of a stream: the fallback ping."""

    sequence: int


@dataclass(frozen=True, slots=True)
class _Accepted:
    """Purpose of a stream: the peer's."""

    peer: Address


@dataclass(slots=True)
class _Stream:
    purpose: _Exchange | _StreamPing | _Accepted
    reader: wire.StreamReader
    deadline: float


@dataclass(frozen=True, slots=True)
class _RelayedPing:
    """A ping that we sent for another member."""

    sequence: int
    reply_node: str
    reply_address: Address
    wants_nack: bool
    deadline: float


_Sent: TypeAlias = tuple[int, list[Broadcast]]


class Memberlist:
    """Membership of one pool.

    Args:
        name: Our name, unique in the pool.
        address: Textual IP address and port that others reach us at.
        meta: Bytes that describe us to the layer above.
        config: Times and limits.
        keyring: Encryption keys; an empty one: not encrypted.
        upper: The layer above.
        route_by_name: Packets and streams are routed by node name (gateway federation): nothing is
            sent to a nameless address.
        is_remote: With routing by name: whether a name belongs to another datacenter, where a
            stream is no second way to the same member.
        rng: Source of every random choice, so that a seed replays a run.
        entropy: Gives so many unpredictable bytes, for nonces.
        now: Seconds on the driver's monotonic clock.
    """

    def __init__(
        self,
        *,
        name: str,
        address: Address,
        meta: bytes,
        config: GossipConfig,
        keyring: Keyring,
        upper: Upper,
        rng: Random,
        entropy: Callable[[int], bytes],
        now: float,
        route_by_name: bool = False,
        is_remote: Callable[[str], bool] = lambda name: False,
    ) -> None:
        self.config, self.keyring = config, keyring
        self._upper, self._rng, self._entropy = upper, rng, entropy
        self._route_by_name, self._is_remote = route_by_name, is_remote
        self._outputs: list[MemberlistOutput] = []
        self.counters: dict[str, int] = {}
        self.awareness = Awareness(config.awareness_max)
        self.rumours = BroadcastQueue(config.retransmit_mult)
        me = wire.Alive(
            incarnation=1,
            node=name,
            addr=pack_addr(address[0]),
            port=address[1],
            meta=meta,
            vsn=OUR_VSN,
        )
        self.table = MemberTable(
            me,
            config=config,
            check=lambda node: upper.check_merge((node,)),
            rumours=self.rumours,
            awareness=self.awareness,
            emit=self._outputs.append,
            rng=rng,
            now=now,
        )
        self._prober = Prober(config, self.awareness, rng=rng, now=now)
        self._ring_place = 0
        self._sequence = 0
        self._number = 0
        self.held = False
        """Whether `hold` is in force."""
        self._gossip_at = now
        self._push_pull_at = now + rng.random() * config.push_pull_interval
        self._leave_deadline: float | None = None
        self._relayed: dict[int, _RelayedPing] = {}
        self._streams: dict[int, _Stream] = {}
        self._sent: dict[int, _Sent] = {}

    # --- Our side ---------------------------------------------------------------------------

    def join(self, targets: Sequence[JoinTarget], *, ignore_old: bool, now: float) -> int:
        """Exchange state with each of `targets`; JoinFinished tells how it went.

        Args:
            targets: Where members may be found.
            ignore_old: Whether events from before the join are of no interest.
            now: Seconds on the driver's monotonic clock.
        """
        join = _Join(self._next_number(), list(targets), ignore_old)
        self._go_on_joining(join, now=now)
        return join.id

    def reconnect(self, target: JoinTarget, *, now: float) -> None:
        """Exchange state with a member that failed, as if joining; nobody waits for it."""
        self._open_exchange(_Exchange(target, None, as_join=True), now=now)

    def leave(self, *, timeout: float, now: float) -> None:
        """Tell the others that we leave; LeaveSent follows when it is said or `timeout` is over."""
        if self.table.leaving:
            return
        self._leave_deadline = now + timeout
        self.table.leave(now=now)
        if not self.has_live_peers():
            self._leave_deadline = now

    def update_meta(self, meta: bytes) -> None:
        """Change what describes us."""
        self.table.update_meta(meta)

    def hold(self) -> None:
        """Stop all that we start by ourselves (probes, rumours, exchanges); go on answering."""
        self.held = True

    def release(self, *, now: float) -> None:
        """Take it up again."""
        if self.held:
            self.held = False
            self._prober.postpone(now=now)
            self._gossip_at = now
            self._push_pull_at = now + self._rng.random() * self.config.push_pull_interval

    def send_user_message(self, node: str, address: Address, message: bytes) -> None:
        """Send bytes of the layer above to one member, once."""
        self._send(node, address, [wire.encode_message(wire.UserMessage(message))])

    def has_live_peers(self) -> bool:
        """Whether any other member is believed alive."""
        return any(not node.gone for node in self.table.nodes.values() if node is not self.table.me)

    def take_outputs(self) -> list[MemberlistOutput]:
        """Remove and return all that is to be done, oldest first."""
        outputs = self._outputs.copy()
        self._outputs.clear()  # The table holds on to the list.
        return outputs

    # --- From the network: packets ------------------------------------------------------------

    def receive_packet(self, data: bytes, *, source: Address | None, now: float) -> None:
        """Take in one datagram; what is malformed in it is counted and dropped.

        Args:
            data: All of it.
            source: Where it came from; None if that is of no use for answers.
            now: Seconds on the driver's monotonic clock.
        """
        try:
            opened = wire.open_packet(
                data,
                label=self.config.label,
                ciphers=self.keyring.ciphers,
                verify=self.config.verify_incoming,
            )
        except ProtocolError:
            self._count("packets_refused")
            return
        self._count("packets_received")
        for _ in opened.faults:
            self._count("messages_refused")
        for leaf in opened.messages:
            try:
                message = wire.decode_message(leaf)
            except ProtocolError:
                self._count("messages_refused")
            else:
                self._receive_message(message, source=source, now=now)

    def packet_failed(self, packet_id: int, *, now: float) -> None:
        """A packet surely did not go out: its ping is lost, its rumours do not count as told."""
        sent = self._sent.pop(packet_id, None)
        if sent is None:
            return
        self._count("packets_failed")
        sequence, broadcasts = sent
        for broadcast in broadcasts:
            broadcast.restore()
        if sequence:
            self._prober.lost(sequence, now=now)
            relayed = self._relayed.get(sequence)
            if relayed is not None:
                self._relayed[sequence] = replace(relayed, deadline=now)

    def _receive_message(
        self, message: wire.PacketMessage, *, source: Address | None, now: float
    ) -> None:
        match message:
            case wire.Ping():
                self._receive_ping(message, source)
            case wire.IndirectPing():
                self._receive_indirect_ping(message, source, now=now)
            case wire.Ack():
                self._receive_ack(message, now=now)
            case wire.Nack():
                self._prober.receive_nack(message.seq_no)
            case wire.Suspect():
                self.table.receive_suspect(message, now=now)
            case wire.Alive():
                self.table.receive_alive(message, now=now)
            case wire.Dead():
                self.table.receive_dead(message, now=now)
            case wire.UserMessage():
                self._outputs.append(UserMessageReceived(message.payload, source))
            case wire.ErrorReply():
                self._count("messages_refused")  # Belongs on streams.

    def _receive_ping(self, ping: wire.Ping, source: Address | None) -> None:
        if ping.node not in {"", self.table.me.name}:
            self._count("pings_for_others")
            return
        address = _source_address(ping, source)
        if address is not None:
            ack = wire.Ack(seq_no=ping.seq_no, payload=self._upper.ack_payload())
            self._send(ping.source_node, address, [wire.encode_message(ack)], piggyback=True)

    def _receive_indirect_ping(
        self, request: wire.IndirectPing, source: Address | None, *, now: float
    ) -> None:
        target = normalise_addr(request.target)
        reply_address = _source_address(request, source)
        if (
            len(target) not in {4, 16}
            or not request.port
            or reply_address is None
            or len(self._relayed) >= RELAYED_PINGS_MAX
        ):
            self._count("messages_refused")
            return
        sequence = self._next_sequence()
        self._relayed[sequence] = _RelayedPing(
            request.seq_no,
            request.source_node,
            reply_address,
            request.nack,
            now + self.config.probe_timeout,
        )
        self._send(
            request.node,
            (addr_text(target), request.port),
            [wire.encode_message(self._ping(request.node, sequence))],
            sequence=sequence,
            piggyback=True,
        )

    def _receive_ack(self, ack: wire.Ack, *, now: float) -> None:
        relayed = self._relayed.pop(ack.seq_no, None)
        if relayed is not None:
            answer = wire.Ack(seq_no=relayed.sequence)
            self._send(
                relayed.reply_node,
                relayed.reply_address,
                [wire.encode_message(answer)],
                piggyback=True,
            )
            return
        result = self._prober.receive_ack(ack.seq_no, ack.payload, now=now)
        if result is not None:
            self._carry_out(result, now=now)

    # --- From the network: streams --------------------------------------------------------------

    def accept_stream(self, *, peer: Address, now: float) -> int | None:
        """A peer opened a stream: its number, or None when there are too many; close it then."""
        inbound = [s for s in self._streams.values() if isinstance(s.purpose, _Accepted)]
        if len(inbound) >= INBOUND_STREAMS_MAX:
            self._count("streams_refused")
            return None
        number = self._next_number()
        self._streams[number] = _Stream(
            _Accepted(peer), self._reader(dialler=False), now + self.config.stream_timeout
        )
        return number

    def stream_opened(self, stream_id: int, *, now: float) -> None:
        """The stream of an OpenStream is connected and its data written."""
        stream = self._streams.get(stream_id)
        if stream is not None and not isinstance(stream.purpose, _StreamPing):
            stream.deadline = now + self.config.stream_timeout

    def stream_failed(self, stream_id: int, text: str, *, now: float) -> None:
        """The stream of an OpenStream could not be connected, or broke."""
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            self._end_stream(stream, text, now=now)

    def receive_stream_data(self, stream_id: int, data: bytes, *, now: float) -> None:
        """Take in bytes of a stream; malformed ones end it."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        try:
            stream.reader.receive_data(data)
        except ProtocolError as error:
            self._refuse_stream(stream_id, stream, str(error), now=now)
            return
        if stream.reader.message is not None:
            del self._streams[stream_id]
            self._receive_stream_message(stream_id, stream, stream.reader.message, now=now)

    def receive_stream_eof(self, stream_id: int, *, now: float) -> None:
        """The peer closed a stream, cleanly or not."""
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            self._outputs.append(CloseStream(stream_id))
            self._end_stream(stream, "EOF", now=now)

    def _receive_stream_message(
        self, stream_id: int, stream: _Stream, message: wire.StreamMessage, *, now: float
    ) -> None:
        purpose = stream.purpose
        if isinstance(purpose, _Accepted):
            self._serve_stream(stream_id, purpose, message, now=now)
            return
        self._outputs.append(CloseStream(stream_id))
        if isinstance(purpose, _StreamPing):
            if isinstance(message, wire.Ack) and message.seq_no == purpose.sequence:
                self._prober.receive_stream_ack(purpose.sequence)
            return
        match message:
            case wire.PushPull():
                ignore_old = purpose.join is not None and purpose.join.ignore_old
                error = self._merge(message, join=purpose.as_join, ignore_old=ignore_old, now=now)
            case wire.ErrorReply():
                error = f"remote error: {message.error}"
            case _:
                error = f"unexpected answer: {type(message).__name__}"
        self._end_exchange(purpose, error, now=now)

    def _serve_stream(
        self, stream_id: int, purpose: _Accepted, message: wire.StreamMessage, *, now: float
    ) -> None:
        match message:
            case wire.PushPull():
                # Ours goes out before theirs is judged, as the reference does.
                self._answer_stream(stream_id, self._push_pull(join=message.join))
                error = self._merge(message, join=message.join, ignore_old=False, now=now)
                if error is not None:
                    text = f"Failed push/pull merge: {error} from={_peer_text(purpose.peer)}"
                    self._outputs.append(Warned(text))
            case wire.Ping():
                if message.node in {"", self.table.me.name}:
                    self._answer_stream(stream_id, wire.Ack(seq_no=message.seq_no))
                else:
                    self._count("pings_for_others")
            case wire.UserMessage():
                self._outputs.append(UserMessageReceived(message.payload, purpose.peer))
            case _:
                self._count("streams_refused")
        self._outputs.append(CloseStream(stream_id))

    def _refuse_stream(self, stream_id: int, stream: _Stream, text: str, *, now: float) -> None:
        """End a stream over which something malformed came; tell a peer that asked us."""
        del self._streams[stream_id]
        if isinstance(stream.purpose, _Accepted):
            self._count("streams_refused")
            if text in {wire.NOT_ENCRYPTED, wire.ENCRYPTED, wire.NO_KEY}:
                self._answer_stream(stream_id, wire.ErrorReply(error=text))
        self._outputs.append(CloseStream(stream_id))
        self._end_stream(stream, text, now=now)

    def _end_stream(self, stream: _Stream, text: str, *, now: float) -> None:
        """A stream ended without its message."""
        match stream.purpose:
            case _Exchange() as exchange:
                self._end_exchange(exchange, text, now=now)
            case _Accepted(peer):
                self._outputs.append(Warned(f"stream ended: {text} from={_peer_text(peer)}"))
            case _StreamPing():
                pass  # The probe's own deadline decides.

    def _answer_stream(self, stream_id: int, message: wire.StreamMessage) -> None:
        self._outputs.append(SendStream(stream_id, self._wrap(message, dialler=False)))

    def _reader(self, *, dialler: bool) -> wire.StreamReader:
        return wire.StreamReader(
            label=self.config.label,
            ciphers=self.keyring.ciphers,
            verify=self.config.verify_incoming,
            dialler=dialler,
        )

    def _wrap(self, message: wire.StreamMessage, *, dialler: bool) -> bytes:
        data = wire.encode_stream(message)
        sealed = bool(self.keyring) and self.config.verify_outgoing
        small = len(data) <= COMPRESS_SIZE_MAX
        return wire.wrap_stream(
            data,
            label=self.config.label,
            cipher=self.keyring.ciphers[0] if sealed else None,
            nonce=self._entropy(wire.NONCE_SIZE) if sealed else b"",
            dialler=dialler,
            compressed=self.config.compress and len(data) >= COMPRESS_SIZE_MIN and small,
        )

    # --- Push/pull ------------------------------------------------------------------------------

    def _go_on_joining(self, join: _Join, *, now: float) -> None:
        while join.waiting and join.running < JOIN_PARALLEL_MAX:
            target = join.waiting.pop(0)
            join.running += 1
            self._open_exchange(_Exchange(target, join, as_join=True), now=now)
        if not join.running and not join.waiting:
            join.running = -1  # It finishes once, however deep in the calls that is noticed.
            self._outputs.append(JoinFinished(join.id, join.contacted, tuple(join.errors)))

    def _open_exchange(self, exchange: _Exchange, *, now: float) -> None:
        data = self._wrap(self._push_pull(join=exchange.as_join), dialler=True)
        error = self._open_stream(
            exchange.target, exchange, data, timeout=self.config.stream_timeout, now=now
        )
        if error is not None:
            self._end_exchange(exchange, error, now=now)

    def _open_stream(
        self,
        target: JoinTarget,
        purpose: _Exchange | _StreamPing,
        data: bytes,
        *,
        timeout: float,
        now: float,
    ) -> str | None:
        """Ask for a stream, or say why there can be none."""
        if self._route_by_name and not target.node:
            return "memberlist: node names are required by configuration but one was not provided"
        outbound = [s for s in self._streams.values() if not isinstance(s.purpose, _Accepted)]
        if len(outbound) >= OUTBOUND_STREAMS_MAX:
            return "too many streams are open"
        number = self._next_number()
        self._streams[number] = _Stream(purpose, self._reader(dialler=True), now + timeout)
        self._outputs.append(OpenStream(number, target.node, target.address, data, timeout))
        return None

    def _end_exchange(self, exchange: _Exchange, error: str | None, *, now: float) -> None:
        join = exchange.join
        if join is None:
            if error is not None:
                text = f"Push/Pull with {exchange.target.node} failed: {error}"
                self._outputs.append(Warned(text))
            return
        join.running -= 1
        if error is None:
            join.contacted += 1
        else:
            join.errors.append(f"Failed to join {_peer_text(exchange.target.address)}: {error}")
        self._go_on_joining(join, now=now)

    def _push_pull(self, *, join: bool) -> wire.PushPull:
        return wire.PushPull(
            join=join, nodes=self.table.states(), user_state=self._upper.user_state(join=join)
        )

    def _merge(
        self, remote: wire.PushPull, *, join: bool, ignore_old: bool, now: float
    ) -> str | None:
        """Judge the other's full state, then take it in whole; or say why not."""
        nodes = [_normalised(node) if len(node.addr) == 16 else node for node in remote.nodes]
        error = pushpull.version_conflict(self.table.states(), nodes)
        if error is None and join:
            sound = [node for node in nodes if len(node.vsn) == wire.VSN_SIZE]
            error = self._upper.check_merge(sound)
        if error is not None:
            return error
        for node in nodes:
            self.table.receive_state(node, now=now)
        if remote.user_state:
            self._outputs.append(StateReceived(remote.user_state, join, ignore_old))
        return None

    # --- Time -----------------------------------------------------------------------------------

    def next_timer(self) -> float:
        """Moment at which `handle_timer` is due, on the driver's clock."""
        due = [stream.deadline for stream in self._streams.values()]
        due += [relayed.deadline for relayed in self._relayed.values()]
        suspicion = self.table.next_timer()
        if suspicion is not None:
            due.append(suspicion)
        if self._leave_deadline is not None:
            due.append(self._leave_deadline)
        if not self.held:
            due += (self._prober.next_timer(), self._push_pull_at)
            if self._has_broadcasts():
                due.append(self._gossip_at)
        return min(due) if due else float("inf")

    def handle_timer(self, *, now: float) -> None:
        """Do all that is due by `now`."""
        self._expire_streams(now=now)
        self._expire_relayed(now=now)
        self.table.handle_timer(now=now)
        if not self.held:
            self._probe(now=now)
            if now >= self._push_pull_at:
                self._start_push_pull(now=now)
            if now >= self._gossip_at and self._has_broadcasts():
                self._gossip(now=now)
        self._watch_leave(now=now)

    def _expire_streams(self, *, now: float) -> None:
        overdue = [number for number, s in self._streams.items() if s.deadline <= now]
        for number in overdue:
            stream = self._streams.pop(number)
            self._outputs.append(CloseStream(number))
            self._end_stream(stream, "i/o timeout", now=now)

    def _expire_relayed(self, *, now: float) -> None:
        overdue = [number for number, ping in self._relayed.items() if ping.deadline <= now]
        for number in overdue:
            relayed = self._relayed.pop(number)
            if relayed.wants_nack:
                nack = wire.encode_message(wire.Nack(seq_no=relayed.sequence))
                self._send(relayed.reply_node, relayed.reply_address, [nack], piggyback=True)

    def _watch_leave(self, *, now: float) -> None:
        """Notice that our departure was sent out, or that the time for it is over."""
        sent = bool(self.rumours.take_finished())
        if self._leave_deadline is not None and (sent or now >= self._leave_deadline):
            self._leave_deadline = None
            self._outputs.append(LeaveSent())

    def _has_broadcasts(self) -> bool:
        return len(self.rumours) > 0 or self._upper.has_broadcasts()

    def _gossip(self, *, now: float) -> None:
        """Tell a few members, the lately dead among them, what is new."""
        self._gossip_at = now + self.config.gossip_interval
        horizon = now - self.config.gossip_to_the_dead_time

        def worth_telling(node: Node) -> bool:
            dead = node.status is wire.NodeStatus.DEAD
            return not node.gone or (dead and node.changed_at > horizon)

        for node in self.table.random_nodes(self.config.gossip_nodes, worth_telling):
            broadcasts = self._take_broadcasts(self._budget())
            if not broadcasts:
                break
            self._send_broadcasts(node, [], broadcasts)

    def _start_push_pull(self, *, now: float) -> None:
        self._push_pull_at = now + pushpull.scaled_interval(
            self.config.push_pull_interval, member_count=len(self.table)
        )
        partners = self.table.random_nodes(1, lambda node: node.status is wire.NodeStatus.ALIVE)
        for node in partners:
            target = JoinTarget(node.name, node.address)
            self._open_exchange(_Exchange(target, None, as_join=False), now=now)

    # --- Probing --------------------------------------------------------------------------------

    def _probe(self, *, now: float) -> None:
        result = self._prober.handle_timer(now=now)
        while result is not None:
            self._carry_out(result, now=now)
            result = self._prober.handle_timer(now=now)
        if self._prober.is_due(now=now):
            node = self._next_target(now=now)
            if node is not None:
                self._ping_target(node, now=now)

    def _next_target(self, *, now: float) -> Node | None:
        """The next member of the ring that is worth a probe.

        A tick gives up after as many steps as the ring is long, as the reference does; the
        minimum lets a pool of two probe at every tick, where the reference loses every other one.
        """
        for _ in range(max(3, len(self.table.ring))):
            if self._ring_place >= len(self.table.ring):
                self.table.reset_ring(now=now)
                self._ring_place = 0
                continue
            node = self.table.ring[self._ring_place]
            self._ring_place += 1
            if node is not self.table.me and not node.gone:
                return node
        return None

    def _ping_target(self, node: Node, *, now: float) -> None:
        sequence = self._next_sequence()
        self._prober.start(node.name, sequence, now=now)
        ping = wire.encode_message(self._ping(node.name, sequence))
        if node.status is not wire.NodeStatus.SUSPECT:
            self._send(node.name, node.address, [ping], sequence=sequence, piggyback=True)
            return
        # Tell a suspect of it at once, so that it can refute at once (Lifeguard, Buddy System).
        suspect = wire.Suspect(
            incarnation=node.incarnation, node=node.name, from_=self.table.me.name
        )
        self._send(
            node.name,
            node.address,
            [ping, wire.encode_message(suspect)],
            sequence=sequence,
            checksum=node.protocol_max >= _PROTOCOL_CHECKSUM,
        )

    def _carry_out(self, result: ProbeResult, *, now: float) -> None:
        match result:
            case ProbeSucceeded(target, rtt, payload, by_stream):
                if by_stream:
                    self._outputs.append(
                        Warned(
                            f"Was able to connect to {target} over TCP but UDP probes failed, "
                            "network may be misconfigured"
                        )
                    )
                elif payload:
                    self._outputs.append(PingAcked(target, rtt, payload))
            case AskHelpers(target, sequence):
                node = self.table.nodes.get(target)
                if node is not None:
                    self._ask_helpers(node, sequence, now=now)
            case _:
                node = self.table.nodes.get(result.target)
                if node is not None:
                    self._outputs.append(
                        Warned(f"Suspect {node.name} has failed, no acks received")
                    )
                    claim = wire.Suspect(
                        incarnation=node.incarnation, node=node.name, from_=self.table.me.name
                    )
                    self.table.receive_suspect(claim, now=now)

    def _ask_helpers(self, target: Node, sequence: int, *, now: float) -> None:
        helpers = self.table.random_nodes(
            self.config.indirect_checks,
            lambda node: node is not target and node.status is wire.NodeStatus.ALIVE,
        )
        me = self.table.me
        expected = 0
        for helper in helpers:
            nack = helper.protocol_max >= _PROTOCOL_NACK
            expected += nack
            request = wire.IndirectPing(
                seq_no=sequence,
                target=target.addr,
                port=target.port,
                node=target.name,
                nack=nack,
                source_addr=me.addr,
                source_port=me.port,
                source_node=me.name,
            )
            self._send(helper.name, helper.address, [wire.encode_message(request)], piggyback=True)
        self._prober.expect_nacks(expected)
        if (
            self.config.stream_pings
            and target.protocol_max >= _PROTOCOL_STREAM_PING
            and not (self._route_by_name and self._is_remote(target.name))
        ):
            self._open_stream(
                JoinTarget(target.name, target.address),
                _StreamPing(sequence),
                self._wrap(self._ping(target.name, sequence), dialler=True),
                timeout=max(0.0, self._prober.next_timer() - now),
                now=now,
            )

    def _ping(self, node: str, sequence: int) -> wire.Ping:
        me = self.table.me
        return wire.Ping(
            seq_no=sequence,
            node=node,
            source_addr=me.addr,
            source_port=me.port,
            source_node=me.name,
        )

    # --- Sending --------------------------------------------------------------------------------

    def _budget(self) -> int:
        budget = self.config.packet_size - _COMPOUND_OVERHEAD
        if self.config.label:
            budget -= 2 + len(self.config.label)
        if self.keyring and self.config.verify_outgoing:
            budget -= wire.ENCRYPTION_OVERHEAD
        return budget

    def _take_broadcasts(self, budget: int) -> list[Broadcast]:
        """Rumours for one packet: ours first, then those of the layer above."""
        if self.held:
            return []
        chosen = self.rumours.take(
            budget, overhead=_COMPOUND_OVERHEAD, member_count=len(self.table)
        )
        budget -= sum(_COMPOUND_OVERHEAD + len(broadcast.data) for broadcast in chosen)
        if budget > _COMPOUND_OVERHEAD + _USER_OVERHEAD:
            chosen += self._upper.take_broadcasts(
                budget, overhead=_COMPOUND_OVERHEAD + _USER_OVERHEAD
            )
        return chosen

    def _send(
        self,
        node: str,
        address: Address,
        messages: list[bytes],
        *,
        sequence: int = 0,
        piggyback: bool = False,
        checksum: bool = False,
    ) -> None:
        """Send messages as one packet, with rumours if there is room for them."""
        broadcasts: list[Broadcast] = []
        if piggyback and self._has_broadcasts() and (node or not self._route_by_name):
            budget = self._budget() - sum(map(len, messages))
            broadcasts = self._take_broadcasts(budget)
        self._send_packet(node, address, messages, broadcasts, sequence, checksum=checksum)

    def _send_broadcasts(
        self, node: Node, messages: list[bytes], broadcasts: list[Broadcast]
    ) -> None:
        checksum = node.protocol_max >= _PROTOCOL_CHECKSUM
        self._send_packet(node.name, node.address, messages, broadcasts, 0, checksum=checksum)

    def _send_packet(
        self,
        node: str,
        address: Address,
        messages: list[bytes],
        broadcasts: list[Broadcast],
        sequence: int,
        *,
        checksum: bool,
    ) -> None:
        if self._route_by_name and not node:
            self._count("packets_without_name")
            return
        parts = messages + [broadcast.data for broadcast in broadcasts]
        data = wire.join_compound(parts)
        if self.config.compress and len(data) >= COMPRESS_SIZE_MIN:
            compressed = wire.compress(data)
            if len(compressed) < len(data):
                data = compressed
        if checksum:
            data = wire.add_checksum(data)
        if self.keyring and self.config.verify_outgoing:
            data = wire.seal(
                data,
                self.keyring.ciphers[0],
                nonce=self._entropy(wire.NONCE_SIZE),
                associated=self.config.label,
            )
        number = self._next_number()
        if sequence or broadcasts:
            self._sent[number] = (sequence, broadcasts)
            if len(self._sent) > SENT_PACKETS_MAX:
                del self._sent[next(iter(self._sent))]
        self._count("packets_sent")
        self._outputs.append(
            SendPacket(number, node, address, wire.add_label(data, self.config.label))
        )

    def _next_sequence(self) -> int:
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        return self._sequence

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _count(self, name: str) -> None:
        self.counters[name] = self.counters.get(name, 0) + 1


def _normalised(node: wire.NodeState) -> wire.NodeState:
    """The same state with its address normalised."""
    return wire.NodeState(
        name=node.name,
        addr=normalise_addr(node.addr),
        port=node.port,
        meta=node.meta,
        incarnation=node.incarnation,
        state=node.state,
        vsn=node.vsn,
    )


def _source_address(
    message: wire.Ping | wire.IndirectPing, source: Address | None
) -> Address | None:
    """Where the answer goes: the address named in the message, else where it came from."""
    addr = normalise_addr(message.source_addr)
    if len(addr) in {4, 16} and message.source_port:
        return addr_text(addr), message.source_port
    if source is None and message.source_node:
        return "0.0.0.0", 0  # Routed by name; the address is not used.
    return source


def _peer_text(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
