"""What happened in a run of whole agents, in order, and one number that stands for all of it."""

import hashlib
import logging
from asyncio import events
from collections import deque
from collections.abc import Callable
from typing import Final

from isthmus.sim.loop import HostLoop

LINES_MAX: Final = 5000
"""Latest lines that are kept for whoever reads about a failure."""


class Trace:
    """Takes down every delivery, log line and result.

    Args:
        clock: Virtual seconds.
        sink: Given every line as it is written; None: only the latest `LINES_MAX` are kept.
    """

    def __init__(
        self, clock: Callable[[], float], *, sink: Callable[[str], None] | None = None
    ) -> None:
        self._clock, self._sink = clock, sink
        self._hash = hashlib.blake2b(digest_size=16)
        self.latest: deque[str] = deque(maxlen=LINES_MAX)
        self.logged: deque[str] = deque(maxlen=LINES_MAX)
        """Latest lines that are log lines."""
        self.count = 0
        """Lines so far."""

    @property
    def digest(self) -> str:
        """Of all lines so far: two runs with the same digest were the same."""
        return self._hash.hexdigest()

    def add(self, kind: str, text: str) -> None:
        """Write a line."""
        line = f"{self._clock():.9f} {kind} {text}"
        self._hash.update(line.encode("utf-8", "backslashreplace"))
        self._hash.update(b"\n")
        self.count += 1
        self.latest.append(line)
        if kind == "log":
            self.logged.append(line)
        if self._sink is not None:
            self._sink(line)


class TraceHandler(logging.Handler):
    """Takes down what simulated processes log, with the process that logged it.

    Args:
        trace: Where to.
        is_muted: Whether a process is not to be heard, such as one that was killed.
    """

    def __init__(self, trace: Trace, is_muted: Callable[[HostLoop], bool]) -> None:
        super().__init__()
        self._trace, self._is_muted = trace, is_muted

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record down, if it comes from a process of the simulation."""
        loop = events._get_running_loop()
        if isinstance(loop, HostLoop) and not self._is_muted(loop):
            text = record.getMessage()
            if record.exc_info and record.exc_info[1] is not None:
                text += f": {record.exc_info[1]!r}"
            self._trace.add("log", f"{loop.name} {record.levelname} {record.name}: {text}")
