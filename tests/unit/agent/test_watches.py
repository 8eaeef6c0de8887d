"""The watches of an agent's configuration: what is asked, who is told, what a reload does."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from isthmus.agent.watches import PAUSE, Watches
from isthmus.http.request import Request
from isthmus.http.response import Response
from isthmus.model.watch_definition import (
    HttpHandler,
    ProgramHandler,
    WatchDefinition,
    read_definition,
)
from isthmus.model.watch_plan import WatchNews
from support.virtual_loop import now, run_virtual, settle


def watch(script: str = "x", **parameters: object) -> WatchDefinition:
    return read_definition({"type": "nodes", "handler": script, **parameters})


class World:
    """A door that holds questions until something changes; handlers that write down."""

    def __init__(self) -> None:
        self.watches = Watches(self.ask, self.tell)
        self.index, self.data, self.status = 1, ["a"], 200
        self.changed = asyncio.Event()
        self.asked: list[tuple[float, str]] = []
        self.tokens: list[bytes | None] = []
        self.told: list[tuple[str, Any, str]] = []
        self.busy: asyncio.Event | None = None

    async def ask(self, request: Request) -> Response:
        target = f"{request.raw_path}?{request.raw_query}".rstrip("?")
        self.asked.append((round(now(), 3), target))
        self.tokens.append(request.headers.get(b"x-consul-token"))
        while f"index={self.index}" in target and self.status == 200:
            self.changed.clear()
            await self.changed.wait()
        headers = [("X-Consul-Index", str(self.index))]
        return Response(self.status, headers, json.dumps(self.data).encode())

    async def tell(self, handler: ProgramHandler | HttpHandler, news: WatchNews) -> None:
        assert isinstance(handler, ProgramHandler)
        self.told.append((handler.script, news.data, news.index))
        if self.busy is not None:
            await self.busy.wait()

    async def change(self, *data: str) -> None:
        self.index, self.data = self.index + 1, list(data)
        self.changed.set()
        await asyncio.sleep(1)


def play(act: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        world = World()
        await act(world)
        await world.watches.close()
        assert len(world.watches) == 0

    run_virtual(run())


def test_handler_is_told_at_first_and_of_every_change() -> None:
    async def act(world: World) -> None:
        world.watches.load([watch("x", token="t", datacenter="dc2")])
        await settle()
        assert world.told == [("x", ["a"], "1")]
        await asyncio.sleep(1)
        await world.change("a", "b")
        assert world.told[1:] == [("x", ["a", "b"], "2")]
        assert [target for _, target in world.asked] == [
            "/v1/catalog/nodes?dc=dc2",
            "/v1/catalog/nodes?dc=dc2&index=1",
            "/v1/catalog/nodes?dc=dc2&index=2",
        ]
        assert set(world.tokens) == {b"t"}

    play(act)


def test_nothing_is_asked_while_the_handler_runs() -> None:
    async def act(world: World) -> None:
        world.busy = asyncio.Event()
        world.watches.load([watch()])
        await asyncio.sleep(1)
        await world.change("b")
        await world.change("c")
        assert len(world.told) == len(world.asked) == 1
        world.busy.set()
        await asyncio.sleep(1)
        assert [data for _, data, _ in world.told] == [["a"], ["c"]]

    play(act)


def test_failures_are_told_in_the_log_and_asked_again_ever_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def act(world: World) -> None:
        world.status, world.data = 500, ["No cluster leader"]
        world.watches.load([watch()])
        await asyncio.sleep(60)
        world.status, world.data = 200, ["a"]
        await asyncio.sleep(60)
        assert [moment for moment, _ in world.asked] == [0, 5, 25, 70, 70 + PAUSE]
        assert [data for _, data, _ in world.told] == [["a"]]

    with caplog.at_level(logging.WARNING):
        play(act)
    first = caplog.records[0]
    assert "No cluster leader" in first.getMessage()
    assert "again in 5 s" in first.getMessage()


def test_answers_that_come_at_once_cannot_keep_us_busy() -> None:
    async def act(world: World) -> None:
        async def ask(request: Request) -> Response:
            world.asked.append((now(), ""))
            return Response(200, [("X-Consul-Index", "1")], b"[]")

        world.watches = Watches(ask, world.tell)
        world.watches.load([watch()])
        await asyncio.sleep(1)
        assert len(world.asked) <= 1 / PAUSE + 2

    play(act)


def test_reload_leaves_alone_what_stays() -> None:
    async def act(world: World) -> None:
        world.watches.load([watch("one"), watch("two"), watch("two")])
        await settle()
        assert sorted(script for script, _, _ in world.told) == ["one", "two", "two"]
        world.watches.load([watch("two"), watch("three")])
        await settle()
        assert [script for script, _, _ in world.told[3:]] == ["three"]
        world.told.clear()
        await asyncio.sleep(1)
        await world.change("b")
        assert sorted(script for script, _, _ in world.told) == ["three", "two"]
        world.watches.load([])
        world.told.clear()
        await world.change("c")
        assert (world.told, len(world.watches)) == ([], 0)

    play(act)
