"""Writes keys through a server until it is killed; prints what was acknowledged.

``python crash_writer.py DIRECTORY ROUND``: each line of output is a key that is durable.
"""

import asyncio
import random
import sys
from datetime import UTC, datetime
from pathlib import Path

from isthmus.engine.sqlite import SqliteEngine
from isthmus.model.kv import KV_SET, DirEntry, KVSRequest
from isthmus.server.server import Server, ServerConfig
from isthmus.store.store import Store

WRITERS = 64


def make_server(directory: Path) -> Server:
    engine = SqliteEngine(
        directory,
        datacenter="dc1",
        cluster="11111111-2222-3333-4444-555555555555",
        wall=lambda: datetime(2026, 1, 2, tzinfo=UTC),
    )
    return Server(
        ServerConfig(datacenter="dc1", node_name="alpha", rpc_address="127.0.0.1:8300"),
        Store(),
        engine,
        forward=None,
        rng=random.Random(1),
        wall=lambda: datetime(2026, 1, 2, tzinfo=UTC),
    )


async def write(server: Server, writer: int, start: int) -> None:
    number = start
    while True:
        key = f"{writer}/{number}"
        await server.call(
            "KVS.Apply", KVSRequest(op=KV_SET, dir_ent=DirEntry(key=key, value=b"x" * 100))
        )
        print(key, flush=True)
        number += 1


async def main() -> None:
    server = make_server(Path(sys.argv[1]))
    await server.start()
    print("ready", flush=True)
    start = int(sys.argv[2]) * 1_000_000
    await asyncio.gather(*[write(server, writer, start) for writer in range(WRITERS)])


if __name__ == "__main__":
    asyncio.run(main())
