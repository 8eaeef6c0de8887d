"""Whom a client agent's calls go to, how long they are held, and what their callers are told."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest

from isthmus.agent.server_calls import ServerCalls
from isthmus.config.model import LimitConfig
from isthmus.errors import (
    ConnectionLost,
    DialFailed,
    MalformedPacket,
    NoServers,
    RemoteError,
    RequestError,
    Unavailable,
)
from isthmus.federation.router import ServerInfo
from isthmus.model.kv import DirEntry, KeyRequest, KVSRequest
from isthmus.model.record import Record
from isthmus.net.client import ServerTarget
from isthmus.units import Duration
from support.virtual_loop import now, run_virtual

READ = ("KVS.Get", KeyRequest(datacenter="dc1", key="k"))
WRITE = ("KVS.Apply", KVSRequest(datacenter="dc1", op="set", dir_ent=DirEntry(key="k")))
NO_LEADER = RemoteError("No cluster leader")
LOST = ConnectionLost("server a of datacenter dc1: EOF")


def blocking(seconds: float) -> tuple[str, Record]:
    request = KeyRequest(
        datacenter="dc1", key="k", min_query_index=7, max_query_time=Duration.of(seconds)
    )
    return "KVS.Get", request


def refused(node: str) -> DialFailed:
    return DialFailed("refused", dc="dc1", node=node, gateway="", step="connect")


class Servers:
    """Servers that answer, each as it is told; implements `Connections`."""

    def __init__(self) -> None:
        self.answers: dict[str, object] = {}
        self.delays: dict[str, float] = {}
        self.leaderless: set[str] = set()
        self.asked: list[str] = []
        self.requests: list[Any] = []
        self.pinged: list[str] = []
        self.forgotten: list[str] = []

    async def call(
        self,
        target: ServerTarget,
        method: str,
        request: Record,
        reply_type: Any,
        *,
        timeout: float,
        repeatable: bool = False,
    ) -> Any:
        if method == "Status.Leader":
            return "" if target.node in self.leaderless else "10.0.0.9:8300"
        if method == "Status.Ping":
            self.pinged.append(target.node)
        else:
            assert repeatable == (method == "KVS.Get")
            self.asked.append(target.node)
            self.requests.append(request)
        await asyncio.sleep(self.delays.get(target.node, 0.0))
        answer = self.answers.get(target.node, target.node)
        if isinstance(answer, list):
            answer = answer.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def forget(self, target: ServerTarget) -> None:
        self.forgotten.append(f"{target.node} {target.host}")


class World:
    def __init__(self) -> None:
        self.servers = Servers()
        self.calls = ServerCalls("dc1", rng=Random(1), member_count=lambda: 5)
        self.calls.use(self.servers)

    def know(self, *names: str) -> None:
        """In this order: those before the first answer are shuffled."""
        for name in names:
            self.calls.put(server(name))
        for name in names:
            self.calls._servers._servers[name] = self.calls._servers._servers.pop(name)

    async def call(self, call: tuple[str, Record]) -> object:
        return await self.calls.call(*call)


def server(name: str, *, host: str = "10.0.0.1", alive: bool = True) -> ServerInfo:
    return ServerInfo(name=name, node=name, dc="dc1", host=host, port=8300, alive=alive)


def play(act: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        await act(World())

    run_virtual(run())


def test_one_server_gets_all_calls_while_it_answers() -> None:
    async def act(world: World) -> None:
        world.know("a", "b", "c")
        for _ in range(3):
            assert [await world.call(call) for call in (READ, WRITE)] == ["a", "a"]
        assert (world.calls.call_count, world.calls.failures) == (6, {})

    play(act)


@pytest.mark.parametrize("failure", [LOST, MalformedPacket("nonsense"), refused("a"), NO_LEADER])
def test_read_is_repeated_on_the_next_server_at_once(failure: Exception) -> None:
    async def act(world: World) -> None:
        world.know("a", "b")
        world.servers.answers["a"] = failure
        assert await world.call(READ) == "b"
        assert (world.servers.asked, now()) == (["a", "b"], 0.0)
        assert await world.call(READ) == "b"  # From now on it is the first.
        assert world.servers.asked == ["a", "b", "b"]
        assert world.calls.failures == {"a": 1}

    play(act)


def test_calls_beyond_the_rate_are_not_made() -> None:
    async def act(world: World) -> None:
        world.know("a")
        limits = LimitConfig(rpc_rate=10.0, rpc_max_burst=2)
        world.calls.rate.reconfigure(limits, now=now())
        assert [await world.call(READ), await world.call(WRITE)] == ["a", "a"]
        with pytest.raises(RequestError, match="RPC rate limit exceeded") as refusal:
            await world.call(READ)
        assert refusal.value.status == 429
        assert (world.servers.asked, world.calls.exceeded_count) == (["a", "a"], 1)
        await asyncio.sleep(0.1)
        assert await world.call(READ) == "a"

    play(act)


@pytest.mark.parametrize("failure", [refused("a"), NO_LEADER])
def test_write_that_surely_did_nothing_is_repeated(failure: Exception) -> None:
    async def act(world: World) -> None:
        world.know("a", "b")
        world.servers.answers["a"] = failure
        assert await world.call(WRITE) == "b"

    play(act)


@pytest.mark.parametrize("failure", [LOST, MalformedPacket("nonsense")])
def test_write_that_may_have_taken_effect_is_not_made_twice(failure: Exception) -> None:
    async def act(world: World) -> None:
        world.know("a", "b")
        world.servers.answers["a"] = failure
        with pytest.raises(ConnectionLost, match=r"^rpc error making call: "):
            await world.call(WRITE)
        assert world.servers.asked == ["a"]
        assert await world.call(WRITE) == "b"

    play(act)


def test_error_of_a_server_is_its_callers_and_no_fault_of_the_server() -> None:
    async def act(world: World) -> None:
        world.know("a", "b")
        world.servers.answers["a"] = RemoteError("Permission denied: key")
        for _ in range(2):
            with pytest.raises(RemoteError) as refusal:
                await world.call(READ)
        assert str(refusal.value) == "rpc error making call: Permission denied: key"
        assert refusal.value.status == 403
        assert (world.servers.asked, world.calls.failures) == (["a", "a"], {})

    play(act)


def test_unknown_method_is_refused_here() -> None:
    async def act(world: World) -> None:
        with pytest.raises(RequestError, match=r"can't find method KVS\.Nope"):
            await world.calls.call("KVS.Nope", READ[1])

    play(act)


# While there is no server -------------------------------------------------------------------------


@pytest.mark.parametrize("call", [READ, WRITE])
def test_calls_are_held_until_a_server_is_known(call: tuple[str, Record]) -> None:
    async def act(world: World) -> None:
        asyncio.get_running_loop().call_later(6.5, world.know, "a")
        assert await world.call(call) == "a"
        assert now() == 6.5

    play(act)


def test_calls_without_a_server_end_with_consuls_words() -> None:
    async def act(world: World) -> None:
        with pytest.raises(NoServers, match=r"^No known Consul servers$"):
            await world.call(READ)
        assert now() == pytest.approx(7.0)
        patient = ServerCalls("dc1", rng=Random(1), member_count=lambda: 5, hold_time=20.0)
        patient.use(world.servers)
        with pytest.raises(NoServers):
            await patient.call(*READ)
        assert now() == pytest.approx(27.0)

    play(act)


def test_calls_are_held_while_no_server_can_be_reached() -> None:
    async def act(world: World) -> None:
        world.know("a", "b")
        world.servers.answers = {"a": refused("a"), "b": refused("b")}
        asyncio.get_running_loop().call_later(5, world.servers.answers.clear)
        assert await world.call(WRITE) in {"a", "b"}
        assert 5.0 <= now() < 5.5

    play(act)


def test_calls_end_when_no_server_could_be_reached_for_long() -> None:
    async def act(world: World) -> None:
        world.know("a", "b")
        world.servers.answers = {"a": refused("a"), "b": refused("b")}
        with pytest.raises(DialFailed, match=r"^rpc error getting client: failed to get conn: "):
            await world.call(READ)
        assert now() == pytest.approx(7.0)
        rounds = len(world.servers.asked) / 2
        assert 7 / 0.4 <= rounds < 60  # It is no storm.

    play(act)


def test_agent_that_stops_holds_no_calls() -> None:
    async def act(world: World) -> None:
        asyncio.get_running_loop().call_later(2, world.calls.close)
        with pytest.raises(Unavailable):
            await world.call(READ)
        assert now() == 2.0

    play(act)


# While there is no leader -------------------------------------------------------------------------


def test_no_leader_anywhere_is_told_after_the_one_wait_of_a_server() -> None:
    async def act(world: World) -> None:
        world.know("a", "b", "c")
        world.servers.leaderless = {"b", "c"}
        world.servers.answers["a"], world.servers.delays["a"] = NO_LEADER, 7.0
        with pytest.raises(RemoteError, match=r"^rpc error making call: No cluster leader$"):
            await world.call(READ)
        assert (world.servers.asked, now()) == (["a"], 7.0)

    play(act)


@pytest.mark.parametrize("call", [READ, WRITE])
def test_server_that_is_cut_off_from_its_leader_costs_no_error(call: tuple[str, Record]) -> None:
    async def act(world: World) -> None:
        world.know("a", "b", "c")
        world.servers.leaderless = {"b"}
        world.servers.answers["a"], world.servers.delays["a"] = NO_LEADER, 7.0
        assert await world.call(call) == "c"
        assert world.servers.asked == ["a", "c"]

    play(act)


# Blocking reads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [LOST, NO_LEADER])
def test_blocking_read_goes_on_elsewhere_for_the_rest_of_its_wait(failure: Exception) -> None:
    async def act(world: World) -> None:
        world.know("a")
        world.servers.answers["a"], world.servers.delays["a"] = failure, 200.0
        asyncio.get_running_loop().call_later(1, world.servers.delays.clear)
        reading = asyncio.ensure_future(world.call(blocking(300)))
        await asyncio.sleep(203)
        assert not reading.done()  # There is nobody else, and it waits.
        world.know("b")
        assert await reading == "b"
        first, last = world.servers.requests[0], world.servers.requests[-1]
        assert first.max_query_time == Duration.of(300)
        assert 96 < last.max_query_time.seconds <= 97
        assert last.min_query_index == 7

    play(act)


def test_blocking_read_that_is_nearly_over_still_waits_a_moment() -> None:
    async def act(world: World) -> None:
        world.know("a", "b")
        world.servers.answers["a"], world.servers.delays["a"] = LOST, 10.0
        assert await world.call(blocking(10)) == "b"
        assert world.servers.requests[-1].max_query_time == Duration.of(1)

    play(act)


# Who is there -------------------------------------------------------------------------------------


def test_connection_to_a_server_that_left_or_moved_is_used_no_more() -> None:
    async def act(world: World) -> None:
        world.know("a", "b")
        world.servers.answers["a"] = refused("a")
        assert await world.call(READ) == "b"
        world.calls.put(server("b", host="10.0.0.7"))
        world.calls.remove("a")
        world.calls.remove("a")
        assert world.servers.forgotten == ["b 10.0.0.1", "a 10.0.0.1"]
        assert [found.node for found in world.calls.servers] == ["b"]
        assert world.calls.failures == {}

    play(act)


def test_silent_server_is_stood_in_for_by_another() -> None:
    async def act(world: World) -> None:
        world.know("a", "b")
        a, b = (ServerTarget("dc1", name, "10.0.0.1", 8300) for name in ("a", "b"))
        assert world.calls.stand_in(a) == b
        assert [found.node for found in world.calls.servers] == ["b", "a"]
        world.calls.remove("b")
        assert world.calls.stand_in(a) == a
        world.calls.remove("a")
        assert world.calls.stand_in(a) == a

    play(act)


def test_servers_are_changed_every_few_minutes_once_one_answers() -> None:
    async def act(world: World) -> None:
        world.know("a", "b", "c")
        world.servers.answers = {"a": LOST, "b": LOST}
        rebalancing = asyncio.ensure_future(world.calls.run())
        await asyncio.sleep(180)
        world.servers.answers = {"b": LOST}
        assert world.calls.servers[0].node == "c"
        seen = set()
        for _ in range(20):
            await asyncio.sleep(180)
            seen.add(await world.call(READ))
        assert seen == {"a", "c"}
        assert len(world.servers.pinged) > 20
        rebalancing.cancel()

    play(act)
