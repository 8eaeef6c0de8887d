"""What the gateway counts."""

import dataclasses

from isthmus.gateway.counters import REFUSALS, Counters, RouteCounters
from isthmus.mesh.routes import RouteKind

KIND = next(iter(RouteKind))


def test_route_is_counted_from_its_first_connection_on() -> None:
    counters = Counters()
    assert counters.routes == {}
    counters.of_route("*.server.dc2.consul", KIND).connections += 1
    counters.of_route("*.server.dc2.consul", KIND).connections += 1
    counters.of_route("alpha.server.dc1.consul", KIND).failures += 1
    assert counters.routes == {
        "*.server.dc2.consul": RouteCounters(KIND, connections=2),
        "alpha.server.dc1.consul": RouteCounters(KIND, failures=1),
    }


def test_gateways_share_no_counters() -> None:
    Counters().of_route("a", KIND)
    assert Counters().routes == {}


def test_every_refusal_has_a_counter() -> None:
    """They are counted by name."""
    numbers = {field.name for field in dataclasses.fields(Counters)} - {"routes"}
    assert set(REFUSALS) <= numbers
    assert len(set(REFUSALS)) == len(REFUSALS)
    counters = Counters()
    assert {getattr(counters, name) for name in numbers} == {0}
