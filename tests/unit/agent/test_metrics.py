"""The agent's figures: names, labels and where they come from, on virtual time."""

import asyncio
from collections.abc import Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from isthmus.agent.metrics import AgentMetrics, CrossDcCalls
from isthmus.agent.named_metrics import MemberEvents, Pool
from isthmus.config.model import TelemetryConfig
from isthmus.errors import NoPathToDatacenter, Unavailable
from isthmus.model.diagnosis import (
    DatacenterReport,
    FederationReport,
    GatewayReport,
    MemberReport,
    ReplicationReport,
)
from isthmus.model.federation import UPSERT, FederationState, FederationStateRequest
from isthmus.model.metric import Metric, MetricKind, Metrics
from isthmus.model.query import DatacenterRequest
from isthmus.model.timestamp import Timestamp
from isthmus.model.timing import Timing
from isthmus.server.server import Server
from isthmus.units import Duration
from support.servers import make_server
from support.virtual_loop import now, run_virtual

WALL = datetime(2026, 11, 23, 12, tzinfo=UTC)


def at(seconds: int) -> Timestamp:
    moment = Timestamp.of(WALL)
    return Timestamp(moment.seconds + seconds, moment.nanoseconds)


class FakeListener:
    """A port."""

    accepted_count = 9
    refused_count = 3
    connection_count = 2
    aborted_count = 1


class FakeHttp:
    """The HTTP server."""

    connection_count = 5
    aborted_count = 4

    def __init__(self) -> None:
        self.timings: dict[tuple[str, str], Timing] = {}


class FakeDns:
    """The DNS server's door."""

    domain_count, reverse_count, recursion_count, failure_count = 6, 2, 3, 1


class FakePool:
    """A pool with these figures, or one that is closed."""

    def __init__(self, **figures: str) -> None:
        self.figures = figures

    async def stats(self) -> dict[str, str]:
        if not self.figures:
            raise Unavailable("the pool is closed")
        return self.figures


class FakeRemote:
    """Datacenter dc2; each call takes two seconds."""

    def datacenters(self) -> tuple[str, ...]:
        return ("dc1", "dc2")

    async def call(self, dc: str, method: str, request: Any, reply: Any) -> Any:
        if dc.lower() not in self.datacenters():
            raise NoPathToDatacenter(dc, "")
        await asyncio.sleep(2)
        return "answer"


Found = dict[tuple[str, tuple[tuple[str, str], ...]], Metric]


class World:
    """An agent's parts."""

    def __init__(self, report: FederationReport | None = None, **telemetry: Any) -> None:
        self.calls = CrossDcCalls(FakeRemote())
        self.server: Server = make_server(forward=self.calls)
        self.report = report or FederationReport(datacenter="dc1", time=at(0))
        self.pools: Mapping[str, Pool | None] = {"lan": FakePool(members="1"), "wan": None}
        self.http, self.lan_events = FakeHttp(), MemberEvents()
        self.metrics = AgentMetrics(
            TelemetryConfig(**telemetry),
            host="host1",
            server=self.server,
            calls=self.calls,
            report=lambda: self.report,
            pools=lambda: self.pools,
            listener=FakeListener(),
            http=self.http,
            dns=FakeDns(),
            lan_events=self.lan_events,
            lan_roles=lambda: ["consul", "node", "node", ""],
            wall=lambda: WALL,
            clock=now,
        )

    async def found(self) -> Found:
        collected = (await self.metrics.collect()).metrics
        found = {(metric.name, metric.labels): metric for metric in collected}
        assert len(found) == len(collected), "a figure is shown twice"
        return found


def run(work: Coroutine[Any, Any, Found]) -> Found:
    return run_virtual(work)


def value(found: Found, name: str, **labels: str) -> float:
    return found[name, tuple(labels.items())].value


async def collect(report: FederationReport | None = None, **telemetry: Any) -> Found:
    return await World(report, **telemetry).found()


# Names ----------------------------------------------------------------------------------------


def test_gauges_that_consul_has_carry_prefix_and_host() -> None:
    found = run(collect())
    assert value(found, "consul.host1.server.isLeader") == 0
    assert ("consul.federation_state.get", ()) in found
    assert ("isthmus.store.index", ()) in found


def test_host_can_be_left_out() -> None:
    found = run(collect(metrics_prefix="acme", disable_hostname=True))
    assert value(found, "acme.server.isLeader") == 0
    assert not any("host1" in name or "consul" in name for name, _ in found)


def test_every_name_has_one_kind_one_meaning_and_the_same_labels() -> None:
    by_name: dict[str, set[object]] = {}
    for (name, labels), metric in run(collect(REPORT)).items():
        seen = by_name.setdefault(name, set())
        seen.add((metric.kind, metric.about, tuple(key for key, _ in labels)))
        assert metric.about, name
    assert {name: seen for name, seen in by_name.items() if len(seen) > 1} == {}


# Calls and writes -----------------------------------------------------------------------------


def test_calls_are_counted_by_method_and_datacenter() -> None:
    async def scenario() -> Found:
        world = World()
        await world.server.start()
        for dc in ("dc1", "dc2", "DC2"):
            await world.server.call("FederationState.List", DatacenterRequest(datacenter=dc))
        with pytest.raises(NoPathToDatacenter):
            await world.server.call("FederationState.List", DatacenterRequest(datacenter="dc9"))
        found = await world.found()
        await world.server.stop()
        return found

    found = run(scenario())
    assert value(found, "isthmus.rpc.calls", method="FederationState.List") == 4
    assert value(found, "consul.rpc.cross-dc", datacenter="dc2") == 2
    assert ("consul.rpc.cross-dc", (("datacenter", "dc9"),)) not in found
    answered = found["consul.federation_state.list", ()]
    assert (answered.kind, answered.count) == (MetricKind.TIMING, 1)


def test_blocked_read_is_timed_with_its_wait_and_counted_while_it_waits() -> None:
    async def scenario() -> Found:
        world = World()
        await world.server.start()
        wait = DatacenterRequest(
            datacenter="dc1", min_query_index=1000, max_query_time=Duration.of(16)
        )
        reader = asyncio.ensure_future(world.server.call("FederationState.List", wait))
        await asyncio.sleep(1)
        assert value(await world.found(), "consul.host1.rpc.queries_blocking") == 1
        await reader
        found = await world.found()
        await world.server.stop()
        return found

    found = run(scenario())
    assert 16_000 <= value(found, "consul.federation_state.list") <= 17_000
    assert value(found, "consul.host1.rpc.queries_blocking") == 0


def test_writes_of_states_are_timed_by_datacenter_and_operation() -> None:
    async def scenario() -> Found:
        world = World()
        await world.server.start()
        write = FederationStateRequest(op=UPSERT, state=FederationState(datacenter="Dc3"))
        await world.server.apply(write)
        await world.server.apply(write)
        found = await world.found()
        await world.server.stop()
        return found

    found = run(scenario())
    assert found["consul.fsm.federation_state.dc3", (("op", UPSERT),)].count == 2
    assert value(found, "isthmus.store.index") >= 2


def test_replications_reads_of_the_primary_are_timed() -> None:
    async def scenario() -> Found:
        world = World(REPORT)
        remote = world.calls.fetching("dc2")
        for dc, method in (
            ("dc2", "FederationState.List"),
            ("dc1", "FederationState.List"),
            ("dc2", "FederationState.Apply"),
        ):
            assert await remote.call(dc, method, None, object) == "answer"
        return await world.found()

    found = run(scenario())
    fetch = found["consul.leader.replication.federation-state.fetch", ()]
    assert (fetch.count, fetch.value, fetch.least, fetch.most) == (1, 2000, 2000, 2000)
    assert value(found, "consul.rpc.cross-dc", datacenter="dc2") == 2


# The federation -------------------------------------------------------------------------------

REPORT = FederationReport(
    datacenter="dc2",
    primary_datacenter="dc1",
    time=at(100),
    way_to_primary="local gateways",
    replication=ReplicationReport(running=True, primary_index=9, index=7, last_success=at(90)),
    datacenters=(
        DatacenterReport(
            datacenter="dc1",
            servers=3,
            servers_alive=2,
            gateways=2,
            gateways_usable=1,
            updated_at=at(70),
            state_age=Duration.of(30),
            primary_modify_index=7,
            clock_known=True,
            clock_difference=Duration.of(-0.5),
        ),
        DatacenterReport(datacenter="dc3", failing_since=at(60)),
    ),
    gateways=(
        GatewayReport(address="10.0.0.1:8443"),
        GatewayReport(
            address="10.0.0.2:8443",
            attempts=5,
            failures=2,
            last_used=at(88),
            dial_time=Duration.of(0.25),
            failing_since=at(80),
        ),
    ),
    members=(
        MemberReport(name="a.dc1", datacenter="dc1", status="alive"),
        MemberReport(name="b.dc1", datacenter="dc1", status="alive"),
        MemberReport(name="c.dc1", datacenter="dc1", status="failed"),
    ),
)


def test_gateways() -> None:
    found = run(collect(REPORT))
    address = "10.0.0.2:8443"
    for name, expected in (
        ("dials", 5),
        ("dials.failed", 2),
        ("works", 0),
        ("dial.seconds", 0.25),
        ("used.age.seconds", 12),
    ):
        assert value(found, f"isthmus.gateway.{name}", gateway=address) == expected
    unused = (("gateway", "10.0.0.1:8443"),)
    assert found["isthmus.gateway.works", unused].value == 1
    assert ("isthmus.gateway.dial.seconds", unused) not in found
    assert ("isthmus.gateway.used.age.seconds", unused) not in found


def test_datacenters() -> None:
    found = run(collect(REPORT))
    for name, expected in (
        ("datacenter.gateways", 2),
        ("datacenter.gateways.usable", 1),
        ("datacenter.reached", 1),
        ("federation_state.age.seconds", 30),
        ("federation_state.primary_index", 7),
        ("clock.difference.seconds", -0.5),
    ):
        assert value(found, f"isthmus.{name}", datacenter="dc1") == expected
    assert value(found, "isthmus.datacenter.servers", datacenter="dc1", status="failed") == 1
    assert value(found, "isthmus.datacenter.reached", datacenter="dc3") == 0
    assert ("isthmus.federation_state.age.seconds", (("datacenter", "dc3"),)) not in found
    assert value(found, "isthmus.wan.members", datacenter="dc1", status="alive") == 2
    assert value(found, "isthmus.wan.members", datacenter="dc1", status="failed") == 1


def test_replication() -> None:
    found = run(collect(REPORT))
    assert value(found, "consul.host1.leader.replication.federation-state.status") == 1
    assert value(found, "consul.host1.leader.replication.federation-state.index") == 7
    assert value(found, "isthmus.replication.lag.index") == 2
    assert value(found, "isthmus.replication.answered.age.seconds") == 10
    assert value(found, "isthmus.primary.through_local_gateways") == 1


def test_replication_that_failed_or_never_worked() -> None:
    failed = ReplicationReport(running=True, primary_index=9, index=7, failures=2)
    report = FederationReport(replication=failed, way_to_primary="primary gateways")
    found = run(collect(report))
    assert value(found, "consul.host1.leader.replication.federation-state.status") == 0
    assert value(found, "isthmus.replication.failures") == 2
    assert ("isthmus.replication.answered.age.seconds", ()) not in found
    assert value(found, "isthmus.primary.through_local_gateways") == 0


def test_primary_has_no_replication_and_no_way_to_itself() -> None:
    names = {name for name, _ in run(collect())}
    assert not [name for name in names if "replication" in name or "primary.through" in name]


# Connections and pools ------------------------------------------------------------------------


def test_connections() -> None:
    found = run(collect())
    assert value(found, "isthmus.rpc.connections") == 2
    assert value(found, "isthmus.rpc.connections.refused") == 3
    assert value(found, "isthmus.http.connections") == 5
    assert value(found, "consul.rpc.accept_conn") == 9
    assert value(found, "isthmus.connections.aborted", port="server") == 1
    assert value(found, "isthmus.connections.aborted", port="http") == 4


def test_figures_of_pools_are_levels_or_counted() -> None:
    async def scenario() -> Found:
        world = World()
        world.pools = {
            "wan": FakePool(
                members="3", health_score="1", event_queue="2", packets_sent="7", encrypted="true"
            )
        }
        return await world.found()

    found = run(scenario())
    kinds = {
        name.removeprefix("isthmus.gossip."): metric.kind
        for (name, labels), metric in found.items()
        if name.startswith("isthmus.gossip.") and labels == (("pool", "wan"),)
    }
    level, count = MetricKind.GAUGE, MetricKind.COUNTER
    expected = {"members": level, "health_score": level, "event_queue": level}
    assert kinds == expected | {"packets_sent": count}
    assert value(found, "consul.host1.memberlist.health.score", network="wan") == 1


def test_closed_pool_does_not_hide_the_rest() -> None:
    async def scenario() -> Found:
        world = World()
        world.pools = {"lan": FakePool(), "wan": FakePool(members="2")}
        return await world.found()

    found = run(scenario())
    assert value(found, "isthmus.gossip.members", pool="wan") == 2
    assert not [name for name, labels in found if "lan" in dict(labels).values()]


def test_figures_say_since_when() -> None:
    async def scenario() -> Metrics:
        world = World()
        await asyncio.sleep(30)
        return await world.metrics.collect()

    collected = run_virtual(scenario())
    assert (collected.time, collected.seconds) == (WALL, 30)
