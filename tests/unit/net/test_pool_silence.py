"""Connections that hang: what the pool notices, and what it costs the callers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest

from isthmus.errors import ConnectionLost
from isthmus.model.query import DatacenterRequest
from isthmus.net.client import PoolConfig, ServerTarget
from isthmus.net.direct import DirectDialer
from isthmus.net.listener import ListenerConfig, ServerListener
from isthmus.net.multiplex import MultiplexProtocol
from isthmus.net.pool import RpcPool
from isthmus.net.sockets import SocketNetwork
from support.rpc_server import SteeredDispatcher

M = TypeVar("M", bound=MultiplexProtocol)
DEADLINE = 10.0
QUESTION = DatacenterRequest(datacenter="dc1")
QUICK = PoolConfig(probe_after=0.05, probe_interval=0.1, suspect_after=0.05, dead_after=0.4)


class Relay:
    """A gateway that can stop moving bytes while its connections stay up."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._moving = asyncio.Event()
        self._moving.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def freeze(self) -> None:
        self._moving.clear()

    def thaw(self) -> None:
        self._moving.set()

    async def close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        loop = asyncio.get_running_loop()
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            self._tasks.add(loop.create_task(self._move(source, sink)))

    async def _move(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                await self._moving.wait()
                sink.write(data)
        except ConnectionError:
            return
        finally:
            sink.close()


class ThroughGateways:
    """Dials through the ports given, one after the other, and then again the last."""

    def __init__(self, *ports: int) -> None:
        self._ports, self._direct = list(ports), DirectDialer(SocketNetwork())
        self.count = 0

    async def dial_server(
        self, factory: Callable[[], M], target: ServerTarget, *, timeout: float
    ) -> M:
        self.count += 1
        port = self._ports.pop(0) if len(self._ports) > 1 else self._ports[0]
        through = ServerTarget(target.dc, target.node, "127.0.0.1", port)
        protocol = await self._direct.dial_server(factory, through, timeout=timeout)
        protocol.gateway = f"127.0.0.1:{port}"
        return protocol


class Scene:
    """A server, a relay before it, and a pool that dials the relay first."""

    relay: Relay
    dialer: ThroughGateways
    pool: RpcPool
    gateway: str

    def __init__(self) -> None:
        self.dispatcher = SteeredDispatcher()
        self.silent: list[str] = []
        self.silence = asyncio.Event()

    def heard_of(self, target: ServerTarget, gateway: str) -> None:
        self.silent.append(gateway)
        self.silence.set()

    async def call(self, method: str = "Status.Leader", *, repeatable: bool) -> object:
        return await self.pool.call(
            TARGET,
            method,
            QUESTION,
            str if method == "Status.Leader" else tuple[str, ...],
            timeout=DEADLINE,
            repeatable=repeatable,
        )


TARGET = ServerTarget("dc1", "alpha", "", 0)


@asynccontextmanager
async def scene(*, second_way: bool) -> AsyncIterator[Scene]:
    made = Scene()
    listener = ServerListener(SocketNetwork(), ListenerConfig(), made.dispatcher)
    await listener.start("127.0.0.1", 0)
    port = listener.address[1]
    made.relay = Relay(port)
    relay_port = await made.relay.start()
    made.gateway = f"127.0.0.1:{relay_port}"
    made.dialer = ThroughGateways(relay_port, *([port] if second_way else []))
    made.pool = RpcPool(made.dialer, QUICK, on_silent=made.heard_of)
    try:
        yield made
    finally:
        await made.pool.close()
        await made.relay.close()
        await listener.close()


async def test_read_moves_to_another_gateway_when_its_own_hangs() -> None:
    async with scene(second_way=True) as made, asyncio.timeout(DEADLINE):
        assert await made.call(repeatable=True) == "127.0.0.1:8300"
        made.relay.freeze()
        assert await made.call(repeatable=True) == "127.0.0.1:8300"
        assert made.silent == [made.gateway]
        assert made.dialer.count == 2
        assert await made.call(repeatable=False) == "127.0.0.1:8300"


async def test_read_moves_to_the_server_that_stands_in() -> None:
    """The server itself hangs, and with it every way to it."""
    hanging, other = ServerTarget("dc1", "alpha", "", 0), ServerTarget("dc1", "beta", "", 0)
    stood_in = []

    def stand_in(target: ServerTarget) -> ServerTarget:
        stood_in.append(target)
        return other

    async with scene(second_way=True) as made, asyncio.timeout(DEADLINE):
        pool = RpcPool(made.dialer, QUICK, stand_in=stand_in)
        ask = pool.call(hanging, "Status.Leader", QUESTION, str, timeout=DEADLINE, repeatable=True)
        made.relay.freeze()
        assert await ask == "127.0.0.1:8300"
        assert stood_in == [hanging]
        assert pool.connection_count == 1  # To the other; the first one is no more used.
        await pool.close()


async def test_blocked_read_moves_too() -> None:
    async with scene(second_way=True) as made, asyncio.timeout(DEADLINE):
        asking = asyncio.ensure_future(made.call("Status.Peers", repeatable=True))
        await made.dispatcher.held.wait()
        made.relay.freeze()
        made.dispatcher.held.clear()
        await made.dispatcher.held.wait()
        made.dispatcher.release.set()
        assert await asking == ("127.0.0.1:8300",)


async def test_write_is_not_repeated_and_its_error_names_the_gateway() -> None:
    async with scene(second_way=True) as made, asyncio.timeout(DEADLINE):
        asking = asyncio.ensure_future(made.call("Status.Peers", repeatable=False))
        await made.dispatcher.held.wait()
        made.relay.freeze()
        with pytest.raises(ConnectionLost, match=f"gateway {made.gateway}: .*no sign of life"):
            await asking
        assert len(made.dispatcher.calls) == 1


async def test_read_fails_when_there_is_no_other_way() -> None:
    async with scene(second_way=False) as made, asyncio.timeout(DEADLINE):
        assert await made.call(repeatable=True) == "127.0.0.1:8300"
        made.relay.freeze()
        with pytest.raises(ConnectionLost, match="no sign of life"):
            await made.call(repeatable=True)


async def test_slow_answer_of_a_living_server_is_waited_for() -> None:
    async with scene(second_way=False) as made, asyncio.timeout(DEADLINE):
        asking = asyncio.ensure_future(made.call("Status.Peers", repeatable=True))
        await made.dispatcher.held.wait()
        await asyncio.wait({asking}, timeout=3 * QUICK.dead_after)
        made.dispatcher.release.set()
        assert await asking == ("127.0.0.1:8300",)
        assert (made.dialer.count, made.silent) == (1, [])


async def test_connection_that_comes_back_still_answers_its_calls() -> None:
    async with scene(second_way=False) as made, asyncio.timeout(DEADLINE):
        asking = asyncio.ensure_future(made.call("Status.Peers", repeatable=False))
        await made.dispatcher.held.wait()
        made.relay.freeze()
        await made.silence.wait()
        made.relay.thaw()
        made.dispatcher.release.set()
        assert await asking == ("127.0.0.1:8300",)
