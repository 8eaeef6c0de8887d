"""The engine of a datacenter with one server: SQLite, one writer thread, every commit synced.

=================  ============================================================================
``state.db``       table ``kv(k, v)``, write-ahead log, ``synchronous=FULL``
``lock``           held with ``flock`` as long as the engine is open; holds our process id
``clean``          exists only after a clean stop: without it the next start checks the file
=================  ============================================================================

Source: design of storage, §5, §11.
"""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import msgpack

from isthmus.engine.folder_lock import FolderLock
from isthmus.errors import EngineError
from isthmus.store.engine import (
    EMPTY_INDEX,
    Batch,
    Change,
    Corrupt,
    EngineUnavailable,
    Fenced,
    FormatTooNew,
    Head,
    Lead,
    LeaderInfo,
    Limits,
    NoSpace,
    OutcomeUnknown,
    TooLarge,
)
from isthmus.store.keys import FORMAT_KEY, INDEX_KEY, LEADER_KEY, prefix_end

T = TypeVar("T")

FORMAT: Final = 1
_PAGE_SIZE: Final = 16 * 1024 * 1024
_LIMITS: Final = Limits(operations_max=1_000_000, bytes_max=512 * 1024 * 1024)
_NETWORK_FILESYSTEMS: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs"})
_SETTINGS: Final = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA wal_autocheckpoint=4000",
    "PRAGMA cache_size=-16384",
    "PRAGMA temp_store=MEMORY",
    "PRAGMA fullfsync=1",
    "PRAGMA checkpoint_fullfsync=1",
    "CREATE TABLE IF NOT EXISTS kv (k BLOB PRIMARY KEY, v BLOB NOT NULL)",
)
_UPSERT: Final = "INSERT INTO kv (k, v) VALUES (?, ?) ON CONFLICT (k) DO UPDATE SET v = excluded.v"
_MOUNTS: Final = Path("/proc/self/mountinfo")


class SqliteEngine:
    """Keeps everything in one SQLite file.

    Args:
        directory: Where the files are; made when missing.
        datacenter: Whose data it is; a file of another datacenter is refused.
        cluster: UUID for the storage if it is new.
        wall: Reads the calendar clock, for the date of a new storage.
        allow_network_filesystem: Open on NFS and the like too, whose locks often lie.
    """

    shared = False

    def __init__(
        self,
        directory: Path,
        *,
        datacenter: str,
        cluster: str,
        wall: Callable[[], datetime],
        allow_network_filesystem: bool = False,
    ) -> None:
        self._directory, self._datacenter = directory, datacenter
        self._new_cluster, self._wall = cluster, wall
        self._allow_network_filesystem = allow_network_filesystem
        self._executor: ThreadPoolExecutor | None = None
        self._file: _File | None = None

    async def open(self) -> Head:
        """Open, creating what is missing.

        Raises:
            Locked: Another process has the files open.
            Corrupt: The file is damaged.
            FormatTooNew: It is of a newer release, or of another datacenter.
            EngineUnavailable: The directory cannot be used; the text says why.
        """
        assert self._executor is None, "open already"
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="engine")
        file = _File(self._directory, datacenter=self._datacenter)
        try:
            head = await self._run(
                lambda: file.open(
                    cluster=self._new_cluster,
                    created=int(self._wall().timestamp()),
                    allow_network_filesystem=self._allow_network_filesystem,
                )
            )
        except BaseException:
            await self._run(file.abandon)
            self._executor.shutdown(wait=False)
            self._executor = None
            raise
        self._file = file
        return head

    async def scan(self, prefix: bytes) -> AsyncIterator[list[tuple[bytes, bytes]]]:
        """Yield pages of keys and values under `prefix`, in order, of about 16 MiB at most."""
        file, start, end = self._opened("scan"), prefix, prefix_end(prefix)
        while True:
            first = start
            page = await self._run(lambda: file.page(first, end))  # noqa: B023 (awaited at once)
            if not page:
                return
            yield page
            start = page[-1][0] + b"\x00"

    async def changes(self, after: int) -> AsyncIterator[Change]:
        """Nobody else commits: there are none."""
        nothing: tuple[Change, ...] = ()
        for change in nothing:
            yield change

    async def leadership(self, lead: Lead) -> AsyncIterator[None]:
        """Nobody else leads: it never changes."""
        nothing: tuple[None, ...] = ()
        for change in nothing:
            yield change

    async def claim(self, info: LeaderInfo, *, preempt: bool = False) -> Lead | None:
        """Become leader; an earlier lead is fenced from now on. There is nobody to wait for."""
        file = self._opened("claim")
        return await self._run(lambda: file.claim(info))

    async def commit(self, lead: Lead, base: int, batch: Batch) -> Head:
        """Commit atomically; returns when the log is on the disk. See `Engine.commit`."""
        file = self._opened("commit")
        operations = len(batch.puts) + len(batch.deletes) + len(batch.ranges)
        if operations > _LIMITS.operations_max:
            raise TooLarge(f"{operations} operations in one batch", operation="commit")
        return await self._run(lambda: file.commit(lead, base, batch))

    async def confirm(self, lead: Lead) -> None:
        """Return if `lead` is the last that was claimed."""
        if lead.epoch != self._opened("confirm").epoch:
            raise Fenced("another leader has taken over", operation="confirm")

    async def resign(self, lead: Lead, to: str = "") -> None:
        """Nothing to do: there is nobody else."""

    async def leader(self) -> LeaderInfo | None:
        """Who claimed last."""
        return self._opened("leader").leader

    def limits(self) -> Limits:
        """How large a batch may be."""
        return _LIMITS

    async def stats(self) -> dict[str, object]:
        """Sizes in bytes, and the library's version."""
        return await self._run(self._opened("stats").stats)

    async def maintain(self) -> None:
        """Bring the log into the file and cut it."""
        await self._run(self._opened("maintain").checkpoint)

    async def check(self) -> None:
        """Check the whole file; takes long.

        Raises:
            Corrupt: It is damaged; the text is SQLite's first finding.
        """
        file = self._opened("check")
        await self._run(lambda: file.check("integrity_check"))

    async def close(self) -> None:
        """Bring the log into the file, mark the stop as clean, unlock; idempotent."""
        file, self._file = self._file, None
        executor = self._executor
        if file is None or executor is None:
            return
        try:
            await self._run(file.close)
        finally:
            executor.shutdown(wait=True)
            self._executor = None

    def _opened(self, operation: str) -> "_File":
        if self._file is None:
            raise EngineUnavailable("the engine is closed", operation=operation)
        return self._file

    async def _run(self, work: Callable[[], T]) -> T:
        """Do blocking work on the engine's one thread."""
        assert self._executor is not None
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


class _File:
    """The file itself; every method blocks and runs on the engine's thread."""

    def __init__(self, directory: Path, *, datacenter: str) -> None:
        self._directory, self._datacenter = directory, datacenter
        self._lock = FolderLock(directory)
        self._connection: sqlite3.Connection | None = None
        self._cluster = ""
        self._generation = 0
        self.epoch = 0
        self.leader: LeaderInfo | None = None

    # Opening and closing ----------------------------------------------------------------------

    def open(self, *, cluster: str, created: int, allow_network_filesystem: bool) -> Head:
        """Lock, check, read where the file stands."""
        path = self._directory / "state.db"
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not allow_network_filesystem:
                self._refuse_network_filesystem()
            self._lock.take()
            is_new = not path.exists()
            was_clean = (self._directory / "clean").exists()
            (self._directory / "clean").unlink(missing_ok=True)
        except OSError as error:
            raise EngineUnavailable(str(error), operation="open") from error
        try:
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            for statement in _SETTINGS:
                self._connection.execute(statement)
            if not was_clean and not is_new:
                self.check("quick_check")
            return self._read_head(cluster, created)
        except sqlite3.Error as error:
            raise _translated(error, "open", path) from error

    def _refuse_network_filesystem(self) -> None:
        kind = _filesystem(self._directory)
        if kind in _NETWORK_FILESYSTEMS:
            raise EngineUnavailable(
                f"{self._directory} is on a network file system ({kind}), where locks and "
                "write-ahead logs are not safe; use a local disk",
                operation="open",
            )

    def _read_head(self, cluster: str, created: int) -> Head:
        stored = self._get(FORMAT_KEY)
        if stored is None:
            self._put(FORMAT_KEY, [FORMAT, cluster, self._datacenter, created])
            stored = [FORMAT, cluster, self._datacenter, created]
        version, self._cluster, datacenter, _ = stored
        if version > FORMAT:
            raise FormatTooNew(
                f"{self._directory} has format {version}, this release knows up to {FORMAT}",
                operation="open",
            )
        if datacenter != self._datacenter:
            raise FormatTooNew(
                f"{self._directory} belongs to datacenter {datacenter!r}, not to "
                f"{self._datacenter!r}",
                operation="open",
            )
        index, batch_id, epoch, self._generation = self._get(INDEX_KEY) or (
            EMPTY_INDEX,
            bytes(16),
            0,
            0,
        )
        leader = self._get(LEADER_KEY)
        self.epoch = max(epoch, leader[3] if leader else 0)
        return Head(index, index, batch_id, self._generation, self._cluster)

    def close(self) -> None:
        """Stop cleanly."""
        try:
            self.checkpoint()
            self._connected.close()
            self._connection = None
            marker = os.open(self._directory / "clean", os.O_WRONLY | os.O_CREAT, 0o600)
            os.fsync(marker)
            os.close(marker)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go of the file and the lock, whatever state they are in."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._lock.release()

    # Reading ----------------------------------------------------------------------------------

    def page(self, start: bytes, end: bytes | None) -> list[tuple[bytes, bytes]]:
        """Rows from `start` on, before `end`, up to the size of a page."""
        found: list[tuple[bytes, bytes]] = []
        size = 0
        query = "SELECT k, v FROM kv WHERE k >= ?1 AND (?2 IS NULL OR k < ?2) ORDER BY k"
        try:
            cursor = self._connected.execute(query, (start, end))
            for key, value in cursor:
                found.append((key, value))
                size += len(key) + len(value)
                if size >= _PAGE_SIZE:
                    break
            cursor.close()
        except sqlite3.Error as error:
            raise _translated(error, "scan") from error
        return found

    def stats(self) -> dict[str, object]:
        """Sizes in bytes, and the library's version."""
        (pages,) = self._connected.execute("PRAGMA page_count").fetchone()
        (page_size,) = self._connected.execute("PRAGMA page_size").fetchone()
        log = self._directory / "state.db-wal"
        return {
            "engine": "sqlite",
            "version": sqlite3.sqlite_version,
            "size": pages * page_size,
            "log_size": log.stat().st_size if log.exists() else 0,
        }

    def check(self, pragma: str) -> None:
        """Check the file with one of SQLite's pragmas."""
        (finding,) = self._connected.execute(f"PRAGMA {pragma}(1)").fetchone()
        if finding != "ok":
            raise Corrupt(f"{self._directory}/state.db: {finding}", operation=pragma)

    # Writing ----------------------------------------------------------------------------------

    def claim(self, info: LeaderInfo) -> Lead:
        """Write the leader's key under the next epoch."""
        epoch = self.epoch + 1
        try:
            self._put(LEADER_KEY, [info.server_id, info.node, info.address, epoch])
        except sqlite3.Error as error:
            raise _translated(error, "claim") from error
        self.epoch = epoch
        self.leader = LeaderInfo(info.server_id, info.node, info.address, epoch)
        return Lead(epoch=epoch, fence=epoch)

    def commit(self, lead: Lead, base: int, batch: Batch) -> Head:
        """One transaction: guards, changes, index."""
        connection = self._connected
        generation = self._generation if batch.generation is None else batch.generation
        try:
            connection.execute("BEGIN IMMEDIATE")
            self._guard(lead, base)
            if batch.ranges:
                connection.executemany("DELETE FROM kv WHERE k >= ? AND k < ?", batch.ranges)
            if batch.deletes:
                keys = [(key,) for key in batch.deletes]
                connection.executemany("DELETE FROM kv WHERE k = ?", keys)
            head = (INDEX_KEY, _packed([batch.index, batch.id, lead.epoch, generation]))
            connection.executemany(_UPSERT, [*batch.puts.items(), head])
        except (sqlite3.Error, EngineError) as error:
            self._roll_back()
            raise _translated(error, "commit") from error
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            found = _translated(error, "commit")
            if not isinstance(found, NoSpace):
                found = OutcomeUnknown(str(error), operation="commit")
            raise found from error
        self._generation = generation
        return Head(batch.index, batch.index, batch.id, generation, self._cluster)

    def _guard(self, lead: Lead, base: int) -> None:
        stored = self._get(INDEX_KEY)
        index = stored[0] if stored is not None else EMPTY_INDEX
        if index != base or lead.epoch != self.epoch:
            raise Fenced(
                f"storage is at index {index} of epoch {self.epoch}, the batch was computed on "
                f"index {base} of epoch {lead.epoch}",
                operation="commit",
            )

    def _roll_back(self) -> None:
        if self._connected.in_transaction:
            self._connected.execute("ROLLBACK")

    def checkpoint(self) -> None:
        """Bring the log into the file and cut it."""
        self._connected.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    # Single keys ------------------------------------------------------------------------------

    @property
    def _connected(self) -> sqlite3.Connection:
        assert self._connection is not None
        return self._connection

    def _get(self, key: bytes) -> Any:
        row = self._connected.execute("SELECT v FROM kv WHERE k = ?", (key,)).fetchone()
        return None if row is None else msgpack.unpackb(row[0])

    def _put(self, key: bytes, value: list[object]) -> None:
        self._connected.execute(_UPSERT, (key, _packed(value)))


def _packed(value: list[object]) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def _translated(error: Exception, operation: str, path: Path | None = None) -> EngineError:
    """Our error for SQLite's; names the file where that helps."""
    if isinstance(error, EngineError):
        return error
    text = str(error) if path is None else f"{path}: {error}"
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    if primary == sqlite3.SQLITE_FULL:
        return NoSpace(text, operation=operation)
    if primary in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return Corrupt(text, operation=operation)
    return EngineUnavailable(text, operation=operation)


def _filesystem(path: Path) -> str:
    """Type of the file system that holds `path`; empty where the system does not say."""
    try:
        lines = _MOUNTS.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    found = ("", "")
    for line in lines:
        place, _, kinds = line.partition(" - ")
        mount, kind = place.split(" ")[4], kinds.split(" ")[0]
        if path.resolve().is_relative_to(mount) and len(mount) >= len(found[0]):
            found = (mount, kind)
    return found[1]
