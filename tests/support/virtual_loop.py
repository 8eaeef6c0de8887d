"""An event loop whose time stands still until every task waits, and then jumps.

Minutes of backoff pass at once, in the same order each time. Nothing outside of the process can
be waited for: a test that needs a socket or a thread runs on the usual loop.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

HORIZON = 1e6
"""Seconds after which a test is taken to wait for ever."""


class Deadlock(AssertionError):
    """Every task waits, and nothing will wake one."""


class _JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting for its timeout, it adds it to its clock."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise Deadlock("every task waits without a timer")
        self.now += max(timeout, 0.0)
        if self.now > HORIZON:
            raise Deadlock(f"nothing but timers for {HORIZON:g} s")
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop on virtual time, which begins at 0."""

    def __init__(self) -> None:
        self._clock = _JumpingSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def run_virtual(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end on virtual time.

    Raises:
        Deadlock: It would never end.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


def now() -> float:
    """Seconds since the test began, without the last bits that sums of floats get wrong."""
    return round(asyncio.get_running_loop().time(), 6)


async def settle() -> None:
    """Let every task run until it waits; no time passes."""
    for _ in range(100):
        await asyncio.sleep(0)
