"""What records of the catalog know of themselves."""

import pytest

from isthmus.model.agent import AgentService
from isthmus.model.catalog import (
    ConnectProxyConfig,
    HealthCheckDefinition,
    NodeService,
    Upstream,
)
from isthmus.units import Duration
from isthmus.wire import gojson

EVERY = Duration.of(10)


@pytest.mark.parametrize(
    ("definition", "kind"),
    [
        (HealthCheckDefinition(http="http://x", interval=EVERY), "http"),
        (HealthCheckDefinition(http="http://x"), ""),
        (HealthCheckDefinition(grpc="x:1", http="http://x", interval=EVERY), "grpc"),
        (HealthCheckDefinition(ttl=EVERY), "ttl"),
        (HealthCheckDefinition(tcp="x:1", interval=EVERY), "tcp"),
        (HealthCheckDefinition(alias_node="n1"), "alias"),
        (HealthCheckDefinition(alias_service="web"), "alias"),
        (HealthCheckDefinition(script_args=("true",), interval=EVERY), "script"),
        (
            HealthCheckDefinition(script_args=("true",), docker_container_id="a", interval=EVERY),
            "docker",
        ),
        (HealthCheckDefinition(h2ping="x:1", interval=EVERY), "h2ping"),
        (HealthCheckDefinition(), ""),
    ],
)
def test_definition_tells_its_kind_if_it_can_be_run(
    definition: HealthCheckDefinition, kind: str
) -> None:
    assert definition.check_type == kind


def test_catalog_shows_an_upstreams_empty_fields_and_its_agent_does_not() -> None:
    proxy = ConnectProxyConfig(upstreams=(Upstream(destination_name="db"),))
    service = NodeService(kind="connect-proxy", id="p", service="p", proxy=proxy)
    shown = b'"Upstreams":[{"DestinationType":"","DestinationName":"db","Datacenter":"",'
    assert shown in gojson.encode(service)
    of_agent = AgentService.of(service, datacenter="dc1")
    assert b'"Upstreams":[{"DestinationName":"db",' in gojson.encode(of_agent)


def test_definition_shows_its_times_first() -> None:
    definition = HealthCheckDefinition(http="http://x", timeout=EVERY, interval=EVERY, ttl=EVERY)
    assert gojson.encode(definition) == (
        b'{"Interval":"10s","Timeout":"10s","HTTP":"http://x","TTL":"10s"}'
    )


def test_catalog_leaves_out_a_port_of_zero() -> None:
    assert b'"Port"' not in gojson.encode(NodeService(id="web", service="web"))
    assert b'"Port":80' in gojson.encode(NodeService(id="web", service="web", port=80))
