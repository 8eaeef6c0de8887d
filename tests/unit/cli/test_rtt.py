"""rtt: what is printed, and what it says when it cannot."""

from typing import Any

import pytest

from support.cli import Cli, FakeAgent


def coordinate(node: str, *vec: float, height: float = 0.0, segment: str = "") -> dict[str, Any]:
    coord = {"Vec": [*vec, *[0] * (8 - len(vec))], "Error": 0.5, "Adjustment": 0, "Height": height}
    return {"Node": node, "Segment": segment, "Coord": coord}


NODES = [
    coordinate("a", 0.0, height=1e-5),
    coordinate("b", 0.0003, 0.0004, height=1e-4),
    coordinate("b", 9.0, segment="other"),
]
DATACENTERS = [
    {"Datacenter": "dc1", "AreaID": "wan", "Coordinates": [coordinate("a", 0.0)]},
    {"Datacenter": "dc2", "AreaID": "wan", "Coordinates": [coordinate("a", 0.04)]},
    {"Datacenter": "dc3", "AreaID": "wan", "Coordinates": []},
]
SELF = {"Config": {"NodeName": "a", "Datacenter": "dc1"}}


@pytest.fixture
def told(agent: FakeAgent) -> FakeAgent:
    agent.answer("/v1/coordinate/nodes", NODES)
    agent.answer("/v1/coordinate/datacenters", DATACENTERS)
    agent.answer("/v1/agent/self", SELF)
    return agent


@pytest.mark.parametrize(
    ("words", "out"),
    [
        (("a", "b"), "Estimated a <-> b rtt: 0.610 ms (using LAN coordinates)\n"),
        (("b", "a"), "Estimated b <-> a rtt: 0.610 ms (using LAN coordinates)\n"),
        (("B",), "Estimated B <-> a rtt: 0.610 ms (using LAN coordinates)\n"),
        (
            ("-wan", "a.dc2", "a.dc1"),
            "Estimated a.dc2 <-> a.dc1 rtt: 40.000 ms (using WAN coordinates)\n",
        ),
        (("-wan", "a.dc2"), "Estimated a.dc2 <-> a.dc1 rtt: 40.000 ms (using WAN coordinates)\n"),
    ],
)
def test_round_trip_is_estimated(
    cli: Cli, told: FakeAgent, words: tuple[str, ...], out: str
) -> None:
    result = cli("rtt", *words)
    assert (result.code, result.out, result.err) == (0, out, "")


@pytest.mark.parametrize(
    ("words", "err"),
    [
        ((), "One or two node names must be specified"),
        (("a", "b", "c"), "One or two node names must be specified"),
        (("a", "zz"), 'Could not find a coordinate for node "zz"'),
        (("-wan", "a.dc1", "b.dc1"), 'Could not find a coordinate for node "b.dc1"'),
        (("-wan", "a.dc1", "a.dc3"), 'Could not find a coordinate for node "a.dc3"'),
        (
            ("-wan", "a", "a.dc1"),
            "Node names must be specified as <node name>.<datacenter> with -wan",
        ),
    ],
)
def test_what_is_missing_is_said(
    cli: Cli, told: FakeAgent, words: tuple[str, ...], err: str
) -> None:
    result = cli("rtt", *words)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"{err}\n")


def test_datacenter_is_asked_for(cli: Cli, told: FakeAgent) -> None:
    cli("rtt", "-datacenter=dc2", "a", "b")
    assert told.last[1:3] == ("/v1/coordinate/nodes", {"dc": ["dc2"]})


def test_agent_that_fails_is_quoted(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/coordinate/nodes", b"No cluster leader", status=500)
    result = cli("rtt", "a", "b")
    assert (result.code, result.err) == (
        1,
        "Error getting coordinates: Unexpected response code: 500 (No cluster leader)\n",
    )
    agent.answer("/v1/agent/self", b"denied", status=403)
    assert cli("rtt", "a").err.startswith("Unable to look up agent info: Unexpected response")
    agent.answer("/v1/agent/self", {"Config": None})
    assert cli("rtt", "a").err == "Unable to look up agent info: it does not tell its name\n"


@pytest.mark.parametrize(
    ("coord", "err"),
    [
        ({"Vec": [0, 0], "Height": 0}, 'The coordinate of node "b" is of no use'),
        ({"Vec": [1e300] * 8}, 'The coordinate of node "b" is of no use'),
        ({"Vec": "x"}, "Error getting coordinates: Expected `array | null`, got `str`"),
        (None, 'Could not find a coordinate for node "b"'),
    ],
)
def test_coordinate_of_no_use_is_not_computed_with(
    cli: Cli, agent: FakeAgent, coord: object, err: str
) -> None:
    agent.answer("/v1/coordinate/nodes", [NODES[0], {"Node": "b", "Coord": coord}])
    result = cli("rtt", "a", "b")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(err)
