"""Bodies that are too long for memory: they pass through a handler piece by piece.

A request's body is fed by its connection, which stops reading while the handler is behind. A
response's body is asked for by its connection, which waits while the client is behind.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final

from isthmus.errors import Unavailable

AHEAD_MAX: Final = 1024 * 1024
"""Bytes of a request's body that wait for the handler; then reading pauses."""
SILENCE_MAX: Final = 60.0
"""Seconds without a byte after which a request's body counts as broken off."""


class BodyBroken(Unavailable):
    """A request's body did not arrive whole. Whoever sent it knows."""


class BodyStream:
    """The body of one request, while it arrives.

    Args:
        pause: Stops reading from the client.
        resume: Goes on.
    """

    def __init__(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self._pause, self._resume = pause, resume
        self._parts: deque[bytes] = deque()
        self._waiting_size = 0
        self._paused = False
        self._ended = False
        self._broken = ""
        self._discarding = False
        self._arrived = asyncio.Event()

    @property
    def is_complete(self) -> bool:
        """Whether its end has arrived."""
        return self._ended

    def feed(self, data: bytes) -> None:
        """Take a part from the connection."""
        if self._discarding:
            return
        self._parts.append(data)
        self._waiting_size += len(data)
        self._arrived.set()
        if self._waiting_size > AHEAD_MAX and not self._paused:
            self._paused = True
            self._pause()

    def end(self) -> None:
        """Nothing follows."""
        self._ended = True
        self._arrived.set()

    def fail(self, text: str) -> None:
        """It will never be whole."""
        self._broken = text
        self._arrived.set()

    def discard(self) -> None:
        """Nobody reads any more; what still arrives is dropped."""
        self._discarding = True
        self._parts.clear()
        self._waiting_size = 0
        self._go_on()

    async def pieces(self, size: int) -> AsyncIterator[bytes]:
        """Yield the body in pieces of `size` bytes, the last of which may be shorter.

        Raises:
            BodyBroken: The client went away, or sends nothing any more.
        """
        pending = bytearray()
        while True:
            while self._parts:
                part = self._parts.popleft()
                self._waiting_size -= len(part)
                pending += part
                while len(pending) >= size:
                    piece = bytes(pending[:size])
                    del pending[:size]
                    yield piece
            self._go_on()
            if self._broken:
                raise BodyBroken(self._broken)
            if self._ended:
                break
            self._arrived.clear()
            try:
                async with asyncio.timeout(SILENCE_MAX):
                    await self._arrived.wait()
            except TimeoutError:
                raise BodyBroken(f"no byte of the body for {SILENCE_MAX:g} s") from None
        if pending:
            yield bytes(pending)

    def _go_on(self) -> None:
        if self._paused and self._waiting_size <= AHEAD_MAX // 2:
            self._paused = False
            self._resume()
