"""``Internal.ServiceDump``: what proxies and gateways watch, on virtual time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from isthmus.errors import NoLeader
from isthmus.model.catalog import (
    DeregisterRequest,
    HealthCheck,
    NodeRequest,
    NodeService,
    RegisterRequest,
    ServiceDumpRequest,
)
from isthmus.model.query import DatacenterRequest
from isthmus.server.server import Server
from isthmus.units import Duration
from support.servers import make_server
from support.virtual_loop import now, run_virtual

T = TypeVar("T")

GATEWAYS: dict[str, Any] = {"service_kind": "mesh-gateway", "use_service_kind": True}


def play(act: Callable[[Server], Awaitable[T]]) -> T:
    async def run() -> T:
        server = make_server()
        await server.start()
        try:
            return await act(server)
        finally:
            await server.stop()

    return run_virtual(run())


async def register(
    server: Server, node: str, service: str, *, kind: str = "", status: str = "passing"
) -> None:
    await server.call(
        "Catalog.Register",
        RegisterRequest(
            node=node,
            address="10.0.0.1",
            service=NodeService(service=service, kind=kind, port=80),
            check=HealthCheck(name=f"{service} alive", service_id=service, status=status),
        ),
    )


async def dump(server: Server, **request: Any) -> tuple[int, list[tuple[str, str]]]:
    """Index of the answer, and instances by node and service."""
    reply = await server.call("Internal.ServiceDump", ServiceDumpRequest(**request))
    assert reply.known_leader
    return reply.index, [(one.node.node, one.service.service) for one in reply.nodes]


def test_nothing_is_there_at_an_index_that_can_be_blocked_on() -> None:
    async def act(server: Server) -> tuple[object, object]:
        return await dump(server), await dump(server, **GATEWAYS)

    assert play(act) == ((1, []), (1, []))


def test_instance_comes_with_its_node_and_checks() -> None:
    async def act(server: Server) -> Any:
        await register(server, "n1", "gw", kind="mesh-gateway", status="critical")
        reply = await server.call("Internal.ServiceDump", ServiceDumpRequest(**GATEWAYS))
        (found,) = reply.nodes
        return found

    found = play(act)
    assert (found.node.node, found.node.address) == ("n1", "10.0.0.1")
    assert (found.service.kind, found.service.port) == ("mesh-gateway", 80)
    assert [(check.name, check.status) for check in found.checks] == [("gw alive", "critical")]


def test_kind_counts_only_if_it_is_said_that_it_does() -> None:
    async def act(server: Server) -> list[list[tuple[str, str]]]:
        await register(server, "n1", "web")
        await register(server, "n1", "gw", kind="mesh-gateway")
        requests: list[dict[str, Any]] = [
            {"service_kind": "mesh-gateway"},
            GATEWAYS,
            {"use_service_kind": True},  # The kind of those that have none.
        ]
        return [sorted((await dump(server, **request))[1]) for request in requests]

    web, gateway = ("n1", "web"), ("n1", "gw")
    assert play(act) == [[gateway, web], [gateway], [web]]


def test_reader_of_a_kind_wakes_for_that_kind_only() -> None:
    async def act(server: Server) -> tuple[float, list[tuple[str, str]]]:
        await register(server, "n1", "gw", kind="mesh-gateway")
        index, _ = await dump(server, **GATEWAYS)
        reading = asyncio.ensure_future(dump(server, **GATEWAYS, min_query_index=index))
        await asyncio.sleep(1)
        await register(server, "n1", "web")
        await asyncio.sleep(1)
        assert not reading.done()
        await register(server, "n2", "gw", kind="mesh-gateway")
        _, found = await reading
        return now(), found

    assert play(act) == (2.0, [("n1", "gw"), ("n2", "gw")])


def test_reader_wakes_when_the_last_of_a_kind_goes() -> None:
    async def act(server: Server) -> tuple[float, list[tuple[str, str]]]:
        await register(server, "n1", "gw", kind="mesh-gateway")
        index, _ = await dump(server, **GATEWAYS)
        reading = asyncio.ensure_future(dump(server, **GATEWAYS, min_query_index=index))
        await asyncio.sleep(3)
        await server.call("Catalog.Deregister", DeregisterRequest(node="n1", service_id="gw"))
        _, found = await reading
        return now(), found

    assert play(act) == (3.0, [])


def test_reader_of_everything_wakes_for_everything() -> None:
    async def act(server: Server) -> tuple[float, list[tuple[str, str]]]:
        await register(server, "n1", "gw", kind="mesh-gateway")
        index, _ = await dump(server)
        reading = asyncio.ensure_future(dump(server, min_query_index=index))
        await asyncio.sleep(2)
        await register(server, "n1", "web")
        _, found = await reading
        return now(), sorted(found)

    assert play(act) == (2.0, [("n1", "gw"), ("n1", "web")])


def test_reader_gets_what_is_there_when_its_time_is_over() -> None:
    async def act(server: Server) -> tuple[bool, list[tuple[str, str]]]:
        await register(server, "n1", "gw", kind="mesh-gateway")
        index, _ = await dump(server, **GATEWAYS)
        _, found = await dump(
            server, **GATEWAYS, min_query_index=index, max_query_time=Duration.of(8)
        )
        return 8.0 <= now() <= 8.5, found  # Up to a sixteenth is added.

    assert play(act) == (True, [("n1", "gw")])


@pytest.mark.parametrize("request_", [{}, GATEWAYS], ids=["all", "of a kind"])
def test_filter_keeps_what_it_holds_for(request_: dict[str, Any]) -> None:
    async def act(server: Server) -> list[tuple[str, str]]:
        await register(server, "n1", "gw", kind="mesh-gateway")
        await register(server, "n2", "gw", kind="mesh-gateway")
        _, found = await dump(server, **request_, filter="Node.Node == n2")
        return found

    assert play(act) == [("n2", "gw")]


def test_consistent_read_needs_a_leader() -> None:
    async def act(server: Server) -> None:
        assert await dump(server, require_consistent=True) == (1, [])
        await server.replica.resign()
        with pytest.raises(NoLeader):
            await dump(server, require_consistent=True)
        assert await dump(server) == (1, [])

    play(act)


def test_node_is_shown_with_its_services_and_checks() -> None:
    async def act(server: Server) -> Any:
        await register(server, "n1", "web")
        await register(server, "n1", "db", status="critical")
        await register(server, "n2", "web")
        one = await server.call("Internal.NodeInfo", NodeRequest(node="N1"))
        none = await server.call("Internal.NodeInfo", NodeRequest(node="n3"))
        every = await server.call("Internal.NodeDump", DatacenterRequest())
        some = await server.call("Internal.NodeDump", DatacenterRequest(filter="Node == n2"))
        assert one.dump == every.dump[:1]
        return [
            [(info.node, [s.service for s in info.services], len(info.checks)) for info in r.dump]
            for r in (one, none, every, some)
        ]

    n1, n2 = ("n1", ["db", "web"], 2), ("n2", ["web"], 1)
    assert play(act) == [[n1], [], [n1, n2], [n2]]


@pytest.mark.parametrize("name", ["n1", "n9"])
def test_reader_of_a_node_wakes_for_that_node_only(name: str) -> None:
    async def act(server: Server) -> list[str]:
        await register(server, "n1", "web")
        before = await server.call("Internal.NodeInfo", NodeRequest(node=name))
        question = NodeRequest(
            node=name, min_query_index=before.index, max_query_time=Duration.of(60)
        )
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(server.call("Internal.NodeInfo", question))
            await register(server, "n2", "web")
            await asyncio.sleep(1)
            assert not reading.done()
            await register(server, name, "web", status="critical")
        reply = reading.result()
        assert reply.index > before.index
        return [check.status for check in reply.dump[0].checks]

    assert play(act) == ["critical"]
