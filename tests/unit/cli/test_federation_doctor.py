"""federation doctor: of an isthmus agent, and of what a Consul agent tells."""

import json
from typing import Any

from isthmus.model.diagnosis import BROKEN, OK, UNKNOWN, DoctorReport, Finding
from isthmus.wire import gojson
from support.cli import Cli, FakeAgent

PATH = "/v1/isthmus/federation/doctor"
SOUND = Finding(source="dc1", target="dc1", hop="configuration", verdict=OK, text="on")
BAD = Finding(
    source="dc1", target="dc2", hop="TLS", verdict=BROKEN, text="expired\n\tat noon", remedy="renew"
)
LATER = Finding(source="dc1", target="dc2", hop="RPC", verdict=UNKNOWN, text="not tried")


def answer(agent: FakeAgent, *findings: Finding) -> None:
    report = DoctorReport(datacenter="dc1", findings=findings)
    agent.answer(PATH, gojson.encode(report), method="PUT")


def test_findings_are_told_way_by_way(cli: Cli, agent: FakeAgent) -> None:
    answer(agent, SOUND, BAD, LATER)
    result = cli("federation", "doctor")
    assert (result.code, result.out) == (
        1,
        """\
dc1
  ok      configuration  on

dc1 → dc2
  BROKEN  TLS            expired at noon
                         remedy: renew
  ?       RPC            not tried

One way is broken.
""",
    )


def test_sound_federation_exits_0(cli: Cli, agent: FakeAgent) -> None:
    answer(agent, SOUND, LATER)
    result = cli("federation", "doctor", "-datacenter=dc2")
    assert result.code == 0
    assert result.out.endswith("Nothing is broken.\n")
    assert agent.last[2] == {"datacenter": ["dc2"]}


def test_findings_as_json(cli: Cli, agent: FakeAgent) -> None:
    answer(agent, BAD)
    result = cli("federation", "doctor", "-format=json")
    assert result.code == 1
    assert json.loads(result.out)["Findings"][0]["Remedy"] == "renew"


def test_agent_that_is_not_there(cli: Cli) -> None:
    result = cli("federation", "doctor", "-http-addr=127.0.0.1:1")
    assert result.code == 1
    assert "no agent answers" in result.err


# A Consul agent -----------------------------------------------------------------------------------


def gateway(host: str, *, status: str = "passing") -> dict[str, Any]:
    return {
        "Node": {"Node": "n", "Address": host},
        "Service": {
            "ID": "gw",
            "Address": host,
            "Port": 1,
            "Meta": {"consul-wan-federation": "1"},
            "TaggedAddresses": {"wan": {"Address": host, "Port": 1}},
        },
        "Checks": [{"CheckID": "tcp", "Status": status, "Output": "refused"}],
    }


def consul(agent: FakeAgent, *, federated: bool = True, status: str = "passing") -> None:
    """A Consul agent of dc1, whose federation has a dc2."""
    agent.answer(
        "/v1/agent/self",
        {
            "Config": {"Datacenter": "dc1", "NodeName": "alpha", "PrimaryDatacenter": "dc1"},
            "DebugConfig": {
                "ConnectMeshGatewayWANFederationEnabled": federated,
                "CAFile": "ca.pem",
                "CertFile": "cert.pem",
            },
        },
    )
    agent.answer(
        "/v1/agent/members",
        [
            {"Name": "alpha.dc1", "Status": 1, "Tags": {"dc": "dc1"}},
            {"Name": "beta.dc2", "Status": 1, "Tags": {"dc": "dc2"}},
        ],
    )
    states = [
        {
            "Datacenter": name,
            "MeshGateways": [gateway(host, status=status)],
            "UpdatedAt": "2026-01-01T00:00:00Z",
            "PrimaryModifyIndex": 5,
            "ModifyIndex": 5,
        }
        for name, host in (("dc1", "127.0.0.1"), ("dc2", "127.0.0.2"))
    ]
    agent.answer("/v1/internal/federation-states", states)
    agent.answer("/v1/internal/federation-state/dc1", {"State": states[0]})
    agent.answer("/v1/catalog/nodes", [{"Node": "beta"}])


def verdicts(out: str, *, source: str = "dc1", target: str = "dc2") -> dict[str, str]:
    return {
        finding["Hop"]: finding["Verdict"]
        for finding in json.loads(out)["Findings"]
        if (finding["Source"], finding["Target"]) == (source, target)
    }


def test_consul_agent_is_judged_by_what_it_tells(cli: Cli, agent: FakeAgent) -> None:
    consul(agent)
    result = cli("federation", "doctor", "-format=json")
    assert result.code == 0, result.out
    assert verdicts(result.out, target="dc1") == {"configuration": OK}
    assert verdicts(result.out) == {
        "gateways": OK,
        "address": OK,
        "TLS": OK,
        "RPC": OK,
        "gossip": UNKNOWN,
        "clock": UNKNOWN,
    }
    assert verdicts(result.out, source="dc2", target="dc1")["gateways"] == OK


def test_consul_agent_without_federation(cli: Cli, agent: FakeAgent) -> None:
    consul(agent, federated=False)
    result = cli("federation", "doctor")
    assert result.code == 1
    assert "enable_mesh_gateway_wan_federation = true" in result.out


def test_consul_agent_whose_calls_fail(cli: Cli, agent: FakeAgent) -> None:
    consul(agent, status="critical")
    text = b"Remote DC has no server currently reachable"
    agent.answer("/v1/catalog/nodes", text, status=500)
    result = cli("federation", "doctor", "-format=json")
    assert result.code == 1
    found = verdicts(result.out)
    assert (found["gateways"], found["RPC"], found["TLS"]) == (BROKEN, BROKEN, UNKNOWN)
    shown = cli("federation", "doctor").out
    assert "no gateway is known that leads to dc2" in shown


def test_only_the_datacenter_asked_for(cli: Cli, agent: FakeAgent) -> None:
    consul(agent)
    result = cli("federation", "doctor", "-format=json", "-datacenter=dc7")
    assert {finding["Target"] for finding in json.loads(result.out)["Findings"]} == {"dc1"}
