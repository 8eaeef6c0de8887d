"""``Catalog``: texts, defaults and shapes."""

import asyncio
from typing import Any

import pytest

from isthmus.errors import RequestError
from isthmus.model.catalog import (
    ChecksInStateRequest,
    ConnectProxyConfig,
    DeregisterRequest,
    HealthCheck,
    HealthCheckDefinition,
    NodeRequest,
    NodeService,
    RegisterRequest,
    ServiceDumpRequest,
    ServiceName,
    ServiceRequest,
)
from isthmus.model.query import DatacenterRequest, Empty
from isthmus.server.server import Server
from isthmus.units import Duration

NODE_ID = "a0000000-0000-0000-0000-000000000001"


def make_register(node: str = "x", **changes: Any) -> RegisterRequest:
    return RegisterRequest(node=node, address="10.0.0.1", **changes)


async def refusal(server: Server, method: str, request: Any) -> str:
    with pytest.raises(RequestError) as caught:
        await server.call(method, request)
    assert caught.value.status == 500
    return str(caught.value)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (RegisterRequest(), "Must provide node"),
        (
            RegisterRequest(node="x"),
            "Must provide address if SkipNodeUpdate is not set",
        ),
        (make_register(id="abc"), "Bad node ID: uuid string is wrong length"),
        (make_register(id="a" * 36), "Bad node ID: uuid is improperly formatted"),
        (
            make_register(id=NODE_ID.replace("a", "z")),
            "Bad node ID: encoding/hex: invalid byte: U+007A 'z'",
        ),
        (
            make_register(id=NODE_ID[:-1] + "\n"),
            "Bad node ID: encoding/hex: invalid byte: U+000A",
        ),
        (make_register(service=NodeService(id="web")), "Must provide service name with ID"),
        (
            make_register(service=NodeService(service="web", address="0.0.0.0")),
            "Invalid service address",
        ),
        (
            make_register(check=HealthCheck(name="c", service_id="no")),
            'failed inserting check: Missing service registration on node "x"',
        ),
    ],
)
async def test_bad_registrations_are_refused(
    server: Server, request_: RegisterRequest, text: str
) -> None:
    assert await refusal(server, "Catalog.Register", request_) == text
    assert server.store.index == 1


@pytest.mark.parametrize(
    ("method", "request_", "text"),
    [
        ("Catalog.Deregister", DeregisterRequest(), "Must provide node"),
        ("Catalog.ServiceNodes", ServiceRequest(), "Must provide service name"),
        ("Catalog.NodeServices", NodeRequest(), "Must provide node"),
        ("Catalog.NodeServiceList", NodeRequest(), "Must provide node"),
    ],
)
async def test_names_must_be_given(server: Server, method: str, request_: Any, text: str) -> None:
    assert await refusal(server, method, request_) == text


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Catalog.ListNodes", DatacenterRequest(filter="a == b")),
        ("Catalog.ServiceNodes", ServiceRequest(service_name="web", filter="a == b")),
        ("Catalog.NodeServices", NodeRequest(node="x", filter="a == b")),
        ("Catalog.NodeServiceList", NodeRequest(node="x", filter="a == b")),
        ("Health.ServiceNodes", ServiceRequest(service_name="web", filter="a == b")),
        ("Health.NodeChecks", NodeRequest(node="x", filter="a == b")),
        ("Health.ServiceChecks", ServiceRequest(service_name="web", filter="a == b")),
        ("Health.ChecksInState", ChecksInStateRequest(state="any", filter="a == b")),
        ("Internal.ServiceDump", ServiceDumpRequest(filter="a == b")),
    ],
)
async def test_filters_that_do_not_fit_are_refused(
    server: Server, method: str, request_: Any
) -> None:
    text = await refusal(server, method, request_)
    assert text == 'Failed to create boolean expression evaluator: Selector "a" is not valid'


async def test_filters_keep_what_they_hold_for(server: Server) -> None:
    for name, rack in (("a", "1"), ("b", "2")):
        await server.call(
            "Catalog.Register",
            make_register(
                name,
                node_meta={"rack": rack},
                service=NodeService(service="web", tags=("v" + rack,), port=int(rack)),
                check=HealthCheck(name="c", status="passing", service_id="web", output=rack),
            ),
        )
        service = NodeService(service="db", meta={"rack": rack})
        register = make_register(name, node_meta={"rack": rack}, service=service)
        await server.call("Catalog.Register", register)
    racked = 'Meta.rack == "2"'
    nodes = await server.call("Catalog.ListNodes", DatacenterRequest(filter=racked))
    assert [node.node for node in nodes.nodes] == ["b"]
    of_node = await server.call("Catalog.NodeServices", NodeRequest(node="b", filter=racked))
    assert set(of_node.node_services.services) == {"db"}
    listed = await server.call("Catalog.NodeServiceList", NodeRequest(node="b", filter=racked))
    assert [one.id for one in listed.node_services.services] == ["db"]
    listed = await server.call("Catalog.NodeServiceList", NodeRequest(node="a", filter=racked))
    assert listed.node_services.services == ()
    web = ServiceRequest(service_name="web", filter='NodeMeta.rack != "1" and ServicePort == 2')
    rows = await server.call("Catalog.ServiceNodes", web)
    assert [row.node for row in rows.service_nodes] == ["b"]
    web = ServiceRequest(service_name="web", filter="v1 in Service.Tags and Checks.Output == 1")
    found = await server.call("Health.ServiceNodes", web)
    assert [one.node.node for one in found.nodes] == ["a"]
    checked = ServiceRequest(service_name="web", filter="Output == 2")
    checks = await server.call("Health.ServiceChecks", checked)
    assert [one.node for one in checks.health_checks] == ["b"]
    checks = await server.call("Health.NodeChecks", NodeRequest(node="a", filter="Output == 2"))
    assert checks.health_checks == ()
    state = ChecksInStateRequest(state="passing", filter="Node == a")
    checks = await server.call("Health.ChecksInState", state)
    assert [one.node for one in checks.health_checks] == ["a"]
    dump = await server.call(
        "Internal.ServiceDump", ServiceDumpRequest(filter="Node.Node == a and Checks is empty")
    )
    assert [one.service.id for one in dump.nodes] == ["db"]


async def test_names_of_services_are_listed_whatever_the_filter(server: Server) -> None:
    """Consul filters them since 1.15 only."""
    await server.call("Catalog.Register", make_register(service=NodeService(service="web")))
    everything = DatacenterRequest(filter="a ==")
    assert (await server.call("Catalog.ListServices", everything)).services == {"web": ()}
    names = await server.call("Catalog.ServiceList", everything)
    assert names.services == (ServiceName(name="web"),)


async def test_missing_names_are_reported_before_a_wrong_filter(server: Server) -> None:
    text = await refusal(server, "Catalog.ServiceNodes", ServiceRequest(filter="a =="))
    assert text == "Must provide service name"


async def test_registration_fills_ids_node_and_datacenter(server: Server) -> None:
    reply = await server.call(
        "Catalog.Register",
        make_register(
            service=NodeService(service="web"),
            checks=(HealthCheck(name="ping", service_id="web"),),
            check=HealthCheck(check_id="c"),
        ),
    )
    assert reply == Empty()
    found = await server.call("Health.ServiceNodes", ServiceRequest(service_name="web"))
    (item,) = found.nodes
    assert (item.node.datacenter, item.service.id) == ("dc1", "web")
    assert [(check.node, check.check_id) for check in item.checks] == [("x", "c"), ("x", "ping")]
    assert found.index == 2
    assert found.known_leader


async def test_type_of_a_check_follows_from_its_definition(server: Server) -> None:
    http = HealthCheckDefinition(http="http://x", interval=Duration.of(10))
    checks = (
        HealthCheck(check_id="a", definition=http),
        HealthCheck(check_id="b", definition=http, type="mine"),
        HealthCheck(check_id="c"),
    )
    await server.call("Catalog.Register", make_register(checks=checks))
    found = await server.call("Health.NodeChecks", NodeRequest(node="x"))
    assert [check.type for check in found.health_checks] == ["http", "mine", ""]


async def test_services_and_nodes_are_listed(server: Server) -> None:
    await server.call(
        "Catalog.Register",
        make_register("b", service=NodeService(service="web", tags=("v2", "v1"))),
    )
    await server.call(
        "Catalog.Register",
        make_register("a", node_meta={"rack": "1"}, service=NodeService(service="db")),
    )
    everything = DatacenterRequest()
    racked = DatacenterRequest(node_meta_filters={"rack": "1"})
    nodes = await server.call("Catalog.ListNodes", everything)
    assert [node.node for node in nodes.nodes] == ["a", "b"]
    nodes = await server.call("Catalog.ListNodes", racked)
    assert [node.node for node in nodes.nodes] == ["a"]
    services = await server.call("Catalog.ListServices", everything)
    assert services.services == {"db": (), "web": ("v1", "v2")}
    services = await server.call("Catalog.ListServices", racked)
    assert services.services == {"db": ()}
    names = await server.call("Catalog.ServiceList", everything)
    assert names.services == (ServiceName(name="db"), ServiceName(name="web"))


async def test_instances_are_filtered_by_tags_metadata_and_address(server: Server) -> None:
    for number in range(3):
        await server.call(
            "Catalog.Register",
            make_register(
                f"n{number}",
                node_meta={"rack": str(number)},
                service=NodeService(
                    service="web", tags=("All", f"t{number}"), address=f"10.1.0.{number}"
                ),
            ),
        )

    async def nodes(**changes: Any) -> list[str]:
        request = ServiceRequest(service_name="web", **changes)
        reply = await server.call("Catalog.ServiceNodes", request)
        health = await server.call("Health.ServiceNodes", request)
        if "service_address" not in changes:
            assert [item.node.node for item in health.nodes] == [
                row.node for row in reply.service_nodes
            ]
        return [row.node for row in reply.service_nodes]

    assert await nodes() == ["n0", "n1", "n2"]
    assert await nodes(service_tags=("t1",)) == ["n0", "n1", "n2"]
    assert await nodes(service_tags=("ALL", "t1"), tag_filter=True) == ["n1"]
    assert await nodes(service_tag="T2", tag_filter=True) == ["n2"]
    assert await nodes(node_meta_filters={"rack": "0"}) == ["n0"]
    assert await nodes(service_address="10.1.0.2") == ["n2"]


async def test_mesh_traffic_goes_to_proxies(server: Server) -> None:
    proxy = NodeService(
        service="web-proxy",
        kind="connect-proxy",
        port=1,
        proxy=ConnectProxyConfig(destination_service_name="web"),
    )
    await server.call("Catalog.Register", make_register(service=proxy))
    request = ServiceRequest(service_name="web", connect=True)
    reply = await server.call("Catalog.ServiceNodes", request)
    assert [row.service_name for row in reply.service_nodes] == ["web-proxy"]
    health = await server.call("Health.ServiceNodes", request)
    assert [item.service.service for item in health.nodes] == ["web-proxy"]


async def test_services_of_a_node(server: Server) -> None:
    await server.call("Catalog.Register", make_register(service=NodeService(service="web")))
    reply = await server.call("Catalog.NodeServices", NodeRequest(node="X"))
    assert reply.node_services.node.node == "x"
    assert list(reply.node_services.services) == ["web"]
    listed = await server.call("Catalog.NodeServiceList", NodeRequest(node="x"))
    assert [service.id for service in listed.node_services.services] == ["web"]


async def test_unknown_node_has_no_services(server: Server) -> None:
    reply = await server.call("Catalog.NodeServices", NodeRequest(node="none"))
    assert (reply.node_services, reply.index) == (None, 1)
    listed = await server.call("Catalog.NodeServiceList", NodeRequest(node="none"))
    assert (listed.node_services.node, listed.node_services.services) == (None, None)


async def test_deregistration_of_what_is_not_there_is_no_error(server: Server) -> None:
    for request in (
        DeregisterRequest(node="none"),
        DeregisterRequest(node="none", service_id="web"),
        DeregisterRequest(node="none", check_id="c"),
    ):
        assert await server.call("Catalog.Deregister", request) == Empty()
    assert server.store.index == 1


async def test_no_service_is_bound_to_a_gateway_at_an_index_that_can_be_blocked_on(
    server: Server,
) -> None:
    found = await server.call("Catalog.GatewayServices", ServiceRequest(service_name="gw"))
    assert (found.services, found.index) == (None, 1)
    blocked = asyncio.ensure_future(
        server.call("Catalog.GatewayServices", ServiceRequest(service_name="gw", min_query_index=1))
    )
    await server.call("Catalog.Register", make_register(service=NodeService(service="web")))
    await asyncio.sleep(0)
    assert not blocked.done()
    blocked.cancel()
