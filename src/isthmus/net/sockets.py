"""The `Network` of the operating system: TCP, TLS, UDP.

Accepted connections are looked at with ``MSG_PEEK`` before anything is taken from them, so that
TLS, type bytes and another thread's loop each find every byte in place.
"""

import asyncio
import errno
import logging
import socket
import ssl
from asyncio import sslproto
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from isthmus.errors import ProtocolError
from isthmus.names import host_port
from isthmus.net.datagrams import open_datagrams
from isthmus.net.network import Inbound, Listening, TlsAccept, TlsDial
from isthmus.net.tasks import TaskScope
from isthmus.net.tls import (
    AlpnRefused,
    HandshakeEnded,
    HandshakeFailed,
    TlsConfigurator,
    TlsDisabled,
    describe,
)
from isthmus.wire.tlshello import HELLO_SIZE_MAX, ClientHello, parse_client_hello

P = TypeVar("P", bound=asyncio.BaseProtocol)

BACKLOG: Final = 1024
"""Connections that the kernel holds until we accept them."""
ACCEPTING_MAX: Final = 4096
"""Accepted connections of one port whose first bytes are awaited; more are closed at once."""

_PEEK_SIZE: Final = HELLO_SIZE_MAX + 1024  # The hello and its record headers.
_SHUTDOWN_TIMEOUT: Final = 2.0  # For the peer's close-notify; then the connection is dropped.
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 9}  # Go's defaults.
_ACCEPT_PAUSE: Final = 0.1  # After an error, such as running out of file descriptors.

_TLS_READ_SIZE: Final = 32 * 1024  # A whole TLS record, and what TCP brings with it.

# Every TLS connection of asyncio holds a buffer of this size, all of it resident, and each of its
# reads makes room for as much: 256 KiB, which a thousand idle connections cannot have. There is
# no public way to say so.
sslproto.SSLProtocol.max_size = _TLS_READ_SIZE

_logger = logging.getLogger(__name__)


class SocketNetwork:
    """Implements `isthmus.net.network.Network`. May be used from several threads' loops.

    Args:
        tls: Certificates; None: no TLS, and asking for it fails.
    """

    def __init__(self, tls: TlsConfigurator | None = None) -> None:
        self._tls = tls

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
        """See `Network.dial`.

        Args:
            factory: As there.
            host: As there.
            port: As there.
            tls: As there.
            timeout: As there.
            source_host: As there.
            preamble: Sent in clear before the TLS handshake: the type byte that announces it.

        Raises:
            HandshakeFailed: TLS failed, in words; also a connection reset during the handshake.
            TimeoutError: Its text says which step took too long.
            OSError: No connection.
        """
        context = None if tls is None else self._configurator().outgoing(tls)
        address = host_port(host, port)
        step = f"connect to {address}"
        try:
            async with asyncio.timeout(timeout):
                sock = await _connect(host, port, source_host, timeout)
                step = f"TLS handshake with {address}"
                try:
                    if preamble:
                        await asyncio.get_running_loop().sock_sendall(sock, preamble)
                except BaseException:
                    sock.close()
                    raise
                return await _start_dialled(factory, sock, context, tls)
        except TimeoutError:
            raise TimeoutError(f"{step} took longer than {timeout:.3g} s") from None

    async def listen(
        self, host: str, port: int, accept: Callable[[Inbound], Awaitable[None]]
    ) -> Listening:
        """See `Network.listen`."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setblocking(False)
            sock.bind((host, port))
            sock.listen(BACKLOG)
        except BaseException:
            sock.close()
            raise
        return _SocketListening(sock, accept, self._tls)

    async def datagram(
        self, factory: Callable[[], asyncio.DatagramProtocol], host: str, port: int
    ) -> asyncio.DatagramTransport:
        """See `Network.datagram`."""
        return await open_datagrams(factory, host, port)

    def _configurator(self) -> TlsConfigurator:
        if self._tls is None:
            raise TlsDisabled("TLS disabled: no CA or no certificate")
        return self._tls


class _SocketListening:
    """A listening socket with the task that accepts on it."""

    def __init__(
        self,
        sock: socket.socket,
        accept: Callable[[Inbound], Awaitable[None]],
        tls: TlsConfigurator | None,
    ) -> None:
        self._sock, self._accept, self._tls = sock, accept, tls
        host, port = sock.getsockname()[:2]
        self._address = (host, port)
        self._accepting = TaskScope()  # Goes on after `close`.
        self._loop_scope = TaskScope()
        self._loop_scope.spawn(self._run())

    @property
    def address(self) -> tuple[str, int]:
        """See `Listening.address`."""
        return self._address

    async def close(self) -> None:
        """See `Listening.close`."""
        await self._loop_scope.close()
        self._sock.close()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, peer = await loop.sock_accept(self._sock)
            except ConnectionAbortedError:
                continue  # The peer left before we came to it.
            except OSError as error:
                if error.errno == errno.EBADF:
                    raise
                _logger.warning("cannot accept a connection: %s", error)
                await asyncio.sleep(_ACCEPT_PAUSE)
                continue
            if len(self._accepting) >= ACCEPTING_MAX:
                sock.close()
                continue
            _set_options(sock)
            self._accepting.spawn(self._serve(_SocketInbound(sock, peer[:2], self._tls)))

    async def _serve(self, inbound: "_SocketInbound") -> None:
        try:
            await self._accept(inbound)
        except asyncio.CancelledError:
            inbound.close()
            raise
        except AssertionError:
            raise
        except OSError as error:  # The peer left before we came to it.
            inbound.close()
            _logger.debug("a connection ended at once: %s", error)
        except Exception:
            inbound.close()
            _logger.exception("accepting a connection failed", extra={"peer": inbound.peer[0]})


class _SocketInbound:
    """An accepted socket; implements `Inbound`."""

    def __init__(
        self, sock: socket.socket, peer: tuple[str, int], tls: TlsConfigurator | None
    ) -> None:
        self._sock, self._peer, self._tls = sock, peer, tls
        self._started = False

    @property
    def peer(self) -> tuple[str, int]:
        """See `Inbound.peer`."""
        return self._peer

    async def first_byte(self) -> int | None:
        """See `Inbound.first_byte`."""
        try:
            data = await self._peek(1)
        except OSError:
            return None
        return data[0] if data else None

    async def hello(self) -> ClientHello | None:
        """See `Inbound.hello`. The caller limits the time."""
        first = await self.first_byte()
        if first != 0x16:
            return None
        have = 1
        while True:
            try:
                data = await self._peek(have)
            except OSError as error:
                raise ProtocolError(f"connection ended within its ClientHello: {error}") from None
            hello = parse_client_hello(data)
            if hello is not None:
                return hello
            if len(data) < have or len(data) >= _PEEK_SIZE:
                raise ProtocolError("connection ended within its ClientHello")
            have = len(data) + 1

    async def start(self, protocol: P, *, tls: TlsAccept | None, skip: int = 0) -> P:
        """See `Inbound.start`.

        With a client certificate demanded and ALPN offered (native TLS), a client whose
        certificate is not a server's is refused before `protocol` sees anything.
        """
        assert not self._started
        self._started = True
        sock = self._sock
        try:
            context = None if tls is None else self._configurator().incoming(tls)
            if skip:
                await self._skip(skip)
        except BaseException:
            sock.close()
            raise
        loop = asyncio.get_running_loop()
        if tls is None or context is None:
            await loop.connect_accepted_socket(lambda: protocol, sock)
            return protocol
        gate = _Gate(protocol, self._configurator() if tls.require_client and tls.alpn else None)
        with _Teller(sock):
            await loop.connect_accepted_socket(
                lambda: gate, sock, ssl=context, ssl_shutdown_timeout=_SHUTDOWN_TIMEOUT
            )
        if gate.refusal is not None:
            raise gate.refusal
        return protocol

    def close(self) -> None:
        """See `Inbound.close`; a connection that was started belongs to its protocol."""
        if not self._started:
            self._sock.close()

    def _configurator(self) -> TlsConfigurator:
        if self._tls is None:
            raise TlsDisabled("TLS disabled: no CA or no certificate")
        return self._tls

    async def _skip(self, size: int) -> None:
        if len(await self._peek(size)) < size:
            raise ConnectionResetError("the connection ended before its first bytes")
        taken = self._sock.recv(size)
        assert len(taken) == size

    async def _peek(self, size_min: int) -> bytes:
        """Wait for `size_min` bytes, or the end; return what is there without taking it."""
        loop = asyncio.get_running_loop()
        readable = False
        while True:
            try:
                data = self._sock.recv(1 if size_min == 1 else _PEEK_SIZE, socket.MSG_PEEK)
            except BlockingIOError:
                data = None
            if data is not None and (len(data) >= size_min or not data or readable):
                return data  # Readable without enough bytes: there will be no more.
            # The kernel must not wake us for the bytes that we know.
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size_min)
            waiter: asyncio.Future[None] = loop.create_future()
            loop.add_reader(self._sock, _wake, waiter)
            try:
                await waiter
            finally:
                loop.remove_reader(self._sock)
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            readable = True


class _Gate(asyncio.Protocol):
    """Stands in for a protocol until its peer's certificate is found to be a server's."""

    def __init__(self, inner: asyncio.BaseProtocol, tls: TlsConfigurator | None) -> None:
        self._inner, self._tls = inner, tls
        self.refusal: HandshakeFailed | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if self._tls is not None:
            try:
                self._tls.check_client(transport.get_extra_info("peercert"))
            except HandshakeFailed as refusal:
                self.refusal = refusal
                transport.abort()
                return
        transport.set_protocol(self._inner)
        self._inner.connection_made(transport)


class _Teller:
    """Context manager around a handshake: tells the peer the alert why it failed.

    asyncio closes the socket without it. Every error but a cancellation leaves as
    `HandshakeFailed`.
    """

    def __init__(self, sock: socket.socket) -> None:
        try:
            self._sock = sock.dup()
        except OSError:
            sock.close()
            raise

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with self._sock:
            if isinstance(error, HandshakeFailed):
                if error.alert:
                    _send_alert(self._sock, error.alert)
                raise error
            if isinstance(error, ssl.SSLError):
                raise HandshakeFailed(describe(error)) from error
            if isinstance(error, OSError) and not isinstance(error, TimeoutError):
                raise HandshakeEnded("the peer ended the connection in the handshake") from error


def _send_alert(sock: socket.socket, alert: bytes) -> None:
    try:
        sock.send(alert)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        return  # The peer has gone; nobody is left to be told.


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _set_options(sock: socket.socket) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


async def _resolve(host: str, port: int) -> list[tuple[int, Any]]:
    """Families and addresses of a host; an address is not looked up."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return [(family, (host, port))]
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]


async def _connect(host: str, port: int, source_host: str, timeout: float) -> socket.socket:
    """Connect to the first address that answers; each has its share of the time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    addresses = await _resolve(host, port)
    failure: OSError = OSError(errno.EADDRNOTAVAIL, f"no address for {host}")
    for left, (family, address) in zip(range(len(addresses), 0, -1), addresses, strict=True):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            _set_options(sock)
            if source_host and (":" in source_host) == (family == socket.AF_INET6):
                sock.bind((source_host, 0))
            async with asyncio.timeout((deadline - loop.time()) / left):
                await loop.sock_connect(sock, address)
        except OSError as error:  # TimeoutError is one.
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure


async def _start_dialled(
    factory: Callable[[], P],
    sock: socket.socket,
    context: ssl.SSLContext | None,
    tls: TlsDial | None,
) -> P:
    loop = asyncio.get_running_loop()
    if context is None or tls is None:
        _, protocol = await loop.create_connection(factory, sock=sock)
        return protocol
    with _Teller(sock):
        transport, protocol = await loop.create_connection(
            factory,
            sock=sock,
            ssl=context,
            server_hostname=tls.server_name,
            ssl_shutdown_timeout=_SHUTDOWN_TIMEOUT,
        )
        engine = transport.get_extra_info("ssl_object")
        if tls.alpn and engine.selected_alpn_protocol() != tls.alpn:
            transport.abort()
            raise AlpnRefused(f"the peer does not speak {tls.alpn}")
    return protocol
