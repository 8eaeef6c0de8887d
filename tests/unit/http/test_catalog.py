import pytest

from isthmus.errors import RequestError
from isthmus.model.catalog import (
    DeregisterRequest,
    GatewayService,
    IndexedGatewayServices,
    IndexedNodes,
    IndexedNodeServiceList,
    IndexedNodeServices,
    IndexedServiceNodes,
    IndexedServices,
    Node,
    NodeService,
    NodeServiceList,
    NodeServices,
    ServiceName,
    ServiceNode,
)
from isthmus.model.query import Empty
from support.http import FakeRpc, as_json, make_client

NODE = Node(node="alpha", address="10.0.0.1", datacenter="dc1")
SERVICE = NodeService(id="web", service="web")


async def test_registration_goes_to_our_datacenter_with_the_requests_token() -> None:
    client = make_client(FakeRpc(Catalog_Register=Empty()))
    body = {"node": "n", "Address": "10.0.0.9", "Service": {"Service": "web", "Port": 80}}
    response = await client.put("/v1/catalog/register?token=t", body)
    assert (response.status, response.body) == (200, b"true")
    asked = client.rpc.last
    assert (asked.datacenter, asked.node, asked.token) == ("dc1", "n", "t")
    assert asked.service.port == 80


async def test_datacenter_of_the_body_counts() -> None:
    client = make_client(FakeRpc(Catalog_Register=Empty()))
    await client.put("/v1/catalog/register", {"Datacenter": "dc2", "Node": "n"})
    assert client.rpc.last.datacenter == "dc2"


@pytest.mark.parametrize(
    ("body", "query", "asked"),
    [({}, "", "dc1"), ({}, "?dc=dc2", "dc2"), ({"Datacenter": "dc3"}, "?dc=dc2", "dc3")],
)
async def test_datacenter_is_the_bodys_or_the_querys(
    body: dict[str, str], query: str, asked: str
) -> None:
    client = make_client(FakeRpc(Catalog_Register=Empty(), Catalog_Deregister=Empty()))
    for path in ("register", "deregister"):
        await client.put(f"/v1/catalog/{path}{query}", {"Node": "a", **body})
        assert client.rpc.last.datacenter == asked


async def test_servers_words_are_answered() -> None:
    client = make_client(FakeRpc(Catalog_Register=RequestError("Must provide node", status=400)))
    response = await client.put("/v1/catalog/register", {})
    assert (response.status, response.body) == (500, b"Must provide node")


async def test_deregistration_ignores_the_address() -> None:
    client = make_client(FakeRpc(Catalog_Deregister=Empty()))
    body = {"Node": "n", "Address": "10.0.0.9", "ServiceID": "s", "CheckID": "c"}
    response = await client.put("/v1/catalog/deregister", body)
    assert response.body == b"true"
    assert client.rpc.last == DeregisterRequest(
        datacenter="dc1", node="n", service_id="s", check_id="c"
    )


async def test_body_that_is_not_json_is_refused() -> None:
    response = await make_client().put("/v1/catalog/register", b"{bad}")
    assert response.status == 400
    assert response.body.startswith(b"Request decode failed: invalid character 'b'")


async def test_datacenters_have_no_index() -> None:
    response = await make_client(FakeRpc(Catalog_ListDatacenters=("dc1", "dc2"))).get(
        "/v1/catalog/datacenters?dc=elsewhere"
    )
    assert as_json(response) == ["dc1", "dc2"]
    assert response.header("X-Consul-Index") is None


async def test_nodes_are_a_list() -> None:
    client = make_client(FakeRpc(Catalog_ListNodes=IndexedNodes(index=3, nodes=(NODE,))))
    response = await client.get("/v1/catalog/nodes?stale")
    assert as_json(response)[0]["Node"] == "alpha"
    assert response.header("X-Consul-Effective-Consistency") == "stale"
    empty = make_client(FakeRpc(Catalog_ListNodes=IndexedNodes()))
    assert (await empty.get("/v1/catalog/nodes")).body == b"[]"


async def test_services_have_lists_of_tags() -> None:
    reply = IndexedServices(index=3, services={"consul": (), "web": ("a",)})
    response = await make_client(FakeRpc(Catalog_ListServices=reply)).get("/v1/catalog/services")
    assert response.body == b'{"consul":[],"web":["a"]}'


@pytest.mark.parametrize("endpoint", ["service", "connect"])
async def test_instances_have_tags_and_metadata(endpoint: str) -> None:
    reply = IndexedServiceNodes(index=3, service_nodes=(ServiceNode(node="alpha"),))
    client = make_client(FakeRpc(Catalog_ServiceNodes=reply))
    (one,) = as_json(await client.get(f"/v1/catalog/{endpoint}/web"))
    assert (one["ServiceTags"], one["ServiceMeta"], one["NodeMeta"]) == ([], {}, None)
    assert client.rpc.last.connect == (endpoint == "connect")


async def test_node_has_its_services_by_id() -> None:
    found = NodeServices(node=NODE, services={"web": SERVICE})
    client = make_client(FakeRpc(Catalog_NodeServices=IndexedNodeServices(node_services=found)))
    answer = as_json(await client.get("/v1/catalog/node/alpha"))
    assert answer["Node"]["Node"] == "alpha"
    assert answer["Services"]["web"]["Tags"] == []


async def test_unknown_node_is_null() -> None:
    client = make_client(FakeRpc(Catalog_NodeServices=IndexedNodeServices(index=4)))
    response = await client.get("/v1/catalog/node/beta")
    assert (response.status, response.body) == (200, b"null")
    assert response.header("X-Consul-Index") == "4"


async def test_node_has_its_services_as_a_list() -> None:
    found = NodeServiceList(node=NODE, services=(SERVICE,))
    reply = IndexedNodeServiceList(node_services=found)
    client = make_client(FakeRpc(Catalog_NodeServiceList=reply))
    answer = as_json(await client.get("/v1/catalog/node-services/alpha"))
    assert answer["Services"][0]["ID"] == "web"
    client = make_client(FakeRpc(Catalog_NodeServiceList=IndexedNodeServiceList()))
    assert (
        await client.get("/v1/catalog/node-services/x")
    ).body == b'{"Node":null,"Services":null}'


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("service/", "Missing service name"),
        ("connect/", "Missing service name"),
        ("node/", "Missing node name"),
        ("node-services/", "Missing node name"),
    ],
)
async def test_name_is_needed(path: str, text: str) -> None:
    response = await make_client().get(f"/v1/catalog/{path}")
    assert (response.status, response.body.decode()) == (400, text)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("catalog/services", 400),
        ("catalog/service/web", 400),
        ("catalog/node/n1", 400),
        ("catalog/gateway-services/gw", 400),
        ("health/service/web", 400),
        ("health/state/any", 400),
        ("catalog/nodes", 200),
    ],
)
async def test_namespaces_are_refused_where_data_has_one(path: str, status: int) -> None:
    rpc = FakeRpc(Catalog_ListNodes=IndexedNodes(index=2))
    response = await make_client(rpc).get(f"/v1/{path}?ns=team")
    assert response.status == status


async def test_gateway_without_services_answers_null() -> None:
    rpc = FakeRpc(Catalog_GatewayServices=IndexedGatewayServices(index=1, known_leader=True))
    response = await make_client(rpc).get("/v1/catalog/gateway-services/gw?dc=dc2")
    assert response.body == b"null"
    assert response.header("X-Consul-Index") == "1"
    assert (rpc.last.service_name, rpc.last.datacenter) == ("gw", "dc2")


async def test_services_of_a_gateway_are_listed() -> None:
    bound = GatewayService(
        gateway=ServiceName(name="gw"), service=ServiceName(name="web"), gateway_kind="k", port=80
    )
    rpc = FakeRpc(Catalog_GatewayServices=IndexedGatewayServices(index=1, services=(bound,)))
    (shown,) = as_json(await make_client(rpc).get("/v1/catalog/gateway-services/gw"))
    assert list(shown) == [
        "Gateway",
        "Service",
        "GatewayKind",
        "Port",
        "CreateIndex",
        "ModifyIndex",
    ]


async def test_gateway_must_be_named() -> None:
    response = await make_client().get("/v1/catalog/gateway-services/")
    assert (response.status, response.body) == (400, b"Missing gateway name")


@pytest.mark.parametrize(("query", "body"), [("", b"true"), ("?pretty", b"true\n")])
async def test_success_of_a_write_is_json_as_any(query: str, body: bytes) -> None:
    client = make_client(FakeRpc(Catalog_Deregister=Empty()))
    response = await client.put(f"/v1/catalog/deregister{query}", {"Node": "n1"})
    assert response.body == body


async def test_namespace_in_a_body_is_refused_with_the_reason() -> None:
    response = await make_client().put("/v1/catalog/deregister", {"Node": "a", "Namespace": "x"})
    assert response.status == 400
    assert response.body == (
        b'Request decode failed: json: unknown field "Namespace"'
        b" - Namespaces are a Consul Enterprise feature"
    )
