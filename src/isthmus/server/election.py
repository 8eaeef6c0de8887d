"""When a server should lead its datacenter."""

from random import Random
from typing import Protocol

from isthmus.store.engine import LeaderInfo


class Election(Protocol):
    """Knows when this server should lead."""

    def may_claim(self, leader: LeaderInfo | None, *, now: float) -> bool:
        """Whether to claim the leadership now.

        Args:
            leader: Who holds it; None when nobody does.
            now: Seconds on the loop's clock.
        """

    def may_preempt(self, leader: LeaderInfo) -> bool:
        """Whether to take it from another server that still holds it."""


class Alone:
    """The election of a datacenter with one server, or without a better rule: who is free leads.

    Args:
        rng: Source of jitter, so that not all servers claim in the same moment.
        delay_max: Longest wait in seconds after the leadership became free.
    """

    def __init__(self, rng: Random, *, delay_max: float = 0.0) -> None:
        self._rng, self._delay_max = rng, delay_max
        self._free_at: float | None = None

    def may_claim(self, leader: LeaderInfo | None, *, now: float) -> bool:
        """Whether it has been free for our share of the delay."""
        if leader is not None:
            self._free_at = None
            return False
        if self._free_at is None:
            self._free_at = now + self._rng.uniform(0, self._delay_max)
        return now >= self._free_at

    def may_preempt(self, leader: LeaderInfo) -> bool:
        """Never."""
        return False
