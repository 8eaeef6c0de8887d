"""A gossip pool of a simulation: every member runs the production core, `isthmus.gossip.serf`.

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
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Final, TypeAlias

from isthmus.gossip.config import GossipConfig
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
from isthmus.gossip.serf import MergeCheck, Serf, SerfEvent, SerfOutput
from isthmus.gossip.snapshot import Snapshot
from isthmus.gossip.streams import JoinTarget
from isthmus.names import host_port, split_host_port
from isthmus.sim.network import Link, Machine
from isthmus.sim.parcel import Parcel, ParcelCodec
from isthmus.sim.world import Actor, Event, Message, Process, ProcessState, World
from isthmus.wire import memberlist as wire

PEER_PORT: Final = 40_000
"""Port that accepted streams seem to come from."""
CONNECT_SIZE: Final = 0
"""Bytes that opening a connection counts as."""
PINGED_BY_MAX: Final = 8
"""Pings under way to a member from which on those that arrived are sorted out."""
_ACK: Final = int(wire.MessageType.ACK)
_PING: Final = int(wire.MessageType.PING)
_REFUSED: Final = "connection refused"
_RESET: Final = "connection reset by peer"
_RUNNING: Final = ProcessState.RUNNING
_NO_WAY: Final = "no way to that member"
_NEVER: Final = math.inf

_Answer: TypeAlias = tuple[float, int]
"""How the ack of a ping travels, drawn when the ping was sent: its seconds (below 0: it is lost),
and the state of the network's rules for which that holds."""
Path: TypeAlias = Sequence[Machine]
Route: TypeAlias = Callable[["Member", "Member"], Path | None]
"""The machines from one member to another, both ends included; None: there is no way now."""


_Drawn: TypeAlias = tuple[Path, Path, float, _Answer]
"""The way of a ping and that of its ack, the ping's seconds, and how the ack travels."""


class Packet(Message):
    """A gossip packet.

    Attributes:
        source: Who sent it.
        id: Its number there.
        parcel: What it says.
        path: The way it took.
        answer: If it is a ping: how its ack will travel.
    """

    __slots__ = ("answer", "id", "parcel", "path", "source")

    def __init__(
        self, source: "Member", number: int, parcel: Parcel, path: Path, answer: _Answer | None
    ) -> None:
        super().__init__(parcel.size, reliable=len(path) > 2)
        self.source, self.id, self.parcel, self.path = source, number, parcel, path
        self.answer = answer


class _PacketLost(Message):
    """Back at the source: packet `id` found nobody; `refused`: so said the target's own host."""

    __slots__ = ("address", "id", "refused")

    def __init__(self, number: int, address: Address, *, refused: bool) -> None:
        super().__init__(0, reliable=True)
        self.id, self.address, self.refused = number, address, refused


class _Connection:
    """A stream between two members.

    Attributes:
        ends: The members, the dialler first.
        numbers: The stream's number at each; 0: not accepted.
        paths: The ways to the other end.
    """

    __slots__ = ("answered", "ends", "numbers", "paths")

    def __init__(self, dialler: "Member", target: "Member", number: int, path: Path) -> None:
        self.ends = (dialler, target)
        self.numbers = [number, 0]
        self.paths = (path, tuple(reversed(path)))
        self.answered = False


class _Connect(Event):
    """A connection request reaches the machine of its target."""

    __slots__ = ("connection", "parcel")

    def __init__(self, connection: _Connection, parcel: Parcel) -> None:
        super().__init__(CONNECT_SIZE, reliable=True)
        self.connection, self.parcel = connection, parcel

    def happen(self, *, now: float) -> None:
        """Accept or refuse, as the kernel does, whatever the process is busy with."""
        del now
        dialler, target = self.connection.ends
        if target.process.state is ProcessState.SILENT:
            return
        back = self.connection.paths[1]
        world = dialler.pool.world
        if target.process.alive:
            world.send(back, dialler, _Opened(self.connection, self.parcel))
        else:
            failed = _StreamEnded(self.connection, 0, _REFUSED, refused=len(back) == 2)
            world.send(back, dialler, failed)


class _Opened(Message):
    """Back at the dialler: the stream is connected."""

    __slots__ = ("connection", "parcel")

    def __init__(self, connection: _Connection, parcel: Parcel) -> None:
        super().__init__(CONNECT_SIZE, reliable=True)
        self.connection, self.parcel = connection, parcel


class _StreamData(Message):
    """What one end wrote; `end` is the receiving one, 0 for the dialler."""

    __slots__ = ("connection", "end", "parcel")

    def __init__(self, connection: _Connection, end: int, parcel: Parcel) -> None:
        super().__init__(parcel.size, reliable=True)
        self.connection, self.end, self.parcel = connection, end, parcel


class _StreamEnded(Message):
    """One end hears that a stream is over; an empty `text`: the other end closed it."""

    __slots__ = ("connection", "end", "refused", "text")

    def __init__(
        self, connection: _Connection, end: int, text: str, *, refused: bool = False
    ) -> None:
        super().__init__(0, reliable=True)
        self.connection, self.end, self.text, self.refused = connection, end, text, refused


class _RejoinAgain(Message):
    """A restarted member looks for its pool once more."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(0, reliable=True)


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
        self.packets_sent = self.packet_bytes_sent = self.stream_bytes_sent = 0
        self.streams_opened = 0
        self.joins: dict[int, JoinFinished] = {}
        """How joins ended, by number."""
        self.warnings = 0
        """How many warnings the core gave."""
        self._streams: dict[int, tuple[_Connection, int]] = {}
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
        self._answer: _Answer | None = None
        self._back: Path | None = None
        self._pinged_at = self._ack_at = _NEVER
        self._ack_number = self._ack_size = 0
        self._pinged_by: list[Member] = []
        self._drawn: _Drawn | None = None
        self._answering: tuple[Member, _Answer] | None = None
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
            self.pool.world.deliver(self.pool.world.now + interval, self, _RejoinAgain())
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
            lost = _PacketLost(message.id, self.address, refused=not message.reliable)
            self.pool.world.send(back, message.source, lost)
        elif isinstance(message, (_StreamData, _Opened)):
            end = message.end if isinstance(message, _StreamData) else 0
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
            case _PacketLost():
                if message.refused:
                    self.serf.receive_refusal(message.address, now=now)
                else:
                    self.serf.packet_failed(message.id, now=now)
            case _Opened():
                number = message.connection.numbers[0]
                if number in self._streams:
                    self._write(message.connection, 1, message.parcel)
                    self.serf.stream_opened(number, now=now)
            case _StreamData(connection=connection, end=end):
                self._receive_stream(connection, end, message.parcel, now=now)
            case _StreamEnded(connection=connection, end=end):
                number = connection.numbers[end]
                if self._streams.pop(number, None) is None:
                    return
                if message.text:
                    self.serf.stream_failed(number, message.text, refused=message.refused, now=now)
                else:
                    self.serf.receive_stream_eof(number, now=now)
            case _RejoinAgain():
                self._rejoin(0)
            case _:
                raise TypeError(f"{type(message).__name__} is nothing that a member receives")

    def _receive_stream(
        self, connection: _Connection, end: int, parcel: Parcel, *, now: float
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
                    _count_forwarded(path, parcel.size)
                    world.deliver(world.now + delay, target, message)
                return
        message = Packet(self, packet.id, parcel, path, None)
        if kind == _ACK and self._answering is not None and self._answering[0] is target:
            delay, rules = self._answering[1]
            self._answering = None
            if rules == world.network.rules:
                if delay >= 0:
                    _count_forwarded(path, parcel.size)
                    world.deliver(world.now + delay, target, message)
                return
        if world.send(path, target, message):
            _count_forwarded(path, parcel.size)

    def _open(self, request: OpenStream) -> None:
        pool = self.pool
        self.streams_opened += 1
        assert isinstance(request.data, Parcel)
        target = pool.find(request.node, request.address)
        path = pool.path(self, target) if target else None
        if target is None or path is None:
            connection = _Connection(self, self, request.id, (self.machine,))
            self._streams[request.id] = connection, 0
            pool.world.deliver(pool.world.now, self, _StreamEnded(connection, 0, _NO_WAY))
            return
        connection = _Connection(self, target, request.id, path)
        self._streams[request.id] = connection, 0
        pool.world.send(path, None, _Connect(connection, request.data))

    def _write(self, connection: _Connection, end: int, parcel: Parcel) -> None:
        """Send to the given end of a connection."""
        world, target = self.pool.world, connection.ends[end]
        path = connection.paths[1 - end]
        self.stream_bytes_sent += parcel.size
        world.note(self.number, target.number, parcel.size)
        if world.send(path, target, _StreamData(connection, end, parcel)):
            _count_forwarded(path, parcel.size)

    def _end_stream(self, connection: _Connection, end: int, text: str) -> None:
        """Tell the given end that the stream is over."""
        if connection.numbers[end]:
            ended = _StreamEnded(connection, end, text)
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
        if back is None or not (network.plain(path) and network.plain(back)):
            return None
        delay = network.travel(path)
        return path, back, delay, (network.travel(back), network.rules)

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
            _count_forwarded(path, bytes_sent)
        if world.trace:
            world.note(self.number, target.number, bytes_sent)
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
            _count_forwarded(self._back, self._ack_size)
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
            ack = wire.encode_message(wire.Ack(seq_no=self._ack_number))
            parcel = self.pool.codec.packet([ack], checksum=False)
            path = self.pool.path(target, self) or (target.machine, self.machine)
            self.pool.world.deliver(at, self, Packet(target, 0, parcel, path, None))
        self.pool.world.arm(self)


class Pool:
    """A gossip pool.

    Args:
        world: Where it lives.
        config: Times and limits of every member.
        route: How its members reach each other by their names (a WAN pool); None: everyone reaches
            everyone directly, by address (a LAN pool).
        port: Of every member.
        keys: Encryption keys; their cost in bytes counts, nothing is encrypted.
        merge_check: The pool's rule about who may be in it.
        on_event: Called with a member and what its core tells the layer above.
        on_join: Called with a member and how a join of its ended.
        idle_probes: Whether idle probes are spared the heap; see the module. Not with network
            coordinates, which every ack carries.
    """

    def __init__(
        self,
        world: World,
        *,
        config: GossipConfig,
        route: Route | None = None,
        port: int = 8301,
        keys: tuple[bytes, ...] = (),
        merge_check: MergeCheck | None = None,
        on_event: Callable[["Member", SerfEvent], None] | None = None,
        on_join: Callable[["Member", JoinFinished], None] | None = None,
        idle_probes: bool = True,
    ) -> None:
        self.world, self.config, self.route, self.port = world, config, route, port
        self.keys, self.merge_check, self.on_event = keys, merge_check, on_event
        self.on_join = on_join
        self.idle_probes = idle_probes
        self.codec = ParcelCodec(config, encrypted=bool(keys))
        self.ack_size = len(wire.encode_message(wire.Ack())) - 1 + self.codec.overhead
        """Bytes of a plain ack without its number."""
        self.members: dict[str, Member] = {}
        """By name: the one that runs, or ran last."""
        self.by_address: dict[Address, Member] = {}
        self.direct: Link | None = None
        """The link between any two members, if it is the same for all and has no memory."""
        self.direct_rules = -1
        """State of the network's rules for which that holds."""

    def add(
        self,
        name: str,
        process: Process,
        *,
        tags: Mapping[str, str] | None = None,
        snapshot: Snapshot | None = None,
    ) -> Member:
        """Start a member that knows nobody; of a known name: anew, in its place.

        Args:
            name: In the pool.
            process: Where it runs; several pools may have a member in one process.
            tags: What it tells about itself.
            snapshot: What an earlier process left on the disk: it finds back by itself.
        """
        member = Member(self, process, name, len(self.members), tags or {})
        self.members[name] = self.by_address[member.address] = member
        self.direct_rules = -1
        if snapshot is not None:
            member.resume(snapshot)
        member.touched()
        return member

    def converge(self) -> None:
        """Let all members know each other, as if they had been together for long."""
        members = list(self.members.values())
        first = members[0]
        now = first.clock()
        for member in members[1:]:
            me = member.serf.memberlist.table.me
            alive = wire.Alive(
                incarnation=me.incarnation,
                node=me.name,
                addr=me.addr,
                port=me.port,
                meta=me.meta,
                vsn=me.vsn,
            )
            parcel = self.codec.packet([wire.encode_message(alive)], checksum=False)
            first.serf.receive_packet(parcel, source=None, now=now)
        for member in members:
            member.serf.copy_from(first.serf, now=member.clock())
            member.touched()

    def find(self, name: str, address: Address) -> Member | None:
        """Whom a packet or stream for `name` at `address` reaches."""
        return self.by_address.get(address) if self.route is None else self.members.get(name)

    def find_direct(self) -> None:
        """Find `direct` anew."""
        network = self.world.network
        self.direct_rules, self.direct = network.rules, None
        groups = {member.machine.group for member in self.members.values()}
        if self.route is None and len(groups) == 1:
            self.direct = network.uniform(groups.pop())

    def path(self, source: Member, target: Member) -> Path | None:
        """The machines from one member to another; None: there is no way now."""
        if self.route is None:
            return source.machine, target.machine
        return self.route(source, target)

    def is_remote(self, group: str, name: str) -> bool:
        """Whether a member of that name is in another group than `group`."""
        known = self.members.get(name)
        return self.route is not None and known is not None and known.machine.group != group

    def tell(self, member: Member, event: SerfEvent) -> None:
        """Pass on what a core tells the layer above."""
        if self.on_event is not None:
            self.on_event(member, event)


_BLANK_PING_SIZE: Final = len(wire.encode_message(wire.Ping()))


def _count_forwarded(path: Path, size: int) -> None:
    for machine in path[1:-1]:
        machine.bytes_forwarded += size
