"""``python -m bench.member NAME HOST:PORT [JOIN …]``: a process that is one gossip member.

LAN profile. It prints a line for every member that joined or failed, and stops on SIGTERM.
"""

import asyncio
import contextlib
import signal
import sys

from isthmus.gossip.config import GossipConfig
from isthmus.names import split_host_port
from isthmus.net.gossip import (
    GossipThread,
    JoinFailed,
    MemberFailed,
    MemberJoined,
    PoolConfig,
    PoolEvent,
)
from isthmus.net.sockets import SocketNetwork


def _show(event: PoolEvent) -> None:
    if isinstance(event, MemberJoined):
        print("joined", event.member.name, flush=True)
    elif isinstance(event, MemberFailed):
        print("failed", event.member.name, flush=True)


async def run(name: str, address: str, join: list[str]) -> None:
    """Be a member until SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    host, port = split_host_port(address)
    thread = GossipThread(SocketNetwork())
    thread.start()
    try:
        config = PoolConfig(name=name, bind_host=host, bind_port=port, gossip=GossipConfig.lan())
        pool = await thread.open_pool(config, on_event=_show)
        print("ready", name, flush=True)
        while join and not stopped.is_set():
            with contextlib.suppress(JoinFailed):
                await pool.join(join)
                break
            await asyncio.sleep(0.1)
        await stopped.wait()
    finally:
        await thread.stop()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], sys.argv[2], sys.argv[3:]))
