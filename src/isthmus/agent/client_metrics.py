"""A client agent's figures, collected when somebody asks; see `agent.metrics`."""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Protocol

from isthmus.agent.named_metrics import (
    DnsDoor,
    HttpDoor,
    MemberEvents,
    NamedMetrics,
    Pool,
    counted,
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
        dns: The DNS server's door.
        lan_events: What happened to members of the LAN pool.
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
        dns: DnsDoor,
        lan_events: MemberEvents,
        wall: Callable[[], datetime],
        clock: Callable[[], float],
    ) -> None:
        super().__init__(config, host=host, http=http, dns=dns, lan_events=lan_events)
        self._calls, self._pool, self._connections = calls, pool, connections
        self._wall, self._clock, self._started_at = wall, clock, clock()

    async def collect(self) -> Metrics:
        """Every figure as it is now."""
        pool = self._pool()
        pools = {} if pool is None else {"lan": await pool_stats(pool.stats())}
        found = (*self._doors(), *self._process(), *self._rpc(), *self._gossip(pools))
        seconds = self._clock() - self._started_at
        return Metrics(self._wall(), seconds, self._filter.choose(found))

    def _rpc(self) -> Iterator[Metric]:
        about = "Calls that servers were to answer."
        yield self._counter("client.rpc", self._calls.call_count, about)
        about = "Calls that were not made because there were too many."
        yield self._counter("client.rpc.exceeded", self._calls.exceeded_count, about)
        for server, failures in sorted(self._calls.failures.items()):
            about = "Attempts to have this server answer that failed."
            yield self._counter("client.rpc.failed", failures, about, server=server)
        about = "Servers of our datacenter that are known."
        yield measured("isthmus.client.servers", len(self._calls.servers), about)
        about = "Open connections to servers."
        yield measured("isthmus.client.connections", self._connections.connection_count, about)
        about = "Calls that wait for a server's answer."
        yield measured("isthmus.client.calls.running", self._connections.call_count, about)
        about = "Connections aborted because all of a port together held too much memory."
        yield counted("isthmus.connections.aborted", self._http.aborted_count, about, port="http")
