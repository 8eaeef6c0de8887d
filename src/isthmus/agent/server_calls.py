"""A client agent's calls: every one goes to a server of its datacenter, whichever answers.

A read is repeated on another server when the connection under it breaks, a write only while it
surely was not sent. While no server is known, or none can be reached, calls are held for as long
as Consul holds them.

Source: protocol/rpc.md §7.
"""

import asyncio
import logging
from collections.abc import Callable
from random import Random
from typing import Any, Final, Protocol

from msgspec.structs import replace

from isthmus.agent.call_rate import CallRate
from isthmus.config.model import LimitConfig
from isthmus.errors import (
    CALL_PREFIX,
    CONNECT_PREFIX,
    NO_LEADER,
    RPC_RATE_EXCEEDED,
    ConnectionLost,
    DialFailed,
    IsthmusError,
    NoServers,
    ProtocolError,
    RemoteError,
    RequestError,
)
from isthmus.federation.router import ServerInfo
from isthmus.federation.servers import LanServers
from isthmus.model.methods import METHODS
from isthmus.model.query import DatacenterRequest, Empty, QueryOptions
from isthmus.net.client import PoolConfig, ServerTarget
from isthmus.server.forward import HOLD_TIME, QUERY_TIME_DEFAULT, RemoteCaller, call_timeout
from isthmus.units import SECOND, Duration

logger = logging.getLogger(__name__)

RETRY_MIN: Final = 0.02
RETRY_MAX: Final = 0.4
"""Seconds between two rounds over all servers; news of a server begin one at once."""
PING_TIMEOUT: Final = 5.0
LEADER_TIMEOUT: Final = 1.0
"""Seconds in which a server tells whether there is a leader: it never has to wait for one."""
WAIT_MIN: Final = 1.0
"""Seconds that a repeated blocking read waits at least."""

POOL: Final = PoolConfig(
    dial_timeout=3.0,  # The next server is near, and waits.
    connections_max=128,  # Twice the servers that are listed: a moved one has two for a while.
    calls_max=16_384,
)
"""One connection to each server that is called, closed when the calls go elsewhere."""


class Connections(RemoteCaller, Protocol):
    """Calls one server; `net.pool.RpcPool` does."""

    def forget(self, target: ServerTarget) -> None:
        """Use the connection to a server no more."""


class ServerCalls:
    """Has the servers of our datacenter answer calls.

    Attributes:
        call_count: Calls since the start.
        exceeded_count: Calls that were not made because there were too many.
        rate: How many may be made.
        failures: Attempts that failed, by server.

    Args:
        dc: Our datacenter.
        rng: Source of order and jitter.
        member_count: Members of the LAN pool now.
        limits: Of the calls.
        hold_time: Seconds for which calls are held.
    """

    def __init__(
        self,
        dc: str,
        *,
        rng: Random,
        member_count: Callable[[], int],
        limits: LimitConfig | None = None,
        hold_time: float = HOLD_TIME,
    ) -> None:
        self._dc, self._rng, self._member_count = dc, rng, member_count
        self._clock = asyncio.get_running_loop()
        self._servers = LanServers(rng=rng, now=self._clock.time())
        self._connections: Connections | None = None
        self._news = asyncio.Event()
        self._hold_time = hold_time
        self._closed = False
        self.call_count = self.exceeded_count = 0
        self.rate = CallRate(limits or LimitConfig(), now=self._clock.time())
        self.failures: dict[str, int] = {}

    def use(self, connections: Connections) -> None:
        """Take the connections over which servers are called."""
        self._connections = connections

    # Who is there ---------------------------------------------------------------------------------

    @property
    def servers(self) -> tuple[ServerInfo, ...]:
        """Servers that are known, in the order in which they would be called now."""
        return self._servers.in_order(now=self._clock.time())

    def put(self, server: ServerInfo) -> None:
        """A server joined, changed, or failed."""
        moved = self._servers.put(server)
        if moved is not None and self._connections is not None:
            self._connections.forget(_target(moved))
        self._tell()

    def remove(self, name: str) -> None:
        """A server left."""
        gone = self._servers.remove(name)
        self.failures.pop(name, None)
        if gone is not None and self._connections is not None:
            self._connections.forget(_target(gone))

    def stand_in(self, target: ServerTarget) -> ServerTarget:
        """Whom to ask as well, because the connection to `target` shows no sign of life."""
        for server in self.servers:
            if _target(server) == target:
                self._failed(server, "its connection shows no sign of life")
        return next(map(_target, self.servers), target)

    # Calls ----------------------------------------------------------------------------------------

    async def call(self, method: str, request: Any) -> Any:
        """Have a server answer; it passes on what is about another datacenter.

        Raises:
            NoServers: None was known for as long as calls are held.
            RemoteError: The server's own error, behind `CALL_PREFIX`.
            DialFailed: No server could be reached for as long.
            ConnectionLost: The connection broke; a write may have taken effect.
            Unavailable: Too many calls are in flight, or the agent stops.
            RequestError: There is no such method, or we made too many calls.
        """
        if method not in METHODS:
            raise RequestError(f"rpc: can't find method {method}")
        assert self._connections is not None
        if not self.rate.take(now=self._clock.time()):
            self.exceeded_count += 1
            raise RequestError(RPC_RATE_EXCEEDED, status=429)
        self.call_count += 1
        call = _Call(method, request, started=self._clock.time(), hold_time=self._hold_time)
        wait = RETRY_MIN
        while True:
            server = await self._next(call)
            if server is not None:
                answered, reply = await self._attempt(call, server)
                if answered:
                    return reply
                continue
            left = call.held_until - self._clock.time()
            if left <= 0 or self._closed:
                raise call.failure
            wait = min(RETRY_MAX, wait * 2)
            await self._wait_for_news(min(left, self._rng.uniform(wait / 2, wait)))
            call.tried.clear()

    async def _next(self, call: "_Call") -> ServerInfo | None:
        """Whom to ask now; None: everyone was asked in this round."""
        for server in self.servers:
            if server.name in call.tried:
                continue
            # Another waited for a leader all the time: go on only where one is known.
            is_held = not call.lacks_leader or self._clock.time() < call.held_until
            if is_held or await self._knows_leader(server):
                return server
            call.tried.add(server.name)
        return None

    async def _attempt(self, call: "_Call", server: ServerInfo) -> tuple[bool, Any]:
        """Ask a server: whether it answered, and what.

        Raises:
            RemoteError, ConnectionLost, Unavailable: As `call`; it is not to be repeated.
        """
        assert self._connections is not None
        call.tried.add(server.name)
        request = call.request_at(self._clock.time())
        read = METHODS[call.method].read
        try:
            reply = await self._connections.call(
                _target(server),
                call.method,
                request,
                METHODS[call.method].reply,
                timeout=call_timeout(request),
                repeatable=read,
            )
        except RemoteError as error:
            refusal = RemoteError(CALL_PREFIX + str(error), gateway=error.gateway)
            if not str(error).endswith(NO_LEADER):
                self._servers.answered(server)
                raise refusal from error
            self._failed(server, str(error))
            # It has held the call already, unless a blocking read was merely interrupted.
            since = self._clock.time() if call.blocks else call.started
            call.failed(refusal, since=since, lacks_leader=True)
        except DialFailed as error:
            self._failed(server, str(error))
            failure = DialFailed(
                CONNECT_PREFIX + str(error),
                dc=error.dc,
                node=error.node,
                gateway=error.gateway,
                step=error.step,
            )
            call.failed(failure, since=self._clock.time())
        except (ConnectionLost, ProtocolError) as error:
            self._failed(server, str(error))
            lost = ConnectionLost(CALL_PREFIX + str(error))
            if not read or self._closed:
                raise lost from error
            call.failed(lost, since=self._clock.time())
        else:
            self._servers.answered(server)
            return True, reply
        return False, None

    async def _knows_leader(self, server: ServerInfo) -> bool:
        assert self._connections is not None
        request = DatacenterRequest(datacenter=self._dc, allow_stale=True)
        try:
            return bool(
                await self._connections.call(
                    _target(server), "Status.Leader", request, str, timeout=LEADER_TIMEOUT
                )
            )
        except IsthmusError:
            return False

    async def run(self) -> None:
        """Change servers every few minutes, until cancelled."""
        while True:
            await asyncio.sleep(max(0.0, self._servers.next_timer() - self._clock.time()))
            self._servers.handle_timer(now=self._clock.time(), member_count=self._member_count())
            while outputs := self._servers.take_outputs():
                for output in outputs:
                    ok = await self._ping(output.server)
                    self._servers.pinged(output.server, ok=ok, now=self._clock.time())

    async def _ping(self, server: ServerInfo) -> bool:
        assert self._connections is not None
        try:
            await self._connections.call(
                _target(server), "Status.Ping", Empty(), Empty, timeout=PING_TIMEOUT
            )
        except IsthmusError as error:
            logger.info("server %s does not answer: %s", server.node, error)
            return False
        return True

    def close(self) -> None:
        """Hold no calls any more."""
        self._closed = True
        self._tell()

    def _failed(self, server: ServerInfo, text: str) -> None:
        self.failures[server.name] = self.failures.get(server.name, 0) + 1
        self._servers.failed(server, now=self._clock.time())
        logger.debug("server %s failed a call: %s", server.node, text, extra={"node": server.node})

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _wait_for_news(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return


class _Call:
    """A call and what became of it so far.

    Attributes:
        tried: Servers that were asked in this round.
        failure: What its caller gets if it is given up now.
        lacks_leader: Whether a server had no leader to pass it on to.
    """

    def __init__(self, method: str, request: Any, *, started: float, hold_time: float) -> None:
        self.method, self._request, self.started = method, request, started
        self._hold_time = hold_time
        self.tried: set[str] = set()
        self.failure: IsthmusError = NoServers()
        self.lacks_leader = False
        self._failing_since: float | None = None

    def failed(self, failure: IsthmusError, *, since: float, lacks_leader: bool = False) -> None:
        """An attempt failed; the call has been in trouble since then, unless since earlier."""
        self.failure, self.lacks_leader = failure, lacks_leader
        if self._failing_since is None:
            self._failing_since = since

    @property
    def blocks(self) -> bool:
        """Whether it is a read that waits for a change."""
        return isinstance(self._request, QueryOptions) and bool(self._request.min_query_index)

    @property
    def held_until(self) -> float:
        """When it is given up: a read may have waited for long when its server is lost."""
        since = self.started if self._failing_since is None else self._failing_since
        return since + self._hold_time

    def request_at(self, now: float) -> Any:
        """The request; one that blocks waits no longer than its caller expects."""
        request = self._request
        if not self.blocks:
            return request
        elapsed = now - self.started
        if elapsed < WAIT_MIN:
            return request
        wait = request.max_query_time / SECOND if request.max_query_time > 0 else QUERY_TIME_DEFAULT
        return replace(request, max_query_time=Duration.of(max(WAIT_MIN, wait - elapsed)))


def _target(server: ServerInfo) -> ServerTarget:
    return ServerTarget(server.dc, server.node, server.host, server.port)
