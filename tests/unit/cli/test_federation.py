"""federation list, get, gateways."""

import json
from typing import Any

from support.cli import Cli, FakeAgent


def gateway(node: str, lan: str, wan: str, *statuses: str) -> dict[str, Any]:
    return {
        "Node": {"Node": node, "Address": "10.0.0.1", "Datacenter": "dc1"},
        "Service": {
            "ID": "mesh-gateway",
            "Service": "mesh-gateway",
            "Kind": "mesh-gateway",
            "Address": lan,
            "Port": 8443,
            "TaggedAddresses": {"wan": {"Address": wan, "Port": 443}},
        },
        "Checks": [{"Status": status} for status in statuses],
    }


STATES = [
    {
        "Datacenter": "dc1",
        "MeshGateways": [gateway("gw1", "10.0.0.2", "192.0.2.1", "passing", "warning")],
        "UpdatedAt": "2026-11-23T10:00:00Z",
        "PrimaryModifyIndex": 12,
        "CreateIndex": 7,
        "ModifyIndex": 40,
    },
    {
        "Datacenter": "dc2",
        "UpdatedAt": "2026-11-23T10:00:01Z",
        "PrimaryModifyIndex": 13,
        "CreateIndex": 8,
        "ModifyIndex": 41,
    },
]


def test_states_are_a_table(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/internal/federation-states", STATES)
    assert cli("federation", "list").out == (
        "Datacenter  Gateways  WAN Addresses  Updated               Primary Index  Index\n"
        "dc1         1         192.0.2.1:443  2026-11-23T10:00:00Z  12             40\n"
        "dc2         0         none           2026-11-23T10:00:01Z  13             41\n"
    )


def test_states_as_json_are_what_the_agent_says(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/internal/federation-states", STATES)
    assert json.loads(cli("federation", "list", "-format=json").out) == STATES
    bad = cli("federation", "list", "-format=xml")
    assert bad.code == 1
    assert bad.err.startswith('invalid value "xml" for flag -format: must be table or json')


def test_no_states_is_said(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/internal/federation-states", [])
    assert cli("federation", "list").out.startswith("No federation states")


def test_one_state_is_shown_with_its_gateways(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/internal/federation-state/dc1", {"State": STATES[0], "Index": 40})
    result = cli("federation", "get", "-datacenter=dc2", "dc1")
    assert result.out == (
        "Datacenter           dc1\n"
        "UpdatedAt            2026-11-23T10:00:00Z\n"
        "PrimaryModifyIndex   12\n"
        "CreateIndex          7\n"
        "ModifyIndex          40\n"
        "MeshGateways         1\n"
        "\n"
        "Node  Service       LAN Address    WAN Address    Health\n"
        "gw1   mesh-gateway  10.0.0.2:8443  192.0.2.1:443  warning\n"
    )
    assert agent.last[2] == {"dc": ["dc2"]}


def test_unknown_datacenter_exits_1(cli: Cli, agent: FakeAgent) -> None:
    result = cli("federation", "get", "dc9")
    assert result.code == 1
    assert result.err.startswith("Error! No federation state of datacenter: dc9\n")


def test_gateways_of_all_datacenters(cli: Cli, agent: FakeAgent) -> None:
    agent.answer(
        "/v1/internal/federation-states/mesh-gateways",
        {
            "dc2": [gateway("g2", "10.2.0.2", "192.0.2.2", "critical", "passing")],
            "dc1": [gateway("g1", "10.1.0.2", "192.0.2.1")],
        },
    )
    assert cli("federation", "gateways").out == (
        "Datacenter  Node  Service       LAN Address    WAN Address    Health\n"
        "dc1         g1    mesh-gateway  10.1.0.2:8443  192.0.2.1:443  passing\n"
        "dc2         g2    mesh-gateway  10.2.0.2:8443  192.0.2.2:443  critical\n"
    )


def test_answers_as_json_are_what_the_agent_says(cli: Cli, agent: FakeAgent) -> None:
    gateways = {"dc1": [gateway("g1", "10.1.0.2", "192.0.2.1")]}
    agent.answer("/v1/internal/federation-states/mesh-gateways", gateways)
    assert json.loads(cli("federation", "gateways", "-format=json").out) == gateways
    agent.answer("/v1/internal/federation-state/dc1", {"State": STATES[0], "Index": 40})
    answer = json.loads(cli("federation", "get", "-format=json", "dc1").out)
    assert answer == {"State": STATES[0], "Index": 40}


def test_no_gateways_is_said_with_the_remedy(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/internal/federation-states/mesh-gateways", {})
    assert "isthmus connect gateway" in cli("federation", "gateways").out


def test_disabled_federation_states_are_reported(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/internal/federation-states", b"Federation states are disabled", status=500)
    result = cli("federation", "list")
    assert result.code == 1
    assert result.err.startswith("Error listing federation states: Unexpected response code: 500")
