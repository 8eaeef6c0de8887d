"""Ways to servers of other datacenters, through mesh gateways.

A gateway is dialled with TLS whose server name (SNI) says which server is meant; the handshake
is with that server. Everything here has a deadline, because a gateway may accept connections
and then hang (protocol/federation.md §21.6).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from isthmus.errors import NO_GATEWAY, NO_REACHABLE_SERVER, DialFailed, Unavailable, located
from isthmus.federation.route import Direct, ViaGateway, way_to, way_to_member
from isthmus.names import Alpn, host_port, split_wan_name
from isthmus.net.client import ServerDialer, ServerTarget
from isthmus.net.connections import ConnectionSet
from isthmus.net.direct import explain_dial
from isthmus.net.multiplex import MultiplexProtocol
from isthmus.net.network import Network, TlsDial
from isthmus.net.tasks import TaskScope
from isthmus.rpc.packets import PACKET_SIZE_MAX, frame_packet

P = TypeVar("P", bound=asyncio.BaseProtocol)
M = TypeVar("M", bound=MultiplexProtocol)

DIAL_TIMEOUT: Final = 10.0
"""For a whole dial: all candidates, connect and handshake."""
RPC_DIAL_TIMEOUT: Final = 3.0
"""The same for RPC, whose callers wait: a hung gateway must not cost them more."""
STAGGER: Final = 0.25
"""After it the next candidate is tried beside those that have not answered."""
CANDIDATES_MAX: Final = 8
"""Gateways tried in one dial."""

_RESENT_MAX: Final = 8  # Packets of one connection that are remembered for sending again.


@dataclass(frozen=True, slots=True)
class GatewayOutcome:
    """What a dial showed about one gateway.

    Attributes:
        host: Its address.
        port: Its port.
        dc: Datacenter that was dialled.
        node: Server that was dialled; ``*`` for any.
        alpn: What for.
        ok: Whether the server answered the handshake.
        seconds: How long it took.
        step: The step that failed, as in `DialFailed`; empty when it worked.
        text: Why it failed; empty when it worked.
    """

    host: str
    port: int
    dc: str
    node: str
    alpn: str
    ok: bool
    seconds: float
    step: str = ""
    text: str = ""


class GatewayDialer:
    """Dials servers of other datacenters. Each event loop needs its own.

    Args:
        network: Where to dial; must have certificates.
        pick: Gateways (host, port) to dial for a datacenter, best first; called on every dial,
            from this loop's thread.
        report: Told about every gateway that was tried, from this loop's thread.
        domain: DNS domain of the federation.
        source_host: Address to bind to; empty: the system's choice.
        stagger: Seconds until the next candidate is tried beside the others.
        report_failure: Told about every dial that failed as a whole, from this loop's thread.
    """

    def __init__(
        self,
        network: Network,
        pick: Callable[[str], Sequence[tuple[str, int]]],
        report: Callable[[GatewayOutcome], None],
        *,
        domain: str = "consul",
        source_host: str = "",
        stagger: float = STAGGER,
        report_failure: Callable[[DialFailed], None] = lambda failure: None,
    ) -> None:
        self._report_failure = report_failure
        self._network, self._pick, self._report = network, pick, report
        self._domain, self._source_host, self._stagger = domain, source_host, stagger

    async def dial(
        self,
        factory: Callable[[], P],
        *,
        dc: str,
        node: str,
        alpn: str,
        timeout: float = DIAL_TIMEOUT,
    ) -> P:
        """Reach a server: try its datacenter's gateways, the first that leads there wins.

        Args:
            factory: Makes the protocol, once, for the connection that won.
            dc: Datacenter of the server.
            node: Its short node name; ``*`` for any server.
            alpn: What to speak.
            timeout: Seconds for all of it.

        Raises:
            DialFailed: No gateway is known, or none led there; its text names them all.

        Source: protocol/federation.md §6.2, which tries one gateway only.
        """
        candidates = list(dict.fromkeys(self._pick(dc)))[:CANDIDATES_MAX]
        if not candidates:
            text = f"{NO_REACHABLE_SERVER}: no mesh gateway is known that leads there"
            failure = DialFailed(
                located(text, dc=dc, node=node, gateway="", step=NO_GATEWAY),
                dc=dc,
                node=node,
                gateway="",
                step=NO_GATEWAY,
            )
            self._report_failure(failure)
            raise failure
        race = _Race(self, dc, node, alpn, timeout)
        try:
            hold = await race.run(candidates)
        except DialFailed as failure:
            self._report_failure(failure)
            raise
        protocol = factory()
        if isinstance(protocol, MultiplexProtocol):
            protocol.gateway = hold.gateway
        hold.release(protocol)
        return protocol

    async def dial_server(
        self, factory: Callable[[], M], target: ServerTarget, *, timeout: float
    ) -> M:
        """See `isthmus.net.pool.ServerDialer.dial_server`; the target's address is not used."""
        return await self.dial(
            factory,
            dc=target.dc,
            node=target.node,
            alpn=Alpn.RPC_MULTI,
            timeout=min(timeout, RPC_DIAL_TIMEOUT),
        )

    async def _attempt(
        self, gateway: tuple[str, int], dc: str, node: str, alpn: str, timeout: float
    ) -> "_Hold":
        """Dial one gateway and report on it.

        Raises:
            DialFailed: It did not lead to the server.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        host, port = gateway
        tls = TlsDial(ViaGateway(dc, node).sni(self._domain), alpn)
        try:
            hold = await self._network.dial(
                _Hold, host, port, tls=tls, timeout=timeout, source_host=self._source_host
            )
        except OSError as error:
            address = host_port(host, port)
            text, step = explain_dial(error, address)
            seconds = loop.time() - started
            self._report(GatewayOutcome(host, port, dc, node, alpn, False, seconds, step, text))
            raise DialFailed(text, dc=dc, node=node, gateway=address, step=step) from error
        seconds = loop.time() - started
        self._report(GatewayOutcome(host, port, dc, node, alpn, True, seconds))
        hold.gateway = host_port(host, port)
        return hold


class FederatedDialer:
    """Reaches every server: our own datacenter's directly, others' through gateways.

    Args:
        direct: For our own datacenter, and for all when there are no gateways.
        gateways: For other datacenters; None: WAN federation without gateways.
        own_dc: Our datacenter.
    """

    def __init__(self, direct: ServerDialer, gateways: ServerDialer | None, own_dc: str) -> None:
        self._direct, self._gateways, self._own_dc = direct, gateways, own_dc

    async def dial_server(
        self, factory: Callable[[], M], target: ServerTarget, *, timeout: float
    ) -> M:
        """See `isthmus.net.pool.ServerDialer.dial_server`."""
        gateways = self._gateways
        way = way_to(target.dc, target.node, own_dc=self._own_dc, gateways=gateways is not None)
        dialer = self._direct if gateways is None or isinstance(way, Direct) else gateways
        return await dialer.dial_server(factory, target, timeout=timeout)


class _Race:
    """Attempts over several gateways for one dial, each started a little after the other."""

    def __init__(
        self, dialer: GatewayDialer, dc: str, node: str, alpn: str, timeout: float
    ) -> None:
        self._dialer, self._dc, self._node, self._alpn = dialer, dc, node, alpn
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + timeout
        self._running: set[asyncio.Task[_Hold]] = set()
        self._failures: list[DialFailed] = []

    async def run(self, candidates: Sequence[tuple[str, int]]) -> "_Hold":
        waiting = list(reversed(candidates))
        try:
            while True:
                if waiting:
                    self._start(waiting.pop())
                winner = await self._await_next(self._dialer._stagger if waiting else None)
                if winner is not None:
                    return winner
                if not waiting and not self._running:
                    raise self._failed()
        finally:
            for task in self._running:
                task.add_done_callback(_drop_loser)
                task.cancel()

    def _start(self, gateway: tuple[str, int]) -> None:
        left = max(self._deadline - self._loop.time(), 0.001)
        work = self._dialer._attempt(gateway, self._dc, self._node, self._alpn, left)
        self._running.add(self._loop.create_task(work))

    async def _await_next(self, timeout: float | None) -> "_Hold | None":
        """Wait until an attempt wins, one fails, or it is time for the next one."""
        done, self._running = await asyncio.wait(
            self._running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
        )
        winner: _Hold | None = None
        for task in done:
            error = task.exception()
            if error is None and winner is None:
                winner = task.result()
            elif error is None:
                task.result().drop()
            elif isinstance(error, DialFailed):
                self._failures.append(error)
            else:
                raise error
        return winner

    def _failed(self) -> DialFailed:
        """One error out of all: the first gateway's, with the others' texts behind it."""
        first, dc, node = self._failures[0], self._dc, self._node
        text = "; ".join(dict.fromkeys(str(failure) for failure in self._failures))
        tried = ", ".join(dict.fromkeys(failure.gateway for failure in self._failures))
        return DialFailed(
            located(text, dc=dc, node=node, gateway=tried, step=first.step),
            dc=dc,
            node=node,
            gateway=first.gateway,
            step=first.step,
        )


def _drop_loser(task: "asyncio.Task[_Hold]") -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().drop()


class _Hold(asyncio.Protocol):
    """Keeps a fresh connection still until it is known whether it is the one to be used."""

    def __init__(self) -> None:
        self.gateway = ""
        self._transport: asyncio.Transport | None = None
        self._lost: list[Exception | None] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost.append(error)

    def release(self, protocol: asyncio.BaseProtocol) -> None:
        """Let a protocol have the connection."""
        transport = self._transport
        assert transport is not None
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if self._lost:  # Between the handshake and now.
            protocol.connection_lost(self._lost[0])
        elif not transport.is_closing():
            transport.resume_reading()

    def drop(self) -> None:
        """Nobody wants the connection."""
        if self._transport is not None:
            self._transport.abort()


# Gossip -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CarrierConfig:
    """Limits of a `GossipCarrier`; times in seconds.

    Attributes:
        dial_timeout: For the dial of a packet connection, within gossip's probe timeouts.
        idle_timeout: After the last packet a connection is closed; well below the two minutes
            after which a Consul server closes it and logs an error.
        resend_window: A packet on a connection that breaks within this time after it, although
            it had carried others before, is sent once more on a new one.
        connections_max: Packet connections; for more, the one unused for longest is closed.
        waiting_max: Packets of one node that wait for its dial.
        buffer_size_max: Bytes that a connection may hold for a slow peer; then packets are lost.
    """

    dial_timeout: float = 2.5
    idle_timeout: float = 60.0
    resend_window: float = 1.0
    connections_max: int = 4096
    waiting_max: int = 64
    buffer_size_max: int = 256 * 1024

    def __post_init__(self) -> None:
        """Check the relations between the values."""
        assert self.dial_timeout > 0
        assert 0 < self.resend_window < self.idle_timeout
        assert self.connections_max > 0
        assert self.waiting_max > 0


class GossipCarrier:
    """Carries gossip to other datacenters; implements `isthmus.net.gateways.WanCarrier`.

    May be made anywhere; all the rest, `close` too, happens on the gossip thread's loop.

    One connection per node carries its packets. More would bring nothing, since writing does
    not wait, and a Consul server admits only 100 connections from one gateway's address.

    Args:
        dialer: Of this loop.
        own_dc: Our datacenter; its members are not carried.
        config: Limits.
    """

    def __init__(
        self, dialer: GatewayDialer, own_dc: str, config: CarrierConfig | None = None
    ) -> None:
        self._dialer, self._own_dc = dialer, own_dc
        self._config = config or CarrierConfig()
        self._links: dict[str, _PacketLink] = {}  # The one used last stands last.
        self._dials: dict[str, _PacketDial] = {}
        self._open = ConnectionSet()
        self._scope = TaskScope()
        self._sweep: asyncio.TimerHandle | None = None
        self.lost_count = 0
        """Packets lost after they had been taken."""

    def carries(self, node_name: str) -> bool:
        """See `WanCarrier.carries`."""
        way = way_to_member(node_name, own_dc=self._own_dc, gateways=True)
        return isinstance(way, ViaGateway)

    async def send_packet(self, node_name: str, packet: bytes) -> None:
        """See `WanCarrier.send_packet`."""
        assert 0 < len(packet) <= PACKET_SIZE_MAX
        link = self._links.get(node_name)
        if link is None or not link.is_open:
            link = await self._dial_link(node_name)
        self._write(link, packet)

    async def open_stream(self, node_name: str, factory: Callable[[], P], *, timeout: float) -> P:
        """See `WanCarrier.open_stream`."""
        node, dc = split_wan_name(node_name)
        return await self._dialer.dial(
            factory, dc=dc, node=node, alpn=Alpn.WAN_GOSSIP_STREAM, timeout=timeout
        )

    async def close(self) -> None:
        """Close all packet connections, when what they hold is sent; what waits is lost."""
        if self._sweep is not None:
            self._sweep.cancel()
        await self._scope.close()
        for link in list(self._links.values()):
            link.close()
        self._links.clear()
        await self._open.close()

    @property
    def connection_count(self) -> int:
        """Open packet connections."""
        return len(self._links)

    def _write(self, link: "_PacketLink", packet: bytes) -> None:
        if link.buffered_size > self._config.buffer_size_max:
            raise Unavailable(f"gossip to {link.node_name} is backed up at its gateway")
        self._links[link.node_name] = self._links.pop(link.node_name, link)
        link.write(packet, now=_now())

    async def _dial_link(self, node_name: str) -> "_PacketLink":
        """A new connection to a node; all who ask at the same time share one dial."""
        dial = self._dials.get(node_name)
        if dial is None:
            if len(self._dials) >= self._config.connections_max:
                raise Unavailable("too many dials for gossip")
            dial = self._dials[node_name] = _PacketDial()
            self._scope.spawn(self._dial(node_name, dial))
        if dial.waiting_count >= self._config.waiting_max:
            raise Unavailable(f"too many packets wait for a connection to {node_name}")
        dial.waiting_count += 1
        try:
            return await asyncio.shield(dial.dialled)
        except Unavailable as error:
            raise Unavailable(str(error)) from error
        finally:
            dial.waiting_count -= 1

    async def _dial(self, node_name: str, dial: "_PacketDial") -> None:
        node, dc = split_wan_name(node_name)
        try:
            link = await self._dialer.dial(
                lambda: _PacketLink(node_name, self._open, self._lost),
                dc=dc,
                node=node,
                alpn=Alpn.WAN_GOSSIP_PACKET,
                timeout=self._config.dial_timeout,
            )
        except Unavailable as error:
            dial.dialled.set_exception(error)
            dial.dialled.exception()  # Those who waited may have given up.
        except BaseException:
            dial.dialled.cancel()
            raise
        else:
            self._links[node_name] = link
            self._make_room()
            self._set_sweep()
            dial.dialled.set_result(link)
        finally:
            del self._dials[node_name]

    def _make_room(self) -> None:
        while len(self._links) > self._config.connections_max:
            oldest = next(iter(self._links))
            self._links.pop(oldest).close()

    def _lost(self, link: "_PacketLink") -> None:
        """A connection is gone: forget it, and send again what it may have taken along."""
        if self._links.get(link.node_name) is link:
            del self._links[link.node_name]
        packets = link.unsure_packets(now=_now(), window=self._config.resend_window)
        if packets and not link.closed_by_us:
            self._scope.spawn(self._resend(link.node_name, packets))

    async def _resend(self, node_name: str, packets: Sequence[bytes]) -> None:
        """Send again, once: a packet that arrives twice does no harm, as in UDP."""
        try:
            link = self._links.get(node_name)
            if link is None or not link.is_open:
                link = await self._dial_link(node_name)
            for packet in packets:
                self._write(link, packet)
        except Unavailable:
            self.lost_count += len(packets)

    def _set_sweep(self) -> None:
        if self._sweep is None and self._links:
            loop = asyncio.get_running_loop()
            self._sweep = loop.call_later(self._config.idle_timeout / 4, self._close_idle)

    def _close_idle(self) -> None:
        self._sweep = None
        latest = _now() - self._config.idle_timeout
        for name, link in list(self._links.items()):
            if link.used_at > latest:
                break
            del self._links[name]
            link.close()
        self._set_sweep()


class _PacketDial:
    """A dial in progress and how many wait for it."""

    def __init__(self) -> None:
        self.dialled: asyncio.Future[_PacketLink] = asyncio.get_running_loop().create_future()
        self.waiting_count = 0


class _PacketLink(asyncio.Protocol):
    """A connection that carries packets to one node; the node never answers on it."""

    def __init__(
        self,
        node_name: str,
        connections: ConnectionSet,
        lost: Callable[["_PacketLink"], None],
    ) -> None:
        self.node_name = node_name
        self._connections = connections
        self.used_at = _now()
        self.closed_by_us = False
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._made_at = self.used_at
        self._recent: deque[tuple[float, bytes]] = deque(maxlen=_RESENT_MAX)

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def buffered_size(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def write(self, packet: bytes, *, now: float) -> None:
        assert self._transport is not None
        self.used_at = now
        self._recent.append((now, packet))
        self._transport.write(frame_packet(packet))

    def unsure_packets(self, *, now: float, window: float) -> list[bytes]:
        """Packets written just before the connection ended, if it was an old one.

        A connection that ends soon after it was made is no better a second time.
        """
        if self._made_at > now - window:
            return []
        return [packet for sent_at, packet in self._recent if sent_at > now - window]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connections.add(transport)

    def data_received(self, data: bytes) -> None:
        self.close()  # Not a packet connection, if its peer speaks.

    def connection_lost(self, error: Exception | None) -> None:
        assert self._transport is not None
        self._connections.discard(self._transport)
        self._lost(self)

    def close(self) -> None:
        self.closed_by_us = True
        if self.is_open:
            assert self._transport is not None
            self._transport.close()


def _now() -> float:
    return asyncio.get_running_loop().time()
