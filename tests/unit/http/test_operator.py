"""``/v1/operator``: the shapes and statuses that Consul's clients know."""

import pytest

from isthmus.model.operator import (
    AutopilotConfig,
    AutopilotHealthReply,
    AutopilotServerHealth,
    AutopilotState,
    RaftConfigurationResponse,
    RaftRemovePeerRequest,
    RaftServer,
    TransferLeaderResponse,
)
from isthmus.model.query import Empty
from isthmus.model.timestamp import Timestamp
from support.http import FakeRpc, as_json, make_client

SERVER = RaftServer(id="i", node="s1", address="10.0.0.1:8300", leader=True, voter=True)


async def test_raft_configuration() -> None:
    rpc = FakeRpc(Operator_RaftGetConfiguration=RaftConfigurationResponse(servers=(SERVER,)))
    answer = await make_client(rpc).get("/v1/operator/raft/configuration?dc=dc2")
    assert rpc.last.datacenter == "dc2"
    assert as_json(answer) == {
        "Servers": [
            {
                "ID": "i",
                "Node": "s1",
                "Address": "10.0.0.1:8300",
                "Leader": True,
                "ProtocolVersion": "3",
                "Voter": True,
            }
        ],
        "Index": 0,
    }


@pytest.mark.parametrize(
    ("query", "text"),
    [
        (
            "",
            "Bad request: Must specify either ?id with the server's ID or ?address with IP:port "
            "of peer to remove",
        ),
        ("?id=a&address=b", "Bad request: Must specify only one of ?id or ?address"),
    ],
)
async def test_peer_is_named_by_one_of_both(query: str, text: str) -> None:
    answer = await make_client(FakeRpc()).request("DELETE", f"/v1/operator/raft/peer{query}")
    assert (answer.status, answer.body.decode()) == (400, text)


@pytest.mark.parametrize(
    ("query", "request_"),
    [
        ("id=i", RaftRemovePeerRequest(datacenter="dc1", id="i")),
        ("address=10.0.0.1:8300", RaftRemovePeerRequest(datacenter="dc1", address="10.0.0.1:8300")),
    ],
)
async def test_peer_is_removed(query: str, request_: RaftRemovePeerRequest) -> None:
    rpc = FakeRpc(Operator_RaftRemovePeerByID=Empty(), Operator_RaftRemovePeerByAddress=Empty())
    answer = await make_client(rpc).request("DELETE", f"/v1/operator/raft/peer?{query}")
    assert (answer.status, answer.body) == (200, b"")
    assert rpc.last == request_


async def test_leadership_is_handed_over() -> None:
    rpc = FakeRpc(Operator_TransferLeader=TransferLeaderResponse(success=True))
    answer = await make_client(rpc).request("POST", "/v1/operator/raft/transfer-leader?id=i")
    assert as_json(answer) == {"Success": True}
    assert rpc.last.id == "i"


async def test_autopilot_configuration_is_read_and_set() -> None:
    config = AutopilotConfig(modify_index=7)
    rpc = FakeRpc(
        Operator_AutopilotGetConfiguration=config, Operator_AutopilotSetConfiguration=True
    )
    client = make_client(rpc)
    shown = as_json(await client.get("/v1/operator/autopilot/configuration"))
    assert shown == {
        "CleanupDeadServers": True,
        "LastContactThreshold": "200ms",
        "MaxTrailingLogs": 250,
        "MinQuorum": 0,
        "ServerStabilizationTime": "10s",
        "RedundancyZoneTag": "",
        "DisableUpgradeMigration": False,
        "UpgradeVersionTag": "",
        "CreateIndex": 0,
        "ModifyIndex": 7,
    }
    body = {"CleanupDeadServers": False, "LastContactThreshold": "1s"}
    answer = await client.put("/v1/operator/autopilot/configuration?cas=7", body)
    assert answer.body.strip() == b"true"
    assert rpc.last.cas
    assert rpc.last.config.modify_index == 7
    assert not rpc.last.config.cleanup_dead_servers
    answer = await client.put("/v1/operator/autopilot/configuration?cas=x", body)
    assert answer.status == 400


@pytest.mark.parametrize(("healthy", "status"), [(True, 200), (False, 429)])
async def test_health_says_by_its_status_whether_all_is_well(healthy: bool, status: int) -> None:
    one = AutopilotServerHealth(id="i", name="s1", serf_status=1, healthy=healthy, voter=True)
    reply = AutopilotHealthReply(healthy=healthy, servers=(one,))
    answer = await make_client(FakeRpc(Operator_ServerHealth=reply)).get(
        "/v1/operator/autopilot/health"
    )
    assert answer.status == status
    shown = as_json(answer)
    assert (shown["Healthy"], shown["FailureTolerance"]) == (healthy, 0)
    assert shown["Servers"][0]["LastContact"] == "0s"
    assert shown["Servers"][0]["SerfStatus"] == "alive"
    assert list(shown) == ["Healthy", "FailureTolerance", "Servers"]


async def test_health_is_shown_since_a_whole_second() -> None:
    moment = Timestamp.parse("2026-01-02T03:04:05Z").seconds
    found = []
    for nanoseconds in (499_999_999, 500_000_000):
        one = AutopilotServerHealth(id="i", stable_since=Timestamp(moment, nanoseconds))
        rpc = FakeRpc(Operator_ServerHealth=AutopilotHealthReply(servers=(one,)))
        shown = as_json(await make_client(rpc).get("/v1/operator/autopilot/health"))
        found.append(shown["Servers"][0]["StableSince"])
    assert found == ["2026-01-02T03:04:05Z", "2026-01-02T03:04:06Z"]


async def test_state() -> None:
    rpc = FakeRpc(Operator_AutopilotState=AutopilotState(leader="i", voters=("i",), servers={}))
    shown = as_json(await make_client(rpc).get("/v1/operator/autopilot/state"))
    assert (shown["Leader"], shown["Voters"], shown["Servers"]) == ("i", ["i"], {})
