"""The door's ports: UDP and TCP."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import datetime
from random import Random
from typing import Any, Final, Protocol

from isthmus.dns.config import OFF, DnsConfig
from isthmus.dns.connection import Connection
from isthmus.dns.datagrams import WILDCARDS, AnyAddressPort
from isthmus.dns.door import Door, OtherNames
from isthmus.dns.lookups import Lookups, Rpc
from isthmus.names import host_port
from isthmus.net.network import Inbound, Listening, Network
from isthmus.net.tasks import TaskScope

logger = logging.getLogger(__name__)

PENDING_MAX: Final = 4096
"""Requests that are being answered; further ones are answered "server failure"."""
CONNECTIONS_MAX: Final = 1024
CONNECTIONS_PER_CLIENT_MAX: Final = 128
IDLE_TIMEOUT: Final = 8.0
"""Seconds without a whole request after which a connection is closed."""

_SWEEP_INTERVAL: Final = 2.0


class UdpPort(Protocol):
    """An open UDP port."""

    def sendto(self, data: bytes, where: Any) -> None:
        """Send a datagram, now or never."""

    def close(self) -> None:
        """Close it."""


class DnsServer:
    """Answers DNS on this agent's addresses.

    Attributes:
        door: Counts what is asked.
        lookups: Counts what is looked up.

    Args:
        config: Addresses, limits, contents.
        rpc: The way to the data.
        is_here: Whether calls with that ``allow_stale``, about our datacenter, are answered in
            this process without waiting for anything.
        cached: The same as `rpc`, from a cache where it can; None: there is no cache.
        network: Where ports are opened.
        rng: Source of orders and ids.
        wall: Reads the calendar clock.
    """

    def __init__(
        self,
        config: DnsConfig,
        rpc: Rpc,
        *,
        is_here: Callable[[bool], bool],
        cached: Rpc | None = None,
        network: Network,
        rng: Random,
        wall: Callable[[], datetime],
    ) -> None:
        self._config, self._network, self._rng = config, network, rng
        self.lookups = Lookups(config, rpc, is_here=is_here, cached=cached)
        self.door = Door(
            config,
            self.lookups,
            self._recursor(config),
            rng=rng,
            wall=lambda: wall().timestamp(),
        )
        self._tasks = TaskScope()
        self._udp: list[UdpPort] = []
        self._tcp: list[Listening] = []
        self._connections: set[Connection] = set()
        self._clients: Counter[str] = Counter()
        self._sweep: asyncio.TimerHandle | None = None

    async def start(self) -> list[str]:
        """Open all ports.

        Returns:
            What is listened on, ``127.0.0.1:8600``, in order of the configuration.

        Raises:
            OSError: One cannot be opened; those before it have been closed again.
        """
        config = self._config
        if config.port == OFF:
            return []
        try:
            bound = [await self._listen(host, config.port) for host in config.addresses]
        except BaseException:
            await self.stop()
            raise
        return bound

    async def stop(self) -> None:
        """Close all ports and connections; what is being answered is given up."""
        if self._sweep is not None:
            self._sweep.cancel()
        for port in self._udp:
            port.close()
        for listening in self._tcp:
            await listening.close()
        self._udp, self._tcp = [], []
        for connection in list(self._connections):
            connection.abort()
        await self._tasks.close()
        await self.lookups.close()

    def reconfigure(self, config: DnsConfig) -> None:
        """Answer as another configuration wants it; addresses and port stay as they are.

        Raises:
            ValueError: A recursor is no address; nothing has changed.
        """
        self.door.reconfigure(config, self._recursor(config))
        self._config = config

    # Requests -------------------------------------------------------------------------------------

    def receive_datagram(self, data: bytes, client: str, source: Any, port: "UdpPort") -> None:
        """Answer a request that came by UDP.

        Args:
            data: The request.
            client: IP address that it comes from.
            source: Where the answer goes, as the port understands it.
            port: That it came to.
        """
        found = self.door.receive(data, client, tcp=False)
        if found is None:
            return
        if isinstance(found, bytes):
            port.sendto(found, source)
        elif len(self._tasks) >= PENDING_MAX:
            found.close()
            port.sendto(self.door.overloaded(data), source)
        else:
            self._tasks.spawn(self._answer_datagram(found, source, port))

    def submit(self, data: bytes, client: str, connection: Connection) -> bool:
        """See `dns.connection.Answering`."""
        found = self.door.receive(data, client, tcp=True)
        if found is None:
            return False
        if not isinstance(found, bytes) and len(self._tasks) < PENDING_MAX:
            self._tasks.spawn(self._answer_connection(found, connection))
            return True
        if not isinstance(found, bytes):
            found.close()
            found = self.door.overloaded(data)
        # Not from within: the connection is still taking requests apart.
        asyncio.get_running_loop().call_soon(connection.answer, found)
        return True

    async def _answer_datagram(
        self,
        answering: Coroutine[Any, Any, bytes],
        source: Any,
        port: "UdpPort",
    ) -> None:
        port.sendto(await answering, source)

    async def _answer_connection(
        self, answering: Coroutine[Any, Any, bytes], connection: Connection
    ) -> None:
        answer = None
        try:
            answer = await answering
        finally:
            connection.answer(answer)

    # Ports ----------------------------------------------------------------------------------------

    async def _listen(self, host: str, port: int) -> str:
        """Open both ports at an address: if any is wanted, the same for both."""
        listening = await self._network.listen(host, port, self._accept)
        self._tcp.append(listening)
        taken = listening.address[1]
        if host in WILDCARDS:
            self._udp.append(AnyAddressPort(host, taken, self.receive_datagram))
        else:
            self._udp.append(await self._network.datagram(lambda: _Datagrams(self), host, taken))
        return host_port(listening.address[0], taken)

    async def _accept(self, inbound: Inbound) -> None:
        client = inbound.peer[0]
        if (
            len(self._connections) >= CONNECTIONS_MAX
            or self._clients[client] >= CONNECTIONS_PER_CLIENT_MAX
        ):
            inbound.close()
            return
        connection = Connection(self, client)
        self._connections.add(connection)
        self._clients[client] += 1
        if self._sweep is None:
            self._schedule_sweep()
        try:
            await inbound.start(connection, tls=None)
        except OSError:
            self.closed(connection)

    def closed(self, connection: Connection) -> None:
        """See `dns.connection.Answering`."""
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        self._clients[connection.client] -= 1
        if not self._clients[connection.client]:
            del self._clients[connection.client]

    def _schedule_sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweep = loop.call_later(_SWEEP_INTERVAL, self._on_sweep)

    def _on_sweep(self) -> None:
        """Close connections on which no whole request came for long, or no answer is read."""
        deadline = asyncio.get_running_loop().time() - IDLE_TIMEOUT
        for connection in list(self._connections):
            if connection.is_idle and connection.heard_at < deadline:
                connection.abort()
        self._sweep = None
        if self._connections:
            self._schedule_sweep()

    def _recursor(self, config: DnsConfig) -> OtherNames | None:
        if not config.recursors:
            return None
        from isthmus.dns.recursor import Recursor  # 12 MiB, for those who have recursors.

        return Recursor(config.recursor_addresses, timeout=config.recursor_timeout, rng=self._rng)


class _Datagrams(asyncio.DatagramProtocol):
    """A UDP port."""

    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._server.receive_datagram(data, addr[0], addr, self._transport)

    def error_received(self, exc: Exception) -> None:
        """A client went away before its answer came."""
