"""The agent's figures, collected when somebody asks.

The parts keep plain numbers; nothing here costs a call more than an addition. Names that Consul
has, too, stand behind `telemetry.metrics_prefix` and mean what they mean there. Our own begin
with ``isthmus.``. Counts are those since the start; `agent.intervals` makes intervals of them.
Source: protocol/federation.md §24.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final, Protocol

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
from isthmus.config.model import TelemetryConfig
from isthmus.model.diagnosis import FederationReport, GatewayReport
from isthmus.model.methods import METHODS
from isthmus.model.metric import Metric, Metrics
from isthmus.model.operator import AutopilotHealthReply
from isthmus.model.timestamp import Timestamp
from isthmus.model.timing import Timing
from isthmus.server.endpoints import Forwarder
from isthmus.units import SECOND, Duration

FETCH: Final = "FederationState.List"

_CALLS: Final = {
    "FederationState.Apply": "apply",
    "FederationState.Get": "get",
    "FederationState.List": "list",
    "FederationState.ListMeshGateways": "list_mesh_gateways",
}
_TABLES: Final = {"nodes": "nodes", "services": "service_instances", "kv": "kv_entries"}
"""Consul's word for the rows of a table of ours."""
_TIMED: Final = {
    "Catalog.Register": "catalog.register",
    "Catalog.Deregister": "catalog.deregister",
    "ConfigEntry.Apply": "config_entry.apply",
    "ConfigEntry.Delete": "config_entry.delete",
    "ConfigEntry.Get": "config_entry.get",
    "ConfigEntry.List": "config_entry.list",
    "ConfigEntry.ListAll": "config_entry.listAll",
    "KVS.Apply": "kvs.apply",
    "PreparedQuery.Apply": "prepared-query.apply",
    "PreparedQuery.Execute": "prepared-query.execute",
    "PreparedQuery.ExecuteRemote": "prepared-query.execute_remote",
    "PreparedQuery.Explain": "prepared-query.explain",
    "Session.Apply": "session.apply",
    "Session.Renew": "session.renew",
    "Txn.Apply": "txn.apply",
    "Txn.Read": "txn.read",
}
"""Consul's words for calls whose time it tells, besides those about federation states."""
_QUERIES: Final = {
    "Catalog.ServiceNodes": "catalog.service.query",
    "Health.ServiceNodes": "health.service.query",
}
"""Consul's words for calls that it counts."""


class Listener(Protocol):
    """What is needed of the server port."""

    accepted_count: int
    refused_count: int

    @property
    def connection_count(self) -> int:
        """Connections that are open."""

    @property
    def aborted_count(self) -> int:
        """Connections aborted to save memory."""


class Watches(Protocol):
    """What is needed of the store's watches."""

    def __len__(self) -> int:
        """How many readers wait."""


class Store(Protocol):
    """What is needed of the store."""

    index: int

    @property
    def watches(self) -> Watches:
        """Readers that wait."""

    def row_counts(self) -> dict[str, int]:
        """Rows by table."""


class SessionTimers(Protocol):
    """What is needed of the server's session timers."""

    @property
    def active_count(self) -> int:
        """Sessions with a time to live."""

    @property
    def endings(self) -> Timing:
        """Of sessions that were ended because they outlived it."""


class Server(Protocol):
    """What is needed of the server; `server.server.Server` is one."""

    @property
    def store(self) -> Store:
        """Its tables."""

    @property
    def is_leader(self) -> bool:
        """Whether it leads."""

    @property
    def call_counts(self) -> Mapping[str, int]:
        """Calls by method."""

    request_count: int

    @property
    def timings(self) -> Mapping[str, Timing]:
        """Of calls that are timed, by method."""

    @property
    def commits(self) -> Timing:
        """Of writes to our own store, until they were durable."""

    @property
    def autopilot(self) -> AutopilotHealthReply | None:
        """How the servers were when the leader looked last; None elsewhere."""

    @property
    def sessions(self) -> "SessionTimers":
        """What ends sessions."""

    @property
    def write_timings(self) -> Mapping[tuple[str, str], Timing]:
        """Of writes of federation states, by datacenter and operation."""


class CrossDcCalls:
    """Passes calls to other datacenters on, and counts them.

    Attributes:
        counts: Calls by datacenter, of those that had servers.
        fetches: Of the federation states of another datacenter; see `fetching`.

    Args:
        remote: Carries them.
    """

    def __init__(self, remote: Forwarder) -> None:
        self._remote = remote
        self.counts: dict[str, int] = {}
        self.fetches = Timing()

    def datacenters(self) -> tuple[str, ...]:
        """Datacenters that have servers."""
        return self._remote.datacenters()

    async def call(self, dc: str, method: str, request: Any, reply: Any) -> Any:
        """Have a server of `dc` answer."""
        key = dc.lower()
        if key in self.counts or key in self._remote.datacenters():
            self.counts[key] = self.counts.get(key, 0) + 1
        return await self._remote.call(dc, method, request, reply)

    def fetching(self, primary_dc: str) -> "Fetches":
        """The same for replication, whose reads of the primary's states are timed."""
        return Fetches(self, primary_dc)


class Fetches:
    """Calls of replication; made by `CrossDcCalls.fetching`."""

    def __init__(self, calls: CrossDcCalls, primary_dc: str) -> None:
        self._calls, self._primary_dc = calls, primary_dc

    async def call(self, dc: str, method: str, request: Any, reply: Any) -> Any:
        """Have a server of `dc` answer."""
        if method != FETCH or dc != self._primary_dc:
            return await self._calls.call(dc, method, request, reply)
        clock = asyncio.get_running_loop()
        started = clock.time()
        try:
            return await self._calls.call(dc, method, request, reply)
        finally:
            self._calls.fetches.add(clock.time() - started)


class AgentMetrics(NamedMetrics):
    """Collects the figures of a server agent.

    Args:
        config: Names.
        host: Our host's name.
        server: The server.
        calls: Those to other datacenters.
        report: How the federation fares.
        pools: Gossip pools by name; None while there is none.
        listener: The server port.
        http: The HTTP server.
        dns: The DNS server's door.
        lan_events: What happened to members of the LAN pool.
        lan_roles: Role tags of the members of the LAN pool that are alive.
        wall: Reads the calendar clock.
        clock: Reads the loop's clock; figures cover the time from now on.
    """

    def __init__(
        self,
        config: TelemetryConfig,
        *,
        host: str,
        server: Server,
        calls: CrossDcCalls,
        report: Callable[[], FederationReport],
        pools: Callable[[], Mapping[str, Pool | None]],
        listener: Listener,
        http: HttpDoor,
        dns: DnsDoor,
        lan_events: MemberEvents,
        lan_roles: Callable[[], Iterable[str]],
        wall: Callable[[], datetime],
        clock: Callable[[], float],
    ) -> None:
        super().__init__(config, host=host, http=http, dns=dns, lan_events=lan_events)
        self._lan_roles = lan_roles
        self._server, self._calls, self._report = server, calls, report
        self._pools, self._listener = pools, listener
        self._wall, self._clock, self._started_at = wall, clock, clock()

    async def collect(self) -> Metrics:
        """Every figure as it is now."""
        pools = {
            name: await pool_stats(pool.stats())
            for name, pool in self._pools().items()
            if pool is not None
        }
        report = self._report()
        found = (
            *self._doors(),
            *self._process(),
            *self._calls_about_states(),
            *self._calls_and_writes(),
            *self._replication(report),
            *self._connections(),
            *self._store(report.datacenter),
            *self._members(report),
            *_federation(report),
            *_gateways(report.gateways, report.time),
            *self._gossip(pools),
        )
        seconds = self._clock() - self._started_at
        return Metrics(self._wall(), seconds, self._filter.choose(found))

    def begin_interval(self) -> None:
        """See `agent.intervals.Collector`."""
        super().begin_interval()
        server = self._server
        for timing in (*server.timings.values(), *server.write_timings.values()):
            timing.begin_interval()
        for timing in (server.commits, server.sessions.endings, self._calls.fetches):
            timing.begin_interval()

    # Consul's names -------------------------------------------------------------------------------

    def _calls_about_states(self) -> Iterator[Metric]:
        for method, timing in self._server.timings.items():
            name = f"federation_state.{_CALLS[method]}" if method in _CALLS else _TIMED[method]
            yield self._timing(name, timing, f"Milliseconds of {method}, answered here.")
        for (dc, operation), timing in sorted(self._server.write_timings.items()):
            about = "Milliseconds of writes of this federation state, until durable."
            yield self._timing(f"fsm.federation_state.{dc}", timing, about, op=operation)
        for dc, count in sorted(self._calls.counts.items()):
            about = "Calls to servers of another datacenter."
            yield self._counter("rpc.cross-dc", count, about, datacenter=dc)
        for method, name in _QUERIES.items():
            about = f"Calls of {method}, those answered again included."
            yield self._counter(name, self._server.call_counts.get(method, 0), about)
        for method, count in self._server.call_counts.items():
            about = "Calls to this server, those passed on to another datacenter included."
            yield counted("isthmus.rpc.calls", count, about, method=method)

    def _calls_and_writes(self) -> Iterator[Metric]:
        server = self._server
        about = "Calls that came over the network."
        yield self._counter("rpc.request", server.request_count, about)
        queries = sum(count for method, count in server.call_counts.items() if METHODS[method].read)
        yield self._counter("rpc.query", queries, "Calls that read, from whomever.")
        about = "Writes to our own store."
        yield self._counter("raft.apply", server.commits.count, about)
        about = "Milliseconds until a write was durable."
        yield self._timing("raft.commitTime", server.commits, about)
        timers = server.sessions
        about = "Sessions with a time to live that this server watches."
        yield self._gauge("session_ttl.active", timers.active_count, about)
        about = "Milliseconds until sessions that outlived their time were ended."
        yield self._timing("session_ttl.invalidate", timers.endings, about)
        health = server.autopilot
        if health is not None:
            about = "1 if all servers of the datacenter are healthy."
            yield self._gauge("autopilot.healthy", health.healthy, about)
            about = "Servers that may be lost before there is no leader."
            yield self._gauge("autopilot.failure_tolerance", health.failure_tolerance, about)

    def _replication(self, report: FederationReport) -> Iterator[Metric]:
        replication = report.replication
        if not replication.running:
            return
        name = "leader.replication.federation-state"
        works = not replication.failures and not replication.last_success.is_zero
        yield self._gauge(f"{name}.status", works, "1 if the latest round of replication worked.")
        yield self._gauge(f"{name}.index", replication.index, "Primary's index that is stored.")
        about = "Milliseconds until the primary answered, its wait for news included."
        yield self._timing(f"{name}.fetch", self._calls.fetches, about)
        writes = Timing()
        for timing in self._server.write_timings.values():  # In a secondary all are replication's.
            writes.merge(timing)
        yield self._timing(f"{name}.apply", writes, "Milliseconds of a replicated state's write.")
        yield measured(
            "isthmus.replication.lag.index",
            max(0, replication.primary_index - replication.index),
            "Newest index that the primary told, minus the one that is stored.",
        )
        if not replication.last_success.is_zero:
            age = _elapsed(replication.last_success, report.time)
            about = "Seconds since the primary answered; up to its wait of some minutes is normal."
            yield measured("isthmus.replication.answered.age.seconds", age, about)
        about = "Rounds that failed since one worked."
        yield measured("isthmus.replication.failures", replication.failures, about)

    def _store(self, dc: str) -> Iterator[Metric]:
        server = self._server
        rows = server.store.row_counts()
        for table, word in _TABLES.items():
            about = f"Rows of the table of {table}."
            yield self._gauge(f"state.{word}", rows.get(table, 0), about, datacenter=dc)
        yield self._gauge("server.isLeader", server.is_leader, "1 if this server leads.")
        about = "Reads that wait for a change, the agent's own included."
        yield self._gauge("rpc.queries_blocking", len(server.store.watches), about)
        yield measured("isthmus.store.index", server.store.index, "Index of the latest write.")

    def _members(self, report: FederationReport) -> Iterator[Metric]:
        roles = Counter(self._lan_roles())
        for role, word in (("consul", "servers"), ("node", "clients")):
            about = f"{word.capitalize()} of the datacenter that are alive."
            yield self._gauge(f"members.{word}", roles[role], about, datacenter=report.datacenter)
        counts: dict[tuple[str, str], int] = {}
        for member in report.members:
            key = (member.datacenter, member.status)
            counts[key] = counts.get(key, 0) + 1
        for (dc, status), count in sorted(counts.items()):
            about = "Servers in the WAN pool."
            yield measured("isthmus.wan.members", count, about, datacenter=dc, status=status)

    def _connections(self) -> Iterator[Metric]:
        listener = self._listener
        about = "Open connections to the server port, gossip's included."
        yield measured("isthmus.rpc.connections", listener.connection_count, about)
        about = "Connections closed because their address had too many."
        yield counted("isthmus.rpc.connections.refused", listener.refused_count, about)
        about = "Connections to the server port, refused ones included."
        yield self._counter("rpc.accept_conn", listener.accepted_count, about)
        for port, count in (("server", listener.aborted_count), ("http", self._http.aborted_count)):
            about = "Connections aborted because all of a port together held too much memory."
            yield counted("isthmus.connections.aborted", count, about, port=port)


# Our own ------------------------------------------------------------------------------------------


def _federation(report: FederationReport) -> Iterator[Metric]:
    if report.way_to_primary:
        yield measured(
            "isthmus.primary.through_local_gateways",
            report.way_to_primary == "local gateways",
            "1 if the primary is dialled through our own gateways, 0 if through its.",
        )
    for found in report.datacenters:
        dc = found.datacenter
        servers = {"alive": found.servers_alive, "failed": found.servers - found.servers_alive}
        for status, count in servers.items():
            about = "Servers of the datacenter that can be called."
            yield measured("isthmus.datacenter.servers", count, about, datacenter=dc, status=status)
        about = "Mesh gateways in its federation state."
        yield measured("isthmus.datacenter.gateways", found.gateways, about, datacenter=dc)
        yield measured(
            "isthmus.datacenter.gateways.usable",
            found.gateways_usable,
            "Those with the federation meta and no critical check.",
            datacenter=dc,
        )
        yield measured(
            "isthmus.datacenter.reached",
            found.failing_since.is_zero,
            "0 if no living server of it can be reached.",
            datacenter=dc,
        )
        if not found.updated_at.is_zero:
            yield measured(
                "isthmus.federation_state.age.seconds",
                _seconds(found.state_age),
                "Seconds since its leader wrote its federation state.",
                datacenter=dc,
            )
            yield measured(
                "isthmus.federation_state.primary_index",
                found.primary_modify_index,
                "Its federation state's modify index in the primary.",
                datacenter=dc,
            )
        if found.clock_known:
            yield measured(
                "isthmus.clock.difference.seconds",
                _seconds(found.clock_difference),
                "Its clock minus ours.",
                datacenter=dc,
            )


def _gateways(gateways: tuple[GatewayReport, ...], now: Timestamp) -> Iterator[Metric]:
    for gateway in gateways:
        address = gateway.address
        yield counted(
            "isthmus.gateway.dials", gateway.attempts, "Dials of the gateway.", gateway=address
        )
        yield counted(
            "isthmus.gateway.dials.failed",
            gateway.failures,
            "Those of them that failed.",
            gateway=address,
        )
        yield measured(
            "isthmus.gateway.works",
            gateway.failing_since.is_zero,
            "0 if the latest dial of it failed.",
            gateway=address,
        )
        if gateway.dial_time:
            about = "How long the latest dial took that worked, with TLS."
            seconds = _seconds(gateway.dial_time)
            yield measured("isthmus.gateway.dial.seconds", seconds, about, gateway=address)
        if not gateway.last_used.is_zero:
            about = "Seconds since the latest dial."
            age = _elapsed(gateway.last_used, now)
            yield measured("isthmus.gateway.used.age.seconds", age, about, gateway=address)


def _seconds(duration: Duration) -> float:
    return int(duration) / SECOND


def _elapsed(since: Timestamp, until: Timestamp) -> float:
    return (until.seconds - since.seconds) + (until.nanoseconds - since.nanoseconds) / SECOND
