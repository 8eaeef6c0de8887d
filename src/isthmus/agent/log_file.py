"""The log's file, and the older ones beside it.

The file being written to keeps its name; when it is full or old it gets the moment's nanoseconds
into its name, and a new one is begun. Source: protocol/cli-config-dns.md §2.3, `log_file`.
"""

import logging
import logging.handlers
import os
from pathlib import Path
from typing import Final

DEFAULT_NAME: Final = "isthmus.log"
_SUFFIX: Final = ".log"


def log_path(written: str) -> Path:
    """The file that the operator means: a path, or a directory with a slash at its end."""
    if written.endswith(os.sep):
        return Path(written, DEFAULT_NAME)
    path = Path(written)
    return path if path.suffix else path.with_name(path.name + _SUFFIX)


class LogFile(logging.handlers.BaseRotatingHandler):
    """Writes records to a file that is renamed from time to time.

    Args:
        written: As in the configuration; see `log_path`.
        size_max: Bytes after which a new file is begun; 0: any.
        age_max: Seconds after which it is; counted from the first line that we write, or from the
            last one of an earlier run.
        old_files_max: How many old ones stay; 0: all, below 0: none.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(
        self, written: str, *, size_max: int = 0, age_max: float, old_files_max: int = 0
    ) -> None:
        assert age_max > 0
        self._path = log_path(written)
        self._size_max, self._age_max, self._old_files_max = size_max, age_max, old_files_max
        self._began_at: float | None = None
        if self._path.exists() and (found := self._path.stat()).st_size:
            self._began_at = found.st_mtime
        super().__init__(self._path, "a", encoding="utf-8", errors="replace")

    def shouldRollover(self, record: logging.LogRecord) -> bool:  # noqa: N802 - logging's name.
        """Whether a new file has to be begun before a record is written."""
        if self._began_at is None:
            self._began_at = record.created
        is_old = record.created - self._began_at >= self._age_max
        return is_old or (0 < self._size_max <= self._size())

    def doRollover(self) -> None:  # noqa: N802 - logging's name.
        """Begin a new file; old ones that are too many are removed."""
        if self.stream is not None:
            self.stream.close()
        self._path.rename(self._free_name())
        old = self._old_files()
        kept = len(old) if self._old_files_max == 0 else max(self._old_files_max, 0)
        for path in old[: len(old) - kept]:
            path.unlink(missing_ok=True)
        self._began_at = None
        self.stream = self._open()

    def _size(self) -> int:
        return self.stream.tell() if self.stream is not None else 0

    def _free_name(self) -> Path:
        """The current file's name once it is old: no two are the same, and they sort by time."""
        moment = self._path.stat().st_mtime_ns
        newest = max((int(path.stem.rpartition("-")[2]) for path in self._old_files()), default=0)
        name = f"{self._path.stem}-{max(moment, newest + 1)}{self._path.suffix}"
        return self._path.with_name(name)

    def _old_files(self) -> list[Path]:
        """Old files of ours, the oldest first."""
        start = f"{self._path.stem}-"
        return sorted(
            path
            for path in self._path.parent.iterdir()
            if path.suffix == self._path.suffix
            and path.stem.startswith(start)
            and path.stem.removeprefix(start).isdecimal()
        )
