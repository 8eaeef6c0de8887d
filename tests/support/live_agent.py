"""A server behind its HTTP door on loopback, in a thread of its own, for commands to speak to."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from isthmus.http.server import HttpConfig, HttpServer
from isthmus.model.catalog import PASSING, SERF_HEALTH, HealthCheck, RegisterRequest
from isthmus.net.sockets import SocketNetwork
from isthmus.server.server import Server
from support.http import FakeLocal
from support.servers import make_server

T = TypeVar("T")
DEADLINE = 30.0


class LiveAgent:
    """The server and its address; what is asked of it here runs in its own thread."""

    def __init__(self, server: Server, address: str, loop: asyncio.AbstractEventLoop) -> None:
        self.server, self.address, self._loop = server, address, loop

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do something in the server's thread."""
        done: Future[T] = asyncio.run_coroutine_threadsafe(_awaited(work), self._loop)
        return done.result(DEADLINE)

    def apply(self, command: Any) -> Any:
        """Commit a command."""
        return self.run(lambda: self.server.apply(command))


async def _awaited(work: Callable[[], Awaitable[T]]) -> T:
    return await work()


@contextmanager
def live_agent() -> Iterator[LiveAgent]:
    """Serve until the block ends; the node ``alpha`` is there and well."""
    started: Future[LiveAgent] = Future()
    stop: Future[asyncio.Event] = Future()

    async def serve() -> None:
        server = make_server()
        await server.start()
        health = HealthCheck(node="alpha", check_id=SERF_HEALTH, status=PASSING)
        await server.apply(RegisterRequest(node="alpha", address="127.0.0.1", checks=(health,)))
        door = HttpServer(HttpConfig(port=0), server.call, FakeLocal(), network=SocketNetwork())
        (address,) = await door.start()
        over = asyncio.Event()
        stop.set_result(over)
        started.set_result(LiveAgent(server, address, asyncio.get_running_loop()))
        await over.wait()
        await door.stop()
        await server.stop()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    agent = started.result(DEADLINE)
    try:
        yield agent
    finally:
        over = stop.result(DEADLINE)
        asyncio.run_coroutine_threadsafe(_set(over), agent._loop).result(DEADLINE)
        thread.join(DEADLINE)
        assert not thread.is_alive()


async def _set(event: asyncio.Event) -> None:
    event.set()
