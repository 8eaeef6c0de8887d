"""How often: a token bucket for what may burst, a backoff for what failed."""

from random import Random
from typing import Final

RETRY_JITTER: Final = 0.1
"""Part of a wait after a failure that chance may add, so that many do not retry at once."""


class TokenBucket:
    """At most `burst` at once and `rate` a second in the long run.

    Args:
        rate: Tokens per second.
        burst: Tokens that can be saved up.
        now: Seconds on the driver's monotonic clock.
    """

    def __init__(self, *, rate: float, burst: int, now: float) -> None:
        assert rate > 0
        assert burst >= 1
        self._rate, self._burst = rate, burst
        self._tokens, self._filled_at = float(burst), now

    def take(self, *, now: float) -> float:
        """Take a token; returns the seconds to wait before acting on it, 0 for none."""
        earned = (now - self._filled_at) * self._rate
        self._tokens = min(self._burst, self._tokens + max(0.0, earned)) - 1
        self._filled_at = now
        return max(0.0, -self._tokens / self._rate)


class Backoff:
    """Waits that double from `first` to `longest` seconds, with up to `jitter` of each added."""

    def __init__(self, *, first: float, longest: float, jitter: float, rng: Random) -> None:
        assert 0 < first <= longest
        self._first, self._longest, self._jitter, self._rng = first, longest, jitter, rng
        self._next = first

    def failed(self) -> float:
        """Seconds to wait after one more failure."""
        wait = self._next
        self._next = min(self._longest, 2 * wait)
        return wait * (1 + self._jitter * self._rng.random())

    def reset(self) -> None:
        """Success, or news that make an early try worthwhile: start small again."""
        self._next = self._first
