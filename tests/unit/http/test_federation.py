"""``/v1/internal/federation-state…``: what is asked of whom, and what the answer says."""

import pytest

from isthmus.errors import PermissionDenied
from isthmus.model.catalog import CheckServiceNode, NodeService
from isthmus.model.federation import (
    DatacenterIndexedCheckServiceNodes,
    FederationState,
    FederationStateQuery,
    FederationStateResponse,
    IndexedFederationStates,
)
from isthmus.model.query import DatacenterRequest
from isthmus.units import Duration
from support.http import FakeRpc, as_json, make_client

STATE = FederationState(datacenter="dc2", primary_modify_index=7, modify_index=9)
GATEWAYS: dict[str, tuple[CheckServiceNode, ...]] = {
    "dc2": (CheckServiceNode(service=NodeService(service="mesh-gateway", port=8443)),)
}
LIST, GATEWAY_LIST = (
    "/v1/internal/federation-states",
    "/v1/internal/federation-states/mesh-gateways",
)


def make_rpc() -> FakeRpc:
    return FakeRpc(
        FederationState_Get=FederationStateResponse(index=9, known_leader=True, state=STATE),
        FederationState_List=IndexedFederationStates(index=9, states=(STATE,)),
        FederationState_ListMeshGateways=DatacenterIndexedCheckServiceNodes(
            index=9, datacenter_nodes=GATEWAYS
        ),
    )


async def test_state_is_shown_with_what_the_reply_says_of_itself() -> None:
    """Here the contact's age is in the body, as nanoseconds."""
    rpc = make_rpc()
    rpc.answers["FederationState.Get"] = FederationStateResponse(
        index=9, last_contact=Duration(5_000_000), known_leader=True, state=STATE
    )
    response = await make_client(rpc).get("/v1/internal/federation-state/dc2")
    body = as_json(response)
    assert body.pop("State")["Datacenter"] == "dc2"
    assert body == {
        "Index": 9,
        "LastContact": 5_000_000,
        "KnownLeader": True,
        "ConsistencyLevel": "",
        "NotModified": False,
        "Backend": 0,
    }
    assert response.header("X-Consul-Lastcontact") == "5"


async def test_state_is_asked_with_all_that_the_caller_wants() -> None:
    client = make_client(make_rpc())
    target = "/v1/internal/federation-state/dc2?dc=dc3&index=4&wait=2s&token=t&consistent"
    await client.get(target)
    assert client.rpc.calls == [
        (
            "FederationState.Get",
            FederationStateQuery(
                datacenter="dc2",
                target_datacenter="dc3",
                token="t",
                min_query_index=4,
                max_query_time=Duration.of(2),
                require_consistent=True,
            ),
        )
    ]


async def test_unknown_state_is_404_without_a_body() -> None:
    rpc = make_rpc()
    rpc.answers["FederationState.Get"] = FederationStateResponse(index=9, known_leader=True)
    response = await make_client(rpc).get("/v1/internal/federation-state/nope")
    assert (response.status, response.body) == (404, b"")


async def test_state_without_a_name_asks_nobody() -> None:
    client = make_client(make_rpc())
    response = await client.get("/v1/internal/federation-state/")
    assert (response.status, client.rpc.calls) == (400, [])
    assert response.body == b"Bad request: Missing datacenter name"


@pytest.mark.parametrize("target", [LIST, GATEWAY_LIST])
async def test_lists_are_asked_of_our_datacenter_unless_another_is_named(target: str) -> None:
    client = make_client(make_rpc())
    await client.get(target)
    await client.get(f"{target}?dc=dc3&stale&filter=ignored")
    assert [request for _, request in client.rpc.calls] == [
        DatacenterRequest(datacenter="dc1"),
        DatacenterRequest(datacenter="dc3", allow_stale=True),
    ]


async def test_states_are_a_list() -> None:
    response = await make_client(make_rpc()).get(LIST)
    assert [state["Datacenter"] for state in as_json(response)] == ["dc2"]
    assert response.header("X-Consul-Index") == "9"


async def test_gateways_are_an_object_by_datacenter() -> None:
    body = as_json(await make_client(make_rpc()).get(GATEWAY_LIST))
    assert [(dc, one["Service"]["Port"]) for dc in body for one in body[dc]] == [("dc2", 8443)]


@pytest.mark.parametrize(
    ("target", "empty"), [(LIST, b"[]"), (GATEWAY_LIST, b"{}")], ids=["states", "gateways"]
)
@pytest.mark.parametrize("nothing", [None, ()], ids=["nil", "empty"])
async def test_nothing_is_an_empty_list_or_object(
    target: str, empty: bytes, nothing: tuple[()] | None
) -> None:
    rpc = FakeRpc(
        FederationState_List=IndexedFederationStates(states=nothing),
        FederationState_ListMeshGateways=DatacenterIndexedCheckServiceNodes(
            datacenter_nodes=None if nothing is None else {}
        ),
    )
    response = await make_client(rpc).get(target)
    assert (response.status, response.body) == (200, empty)
    assert response.header("X-Consul-Index") == "1"  # 0 would let nobody block on it.


async def test_what_is_kept_of_one_answer_is_not_shown_in_another() -> None:
    rpc = make_rpc()
    client = make_client(rpc)
    plain = [(await client.get(LIST)).body for _ in range(4)]
    pretty = [(await client.get(f"{LIST}?pretty")).body for _ in range(4)]
    assert len({*plain}) == len({*pretty}) == 1
    assert plain[0] != pretty[0]
    other = FederationState(datacenter="dc3")
    rpc.answers["FederationState.List"] = IndexedFederationStates(index=10, states=(other,))
    changed = await client.get(LIST)
    assert [state["Datacenter"] for state in as_json(changed)] == ["dc3"]
    assert changed.header("X-Consul-Index") == "10"


@pytest.mark.parametrize("target", ["/v1/internal/federation-state/dc2", LIST, GATEWAY_LIST])
async def test_token_without_the_right_is_403(target: str) -> None:
    rpc = make_rpc()
    rpc.answers = dict.fromkeys(rpc.answers, PermissionDenied())
    response = await make_client(rpc).get(target)
    assert (response.status, response.body) == (403, b"Permission denied")
