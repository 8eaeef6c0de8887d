"""Kernel pipes, lent to a stream only while its bytes are in one."""

import contextlib
import fcntl
import os
from typing import Final, NamedTuple

_SET_PIPE_SIZE: Final[int] = getattr(fcntl, "F_SETPIPE_SZ", 1031)


class Pipe(NamedTuple):
    """Two descriptors; what is written to one is read from the other."""

    reader: int
    writer: int


class PipePool:
    """A bounded number of empty pipes.

    Args:
        pipes_max: Bound on pipes made, lent out or not.
        pipe_size: Bytes that each shall hold. An unprivileged user may hold 64 MiB in all; what
            goes beyond keeps the kernel's smaller default.
    """

    def __init__(self, pipes_max: int, pipe_size: int) -> None:
        self._pipes_max, self._pipe_size = pipes_max, pipe_size
        self._free: list[Pipe] = []
        self.lent = 0
        """Pipes lent out now."""

    def borrow(self) -> Pipe | None:
        """Lend an empty pipe; None when all are lent or the process is out of descriptors."""
        if self._free:
            self.lent += 1
            return self._free.pop()
        if self.lent >= self._pipes_max:
            return None
        try:
            pipe = Pipe(*os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:
            return None
        with contextlib.suppress(OSError):  # EPERM: the user's share of pipe memory is used up.
            fcntl.fcntl(pipe.writer, _SET_PIPE_SIZE, self._pipe_size)
        self.lent += 1
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """Take back a pipe that is empty."""
        self.lent -= 1
        self._free.append(pipe)

    def discard(self, pipe: Pipe) -> None:
        """Take back a pipe that still holds bytes: it is closed."""
        self.lent -= 1
        os.close(pipe.reader)
        os.close(pipe.writer)

    def close(self) -> None:
        """Close the pipes that are not lent."""
        while self._free:
            pipe = self._free.pop()
            os.close(pipe.reader)
            os.close(pipe.writer)
