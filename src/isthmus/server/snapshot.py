"""Snapshots that a server takes and restores: files that come and go in pieces.

A snapshot is taken in one step of the loop, as references to rows; encoding, compressing and
checking are done on another thread. Files are temporary and have no name. Who began to send or to
fetch one and says no more loses it after `IDLE_MAX`.
"""

import asyncio
import gc
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random
from typing import IO, Any, Final, TypeVar

from isthmus.errors import (
    EngineError,
    InvalidRequest,
    IsthmusError,
    RequestError,
    Unavailable,
)
from isthmus.model.snapshot import (
    BEGIN,
    CLOSE,
    IMPORT,
    PIECE_SIZE,
    READ,
    RESTORE,
    SAVE,
    WRITE,
    ImportedKind,
    SnapshotPiece,
    SnapshotReadRequest,
    SnapshotWriteReply,
    SnapshotWriteRequest,
)
from isthmus.net.tasks import TaskScope
from isthmus.server.consul_import import ConsulImport, check_snapshot
from isthmus.server.replica import Replica
from isthmus.store.commands import Command
from isthmus.store.snapshot import SnapshotMeta, View, load_snapshot, take_view, write_snapshot
from isthmus.store.store import Store
from isthmus.wire.archive import UnreadableSnapshot

T = TypeVar("T")

FILES_MAX: Final = 8
"""Snapshots that may be on their way at once, in and out."""
IDLE_MAX: Final = 60.0
"""Seconds without a call after which a file is dropped."""
WAIT_MAX: Final = 15.0
"""Seconds for which a call waits for the end of a long piece of work."""
SIZE_MAX: Final = 4 * 1024**3
_ID_SIZE: Final = 16
_STOPS: Final = "the server stops"
_GONE: Final = (
    "there is no such snapshot on this server: the leader has changed or {idle:g} s have passed "
    "without a call; begin anew"
)

Offload = Callable[[Callable[[], Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class SnapshotConfig:
    """Where files of snapshots are kept while they are needed, and how large they may get.

    Attributes:
        directory: Where; None: where the system keeps temporary files.
        size_max: Bytes of a file that is sent to us.
    """

    directory: Path | None = None
    size_max: int = SIZE_MAX

    def __post_init__(self) -> None:
        """Check the values."""
        assert self.size_max > 0


class _File:
    """A file on its way, and the work that is being done on it."""

    def __init__(self, name: str, file: IO[bytes]) -> None:
        self.name, self.file = name, file
        self.size = 0
        self.operation = ""
        self.work: asyncio.Task[Any] | None = None
        """Its result is what was made of the file, or the error."""
        self.expiry: asyncio.TimerHandle | None = None


class Snapshots:
    """Takes and restores snapshots of one server's data.

    Args:
        config: Where files are kept.
        replica: The data; restores it when we lead.
        commit: Makes a command durable.
        dc: Our datacenter.
        primary: The primary datacenter.
        rng: Makes names.
        wall: Reads the calendar clock.
        offload: Does blocking work elsewhere.
    """

    def __init__(
        self,
        config: SnapshotConfig,
        replica: Replica,
        *,
        commit: Callable[[Command], Awaitable[object]],
        dc: str,
        primary: str,
        rng: Random,
        wall: Callable[[], datetime],
        offload: Offload = asyncio.to_thread,
    ) -> None:
        self._config, self._replica, self._commit = config, replica, commit
        self._dc, self._primary = dc, primary
        self._rng, self._wall, self._offload = rng, wall, offload
        self._files: dict[str, _File] = {}
        self._tasks = TaskScope()
        self._closed = False

    def __len__(self) -> int:
        """How many files are on their way."""
        return len(self._files)

    async def close(self) -> None:
        """Drop all files, take no more; work in progress is cancelled."""
        self._closed = True
        await self._tasks.close()
        for file in list(self._files.values()):
            self._drop(file)

    # Saving -----------------------------------------------------------------------------------

    async def read(self, request: SnapshotReadRequest) -> SnapshotPiece:
        """A step of saving.

        Raises:
            RequestError: It makes no sense, or the file is gone.
            Unavailable: Too many files are on their way.
        """
        if request.operation == SAVE:
            file = self._find(request.id) if request.id else self._save()
            return await self._saved(file)
        file = self._find(request.id)
        if request.operation == CLOSE:
            self._drop(file)
            return SnapshotPiece(id=request.id, done=True)
        if request.operation != READ:
            raise InvalidRequest(f"unknown snapshot operation {request.operation!r}")
        if file.operation != SAVE or file.work is None or not file.work.done():
            raise InvalidRequest("the snapshot is not there yet")
        meta: SnapshotMeta = _result(file.work)
        file.file.seek(request.offset)
        data = file.file.read(PIECE_SIZE)
        self._touch(file)
        return self._piece(file, meta, data)

    def _save(self) -> _File:
        """Take a snapshot, now, and begin to write it."""
        file = self._new(SAVE)
        file.operation = SAVE
        view, now = take_view(self._replica.store), self._wall()
        file.work = self._tasks.spawn(_outcome(self._write(file, view, now)))
        return file

    async def _write(self, file: _File, view: View, now: datetime) -> SnapshotMeta:
        head = self._replica.head

        def write() -> SnapshotMeta:
            with tempfile.TemporaryFile(dir=self._config.directory) as scratch:
                return write_snapshot(
                    view,
                    file.file,
                    scratch,
                    dc=self._dc,
                    cluster=head.cluster if head is not None else "",
                    created=now.isoformat(),
                    modified=int(now.timestamp()),
                )

        try:
            meta: SnapshotMeta = await self._offload(write)
        except OSError as error:
            raise EngineError(f"cannot write the snapshot: {error}", operation="save") from error
        file.size = file.file.tell()
        return meta

    async def _saved(self, file: _File) -> SnapshotPiece:
        if file.operation != SAVE or file.work is None:
            raise InvalidRequest("that snapshot is being restored")
        if not await self._wait(file):
            return self._piece(file, None)
        try:
            return self._piece(file, _result(file.work))
        except IsthmusError:
            self._drop(file)
            raise

    def _piece(
        self, file: _File, meta: SnapshotMeta | None, data: bytes | None = None
    ) -> SnapshotPiece:
        return SnapshotPiece(
            id=file.name,
            done=meta is not None,
            size=file.size,
            data=data,
            index=meta.index if meta is not None else self._replica.store.index,
            known_leader=self._replica.leader is not None,
        )

    # Restoring --------------------------------------------------------------------------------

    async def write(self, request: SnapshotWriteRequest) -> SnapshotWriteReply:
        """A step of restoring, on the leader.

        Raises:
            RequestError: It makes no sense, the file is gone, or cannot be read.
            Unavailable: Too many files are on their way, or we do not lead any more.
            EngineError: The restore failed; the class says what is known.
        """
        if request.operation == BEGIN:
            return SnapshotWriteReply(id=self._new(BEGIN).name)
        file = self._find(request.id)
        if request.operation == CLOSE:
            self._drop(file)
            return SnapshotWriteReply(id=request.id, done=True)
        if request.operation == WRITE:
            return self._take(file, request)
        if request.operation not in {RESTORE, IMPORT}:
            raise InvalidRequest(f"unknown snapshot operation {request.operation!r}")
        if file.work is None:
            file.operation = request.operation
            work = (
                self._restore(file)
                if request.operation == RESTORE
                else self._import(file, keep=request.keep)
            )
            file.work = self._tasks.spawn(_outcome(work))
        elif file.operation != request.operation:
            raise InvalidRequest(f"the snapshot is used for {file.operation} already")
        if not await self._wait(file):
            return SnapshotWriteReply(id=file.name, size=file.size)
        self._drop(file)
        reply: SnapshotWriteReply = _result(file.work)
        return reply

    def _take(self, file: _File, request: SnapshotWriteRequest) -> SnapshotWriteReply:
        data = request.data or b""
        if file.work is not None or request.offset != file.size:
            raise InvalidRequest(
                f"a piece for byte {request.offset} of a snapshot of which {file.size} are there"
            )
        if file.size + len(data) > self._config.size_max:
            self._drop(file)
            raise RequestError(
                f"the snapshot is larger than {self._config.size_max} bytes; raise "
                "storage.snapshot_size_max on the servers"
            )
        try:
            file.file.write(data)
        except OSError as error:
            self._drop(file)
            raise EngineError(f"cannot keep the snapshot: {error}", operation="restore") from error
        file.size += len(data)
        self._touch(file)
        return SnapshotWriteReply(id=file.name, size=file.size)

    async def _restore(self, file: _File) -> SnapshotWriteReply:
        meta, fresh = await self._checked(file, self._load)
        if meta.dc != self._dc:
            raise RequestError(
                f"the snapshot is of datacenter {meta.dc!r}, this is {self._dc!r}", status=400
            )
        index = await self._replica.restore(fresh, index=meta.index)
        return SnapshotWriteReply(id=file.name, size=file.size, done=True, index=index)

    def _load(self, source: IO[bytes]) -> tuple[SnapshotMeta, Store]:
        with _uncollected():
            return load_snapshot(source)

    async def _import(self, file: _File, *, keep: bool) -> SnapshotWriteReply:
        await self._checked(file, check_snapshot)
        file.file.seek(0)
        kinds: tuple[ImportedKind, ...] = await ConsulImport(
            self._replica.store,
            self._commit,
            dc=self._dc,
            is_primary=self._dc == self._primary,
            keep=keep,
        ).run(file.file)
        index = self._replica.store.index
        return SnapshotWriteReply(id=file.name, size=file.size, done=True, index=index, kinds=kinds)

    async def _checked(self, file: _File, read: Callable[[IO[bytes]], T]) -> T:
        """What reading the whole file gives; nothing has been changed when it cannot be read."""
        file.file.seek(0)
        try:
            found: T = await self._offload(lambda: read(file.file))
        except UnreadableSnapshot as error:
            raise RequestError(str(error)) from error
        return found

    # Files ------------------------------------------------------------------------------------

    def _new(self, operation: str) -> _File:
        if self._closed:
            raise Unavailable(_STOPS)
        if len(self._files) >= FILES_MAX:
            raise Unavailable(f"{FILES_MAX} snapshots are on their way; try later")
        try:
            if self._config.directory is not None:
                self._config.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            opened = tempfile.TemporaryFile(dir=self._config.directory)  # noqa: SIM115 (`_drop` closes)
        except OSError as error:
            raise EngineError(f"cannot keep a snapshot: {error}", operation=operation) from error
        file = _File(self._rng.randbytes(_ID_SIZE).hex(), opened)
        self._files[file.name] = file
        self._touch(file)
        return file

    def _find(self, name: str) -> _File:
        if self._closed:
            raise Unavailable(_STOPS)
        file = self._files.get(name)
        if file is None:
            raise RequestError(_GONE.format(idle=IDLE_MAX))
        return file

    def _touch(self, file: _File) -> None:
        if file.expiry is not None:
            file.expiry.cancel()
        file.expiry = asyncio.get_running_loop().call_later(IDLE_MAX, self._expire, file)

    def _expire(self, file: _File) -> None:
        if file.work is not None and not file.work.done():
            self._touch(file)  # It is being worked on, whether somebody waits or not.
        else:
            self._drop(file)

    def _drop(self, file: _File) -> None:
        if self._files.pop(file.name, None) is None:
            return
        if file.expiry is not None:
            file.expiry.cancel()
        work = file.work
        if work is not None and not work.done():
            work.add_done_callback(lambda _: file.file.close())
        else:
            file.file.close()

    async def _wait(self, file: _File) -> bool:
        """Wait for a file's work for a while; whether it is done."""
        assert file.work is not None
        self._touch(file)
        await asyncio.wait({file.work}, timeout=WAIT_MAX)
        self._touch(file)
        return file.work.done()


async def _outcome(work: Coroutine[Any, Any, T]) -> T | IsthmusError:
    """What work came to, the errors that a caller may be told included."""
    try:
        return await work
    except IsthmusError as error:
        return error


def _result(work: asyncio.Task[Any]) -> Any:
    """What work came to.

    Raises:
        IsthmusError: It failed.
    """
    if work.cancelled():
        raise Unavailable(_STOPS)
    found = work.result()
    if isinstance(found, IsthmusError):
        raise found
    return found


@contextmanager
def _uncollected() -> Iterator[None]:
    """Make many objects without the collector's walking over them again and again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
