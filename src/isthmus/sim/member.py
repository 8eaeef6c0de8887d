"""A member of a simulated gossip pool: the production core, `isthmus.gossip.serf`, as an actor.

**Idle probes.** Most probes are pings to a member that is well, answered by an ack, with no rumour
on either. Such a probe is not put on the heap as two arrivals; it is noted at both ends, and the
ack is handed over when its member is next looked at. The outcome is the same as with two arrivals:

- The ways of the ping and of its ack are drawn when the ping is sent, in both cases, so chance goes
  the same way; nothing is noted that gets lost, or that is answered after the probe's timeout.
- The target's answer depends on nothing but whether it runs, and its rumours. Should it get rumours
  before the ping arrives, and whenever the world changes (a cut, a pause, a crash), the ping goes
  on the heap after all, with the ways it had drawn (`Member.settle`).
- The sender sees the ack before anything that happens to it later, and nothing that happens to it
  earlier sees the ack.

`tests/unit/sim/test_pool.py` compares the traces of runs with and without it.
"""

import math
from collections.abc import Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Final, TypeAlias

from isthmus.gossip.coordinate import PoolCoordinates
from isthmus.gossip.keyring import Keyring
from isthmus.gossip.keys import StoreKeyring
from isthmus.gossip.members import Node
from isthmus.gossip.outputs import (
    Address,
    CloseStream,
    JoinFinished,
    OpenStream,
    SendPacket,
    SendStream,
    Warned,
)
from isthmus.gossip.roster import MemberStatus
from isthmus.gossip.serf import Serf, SerfOutput
from isthmus.gossip.snapshot import Snapshot
from isthmus.gossip.streams import JoinTarget
from isthmus.names import host_port, split_host_port
from isthmus.sim.parcel import Parcel
from isthmus.sim.traffic import (
    Answer,
    Connect,
    Connection,
    Opened,
    Packet,
    PacketLost,
    Path,
    RejoinAgain,
    StreamData,
    StreamEnded,
    count_forwarded,
)
from isthmus.sim.world import Actor, Message, Process, ProcessState
from isthmus.wire import memberlist as wire

if TYPE_CHECKING:
    from isthmus.sim.pool import Pool

PEER_PORT: Final = 40_000
"""Port that accepted streams seem to come from."""
PINGED_BY_MAX: Final = 8
"""Pings under way to a member from which on those that arrived are sorted out."""
_ACK: Final = int(wire.MessageType.ACK)
_PING: Final = int(wire.MessageType.PING)
_BLANK_PING_SIZE: Final = len(wire.encode_message(wire.Ping()))
_RUNNING: Final = ProcessState.RUNNING
_RESET: Final = "connection reset by peer"
_NO_WAY: Final = "no way to that member"
_NEVER: Final = math.inf

_Drawn: TypeAlias = tuple[Path, Path, float, Answer]
"""The way of a ping and that of its ack, the ping's seconds, and how the ack travels."""


class _StillCoordinates(PoolCoordinates):
    """Every ack carries the same bytes, and none is looked at.

    Args:
        name: Our member name.
        payload: What acks carry.
    """

    def __init__(self, name: str, payload: bytes) -> None:
        super().__init__(name, enabled=False, rng=Random(name))
        self._always = payload

    def ack_payload(self) -> bytes:
        """See `PoolCoordinates`."""
        return self._always


class Member(Actor):
    """A member of a pool. Made by `Pool.add`.

    Attributes:
        pool: The pool.
        name: In the pool.
        number: From 0, in the order of their making.
        machine: Where it runs.
        address: Where the others reach it.
        serf: The production core. After calling it, call `touched`.
        packets_sent: Packets.
        packet_bytes_sent: Bytes in them, before compression and without UDP's and IP's headers.
        stream_bytes_sent: Bytes in streams.
        streams_opened: Streams that it opened.
    """

    __slots__ = (
        "_ack_at",
        "_ack_number",
        "_ack_size",
        "_answer",
        "_answering",
        "_back",
        "_drawn",
        "_known_before",
        "_pinged_at",
        "_pinged_by",
        "_rejoining",
        "_streams",
        "_target",
        "address",
        "joins",
        "machine",
        "name",
        "name_size",
        "number",
        "packet_bytes_sent",
        "packets_sent",
        "ping_size",
        "pool",
        "serf",
        "stream_bytes_sent",
        "streams_opened",
        "warnings",
    )

    def __init__(
        self, pool: "Pool", process: Process, name: str, number: int, tags: Mapping[str, str]
    ) -> None:
        super().__init__(process)
        self.pool, self.name, self.number = pool, name, number
        self.machine = process.machine
        self.address: Address = (self.machine.address, pool.port)
        world = pool.world
        own_group = self.machine.group
        self.serf = Serf(
            name=name,
            address=self.address,
            tags=tags,
            config=pool.config,
            keyring=Keyring(pool.keys),
            merge_check=pool.merge_check,
            rng=Random(world.rng.getrandbits(64)),
            entropy=bytes,
            now=process.clock(world.now),
            route_by_name=pool.route is not None,
            is_remote=lambda other: pool.is_remote(own_group, other),
            codec=pool.codec,
        )
        if pool.ack_payload:
            self.serf.coordinates = _StillCoordinates(name, pool.ack_payload)
        self.packets_sent = self.packet_bytes_sent = self.stream_bytes_sent = 0
        self.streams_opened = 0
        self.joins: dict[int, JoinFinished] = {}
        """How joins ended, by number."""
        self.warnings = 0
        """How many warnings the core gave."""
        self._streams: dict[int, tuple[Connection, int]] = {}
        """Open streams by number, and which end of them we are."""
        me = self.serf.memberlist.table.me
        blank = wire.Ping(source_addr=me.addr, source_port=me.port, source_node=name)
        self.ping_size = pool.codec.overhead + len(wire.encode_message(blank)) - 2
        """Bytes of a ping without its number and the name of whom it is for."""
        self.name_size = len(wire.encode_message(wire.Ping(node=name))) - _BLANK_PING_SIZE + 1
        """Bytes of our name in a ping."""
        self._known_before: list[str] = []
        self._rejoining = (0, 0)
        """Number of the join through a member known before, and which one that is."""
        # The idle probe under way: see the module.
        self._target: Member | None = None
        self._answer: Answer | None = None
        self._back: Path | None = None
        self._pinged_at = self._ack_at = _NEVER
        self._ack_number = self._ack_size = 0
        self._pinged_by: list[Member] = []
        self._drawn: _Drawn | None = None
        self._answering: tuple[Member, Answer] | None = None
        if pool.idle_probes and not pool.config.coordinates:
            self.serf.memberlist.carry_ping = self._carry_ping

    # --- Our side -------------------------------------------------------------------------------

    def clock(self) -> float:
        """What its clock shows now: the `now` of its core."""
        return self.process.clock(self.pool.world.now)

    def join(self, *targets: "Member", ignore_old: bool = True) -> int:
        """Join the pool through others; how it ended will stand in `joins` under this number."""
        places = [JoinTarget(target.name, target.address) for target in targets]
        number = self.serf.join(places, ignore_old=ignore_old, now=self.clock())
        self.touched()
        return number

    def leave(self) -> None:
        """Leave the pool; LeaveFinished follows."""
        self.serf.leave(now=self.clock())
        self.touched()

    def snapshot(self) -> Snapshot:
        """What its snapshot file says now; hand it to `Pool.add` when it is restarted."""
        serf = self.serf
        alive = [known for known in serf.members() if known.status is MemberStatus.ALIVE]
        return Snapshot(
            alive={known.name: host_port(known.address, known.port) for known in alive},
            clock=serf.clock.time - 1,
            event_clock=serf.event_clock.time - 1,
            query_clock=serf.query_clock.time - 1,
        )

    def resume(self, snapshot: Snapshot) -> None:
        """Go on after an earlier process of the same member, and find back into the pool."""
        self.serf.resume(
            clock=snapshot.clock,
            event_clock=snapshot.event_clock,
            query_clock=snapshot.query_clock,
        )
        self._known_before = snapshot.join_addresses(self.name, self.pool.world.rng)
        self._rejoin(0)

    def _rejoin(self, place: int) -> None:
        """Try the members known before from one on, one after the other, until one answers."""
        if not self._known_before or self.serf.memberlist.has_live_peers():
            return
        if place >= len(self._known_before):
            interval = self.pool.config.reconnect_interval
            self.pool.world.deliver(self.pool.world.now + interval, self, RejoinAgain())
            return
        name, _, where = self._known_before[place].rpartition("/")
        target = JoinTarget(name, split_host_port(where))
        self._rejoining = self.serf.join([target], ignore_old=False, now=self.clock()), place
        self.touched()

    def touched(self) -> None:
        """Carry out what the core wants, after something was done with it from outside."""
        self._flush()
        self.pool.world.arm(self)

    def status(self, name: str) -> MemberStatus:
        """What it thinks of another member; NONE when it does not know it."""
        known = self.serf.member(name)
        return MemberStatus.NONE if known is None else known.status

    # --- World ----------------------------------------------------------------------------------

    def next_timer(self) -> float:
        """Moment at which `handle_timer` is due, in the world's time."""
        due = self.serf.next_timer(answered=self._target is not None)
        process = self.process
        return due if process.punctual else process.moment(due)

    def handle_timer(self, *, now: float) -> None:
        """Do what is due."""
        if self._ack_at <= now:
            self._take_ack()
        process = self.process
        serf = self.serf
        serf.handle_timer(now=now if process.punctual else process.clock(now))
        outputs = serf.take_outputs()
        if outputs:
            self._flush(outputs)
        elif self._pinged_by and serf.tally.size:
            self._forewarn()

    def receive(self, message: Message, *, now: float) -> None:
        """Hand what arrives to the core."""
        if self._ack_at <= now:
            self._take_ack()
        local = self.process.clock(now)
        if isinstance(message, Packet):
            self._receive_packet(message, now=local)
        else:
            self._receive_other(message, now=local)
        self._flush()
        self._answering = None

    def lost(self, message: Message, *, now: float) -> None:
        """Something reaches us though we are dead; our machine says so."""
        del now
        if isinstance(message, Packet):
            back = tuple(reversed(message.path))
            lost = PacketLost(message.id, self.address, refused=not message.reliable)
            self.pool.world.send(back, message.source, lost)
        elif isinstance(message, (StreamData, Opened)):
            end = message.end if isinstance(message, StreamData) else 0
            self._end_stream(message.connection, 1 - end, _RESET)

    def died(self) -> None:
        """Our process is killed: its machine resets all connections."""
        for connection, end in self._streams.values():
            self._end_stream(connection, 1 - end, _RESET)
        self._streams.clear()

    # --- Receiving ------------------------------------------------------------------------------

    def _receive_packet(self, packet: Packet, *, now: float) -> None:
        source = None if self.pool.route is not None else packet.source.address
        if packet.answer is not None:
            self._answering = packet.source, packet.answer
        self.serf.receive_packet(packet.parcel, source=source, now=now)

    def _receive_other(self, message: Message, *, now: float) -> None:
        match message:
            case PacketLost():
                if message.refused:
                    self.serf.receive_refusal(message.address, now=now)
                else:
                    self.serf.packet_failed(message.id, now=now)
            case Opened():
                number = message.connection.numbers[0]
                if number in self._streams:
                    self._write(message.connection, 1, message.parcel)
                    self.serf.stream_opened(number, now=now)
            case StreamData(connection=connection, end=end):
                self._receive_stream(connection, end, message.parcel, now=now)
            case StreamEnded(connection=connection, end=end):
                number = connection.numbers[end]
                if self._streams.pop(number, None) is None:
                    return
                if message.text:
                    self.serf.stream_failed(number, message.text, refused=message.refused, now=now)
                else:
                    self.serf.receive_stream_eof(number, now=now)
            case RejoinAgain():
                self._rejoin(0)
            case _:
                raise TypeError(f"{type(message).__name__} is nothing that a member receives")

    def _receive_stream(
        self, connection: Connection, end: int, parcel: Parcel, *, now: float
    ) -> None:
        if end and not connection.numbers[end]:
            peer = connection.ends[0].machine.address, PEER_PORT
            accepted = self.serf.accept_stream(peer=peer, now=now)
            if accepted is None:
                self._end_stream(connection, 0, "")
                return
            connection.numbers[end] = accepted
            self._streams[accepted] = connection, end
        self.serf.receive_stream_data(connection.numbers[end], parcel, now=now)

    # --- Sending --------------------------------------------------------------------------------

    def _flush(self, outputs: Sequence[SerfOutput] = ()) -> None:
        """Carry out `outputs` and what the core wants; then mind who pings us."""
        outputs = outputs or self.serf.take_outputs()
        while outputs:
            for output in outputs:
                if type(output) is SendPacket:
                    self._send(output)
                else:
                    self._carry_out(output)
            outputs = self.serf.take_outputs()
        if self._pinged_by and self.serf.tally.size:
            self._forewarn()

    def _carry_out(self, output: SerfOutput) -> None:
        match output:
            case OpenStream():
                self._open(output)
            case SendStream(number, data):
                found = self._streams.get(number)
                if found is not None:
                    connection, end = found
                    connection.answered |= end == 1
                    assert isinstance(data, Parcel)
                    self._write(connection, 1 - end, data)
            case CloseStream(number):
                found = self._streams.pop(number, None)
                # Who was answered closes by itself.
                if found is not None and not found[0].answered:
                    self._end_stream(found[0], 1 - found[1], "")
            case JoinFinished():
                self.joins[output.id] = output
                number, place = self._rejoining
                if output.id == number and not output.contacted:
                    self._rejoin(place + 1)
                if self.pool.on_join is not None:
                    self.pool.on_join(self, output)
            case Warned():
                self.warnings += 1
            case SendPacket() | StoreKeyring():
                pass  # Sent above; a simulated member has no disk for keys.
            case _:
                self.pool.tell(self, output)

    def _send(self, packet: SendPacket) -> None:
        pool, world = self.pool, self.pool.world
        parcel = packet.data
        assert isinstance(parcel, Parcel)
        target = pool.find(packet.node, packet.address)
        drawn, self._drawn = self._drawn, None
        path = drawn[0] if drawn else pool.path(self, target) if target else None
        if target is None or path is None:
            if pool.route is not None:
                self.serf.packet_failed(packet.id, now=self.clock())
            return
        self.packets_sent += 1
        self.packet_bytes_sent += parcel.size
        world.note(self.number, target.number, parcel.size)
        kind = parcel.messages[0][0]
        if kind == _PING:
            if drawn is None:
                drawn = self._draw(target, path)
            if drawn is not None:
                _, _, delay, answer = drawn
                message = Packet(self, packet.id, parcel, path, answer)
                if delay >= 0:
                    count_forwarded(path, parcel.size)
                    world.deliver(world.now + delay, target, message)
                return
        message = Packet(self, packet.id, parcel, path, None)
        if kind == _ACK and self._answering is not None and self._answering[0] is target:
            delay, rules = self._answering[1]
            self._answering = None
            if rules == world.network.rules:
                if delay >= 0:
                    count_forwarded(path, parcel.size)
                    world.deliver(world.now + delay, target, message)
                return
        if world.send(path, target, message):
            count_forwarded(path, parcel.size)

    def _open(self, request: OpenStream) -> None:
        pool = self.pool
        self.streams_opened += 1
        assert isinstance(request.data, Parcel)
        target = pool.find(request.node, request.address)
        path = pool.path(self, target) if target else None
        if target is None or path is None:
            connection = Connection(self, self, request.id, (self.machine,))
            self._streams[request.id] = connection, 0
            pool.world.deliver(pool.world.now, self, StreamEnded(connection, 0, _NO_WAY))
            return
        connection = Connection(self, target, request.id, path)
        self._streams[request.id] = connection, 0
        pool.world.send(path, None, Connect(connection, request.data))

    def _write(self, connection: Connection, end: int, parcel: Parcel) -> None:
        """Send to the given end of a connection."""
        world, target = self.pool.world, connection.ends[end]
        path = connection.paths[1 - end]
        self.stream_bytes_sent += parcel.size
        world.note(self.number, target.number, parcel.size)
        if world.send(path, target, StreamData(connection, end, parcel)):
            count_forwarded(path, parcel.size)

    def _end_stream(self, connection: Connection, end: int, text: str) -> None:
        """Tell the given end that the stream is over."""
        if connection.numbers[end]:
            ended = StreamEnded(connection, end, text)
            self.pool.world.send(connection.paths[1 - end], connection.ends[end], ended)

    # --- Idle probes ----------------------------------------------------------------------------

    def _draw(self, target: "Member", path: Path) -> _Drawn | None:
        """Draw how a ping and its ack travel, before it is sent.

        None: the links of the way have a memory, so nothing can be said beforehand.
        """
        network = self.pool.world.network
        if len(path) == 2:
            here, there = path
            forward, backward = network.link(here, there), network.link(there, here)
            if not (forward.plain and backward.plain):
                return None
            delay = forward.latency(network.chance())
            return path, (there, here), delay, (backward.latency(network.chance()), network.rules)
        back = self.pool.path(target, self)
        if back is None:
            return None
        links, links_back = network.plain_links(path), network.plain_links(back)
        if links is None or links_back is None:
            return None
        delay = network.travel(links)
        return path, back, delay, (network.travel(links_back), network.rules)

    def _carry_ping(self, node: Node, sequence: int) -> bool:
        """Note a ping to a member that is well, if it is sure to be answered in time."""
        pool = self.pool
        target = pool.members.get(node.name)
        if target is None or target.address != node.address:
            return False
        world = pool.world
        network = world.network
        if pool.direct_rules != network.rules:
            pool.find_direct()
        path: Path | None
        backward: Path | None
        if pool.direct is not None:  # The same as below, for most.
            path = backward = None
            delay, back = pool.direct.round_trip()
            answer = back, network.rules
        else:
            path = pool.path(self, target)
            drawn = None if path is None else self._draw(target, path)
            if drawn is None:
                return False
            path, backward, delay, answer = drawn
            back = answer[0]
        now = world.now
        pinged_at = now + delay
        ack_at = pinged_at + back
        if (
            delay < 0
            or back < 0
            or (ack_at - now) * self.process.rate >= pool.config.probe_timeout
            or target.serf.tally.size
            or target.process.state is not _RUNNING
        ):
            here, there = self.machine, target.machine
            self._drawn = path or (here, there), backward or (there, here), delay, answer
            return False
        size = 1 if sequence < 0x80 else 2 if sequence < 0x100 else 3 if sequence < 0x10000 else 5
        bytes_sent = self.ping_size + target.name_size + size
        self.packets_sent += 1
        self.packet_bytes_sent += bytes_sent
        if path is not None:
            count_forwarded(path, bytes_sent)
        if world.trace:
            world.note_at(now, self.number, target.number, bytes_sent)
        self._target, self._answer, self._back = target, answer, backward
        self._pinged_at, self._ack_at = pinged_at, ack_at
        self._ack_number, self._ack_size = sequence, pool.ack_size + size
        pinged_by = target._pinged_by
        if len(pinged_by) > PINGED_BY_MAX:
            target._forget_pings()
        pinged_by.append(self)
        return True

    def _forget_pings(self) -> None:
        """Keep only the pings that have not arrived."""
        now = self.pool.world.now
        waiting = [m for m in self._pinged_by if m._target is self and m._pinged_at > now]
        self._pinged_by[:] = waiting

    def _take_ack(self) -> None:
        """The ack of the idle probe has arrived."""
        at, self._ack_at = self._ack_at, _NEVER
        self._note_answered()
        process = self.process
        local = at if process.punctual else process.clock(at)
        self.serf.memberlist.receive_carried_ack(self._ack_number, now=local)

    def _note_answered(self) -> None:
        """The target of the idle probe has sent its ack."""
        target, self._target = self._target, None
        assert target is not None
        target.packets_sent += 1
        target.packet_bytes_sent += self._ack_size
        if self._back is not None:
            count_forwarded(self._back, self._ack_size)
        world = self.pool.world
        if world.trace:
            world.note_at(self._pinged_at, target.number, self.number, self._ack_size)

    def _forewarn(self) -> None:
        """Our answers are going to be others than those who ping us rely on."""
        now = self.pool.world.now
        for member in self._pinged_by:
            if member._target is self and member._pinged_at > now:
                member._recall()
        self._pinged_by.clear()

    def _recall(self) -> None:
        """Send the ping of the idle probe after all: on the heap, with the ways it had drawn."""
        target, self._target = self._target, None
        answer, self._answer = self._answer, None
        self._ack_at = _NEVER
        assert target is not None
        assert answer is not None
        packet = self.serf.memberlist.recall_ping(target.name, self._ack_number)
        assert isinstance(packet.data, Parcel)
        path = self.pool.path(self, target) or (self.machine, target.machine)
        message = Packet(self, packet.id, packet.data, path, answer)
        self.pool.world.deliver(self._pinged_at, target, message)
        self.pool.world.arm(self)

    def settle(self, *, now: float) -> None:
        """Rely on nothing after `now`: what is under way goes on the heap."""
        if self._target is None:
            return
        if self._ack_at <= now:
            self._take_ack()
        elif self._pinged_at > now:
            self._recall()
        else:
            target, at = self._target, self._ack_at
            self._ack_at = _NEVER
            self._note_answered()
            payload = self.pool.ack_payload
            ack = wire.encode_message(wire.Ack(seq_no=self._ack_number, payload=payload))
            parcel = self.pool.codec.packet([ack], checksum=False)
            path = self.pool.path(target, self) or (target.machine, self.machine)
            self.pool.world.deliver(at, self, Packet(target, 0, parcel, path, None))
        self.pool.world.arm(self)
