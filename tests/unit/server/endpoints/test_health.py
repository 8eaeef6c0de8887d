"""``Health`` and ``Internal``: what is shown, and that it is kept between changes."""

import asyncio
from typing import Any

import pytest

from isthmus.errors import RequestError
from isthmus.model.catalog import (
    ChecksInStateRequest,
    HealthCheck,
    NodeRequest,
    NodeService,
    RegisterRequest,
    ServiceDumpRequest,
    ServiceRequest,
)
from isthmus.server.server import Server
from isthmus.units import Duration

WEB = ServiceRequest(service_name="web")


async def register(server: Server, node: str, service: str = "web", **changes: Any) -> None:
    await server.call(
        "Catalog.Register",
        RegisterRequest(
            node=node,
            address="10.0.0.1",
            node_meta={"rack": node},
            service=NodeService(service=service, **changes),
            check=HealthCheck(name="c-" + service, service_id=service, status="passing"),
        ),
    )


async def test_instances_are_the_same_object_until_one_changes(server: Server) -> None:
    await register(server, "a")
    first = await server.call("Health.ServiceNodes", WEB)
    await register(server, "a", "db")
    second = await server.call("Health.ServiceNodes", WEB)
    assert second.nodes is first.nodes
    assert second.index == first.index
    await register(server, "b")
    third = await server.call("Health.ServiceNodes", WEB)
    assert [item.node.node for item in third.nodes] == ["a", "b"]
    assert third.index == first.index + 2


async def test_name_must_be_given(server: Server) -> None:
    with pytest.raises(RequestError, match="Must provide service name"):
        await server.call("Health.ServiceNodes", ServiceRequest())


async def test_no_service_is_behind_an_ingress_gateway(server: Server) -> None:
    await register(server, "a")
    request = ServiceRequest(service_name="web", ingress=True)
    assert (await server.call("Health.ServiceNodes", request)).nodes == ()


async def test_blocked_reader_wakes_for_its_service_only(server: Server) -> None:
    await register(server, "a")
    index = (await server.call("Health.ServiceNodes", WEB)).index
    blocked = ServiceRequest(service_name="web", min_query_index=index)
    reading = asyncio.ensure_future(server.call("Health.ServiceNodes", blocked))
    await asyncio.sleep(0)
    await register(server, "a", "db")
    assert not reading.done()
    await register(server, "b")
    reply = await reading
    assert (len(reply.nodes), reply.index) == (2, index + 2)


async def test_blocked_reader_gets_everything_after_its_time(server: Server) -> None:
    await register(server, "a")
    blocked = ServiceRequest(
        service_name="web", min_query_index=2, max_query_time=Duration.of(0.001)
    )
    reply = await server.call("Health.ServiceNodes", blocked)
    assert (len(reply.nodes), reply.index) == (1, 2)


async def test_checks_by_service_node_and_state(server: Server) -> None:
    await register(server, "a")
    await register(server, "b")
    critical = HealthCheck(name="disk", status="critical")
    await server.call("Catalog.Register", RegisterRequest(node="a", address="1", check=critical))

    async def checks(method: str, request: Any) -> list[tuple[str, str]]:
        reply = await server.call(method, request)
        assert reply.known_leader
        return [(check.node, check.name) for check in reply.health_checks]

    assert await checks("Health.ServiceChecks", WEB) == [("a", "c-web"), ("b", "c-web")]
    by_rack = ServiceRequest(service_name="web", node_meta_filters={"rack": "b"})
    assert await checks("Health.ServiceChecks", by_rack) == [("b", "c-web")]
    assert await checks("Health.NodeChecks", NodeRequest(node="a")) == [
        ("a", "c-web"),
        ("a", "disk"),
    ]
    for state, wanted in (
        ("critical", [("a", "disk")]),
        ("passing", [("a", "c-web"), ("b", "c-web")]),
        ("any", [("a", "c-web"), ("a", "disk"), ("b", "c-web")]),
        ("bogus", []),
    ):
        assert await checks("Health.ChecksInState", ChecksInStateRequest(state=state)) == wanted


async def test_unknown_names_answer_empty_lists(server: Server) -> None:
    reply = await server.call("Health.NodeChecks", NodeRequest(node="none"))
    assert (reply.health_checks, reply.index) == ((), 1)
    nodes = await server.call("Health.ServiceNodes", WEB)
    assert (nodes.nodes, nodes.index) == ((), 1)


async def test_dump_of_one_kind_and_of_all(server: Server) -> None:
    await register(server, "a")
    await register(server, "b", "gw", kind="mesh-gateway", port=8443)

    async def dump(request: ServiceDumpRequest) -> list[str]:
        reply = await server.call("Internal.ServiceDump", request)
        return [item.service.id for item in reply.nodes]

    assert await dump(ServiceDumpRequest()) == ["web", "gw"]
    gateways = ServiceDumpRequest(service_kind="mesh-gateway", use_service_kind=True)
    assert await dump(gateways) == ["gw"]
    assert await dump(ServiceDumpRequest(use_service_kind=True)) == ["web"]
    assert await dump(ServiceDumpRequest(service_kind="none", use_service_kind=True)) == []
