"""How long a suspect may take to refute: long at first, shorter with each independent accuser.

Source: Lifeguard, Local Health Aware Suspicion; protocol/gossip.md §6.
"""

import math
from dataclasses import dataclass

from isthmus.gossip.config import GossipConfig


@dataclass(frozen=True, slots=True)
class SuspicionTimes:
    """Limits of one suspicion timer.

    Attributes:
        timeout_min: Seconds once `confirmations` others accuse too.
        timeout_max: Seconds with a single accuser.
        confirmations: Further accusers that shorten the timer; 0: it is `timeout_min` at once.
    """

    timeout_min: float
    timeout_max: float
    confirmations: int

    @classmethod
    def of(cls, config: GossipConfig, *, member_count: int) -> "SuspicionTimes":
        """Limits in a pool of `member_count`, ourselves and the remembered dead included."""
        scale = max(1.0, math.log10(max(1, member_count)))
        timeout_min = config.suspicion_mult * math.floor(scale * 1000) / 1000
        timeout_min *= config.probe_interval
        confirmations = max(0, config.suspicion_mult - 2)
        if member_count - 2 < confirmations:
            confirmations = 0
        return cls(timeout_min, config.suspicion_max_timeout_mult * timeout_min, confirmations)

    def after(self, confirmed: int) -> float:
        """Seconds the timer runs in all when `confirmed` further members accuse."""
        if not self.confirmations:
            return self.timeout_min
        share = math.log(confirmed + 1) / math.log(self.confirmations + 1)
        timeout = self.timeout_max - (self.timeout_max - self.timeout_min) * share
        return max(self.timeout_min, math.floor(timeout * 1000) / 1000)


class Suspicion:
    """The running timer of one suspect.

    Args:
        accuser: Who suspects first; does not count as a confirmation.
        times: Its limits.
        now: Seconds on the driver's monotonic clock.
    """

    __slots__ = ("_accusers", "_earliest", "_started_at", "_times", "deadline")

    def __init__(self, accuser: str, times: SuspicionTimes, *, now: float) -> None:
        self._accusers = {accuser}
        self._times = times
        self._started_at = now
        self._earliest: float | None = None
        self.deadline = now + times.after(0)

    def confirm(self, accuser: str) -> bool:
        """Count another accuser, once; return whether it was news worth passing on."""
        confirmed = len(self._accusers) - 1
        if accuser in self._accusers or confirmed >= self._times.confirmations:
            return False
        self._accusers.add(accuser)
        deadline = self._started_at + self._times.after(confirmed + 1)
        self.deadline = deadline if self._earliest is None else max(deadline, self._earliest)
        return True

    def renew(self, *, now: float) -> None:
        """Let it run its shortest time once more, after we stood still; once, or it never ends."""
        if self._earliest is None:
            self._earliest = now + self._times.timeout_min
            self.deadline = max(self.deadline, self._earliest)
