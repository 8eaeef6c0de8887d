"""A folder of data belongs to one process at a time.

The file ``lock`` in it is held with ``flock`` and holds the process id; the system lets go of it
when the process dies, however it does.
"""

import fcntl
import os
from pathlib import Path

from isthmus.store.engine import Locked


class FolderLock:
    """Keeps other processes away from a folder.

    Args:
        directory: The folder; it exists when the lock is taken.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock: int | None = None

    def take(self) -> None:
        """Take the lock, and hold it until `release`.

        Raises:
            Locked: Another process has it. Nothing was touched.
            OSError: The file cannot be written.
        """
        assert self._lock is None
        lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(lock, 32).decode("ascii", "replace").strip()
            os.close(lock)
            raise Locked(
                f"{self._directory} is in use by another process"
                + (f" (process id {holder})" if holder else ""),
                operation="open",
            ) from error
        os.truncate(lock, 0)
        os.write(lock, b"%d\n" % os.getpid())
        self._lock = lock

    def release(self) -> None:
        """Let go of the lock, if it is ours."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
