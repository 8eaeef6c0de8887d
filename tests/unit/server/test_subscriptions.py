"""Following a service's health: a snapshot, then what changes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from isthmus.errors import MalformedPacket, NoLeader
from isthmus.model.catalog import (
    CheckServiceNode,
    IndexedCheckServiceNodes,
    Node,
    NodeService,
    ServiceRequest,
)
from isthmus.server.subscriptions import BATCH_MAX, StartOver, follow
from isthmus.wire import subscribe
from isthmus.wire.protobuf import make_messages
from isthmus.wire.subscribe import SubscribeRequest, Topic

EVENT = make_messages("isthmus.test_subscriptions", subscribe._FIELDS)["Event"]


class Health:
    """Answers reads of a service's health once their index is passed."""

    def __init__(self) -> None:
        self.index = 5
        self.nodes: tuple[CheckServiceNode, ...] = ()
        self.requests: list[ServiceRequest] = []
        self.error: Exception | None = None
        self._changed = asyncio.Condition()

    async def call(self, method: str, request: Any) -> Any:
        assert method == "Health.ServiceNodes"
        self.requests.append(request)
        async with self._changed:
            await self._changed.wait_for(
                lambda: self.error or request.min_query_index != self.index
            )
        if self.error is not None:
            raise self.error
        return IndexedCheckServiceNodes(nodes=self.nodes, index=self.index)

    async def become(self, index: int, *nodes: CheckServiceNode) -> None:
        async with self._changed:
            self.index, self.nodes = index, nodes
            self._changed.notify_all()

    async def fail(self, error: Exception) -> None:
        async with self._changed:
            self.error = error
            self._changed.notify_all()


def instance(node: str, port: int = 80) -> CheckServiceNode:
    return CheckServiceNode(node=Node(node=node), service=NodeService(id="web", port=port))


def request(**fields: Any) -> SubscribeRequest:
    return SubscribeRequest(**{"topic": Topic.SERVICE_HEALTH, "key": "web", **fields})


async def told(events: AsyncIterator[bytes]) -> Any:
    async with asyncio.timeout(5):
        return EVENT.FromString(await anext(events))


async def test_snapshot_then_what_changes() -> None:
    health = Health()
    health.nodes = (instance("a"), instance("b"))
    events = follow(health, request(datacenter="dc2", token="t"))
    first = await told(events)
    assert [e.service_health.check_service_node.node.node for e in first.event_batch.events] == [
        "a",
        "b",
    ]
    end = await told(events)
    assert (end.end_of_snapshot, end.index) == (True, 5)
    (asked,) = health.requests
    assert (asked.datacenter, asked.token, asked.connect) == ("dc2", "t", False)

    await health.become(8, instance("b", 81), instance("c"))
    gone = await told(events)
    assert (gone.index, gone.service_health.op) == (8, 1)
    assert gone.service_health.check_service_node.node.node == "a"
    changed = await told(events)
    assert [
        (e.service_health.op, e.service_health.check_service_node.node.node)
        for e in changed.event_batch.events
    ] == [(0, "b"), (0, "c")]
    assert health.requests[-1].min_query_index == 5


async def test_service_without_instances_has_an_empty_snapshot() -> None:
    event = await told(follow(Health(), request()))
    assert event.end_of_snapshot


async def test_who_has_data_already_is_told_to_drop_it() -> None:
    health = Health()
    health.nodes = (instance("a"),)
    events = follow(health, request(index=3))
    assert (await told(events)).new_snapshot_to_follow
    assert (await told(events)).service_health.check_service_node.node.node == "a"


async def test_index_that_goes_back_makes_the_subscriber_start_over() -> None:
    health = Health()
    events = follow(health, request())
    await told(events)
    await health.become(2)
    with pytest.raises(StartOver):
        await told(events)


async def test_failed_read_ends_the_subscription() -> None:
    health = Health()
    events = follow(health, request())
    await told(events)
    await health.fail(NoLeader())
    with pytest.raises(NoLeader):
        await told(events)


async def test_proxies_are_asked_for_as_such() -> None:
    health = Health()
    await told(follow(health, request(topic=Topic.CONNECT_HEALTH)))
    assert health.requests[0].connect


async def test_large_service_comes_in_several_events() -> None:
    health = Health()
    health.nodes = tuple(instance(f"n{number}") for number in range(BATCH_MAX + 1))
    events = follow(health, request())
    assert len((await told(events)).event_batch.events) == BATCH_MAX
    assert (await told(events)).service_health.check_service_node.node.node == f"n{BATCH_MAX}"
    assert (await told(events)).end_of_snapshot


@pytest.mark.parametrize("fields", [{"topic": 3}, {"topic": 0}, {"key": ""}])
async def test_unknown_topic_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(MalformedPacket, match="can be followed"):
        await told(follow(Health(), request(**fields)))
