"""federation status."""

import json

import pytest

from isthmus.cli.command import CommandFailed
from isthmus.cli.federation_status import watch
from isthmus.model.diagnosis import (
    DatacenterReport,
    FederationReport,
    GatewayReport,
    MemberReport,
    ReplicationReport,
)
from isthmus.model.timestamp import Timestamp
from isthmus.units import Duration
from isthmus.wire import gojson
from support.cli import Cli, FakeAgent

NOW = Timestamp.of_unix(1_800_000_000)


def ago(seconds: int) -> Timestamp:
    return Timestamp(NOW.seconds - seconds)


REPORT = FederationReport(
    datacenter="dc2",
    primary_datacenter="dc1",
    node_name="beta",
    leader=True,
    time=NOW,
    mesh_gateways_in_use=True,
    way_to_primary="primary gateways",
    way_reason="replication failed 4 times in a row",
    replication=ReplicationReport(
        running=True, primary_index=9, index=8, last_success=ago(90), failures=4, last_error="down"
    ),
    datacenters=(
        DatacenterReport(
            datacenter="dc1",
            primary=True,
            servers=1,
            servers_alive=1,
            gateways=2,
            gateways_usable=1,
            updated_at=ago(7200),
            state_age=Duration.of(7200),
            primary_modify_index=8,
            failing_since=ago(12),
            failed_step="tls",
            clock_known=True,
            clock_difference=Duration.of(3600.5),
        ),
        DatacenterReport(datacenter="dc2"),
    ),
    gateways=(
        GatewayReport(
            address="10.2.0.1:8443",
            role="local",
            attempts=3,
            failures=1,
            last_used=ago(5),
            dial_time=Duration.of(0.004),
            last_error="refused",
            last_error_at=ago(60),
        ),
        GatewayReport(
            address="10.9.0.1:8443", attempts=1, last_error="timeout", failing_since=ago(3)
        ),
    ),
    members=(MemberReport(name="beta.dc2", address="10.2.0.9:8302", status="alive", build="b"),),
)


def test_status_is_told_in_tables(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/isthmus/federation", gojson.encode(REPORT))
    result = cli("federation", "status")
    assert (result.code, result.out) == (
        0,
        """\
Datacenter dc2, primary dc1, seen by beta (leader) at 2027-01-15T08:00:00Z
Primary dialled through primary gateways: replication failed 4 times in a row
Replication: index 8 of 9, latest answer 90s ago, 4 failures since: down

Datacenter     Servers  Gateways  State Age  Index  Clock     Reached
dc1 (primary)  1/1      1/2       2h         8      +3600.5s  no, for 12s: TLS
dc2            0/0      0/0       -          0      -         -

Gateway        Role   Dials  Failed  Last Used  Dial Time  Last Error
10.2.0.1:8443  local  3      1       5s ago     4.0ms      (60s ago: refused)
10.9.0.1:8443  -      1      0       never      -          timeout

Member    Address        Status  Build
beta.dc2  10.2.0.9:8302  alive   b
""",
    )


def test_status_as_json_is_what_the_agent_says(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/isthmus/federation", gojson.encode(REPORT))
    result = cli("federation", "status", "-format=json", "-datacenter=dc1")
    assert json.loads(result.out) == json.loads(gojson.encode(REPORT))
    assert agent.last[2] == {"dc": ["dc1"]}


def test_consul_agent_is_no_isthmus_agent(cli: Cli, agent: FakeAgent) -> None:
    result = cli("federation", "status")
    assert result.code == 1
    assert "is no isthmus agent" in result.err
    assert "isthmus federation doctor" in result.err


def test_watching_goes_on_when_the_agent_is_away(capsys: pytest.CaptureFixture[str]) -> None:
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise KeyboardInterrupt

    def show() -> None:
        if len(pauses) == 1:
            raise CommandFailed("away")
        print("shown")

    with pytest.raises(KeyboardInterrupt):
        watch(show, pause=pause)
    assert pauses == [1.0, 1.0, 1.0]
    assert capsys.readouterr().out == "shown\naway\nshown\n"
