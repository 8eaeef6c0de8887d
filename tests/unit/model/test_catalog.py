"""What records of the catalog know of themselves."""

import pytest

from isthmus.model.catalog import HealthCheckDefinition
from isthmus.units import Duration

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
