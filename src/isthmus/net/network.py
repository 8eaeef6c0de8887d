"""What `net/` needs of the outside: dialling, listening, datagrams.

Everything above speaks to a `Network`, so that the same agent runs on sockets
(`SocketNetwork` in `net.sockets`) and on the simulator's virtual network. TLS is asked for by
names (server name, ALPN); certificates are the network's own business.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from isthmus.wire.tlshello import ClientHello

P = TypeVar("P", bound=asyncio.BaseProtocol)


@dataclass(frozen=True, slots=True)
class TlsDial:
    """How to speak TLS as the dialling side.

    Attributes:
        server_name: SNI, also the name that the peer's certificate must carry; empty: no SNI,
            the chain is checked and the name is not (Consul without `verify_server_hostname`).
        alpn: The one protocol offered; empty for none.
    """

    server_name: str
    alpn: str = ""


@dataclass(frozen=True, slots=True)
class TlsAccept:
    """How to speak TLS as the accepting side.

    Attributes:
        require_client: A certificate of the agents' CA is demanded.
        alpn: Whether our ALPN names are offered (native TLS on the server port).
        http: Whether ``http/1.1`` is offered instead; who offers other names is served, too.
    """

    require_client: bool
    alpn: bool
    http: bool = False


class DatagramRefused(ConnectionRefusedError):
    """Nobody listens where a datagram of ours was sent: its host said so.

    Given to `error_received` of a datagram protocol; the socket goes on. Not every network tells.

    Attributes:
        address: Textual IP address and port that the datagram was sent to.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"nobody listens at {host} port {port}")
        self.address = (host, port)


class Inbound(Protocol):
    """An accepted connection from which nothing has been taken yet.

    It belongs to no event loop until `start`: it may be handed to another thread's loop first.
    """

    @property
    def peer(self) -> tuple[str, int]:
        """Address and port it comes from."""

    async def first_byte(self) -> int | None:
        """Look at the first byte without taking it; None when the peer closed first."""

    async def hello(self) -> ClientHello | None:
        """Look at the TLS ClientHello without taking it; None when it is no TLS.

        Raises:
            ProtocolError: It starts like one and is malformed or too long.
        """

    async def start(self, protocol: P, *, tls: TlsAccept | None, skip: int = 0) -> P:
        """Take `skip` bytes off, do the TLS handshake if asked, run `protocol` on this loop.

        Raises:
            ssl.SSLError, OSError: The handshake failed; the connection is closed.
        """

    def close(self) -> None:
        """Close it unread."""


class Listening(Protocol):
    """An open listening port."""

    @property
    def address(self) -> tuple[str, int]:
        """Address and port, the real one when 0 was asked for."""

    async def close(self) -> None:
        """Stop accepting; accepted connections go on."""


class Network(Protocol):
    """Dial, listen, datagrams."""

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
        """Connect, do the TLS handshake if asked, run a protocol on the running loop.

        Args:
            factory: Makes the protocol; its `connection_made` has run on return.
            host: Address or name.
            port: TCP port.
            tls: Names for TLS; None for plain TCP.
            timeout: Seconds for the whole of it: resolving, connect and handshake.
            source_host: Address to bind to; empty: the system's choice.
            preamble: Sent in clear before the TLS handshake: the type byte that announces it.

        Raises:
            OSError, ssl.SSLError, TimeoutError: Not connected; nothing is left open.
        """

    async def listen(
        self, host: str, port: int, accept: Callable[[Inbound], Awaitable[None]]
    ) -> Listening:
        """Listen on TCP; `accept` runs as a task of its own for every connection."""

    async def datagram(
        self, factory: Callable[[], asyncio.DatagramProtocol], host: str, port: int
    ) -> asyncio.DatagramTransport:
        """Open a UDP socket.

        Its protocol's `error_received` is given a `DatagramRefused` when a packet was refused by
        where it went; any other error given during `sendto` means that this packet did not go out.
        """
