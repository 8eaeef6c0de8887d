"""``isthmus operator``: output and exit codes."""

import json
from typing import Any

import pytest

from support.cli import Cli, FakeAgent

RAFT, AUTOPILOT = "/v1/operator/raft", "/v1/operator/autopilot"
CONFIG = {
    "CleanupDeadServers": True,
    "LastContactThreshold": "200ms",
    "MaxTrailingLogs": 250,
    "MinQuorum": 0,
    "ServerStabilizationTime": "10s",
    "RedundancyZoneTag": "",
    "DisableUpgradeMigration": False,
    "UpgradeVersionTag": "",
    "CreateIndex": 5,
    "ModifyIndex": 5,
}


def server(number: int, **more: Any) -> dict[str, Any]:
    shown = {
        "ID": f"id{number}", "Node": f"s{number}", "Address": f"10.0.0.{number}:8300",
        "Leader": number == 1, "ProtocolVersion": "3", "Voter": True,
    }  # fmt: skip
    return {**shown, **more}


def test_peers_are_listed(cli: Cli, agent: FakeAgent) -> None:
    agent.answer(f"{RAFT}/configuration", {"Servers": [server(1), server(2, Voter=False)]})
    result = cli("operator", "raft", "list-peers", "-stale")
    assert result.code == 0
    assert result.out.splitlines() == [
        "Node  ID   Address        State     Voter  RaftProtocol",
        "s1    id1  10.0.0.1:8300  leader    true   3",
        "s2    id2  10.0.0.2:8300  follower  false  3",
    ]
    assert "stale" in agent.last[2]


@pytest.mark.parametrize(
    "command",
    [
        ("raft", "list-peers"),
        ("raft", "remove-peer", "-id=a"),
        ("raft", "transfer-leader"),
        ("autopilot", "get-config"),
        ("autopilot", "set-config", "-min-quorum=3"),
        ("autopilot", "state"),
    ],
)
def test_every_command_is_about_the_datacenter_asked_for(
    cli: Cli, agent: FakeAgent, command: tuple[str, ...]
) -> None:
    name, *flags = command[1:]
    state = {"Healthy": True, "FailureTolerance": 0, "OptimisticFailureTolerance": 0}
    agent.answer(f"{RAFT}/configuration", {"Servers": [server(1)]})
    agent.answer(f"{RAFT}/peer", b"", method="DELETE")
    agent.answer(f"{RAFT}/transfer-leader", {"Success": True}, method="POST")
    agent.answer(f"{AUTOPILOT}/configuration", CONFIG)
    agent.answer(f"{AUTOPILOT}/configuration", b"true", method="PUT")
    agent.answer(f"{AUTOPILOT}/state", {**state, "Leader": "", "Voters": [], "Servers": {}})
    assert cli("operator", command[0], name, "-datacenter=dc2", *flags).code == 0
    assert agent.requests
    assert all(query["dc"] == ["dc2"] for _, _, query, _ in agent.requests)


def test_peer_is_removed(cli: Cli, agent: FakeAgent) -> None:
    agent.answer(f"{RAFT}/peer", b"", method="DELETE")
    result = cli("operator", "raft", "remove-peer", "-id=id2")
    assert (result.code, result.out) == (0, 'Removed peer with id "id2"\n')
    assert agent.last[:3] == ("DELETE", f"{RAFT}/peer", {"id": ["id2"]})


@pytest.mark.parametrize("flags", [(), ("-id=a", "-address=b:1")])
def test_peer_to_remove_is_named_by_one_of_both(cli: Cli, flags: tuple[str, ...]) -> None:
    result = cli("operator", "raft", "remove-peer", *flags)
    assert result.code == 1
    assert "either -id or -address" in result.err


def test_leadership_is_handed_over(cli: Cli, agent: FakeAgent) -> None:
    agent.answer(f"{RAFT}/transfer-leader", {"Success": True}, method="POST")
    result = cli("operator", "raft", "transfer-leader", "-id=id2")
    assert (result.code, result.out) == (0, "Success\n")
    assert agent.last[:3] == ("POST", f"{RAFT}/transfer-leader", {"id": ["id2"]})


def test_autopilot_settings_are_shown(cli: Cli, agent: FakeAgent) -> None:
    agent.answer(f"{AUTOPILOT}/configuration", CONFIG)
    result = cli("operator", "autopilot", "get-config")
    assert result.out.splitlines() == [
        "CleanupDeadServers = true",
        "LastContactThreshold = 200ms",
        "MaxTrailingLogs = 250",
        "MinQuorum = 0",
        "ServerStabilizationTime = 10s",
        'RedundancyZoneTag = ""',
        "DisableUpgradeMigration = false",
        'UpgradeVersionTag = ""',
    ]


def test_only_what_is_named_is_changed(cli: Cli, agent: FakeAgent) -> None:
    agent.answer(f"{AUTOPILOT}/configuration", CONFIG)
    for answer, code, text in (
        (b"true", 0, "Configuration updated!\n"),
        (b"false", 1, "Configuration could not be atomically updated, please try again\n"),
    ):
        agent.answer(f"{AUTOPILOT}/configuration", answer, method="PUT")
        result = cli("operator", "autopilot", "set-config", "-cleanup-dead-servers=false")
        assert (result.code, result.out) == (code, text)
    method, path, query, body = agent.last[:4]
    assert (method, path, query) == ("PUT", f"{AUTOPILOT}/configuration", {"cas": ["5"]})
    assert json.loads(body) == CONFIG | {"CleanupDeadServers": False}
    result = cli("operator", "autopilot", "set-config")
    assert result.code == 1
    assert "Nothing to set" in result.err
    assert cli("operator", "autopilot", "set-config", "-max-trailing-logs=-1").code == 1
    agent.answer(f"{AUTOPILOT}/configuration", b"true", method="PUT")
    flags = ("-redundancy-zone-tag=z", "-disable-upgrade-migration=true", "-upgrade-version-tag=v")
    assert cli("operator", "autopilot", "set-config", *flags).code == 0
    tags = {"RedundancyZoneTag": "z", "DisableUpgradeMigration": True, "UpgradeVersionTag": "v"}
    assert json.loads(agent.last[3]) == CONFIG | tags


def test_storage_is_moved_by_the_running_agent(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/isthmus/storage/migrate", b"", method="PUT")
    result = cli("operator", "storage", "migrate", "-online")
    assert result.code == 0
    assert "bootstrap_expect = 3" in result.out
    assert agent.last[:2] == ("PUT", "/v1/isthmus/storage/migrate")
    result = cli("operator", "storage", "migrate", "-online", "-to=sqlite")
    assert result.code == 1
    assert "Only a move to etcd" in result.err


def test_state_is_shown(cli: Cli, agent: FakeAgent) -> None:
    one = {
        "ID": "id1", "Name": "s1", "Address": "10.0.0.1:8300", "NodeStatus": "alive",
        "Version": "1.10.11", "LastContact": "0s", "LastTerm": 3, "LastIndex": 9,
        "Healthy": True, "Status": "leader", "NodeType": "voter",
        "Meta": {"consul-network-segment": ""},
    }  # fmt: skip
    state = {
        "Healthy": True, "FailureTolerance": 1, "OptimisticFailureTolerance": 1,
        "Leader": "id1", "Voters": ["id1"], "Servers": {"id1": one},
    }  # fmt: skip
    agent.answer(f"{AUTOPILOT}/state", state)
    lines = cli("operator", "autopilot", "state").out.splitlines()
    assert lines[0] == "Healthy:                      true"
    assert "      Status:          leader" in lines
    assert lines[-2:] == ["      Meta", '         "consul-network-segment": ""']
    shown = cli("operator", "autopilot", "state", "-format=json").out
    assert json.loads(shown) == state
    refused = cli("operator", "autopilot", "state", "-format=xml")
    assert (refused.code, refused.out) == (1, "")
    assert "Unknown format: xml" in refused.err


@pytest.mark.parametrize(
    "command",
    [
        ("operator", "raft", "list-peers"),
        ("operator", "autopilot", "get-config"),
        ("operator", "autopilot", "set-config", "-min-quorum=3"),
        ("operator", "autopilot", "state"),
        ("members",),
        ("info",),
        ("catalog", "nodes"),
        ("maint",),
    ],
)
def test_agent_that_does_not_know_a_path_is_no_empty_answer(
    cli: Cli, agent: FakeAgent, command: tuple[str, ...]
) -> None:
    result = cli(*command)
    assert result.code == 1
    assert result.err.endswith(": Unexpected response code: 404 ()\n")
    assert result.out == ""
