"""The store below the doors: reads, writes on a disk, load, memory, blocked readers."""

import asyncio
import gc
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from random import Random

from bench.figures import show
from isthmus.engine.memory import MemoryEngine
from isthmus.engine.sqlite import SqliteEngine
from isthmus.model.catalog import HealthCheck, NodeService, RegisterRequest, ServiceRequest
from isthmus.model.kv import KV_SET, DirEntry, KeyRequest, KVSRequest
from isthmus.server.server import Server, ServerConfig
from isthmus.store.engine import Engine
from isthmus.store.store import Store

WALL = datetime(2026, 1, 1, tzinfo=UTC)
READS = 20_000
INSTANCES = 20_000
BLOCKED = 10_000
WRITERS = {1: 500, 16: 4_000, 256: 10_000, 2_000: 20_000}
"""Concurrent writers → how many writes they make together."""
MEMORY_UNIT = 4096  # Bytes in a page, which /proc counts.


def main() -> None:
    """Measure and print."""
    asyncio.run(_reads())
    asyncio.run(_writes())
    asyncio.run(_load())
    asyncio.run(_blocked())


def make_server(engine: Engine) -> Server:
    return Server(
        ServerConfig(datacenter="dc1", node_name="bench", rpc_address="127.0.0.1:8300"),
        Store(),
        engine,
        forward=None,
        rng=Random(1),
        wall=lambda: WALL,
    )


def make_engine(directory: str) -> SqliteEngine:
    return SqliteEngine(Path(directory), datacenter="dc1", cluster="bench", wall=lambda: WALL)


def set_key(key: str, value: bytes = bytes(64)) -> KVSRequest:
    return KVSRequest(op=KV_SET, dir_ent=DirEntry(key=key, value=value))


def register(number: int, service: str = "web") -> RegisterRequest:
    node = f"node-{number % 1000}"
    service_id = f"{service}-{number}"
    return RegisterRequest(
        node=node,
        address="10.0.0.1",
        node_meta={"rack": "r1"},
        service=NodeService(
            id=service_id,
            service=f"{service}-{number % 2000}",
            tags=("primary", "v2"),
            port=8080,
            meta={"version": "2"},
        ),
        check=HealthCheck(
            check_id=f"service:{service_id}",
            name=f"Service '{service}' check",
            status="passing",
            service_id=service_id,
            output="HTTP GET http://10.0.0.1:8080/health: 200 OK Output: ok",
        ),
    )


async def _reads() -> None:
    server = make_server(MemoryEngine())
    await server.start()
    for number in range(10):
        service = NodeService(service="web", port=80)
        request = RegisterRequest(node=f"n{number}", address="10.0.0.1", service=service)
        await server.call("Catalog.Register", request)
    await server.call("KVS.Apply", set_key("a/b"))
    web, key = ServiceRequest(service_name="web"), KeyRequest(key="a/b")

    async def rate(call: Callable[[], Awaitable[object]]) -> float:
        started = time.perf_counter()
        for _ in range(READS):
            await call()
        return READS / (time.perf_counter() - started)

    health = [await rate(lambda: server.call("Health.ServiceNodes", web)) for _ in range(5)]
    show("Health.ServiceNodes, 10 instances, in process", health, "/s")
    gets = [await rate(lambda: server.call("KVS.Get", key)) for _ in range(5)]
    show("KVS.Get, in process", gets, "/s")
    await server.stop()


async def _writes() -> None:
    for writers, total in WRITERS.items():
        rates = []
        for _ in range(3):
            with tempfile.TemporaryDirectory() as directory:
                server = make_server(make_engine(directory))
                await server.start()
                started = time.perf_counter()
                await asyncio.gather(
                    *[_write(server, writer, total // writers) for writer in range(writers)]
                )
                rates.append(total / (time.perf_counter() - started))
                await server.stop()
        show(f"KVS.Apply on SQLite, synced, {writers} writers", rates, "/s")


async def _write(server: Server, writer: int, count: int) -> None:
    for number in range(count):
        await server.call("KVS.Apply", set_key(f"{writer}/{number}"))


async def _load() -> None:
    with tempfile.TemporaryDirectory() as directory:
        server = make_server(make_engine(directory))
        await server.start()
        started = time.perf_counter()
        for start in range(0, INSTANCES, 1000):
            await asyncio.gather(
                *[
                    server.call("Catalog.Register", register(number))
                    for number in range(start, start + 1000)
                ]
            )
        rate = INSTANCES / (time.perf_counter() - started)
        show("Catalog.Register, service with a check, 1000 at once", [rate], "/s")
        await server.stop()
        del server
        gc.collect()
        before = _resident()
        again = make_server(make_engine(directory))
        started = time.perf_counter()
        await again.start()
        seconds = time.perf_counter() - started
        show("load of 100 000 services with a check", [seconds * 100_000 / INSTANCES], "s", "3")
        size = (_resident() - before) / INSTANCES
        show("memory per instance with one check", [size], "bytes", "2048")
        for number in range(2000):
            request = ServiceRequest(service_name=f"web-{number}")
            await again.call("Health.ServiceNodes", request)
        size = (_resident() - before) / INSTANCES
        show("the same after all were read", [size], "bytes", "2048")
        await again.stop()


async def _blocked() -> None:
    server = make_server(MemoryEngine())
    await server.start()
    await server.call("KVS.Apply", set_key("a"))
    gc.collect()
    before = _resident()
    blocked = KeyRequest(key="a", min_query_index=server.store.index)
    readers = [asyncio.ensure_future(server.call("KVS.Get", blocked)) for _ in range(BLOCKED)]
    await asyncio.sleep(0.1)
    show(f"memory of {BLOCKED} blocked readers", [(_resident() - before) / 2**20], "MiB", "150")
    started = time.perf_counter()
    await server.call("KVS.Apply", set_key("a", b"other"))
    await asyncio.gather(*readers)
    show("a write to the last of them answered", [time.perf_counter() - started], "s", "0.5")
    await server.stop()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * MEMORY_UNIT


if __name__ == "__main__":
    main()
