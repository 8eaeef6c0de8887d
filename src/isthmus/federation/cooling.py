"""Servers that failed a call: each is left alone for a while, longer if it keeps failing.

A server that cools down is not refused, it only stands behind the others: when all of a
datacenter's servers cool down, they are tried as before. Reads find out whether it is well again,
since they can be repeated elsewhere; writes, which cannot, come back later.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

COOLING_FIRST: Final = 5.0
"""Seconds after a failure; twice as long after each further one."""
COOLING_MAX: Final = 60.0
CAUTION: Final = 60.0
"""Seconds more for writes, unless it has answered: by then gossip knows whether it is dead."""


@dataclass(frozen=True, slots=True)
class _Failure:
    until: float
    seconds: float


class Cooling:
    """Who cools down, and until when.

    It remembers as many as its owner knows: who goes is to be told with `forget`.
    """

    def __init__(self) -> None:
        self._failures: dict[Hashable, _Failure] = {}

    def failed(self, who: Hashable, *, now: float) -> None:
        """A call to it failed. Calls that fail together count as one failure."""
        known = self._failures.get(who)
        if known is None:
            self._failures[who] = _Failure(now + COOLING_FIRST, COOLING_FIRST)
        elif now >= known.until:
            seconds = min(COOLING_MAX, 2 * known.seconds)
            self._failures[who] = _Failure(now + seconds, seconds)

    def forget(self, who: Hashable) -> None:
        """It answered, came back, or is gone for good."""
        self._failures.pop(who, None)

    def is_cooling(self, who: Hashable, *, now: float, repeatable: bool = True) -> bool:
        """Whether others come first, for a call that may be made twice or not."""
        failure = self._failures.get(who)
        return failure is not None and now < failure.until + (0.0 if repeatable else CAUTION)
