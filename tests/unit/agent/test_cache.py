"""The agent's cache: what is kept, for how long, and what callers are told."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest

from isthmus.agent.cache import FOLLOW_WAIT, IDLE_MAX, CallCache
from isthmus.errors import RemoteError, RequestError, Unavailable
from isthmus.model.catalog import DatacentersRequest, NodeService, RegisterRequest, ServiceRequest
from isthmus.model.prepared_query import (
    PreparedQuery,
    PreparedQueryExecuteRequest,
    PreparedQueryRequest,
    ServiceQuery,
)
from isthmus.model.query import CachedReply, DatacenterRequest, QueryOptions
from isthmus.model.record import Record
from isthmus.server.server import Server
from isthmus.units import Duration
from support.servers import make_server
from support.virtual_loop import now, run_virtual, settle

SERVICES = "Catalog.ListServices"
DATACENTERS = "Catalog.ListDatacenters"


def asked(**options: Any) -> DatacenterRequest:
    return DatacenterRequest(datacenter="dc1", use_cache=True, **options)


def asked_datacenters(**seconds: float) -> DatacentersRequest:
    ages = {name: Duration.of(value) for name, value in seconds.items()}
    return DatacentersRequest(use_cache=True, **ages)  # type: ignore[arg-type]


class World:
    """A cache in front of a server that can be cut off."""

    server: Server
    cache: CallCache

    def __init__(self) -> None:
        self.fault: Exception | None = None
        self.calls: list[tuple[str, Any]] = []

    async def rpc(self, method: str, request: Record) -> object:
        self.calls.append((method, request))
        if self.fault is not None:
            raise self.fault
        reply = await self.server.call(method, request)
        if self.fault is not None:
            raise self.fault
        return reply

    async def register(self, name: str) -> None:
        service = NodeService(id=name, service=name, port=80)
        request = RegisterRequest(node="n1", address="10.0.0.1", service=service)
        await self.server.call("Catalog.Register", request)
        await settle()

    async def services(self, **options: Any) -> tuple[list[str], bool, float]:
        """Names of services out of the cache, whether it had them, their age."""
        reply, hit, age = await self.cache.get(SERVICES, asked(**options))
        return sorted(reply.services), hit, age

    async def datacenters(self, **seconds: float) -> CachedReply:
        return await self.cache.get(DATACENTERS, asked_datacenters(**seconds))


def play(act: Callable[[World], Awaitable[None]], *, entries_max: int = 8) -> None:
    async def run() -> None:
        world = World()
        world.server = make_server()
        await world.server.start()
        world.cache = CallCache(world.rpc, rng=Random(1), entries_max=entries_max)
        await act(world)
        await world.cache.close()
        await world.server.stop()

    run_virtual(run())


def test_second_question_is_answered_from_the_cache() -> None:
    async def act(world: World) -> None:
        await world.register("web")
        assert await world.services() == (["web"], False, 0.0)
        assert await world.services() == (["web"], True, 0.0)
        assert (world.cache.hit_count, world.cache.miss_count) == (1, 1)

    play(act)


def test_kept_reply_follows_every_change() -> None:
    async def act(world: World) -> None:
        await world.register("web")
        await world.services()
        await world.register("db")
        assert await world.services() == (["db", "web"], True, 0.0)

    play(act)


def test_any_server_may_answer_and_no_call_is_made_for_a_hit() -> None:
    async def act(world: World) -> None:
        await world.register("web")
        for _ in range(5):
            await world.services()
        await settle()
        first, following = [request for _, request in world.calls]
        assert first.allow_stale
        assert not first.use_cache
        assert first.min_query_index == 0
        assert following.min_query_index > 0
        assert following.max_query_time == Duration.of(FOLLOW_WAIT)

    play(act)


def test_questions_that_differ_are_kept_apart() -> None:
    async def act(world: World) -> None:
        await world.register("web")
        await world.register("db")
        for name in ("web", "db", "web"):
            request = ServiceRequest(datacenter="dc1", service_name=name, use_cache=True)
            reply, _, _ = await world.cache.get("Health.ServiceNodes", request)
            assert [item.service.service for item in reply.nodes] == [name]
        assert not (await world.services(token="a"))[1]
        assert not (await world.services(token="b"))[1]
        assert (await world.services(token="a"))[1]

    play(act)


def test_execution_of_a_query_is_new_when_its_caller_wants_it_new() -> None:
    """Every one shows the same index."""

    async def act(world: World) -> None:
        query = PreparedQuery(name="q", service=ServiceQuery(service="web"))
        await world.server.call(
            "PreparedQuery.Apply", PreparedQueryRequest(op="create", query=query)
        )

        async def found(**options: Any) -> tuple[int, bool]:
            request = PreparedQueryExecuteRequest(query_id_or_name="q", use_cache=True, **options)
            reply, hit, _ = await world.cache.get("PreparedQuery.Execute", request)
            return len(reply.nodes), hit

        assert await found() == (0, False)
        await world.register("web")
        assert await found() == (0, True)
        assert await found(must_revalidate=True) == (1, False)
        assert await found() == (1, True)

    play(act)


def test_many_who_ask_at_once_cost_one_call() -> None:
    async def act(world: World) -> None:
        await world.register("web")
        found = await asyncio.gather(*(world.services() for _ in range(10)))
        assert found == [(["web"], False, 0.0)] * 10
        assert len([1 for _, request in world.calls if not request.min_query_index]) == 1

    play(act)


def test_blocked_caller_gets_the_next_change() -> None:
    async def act(world: World) -> None:
        await world.register("web")
        reply, _, _ = await world.cache.get(SERVICES, asked())
        waiting = asyncio.ensure_future(world.services(min_query_index=reply.index))
        await settle()
        assert not waiting.done()
        await world.register("db")
        assert await waiting == (["db", "web"], False, 0.0)
        assert (await world.services(min_query_index=reply.index))[1]

    play(act)


def test_blocked_caller_gets_the_same_when_the_time_is_over() -> None:
    async def act(world: World) -> None:
        await world.register("web")
        reply, _, _ = await world.cache.get(SERVICES, asked())
        started = now()
        wait = Duration.of(20)
        found = await world.services(min_query_index=reply.index + 7, max_query_time=wait)
        assert found == (["web"], False, 0.0)
        assert now() - started == 20.0

    play(act)


def test_what_is_known_is_answered_while_servers_are_away_with_its_age() -> None:
    async def act(world: World) -> None:
        await world.register("web")
        await world.services()
        await settle()
        world.fault = Unavailable("No known Consul servers")
        await world.register("db")  # Ends the query that follows, with the fault.
        await asyncio.sleep(30)
        assert await world.services() == (["web"], True, 30.0)
        world.fault = None
        await asyncio.sleep(120)
        assert await world.services() == (["db", "web"], True, 0.0)

    play(act)


def test_waits_between_tries_grow_but_a_blocked_caller_is_not_made_to_wait() -> None:
    async def act(world: World) -> None:
        await world.register("web")
        reply, _, _ = await world.cache.get(SERVICES, asked())
        await settle()
        world.fault = Unavailable("No known Consul servers")
        await world.register("db")
        await asyncio.sleep(600)
        assert len(world.calls) < 30
        tries = len(world.calls)
        with pytest.raises(Unavailable):
            await world.services(min_query_index=reply.index)
        assert len(world.calls) == tries + 1

    play(act)


@pytest.mark.parametrize("method", [SERVICES, DATACENTERS])
def test_first_failure_is_the_callers_and_nothing_is_kept(method: str) -> None:
    async def act(world: World) -> None:
        world.fault = RequestError("Failed to create boolean expression evaluator: no")
        request: QueryOptions = asked() if method == SERVICES else asked_datacenters()
        with pytest.raises(RequestError, match="no"):
            await world.cache.get(method, request)
        await settle()
        assert len(world.cache) == 0
        world.fault = None
        assert not (await world.cache.get(method, request)).hit

    play(act)


def test_reply_that_the_token_may_not_read_any_more_is_forgotten() -> None:
    async def act(world: World) -> None:
        await world.register("web")
        await world.services()
        await settle()
        world.fault = RemoteError("rpc error making call: ACL not found")
        await world.register("db")
        assert len(world.cache) == 0
        with pytest.raises(RemoteError):
            await world.services()

    play(act)


def test_reply_that_is_not_followed_is_as_old_as_its_question() -> None:
    async def act(world: World) -> None:
        assert await world.datacenters() == (("dc1",), False, 0.0)
        await asyncio.sleep(90)
        assert await world.datacenters() == (("dc1",), True, 90.0)
        assert await world.datacenters(max_age=90) == (("dc1",), True, 90.0)
        assert await world.datacenters(max_age=89) == (("dc1",), False, 0.0)
        assert (await world.datacenters()).age == 0.0
        assert len(world.calls) == 2

    play(act)


def test_caller_may_insist_on_a_new_reply() -> None:
    async def act(world: World) -> None:
        await world.datacenters()
        request = DatacentersRequest(use_cache=True, must_revalidate=True)
        assert not (await world.cache.get(DATACENTERS, request)).hit
        assert len(world.calls) == 2

    play(act)


def test_old_reply_is_better_than_none_if_the_caller_says_so() -> None:
    async def act(world: World) -> None:
        await world.datacenters()
        await asyncio.sleep(60)
        world.fault = Unavailable("No known Consul servers")
        found = await world.datacenters(max_age=10, stale_if_error=60)
        assert found == (("dc1",), True, 60.0)
        with pytest.raises(Unavailable):
            await world.datacenters(max_age=10, stale_if_error=59)
        with pytest.raises(Unavailable):
            await world.datacenters(max_age=10)

    play(act)


def test_reply_that_nobody_asks_for_is_followed_no_longer() -> None:
    async def act(world: World) -> None:
        await world.services()
        await asyncio.sleep(IDLE_MAX - 1)
        assert len(world.cache) == 1
        await asyncio.sleep(2 * FOLLOW_WAIT)
        assert len(world.cache) == 0
        calls = len(world.calls)
        await asyncio.sleep(IDLE_MAX)
        assert len(world.calls) == calls

    play(act)


def test_reply_unused_for_longest_makes_room() -> None:
    async def act(world: World) -> None:
        for token in ("a", "b", "a", "c"):
            await world.services(token=token)
        assert len(world.cache) == 2
        assert (await world.services(token="a"))[1]
        assert (await world.services(token="c"))[1]
        assert not (await world.services(token="b"))[1]

    play(act, entries_max=2)
