"""Files in memory: implements `isthmus.net.files.Files`, on any loop."""

import errno
from pathlib import Path


class MemoryFiles:
    """A disk that can be full, and that outlives those who write on it."""

    def __init__(self) -> None:
        self.contents: dict[Path, bytes] = {}
        self.problem: OSError | None = None
        """What every write fails with."""
        self.writes: list[tuple[str, int]] = []
        """What was done, and with how many bytes."""

    async def read(self, path: Path, *, size_max: int) -> bytes | None:
        data = self.contents.get(path)
        if data is not None and len(data) > size_max:
            raise OSError(errno.EFBIG, f"it is longer than {size_max} bytes", str(path))
        return data

    async def replace(self, path: Path, data: bytes) -> None:
        if self.problem is not None:
            raise self.problem
        self.contents[path] = data
        self.writes.append(("replace", len(data)))

    async def append(self, path: Path, data: bytes) -> None:
        if self.problem is not None:
            raise self.problem
        self.contents[path] = self.contents.get(path, b"") + data
        self.writes.append(("append", len(data)))
