"""Consul's recorded answers about federation, asked of our door with Consul's data behind it."""

import json
from pathlib import Path
from typing import Any

import pytest

from isthmus.errors import NoPathToDatacenter, RequestError
from isthmus.model import registration
from isthmus.model.agent import Member, ServiceDefinition
from isthmus.model.coordinate import DatacenterMap
from isthmus.model.federation import (
    DatacenterIndexedCheckServiceNodes,
    FederationState,
    FederationStateResponse,
    IndexedFederationStates,
)
from isthmus.wire import gojson
from support.http import FakeLocal, FakeRpc, as_dict, as_json, make_client

_VECTORS = Path(__file__).parents[2] / "vectors" / "federation" / "http.json"
CASES: dict[str, dict[str, Any]] = json.loads(_VECTORS.read_text())["cases"]
REGISTRATIONS = {
    "register_meta_reserved_ok": ("mesh-gateway", "consul-wan-federation"),
    "register_meta_reserved_refused_kind": ("", "consul-wan-federation"),
    "register_meta_reserved_refused_key": ("mesh-gateway", "consul-other"),
}


class _Local(FakeLocal):
    async def register_service(
        self, definition: ServiceDefinition, *, replace_existing_checks: bool
    ) -> None:
        registration.register(definition, node=self.node_name)


def _read(kind: Any, body: object) -> Any:
    return gojson.decode(kind, json.dumps(body).encode())


def _rpc(case: dict[str, Any]) -> FakeRpc:
    body, path = case["body"], case["request"]["path"]
    meta = {
        "index": int(case["headers"].get("X-Consul-Index", "0")),
        "known_leader": case["headers"].get("X-Consul-Knownleader") == "true",
    }
    rpc = FakeRpc()
    if case["status"] == 500:
        rpc.answers["FederationState.List"] = NoPathToDatacenter("dc9")
    elif "mesh-gateways" in path:
        rpc.answers["FederationState.ListMeshGateways"] = _read(
            DatacenterIndexedCheckServiceNodes, {"DatacenterNodes": body}
        )
    elif "federation-states" in path and case["status"] == 200:
        rpc.answers["FederationState.List"] = IndexedFederationStates(
            **meta,
            states=_read(tuple[FederationState, ...], body),
        )
    elif "federation-state/" in path:
        state = body["State"] if isinstance(body, dict) else None
        rpc.answers["FederationState.Get"] = FederationStateResponse(
            **meta,
            state=state and _read(FederationState, state),
        )
    elif "coordinate/datacenters" in path:
        rpc.answers["Coordinate.ListDatacenters"] = _read(tuple[DatacenterMap, ...], body)
    elif "datacenters" in path:
        rpc.answers["Catalog.ListDatacenters"] = tuple(body)
    if "mesh-gateways" in path:
        reply = rpc.answers["FederationState.ListMeshGateways"]
        assert isinstance(reply, DatacenterIndexedCheckServiceNodes)
        rpc.answers["FederationState.ListMeshGateways"] = DatacenterIndexedCheckServiceNodes(
            **meta,
            datacenter_nodes=reply.datacenter_nodes,
        )
    return rpc


@pytest.mark.parametrize("name", sorted(CASES))
async def test_answer_is_as_recorded(name: str) -> None:
    case = CASES[name]
    local = _Local()
    if name == "members_wan_primary":
        local.wan = list(_read(tuple[Member, ...], case["body"]))
    if name == "agent_join_wan":
        local.fault = RequestError(case["body"])
    kind, key = REGISTRATIONS.get(name, ("", ""))
    body = {"Name": "x", "Kind": kind, "Port": 1, "Meta": {key: "1"}} if key else b""
    client = make_client(_rpc(case), local)
    request = case["request"]
    response = await client.request(request["method"], request["path"], body)
    assert response.status == case["status"]
    headers = as_dict(response)
    headers.pop("Allow", None)  # The recording kept only some headers.
    assert headers == case["headers"]
    if case["body"] is None:
        assert response.body == b""
    elif headers["Content-Type"] == "application/json":
        assert as_json(response) == case["body"]
    else:
        assert response.body.decode() == case["body"]


async def test_who_answers_and_what_is_wanted_are_told_apart() -> None:
    client = make_client(_rpc(CASES["get_other_dc"]))
    await client.get("/v1/internal/federation-state/dc1?dc=dc2&stale")
    asked = client.rpc.last
    assert (asked.datacenter, asked.target_datacenter, asked.allow_stale) == ("dc1", "dc2", True)


async def test_blocking_parameters_reach_the_call_and_the_filter_does_not() -> None:
    client = make_client(_rpc(CASES["list_blocking_no_change"]))
    await client.get("/v1/internal/federation-states?index=17&wait=2s&filter=x")
    asked = client.rpc.last
    assert (asked.min_query_index, asked.max_query_time.seconds, asked.filter) == (17, 2.0, "")
