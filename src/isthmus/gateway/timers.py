"""Many timers of one delay each: constant time to start, stop and expire one."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Timers(Generic[T]):
    """Timers that all run for the same delay, so that the oldest is always the next to expire.

    Args:
        delay: Seconds.
        expire: Called with the key of a timer that ran out; the timer is gone by then.
    """

    def __init__(self, delay: float, expire: Callable[[T], None]) -> None:
        self.delay = delay
        self._expire = expire
        self.due: OrderedDict[T, float] = OrderedDict()
        """When each running timer expires, the oldest first; to be looked at only."""

    def __len__(self) -> int:
        return len(self.due)

    def start(self, key: T, *, now: float) -> None:
        """Start the timer of `key`, or start it anew."""
        self.due.pop(key, None)
        self.due[key] = now + self.delay

    def stop(self, key: T) -> None:
        """Stop the timer of `key`, if it runs."""
        self.due.pop(key, None)

    def oldest(self) -> T | None:
        """Key of the timer that expires next."""
        return next(iter(self.due), None)

    def next_timer(self) -> float | None:
        """Moment at which the next timer expires."""
        return next(iter(self.due.values()), None)

    def handle_timer(self, *, now: float) -> None:
        """Expire what is due by `now`; timers started meanwhile wait for the next call."""
        for _ in range(len(self.due)):
            oldest = next(iter(self.due.items()), None)
            if oldest is None or oldest[1] > now:
                return
            key = oldest[0]
            del self.due[key]
            self._expire(key)
