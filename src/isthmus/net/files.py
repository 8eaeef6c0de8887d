"""Small files of components that live on a loop: read, replaced in one step, appended to.

No call holds the loop up; calls for one file are made one after another by whoever owns it.
"""

import asyncio
import errno
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Protocol

FILE_MODE: Final = 0o600
"""What we write may hold secrets: it is for our own user alone."""
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL


class Files(Protocol):
    """A place for files; a test or a simulation has one in memory."""

    async def read(self, path: Path, *, size_max: int) -> bytes | None:
        """All of a file; None: there is none.

        Raises:
            OSError: It can not be read, or is longer than `size_max`.
        """

    async def replace(self, path: Path, data: bytes) -> None:
        """Write a file anew, in one step and durably; its folder is made if need be.

        Raises:
            OSError: It can not be written; what was there is still there.
        """

    async def append(self, path: Path, data: bytes) -> None:
        """Write behind what is there.

        Raises:
            OSError: It can not be written; a part of `data` may stand there.
        """


class LocalFiles:
    """The machine's own; each call runs on a thread. Implements `Files`."""

    async def read(self, path: Path, *, size_max: int) -> bytes | None:
        """See `Files.read`."""
        return await asyncio.to_thread(_read, path, size_max)

    async def replace(self, path: Path, data: bytes) -> None:
        """See `Files.replace`."""
        await asyncio.to_thread(_replace, path, data)

    async def append(self, path: Path, data: bytes) -> None:
        """See `Files.append`."""
        await asyncio.to_thread(_append, path, data)


def _read(path: Path, size_max: int) -> bytes | None:
    try:
        with path.open("rb") as file:
            data = file.read(size_max + 1)
    except FileNotFoundError:
        return None
    if len(data) > size_max:
        raise OSError(errno.EFBIG, f"it is longer than {size_max} bytes", str(path))
    return data


def _replace(path: Path, data: bytes) -> None:
    change_files({path: data})
    sync_folders({path.parent})


def change_files(changes: Mapping[Path, bytes | None], *, durable: bool = True) -> None:
    """Write files anew or remove them (None), each in one step; folders are made if need be.

    Args:
        changes: Contents by path.
        durable: Contents are sure to outlast a power failure; `sync_folders` makes the names so.

    Raises:
        OSError: One can not be written; each is as it was before or as it shall be.
    """
    for path, data in changes.items():
        if data is None:
            path.unlink(missing_ok=True)
        else:
            _put(path, data, durable=durable)


def sync_folders(folders: Iterable[Path]) -> None:
    """Make what was created, renamed and removed in folders outlast a power failure.

    Raises:
        OSError: One is not there, or the disk does not work.
    """
    for path in folders:
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _put(path: Path, data: bytes, *, durable: bool) -> None:
    fresh = path.with_name(f"{path.name}.new")
    number = _create(fresh)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(number, view) :]
            if durable:
                os.fsync(number)
        finally:
            os.close(number)
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def _create(path: Path) -> int:
    """Make a file of ours alone, in a folder that may not be there yet; its descriptor."""
    try:
        return os.open(path, _CREATE, FILE_MODE)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        path.unlink()  # Of an earlier process; its mode may be another.
    return os.open(path, _CREATE, FILE_MODE)


def _append(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, FILE_MODE)
    with os.fdopen(number, "ab") as file:
        file.write(data)
