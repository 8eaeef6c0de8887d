"""Debian's serf agent in a pool with ours: it joins us, stays, and sees us leave."""

import asyncio
import base64
import json
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from isthmus.gossip.config import GossipConfig
from isthmus.net.gossip import (
    GossipThread,
    JoinFailed,
    MemberFailed,
    MemberJoined,
    MemberLeft,
    MemberStatus,
    MemberUpdated,
    Pool,
    PoolConfig,
    PoolEvent,
    QueryReceived,
    UserEventReceived,
)
from isthmus.net.sockets import SocketNetwork

SERF = shutil.which("serf")
TOGETHER = 60.0  # Seconds that the agent must stay alive with us.
KEY = bytes(range(32))

pytestmark = [
    pytest.mark.interop,
    pytest.mark.timeout(180),
    pytest.mark.skipif(SERF is None, reason="no serf agent here: apt-get install serf"),
]


async def eventually(check: Callable[[], Awaitable[bool]], *, within: float) -> None:
    """Ask another process until it says yes; it has no way to tell us."""
    async with asyncio.timeout(within):
        while True:
            if await check():
                return
            await asyncio.sleep(0.1)


class Peer:
    """A serf agent and its command line."""

    def __init__(self, address: str, rpc: str) -> None:
        self.address, self._rpc = address, rpc

    async def command(self, *words: str) -> str:
        assert SERF is not None
        process = await asyncio.create_subprocess_exec(
            SERF, words[0], f"-rpc-addr={self._rpc}", *words[1:], stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, output
        return output.decode()

    async def members(self) -> dict[str, dict[str, Any]]:
        listing = json.loads(await self.command("members", "-format=json"))
        return {member["name"]: member for member in listing["members"]}

    async def sees(self, name: str, status: str, *, within: float) -> None:
        async def seen() -> bool:
            return bool((await self.members()).get(name, {}).get("status") == status)

        await eventually(seen, within=within)


@asynccontextmanager
async def serf_agent(log: Path, *options: str) -> AsyncIterator[Peer]:
    assert SERF is not None
    address, rpc = (f"127.0.0.1:{port}" for port in free_ports(2))
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            SERF, "agent", "-node=real", f"-bind={address}", f"-rpc-addr={rpc}",
            "-profile=local", "-tag=role=peer", "-log-level=debug", *options,
            stdout=output, stderr=output,
        )  # fmt: skip
        try:
            yield Peer(address, rpc)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Observer:
    """Remembers a pool's events and lets a test wait for one."""

    def __init__(self) -> None:
        self.events: list[PoolEvent] = []
        self._changed = asyncio.Event()

    def __call__(self, event: PoolEvent) -> None:
        self.events.append(event)
        self._changed.set()

    async def wait_for(self, kind: type, name: str, *, within: float = 10.0) -> Any:
        try:
            async with asyncio.timeout(within):
                while True:
                    for event in self.events:
                        subject: Any = getattr(event, "member", getattr(event, "query", event))
                        if isinstance(event, kind) and subject.name == name:
                            return event
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(f"no {kind.__name__} of {name} in {self.events}") from None


async def live_together(pool: Pool, observer: Observer, tmp_path: Path, *options: str) -> None:
    host, port = pool.address
    async with serf_agent(tmp_path / "serf.log", f"-join={host}:{port}", *options) as peer:
        joined = await observer.wait_for(MemberJoined, "real")
        assert joined.member.tags == {"role": "peer"}
        await peer.sees("ours", "alive", within=5)
        assert (await peer.members())["ours"]["tags"] == {"dc": "dc1"}
        with pytest.raises(TimeoutError):
            await observer.wait_for(MemberFailed, "real", within=TOGETHER)
        assert not [event for event in observer.events if isinstance(event, MemberLeft)]
        # It must have thought us alive all the time, too.
        assert "EventMemberFailed" not in (tmp_path / "serf.log").read_text()
        assert {name: m["status"] for name, m in (await peer.members()).items()} == {
            "ours": "alive",
            "real": "alive",
        }
        await peer.command("event", "-coalesce=false", "deploy", "seven")
        heard = await observer.wait_for(UserEventReceived, "deploy")
        assert heard.payload == b"seven"
        asking = asyncio.ensure_future(peer.command("query", "-timeout=5s", "load", "now"))
        asked = await observer.wait_for(QueryReceived, "load")
        await pool.respond(asked.query, b"seven percent")
        assert "Response from 'ours': seven percent" in await asking
        await peer.command("tags", "-set", "size=big")
        changed = await observer.wait_for(MemberUpdated, "real")
        assert changed.member.tags == {"role": "peer", "size": "big"}
        await pool.update_tags({"dc": "dc2"})

        async def retagged() -> bool:
            return bool((await peer.members())["ours"]["tags"] == {"dc": "dc2"})

        await eventually(retagged, within=5)
        await pool.leave()
        await peer.sees("ours", "left", within=5)


async def test_agent_stays_with_us_and_sees_us_leave(tmp_path: Path) -> None:
    """Plain and encrypted at the same time, one minute each."""
    thread = GossipThread(SocketNetwork())
    thread.start()
    try:
        async with asyncio.TaskGroup() as group:
            for name, keys in (("plain", ()), ("encrypted", (KEY,))):
                observer, directory = Observer(), tmp_path / name
                directory.mkdir()
                pool = await thread.open_pool(
                    PoolConfig(
                        name="ours",
                        bind_host="127.0.0.1",
                        bind_port=0,
                        tags={"dc": "dc1"},
                        gossip=GossipConfig.local(),
                        keys=keys,
                    ),
                    on_event=observer,
                )
                options = [f"-encrypt={base64.b64encode(key).decode()}" for key in keys]
                group.create_task(live_together(pool, observer, directory, *options))
    finally:
        await thread.stop()
    assert thread.failure is None


async def test_we_join_an_agent_and_see_it_leave_or_fail(tmp_path: Path) -> None:
    """A graceful leave is `left`, a killed agent is `failed`."""
    thread = GossipThread(SocketNetwork())
    thread.start()
    try:
        for number, (end, kind, status) in enumerate(
            (("leave", MemberLeft, MemberStatus.LEFT), ("kill", MemberFailed, MemberStatus.FAILED))
        ):
            observer = Observer()
            pool = await thread.open_pool(
                PoolConfig(
                    name="ours",
                    bind_host="127.0.0.1",
                    bind_port=0,
                    gossip=GossipConfig.local(),
                ),
                on_event=observer,
            )
            async with serf_agent(tmp_path / f"serf{number}.log") as peer:
                await eventually(partial(joined, pool, peer), within=10)
                await peer.sees("ours", "alive", within=5)
                if end == "leave":
                    await peer.command("leave")
                    await observer.wait_for(kind, "real", within=20)
            gone = await observer.wait_for(kind, "real", within=30)
            assert gone.member.status is status
            await pool.close()
    finally:
        await thread.stop()


async def joined(pool: Pool, peer: Peer) -> bool:
    try:
        return await pool.join([f"real/{peer.address}"]) == 1
    except JoinFailed:
        return False  # Its ports are not open yet.
