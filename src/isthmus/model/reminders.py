"""What is wrong for long is said again now and then, and not each time that it is noticed."""

import math


class Reminders:
    """Knows what was said, and when it may be said again.

    Args:
        interval: Seconds between two times that the same is said.
        size_max: So many different things are remembered; beyond that the oldest is forgotten,
            and may be said again earlier.
    """

    def __init__(self, interval: float, *, size_max: int = 64) -> None:
        assert interval > 0
        assert size_max > 0
        self._interval, self._size_max = interval, size_max
        self._said_at: dict[str, float] = {}

    def due(self, what: str = "", *, now: float) -> bool:
        """Whether to say something now; if so it counts as said."""
        if now - self._said_at.get(what, -math.inf) < self._interval:
            return False
        self._said_at.pop(what, None)
        self._said_at[what] = now
        if len(self._said_at) > self._size_max:
            del self._said_at[next(iter(self._said_at))]
        return True

    def forget(self) -> None:
        """What was wrong is right again: if it comes back it is said at once."""
        self._said_at.clear()
