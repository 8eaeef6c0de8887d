"""Log lines for whoever watches an agent: ``/v1/agent/monitor``.

Each watcher has a level of its own, below the configured one if it likes, and a ring of lines. It
reads as fast as it can; lines for which there is no place are counted and told, and nobody waits
for it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator
from typing import Final

from isthmus.agent import logs

LINES_MAX: Final = 512
"""Lines that wait for a watcher; Consul's number."""
WATCHERS_MAX: Final = 64
"""Watchers at a time: every line is formatted for each."""


class LogStream(logging.Handler):
    """One watcher's lines. Records come from any thread, lines leave on the loop.

    Args:
        level: The least level, as `logging` numbers it.
        formatter: Makes the lines.
        lines_max: How many may wait.
    """

    def __init__(
        self, level: int, formatter: logging.Formatter, *, lines_max: int = LINES_MAX
    ) -> None:
        super().__init__(level)
        self.setFormatter(formatter)
        self._loop = asyncio.get_running_loop()
        self._lines_max = lines_max
        self._lines: deque[str] = deque()
        self._dropped = 0
        self._closed = False
        self._news = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line, or count it."""
        if len(self._lines) >= self._lines_max:
            self._dropped += 1
            return
        self._lines.append(self.format(record))
        if len(self._lines) == 1 and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._news.set)

    def end(self) -> None:
        """Nothing follows; what waits is still given out. On the loop."""
        self._closed = True
        self._news.set()

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """Yield lines, several at a time when they come fast, until `end`."""
        while not self._closed or self._lines:
            if not self._lines:
                self._news.clear()
                if not self._lines:  # A record may have come from another thread just now.
                    await self._news.wait()
                continue
            yield self._take()

    def _take(self) -> bytes:
        self.acquire()
        try:
            lines, dropped = list(self._lines), self._dropped
            self._lines.clear()
            self._dropped = 0
        finally:
            self.release()
        if dropped:
            lines.append(f"[WARN]  {dropped} lines dropped: they came faster than they were read")
        return ("\n".join(lines) + "\n").encode("utf-8", "replace")


class LogStreams:
    """All watchers of one agent."""

    def __init__(self) -> None:
        self._open: set[LogStream] = set()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._open)

    @property
    def is_full(self) -> bool:
        """Whether there is no place for another."""
        return len(self._open) >= WATCHERS_MAX

    async def watch(self, level: int, *, as_json: bool) -> AsyncGenerator[bytes, None]:
        """Yield the lines of at least this level from now on, until `close` or the generator's end.

        Args:
            level: As `logging` numbers it.
            as_json: Whether each is a JSON object.
        """
        stream = LogStream(level, logs.JsonFormatter() if as_json else logs.TextFormatter())
        self._open.add(stream)
        logs.attach(stream)
        try:
            async for lines in stream.lines():
                yield lines
        finally:
            logs.detach(stream)
            self._open.discard(stream)

    def close(self) -> None:
        """End all."""
        for stream in self._open:
            stream.end()
