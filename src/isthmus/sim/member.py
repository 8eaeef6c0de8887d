"""A gossip member of a simulation: one production `Serf` core, its packets, streams and time.

Inside a datacenter packets and streams go from machine to machine. To other datacenters they go
as `net.wan.GossipCarrier` sends them: one connection per name through gateways, kept; a stream of
its own for each exchange.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Final, Protocol

from isthmus.errors import InvalidNodeName
from isthmus.federation.route import ViaGateway, way_to_member
from isthmus.gossip.config import GossipConfig
from isthmus.gossip.keyring import Keyring
from isthmus.gossip.outputs import (
    Address,
    CloseStream,
    OpenStream,
    SendPacket,
    SendStream,
)
from isthmus.gossip.serf import MergeCheck, Serf, SerfOutput
from isthmus.gossip.streams import JoinTarget
from isthmus.names import split_wan_name
from isthmus.net.wan import CarrierConfig
from isthmus.sim.gateways import Connection
from isthmus.sim.network import Machine
from isthmus.sim.ways import NoWay, Way
from isthmus.sim.world import Actor, Message, Process, ProcessState, World

CARRIER: Final = CarrierConfig()
RESENT_MAX: Final = 8
"""Packets of one connection that are remembered for sending again, as net/wan does."""
STREAM_TRIPS: Final = 1.0
"""Round trips of a plain TCP connection until its data arrive."""
_HEADER_SIZE: Final = 28
_FRAME_SIZE: Final = 4 + 29 + 40
"""Length prefix, TLS record, TCP and IP around a packet on a connection."""


class WanTransport(Protocol):
    """Ways to members of other datacenters."""

    def dial(self, dc: str, node: str) -> Way | NoWay:
        """Look for a way now, over the gateways that the locator offers."""

    def connect(self, way: Way, lost: Callable[[], None]) -> Connection | None:
        """Open a connection on a way; None: what leads there is gone meanwhile."""

    def alarm(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something later, by the process' clock."""

    def member_on(self, machine: Machine) -> "GossipMember | None":
        """The WAN member of the server on a machine."""


class _Packet(Message):
    __slots__ = ("data", "source")

    def __init__(self, data: bytes, source: Address | None, *, size: int, reliable: bool) -> None:
        super().__init__(size, reliable=reliable)
        self.data, self.source = data, source


@dataclass(eq=False, slots=True)
class _Stream:
    """A stream between two members; the dialler's end first."""

    dialler: "GossipMember"
    number: int
    acceptor: "GossipMember | None" = None
    accepted: int = 0
    connection: Connection | None = None
    path: tuple[Machine, ...] = ()
    arrival: dict[bool, float] = field(default_factory=dict)
    """When the last bytes of a direction arrive (to the acceptor: True): later ones come later."""


class _StreamData(Message):
    """Bytes of a stream, or its end; the first ones open it at the acceptor."""

    __slots__ = ("data", "opens", "stream", "to_acceptor")

    def __init__(
        self, stream: _Stream, data: bytes | None, *, to_acceptor: bool, opens: bool = False
    ) -> None:
        super().__init__(len(data or b"") + _FRAME_SIZE, reliable=True)
        self.stream, self.data, self.to_acceptor, self.opens = stream, data, to_acceptor, opens


@dataclass(eq=False, slots=True)
class _Link:
    """The packet connection to one node of another datacenter.

    Attributes:
        connection: None while it is being dialled.
        waiting: Packets for the end of the dial.
        recent: Packets that a breaking connection may have taken along, and when they were sent.
    """

    node: str
    connection: Connection | None = None
    waiting: list[SendPacket] = field(default_factory=list)
    recent: list[tuple[float, SendPacket]] = field(default_factory=list)
    made_at: float = 0.0
    used_at: float = 0.0


class GossipMember(Actor):
    """One member of a pool.

    Args:
        world: Time and network.
        process: Where it runs.
        name: Unique in the pool; in the WAN pool ``node.dc``.
        port: Of its packets and streams.
        tags: What it tells about itself.
        config: Times and limits.
        seed: Of its chance.
        peers: Members by machine name: whom a packet inside the datacenter reaches.
        on_event: Takes the core's events.
        merge_check: The pool's rule.
        own_dc: For the WAN pool: our datacenter.
        transport: For the WAN pool: ways to other datacenters.
    """

    def __init__(
        self,
        world: World,
        process: Process,
        *,
        name: str,
        port: int,
        tags: Mapping[str, str],
        config: GossipConfig,
        seed: int,
        peers: dict[str, "GossipMember"],
        on_event: Callable[[object], None],
        merge_check: MergeCheck | None = None,
        own_dc: str = "",
        transport: WanTransport | None = None,
    ) -> None:
        super().__init__(process)
        self._world, self._peers, self._on_event = world, peers, on_event
        self._own_dc, self._transport = own_dc, transport
        self._links: dict[str, _Link] = {}
        self._streams: dict[int, _Stream] = {}
        self.sent_size = 0
        self.packet_count = 0
        rng = Random(seed)
        self.serf = Serf(
            name=name,
            address=(process.machine.address, port),
            tags=tags,
            config=config,
            keyring=Keyring(),
            merge_check=merge_check,
            rng=rng,
            entropy=rng.randbytes,
            now=self._now,
            route_by_name=transport is not None,
            is_remote=self._is_remote,
        )
        peers[process.machine.name] = self

    @property
    def probe_count(self) -> int:
        """Probes that were answered."""
        return len(self.serf.memberlist.acked_at)

    @property
    def _now(self) -> float:
        return self.process.clock(self._world.now)

    def start(self) -> None:
        """Begin to gossip."""
        self._flush()
        self._world.arm(self)

    def join(self, targets: Sequence[JoinTarget]) -> int:
        """Join; `JoinFinished` with this number follows."""
        number = self.serf.join(targets, ignore_old=True, now=self._now)
        self._flush()
        self._world.arm(self)
        return number

    def join_machines(self, machines: Sequence[Machine], port: int) -> int:
        """Join through whoever listens there."""
        return self.join([JoinTarget("", (machine.address, port)) for machine in machines])

    @staticmethod
    def acquaint(members: Sequence["GossipMember"]) -> None:
        """Let all of them know all others, as if they had been together for long."""
        states = [member.serf.memberlist.table.me.record() for member in members]
        for member in members:
            memberlist, now = member.serf.memberlist, member._now
            for state in states:
                memberlist.table.receive_state(state, now=now)
            memberlist.rumours.prune(0)
            member.serf.handle_timer(now=now)
            member.serf.take_outputs()

    def leave(self) -> None:
        """Leave the pool."""
        self.serf.leave(now=self._now)
        self._flush()
        self._world.arm(self)

    def release(self) -> None:
        """Take up what `hold` stopped."""
        self.serf.release(now=self._now)
        self._flush()
        self._world.arm(self)

    def stop(self) -> None:
        """The process died: its connections close."""
        for link in self._links.values():
            if link.connection is not None:
                link.connection.close()
        self._links.clear()
        for number in list(self._streams):
            self._end_stream(number, tell=True)

    # Actor ----------------------------------------------------------------------------------------

    def receive(self, message: Message, *, now: float) -> None:
        """See `Actor.receive`."""
        match message:
            case _Packet():
                self.serf.receive_packet(message.data, source=message.source, now=self._now)
            case _StreamData():
                self._receive_stream(message)
            case _:
                raise AssertionError(message)
        self._flush()

    def handle_timer(self, *, now: float) -> None:
        """See `Actor.handle_timer`."""
        self.serf.handle_timer(now=self._now)
        self._flush()

    def next_timer(self) -> float:
        """See `Actor.next_timer`."""
        return self.process.moment(self.serf.next_timer())

    def _flush(self) -> None:
        while outputs := self.serf.take_outputs():
            for output in outputs:
                self._carry_out(output)

    def _carry_out(self, output: SerfOutput) -> None:
        match output:
            case SendPacket():
                self._send(output)
            case OpenStream():
                self._open(output)
            case SendStream(number, data):
                self._write(number, data)
            case CloseStream(number):
                self._end_stream(number, tell=True)
            case _:
                self._on_event(output)

    def _is_remote(self, name: str) -> bool:
        try:
            way = way_to_member(name, own_dc=self._own_dc, gateways=self._transport is not None)
        except InvalidNodeName:
            return False
        return isinstance(way, ViaGateway)

    # Packets --------------------------------------------------------------------------------------

    def _send(self, packet: SendPacket) -> None:
        self.packet_count += 1
        if self._transport is None or not self._is_remote(packet.node):
            self._send_direct(packet)
            return
        link = self._links.get(packet.node)
        if link is None:
            link = self._links[packet.node] = _Link(packet.node)
            link.waiting.append(packet)
            self._dial(link)
        elif link.connection is None:
            if len(link.waiting) >= CARRIER.waiting_max:
                self._fail(packet)
            else:
                link.waiting.append(packet)
        else:
            self._carry(link, packet)

    def _send_direct(self, packet: SendPacket) -> None:
        machine = self._world.network.by_address.get(packet.address[0])
        size = len(packet.data) + _HEADER_SIZE
        self.sent_size += size
        if machine is None:
            return
        target = self._peers.get(machine.name)
        if target is not None:
            source = self.serf.memberlist.table.me.address
            message = _Packet(packet.data, source, size=size, reliable=False)
            self._world.send((self.process.machine, machine), target, message)

    def _fail(self, packet: SendPacket) -> None:
        self.serf.packet_failed(packet.id, now=self._now)

    def _carry(self, link: _Link, packet: SendPacket) -> None:
        """Send on an open connection."""
        connection, transport, now = link.connection, self._transport, self._world.now
        assert connection is not None
        assert transport is not None
        link.used_at = now
        link.recent = [*link.recent[1 - RESENT_MAX :], (now, packet)]
        size = len(packet.data) + _FRAME_SIZE
        self.sent_size += size
        target = transport.member_on(connection.path[-1])
        if target is None or not connection.usable(self._world.network):
            return
        connection.carried(size)
        self._world.send(
            connection.path, target, _Packet(packet.data, None, size=size, reliable=True)
        )

    def _dial(self, link: _Link) -> None:
        transport = self._transport
        assert transport is not None
        node, dc = split_wan_name(link.node)
        way = transport.dial(dc, node)
        if isinstance(way, NoWay):
            seconds = CARRIER.dial_timeout if way.hangs else way.seconds
            transport.alarm(seconds, partial(self._dial_failed, link))
        elif way.seconds > CARRIER.dial_timeout:
            transport.alarm(CARRIER.dial_timeout, partial(self._dial_failed, link))
        else:
            transport.alarm(way.seconds, partial(self._dialled, link, way))

    def _dialled(self, link: _Link, way: Way) -> None:
        if self._links.get(link.node) is not link:
            return
        assert self._transport is not None
        connection = self._transport.connect(way, partial(self._lost, link))
        if connection is None:
            self._dial_failed(link)
            return
        link.connection, link.made_at = connection, self._world.now
        waiting, link.waiting = link.waiting, []
        for packet in waiting:
            self._carry(link, packet)
        self._transport.alarm(CARRIER.idle_timeout, partial(self._close_idle, link))

    def _dial_failed(self, link: _Link) -> None:
        if self._links.get(link.node) is not link:
            return
        del self._links[link.node]
        for packet in link.waiting:
            self._fail(packet)
        self._flush()
        self._world.arm(self)

    def _lost(self, link: _Link) -> None:
        """The connection is gone: send again, once, what it may have taken along."""
        if self._links.get(link.node) is not link:
            return
        del self._links[link.node]
        latest = self._world.now - CARRIER.resend_window
        if link.made_at > latest:
            return
        again = [packet for sent_at, packet in link.recent if sent_at > latest]
        if again:
            fresh = self._links[link.node] = _Link(link.node, waiting=again)
            self._dial(fresh)

    def _close_idle(self, link: _Link) -> None:
        if self._links.get(link.node) is not link or link.connection is None:
            return
        assert self._transport is not None
        left = link.used_at + CARRIER.idle_timeout - self._world.now
        if left > 0:
            self._transport.alarm(left, partial(self._close_idle, link))
            return
        link.connection.close()
        del self._links[link.node]

    # Streams --------------------------------------------------------------------------------------

    def _open(self, request: OpenStream) -> None:
        stream = self._streams[request.id] = _Stream(self, request.id)
        if self._transport is not None and self._is_remote(request.node):
            self._open_through_gateways(stream, request)
            return
        machine = self._world.network.by_address.get(request.address[0])
        target = None if machine is None else self._peers.get(machine.name)
        if machine is None or target is None:
            return  # Nobody answers; the core keeps the deadline.
        stream.path = (self.process.machine, machine)
        network = self._world.network
        if network.link(machine, self.process.machine).cut:
            return
        if target.process.state is ProcessState.CRASHED:
            trip = network.latency(*stream.path) + network.latency(*reversed(stream.path))
            self._later(trip, partial(self._stream_failed, stream, "connection refused"))
            return
        self._first_data(stream, target, request.data)

    def _open_through_gateways(self, stream: _Stream, request: OpenStream) -> None:
        transport = self._transport
        assert transport is not None
        node, dc = split_wan_name(request.node)
        way = transport.dial(dc, node)
        if isinstance(way, NoWay):
            if not way.hangs:
                transport.alarm(way.seconds, partial(self._stream_failed, stream, way.text))
        else:
            transport.alarm(way.seconds, partial(self._stream_dialled, stream, way, request.data))

    def _stream_dialled(self, stream: _Stream, way: Way, data: bytes) -> None:
        if self._streams.get(stream.number) is not stream:
            return
        assert self._transport is not None
        lost = partial(self._stream_failed, stream, "the connection was closed")
        stream.connection = self._transport.connect(way, lost)
        target = self._transport.member_on(way.path[-1])
        if stream.connection is None or target is None:
            self._stream_failed(stream, "the connection was reset")
            return
        stream.path = way.path
        self._first_data(stream, target, data)
        self._flush()
        self._world.arm(self)

    def _first_data(self, stream: _Stream, target: "GossipMember", data: bytes) -> None:
        stream.acceptor = target
        self.serf.stream_opened(stream.number, now=self._now)
        self._send_stream(stream, _StreamData(stream, data, to_acceptor=True, opens=True))

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        def act() -> None:
            if self.process.running:
                action()

        self._world.after(seconds, act)

    def _stream_failed(self, stream: _Stream, text: str) -> None:
        if self._streams.pop(stream.number, None) is stream:
            self.serf.stream_failed(stream.number, text, now=self._now)
            self._flush()
            self._world.arm(self)

    def _receive_stream(self, message: _StreamData) -> None:
        stream, now = message.stream, self._now
        if message.opens:
            peer = stream.dialler.serf.memberlist.table.me.address
            number = self.serf.accept_stream(peer=peer, now=now)
            if number is None:
                return
            stream.accepted = number
            self._streams[number] = stream
        number = stream.accepted if message.to_acceptor else stream.number
        if self._streams.get(number) is not stream:
            return
        if message.data is None:
            del self._streams[number]
            self.serf.receive_stream_eof(number, now=now)
        else:
            self.serf.receive_stream_data(number, message.data, now=now)

    def _write(self, number: int, data: bytes) -> None:
        stream = self._streams.get(number)
        if stream is not None:
            to_acceptor = stream.dialler is self
            self._send_stream(stream, _StreamData(stream, data, to_acceptor=to_acceptor))

    def _end_stream(self, number: int, *, tell: bool) -> None:
        stream = self._streams.pop(number, None)
        if stream is None:
            return
        to_acceptor = stream.dialler is self
        peer = stream.acceptor if to_acceptor else stream.dialler
        theirs = stream.accepted if to_acceptor else stream.number
        if tell and peer is not None and peer._streams.get(theirs) is stream:
            self._send_stream(stream, _StreamData(stream, None, to_acceptor=to_acceptor))
        if stream.dialler is self and stream.connection is not None:
            stream.connection.close()

    def _send_stream(self, stream: _Stream, message: _StreamData) -> None:
        target = stream.acceptor if message.to_acceptor else stream.dialler
        assert target is not None
        self.sent_size += message.size
        path = stream.path if message.to_acceptor else tuple(reversed(stream.path))
        if stream.connection is not None:
            if not stream.connection.is_open:
                return
            stream.connection.carried(message.size)
        world = self._world
        for arrival in world.network.carry(path, message.size, now=world.now, reliable=True):
            when = max(arrival, stream.arrival.get(message.to_acceptor, 0.0))
            stream.arrival[message.to_acceptor] = when
            world.deliver(when, target, message)
