"""``near``: every answer that it sorts, and what leaves the order as it is."""

from typing import Any

import pytest

from isthmus.model.catalog import (
    ChecksInStateRequest,
    HealthCheck,
    NodeService,
    RegisterRequest,
    ServiceConnect,
    ServiceRequest,
)
from isthmus.model.coordinate import Coord, Coordinate, CoordinateBatch
from isthmus.model.query import DatacenterRequest, QuerySource
from isthmus.server.server import Server
from support.coordinates import at

PLACES = {"a": 0.05, "b": 0.01, "d": 0.03}
"""Where the nodes lie; of c nothing is known."""
READS: dict[str, Any] = {
    "Catalog.ListNodes": (DatacenterRequest(), lambda reply: [row.node for row in reply.nodes]),
    "Catalog.ServiceNodes": (
        ServiceRequest(service_name="web"),
        lambda reply: [row.node for row in reply.service_nodes],
    ),
    "Catalog.ServiceNodes connect": (
        ServiceRequest(service_name="web", connect=True),
        lambda reply: [row.node for row in reply.service_nodes],
    ),
    "Health.ServiceNodes": (
        ServiceRequest(service_name="web"),
        lambda reply: [item.node.node for item in reply.nodes],
    ),
    "Health.ServiceNodes connect": (
        ServiceRequest(service_name="web", connect=True),
        lambda reply: [item.node.node for item in reply.nodes],
    ),
    "Health.ServiceChecks": (
        ServiceRequest(service_name="web"),
        lambda reply: [check.node for check in reply.health_checks],
    ),
    "Health.ChecksInState": (
        ChecksInStateRequest(state="passing"),
        lambda reply: [check.node for check in reply.health_checks],
    ),
}


async def store(server: Server, node: str, coord: Coord, segment: str = "") -> None:
    update = Coordinate(node=node, segment=segment, coord=coord)
    await server.apply(CoordinateBatch(updates=(update,)))


@pytest.fixture
async def nodes(server: Server) -> Server:
    """Four nodes with a service each, registered in another order than they are near."""
    for node in "abcd":
        web = NodeService(service="web", connect=ServiceConnect(native=True))
        await server.call(
            "Catalog.Register",
            RegisterRequest(
                node=node,
                address="10.0.0.1",
                service=web,
                check=HealthCheck(name="c", service_id="web", status="passing"),
            ),
        )
    for node, place in PLACES.items():
        await store(server, node, at(place))
    return server


async def order(server: Server, name: str, **source: str) -> list[str]:
    request, nodes_of = READS[name]
    fields = {field: getattr(request, field) for field in request.__struct_fields__}
    asked = type(request)(**{**fields, "source": QuerySource(**source)})
    found: list[str] = nodes_of(await server.call(name.split()[0], asked))
    return found


@pytest.mark.parametrize("name", READS)
async def test_rows_are_sorted_and_the_unknown_stands_last(nodes: Server, name: str) -> None:
    assert await order(nodes, name, datacenter="dc1", node="b") == ["b", "d", "a", "c"]
    assert await order(nodes, name, datacenter="dc1", node="A") == ["a", "d", "b", "c"]


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize(
    "source",
    [
        {},
        {"datacenter": "dc1"},
        {"datacenter": "dc1", "node": "c"},
        {"datacenter": "dc1", "node": "nobody"},
        {"datacenter": "dc2", "node": "b"},
        {"node": "b"},
    ],
)
async def test_order_stays_where_nothing_is_known(
    nodes: Server, name: str, source: dict[str, str]
) -> None:
    assert await order(nodes, name, **source) == ["a", "b", "c", "d"]


async def test_rows_equally_far_stay_in_their_order(server: Server) -> None:
    for node in "dcba":
        await server.call("Catalog.Register", RegisterRequest(node=node, address="10.0.0.1"))
        await store(server, node, at(0.01))
    source = {"datacenter": "DC1", "node": "d"}
    assert await order(server, "Catalog.ListNodes", **source) == ["a", "b", "c", "d"]


async def test_only_a_common_segment_can_be_compared(nodes: Server) -> None:
    await store(nodes, "c", at(0.0), segment="s")
    await store(nodes, "a", at(0.9), segment="s")
    assert await order(nodes, "Catalog.ListNodes", datacenter="dc1", node="c") == list("cabd")
    assert await order(nodes, "Catalog.ListNodes", datacenter="dc1", node="b") == list("bdac")


async def test_unsorted_answer_is_still_the_one_object(nodes: Server) -> None:
    request = ServiceRequest(service_name="web", source=QuerySource(datacenter="dc1"))
    first = await nodes.call("Health.ServiceNodes", request)
    assert (await nodes.call("Health.ServiceNodes", request)).nodes is first.nodes


async def test_several_rows_of_a_node_stay_together_and_in_their_order(nodes: Server) -> None:
    web = NodeService(id="web-2", service="web")
    await nodes.call("Catalog.Register", RegisterRequest(node="a", address="10.0.0.1", service=web))
    source = QuerySource(datacenter="dc1", node="b")
    reply = await nodes.call(
        "Catalog.ServiceNodes", ServiceRequest(service_name="web", source=source)
    )
    assert [(row.node, row.service_id) for row in reply.service_nodes] == [
        ("b", "web"),
        ("d", "web"),
        ("a", "web"),
        ("a", "web-2"),
        ("c", "web"),
    ]
