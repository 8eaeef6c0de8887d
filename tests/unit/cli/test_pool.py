"""members, join, leave, force-leave, info."""

from typing import Any

from support.cli import Cli, FakeAgent


def member(name: str, status: int, **more: Any) -> dict[str, Any]:
    tags = {"role": "consul", "dc": "dc1", "vsn": "2", "build": "1.10.11:abc", "id": "7"}
    return {"Name": name, "Addr": "10.0.0.1", "Port": 8302, "Status": status, "Tags": tags, **more}


MEMBERS = [
    member("beta.dc2", 4, Tags={"role": "consul", "dc": "dc2", "vsn": "2", "build": "1.21.4:"}),
    member("alpha.dc1", 1),
    member("web1", 3, Addr="fd00::1", Port=8301, Tags={"role": "node", "dc": "dc1", "vsn": "2"}),
]


def test_members_are_a_table_sorted_by_name(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/agent/members", MEMBERS)
    result = cli("members", "-wan")
    assert result.code == 0
    assert result.out == (
        "Node       Address         Status  Type    Build    Protocol  DC   Segment\n"
        "alpha.dc1  10.0.0.1:8302   alive   server  1.10.11  2         dc1  <all>\n"
        "beta.dc2   10.0.0.1:8302   failed  server  1.21.4   2         dc2  <all>\n"
        "web1       [fd00::1]:8301  left    client  < 0.3    2         dc1  <default>\n"
    )
    assert agent.last[:3] == ("GET", "/v1/agent/members", {"segment": ["_all"], "wan": ["1"]})


def test_detailed_members_show_their_tags_sorted(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/agent/members", MEMBERS[1:2])
    assert cli("members", "-detailed").out == (
        "Node       Address        Status  Tags\n"
        "alpha.dc1  10.0.0.1:8302  alive   build=1.10.11:abc,dc=dc1,id=7,role=consul,vsn=2\n"
    )


def test_members_are_chosen_by_status_and_none_exits_2(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/agent/members", MEMBERS)
    assert cli("members", "-status=alive|left").out.count("\n") == 3
    none = cli("members", "-status", "leaving")
    assert (none.code, none.out, none.err) == (2, "", "")
    bad = cli("members", "-status", "(")
    assert bad.code == 1
    assert bad.err.startswith("Failed to compile status regexp")


def test_join_counts_what_worked(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/agent/join/10.0.0.1", b"", method="PUT")
    agent.answer("/v1/agent/join/10.0.0.2", b"no route", status=500, method="PUT")
    result = cli("join", "-wan", "10.0.0.1", "10.0.0.2")
    assert result.code == 0
    assert result.out == "Successfully joined cluster by contacting 1 nodes.\n"
    assert result.err == (
        "Error joining address '10.0.0.2': Unexpected response code: 500 (no route)\n"
    )
    assert agent.last[2] == {"wan": ["1"]}


def test_join_fails_if_nobody_was_joined(cli: Cli, agent: FakeAgent) -> None:
    result = cli("join", "10.0.0.9")
    assert result.code == 1
    assert result.err.endswith("Failed to join any nodes.\n")
    assert cli("join").err.startswith("At least one address to join must be specified.")


def test_leave_and_force_leave(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/agent/leave", b"", method="PUT")
    assert cli("leave").out == "Graceful leave complete\n"
    agent.answer("/v1/agent/force-leave/web1", b"", method="PUT")
    done = cli("force-leave", "-prune", "-wan", "web1")
    assert (done.code, done.out) == (0, "")
    assert agent.last[2] == {"prune": ["1"], "wan": ["1"]}
    agent.answer("/v1/agent/force-leave/x", b"agent: No node found", status=500, method="PUT")
    failed = cli("force-leave", "x")
    assert failed.code == 1
    assert failed.err.startswith("Error force leaving: Unexpected response code: 500 (agent: No")
    assert cli("force-leave").err.startswith("A single node name must be specified")


def test_info_is_grouped_and_sorted(cli: Cli, agent: FakeAgent) -> None:
    stats = {"serf_lan": {"members": "3", "failed": "0"}, "agent": {"checks": "1"}}
    agent.answer("/v1/agent/self", {"Stats": stats})
    assert cli("info").out == ("agent:\n\tchecks = 1\nserf_lan:\n\tfailed = 0\n\tmembers = 3\n")


def test_flags_behind_arguments_are_arguments(cli: Cli) -> None:
    assert cli("leave", "now").err.startswith("Too many arguments (expected 0, got 1)")


def test_reload_is_asked_for(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/agent/reload", b"", method="PUT")
    assert cli("reload").out == "Configuration reload triggered\n"
    assert agent.last[:2] == ("PUT", "/v1/agent/reload")
    agent.answer("/v1/agent/reload", b"bad key", status=500, method="PUT")
    refused = cli("reload")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err == "Error reloading: Unexpected response code: 500 (bad key)\n"
