"""Snapshot files and votes about names, between serf agents and us."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from isthmus.gossip.config import GossipConfig
from isthmus.gossip.snapshot import read_snapshot
from isthmus.net.gossip import (
    ConflictLost,
    GossipThread,
    MemberJoined,
    Pool,
    PoolConfig,
)
from isthmus.net.sockets import SocketNetwork
from support.serf_agent import SERF, Observer, SerfAgent, eventually, serf_agent

pytestmark = [
    pytest.mark.interop,
    pytest.mark.timeout(120),
    pytest.mark.skipif(SERF is None, reason="no serf agent here: apt-get install serf"),
]


class Ours:
    """Pools of ours on one thread."""

    def __init__(self) -> None:
        self.thread = GossipThread(SocketNetwork())
        self.thread.start()

    async def open(self, name: str, **options: Any) -> tuple[Pool, Observer]:
        observer = Observer()
        config = PoolConfig(
            name=name, bind_host="127.0.0.1", bind_port=0, gossip=GossipConfig.local(), **options
        )
        return await self.thread.open_pool(config, on_event=observer), observer


@pytest.fixture
async def ours() -> AsyncIterator[Ours]:
    fixture = Ours()
    yield fixture
    await fixture.thread.stop()


async def test_each_finds_back_by_the_others_snapshot(ours: Ours, tmp_path: Path) -> None:
    of_serf, of_us = tmp_path / "serf.snapshot", tmp_path / "ours.snapshot"
    async with serf_agent("real", tmp_path / "real.log", f"-snapshot={of_serf}") as real:
        pool, seen = await ours.open("ours", snapshot_file=of_us)
        await pool.join([real.address])
        await pool.user_event("deploy", b"")
        await real.sees("ours", "alive", within=30)
        await seen.wait_for(MemberJoined, "real")

        async def both_wrote() -> bool:
            await pool.user_event("again", b"")  # serf writes what waits when more comes.
            files = [await asyncio.to_thread(_read, path) for path in (of_serf, of_us)]
            return all(set(alive) == {"ours", "real"} and event for alive, event in files)

        await eventually(both_wrote, within=30)
        shutil.copy(of_us, tmp_path / "third.snapshot")
        shutil.copy(of_serf, tmp_path / "fourth.snapshot")
        third = SerfAgent("third", tmp_path / "third.log", f"-snapshot={tmp_path}/third.snapshot")
        await third.start()
        try:
            await third.sees("real", "alive", within=30)
            await third.sees("ours", "alive", within=30)
            _, seen = await ours.open("fourth", snapshot_file=tmp_path / "fourth.snapshot")
            for name in ("ours", "real", "third"):
                await seen.wait_for(MemberJoined, name)
            await real.sees("fourth", "alive", within=30)
            assert "deploy" not in third.log  # It was seen before, says our snapshot.
        finally:
            await third.kill()


def _read(path: Path) -> tuple[list[str], int]:
    """Who is alive, and the newest event."""
    if not path.exists():
        return [], 0
    found = read_snapshot(path.read_bytes(), rejoin_after_leave=False)
    assert found.whole
    return list(found.alive), found.event_clock


async def test_we_are_outvoted_when_we_take_a_name(ours: Ours, tmp_path: Path) -> None:
    async with (
        serf_agent("real", tmp_path / "real.log") as real,
        serf_agent("other", tmp_path / "other.log") as other,
    ):
        await other.command("join", real.address)
        pool, seen = await ours.open("other", resolve_conflicts=True)
        await pool.join([real.address])
        lost = await seen.wait_for(ConflictLost, "other", within=20)
        assert (lost.matching, lost.answers) == (0, 1)
        assert await real.statuses() == {"real": "alive", "other": "alive"}
        assert "minority" not in other.log
