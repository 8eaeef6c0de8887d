"""The network under whole agents: hosts, names, ports, connections, datagrams.

How long things take and what is lost the simulator's `Network` decides (`sim/network.py`). The
rule of the federation is checked on everything that is sent: between two datacenters only the
gateways' doors are open.
"""

import asyncio
import errno
import ipaddress
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

from isthmus.errors import ProtocolError
from isthmus.names import host_port
from isthmus.net.network import DatagramRefused, Inbound, Listening, TlsAccept, TlsDial
from isthmus.net.tls import HandshakeFailed, TlsConfigurator, TlsDisabled
from isthmus.sim.handshake import (
    Certificate,
    Credentials,
    accept_handshake,
    dial_handshake,
    read_hello,
)
from isthmus.sim.loop import HostLoop, Timeline
from isthmus.sim.network import Network as Links
from isthmus.sim.stream import Address, End, connect_ends
from isthmus.sim.trace import Trace
from isthmus.wire.tlshello import ClientHello

P = TypeVar("P", bound=asyncio.BaseProtocol)

ANY_ADDRESS: Final = "0.0.0.0"
LOOPBACK_LATENCY: Final = 2e-5
SYN_SIZE: Final = 74
SYN_RETRY: Final = 1.0
"""Seconds until an unanswered connect is tried again; doubles, as in Linux."""
SYN_ATTEMPTS_MAX: Final = 7
BACKLOG: Final = 1024
"""Connections of a port that wait for the program."""
DATAGRAM_BUFFER_SIZE: Final = 212_992
"""Bytes of datagrams that wait for the program; further ones are dropped."""
DATAGRAM_HEADER_SIZE: Final = 42
_PORT_FIRST: Final = 32768
_PORT_LAST: Final = 60999


class Host:
    """A machine of the simulation, with one program at a time.

    Made by `Fabric.host`.

    Attributes:
        name: Unique.
        dc: Its datacenter.
        is_gateway: Whether connections from other datacenters may come here.
        addresses: Its own, the first one in its datacenter; it has loopback addresses besides.
        is_down: Switched off: nothing arrives.
    """

    def __init__(
        self, fabric: "Fabric", name: str, dc: str, addresses: Sequence[str], *, is_gateway: bool
    ) -> None:
        self.name, self.dc, self.is_gateway = name, dc, is_gateway
        self.addresses = list(addresses)
        self.is_down = False
        self.listeners: dict[Address, _Listening] = {}
        self.sockets: dict[Address, _Datagrams] = {}
        self._fabric = fabric
        self._ends: dict[End, None] = {}
        self._port = _PORT_FIRST

    def forget(self, end: End) -> None:
        """An end of this host is no more."""
        self._ends.pop(end, None)

    def remember(self, end: End) -> None:
        """A connection of this host was made."""
        self._ends[end] = None

    @property
    def connection_count(self) -> int:
        """Open connections."""
        return len(self._ends)

    def free_port(self) -> int:
        """A port for a connection or a socket that asks for none."""
        self._port = _PORT_FIRST if self._port >= _PORT_LAST else self._port + 1
        return self._port

    def kill(self) -> None:
        """The program is gone: its ports are closed, its connections reset."""
        self.listeners.clear()
        self.sockets.clear()
        for end in list(self._ends):
            end.vanish()
        self._ends.clear()

    def owns(self, address: str) -> bool:
        """Whether packets to an address come here."""
        return address in self.addresses or _is_loopback(address)

    def find(self, ports: "dict[Address, T]", address: Address) -> "T | None":
        """Who listens on an address of ours."""
        return ports.get(address) or ports.get((ANY_ADDRESS, address[1]))


T = TypeVar("T")


class Fabric:
    """All hosts and the ways between them.

    Args:
        timeline: Virtual time.
        links: Latencies, losses, cuts.
        random: Source of the chances of packets, 0 to 1.
        trace: Where deliveries are taken down.

    Attributes:
        names: Addresses by host name, as a name server has them.
        certificates: By name of the certificate file.
        violations: What was sent between two datacenters past their gateways.
    """

    def __init__(
        self, timeline: Timeline, links: Links, *, random: Callable[[], float], trace: Trace
    ) -> None:
        self.timeline, self.links, self.trace = timeline, links, trace
        self._random = random
        self._by_address: dict[str, Host] = {}
        self.hosts: dict[str, Host] = {}
        self.names: dict[str, tuple[str, ...]] = {}
        self.certificates: dict[str, Certificate] = {}
        self.violations: list[str] = []
        self.sent_sizes: dict[tuple[str, str], int] = {}
        """Bytes that arrived, by host that sent and kind (``tcp``, ``udp``)."""

    def host(
        self, name: str, *, dc: str, addresses: Sequence[str], is_gateway: bool = False
    ) -> Host:
        """A new host."""
        made = Host(self, name, dc, addresses, is_gateway=is_gateway)
        self.links.add(name, dc, address=addresses[0])
        self.hosts[name] = made
        for address in addresses:
            assert address not in self._by_address
            self._by_address[address] = made
        return made

    def readdress(self, host: Host, addresses: Sequence[str]) -> None:
        """Give a host other addresses; connections to the old ones fall silent."""
        for address in host.addresses:
            self._by_address.pop(address, None)
        host.addresses = list(addresses)
        for address in addresses:
            self._by_address[address] = host

    def resolve(self, name: str) -> Sequence[str]:
        """Addresses of a host name, or the address itself.

        Raises:
            socket.gaierror: Nobody has that name.
        """
        try:
            return (str(ipaddress.ip_address(name)),)
        except ValueError:
            found = self.names.get(name, ())
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found

    def find(self, source: Host, address: str) -> Host | None:
        """The host that packets of `source` to an address reach."""
        return source if source.owns(address) else self._by_address.get(address)

    # Carrying; implements `stream.Carrier`.

    def carry(self, source: Host, target: Host, size: int) -> float | None:
        """Moment at which a packet arrives; None: it is lost."""
        arrivals = self._carry(source, target, size)
        return arrivals[0] if arrivals else None

    def _carry(self, source: Host, target: Host, size: int) -> Sequence[float]:
        now = self.timeline.now
        if source.is_down or target.is_down:
            return ()
        if source is target:
            return (now + LOOPBACK_LATENCY,)
        machines = self.links.machines
        link = self.links.link(machines[source.name], machines[target.name])
        return link.carry(size, self._random(), now=now)

    def arrived(self, kind: str, source: Host, target: Host, size: int) -> None:
        """Take an arrival down."""
        self.trace.add(kind, f"{source.name} {target.name} {size}")
        key = (source.name, kind)
        self.sent_sizes[key] = self.sent_sizes.get(key, 0) + size

    def check_way(self, source: Host, target: Host, what: str) -> None:
        """Check that something may be sent from one host to another.

        Raises:
            OSError: It is between two datacenters and past their gateways; noted as a violation.
        """
        if source.dc != target.dc and not (what == "connection" and target.is_gateway):
            self.violations.append(
                f"{what} from {source.name} of {source.dc} to {target.name} of {target.dc}"
                f" past the mesh gateways"
            )
            raise OSError(errno.ENETUNREACH, "Network is unreachable")

    # Connecting.

    def connect(
        self, source: Host, address: Address, made: "asyncio.Future[End]", *, attempt: int = 0
    ) -> None:
        """Try to connect, again and again until an answer comes or `made` is done."""
        if made.done() or attempt >= SYN_ATTEMPTS_MAX or made.get_loop().is_closed():
            return
        target = self.find(source, address[0])
        if target is not None:
            try:
                self.check_way(source, target, "connection")
            except OSError as error:
                made.set_exception(error)
                return
            arrival = self.carry(source, target, SYN_SIZE)
            if arrival is not None:
                self.timeline.call_at(arrival, self._receive_connect, source, target, address, made)
        wait = SYN_RETRY * 2**attempt
        self.timeline.call_later(
            wait, lambda: self.connect(source, address, made, attempt=attempt + 1)
        )

    def _receive_connect(
        self, source: Host, target: Host, address: Address, made: "asyncio.Future[End]"
    ) -> None:
        self.arrived("syn", source, target, 0)
        answer = self.carry(target, source, SYN_SIZE)
        if answer is None:
            return
        listener = target.find(target.listeners, address)
        if listener is None:
            self.timeline.call_at(answer, _refuse, made)
        elif listener.waiting_count < BACKLOG:
            self.timeline.call_at(answer, self._connected, source, target, address, made)

    def _connected(
        self, source: Host, target: Host, address: Address, made: "asyncio.Future[End]"
    ) -> None:
        listener = target.find(target.listeners, address)
        if made.done() or made.get_loop().is_closed() or source.is_down:
            return
        if listener is None:
            _refuse(made)
            return
        self.arrived("established", target, source, 0)
        local = address[0] if source is target else source.addresses[0]
        near, far = connect_ends(self, (source, (local, source.free_port())), (target, address))
        source.remember(near)
        target.remember(far)
        made.set_result(near)
        listener.begin(far)


def _refuse(made: "asyncio.Future[End]") -> None:
    if not made.done() and not made.get_loop().is_closed():
        error = ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        made.set_exception(error)


class HostNetwork:
    """The network as a program on one host sees it; implements `isthmus.net.network.Network`.

    Args:
        fabric: The network.
        host: Where the program runs.
        entropy: Makes that many random bytes.
        tls: Names of the files of our certificates; None: no TLS.
    """

    def __init__(
        self,
        fabric: Fabric,
        host: Host,
        *,
        entropy: Callable[[int], bytes],
        tls: TlsConfigurator | None = None,
    ) -> None:
        self.fabric, self.host = fabric, host
        self._entropy, self._tls = entropy, tls

    def credentials(self) -> Credentials:
        """What we have for a handshake.

        Raises:
            TlsDisabled: No CA.
        """
        if self._tls is None or not self._tls.ca_loaded:
            raise TlsDisabled("TLS disabled: no CA or no certificate")
        config = self._tls.config
        own = self.fabric.certificates.get(config.cert_file) if config.cert_file else None
        return Credentials({config.ca_file or config.ca_path}, own)

    def check_client(self, certificate: dict[str, Any] | None) -> None:
        """See `TlsConfigurator.check_client`."""
        assert self._tls is not None
        self._tls.check_client(certificate)

    async def dial(
        self,
        factory: Callable[[], P],
        host: str,
        port: int,
        *,
        tls: TlsDial | None,
        timeout: float,
        source_host: str = "",
        preamble: bytes = b"",
    ) -> P:
        """See `Network.dial`; the system chooses `source_host`."""
        credentials = None if tls is None else self.credentials()
        address = host_port(host, port)
        step = f"connect to {address}"
        try:
            async with asyncio.timeout(timeout):
                end = await self._connect(host, port)
                step = f"TLS handshake with {address}"
                try:
                    if preamble:
                        end.push(preamble)
                    if tls is not None and credentials is not None:
                        await dial_handshake(end, tls, credentials, entropy=self._entropy)
                except HandshakeFailed:
                    end.close()
                    raise
                except BaseException:
                    end.abort()
                    raise
        except TimeoutError:
            raise TimeoutError(f"{step} took longer than {timeout:.3g} s") from None
        protocol = factory()
        end.start(protocol, is_tls=tls is not None)
        return protocol

    async def _connect(self, host: str, port: int) -> End:
        """Connect to the first address that answers; each has its share of the time."""
        failure: OSError = OSError(errno.EADDRNOTAVAIL, f"no address for {host}")
        for address in self.fabric.resolve(host):
            made: asyncio.Future[End] = asyncio.get_running_loop().create_future()
            try:
                self.fabric.connect(self.host, (address, port), made)
                return await made
            except OSError as error:
                failure = error
            except BaseException:
                if made.done() and not made.cancelled() and made.exception() is None:
                    made.result().abort()
                raise
        raise failure

    async def listen(
        self, host: str, port: int, accept: Callable[[Inbound], Awaitable[None]]
    ) -> Listening:
        """See `Network.listen`."""
        self._check_own(host)
        port = port or self.host.free_port()
        if (host, port) in self.host.listeners:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        made = self.host.listeners[host, port] = _Listening(self, (host, port), accept)
        return made

    async def datagram(
        self, factory: Callable[[], asyncio.DatagramProtocol], host: str, port: int
    ) -> asyncio.DatagramTransport:
        """See `Network.datagram`."""
        self._check_own(host)
        port = port or self.host.free_port()
        if (host, port) in self.host.sockets:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        protocol = factory()
        made = self.host.sockets[host, port] = _Datagrams(self.fabric, self.host, host, port)
        made.start(protocol)
        return made

    def _check_own(self, host: str) -> None:
        if host != ANY_ADDRESS and not self.host.owns(host):
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))

    # What a program asks its loop for; implements `loop.LoopNetwork`.

    def resolve(self, host: str) -> Sequence[str]:
        """See `LoopNetwork.resolve`."""
        return self.fabric.resolve(host)

    async def connect(
        self, factory: Callable[[], asyncio.BaseProtocol], host: str, port: int
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        """See `LoopNetwork.connect`."""
        end = await self._connect(host, port)
        protocol = factory()
        end.start(protocol)
        return end, protocol


class _Listening:
    """An open port; implements `Listening`."""

    def __init__(
        self,
        network: HostNetwork,
        address: Address,
        accept: Callable[[Inbound], Awaitable[None]],
    ) -> None:
        self._network, self._address, self._accept = network, address, accept
        loop = asyncio.get_running_loop()
        assert isinstance(loop, HostLoop)
        self._loop = loop
        self._tasks: dict[asyncio.Task[None], None] = {}
        self.waiting_count = 0

    @property
    def address(self) -> Address:
        """See `Listening.address`."""
        return self._address

    async def close(self) -> None:
        """See `Listening.close`."""
        self._network.host.listeners.pop(self._address, None)

    def begin(self, end: End) -> None:
        """Let the program have a connection, when it comes to it."""
        self.waiting_count += 1
        self._loop.call_soon(self._begin, end)

    def _begin(self, end: End) -> None:
        self.waiting_count -= 1
        task = self._loop.create_task(self._serve(_Inbound(self._network, end)))
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)

    def _serve(self, inbound: "_Inbound") -> Coroutine[Any, Any, None]:
        async def serve_connection() -> None:
            try:
                await self._accept(inbound)
            except asyncio.CancelledError:
                inbound.close()
                raise

        return serve_connection()


class _Inbound:
    """An accepted connection; implements `Inbound`."""

    def __init__(self, network: HostNetwork, end: End) -> None:
        self._network, self._end = network, end
        self._started = False

    @property
    def peer(self) -> Address:
        """See `Inbound.peer`."""
        return self._end.peer

    async def first_byte(self) -> int | None:
        """See `Inbound.first_byte`."""
        data = await self._end.peek(1)
        return data[0] if data else None

    async def hello(self) -> ClientHello | None:
        """See `Inbound.hello`."""
        return await read_hello(self._end)

    async def start(self, protocol: P, *, tls: TlsAccept | None, skip: int = 0) -> P:
        """See `Inbound.start`."""
        assert not self._started
        self._started = True
        end = self._end
        try:
            credentials = None if tls is None else self._network.credentials()
            if credentials is not None and credentials.own is None:
                raise TlsDisabled("incoming TLS disabled: no CA or no certificate")
            if len(await end.peek(skip)) < skip:
                raise ConnectionResetError("the connection ended before its first bytes")
            if skip:
                end.take(skip)
            if tls is None or credentials is None:
                end.start(protocol)
                return protocol
            _, certificate = await accept_handshake(end, tls, credentials)
            if tls.require_client and tls.alpn:
                self._network.check_client(certificate)
        except (HandshakeFailed, ProtocolError):
            end.close()
            raise
        except BaseException:
            end.abort()
            raise
        end.start(protocol, peer_certificate=certificate, is_tls=True)
        return protocol

    def close(self) -> None:
        """See `Inbound.close`."""
        if not self._started:
            self._end.close()


class _Datagrams(asyncio.DatagramTransport):
    """An open UDP socket."""

    def __init__(self, fabric: Fabric, host: Host, address: str, port: int) -> None:
        super().__init__()
        self._fabric, self._host, self._address = fabric, host, (address, port)
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[bytes, Address] | OSError] = deque()
        self._waiting_size = 0
        self._read_due = False
        self._protocol: asyncio.DatagramProtocol

    def start(self, protocol: asyncio.DatagramProtocol) -> None:
        """Run a protocol on the socket."""
        self._protocol = protocol
        protocol.connection_made(self)

    def sendto(self, data: Any, addr: Any = None) -> None:
        """See `asyncio.DatagramTransport.sendto`."""
        fabric, host = self._fabric, self._host
        target = fabric.find(host, addr[0])
        if target is None:
            return
        try:
            fabric.check_way(host, target, "datagram")
        except OSError as error:
            self._protocol.error_received(error)
            return
        source = self._address if target is host else (host.addresses[0], self._address[1])
        for arrival in fabric._carry(host, target, len(data) + DATAGRAM_HEADER_SIZE):
            fabric.timeline.call_at(
                arrival, self._arrive, target, bytes(data), (addr[0], addr[1]), source
            )

    def _arrive(self, target: Host, data: bytes, address: Address, source: Address) -> None:
        if target.is_down:
            return
        self._fabric.arrived("udp", self._host, target, len(data))
        there = target.find(target.sockets, address)
        if there is not None:
            there.put((data, source), len(data))
            return
        back = self._fabric.carry(target, self._host, DATAGRAM_HEADER_SIZE)
        if back is not None:
            self._fabric.timeline.call_at(back, self.put, DatagramRefused(*address), 0)

    def put(self, item: tuple[bytes, Address] | OSError, size: int) -> None:
        """Something arrived for the program."""
        if self._loop.is_closed() or self._waiting_size + size > DATAGRAM_BUFFER_SIZE:
            return
        self._waiting.append(item)
        self._waiting_size += size
        if not self._read_due:
            self._read_due = True
            self._loop.call_soon(self._read)

    def _read(self) -> None:
        self._read_due = False
        for _ in range(len(self._waiting)):
            item = self._waiting.popleft()
            if isinstance(item, OSError):
                self._protocol.error_received(item)
            else:
                self._waiting_size -= len(item[0])
                self._protocol.datagram_received(*item)
            if self.is_closing():
                return

    def close(self) -> None:
        """See `asyncio.BaseTransport.close`."""
        with suppress(KeyError):
            del self._host.sockets[self._address]
        self._waiting.clear()
        self._waiting_size = 0

    def is_closing(self) -> bool:
        """Whether it is closed."""
        return self._host.sockets.get(self._address) is not self


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"
