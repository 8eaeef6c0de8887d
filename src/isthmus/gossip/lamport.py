"""Lamport's clock: orders events of members that share no time.

Source: protocol/gossip.md §13.2; Lamport 1978.
"""

from typing import Final

LTIME_MAX: Final = 2**63
"""A peer's time beyond this is not believed: it would soon leave no time to count on."""


class LamportClock:
    """A counter that never falls behind what it has seen; starts at 1."""

    __slots__ = ("time",)

    def __init__(self) -> None:
        self.time = 1

    def increment(self) -> int:
        """Advance by one and return the new time."""
        self.time += 1
        return self.time

    def witness(self, ltime: int) -> None:
        """Be later than `ltime`."""
        if self.time <= ltime < LTIME_MAX:
            self.time = ltime + 1
