"""Route tables for our gateways: when they are answered, and what is in them."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from isthmus.agent.routes import GatewayRoutes
from isthmus.agent.tables import StoreTables
from isthmus.errors import Unavailable
from isthmus.mesh.routes import RouteTable
from isthmus.model.catalog import CheckServiceNode, Node, NodeService, RegisterRequest
from isthmus.model.federation import UPSERT, FederationState, FederationStateRequest
from isthmus.server.server import Server
from support.servers import make_server
from support.virtual_loop import now, run_virtual

META = {"consul-wan-federation": "1"}


def gateway(*, exposes: bool = True) -> NodeService:
    meta = META if exposes else None
    return NodeService(kind="mesh-gateway", id="gw", service="gw", port=443, meta=meta)


class World:
    server: Server
    routes: GatewayRoutes

    def __init__(self) -> None:
        self.services = {"gw": gateway(), "web": NodeService(id="web", service="web")}

    async def play(self, act: Callable[["World"], Awaitable[None]]) -> None:
        self.server = make_server()
        await self.server.start()
        await self.server.call(
            "Catalog.Register",
            RegisterRequest(
                node="alpha",
                address="10.0.0.1",
                service=NodeService(id="consul", service="consul", port=8300),
            ),
        )
        self.routes = GatewayRoutes(
            dc="dc1",
            domain="consul",
            trust_domain=None,
            tables=StoreTables(self.server.store, self.server.blocking),
            services=lambda: self.services,
        )
        await act(self)
        await self.server.stop()

    async def table(self, known: str = "", wait: float = 0.0) -> RouteTable:
        table = await self.routes.table("gw", known, wait)
        assert table is not None
        return table

    async def learn(self, dc: str) -> None:
        """Another datacenter's gateway becomes known."""
        remote = CheckServiceNode(node=Node(node="gw", address="192.0.2.9"), service=gateway())
        state = FederationState(datacenter=dc, mesh_gateways=(remote,))
        await self.server.apply(FederationStateRequest(op=UPSERT, state=state))


def play(act: Callable[[World], Awaitable[None]]) -> None:
    run_virtual(World().play(act))


def later(seconds: float, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
    async def run() -> None:
        await asyncio.sleep(seconds)
        await work()

    return asyncio.get_running_loop().create_task(run())


@pytest.mark.parametrize("service_id", ["nope", "web"])
def test_only_mesh_gateways_that_are_registered_here_have_routes(service_id: str) -> None:
    async def act(world: World) -> None:
        assert await world.routes.table(service_id, "", 60) is None

    play(act)


def test_same_hash_waits_until_its_time_is_over() -> None:
    async def act(world: World) -> None:
        first = await world.table(wait=60)
        assert now() == 0
        assert await world.table(first.hash, wait=60) == first
        assert now() == 60
        assert await world.table(first.hash, wait=1e5) == first
        assert now() == 660

    play(act)


def test_change_of_the_store_answers_at_once() -> None:
    async def act(world: World) -> None:
        first = await world.table()
        change = later(5, lambda: world.learn("dc2"))
        second = await world.table(first.hash, wait=60)
        assert (now(), second.hash != first.hash) == (5, True)
        await change

    play(act)


def test_change_right_after_the_look_is_not_missed() -> None:
    async def act(world: World) -> None:
        first = await world.table()
        change = later(0, lambda: world.learn("dc2"))
        await asyncio.sleep(0)
        second = await world.table(first.hash, wait=60)
        assert (now(), second.hash != first.hash) == (0, True)
        await change

    play(act)


def test_change_that_concerns_no_route_does_not_answer() -> None:
    async def act(world: World) -> None:
        first = await world.table()
        request = RegisterRequest(
            node="n9", address="10.0.0.9", service=NodeService(id="x", service="x")
        )

        async def register() -> None:
            await world.server.call("Catalog.Register", request)

        change = later(5, register)
        assert await world.table(first.hash, wait=60) == first
        assert now() == 60
        await change

    play(act)


def test_gateway_that_is_removed_learns_it_at_once() -> None:
    async def act(world: World) -> None:
        first = await world.table()

        async def remove() -> None:
            del world.services["gw"]
            world.routes.registrations_changed()

        change = later(5, remove)
        assert (await world.routes.table("gw", first.hash, 60), now()) == (None, 5)
        await change

    play(act)


def test_meta_decides_whether_servers_are_exposed() -> None:
    async def act(world: World) -> None:
        exposing = await world.table()
        world.services["gw"] = gateway(exposes=False)
        hiding = await world.table()
        assert b"alpha.server.dc1.consul" in exposing.to_json()
        assert b"alpha.server.dc1.consul" not in hiding.to_json()

    play(act)


def test_server_that_stops_releases_the_waiting() -> None:
    async def act(world: World) -> None:
        first = await world.table()

        async def close() -> None:
            world.server.blocking.close()

        change = later(5, close)
        with pytest.raises(Unavailable):
            await world.table(first.hash, wait=60)
        assert now() == 5
        await change

    play(act)


def test_caller_that_goes_leaves_nothing_behind() -> None:
    async def act(world: World) -> None:
        first = await world.table()
        before = asyncio.all_tasks()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await world.table(first.hash, wait=60)
        assert not asyncio.all_tasks() - before
        world.routes.registrations_changed()

    play(act)
