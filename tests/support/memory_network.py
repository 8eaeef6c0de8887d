"""A network inside the process: implements `isthmus.net.network.Network` on one event loop."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from isthmus.net.network import Inbound, Listening, TlsAccept, TlsDial
from isthmus.wire.tlshello import ClientHello

P = TypeVar("P", bound=asyncio.BaseProtocol)
Address = tuple[str, int]


class MemoryTransport(asyncio.Transport):
    """One end of a connection."""

    def __init__(self) -> None:
        super().__init__()
        self.other: MemoryTransport
        self.protocol: asyncio.Protocol | None = None
        self._waiting: list[bytes] = []
        self._paused = True
        self._closed = self._ended = False

    def start(self, protocol: asyncio.BaseProtocol) -> None:
        """Run a protocol on this end."""
        assert isinstance(protocol, asyncio.Protocol)
        self.protocol = protocol
        self._paused = False
        protocol.connection_made(self)
        if not self._paused:
            self.resume_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self.protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._closed:
            asyncio.get_running_loop().call_soon(self.other.receive, bytes(data))

    def receive(self, data: bytes) -> None:
        """Bytes from the other end."""
        self._waiting.append(data)
        if not self._paused:
            self.resume_reading()

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        while self._waiting and not self._paused and not self._closed and self.protocol:
            self.protocol.data_received(self._waiting.pop(0))
        if self._ended and not self._waiting:
            self.close()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        loop = asyncio.get_running_loop()
        if self.protocol is not None:
            loop.call_soon(self.protocol.connection_lost, None)
        loop.call_soon(self.other.end)

    def end(self) -> None:
        """The other end was closed."""
        self._ended = True
        if not self._paused:
            self.resume_reading()

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self._closed


class MemoryInbound:
    """An accepted connection."""

    def __init__(self, transport: MemoryTransport, peer: Address = ("192.0.2.1", 1)) -> None:
        self._transport, self._peer = transport, peer
        self.tls: TlsAccept | None = None
        self.is_started = self.closed = False

    @property
    def peer(self) -> Address:
        return self._peer

    async def first_byte(self) -> int | None:
        raise NotImplementedError

    async def hello(self) -> ClientHello | None:
        raise NotImplementedError

    async def start(self, protocol: P, *, tls: TlsAccept | None, skip: int = 0) -> P:
        self.tls, self.is_started = tls, True
        self._transport.start(protocol)
        return protocol

    def close(self) -> None:
        self.closed = True


def connection_pair() -> tuple[MemoryTransport, MemoryTransport]:
    """Two connected ends."""
    ends = MemoryTransport(), MemoryTransport()
    ends[0].other, ends[1].other = ends[1], ends[0]
    return ends


class _Listening:
    def __init__(self, network: "MemoryNetwork", address: Address) -> None:
        self._network, self.address = network, address

    async def close(self) -> None:
        self._network.listeners.pop(self.address, None)


class _Datagrams(asyncio.DatagramTransport):
    def __init__(
        self, network: "MemoryNetwork", address: Address, protocol: asyncio.DatagramProtocol
    ) -> None:
        super().__init__()
        self._network, self._address, self.protocol = network, address, protocol

    def sendto(self, data: Any, addr: Any = None) -> None:
        target = self._network.sockets.get(addr)
        if target is None:
            self.protocol.error_received(ConnectionRefusedError("nobody is there"))
        else:
            delay = self._network.delay(self._address, addr)
            loop = asyncio.get_running_loop()
            loop.call_later(delay, target.protocol.datagram_received, bytes(data), self._address)

    def close(self) -> None:
        self._network.sockets.pop(self._address, None)


class MemoryNetwork:
    """Addresses and who listens there."""

    def __init__(self) -> None:
        self.listeners: dict[Address, Callable[[Inbound], Awaitable[None]]] = {}
        self.sockets: dict[Address, _Datagrams] = {}
        self.delay: Callable[[Address, Address], float] = lambda source, target: 0.0
        """Seconds that a datagram takes from one address to another."""
        self.tasks: set[asyncio.Task[None]] = set()
        self._port = 20000

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
        accept = self.listeners.get((host, port))
        if accept is None:
            raise ConnectionRefusedError("connection refused")
        near, far = connection_pair()
        protocol = factory()
        near.start(protocol)
        task = asyncio.ensure_future(_run(accept, MemoryInbound(far)))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return protocol

    async def listen(
        self, host: str, port: int, accept: Callable[[Inbound], Awaitable[None]]
    ) -> Listening:
        if not port:
            self._port += 1
            port = self._port
        if (host, port) in self.listeners:
            raise OSError("address already in use")
        self.listeners[host, port] = accept
        return _Listening(self, (host, port))

    async def datagram(
        self, factory: Callable[[], asyncio.DatagramProtocol], host: str, port: int
    ) -> asyncio.DatagramTransport:
        protocol = factory()
        transport = self.sockets[host, port] = _Datagrams(self, (host, port), protocol)
        protocol.connection_made(transport)
        return transport


async def _run(accept: Callable[[Inbound], Awaitable[None]], inbound: Inbound) -> None:
    await accept(inbound)
