"""Debian's serf agent in a pool with ours: it joins us, stays, and sees us leave."""

import asyncio
from functools import partial
from pathlib import Path

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
    QueryReceived,
    UserEventReceived,
)
from isthmus.net.sockets import SocketNetwork
from support.serf_agent import (
    SERF,
    Observer,
    SerfAgent,
    encrypt_option,
    eventually,
    serf_agent,
)

TOGETHER = 60.0  # Seconds that the agent must stay alive with us.
KEY = bytes(range(32))

pytestmark = [
    pytest.mark.interop,
    pytest.mark.timeout(180),
    pytest.mark.skipif(SERF is None, reason="no serf agent here: apt-get install serf"),
]


async def live_together(pool: Pool, observer: Observer, tmp_path: Path, *options: str) -> None:
    host, port = pool.address
    log = tmp_path / "serf.log"
    joins = f"-join={host}:{port}"
    async with serf_agent("real", log, "-tag=role=peer", joins, *options) as peer:
        joined = await observer.wait_for(MemberJoined, "real")
        assert joined.member.tags == {"role": "peer"}
        await peer.sees("ours", "alive", within=30)
        assert (await peer.members())["ours"]["tags"] == {"dc": "dc1"}
        with pytest.raises(TimeoutError):
            await observer.wait_for(MemberFailed, "real", within=TOGETHER)
        assert not [event for event in observer.events if isinstance(event, MemberLeft)]
        # It must have thought us alive all the time, too.
        assert "EventMemberFailed" not in peer.log
        assert await peer.statuses() == {"ours": "alive", "real": "alive"}
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

        await eventually(retagged, within=30)
        await pool.leave()
        await peer.sees("ours", "left", within=30)


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
                options = [encrypt_option(key) for key in keys]
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
            async with serf_agent("real", tmp_path / f"serf{number}.log") as peer:
                await eventually(partial(joined, pool, peer), within=30)
                await peer.sees("ours", "alive", within=30)
                if end == "leave":
                    await peer.command("leave")
                    await observer.wait_for(kind, "real", within=20)
            gone = await observer.wait_for(kind, "real", within=30)
            assert gone.member.status is status
            await pool.close()
    finally:
        await thread.stop()


async def joined(pool: Pool, peer: SerfAgent) -> bool:
    try:
        return await pool.join([f"real/{peer.address}"]) == 1
    except JoinFailed:
        return False  # Its ports are not open yet.
