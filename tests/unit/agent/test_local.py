"""Keeping the catalog the same as the node, against a server in memory, on virtual time."""

import asyncio
from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from isthmus.agent.local import (
    FULL_SYNC_INTERVAL,
    LEADER_SYNC_SPREAD,
    LocalState,
    NodeFacts,
)
from isthmus.errors import InvalidRequest, NotFound, RequestError, Unavailable
from isthmus.model.agent import CheckDefinition, ServiceDefinition
from isthmus.model.catalog import (
    DeregisterRequest,
    HealthCheck,
    NodeRequest,
    NodeService,
    RegisterRequest,
    ServiceAddress,
    Weights,
)
from isthmus.model.record import Record
from isthmus.model.registration import register
from isthmus.server.server import Server
from isthmus.store.engine import NoSpace
from isthmus.units import Duration
from support.servers import make_server
from support.virtual_loop import now, run_virtual, settle

FACTS = NodeFacts(
    dc="dc1",
    node="n1",
    node_id="b0000000-0000-0000-0000-000000000001",
    address="10.0.0.1",
    tagged_addresses={"lan": "10.0.0.1"},
    meta={"rack": "7"},
)


def service(name: str, *, port: int = 80) -> NodeService:
    return NodeService(id=name, service=name, port=port, meta={}, tags=())


def check(check_id: str, service_id: str = "", *, status: str = "critical") -> HealthCheck:
    return HealthCheck(check_id=check_id, name=check_id, status=status, service_id=service_id)


class World:
    """A server in memory, the local state of a node, and what it called."""

    server: Server
    local: LocalState

    def __init__(self) -> None:
        self.calls: list[tuple[float, str]] = []  # Writes only.
        self.fails: Callable[[Record], Exception | None] = lambda request: None

    async def rpc(self, method: str, request: Record) -> object:
        if isinstance(request, RegisterRequest):
            names = [request.service.id] if request.service is not None else []
            names += [check.check_id for check in request.checks or ()]
            self.calls.append((now(), "+" + ",".join(names)))
        elif isinstance(request, DeregisterRequest):
            self.calls.append((now(), f"-{request.service_id or request.check_id}"))
        if error := self.fails(request):
            raise error
        return await self.server.call(method, request)

    async def play(self, act: Callable[["World"], Any]) -> None:
        self.server = make_server()
        await self.server.start()
        self.local = LocalState(facts=FACTS, rpc=self.rpc, rng=Random(1))
        running = asyncio.get_running_loop().create_task(self.local.run())
        await act(self)
        assert not running.done()
        running.cancel()
        await asyncio.wait({running})
        await self.server.stop()

    async def stored(self) -> dict[str, int]:
        """Services of the node in the catalog, by id, with their ports."""
        request = NodeRequest(datacenter="dc1", node="n1")
        found = (await self.server.call("Catalog.NodeServices", request)).node_services
        return {key: value.port for key, value in (found.services or {}).items()}

    async def statuses(self) -> dict[str, str]:
        request = NodeRequest(datacenter="dc1", node="n1")
        found = await self.server.call("Health.NodeChecks", request)
        return {check.check_id: check.status for check in found.health_checks}


def play(act: Callable[[World], Any]) -> World:
    world = World()
    run_virtual(world.play(act))
    return world


def test_node_is_registered_at_start_and_then_left_alone() -> None:
    async def act(world: World) -> None:
        await asyncio.sleep(600)
        node = world.server.store.catalog.nodes().value[0]
        assert (node.node, node.address, node.meta) == ("n1", "10.0.0.1", {"rack": "7"})

    assert play(act).calls == [(0.0, "+")]


def test_registration_reaches_the_catalog_at_once_and_needs_no_repair() -> None:
    async def act(world: World) -> None:
        await asyncio.sleep(10)
        world.local.put_service(service("web"), [check("c1", "web"), check("c2", "web")])
        await world.local.synced()
        assert now() == 10
        assert await world.stored() == {"web": 80}
        assert await world.statuses() == {"c1": "critical", "c2": "critical"}
        await asyncio.sleep(600)

    assert play(act).calls == [(0.0, "+"), (10.0, "+web,c1,c2")]


def test_what_users_register_needs_no_repair() -> None:
    weights = Weights(passing=3, warning=2)
    definition = ServiceDefinition(
        name="gw",
        kind="mesh-gateway",
        address="10.0.0.1",
        port=443,
        meta={"consul-wan-federation": "1"},
        tagged_addresses={"wan": ServiceAddress(address="192.0.2.7", port=443)},
        weights=weights,
        checks=(CheckDefinition(ttl=Duration.of(9)), CheckDefinition(ttl=Duration.of(9))),
    )

    async def act(world: World) -> None:
        await asyncio.sleep(10)
        registration = register(definition, node="n1")
        checks = [plan.check for plan in registration.checks]
        world.local.put_service(registration.service, checks)
        await asyncio.sleep(600)

    assert play(act).calls == [(0.0, "+"), (10.0, "+gw,service:gw:1,service:gw:2")]


def test_check_that_changes_is_written_alone() -> None:
    async def act(world: World) -> None:
        world.local.put_service(service("web"), [check("c1", "web")])
        await asyncio.sleep(10)
        world.local.update_check("c1", "passing", "fine")
        world.local.update_check("c1", "passing", "fine")
        world.local.update_check("unknown", "passing", "fine")
        await world.local.synced()
        assert await world.statuses() == {"c1": "passing"}

    assert play(act).calls == [(0.0, "+web,c1"), (10.0, "+c1")]


def test_removed_service_takes_its_checks_along() -> None:
    async def act(world: World) -> None:
        world.local.put_service(service("web"), [check("c1", "web")])
        await asyncio.sleep(10)
        assert world.local.remove_service("web") == ("c1",)
        await world.local.synced()
        assert (await world.stored(), await world.statuses()) == ({}, {})
        with pytest.raises(NotFound, match='Unknown service ID "web"'):
            world.local.remove_service("web")

    assert play(act).calls == [(0.0, "+web,c1"), (10.0, "-web")]


def test_replaced_service_keeps_the_state_of_its_checks() -> None:
    async def act(world: World) -> None:
        world.local.put_service(service("web"), [check("c1", "web")])
        world.local.update_check("c1", "passing", "fine")
        world.local.put_service(service("web", port=81), [check("c1", "web")])
        await world.local.synced()
        assert (await world.stored(), await world.statuses()) == ({"web": 81}, {"c1": "passing"})

    play(act)


def test_check_of_an_unknown_service_is_refused() -> None:
    async def act(world: World) -> None:
        with pytest.raises(RequestError, match='ServiceID "nope" does not exist'):
            world.local.put_check(check("c1", "nope"))

    play(act)


def test_comparison_repairs_what_was_changed_elsewhere() -> None:
    """Missing comes back, foreign goes, changed is set right, and the node with it."""

    async def act(world: World) -> None:
        world.local.put_service(service("gone"))
        world.local.put_service(service("changed"))
        await asyncio.sleep(10)
        node: dict[str, Any] = {"datacenter": "dc1", "node": "n1", "id": FACTS.node_id}
        call = world.server.call
        await call("Catalog.Deregister", DeregisterRequest(node="n1", service_id="gone"))
        for foreign in (service("foreign"), service("changed", port=9)):
            request = RegisterRequest(**node, address="10.9.9.9", service=foreign)
            await call("Catalog.Register", request)
        odd = HealthCheck(node="n1", check_id="odd", name="odd", status="passing")
        request = RegisterRequest(**node, address="10.9.9.9", check=odd)
        await call("Catalog.Register", request)
        await asyncio.sleep(60)
        assert await world.stored() == {"gone": 80, "changed": 80}
        assert await world.statuses() == {}
        assert world.server.store.catalog.nodes().value[0].address == "10.0.0.1"

    play(act)


def test_new_leader_is_compared_with_within_seconds() -> None:
    async def act(world: World) -> None:
        world.local.put_service(service("web"))
        await asyncio.sleep(10)
        await world.server.call(
            "Catalog.Deregister", DeregisterRequest(datacenter="dc1", node="n1", service_id="web")
        )
        world.local.compare_soon()
        await asyncio.sleep(LEADER_SYNC_SPREAD)
        assert await world.stored() == {"web": 80}
        await asyncio.sleep(FULL_SYNC_INTERVAL)

    world = play(act)
    assert [what for _, what in world.calls] == ["+web", "+web"]


def test_new_leader_during_a_comparison_is_compared_with_too() -> None:
    async def act(world: World) -> None:
        compared: list[float] = []
        ask = world.local._rpc

        async def rpc(method: str, request: Record) -> object:
            if method == "Catalog.NodeServices":
                compared.append(now())
                if len(compared) == 1:
                    world.local.compare_soon()
            return await ask(method, request)

        world.local._rpc = rpc
        await asyncio.sleep(LEADER_SYNC_SPREAD)
        assert len(compared) == 2

    play(act)


def test_node_alone_is_repaired_beside_a_removal() -> None:
    async def act(world: World) -> None:
        await asyncio.sleep(10)
        request = RegisterRequest(
            datacenter="dc1", node="n1", id=FACTS.node_id, address="10.9.9.9", service=service("x")
        )
        await world.server.call("Catalog.Register", request)
        await asyncio.sleep(60)
        assert await world.stored() == {}
        assert world.server.store.catalog.nodes().value[0].address == "10.0.0.1"

    play(act)


@pytest.mark.parametrize("error", [Unavailable("no leader"), NoSpace("full", operation="commit")])
def test_failure_is_repeated_after_growing_waits(error: Exception) -> None:
    async def act(world: World) -> None:
        await asyncio.sleep(10)
        world.fails = lambda request: error if now() < 12 else None
        world.local.put_service(service("web"))
        await world.local.synced()
        assert now() == 13  # It gave up waiting; the work went on.
        await asyncio.sleep(10)
        assert await world.stored() == {"web": 80}

    moments = [moment for moment, _ in play(act).calls[1:]]
    waits = [later - earlier for earlier, later in pairwise(moments)]
    bases = [0.25, 0.5, 1, 2]
    assert moments[0] == 10
    assert all(base <= wait <= 1.2 * base for base, wait in zip(bases, waits, strict=False))
    assert len(moments) in {5, 6}


def test_failing_comparison_does_not_spin() -> None:
    async def act(world: World) -> None:
        reads: list[float] = []

        def fail(request: Record) -> Exception | None:
            reads.append(now())
            return Unavailable("no leader")

        world.fails = fail
        await asyncio.sleep(100)
        assert len(reads) < 20

    play(act)


def test_change_during_the_wait_after_a_failure_is_pushed_at_once() -> None:
    async def act(world: World) -> None:
        world.fails = lambda request: Unavailable("no leader") if now() < 40 else None
        await asyncio.sleep(41)
        world.local.put_service(service("web"))
        await settle()
        assert await world.stored() == {"web": 80}

    play(act)


def test_refused_service_stops_no_other() -> None:
    async def act(world: World) -> None:
        await asyncio.sleep(10)

        def refuse(request: Record) -> Exception | None:
            bad = isinstance(request, RegisterRequest) and request.service == service("bad")
            return InvalidRequest("no") if bad else None

        world.fails = refuse
        for name in ("a", "bad", "z"):
            world.local.put_service(service(name))
        await world.local.synced()
        assert (now(), await world.stored()) == (10, {"a": 80, "z": 80})
        world.fails = lambda request: None
        await asyncio.sleep(65)  # The next comparison finds it missing.
        assert await world.stored() == {"a": 80, "bad": 80, "z": 80}

    play(act)


def test_waiting_for_a_change_ends_in_time() -> None:
    async def act(world: World) -> None:
        await asyncio.sleep(1)
        await world.local.wait_for_change(5)
        assert now() == 6

    play(act)
