from typing import Any

import pytest

from isthmus.model.catalog import (
    CheckServiceNode,
    ConnectProxyConfig,
    HealthCheck,
    IndexedNodeDump,
    IndexedNodesWithGateways,
    Node,
    NodeInfo,
    NodeService,
)
from support.http import FakeRpc, as_json, make_client


def instance(node: str, service: NodeService, **checks: str) -> CheckServiceNode:
    return CheckServiceNode(
        node=Node(node=node, datacenter="dc1"),
        service=service,
        checks=tuple(
            HealthCheck(node=node, check_id=name, status=status) for name, status in checks.items()
        ),
    )


def web(*tags: str, **meta: str) -> NodeService:
    return NodeService(service="web", tags=tags, meta={k.replace("_", "-"): meta[k] for k in meta})


def proxy(mode: str = "") -> NodeService:
    config = ConnectProxyConfig(destination_service_name="web", mode=mode)
    return NodeService(service="web-proxy", kind="connect-proxy", proxy=config)


async def summaries(*instances: CheckServiceNode) -> list[dict[str, Any]]:
    rpc = FakeRpc(Internal_ServiceDump=IndexedNodesWithGateways(index=5, nodes=instances))
    response = await make_client(rpc).get("/v1/internal/ui/services")
    assert response.header("X-Consul-Index") == "5"
    found: list[dict[str, Any]] = as_json(response)
    return found


async def test_service_is_summed_up_in_the_order_of_consuls_fields() -> None:
    (found,) = await summaries(
        instance("b", web("v2", external_source="nomad"), alive="passing", c="critical"),
        instance("a", web("v1", "v2"), alive="warning"),
    )
    assert list(found.items()) == [
        ("Name", "web"),
        ("Datacenter", "dc1"),
        ("Tags", ["v1", "v2"]),
        ("Nodes", ["a", "b"]),
        ("ExternalSources", ["nomad"]),
        ("InstanceCount", 2),
        ("ChecksPassing", 1),
        ("ChecksWarning", 1),
        ("ChecksCritical", 1),
        ("GatewayConfig", {}),
        ("TransparentProxy", False),
        ("ConnectedWithProxy", False),
        ("ConnectedWithGateway", False),
    ]


async def test_check_of_a_node_counts_once_for_instances_on_it() -> None:
    (found,) = await summaries(
        instance("a", web(), alive="passing"), instance("a", web(), alive="passing")
    )
    assert (found["InstanceCount"], found["ChecksPassing"]) == (2, 1)


@pytest.mark.parametrize(
    ("modes", "is_transparent"),
    [(["transparent"], True), (["transparent", ""], False), ([""], False)],
)
async def test_proxies_tell_of_the_service_behind_them(
    modes: list[str], is_transparent: bool
) -> None:
    behind, found = await summaries(
        *(instance(f"n{i}", proxy(mode), c="critical") for i, mode in enumerate(modes))
    )
    assert (behind["Name"], behind["InstanceCount"], behind["Nodes"]) == ("web", 0, None)
    assert behind["ChecksCritical"] == len(modes)
    assert (behind["ConnectedWithProxy"], behind["TransparentProxy"]) == (True, is_transparent)
    assert (found["Kind"], found["ConnectedWithProxy"]) == ("connect-proxy", False)


async def test_nothing_is_a_list() -> None:
    assert await summaries() == []


async def test_nodes_come_with_lists_of_services_and_checks() -> None:
    rpc = FakeRpc(Internal_NodeDump=IndexedNodeDump(index=3, dump=(NodeInfo(node="a"),)))
    client = make_client(rpc)
    response = await client.get("/v1/internal/ui/nodes?dc=dc2&filter=Node==a&index=2&wait=1s")
    (found,) = as_json(response)
    assert (found["Node"], found["Services"], found["Checks"]) == ("a", [], [])
    assert (rpc.last.datacenter, rpc.last.filter) == ("dc2", "Node==a")
    assert (rpc.last.min_query_index, rpc.last.max_query_time.seconds) == (2, 1)


async def test_node_is_shown_or_not_found() -> None:
    rpc = FakeRpc(Internal_NodeInfo=IndexedNodeDump(index=3, dump=(NodeInfo(node="a"),)))
    response = await make_client(rpc).get("/v1/internal/ui/node/a")
    assert as_json(response)["Node"] == rpc.last.node == "a"
    rpc = FakeRpc(Internal_NodeInfo=IndexedNodeDump(index=3))
    response = await make_client(rpc).get("/v1/internal/ui/node/b")
    assert (response.status, response.body) == (404, b"")


async def test_node_needs_a_name() -> None:
    response = await make_client(FakeRpc()).get("/v1/internal/ui/node/")
    assert (response.status, response.body) == (400, b"Missing node name")


async def test_metrics_are_fetched_for_nobody() -> None:
    response = await make_client(FakeRpc()).get("/v1/internal/ui/metrics-proxy/api/v1/query")
    assert (response.status, response.body) == (404, b"Metrics proxy is not enabled")
