"""Anti-entropy against a server in memory, on virtual time."""

import asyncio
from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from isthmus.agent.local import LocalConfig, LocalState, NodeFacts
from isthmus.agent.outbox import Item
from isthmus.agent.sync import (
    COMPARE_INTERVAL,
    LEADER_SYNC_SPREAD,
    PUSHES_MAX,
    CatalogSync,
    scale_factor,
)
from isthmus.errors import InvalidRequest, Unavailable
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


def service(name: str, *, port: int = 80, **fields: Any) -> NodeService:
    return NodeService(**{"id": name, "service": name, "port": port, "meta": {}, **fields})


def check(check_id: str, service_id: str = "", *, status: str = "critical") -> HealthCheck:
    return HealthCheck(check_id=check_id, name=check_id, status=status, service_id=service_id)


class World:
    """A server in memory, the local state of a node, and what it called."""

    server: Server
    local: LocalState
    sync: CatalogSync

    def __init__(self) -> None:
        self.config, self.cluster_size = LocalConfig(), 1
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
        self.local = LocalState(facts=FACTS, rng=Random(1), config=self.config)
        self.sync = CatalogSync(
            self.local,
            rpc=lambda method, request: self.rpc(method, request),  # A test may replace it.
            rng=Random(1),
            cluster_size=lambda: self.cluster_size,
        )
        running = asyncio.get_running_loop().create_task(self.sync.run())
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


def play(act: Callable[[World], Any], world: World | None = None) -> World:
    world = world or World()
    run_virtual(world.play(act))
    return world


START = (0.0, "+")  # The node registers itself.


def test_node_is_registered_at_start_and_then_left_alone() -> None:
    async def act(world: World) -> None:
        await asyncio.sleep(600)
        node = world.server.store.catalog.nodes().value[0]
        assert (node.node, node.address, node.meta) == ("n1", "10.0.0.1", {"rack": "7"})

    assert play(act).calls == [START]


def test_registration_reaches_the_catalog_at_once_and_needs_no_repair() -> None:
    async def act(world: World) -> None:
        await asyncio.sleep(10)
        world.local.put_service(service("web"), [check("c1", "web"), check("c2", "web")])
        await world.local.synced(("service", "web"), ("check", "c1"))
        assert now() == 10
        assert await world.stored() == {"web": 80}
        assert await world.statuses() == {"c1": "critical", "c2": "critical"}
        await asyncio.sleep(600)

    assert play(act).calls == [START, (10.0, "+web,c1,c2")]


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

    assert play(act).calls == [START, (10.0, "+gw,service:gw:1,service:gw:2")]


def test_what_the_catalog_has_already_is_not_written_after_a_restart() -> None:
    first = World()

    async def act(world: World) -> None:
        world.local.put_service(service("web"), [check("c1", "web")])
        await asyncio.sleep(10)
        again = LocalState(facts=FACTS, rng=Random(1))
        again.put_service(service("web"), [check("c1", "web")])
        again.put_service(service("new"))
        sync = CatalogSync(again, rpc=world.rpc, rng=Random(2))
        running = asyncio.get_running_loop().create_task(sync.run())
        await asyncio.sleep(10)
        running.cancel()
        await asyncio.wait({running})

    assert play(act, first).calls == [START, (0.0, "+web,c1"), (10.0, "+new")]


def test_check_that_changes_is_written_alone() -> None:
    async def act(world: World) -> None:
        world.local.put_service(service("web"), [check("c1", "web")])
        await asyncio.sleep(10)
        world.local.update_check("c1", "passing", "fine")
        world.local.update_check("c1", "passing", "fine")
        world.local.update_check("unknown", "passing", "fine")
        await world.local.synced(("check", "c1"))
        assert (now(), await world.statuses()) == (10, {"c1": "passing"})

    assert play(act).calls == [START, (0.0, "+web,c1"), (10.0, "+c1")]


def test_removed_service_takes_its_checks_along() -> None:
    async def act(world: World) -> None:
        world.local.put_service(service("web"), [check("c1", "web")])
        await asyncio.sleep(10)
        assert world.local.remove_service("web") == ("c1",)
        await world.local.synced(("service", "web"))
        assert (await world.stored(), await world.statuses()) == ({}, {})

    assert play(act).calls == [START, (0.0, "+web,c1"), (10.0, "-web")]


def test_removed_check_goes_alone() -> None:
    async def act(world: World) -> None:
        world.local.put_service(service("web"), [check("c1", "web"), check("c2", "web")])
        await asyncio.sleep(10)
        world.local.remove_check("c1")
        world.local.remove_check("c1")
        await world.local.synced(("check", "c1"))
        assert (await world.stored(), await world.statuses()) == ({"web": 80}, {"c2": "critical"})

    assert play(act).calls == [START, (0.0, "+web,c1,c2"), (10.0, "-c1")]


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
        await asyncio.sleep(2 * COMPARE_INTERVAL)
        assert await world.stored() == {"gone": 80, "changed": 80}
        assert await world.statuses() == {}
        assert world.server.store.catalog.nodes().value[0].address == "10.0.0.1"

    play(act)


def test_tags_that_others_may_set_are_taken_over() -> None:
    """EnableTagOverride: the tags in the catalog win, everything else is ours."""
    ours = service("web", tags=("blue",), enable_tag_override=True)
    theirs = service("web", tags=("green",), enable_tag_override=True)

    async def act(world: World) -> None:
        world.local.put_service(ours, [check("c1", "web")])
        await asyncio.sleep(10)
        request = RegisterRequest(node="n1", service=theirs, skip_node_update=True)
        await world.server.call("Catalog.Register", request)
        await asyncio.sleep(4 * COMPARE_INTERVAL)
        assert world.local.services["web"].tags == ("green",)
        world.local.put_service(ours)
        await world.local.synced(("service", "web"))

    assert [what for _, what in play(act).calls] == ["+", "+web,c1", "+web"]


def test_change_during_a_comparison_is_not_undone_by_it() -> None:
    """The catalog's answer is older than the change: it must not count against it."""

    async def act(world: World) -> None:
        await asyncio.sleep(10)
        ask = world.rpc

        async def slow(method: str, request: Record) -> object:
            reply = await ask(method, request)
            if method == "Catalog.NodeServices":
                world.local.put_service(service("web"))
                await asyncio.sleep(1)
            return reply

        world.rpc = slow  # type: ignore[method-assign]
        await asyncio.sleep(2 * COMPARE_INTERVAL)
        world.rpc = ask  # type: ignore[method-assign]
        assert await world.stored() == {"web": 80}
        await asyncio.sleep(4 * COMPARE_INTERVAL)

    assert [what for _, what in play(act).calls] == ["+", "+web"]


def test_new_leader_is_compared_with_within_seconds() -> None:
    async def act(world: World) -> None:
        world.local.put_service(service("web"))
        await asyncio.sleep(10)
        await world.server.call(
            "Catalog.Deregister", DeregisterRequest(datacenter="dc1", node="n1", service_id="web")
        )
        world.sync.compare_soon()
        await asyncio.sleep(LEADER_SYNC_SPREAD)
        assert await world.stored() == {"web": 80}
        await asyncio.sleep(2 * COMPARE_INTERVAL)

    assert [what for _, what in play(act).calls] == ["+", "+web", "+web"]


def test_new_leader_during_a_comparison_is_compared_with_too() -> None:
    async def act(world: World) -> None:
        compared: list[float] = []
        ask = world.rpc

        async def rpc(method: str, request: Record) -> object:
            if method == "Catalog.NodeServices":
                compared.append(now())
                if len(compared) == 1:
                    world.sync.compare_soon()
            return await ask(method, request)

        world.rpc = rpc  # type: ignore[method-assign]
        await asyncio.sleep(2 * COMPARE_INTERVAL + LEADER_SYNC_SPREAD)
        assert any(later - earlier <= LEADER_SYNC_SPREAD for earlier, later in pairwise(compared))

    play(act)


@pytest.mark.parametrize(
    ("nodes", "factor"), [(0, 1), (1, 1), (128, 1), (129, 2), (256, 2), (257, 3), (8192, 7)]
)
def test_large_clusters_spread_more(nodes: int, factor: int) -> None:
    assert scale_factor(nodes) == factor


@pytest.mark.parametrize(("nodes", "longest"), [(1, 120.0), (8192, 480.0)])
def test_comparisons_are_spread(nodes: int, longest: float) -> None:
    """A minute, and a part by chance of as much again, times the factor of the cluster."""
    world, compared = World(), []
    world.cluster_size = nodes

    async def act(world: World) -> None:
        ask = world.rpc

        async def rpc(method: str, request: Record) -> object:
            if method == "Catalog.NodeServices":
                compared.append(now())
            return await ask(method, request)

        world.rpc = rpc  # type: ignore[method-assign]
        await asyncio.sleep(30 * longest)

    play(act, world)
    waits = [later - earlier for earlier, later in pairwise(compared)]
    assert min(waits) >= COMPARE_INTERVAL
    assert 0.75 * longest < max(waits) <= longest


@pytest.mark.parametrize("error", [Unavailable("no leader"), NoSpace("full", operation="commit")])
def test_failure_is_repeated_after_growing_waits(error: Exception) -> None:
    async def act(world: World) -> None:
        await asyncio.sleep(10)
        world.fails = lambda request: error if now() < 40 else None
        world.local.put_service(service("web"))
        await world.local.synced(("service", "web"))
        assert now() == 10  # Nobody waits for what does not work.
        await asyncio.sleep(60)
        assert await world.stored() == {"web": 80}

    moments = [moment for moment, what in play(act).calls if what == "+web"]
    waits = [later - earlier for earlier, later in pairwise(moments)]
    bases = [0.25, 0.5, 1, 2, 4, 8, 15]
    assert moments[0] == 10
    assert all(base <= wait <= 2 * base for base, wait in zip(bases, waits, strict=False))


def test_failing_comparison_does_not_spin() -> None:
    async def act(world: World) -> None:
        reads: list[float] = []

        def fail(request: Record) -> Exception | None:
            reads.append(now())
            return Unavailable("no leader")

        world.fails = fail
        await asyncio.sleep(600)
        assert 10 < len(reads) < 60

    play(act)


def test_start_without_a_leader_is_made_up_for() -> None:
    async def act(world: World) -> None:
        world.fails = lambda request: Unavailable("no leader") if now() < 5 else None
        world.local.put_service(service("web"))
        await world.local.synced(("service", "web"))
        await asyncio.sleep(15)
        assert await world.stored() == {"web": 80}

    play(act)


def test_change_during_the_wait_after_a_failure_is_pushed_at_once() -> None:
    async def act(world: World) -> None:
        await asyncio.sleep(1)
        world.fails = lambda request: Unavailable("no leader") if now() < 40 else None
        world.local.put_service(service("old"))
        await asyncio.sleep(40)
        world.local.put_service(service("web"))
        await settle()
        assert await world.stored() == {"old": 80, "web": 80}

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
        await world.local.synced(*(("service", name) for name in ("a", "bad", "z")))
        assert (now(), await world.stored()) == (10, {"a": 80, "z": 80})
        world.fails = lambda request: None
        await asyncio.sleep(2 * COMPARE_INTERVAL)  # The next comparison finds it missing.
        assert await world.stored() == {"a": 80, "bad": 80, "z": 80}

    play(act)


def test_nothing_is_told_while_the_node_is_refused() -> None:
    """Another node has our name: what runs here is not for its entry in the catalog."""

    async def act(world: World) -> None:
        def refuse(request: Record) -> Exception | None:
            ours = isinstance(request, RegisterRequest) and not request.skip_node_update
            return InvalidRequest("Node name n1 is reserved by another node") if ours else None

        world.fails = refuse
        world.local.put_service(service("web"))
        await asyncio.sleep(60)
        assert {call for _, call in world.calls} == {"+"}
        world.fails = lambda request: None
        await asyncio.sleep(60)
        assert await world.stored() == {"web": 80}

    play(act)


def test_tokens_go_with_what_was_registered_with_them() -> None:
    async def act(world: World) -> None:
        tokens: list[tuple[str, str]] = []
        ask = world.rpc

        async def rpc(method: str, request: Record) -> object:
            if isinstance(request, RegisterRequest | DeregisterRequest):
                tokens.append((method, request.token))
            return await ask(method, request)

        await asyncio.sleep(10)
        world.rpc = rpc  # type: ignore[method-assign]
        world.local.put_service(service("web"), token="t1")
        world.local.put_check(check("c1", "web"), token="t2")
        await world.local.synced(("service", "web"), ("check", "c1"))
        world.local.remove_service("web")
        await world.local.synced(("service", "web"))
        register = "Catalog.Register"
        assert tokens == [(register, "t1"), (register, "t2"), ("Catalog.Deregister", "t1")]
        assert world.local.token(Item("service", "web")) == ""

    play(act)


def test_many_are_pushed_side_by_side_but_each_in_order() -> None:
    """A catalog that takes a second for each write; no two writes of one service overlap."""

    async def act(world: World) -> None:
        await asyncio.sleep(10)
        busy: dict[str, int] = {}
        most = 0
        ask = world.rpc

        async def slow(method: str, request: Record) -> object:
            nonlocal most
            if not isinstance(request, RegisterRequest):
                return await ask(method, request)
            owner = (request.checks or [check("")])[0].service_id
            owner = request.service.id if request.service is not None else owner
            busy[owner] = busy.get(owner, 0) + 1
            assert busy[owner] == 1
            most = max(most, sum(busy.values()))
            await asyncio.sleep(1)
            busy[owner] -= 1
            return await ask(method, request)

        world.rpc = slow  # type: ignore[method-assign]
        count = 3 * PUSHES_MAX
        for number in range(count):
            world.local.put_service(service(f"s{number}"), [check(f"c{number}", f"s{number}")])
        await asyncio.sleep(0.5)
        for number in range(count):
            world.local.update_check(f"c{number}", "passing", "")
        await asyncio.sleep(10)
        assert most == PUSHES_MAX
        assert len(await world.stored()) == count
        assert set((await world.statuses()).values()) == {"passing"}

    play(act)


def test_thousands_are_written_once() -> None:
    """Registered through one agent, in the catalog, and no later write in five idle minutes."""
    count = 1_000

    async def act(world: World) -> None:
        await asyncio.sleep(1)
        for number in range(count):
            world.local.put_service(service(f"s{number}"), [check(f"c{number}", f"s{number}")])
        await world.local.synced(*(("service", f"s{number}") for number in range(count)))
        assert len(await world.stored()) == count
        await asyncio.sleep(5 * 60)

    assert len(play(act).calls) == 1 + count


def test_output_that_keeps_changing_is_written_now_and_then() -> None:
    async def act(world: World) -> None:
        world.local.put_service(service("web"), [check("c1", "web")])
        await asyncio.sleep(10)
        for number in range(1500):
            world.local.update_check("c1", "critical", f"attempt {number}")
            await asyncio.sleep(1)
        assert world.local.checks["c1"].output == "attempt 1499"
        world.local.update_check("c1", "passing", "at last")
        await world.local.synced(("check", "c1"))

    world = play(act)
    moments = [moment for moment, what in world.calls if what == "+c1"]
    assert all(150 <= later - earlier <= 451 for earlier, later in pairwise(moments[:-1]))
    assert 1500 / 451 - 1 <= len(moments) <= 1500 / 150 + 1
    assert moments[-1] == 1510


def test_cancelled_while_pushing_leaves_nothing_running() -> None:
    async def act(world: World) -> None:
        answers = True

        async def rpc(method: str, request: Record) -> object:
            if not answers:
                await asyncio.Event().wait()
            return await world.rpc(method, request)

        await asyncio.sleep(1)
        before = asyncio.all_tasks()
        local = LocalState(facts=FACTS, rng=Random(1))
        running = asyncio.get_running_loop().create_task(
            CatalogSync(local, rpc=rpc, rng=Random(2)).run()
        )
        await asyncio.sleep(1)
        answers = False
        for number in range(3):
            local.put_service(service(f"s{number}"))
        await asyncio.sleep(1)
        running.cancel()
        await asyncio.wait({running})
        assert asyncio.all_tasks() == before
        assert len(local.outbox) == 3  # None is lost.

    play(act)
