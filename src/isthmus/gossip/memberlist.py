"""The membership core: packets, streams and time in; packets, streams and events out.

It joins the parts of this package behind one interface: the member table, the prober, the rumours
and the exchange of full state. What it carries for the layer above, it gets through `Upper`.

Source: SWIM; Lifeguard; protocol/gossip.md §4 to §10, §15.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final, TypeAlias

from isthmus.errors import ProtocolError
from isthmus.gossip import pushpull
from isthmus.gossip.awareness import Awareness
from isthmus.gossip.broadcast import Broadcast, BroadcastQueue
from isthmus.gossip.config import GossipConfig
from isthmus.gossip.envelope import COMPOUND_OVERHEAD, Codec, Envelope
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
    LeaveSent,
    MemberlistOutput,
    PingAcked,
    SendPacket,
    UserMessageReceived,
    Warned,
)
from isthmus.gossip.probe import AskHelpers, Prober, ProbeResult, ProbeSucceeded
from isthmus.gossip.streams import JoinTarget, Streams
from isthmus.gossip.upper import Upper
from isthmus.wire import memberlist as wire

RELAYED_PINGS_MAX: Final = 1024
"""Pings sent for others whose answers are awaited; further requests are not served."""
SENT_PACKETS_MAX: Final = 1024
"""Sent packets whose contents are kept for `packet_failed`."""

_USER_OVERHEAD: Final = 1
_PROTOCOL_STREAM_PING: Final = 3
_PROTOCOL_NACK: Final = 4
_PROTOCOL_CHECKSUM: Final = 5
_ALIVE: Final = wire.NodeStatus.ALIVE  # Looking a name up in an enumeration takes longer than all.
_SUSPECT: Final = wire.NodeStatus.SUSPECT
_DEAD: Final = wire.NodeStatus.DEAD


@dataclass(frozen=True, slots=True)
class _RelayedPing:
    """A ping that we sent for another member."""

    sequence: int
    target: Address
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
        codec: Makes and reads what is sent; without one: an `Envelope` of `config` and `keyring`.
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
        codec: Codec | None = None,
    ) -> None:
        self.config, self.keyring = config, keyring
        self._upper, self._rng = upper, rng
        self._envelope = codec or Envelope(config, keyring, entropy)
        self._route_by_name, self._is_remote = route_by_name, is_remote
        self.outputs: list[MemberlistOutput] = []
        """What waits for `take_outputs`; always the same list."""
        self.counters: dict[str, int] = {"packets_received": 0, "packets_sent": 0}
        self.acked_at: dict[str, float] = {}
        """When members answered a probe of ours last."""
        self.awareness = Awareness(config.awareness_max)
        self._tally = upper.tally
        self.rumours = BroadcastQueue(config.retransmit_mult, self._tally)
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
            emit=self.outputs.append,
            rng=rng,
            now=now,
        )
        self._prober = Prober(config, self.awareness, rng=rng, now=now)
        self.streams = Streams(
            config,
            table=self.table,
            envelope=self._envelope,
            upper=upper,
            emit=self.outputs.append,
            on_ping_acked=self._prober.receive_stream_ack,
            on_ping_refused=self._prober.receive_stream_refusal,
            number=self._next_number,
            count=self._count,
            route_by_name=route_by_name,
        )
        """The streams; the driver's calls about them go there."""
        self._ring_place = 0
        self._sequence = 0
        self._number = 0
        self.held = False
        """Whether `hold` is in force."""
        self.carry_ping: Callable[[Node, int], bool] | None = None
        """A simulation's: takes over a ping (to whom, its number) that carries nothing else, and
        answers with `receive_carried_ack`; or declines, and it is sent as usual."""
        self._gossip_at = now
        self._push_pull_at = now + rng.random() * config.push_pull_interval
        self._leave_deadline: float | None = None
        self._relayed: dict[int, _RelayedPing] = {}
        self._sent: dict[int, _Sent] = {}

    # --- Our side ---------------------------------------------------------------------------

    def join(self, targets: Sequence[JoinTarget], *, ignore_old: bool, now: float) -> int:
        """Exchange state with each of `targets`; JoinFinished tells how it went.

        Args:
            targets: Where members may be found.
            ignore_old: Whether events from before the join are of no interest.
            now: Seconds on the driver's monotonic clock.
        """
        return self.streams.join(targets, ignore_old=ignore_old, now=now)

    def reconnect(self, target: JoinTarget, *, now: float) -> None:
        """Exchange state with a member that failed, as if joining; nobody waits for it."""
        self.streams.exchange(target, as_join=True, now=now)

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
        me = self.table.me
        return any(not node.gone for node in self.table.nodes.values() if node is not me)

    def copy_from(self, other: "Memberlist", *, now: float) -> None:
        """Know whom `other` knows, and announce nobody; for a pool that starts warm."""
        self.table.copy_from(other.table)
        self.rumours.prune(0)
        self._ring_place = 0
        interval = pushpull.scaled_interval(
            self.config.push_pull_interval, member_count=len(self.table)
        )
        self._push_pull_at = now + self._rng.random() * interval

    def take_outputs(self) -> list[MemberlistOutput]:
        """Remove and return all that is to be done, oldest first."""
        if not self.outputs:
            return []
        outputs = self.outputs.copy()
        self.outputs.clear()  # The table holds on to the list.
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
            packet = self._envelope.read_packet(data)
        except ProtocolError:
            self._count("packets_refused")
            return
        self._count("packets_received")
        for _ in range(packet.refused):
            self._count("messages_refused")
        for message in packet.messages:
            self._receive_message(message, source=source, now=now)
        if len(packet.messages) > 1:
            self._remind(packet.messages, source)

    def _remind(self, messages: Sequence[wire.PacketMessage], source: Address | None) -> None:
        """Tell a member whose ping brings a refuted accusation of us once more that we live.

        Our refutation missed it, and by now it may have been told often enough.
        """
        ping = messages[0]
        if not isinstance(ping, wire.Ping):
            return
        me = self.table.me
        for claim in messages[1:]:
            if (
                isinstance(claim, wire.Suspect)
                and (claim.node, claim.from_) == (me.name, ping.source_node)
                and claim.incarnation < me.incarnation
                and not self.table.leaving
                and (address := _source_address(ping, source)) is not None
            ):
                self._send(ping.source_node, address, [self.table.announcement()])
                return

    def receive_carried_ack(self, sequence: int, *, now: float) -> None:
        """The ack of a ping that `carry_ping` took over arrives; it carries nothing else."""
        target = self._prober.receive_plain_ack(sequence)
        if target:
            self._note_ack(target, now=now)

    def recall_ping(self, node: str, sequence: int) -> SendPacket:
        """The packet of a ping that `carry_ping` took over and that is to be sent after all."""
        ping = wire.encode_message(self._ping(node, sequence))
        number = self._next_number()
        self._remember_sent(number, sequence, [])
        address = self.table.nodes[node].address
        return SendPacket(number, node, address, self._envelope.packet([ping], checksum=False))

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

    def receive_refusal(self, address: Address, *, now: float) -> None:
        """Nobody listens at `address`, says its host: pings there wait for no answer.

        Args:
            address: Textual IP address and port that a packet of ours was sent to.
            now: Seconds on the driver's monotonic clock.
        """
        self._count("packets_refused_by_host")
        target = self.table.nodes.get(self._prober.target)
        if target is not None and target.address == address:
            self._prober.receive_refusal(now=now)
        for sequence, relayed in self._relayed.items():
            if relayed.target == address:
                self._relayed[sequence] = replace(relayed, deadline=min(now, relayed.deadline))

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
                self.outputs.append(UserMessageReceived(message.payload, source))
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
            (addr_text(target), request.port),
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

    # --- Time -----------------------------------------------------------------------------------

    def next_timer(self, *, answered: bool = False) -> float:
        """Moment at which `handle_timer` is due, on the driver's clock.

        Args:
            answered: As if the ack of the running probe had arrived.
        """
        due = math.inf
        if not self.held:
            due = self._prober.next_tick if answered else self._prober.next_timer()
            if self._push_pull_at < due:
                due = self._push_pull_at
            if self._tally.size and self._gossip_at < due:
                due = self._gossip_at
        if (
            self._relayed
            or self.streams.open
            or self.table.suspicions
            or self._leave_deadline is not None
        ):
            parts = (self.table.next_timer(), self.streams.next_timer(), self._leave_deadline)
            moments = [relayed.deadline for relayed in self._relayed.values()]
            moments += [moment for moment in parts if moment is not None]
            due = min([due, *moments])
        return due

    def handle_timer(self, *, now: float) -> None:
        """Do all that is due by `now`."""
        if self._relayed or self.streams.open or self.table.suspicions:
            self.streams.handle_timer(now=now)
            self._expire_relayed(now=now)
            self.table.handle_timer(now=now)
        if not self.held:
            self._probe(now=now)
            if now >= self._push_pull_at:
                self._push_pull(now=now)
            if now >= self._gossip_at and self._tally.size:
                self._gossip(now=now)
        if self._leave_deadline is not None:
            self._watch_leave(now=now)

    def _expire_relayed(self, *, now: float) -> None:
        overdue = [number for number, ping in self._relayed.items() if ping.deadline <= now]
        for number in overdue:
            relayed = self._relayed.pop(number)
            if relayed.wants_nack:
                nack = wire.encode_message(wire.Nack(seq_no=relayed.sequence))
                self._send(relayed.reply_node, relayed.reply_address, [nack], piggyback=True)

    def _watch_leave(self, *, now: float) -> None:
        """Notice that our departure was sent out, or that the time for it is over."""
        assert self._leave_deadline is not None
        sent = bool(self.rumours.take_finished())
        if sent or now >= self._leave_deadline:
            self._leave_deadline = None
            self.outputs.append(LeaveSent())

    def _gossip(self, *, now: float) -> None:
        """Tell a few members, the lately dead among them, what is new."""
        self._gossip_at = now + self.config.gossip_interval
        horizon = now - self.config.gossip_to_the_dead_time

        def worth_telling(node: Node) -> bool:
            return not node.gone or (node.status is _DEAD and node.changed_at > horizon)

        for node in self.table.random_nodes(self.config.gossip_nodes, worth_telling):
            broadcasts = self._take_broadcasts(self._envelope.budget)
            if not broadcasts:
                break
            self._send_broadcasts(node, [], broadcasts)

    def _push_pull(self, *, now: float) -> None:
        """Exchange all we know with one member."""
        self._push_pull_at = now + pushpull.scaled_interval(
            self.config.push_pull_interval, member_count=len(self.table)
        )
        for node in self.table.random_nodes(1, lambda n: n.status is _ALIVE):
            self.streams.exchange(JoinTarget(node.name, node.address), as_join=False, now=now)

    # --- Probing --------------------------------------------------------------------------------

    def _probe(self, *, now: float) -> None:
        if self._prober.target:
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
        A tick that finds a round ended by members without need of a probe ends with it, so that an
        idle pool of three says no more than one of the reference.
        """
        table = self.table
        ring, skipped = table.ring, False
        for _ in range(max(4, len(ring))):
            place = self._ring_place
            if place >= len(ring):
                table.reset_ring(now=now)
                ring = table.ring
                self._ring_place = 0
                if skipped and len(ring) > 2:
                    return None
                continue
            node = table.nodes[ring[place]]
            self._ring_place = place + 1
            if not node.gone and node is not table.me:
                return node
            skipped = True
        return None

    def _ping_target(self, node: Node, *, now: float) -> None:
        sequence = self._next_sequence()
        self._prober.start(node.name, sequence, now=now)
        if (
            self.carry_ping is not None
            and node.status is _ALIVE
            and not self.outputs
            and not self._tally.size
            and self.carry_ping(node, sequence)
        ):
            return
        ping = wire.encode_message(self._ping(node.name, sequence))
        if node.status is not _SUSPECT:
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
                self._note_ack(target, now=now)
                if by_stream:
                    self.outputs.append(
                        Warned(
                            f"Was able to connect to {target} over TCP but UDP probes failed, "
                            "network may be misconfigured"
                        )
                    )
                elif payload:
                    self.outputs.append(PingAcked(target, rtt, payload))
            case AskHelpers(target, sequence):
                node = self.table.nodes.get(target)
                if node is not None:
                    self._ask_helpers(node, sequence, now=now)
            case _:
                self._count("probes_failed")
                node = self.table.nodes.get(result.target)
                if node is not None:
                    self.outputs.append(Warned(f"Suspect {node.name} has failed, no acks received"))
                    claim = wire.Suspect(
                        incarnation=node.incarnation, node=node.name, from_=self.table.me.name
                    )
                    self.table.receive_suspect(claim, now=now)

    def _note_ack(self, target: str, *, now: float) -> None:
        acked_at = self.acked_at
        if target not in acked_at and len(acked_at) > 2 * len(self.table.nodes) + 15:
            known = self.table.nodes  # Most of them are forgotten.
            self.acked_at = acked_at = {name: at for name, at in acked_at.items() if name in known}
        acked_at[target] = now

    def _ask_helpers(self, target: Node, sequence: int, *, now: float) -> None:
        helpers = self.table.random_nodes(
            self.config.indirect_checks,
            lambda node: node is not target and node.status is _ALIVE,
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
        self._prober.expect_nacks(expected, silent=len(helpers) - expected)
        if (
            self.config.stream_pings
            and target.protocol_max >= _PROTOCOL_STREAM_PING
            and not (self._route_by_name and self._is_remote(target.name))
        ):
            self.streams.ping(
                JoinTarget(target.name, target.address),
                self._ping(target.name, sequence),
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

    def _take_broadcasts(self, budget: int) -> list[Broadcast]:
        """Rumours for one packet: ours first, then those of the layer above."""
        if self.held:
            return []
        chosen = self.rumours.take(budget, overhead=COMPOUND_OVERHEAD, member_count=len(self.table))
        budget -= sum(COMPOUND_OVERHEAD + len(broadcast.data) for broadcast in chosen)
        if budget > COMPOUND_OVERHEAD + _USER_OVERHEAD:
            chosen += self._upper.take_broadcasts(
                budget, overhead=COMPOUND_OVERHEAD + _USER_OVERHEAD
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
        if piggyback and self._tally.size and (node or not self._route_by_name):
            budget = self._envelope.budget - sum(map(len, messages))
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
        data = self._envelope.packet(parts, checksum=checksum)
        number = self._next_number()
        if sequence or broadcasts:
            self._remember_sent(number, sequence, broadcasts)
        self._count("packets_sent")
        self.outputs.append(SendPacket(number, node, address, data))

    def _remember_sent(self, number: int, sequence: int, broadcasts: list[Broadcast]) -> None:
        self._sent[number] = (sequence, broadcasts)
        if len(self._sent) > SENT_PACKETS_MAX:
            del self._sent[next(iter(self._sent))]

    def _next_sequence(self) -> int:
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        return self._sequence

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _count(self, name: str) -> None:
        self.counters[name] = self.counters.get(name, 0) + 1


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
