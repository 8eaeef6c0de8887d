"""How many calls a client agent may make: a bucket of tokens that fills at a steady rate."""

from isthmus.config.model import LimitConfig


class CallRate:
    """A bucket; starts full.

    Args:
        limits: `rpc_rate` tokens a second come in, as many as `rpc_max_burst` have place; below 0
            there is no limit.
        now: Seconds on the loop's clock.
    """

    def __init__(self, limits: LimitConfig, *, now: float) -> None:
        self._rate, self._burst = limits.rpc_rate, limits.rpc_max_burst
        self._tokens, self._counted_at = float(self._burst), now

    def reconfigure(self, limits: LimitConfig, *, now: float) -> None:
        """Go on at another rate; of what the bucket holds as much stays as has place."""
        self._fill(now)
        self._rate, self._burst = limits.rpc_rate, limits.rpc_max_burst
        self._tokens = min(self._tokens, float(self._burst))

    def take(self, *, now: float) -> bool:
        """Whether a call may be made now; then it counts."""
        if self._rate < 0:
            return True
        self._fill(now)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def _fill(self, now: float) -> None:
        came = max(self._rate, 0.0) * (now - self._counted_at)
        self._tokens = min(self._tokens + came, float(self._burst))
        self._counted_at = now
