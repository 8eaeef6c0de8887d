"""A client agent's figures: names, kinds and labels."""

from datetime import UTC, datetime
from random import Random
from typing import Any, ClassVar

from isthmus.agent.client_metrics import ClientMetrics
from isthmus.agent.named_metrics import MemberEvents
from isthmus.agent.server_calls import ServerCalls
from isthmus.config.model import TelemetryConfig
from isthmus.federation.router import ServerInfo
from isthmus.model.metric import Metric, MetricKind
from isthmus.model.timing import Timing
from support.virtual_loop import now, run_virtual

WALL = datetime(2026, 1, 2, tzinfo=UTC)


class FakeConnections:
    call_count, connection_count = 3, 2


class FakeHttp:
    connection_count, aborted_count = 4, 1
    timings: ClassVar[dict[tuple[str, str], Timing]] = {}


class FakeDns:
    domain_count, reverse_count, recursion_count, failure_count = 6, 2, 3, 1


class FakePool:
    async def stats(self) -> dict[str, str]:
        return {"members": "5", "health_score": "0", "packets_sent": "9", "encrypted": "false"}


def collect(pool: FakePool | None = None, config: TelemetryConfig | None = None) -> list[Metric]:
    async def act() -> list[Metric]:
        calls = ServerCalls("dc1", rng=Random(1), member_count=lambda: 1)
        for name in ("s1", "s2"):
            calls.put(ServerInfo(name=name, node=name, dc="dc1", host="10.0.0.1", port=8300))
        calls.call_count, calls.failures = 7, {"s2": 2}
        metrics = ClientMetrics(
            config or TelemetryConfig(),
            host="h",
            calls=calls,
            pool=lambda: pool,
            connections=FakeConnections(),
            http=FakeHttp(),
            dns=FakeDns(),
            lan_events=MemberEvents(),
            wall=lambda: WALL,
            clock=now,
        )
        found = await metrics.collect()
        assert found.time == WALL
        return list(found.metrics)

    return run_virtual(act())


def values(found: list[Metric]) -> dict[str, Any]:
    """Value and labels by name."""
    return {metric.name: (metric.value, metric.labels) for metric in found}


def test_calls_to_servers_have_consuls_names() -> None:
    found = values(collect())
    assert found["consul.client.rpc"] == (7, ())
    assert found["consul.client.rpc.exceeded"] == (0, ())
    assert found["consul.client.rpc.failed"] == (2, (("server", "s2"),))
    assert found["isthmus.client.servers"] == (2, ())
    assert found["isthmus.client.connections"] == (2, ())
    assert found["isthmus.client.calls.running"] == (3, ())
    assert found["isthmus.http.connections"] == (4, ())
    assert found["isthmus.connections.aborted"] == (1, (("port", "http"),))


def test_pool_counts_once_it_is_open() -> None:
    assert not [name for name in values(collect()) if "gossip" in name]
    found = values(collect(FakePool()))
    assert found["isthmus.gossip.members"] == (5, (("pool", "lan"),))
    assert found["consul.h.memberlist.health.score"] == (0, (("network", "lan"),))
    assert "isthmus.gossip.encrypted" not in found


def test_counters_and_levels_are_told_apart_and_explained() -> None:
    found = {metric.name: metric for metric in collect(FakePool())}
    assert found["consul.client.rpc"].kind is MetricKind.COUNTER
    assert found["isthmus.gossip.packets_sent"].kind is MetricKind.COUNTER
    assert found["isthmus.gossip.members"].kind is MetricKind.GAUGE
    assert all(metric.about.endswith(".") for metric in found.values())


def test_prefix_is_the_operators() -> None:
    config = TelemetryConfig(metrics_prefix="x", disable_hostname=True)
    found = values(collect(FakePool(), config))
    assert {"x.client.rpc", "x.memberlist.health.score"} <= set(found)
