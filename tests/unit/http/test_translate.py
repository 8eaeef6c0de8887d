"""WAN addresses in answers about other datacenters."""

import pytest

from isthmus.http import translate
from isthmus.model.catalog import (
    CheckServiceNode,
    HealthCheck,
    IndexedCheckServiceNodes,
    IndexedNodes,
    IndexedNodeServiceList,
    IndexedNodeServices,
    IndexedServiceNodes,
    Node,
    NodeService,
    NodeServiceList,
    NodeServices,
    ServiceAddress,
    ServiceNode,
)
from support.http import FakeRpc, as_json, make_client

NODE = Node(
    node="n1", address="10.0.0.1", tagged_addresses={"lan": "10.0.0.1", "wan": "198.18.0.1"}
)
WAN = {"wan": ServiceAddress(address="198.18.0.2", port=8443)}
SERVICE = NodeService(id="web", service="web", address="10.0.0.2", port=80, tagged_addresses=WAN)
INSTANCE = CheckServiceNode(node=NODE, service=SERVICE, checks=(HealthCheck(status="passing"),))
FLAT = ServiceNode(
    node="n1",
    address="10.0.0.1",
    tagged_addresses=NODE.tagged_addresses,
    service_address="10.0.0.2",
    service_port=80,
    service_tagged_addresses=WAN,
)


@pytest.mark.parametrize(
    ("tagged", "shown"),
    [
        ({"wan": "198.18.0.1", "wan_ipv4": "198.18.0.9"}, "198.18.0.1"),
        ({"wan_ipv4": "198.18.0.9", "lan_ipv4": "10.0.0.1"}, "198.18.0.9"),
        ({"wan_ipv6": "2001:db8::1"}, "2001:db8::1"),
        ({"lan": "10.0.0.7", "wan": ""}, "10.0.0.1"),
        ({}, "10.0.0.1"),
        (None, "10.0.0.1"),
    ],
)
def test_node_has_its_wan_address_or_its_own(tagged: dict[str, str] | None, shown: str) -> None:
    found = Node(node="n1", address="10.0.0.1", tagged_addresses=tagged)
    assert translate.node(found).address == shown


@pytest.mark.parametrize(
    ("tagged", "shown"),
    [
        (ServiceAddress(address="198.18.0.2", port=8443), ("198.18.0.2", 8443)),
        (ServiceAddress(address="198.18.0.2"), ("198.18.0.2", 80)),
        (ServiceAddress(port=8443), ("10.0.0.2", 80)),
    ],
)
def test_service_keeps_its_port_unless_the_wan_address_has_one(
    tagged: ServiceAddress, shown: tuple[str, int]
) -> None:
    found = NodeService(address="10.0.0.2", port=80, tagged_addresses={"wan": tagged})
    translated = translate.service(found)
    assert (translated.address, translated.port) == shown


def test_what_needs_no_translation_is_the_same_object() -> None:
    node, service = Node(address="10.0.0.1"), NodeService(address="10.0.0.2", port=80)
    assert translate.node(node) is node
    assert translate.service(service) is service


# Through the door -----------------------------------------------------------------------------


def make() -> FakeRpc:
    return FakeRpc(
        Catalog_ListNodes=IndexedNodes(index=2, nodes=(NODE,)),
        Catalog_ServiceNodes=IndexedServiceNodes(index=2, service_nodes=(FLAT,)),
        Catalog_NodeServices=IndexedNodeServices(
            index=2, node_services=NodeServices(node=NODE, services={"web": SERVICE})
        ),
        Catalog_NodeServiceList=IndexedNodeServiceList(
            index=2, node_services=NodeServiceList(node=NODE, services=(SERVICE,))
        ),
        Health_ServiceNodes=IndexedCheckServiceNodes(index=2, nodes=(INSTANCE,)),
    )


LAN = ("10.0.0.1", "10.0.0.2", 80)
REMOTE = ("198.18.0.1", "198.18.0.2", 8443)
ANSWERS = [
    ("catalog/nodes", lambda body: (body[0]["Address"],)),
    (
        "catalog/service/web",
        lambda body: (body[0]["Address"], body[0]["ServiceAddress"], body[0]["ServicePort"]),
    ),
    (
        "catalog/node/n1",
        lambda body: (
            body["Node"]["Address"],
            body["Services"]["web"]["Address"],
            body["Services"]["web"]["Port"],
        ),
    ),
    (
        "catalog/node-services/n1",
        lambda body: (
            body["Node"]["Address"],
            body["Services"][0]["Address"],
            body["Services"][0]["Port"],
        ),
    ),
    (
        "health/service/web?passing",
        lambda body: (
            body[0]["Node"]["Address"],
            body[0]["Service"]["Address"],
            body[0]["Service"]["Port"],
        ),
    ),
    (
        "health/connect/web",
        lambda body: (
            body[0]["Node"]["Address"],
            body[0]["Service"]["Address"],
            body[0]["Service"]["Port"],
        ),
    ),
]


@pytest.mark.parametrize(("path", "addresses"), ANSWERS)
async def test_only_answers_about_other_datacenters_are_translated(path: str, addresses) -> None:  # type: ignore[no-untyped-def]
    client = make_client(make(), translate_wan=True)
    join = "&" if "?" in path else "?"
    for _ in range(2):  # What is encoded for one must not be answered to the other.
        own = addresses(as_json(await client.get(f"/v1/{path}")))
        named = addresses(as_json(await client.get(f"/v1/{path}{join}dc=dc1")))
        other = addresses(as_json(await client.get(f"/v1/{path}{join}dc=dc2")))
        assert own == named == LAN[: len(own)]
        assert other == REMOTE[: len(own)]


async def test_every_answer_tells_that_addresses_are_translated() -> None:
    response = await make_client(make(), translate_wan=True).get("/v1/catalog/nodes")
    assert response.header("X-Consul-Translate-Addresses") == "true"


async def test_without_the_setting_nothing_is_translated() -> None:
    response = await make_client(make()).get("/v1/health/service/web?dc=dc2")
    assert as_json(response)[0]["Service"]["Address"] == "10.0.0.2"
    assert response.header("X-Consul-Translate-Addresses") is None
