"""``/v1/agent/metrics``: Consul's JSON, and a text that Prometheus' own parser reads."""

import json
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from prometheus_client.parser import text_string_to_metric_families

from isthmus.http.metrics import exposition
from isthmus.model.metric import Metric, MetricKind, Metrics
from support.http import Client, FakeLocal, as_json, make_client

GAUGE = Metric("consul.h.server.isLeader", MetricKind.GAUGE, 1.0, about="Leads.")
COUNTER = Metric("consul.rpc.cross-dc", MetricKind.COUNTER, 4.0, (("datacenter", "dc2"),))
OWN = Metric("isthmus.gateway.dials", MetricKind.COUNTER, 3.0, (("gateway", "[::1]:8443"),))
TIMING = Metric(
    "consul.federation_state.list",
    MetricKind.TIMING,
    30.0,
    count=2,
    least=10.0,
    most=20.0,
    squares=500.0,
)


def client(*metrics: Metric, prometheus: bool = True) -> Client:
    local = FakeLocal()
    local.prometheus_enabled = prometheus
    local.figures = Metrics(datetime(2026, 11, 23, 12, tzinfo=UTC), 10.0, metrics)
    return make_client(local=local)


def samples(*metrics: Metric) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What Prometheus reads: by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(exposition(metrics).decode())
        for sample in family.samples
    }


async def test_json_has_consuls_shape() -> None:
    answer = await client(GAUGE, COUNTER, TIMING, prometheus=False).get("/v1/agent/metrics")
    assert answer.header("Content-Type") == "application/json"
    labels = {"datacenter": "dc2"}
    assert as_json(answer) == {
        "Timestamp": "2026-11-23 12:00:00 +0000 UTC",
        "Gauges": [{"Name": "consul.h.server.isLeader", "Value": 1, "Labels": {}}],
        "Points": [],
        "Counters": [
            {"Name": "consul.rpc.cross-dc", "Count": 4, "Rate": 0.4, "Sum": 4}
            | {"Min": 1, "Max": 1, "Mean": 1, "Stddev": 0, "Labels": labels}
        ],
        "Samples": [
            {"Name": "consul.federation_state.list", "Count": 2, "Rate": 3, "Sum": 30}
            | {"Min": 10, "Max": 20, "Mean": 15, "Stddev": 7.0710678118654755, "Labels": {}}
        ],
    }


async def test_intervals_are_streamed_one_a_line() -> None:
    asked = client(COUNTER)
    asked.local.intervals_left = 2
    response = await asked.get("/v1/agent/metrics/stream")
    assert (response.status, response.stream_size) == (200, None)
    assert response.stream is not None
    for _ in range(2):
        line = await anext(response.stream)
        assert line.endswith(b"}\n")
        assert json.loads(line)["Counters"][0]["Name"] == "consul.rpc.cross-dc"
    await response.stream.aclose()


async def test_nothing_counted_yet_divides_by_nothing() -> None:
    none = Metric("consul.x", MetricKind.TIMING, 0.0)
    (sample,) = as_json(await client(none).get("/v1/agent/metrics"))["Samples"]
    assert (sample["Count"], sample["Mean"], sample["Min"]) == (0, 0, 0)


async def test_prometheus_is_refused_unless_it_is_configured() -> None:
    answer = await client(prometheus=False).get("/v1/agent/metrics?format=prometheus")
    assert answer.status == 415
    assert answer.body == b"Prometheus is not enabled since its retention time is not positive"


async def test_prometheus_is_answered_as_text() -> None:
    answer = await client(GAUGE).get("/v1/agent/metrics?format=prometheus")
    assert answer.header("Content-Type") == "text/plain; version=0.0.4; charset=utf-8"
    assert b"# HELP consul_h_server_isLeader Leads.\n" in answer.body


def test_prometheus_reads_names_labels_and_values() -> None:
    assert samples(GAUGE, COUNTER, OWN, TIMING) == {
        ("consul_h_server_isLeader", ()): 1,
        ("consul_rpc_cross_dc", (("datacenter", "dc2"),)): 4,
        ("isthmus_gateway_dials_total", (("gateway", "[::1]:8443"),)): 3,
        ("consul_federation_state_list_sum", ()): 30,
        ("consul_federation_state_list_count", ()): 2,
    }


def test_prometheus_reads_the_kinds() -> None:
    text = exposition([GAUGE, COUNTER, OWN, TIMING]).decode()
    kinds = {family.name: family.type for family in text_string_to_metric_families(text)}
    assert kinds == {
        "consul_h_server_isLeader": "gauge",
        "consul_rpc_cross_dc": "unknown",
        "isthmus_gateway_dials": "counter",
        "consul_federation_state_list": "summary",
    }


def test_names_that_are_the_same_to_prometheus_give_one_family() -> None:
    twin = Metric("consul.fsm.federation_state.dc-1", MetricKind.TIMING, 1.0, count=1)
    other = Metric("consul.fsm.federation_state.dc_1", MetricKind.TIMING, 2.0, count=2)
    assert samples(twin, other) == {
        ("consul_fsm_federation_state_dc_1_sum", ()): 1,
        ("consul_fsm_federation_state_dc_1_count", ()): 1,
    }


@pytest.mark.parametrize("value", ['a"b', "a\\b", "a\nb", "é", "�"])
def test_any_label_survives(value: str) -> None:
    metric = Metric("isthmus.x", MetricKind.GAUGE, 1.0, (("gateway", value),))
    assert samples(metric) == {("isthmus_x", (("gateway", value),)): 1}


def test_the_library_is_not_imported_before_somebody_asks() -> None:
    code = "import sys, isthmus.agent.agent; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
