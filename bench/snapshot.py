"""Snapshots of 100 000 services: how long saving and restoring take, how long the loop is held.

Restores go into memory and SQLite; into etcd too where it is installed.
"""

import asyncio
import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

from bench.figures import show
from bench.store import MEMORY_UNIT, WALL, make_engine, make_server, register
from isthmus.engine.etcd import EtcdEngine
from isthmus.engine.etcd_api import EtcdAccess
from isthmus.engine.memory import MemoryEngine
from isthmus.model.snapshot import (
    PIECE_SIZE,
    READ,
    RESTORE,
    WRITE,
    SnapshotPiece,
    SnapshotReadRequest,
    SnapshotWriteReply,
    SnapshotWriteRequest,
)
from isthmus.server.server import Server
from isthmus.store.engine import Limits

INSTANCES = 100_000
TOGETHER = 1000
MANAGED = Limits(10_000, 16 * 1024 * 1024)
"""What an etcd of ours allows."""


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(_measure(Path(directory)))


async def _measure(directory: Path) -> None:
    source = make_server(MemoryEngine())
    await source.start()
    for start in range(0, INSTANCES, TOGETHER):
        together = range(start, min(start + TOGETHER, INSTANCES))
        await asyncio.gather(
            *(source.call("Catalog.Register", register(number)) for number in together)
        )
    before = _resident()
    async with _held() as held:
        started = time.monotonic()
        data = await _save(source)
        seconds = time.monotonic() - started
    show("save", [seconds], "s")
    show("save: the file", [len(data) / 2**20], "MiB")
    show("save: longest hold of the loop", [max(held) * 1000], "ms", "20 ms")
    show("save: memory, the whole file included", [(_resident() - before) / 2**20], "MiB")
    await source.stop()
    for name, make in (
        ("memory", lambda: make_server(MemoryEngine())),
        ("sqlite", lambda: make_server(make_engine(str(directory / "sqlite")))),
    ):
        await _restore(name, make, data)
    if shutil.which("etcd"):
        with _etcd(directory) as endpoint:
            await _restore("etcd, one member", lambda: make_server(_engine(endpoint)), data)


async def _restore(name: str, make: Callable[[], Server], data: bytes) -> None:
    server = make()
    await server.start()
    while not server.is_leader:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    async with _held() as held:
        started = time.monotonic()
        await _send(server.snapshots.write, data)
        seconds = time.monotonic() - started
    assert server.store.row_counts()["services"] == INSTANCES
    show(f"restore, {name}", [seconds], "s")
    show(f"restore, {name}: longest hold of the loop", [max(held) * 1000], "ms")
    await server.stop()


async def _save(server: Server) -> bytes:
    piece = SnapshotPiece()
    while not piece.done:
        piece = await server.snapshots.read(SnapshotReadRequest(id=piece.id))
    data = bytearray()
    while len(data) < piece.size:
        request = SnapshotReadRequest(operation=READ, id=piece.id, offset=len(data))
        data += (await server.snapshots.read(request)).data or b""
    return bytes(data)


async def _send(
    write: Callable[[SnapshotWriteRequest], Awaitable[SnapshotWriteReply]], data: bytes
) -> None:
    sent = await write(SnapshotWriteRequest())
    for start in range(0, len(data), PIECE_SIZE):
        piece = data[start : start + PIECE_SIZE]
        sent = await write(
            SnapshotWriteRequest(operation=WRITE, id=sent.id, offset=start, data=piece)
        )
    while not sent.done:
        sent = await write(SnapshotWriteRequest(operation=RESTORE, id=sent.id))


@contextlib.asynccontextmanager
async def _held() -> AsyncIterator[list[float]]:
    """How late a task was that wanted its turn each millisecond, in seconds."""
    late = [0.0]

    async def watch() -> None:
        while True:
            due = time.monotonic() + 0.001
            await asyncio.sleep(0.001)
            late.append(time.monotonic() - due)

    task = asyncio.get_running_loop().create_task(watch())
    try:
        yield late
    finally:
        task.cancel()


def _engine(endpoint: str) -> EtcdEngine:
    return EtcdEngine(
        EtcdAccess(endpoints=(endpoint,)),
        datacenter="dc1",
        cluster="bench",
        wall=lambda: WALL,
        limits=MANAGED,
    )


@contextlib.contextmanager
def _etcd(directory: Path) -> Iterator[str]:
    """One member on free ports; its client address."""
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    client, peer = (f"http://127.0.0.1:{port}" for port in ports)
    command = [
        "etcd", "--name=only", f"--data-dir={directory / 'etcd'}",
        f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=only={peer}", f"--max-txn-ops={MANAGED.operations_max}",
        f"--max-request-bytes={MANAGED.bytes_max}",
    ]  # fmt: skip
    with (directory / "etcd.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            time.sleep(2)
            yield f"127.0.0.1:{ports[0]}"
        finally:
            process.kill()
            process.wait()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * MEMORY_UNIT
