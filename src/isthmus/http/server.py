"""The door's listening ports: HTTP, HTTPS, unix sockets."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Final

from isthmus.http.access import Access
from isthmus.http.connection import Connection, http_date
from isthmus.http.connections import Connections
from isthmus.http.context import Context, ReadCache, Rpc
from isthmus.http.door import Door
from isthmus.http.local_agent import LocalAgent
from isthmus.http.repeats import Tables
from isthmus.http.request import Request
from isthmus.http.response import Response
from isthmus.http.unix_socket import SocketOwner, UnixSocket
from isthmus.model.timing import Timing
from isthmus.names import HTTP_PORT, host_port
from isthmus.net.network import Inbound, Listening, Network, TlsAccept
from isthmus.net.tasks import TaskScope

OFF: Final = -1
"""Port number of a listener that is not wanted."""
UNIX: Final = "unix://"
STOP_GRACE: Final = 0.5
"""Seconds that running requests have to end when the server stops."""
RECEIVE_TIMEOUT: Final = 60.0
"""Seconds that a request may take to arrive, give or take `_SWEEP_INTERVAL`."""

_SWEEP_INTERVAL: Final = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig:
    """What the operator configures.

    Attributes:
        addresses: Where HTTP listens: addresses, and ``unix://PATH``.
        port: HTTP port; 0 for any free one, `OFF` for none (unix sockets listen nevertheless).
        https_addresses: Where HTTPS listens.
        https_port: HTTPS port; `OFF` for none.
        https_verify_incoming: Whether HTTPS demands a client certificate of the agents' CA.
        https_handshake_timeout: Seconds for a TLS handshake.
        max_conns_per_client: Connections that one address may have.
        kv_value_size_max: Largest value of a key in bytes.
        translate_wan: Whether answers about other datacenters show WAN addresses.
        discovery_max_stale: Seconds that data may be old that catalog and health reads show which
            name no consistency; 0: it is the leader's.
        txn_size_max: Largest body of a transaction in bytes.
        response_headers: Set on every answer.
        block_endpoints: Paths that are refused, with all that start like them.
        write_networks: Networks whose clients may write; empty: everybody may.
        pretty: Whether JSON is indented without being asked (``-dev``).
        default_policy: What ACLs do without a rule: ``allow`` or ``deny``.
        allow_unprintable: Whether paths may hold unprintable characters.
        socket_owner: Who may open unix sockets.
    """

    addresses: tuple[str, ...] = ("127.0.0.1",)
    port: int = HTTP_PORT
    https_addresses: tuple[str, ...] = ("127.0.0.1",)
    https_port: int = OFF
    https_verify_incoming: bool = False
    https_handshake_timeout: float = 5.0  # Consul's default.
    max_conns_per_client: int = 200  # Consul's default.
    kv_value_size_max: int = 512 * 1024  # Consul's default.
    translate_wan: bool = False
    discovery_max_stale: float = 0.0
    txn_size_max: int = 512 * 1024  # Consul's default.
    response_headers: Mapping[str, str] = field(default_factory=dict)
    block_endpoints: tuple[str, ...] = ()
    write_networks: tuple[str, ...] = ()
    pretty: bool = False
    default_policy: str = "allow"
    allow_unprintable: bool = False
    socket_owner: SocketOwner = field(default_factory=SocketOwner)

    def __post_init__(self) -> None:
        assert self.max_conns_per_client > 0
        assert self.kv_value_size_max > 0
        assert self.txn_size_max > 0
        assert self.https_handshake_timeout > 0


class CannotListen(OSError):
    """A port or a unix socket cannot be opened; those before it have been closed again.

    Attributes:
        address: Of the configuration: ``127.0.0.1:8500``, ``unix:///run/isthmus.sock``.
        is_https: Whether HTTPS was to listen there.
    """

    def __init__(self, error: OSError, *, address: str, is_https: bool) -> None:
        super().__init__(error.errno, error.strerror or str(error))
        self.address, self.is_https = address, is_https


class HttpServer:
    """Consul's API on this agent's addresses.

    Args:
        config: Addresses and limits.
        rpc: The way to the data.
        local: The agent whose door this is.
        network: Where TCP ports are opened; it holds the certificates for HTTPS.
        wall: Reads the calendar clock.
        tables: What answers are made from, if it is in this process.
        cache: Keeps replies for callers who ask for that; None for no cache.
    """

    def __init__(
        self,
        config: HttpConfig,
        rpc: Rpc,
        local: LocalAgent,
        *,
        network: Network,
        wall: Callable[[], datetime] | None = None,
        tables: Tables | None = None,
        cache: ReadCache | None = None,
    ) -> None:
        self._config, self._network = config, network
        context = Context(
            rpc,
            local,
            pretty=config.pretty,
            kv_value_size_max=config.kv_value_size_max,
            txn_size_max=config.txn_size_max,
            cache=cache,
            translate_wan=config.translate_wan,
            discovery_max_stale=config.discovery_max_stale,
        )
        self._door = Door(
            context,
            response_headers=config.response_headers,
            default_policy=config.default_policy,
            allow_unprintable=config.allow_unprintable,
            tables=tables,
            access=Access(
                block_endpoints=config.block_endpoints, write_networks=config.write_networks
            ),
        )
        self._tasks = TaskScope()
        self._connections = Connections(
            per_client_max=config.max_conns_per_client,
            clock=http_date if wall is None else lambda: http_date(wall().timestamp()),
            tasks=self._tasks,
        )
        self._listening: list[Listening] = []
        self._unix: list[UnixSocket] = []
        self._sweep: asyncio.TimerHandle | None = None

    @property
    def connection_count(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    @property
    def aborted_count(self) -> int:
        """Clients dropped because unread answers held too much memory."""
        return self._connections.unsent.aborted_count

    async def answer(self, request: Request) -> Response:
        """Answer a request of our own agent's, which came over no connection."""
        return await self._door.handle(request)

    def reconfigure(self, config: HttpConfig) -> None:
        """Go by another `max_conns_per_client` and `https_verify_incoming` from now on.

        Connections that are open stay; all else in `config` needs another server.
        """
        self._connections.per_client_max = config.max_conns_per_client
        self._config = replace(
            self._config,
            max_conns_per_client=config.max_conns_per_client,
            https_verify_incoming=config.https_verify_incoming,
        )

    @property
    def timings(self) -> Mapping[tuple[str, str], Timing]:
        """Of requests, by method and by path of the endpoint."""
        return self._door.timings

    async def start(self) -> list[str]:
        """Open all ports.

        Returns:
            What is listened on, in order of the configuration: ``127.0.0.1:8500``,
            ``unix:///run/isthmus.sock``, those of HTTPS after those of HTTP.

        Raises:
            CannotListen: One cannot be opened; those before it have been closed again.
        """
        bound: list[str] = []
        config = self._config
        try:
            for host in config.addresses:
                if config.port != OFF or host.startswith(UNIX):
                    bound.append(await self._listen(host, config.port))  # noqa: PERF401
            if config.https_port != OFF:
                for host in config.https_addresses:
                    bound.append(await self._listen(host, config.https_port, is_https=True))  # noqa: PERF401
        except BaseException:
            await self.stop()
            raise
        self._schedule_sweep()
        return bound

    async def stop(self) -> None:
        """Close all ports and connections; requests that are running get `STOP_GRACE` seconds."""
        if self._sweep is not None:
            self._sweep.cancel()
        for listening in self._listening:
            await listening.close()
        for unix_socket in self._unix:
            unix_socket.close()
        self._listening, self._unix = [], []
        stopping = [connection.stop() for connection in self._connections.each()]
        running = [task for task in stopping if task is not None]
        if running:
            await asyncio.wait(running, timeout=STOP_GRACE)
        for connection in self._connections.each():
            connection.abort()
        await self._tasks.close()

    async def _listen(self, host: str, port: int, *, is_https: bool = False) -> str:
        if host.startswith(UNIX):
            assert not is_https  # The configuration's rules see to it.
            return await self._listen_unix(host)
        try:
            accept = partial(self._accept, is_https)
            listening = await self._network.listen(host, port, accept)
        except OSError as error:
            address = host_port(host, port)
            raise CannotListen(error, address=address, is_https=is_https) from error
        self._listening.append(listening)
        return host_port(*listening.address)

    async def _accept(self, is_https: bool, inbound: Inbound) -> None:
        if self._connections.ignores(inbound.peer[0], asyncio.get_running_loop().time()):
            inbound.close()
            return
        connection = Connection(self._door, self._connections, inbound.peer[0])
        if not is_https:
            await inbound.start(connection, tls=None)
            return
        config = self._config
        tls = TlsAccept(require_client=config.https_verify_incoming, alpn=False, http=True)
        try:
            async with asyncio.timeout(config.https_handshake_timeout):
                await inbound.start(connection, tls=tls)
        except OSError:  # Also TLS errors and the timeout: the client's business.
            inbound.close()

    async def _listen_unix(self, address: str) -> str:
        try:
            opened = await UnixSocket.open(
                address.removeprefix(UNIX),
                lambda: Connection(self._door, self._connections, ""),
                owner=self._config.socket_owner,
            )
        except OSError as error:
            raise CannotListen(error, address=address, is_https=False) from error
        self._unix.append(opened)
        return address

    def _schedule_sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweep = loop.call_later(_SWEEP_INTERVAL, self._on_sweep)

    def _on_sweep(self) -> None:
        """Close connections whose request does not come to an end."""
        deadline = asyncio.get_running_loop().time() - RECEIVE_TIMEOUT
        for connection in self._connections.each():
            connection.expire(deadline)
        self._schedule_sweep()
