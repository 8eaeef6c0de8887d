"""What a client agent knows of servers, proxies and other datacenters, for its gateways' routes."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest

from isthmus.agent.tables import Known, RemoteTables
from isthmus.errors import RemoteError, Unavailable
from isthmus.model.catalog import ConnectProxyConfig, NodeService, RegisterRequest
from isthmus.model.federation import UPSERT, FederationState, FederationStateRequest
from isthmus.model.record import Record
from isthmus.server.server import Server
from support.servers import make_server
from support.virtual_loop import now, run_virtual


class World:
    """A server's endpoints, and the way to them, which can be closed."""

    server: Server
    tables: RemoteTables

    def __init__(self) -> None:
        self.open, self.calls = True, list[tuple[str, Any]]()

    async def rpc(self, method: str, request: Record) -> object:
        self.calls.append((method, request))
        if not self.open:
            await asyncio.sleep(7)
            raise Unavailable("No known Consul servers")
        try:
            return await self.server.call(method, request)
        finally:
            if not self.open:
                raise RemoteError("rpc error making call: EOF")

    async def register(self, name: str, kind: str = "") -> None:
        proxy = ConnectProxyConfig(destination_service_name="web") if kind else ConnectProxyConfig()
        service = NodeService(id=name, service=name, kind=kind, port=80, proxy=proxy)
        request = RegisterRequest(node="n1", address="10.0.0.1", service=service)
        await self.server.call("Catalog.Register", request)

    async def learn(self, dc: str) -> None:
        state = FederationState(datacenter=dc)
        await self.server.apply(FederationStateRequest(op=UPSERT, state=state))

    def methods(self) -> list[str]:
        return sorted(method for method, _ in self.calls)


def play(act: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        world = World()
        world.server = make_server()
        await world.server.start()
        world.tables = RemoteTables("dc1", rpc=world.rpc, rng=Random(1))
        await act(world)
        await world.tables.close()
        await world.server.stop()

    run_virtual(run())


def names(known: Known) -> tuple[list[str], list[str], list[str]]:
    services = [
        [found.service.service for found in rows if found.service is not None]
        for rows in (known.servers, known.proxies)
    ]
    return services[0], services[1], [state.datacenter for state in known.states]


READS = ["FederationState.List", "Health.ServiceNodes", "Internal.ServiceDump"]


def test_nothing_is_read_until_a_gateway_asks() -> None:
    async def act(world: World) -> None:
        await asyncio.sleep(60)
        assert world.calls == []
        await world.tables.read(5)
        await asyncio.sleep(10)
        assert world.methods() == sorted(READS * 2)  # One each, and one that waits for a change.

    play(act)


def test_tables_are_those_of_the_servers_and_any_server_may_tell_them() -> None:
    async def act(world: World) -> None:
        await world.register("consul")
        await world.register("web-proxy", "connect-proxy")
        await world.register("web")
        await world.learn("dc2")
        found = await world.tables.read(5)
        assert names(found.value) == (["consul"], ["web-proxy"], ["dc2"])
        assert all(request.allow_stale for _, request in world.calls)
        assert {request.datacenter for _, request in world.calls} == {"dc1"}

    play(act)


def test_change_is_told_at_once() -> None:
    async def act(world: World) -> None:
        before = await world.tables.read(5)
        began = now()
        changing = asyncio.ensure_future(world.tables.changed(before, 600))
        await asyncio.sleep(30)
        assert not changing.done()
        await world.learn("dc3")
        await changing
        assert now() - began == 30
        after = await world.tables.read(5)
        assert names(after.value)[2] == ["dc3"]
        await world.tables.changed(before, 600)  # It has changed since: no wait.
        assert now() - began == 30

    play(act)


def test_wait_for_a_change_ends_in_time() -> None:
    async def act(world: World) -> None:
        before = await world.tables.read(5)
        began = now()
        await world.tables.changed(before, 20)
        assert now() - began == 20
        assert (await world.tables.read(5)).number == before.number

    play(act)


def test_answer_without_a_change_wakes_nobody() -> None:
    async def act(world: World) -> None:
        before = await world.tables.read(5)
        await world.tables.changed(before, 2000)  # Blocking reads end and begin anew meanwhile.
        assert len(world.calls) > 6
        assert (await world.tables.read(5)).number == before.number

    play(act)


def test_last_known_tables_stay_while_no_server_answers() -> None:
    async def act(world: World) -> None:
        await world.learn("dc2")
        before = await world.tables.read(5)
        world.open = False
        await world.learn("dc3")
        await asyncio.sleep(600)
        assert (await world.tables.read(0)) == before
        attempts = len(world.calls)
        world.open = True
        began = now()
        await world.tables.changed(before, 600)
        assert now() - began < 30
        assert names((await world.tables.read(5)).value)[2] == ["dc2", "dc3"]
        assert attempts < 150

    play(act)


def test_without_any_server_ever_there_are_no_tables() -> None:
    async def act(world: World) -> None:
        world.open = False
        with pytest.raises(Unavailable, match="no server has told"):
            await world.tables.read(5)
        assert now() == 5
        world.open = True
        assert names((await world.tables.read(60)).value) == ([], [], [])

    play(act)


def test_store_that_began_anew_is_read_from_its_beginning() -> None:
    async def act(world: World) -> None:
        for number in range(5):
            await world.learn(f"dc{number + 2}")
        before = await world.tables.read(5)
        world.open = False
        await world.server.stop()
        world.server = make_server()
        await world.server.start()
        await world.learn("dc9")
        world.open = True
        await world.tables.changed(before, 900)
        assert names((await world.tables.read(5)).value)[2] == ["dc9"]

    play(act)
