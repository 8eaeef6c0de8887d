"""The built-in mesh gateway as a program of the simulation.

The process that ships is one epoll loop on real sockets with a thread for its agent; here its
decisions run on a virtual loop: the registration, the route table that its agent sends, the
reading of the ClientHello, the order and patience in which endpoints are tried. Only what moves
bytes is made for the simulation.
"""

import asyncio
import io
import logging
from random import Random
from typing import BinaryIO, Final, cast
from urllib.parse import quote

import msgspec

from isthmus.errors import IsthmusError, ProtocolError, RequestError, Unavailable
from isthmus.gateway.agent import BODY_SIZE_MAX, Reply, read_reply
from isthmus.gateway.config import GatewayConfig
from isthmus.gateway.control import WAIT, WAIT_GRACE, Backoff
from isthmus.gateway.health import EndpointHealth
from isthmus.gateway.registration import GatewayService, listen_addresses, registration
from isthmus.mesh.routes import Endpoint, RouteTable
from isthmus.net.network import Inbound, Listening, Network
from isthmus.net.tasks import TaskScope
from isthmus.sim.stream import Address

_logger = logging.getLogger(__name__)

REGISTER_TIMEOUT: Final = 10.0
CONNECT_TIMEOUT: Final = 5.0
HELD_SIZE_MAX: Final = 64 * 1024
"""Bytes of one side that wait for the other; then no more are read."""
_PATIENCE_FACTOR: Final = 3.0


class _Collector(asyncio.Protocol):
    """Takes an answer to its end."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        if len(self.data) > BODY_SIZE_MAX:
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


async def request(
    network: Network,
    address: Address,
    method: str,
    target: str,
    *,
    body: bytes = b"",
    timeout: float,
) -> Reply:
    """Make one HTTP request on a connection of its own.

    Args:
        network: Where to dial.
        address: Of the agent.
        method: ``GET`` or ``PUT``.
        target: Path and query, quoted.
        body: JSON.
        timeout: Seconds for all of it.

    Raises:
        Unavailable: No answer.
        MalformedPacket: What answers does not speak HTTP.
    """
    lines = [f"{method} {target} HTTP/1.1", f"Host: {address[0]}", "Connection: close"]
    if method != "GET":
        lines += [f"Content-Length: {len(body)}", "Content-Type: application/json"]
    head = "\r\n".join(lines) + "\r\n\r\n"
    collector: _Collector | None = None
    try:
        async with asyncio.timeout(timeout):
            collector = await network.dial(_Collector, *address, tls=None, timeout=CONNECT_TIMEOUT)
            collector.transport.write(head.encode() + body)
            await collector.ended
        return read_reply(cast(BinaryIO, io.BytesIO(collector.data)))
    except OSError as error:
        raise Unavailable(f"agent at {address[0]}:{address[1]}: {error}") from error
    finally:
        if collector is not None:
            collector.transport.abort()


class ForwardingGateway:
    """A mesh gateway: a route table, kept up to date by its agent, and what it forwards.

    Args:
        network: Of its host.
        service: What it registers as; it listens on its LAN and WAN addresses.
        agent: Address of its agent's HTTP API.
        rng: Source of jitter.
        config: Limits and delays.

    Attributes:
        routes: The table in force.
        forwarded_size: Bytes moved so far.
    """

    def __init__(
        self,
        network: Network,
        service: GatewayService,
        *,
        agent: Address,
        rng: Random,
        config: GatewayConfig | None = None,
    ) -> None:
        self._network, self._service, self._agent = network, service, agent
        self._config = config or GatewayConfig()
        self._backoff = Backoff(rng)
        self._health = EndpointHealth(self._config)
        self._open: dict[_Side, None] = {}
        self.routes = RouteTable()
        self.forwarded_size = 0
        self._trouble = ""

    @property
    def connection_count(self) -> int:
        """Connections, those being dialled included."""
        return len(self._open)

    async def run(self) -> None:
        """Listen, register, follow the routes, until cancelled."""
        listening: list[Listening] = []
        try:
            for address in listen_addresses(self._service, wan_is_local=True):
                made = await self._network.listen(*address, self._accept)
                listening.append(made)
            await self._follow()
        finally:
            for port in listening:
                await port.close()

    # What the agent says.

    async def _follow(self) -> None:
        registered = False
        path = f"/v1/isthmus/gateway/{quote(self._service.id, safe='')}/routes"
        body = msgspec.json.encode(registration(self._service, wan_is_local=True))
        while True:
            try:
                if not registered:
                    await self._ask("PUT", "/v1/agent/service/register", body, REGISTER_TIMEOUT)
                    registered = True
                    _logger.info("registered with the agent")
                query = f"{path}?hash={self.routes.hash}&wait={WAIT}s"
                reply = await self._ask("GET", query, b"", WAIT + WAIT_GRACE)
                self._take(RouteTable.from_json(reply.body))
                self._backoff.reset()
                self._trouble = ""
            except IsthmusError as error:
                if isinstance(error, RequestError) and error.status == 404:
                    registered = False
                if str(error) != self._trouble:
                    self._trouble = str(error)
                    _logger.warning("no news from the agent: %s", error)
                await asyncio.sleep(self._backoff.take())

    async def _ask(self, method: str, target: str, body: bytes, timeout: float) -> Reply:
        reply = await request(
            self._network, self._agent, method, target, body=body, timeout=timeout
        )
        if reply.status != 200:
            raise RequestError(f"{target}: {reply.status} {reply.text}", status=reply.status)
        return reply

    def _take(self, table: RouteTable) -> None:
        if table.hash == self.routes.hash:
            return
        self.routes = table
        self._health.keep_only(
            {endpoint for route in table.routes.values() for endpoint in route.endpoints}
        )
        _logger.info("routes changed: %d, hash %s", len(table.routes), table.hash)

    # What is forwarded.

    async def _accept(self, inbound: Inbound) -> None:
        config = self._config
        try:
            async with asyncio.timeout(config.hello_timeout):
                hello = await inbound.hello()
        except (ProtocolError, TimeoutError):
            hello = None
        found = None if hello is None else self.routes.lookup(hello.server_name)
        if found is None or len(self._open) >= config.connections_max:
            inbound.close()
            return
        client = _Side(self)
        await inbound.start(client, tls=None)
        dial = _Dial(self, client, found[1].endpoints)
        scope = TaskScope()
        racing = scope.spawn(dial.run())
        await asyncio.wait({racing, client.lost}, return_when=asyncio.FIRST_COMPLETED)
        won = racing.result() if racing.done() and not racing.cancelled() else None
        await scope.close()
        if won is None or client.lost.done():
            client.abort()
            if won is not None:
                won.abort()
        else:
            client.join(won)


class _Dial:
    """Attempts to reach one of a route's endpoints for a client; the first that answers wins."""

    def __init__(
        self, gateway: ForwardingGateway, client: "_Side", endpoints: tuple[Endpoint, ...]
    ) -> None:
        self._gateway, self._client = gateway, client
        self._health, self._config = gateway._health, gateway._config
        self._loop = asyncio.get_running_loop()
        ordered = self._health.order(endpoints, now=self._loop.time())
        self._waiting = list(reversed(ordered[: self._config.attempts_max]))

    async def run(self) -> "_Side | None":
        """The endpoint that answered; None when none will."""
        await self._client.spoke
        hello = bytes(self._client.held)
        running: dict[asyncio.Task[_Side | None], Endpoint] = {}
        scope = TaskScope()
        won: _Side | None = None
        try:
            while won is None and (running or self._waiting):
                patience = None
                if self._waiting:
                    endpoint = self._waiting.pop()
                    running[scope.spawn(self._attempt(endpoint, hello))] = endpoint
                    answered = self._health.answer_seconds(endpoint)
                    patience = max(self._config.answer_patience, _PATIENCE_FACTOR * answered)
                    patience = patience if self._waiting else None
                done, _ = await asyncio.wait(
                    running, timeout=patience, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    del running[task]
                    side = task.result()
                    if won is None:
                        won = side
                    elif side is not None:
                        side.abort()
            now = self._loop.time()
            for endpoint in running.values():
                self._health.overtaken(endpoint, now=now)
        finally:
            await scope.close()
        return won

    async def _attempt(self, endpoint: Endpoint, hello: bytes) -> "_Side | None":
        began = self._loop.time()
        made: list[_Side] = []

        def make() -> _Side:
            made.append(_Side(self._gateway))
            return made[-1]

        answered = False
        try:
            side = await self._gateway._network.dial(
                make,
                endpoint.host,
                endpoint.port,
                tls=None,
                timeout=self._config.connect_timeout,
            )
            side.write(hello)
            await asyncio.wait({side.spoke, side.lost}, return_when=asyncio.FIRST_COMPLETED)
            answered = side.spoke.done()
        except OSError as error:
            _logger.debug("endpoint %s: %s", endpoint, error)
        finally:
            if not answered:
                for side in made:
                    side.abort()
        if not answered:
            self._health.failed(endpoint, now=self._loop.time())
            return None
        self._health.worked(endpoint, seconds=self._loop.time() - began)
        return made[-1]


class _Side(asyncio.Protocol):
    """One side of a forwarded connection; holds what it reads until it is joined to the other."""

    def __init__(self, gateway: ForwardingGateway) -> None:
        loop = asyncio.get_running_loop()
        self._gateway = gateway
        self._other: _Side | None = None
        self._transport: asyncio.Transport | None = None
        self._ended = False
        self.held = bytearray()
        self.spoke: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._gateway._open[self] = None

    def data_received(self, data: bytes) -> None:
        if self._other is not None:
            self._other.write(data)
            return
        self.held += data
        if not self.spoke.done():
            self.spoke.set_result(None)
        assert self._transport is not None
        if len(self.held) > HELD_SIZE_MAX:  # Before that we want to hear that it gives up.
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self._ended = True
        if self._other is not None:
            self._other.end()
            return not self._other._ended
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._gateway._open.pop(self, None)
        if not self.lost.done():
            self.lost.set_result(None)
        if self._other is not None:
            if error is None:
                self._other.close()
            else:
                self._other.abort()

    def pause_writing(self) -> None:
        if self._other is not None and self._other._transport is not None:
            self._other._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._other is not None and self._other._transport is not None:
            self._other._transport.resume_reading()

    def join(self, upstream: "_Side") -> None:
        """Forward both ways from now on; the upstream side has got the client's hello."""
        hello_size = len(self.held)
        self._other, upstream._other = upstream, self
        self.write(bytes(upstream.held))
        upstream.write(bytes(self.held[hello_size:]))
        for side in (self, upstream):
            side.held.clear()
            assert side._transport is not None
            side._transport.resume_reading()

    def write(self, data: bytes) -> None:
        self._gateway.forwarded_size += len(data)
        if self._transport is not None:
            self._transport.write(data)

    def end(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            if self._ended:
                self._transport.close()
            else:
                self._transport.write_eof()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Nobody wants this side."""
        if self._transport is not None:
            self._transport.abort()
