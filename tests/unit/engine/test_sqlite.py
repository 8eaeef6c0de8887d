"""The SQLite engine: locks, damage, formats, and what a SIGKILL leaves."""

import asyncio
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from isthmus.engine.sqlite import FORMAT, SqliteEngine, _filesystem
from isthmus.model.kv import KeyRequest
from isthmus.store.engine import (
    EMPTY_INDEX,
    Batch,
    Corrupt,
    EngineUnavailable,
    FormatTooNew,
    LeaderInfo,
    Locked,
    NoSpace,
    OutcomeUnknown,
)
from support.servers import CLUSTER, make_server, make_sqlite

INFO = LeaderInfo("id", "alpha", "127.0.0.1:8300")
TESTS = Path(__file__).parents[2]
CRASHES = 3
ACKNOWLEDGED_BEFORE_KILL = 1500


async def fill(engine: SqliteEngine, size: int = 10_000) -> None:
    lead = await engine.claim(INFO)
    assert lead is not None
    puts = {b"d/%d" % number: bytes(100) for number in range(size // 100)}
    await engine.commit(lead, EMPTY_INDEX, Batch(puts, set(), 2, bytes(16), 1))


async def test_second_process_is_told_who_holds_the_data(tmp_path: Path) -> None:
    first = make_sqlite(tmp_path)
    await first.open()
    with pytest.raises(Locked, match=r"in use by another process \(process id \d+\)"):
        await make_sqlite(tmp_path).open()
    await first.close()
    again = make_sqlite(tmp_path)
    await again.open()
    await again.close()


async def test_cluster_is_that_of_the_first_start(tmp_path: Path) -> None:
    first = make_sqlite(tmp_path)
    await first.open()
    await first.close()
    again = make_sqlite(tmp_path, cluster="other")
    assert (await again.open()).cluster == CLUSTER
    await again.close()


async def test_data_of_another_datacenter_is_refused(tmp_path: Path) -> None:
    first = make_sqlite(tmp_path)
    await first.open()
    await first.close()
    with pytest.raises(FormatTooNew, match="belongs to datacenter 'dc1', not to 'dc2'"):
        await make_sqlite(tmp_path, datacenter="dc2").open()


async def test_data_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    first = make_sqlite(tmp_path)
    await first.open()
    await first.close()
    connection = sqlite3.connect(tmp_path / "state.db")
    (stored,) = connection.execute("SELECT v FROM kv WHERE k = ?", (b"m/format",)).fetchone()
    newer = stored.replace(bytes([0x94, FORMAT]), bytes([0x94, FORMAT + 1]), 1)
    connection.execute("UPDATE kv SET v = ? WHERE k = ?", (newer, b"m/format"))
    connection.commit()
    connection.close()
    with pytest.raises(FormatTooNew, match="this release knows up to"):
        await make_sqlite(tmp_path).open()


async def test_file_that_is_no_database_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"not a database at all" * 500)
    with pytest.raises(Corrupt):
        await make_sqlite(tmp_path).open()


async def test_damage_is_found_after_an_unclean_stop(tmp_path: Path) -> None:
    engine = make_sqlite(tmp_path)
    await engine.open()
    await fill(engine, 400_000)
    await engine.close()
    (tmp_path / "clean").unlink()
    data = bytearray((tmp_path / "state.db").read_bytes())
    half = len(data) // 2
    data[half : half + 8192] = b"\xa5" * 8192
    (tmp_path / "state.db").write_bytes(data)
    with pytest.raises(Corrupt):
        await make_sqlite(tmp_path).open()


async def test_clean_stop_leaves_a_mark_that_the_next_start_takes(tmp_path: Path) -> None:
    engine = make_sqlite(tmp_path)
    await engine.open()
    assert not (tmp_path / "clean").exists()
    await fill(engine)
    await engine.check()
    await engine.close()
    assert (tmp_path / "clean").exists()


async def test_full_disk_refuses_the_batch_and_recovers(tmp_path: Path) -> None:
    engine = make_sqlite(tmp_path)
    await engine.open()
    lead = await engine.claim(INFO)
    assert lead is not None
    file = engine._file
    assert file is not None
    limit = engine._run(lambda: file._connected.execute("PRAGMA max_page_count=10").fetchone())
    await limit
    big = Batch({b"d/big": bytes(1_000_000)}, set(), 2, bytes(16), 1)
    with pytest.raises(NoSpace):
        await engine.commit(lead, EMPTY_INDEX, big)
    assert [page async for page in engine.scan(b"d/")] == []
    await engine._run(lambda: file._connected.execute("PRAGMA max_page_count=100000").fetchone())
    assert (await engine.commit(lead, EMPTY_INDEX, big)).index == 2
    await engine.close()


class FailingConnection:
    """A connection whose disk fails at one statement."""

    def __init__(self, connection: sqlite3.Connection, statement: str) -> None:
        self._connection, self._statement = connection, statement

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *arguments: Any) -> Any:
        if statement.startswith(self._statement):
            raise sqlite3.OperationalError("disk I/O error")
        return self._connection.execute(statement, *arguments)


@pytest.mark.parametrize(
    ("statement", "error"), [("BEGIN", EngineUnavailable), ("COMMIT", OutcomeUnknown)]
)
async def test_failing_disk_says_what_is_known(
    tmp_path: Path, statement: str, error: type[Exception]
) -> None:
    engine = make_sqlite(tmp_path)
    await engine.open()
    lead = await engine.claim(INFO)
    assert lead is not None
    file: Any = engine._file
    whole = file._connection
    file._connection = FailingConnection(whole, statement)
    batch = Batch({b"d/a": b""}, set(), 2, bytes(16), 1)
    with pytest.raises(error, match="disk I/O error"):
        await engine.commit(lead, EMPTY_INDEX, batch)
    file._connection = whole
    assert (await engine.commit(lead, EMPTY_INDEX, batch)).index == 2
    await engine.close()


async def test_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineUnavailable, match="file/sub"):
        await make_sqlite(tmp_path / "file" / "sub").open()


async def test_large_tables_are_scanned_in_pages(tmp_path: Path) -> None:
    engine = make_sqlite(tmp_path)
    await engine.open()
    lead = await engine.claim(INFO)
    assert lead is not None
    puts = {b"d/%03d" % number: bytes(500_000) for number in range(50)}
    await engine.commit(lead, EMPTY_INDEX, Batch(puts, set(), 2, bytes(16), 1))
    pages = [page async for page in engine.scan(b"d/")]
    assert len(pages) == 2
    assert [key for page in pages for key, _ in page] == sorted(puts)
    await engine.close()


def test_file_system_of_a_path_is_known(tmp_path: Path) -> None:
    assert _filesystem(Path("/proc/self")) == "proc"
    assert _filesystem(tmp_path) != "proc"


async def acknowledged_until_killed(directory: Path, round_number: int) -> set[str]:
    """Run the writer, kill it under load, return what it said is durable."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "support.crash_writer",
        str(directory),
        str(round_number),
        cwd=TESTS,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    lines = [await process.stdout.readline() for _ in range(ACKNOWLEDGED_BEFORE_KILL)]
    process.send_signal(signal.SIGKILL)
    rest = await process.stdout.read()
    await process.wait()
    lines += rest.splitlines(keepends=True)
    return {line.decode().strip() for line in lines if line.endswith(b"\n")}


async def test_sigkill_under_load_loses_nothing_acknowledged(tmp_path: Path) -> None:
    acknowledged: set[str] = set()
    for round_number in range(CRASHES):
        acknowledged |= await acknowledged_until_killed(tmp_path, round_number)
    server = make_server(make_sqlite(tmp_path))
    await server.start()
    reply = await server.call("KVS.List", KeyRequest(key=""))
    assert acknowledged <= {entry.key for entry in reply.entries}
    indexes = sorted(entry.modify_index for entry in reply.entries)
    assert indexes == list(range(EMPTY_INDEX + 1, server.store.index + 1))
    assert reply.index == server.store.index
    await server.stop()
