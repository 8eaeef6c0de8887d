"""A client agent's figures, collected when somebody asks; see `agent.metrics`."""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Protocol

from isthmus.agent.metrics import (
    HttpDoor,
    NamedMetrics,
    Pool,
    counted,
    gossip_figures,
    measured,
    pool_stats,
)
from isthmus.agent.server_calls import ServerCalls
from isthmus.config.model import TelemetryConfig
from isthmus.model.metric import Metric, Metrics


class Connections(Protocol):
    """What is needed of the connections to servers."""

    @property
    def call_count(self) -> int:
        """Calls in flight."""

    @property
    def connection_count(self) -> int:
        """Connections, those being dialled included."""


class ClientMetrics(NamedMetrics):
    """Collects the figures of a client agent.

    Args:
        config: Names.
        host: Our host's name.
        calls: To the servers of our datacenter.
        pool: The LAN pool; None while there is none.
        connections: To servers.
        http: The HTTP server.
        wall: Reads the calendar clock.
        clock: Reads the loop's clock; figures cover the time from now on.
    """

    def __init__(
        self,
        config: TelemetryConfig,
        *,
        host: str,
        calls: ServerCalls,
        pool: Callable[[], Pool | None],
        connections: Connections,
        http: HttpDoor,
        wall: Callable[[], datetime],
        clock: Callable[[], float],
    ) -> None:
        super().__init__(config, host=host)
        self._calls, self._pool, self._connections, self._http = calls, pool, connections, http
        self._wall, self._clock, self._started_at = wall, clock, clock()

    async def collect(self) -> Metrics:
        """Every figure as it is now."""
        pool = self._pool()
        pools = {} if pool is None else {"lan": await pool_stats(pool.stats())}
        found = (*self._rpc(), *self._health(pools), *gossip_figures(pools))
        return Metrics(self._wall(), self._clock() - self._started_at, found)

    def _rpc(self) -> Iterator[Metric]:
        about = "Calls that servers were to answer."
        yield self._counter("client.rpc", self._calls.call_count, about)
        for server, failures in sorted(self._calls.failures.items()):
            about = "Attempts to have this server answer that failed."
            yield self._counter("client.rpc.failed", failures, about, server=server)
        about = "Servers of our datacenter that are known."
        yield measured("isthmus.client.servers", len(self._calls.servers), about)
        about = "Open connections to servers."
        yield measured("isthmus.client.connections", self._connections.connection_count, about)
        about = "Calls that wait for a server's answer."
        yield measured("isthmus.client.calls.running", self._connections.call_count, about)
        about = "Open HTTP connections."
        yield measured("isthmus.http.connections", self._http.connection_count, about)
        about = "Connections aborted because all of a port together held too much memory."
        yield counted("isthmus.connections.aborted", self._http.aborted_count, about, port="http")
