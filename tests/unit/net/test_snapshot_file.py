"""The snapshot file: written now and then, whole after trouble, complete at the end."""

import asyncio
from pathlib import Path

from isthmus.gossip.roster import Member, MemberJoined, MemberStatus
from isthmus.gossip.snapshot import Snapshot
from isthmus.net.snapshot_file import FLUSH_INTERVAL, WRITE_RETRY_INTERVAL, SnapshotFile
from support.memory_files import MemoryFiles
from support.virtual_loop import now, run_virtual, settle

PATH = Path("/data/serf/local.snapshot")


def joined(name: str) -> MemberJoined:
    return MemberJoined(
        Member(name=name, address="10.0.0.2", port=7946, tags={}, status=MemberStatus.ALIVE)
    )


def line(name: str) -> bytes:
    return f"alive: {name} 10.0.0.2:7946\n".encode()


class Running:
    """A file and its task."""

    def __init__(self, files: MemoryFiles) -> None:
        self.file = SnapshotFile(PATH, files)
        self.task = asyncio.ensure_future(self.file.run())

    async def stop(self) -> None:
        self.file.stop()
        await self.task


def test_changes_are_written_together_at_most_every_500_ms() -> None:
    """protocol/gossip.md §13.8."""

    async def story() -> None:
        files = MemoryFiles()
        running = Running(files)
        for number in range(40):
            running.file.receive(joined(f"n{number}"))
            await asyncio.sleep(0.05)
        assert 3 <= len(files.writes) <= 5
        await asyncio.sleep(FLUSH_INTERVAL)
        assert files.contents[PATH] == b"".join(line(f"n{number}") for number in range(40))
        writes = len(files.writes)
        await asyncio.sleep(60)
        assert len(files.writes) == writes
        await running.stop()

    run_virtual(story())


def test_end_writes_what_is_left_at_once() -> None:
    async def story() -> None:
        files = MemoryFiles()
        running = Running(files)
        running.file.receive(joined("a"))
        await settle()
        running.file.receive(joined("b"))
        running.file.leave()
        await running.stop()
        assert now() == 0
        assert files.contents[PATH] == line("a") + line("b") + b"leave\n"

    run_virtual(story())


def test_full_disk_loses_nothing_once_there_is_room() -> None:
    async def story() -> None:
        files = MemoryFiles()
        files.problem = OSError(28, "No space left on device")
        running = Running(files)
        running.file.receive(joined("a"))
        await asyncio.sleep(1)
        running.file.note_clocks(clock=5, event_clock=0, query_clock=0)
        files.problem = None
        await asyncio.sleep(WRITE_RETRY_INTERVAL)
        assert files.contents[PATH] == line("a") + b"clock: 5\n"
        await running.stop()

    run_virtual(story())


async def test_start_reads_what_was_written() -> None:
    files = MemoryFiles()
    file = SnapshotFile(PATH, files)
    assert await file.load(rejoin_after_leave=False) == Snapshot()
    file.receive(joined("a"))
    assert await file.flush()
    found = await SnapshotFile(PATH, files).load(rejoin_after_leave=False)
    assert found == Snapshot({"a": "10.0.0.2:7946"})


async def test_lines_never_follow_a_torn_one() -> None:
    files = MemoryFiles()
    files.contents[PATH] = line("a") + b"alive: b 10.0"
    file = SnapshotFile(PATH, files)
    await file.load(rejoin_after_leave=False)
    file.receive(joined("c"))
    await file.flush()
    assert files.contents[PATH] == line("a") + line("c")


async def test_file_that_can_not_be_read_is_replaced() -> None:
    class Unreadable(MemoryFiles):
        async def read(self, path: Path, *, size_max: int) -> bytes | None:
            raise PermissionError(13, "Permission denied")

    files = Unreadable()
    file = SnapshotFile(PATH, files)
    assert await file.load(rejoin_after_leave=False) == Snapshot(whole=False)
    file.receive(joined("c"))
    await file.flush()
    assert files.contents[PATH] == line("c")
