"""Writes keys through a server until it is killed; prints what was acknowledged.

``python -m support.crash_writer DIRECTORY ROUND``: each line of output is a key that is durable.
"""

import asyncio
import sys
from pathlib import Path

from isthmus.model.kv import KV_SET, DirEntry, KVSRequest
from isthmus.server.server import Server
from support.servers import make_server, make_sqlite

WRITERS = 64


async def write(server: Server, writer: int, start: int) -> None:
    number = start
    while True:
        key = f"{writer}/{number}"
        entry = DirEntry(key=key, value=b"x" * 100)
        await server.call("KVS.Apply", KVSRequest(op=KV_SET, dir_ent=entry))
        print(key, flush=True)
        number += 1


async def main() -> None:
    server = make_server(make_sqlite(Path(sys.argv[1])))
    await server.start()
    print("ready", flush=True)
    start = int(sys.argv[2]) * 1_000_000
    await asyncio.gather(*[write(server, writer, start) for writer in range(WRITERS)])


if __name__ == "__main__":
    asyncio.run(main())
