"""Which user events and queries were seen already: rings indexed by Lamport time.

Source: protocol/gossip.md §13.5.
"""

from typing import Final

from isthmus.wire import serf as wire

EVENTS_PER_LTIME_MAX: Final = 128
"""Different user events of one Lamport time; further ones are dropped."""
QUERIES_PER_LTIME_MAX: Final = 128


class RecentEvents:
    """The user events of the last Lamport times; they travel in every push/pull.

    Args:
        size: Lamport times remembered.
    """

    def __init__(self, size: int) -> None:
        self._slots: list[wire.UserEvents | None] = [None] * size
        self.ltime_min = 0
        """Events before this are ignored."""
        self.changes = 0
        """How many were added so far."""

    def slots(self) -> tuple[wire.UserEvents | None, ...]:
        """All slots, as a push/pull has them."""
        return tuple(self._slots)

    def add(self, ltime: int, event: wire.UserEventBody, *, clock: int) -> bool:
        """Remember an event; return whether it is new and not too old."""
        size = len(self._slots)
        if ltime < self.ltime_min or (clock > size and ltime < clock - size):
            return False
        slot = self._slots[ltime % size]
        known = slot.events if slot is not None and slot.ltime == ltime else ()
        if event in known or len(known) >= EVENTS_PER_LTIME_MAX:
            return False
        self._slots[ltime % size] = wire.UserEvents(ltime=ltime, events=(*known, event))
        self.changes += 1
        return True


class RecentQueries:
    """The queries of the last Lamport times, by their ids.

    Args:
        size: Lamport times remembered.
    """

    def __init__(self, size: int) -> None:
        self._slots: list[tuple[int, set[int]]] = [(-1, set())] * size
        self.ltime_min = 0
        """Queries before this are ignored."""

    def add(self, ltime: int, query_id: int, *, clock: int) -> bool:
        """Remember a query; return whether it is new and not too old."""
        size = len(self._slots)
        if ltime < self.ltime_min or (clock > size and ltime < clock - size):
            return False
        seen_ltime, ids = self._slots[ltime % size]
        if seen_ltime != ltime:
            self._slots[ltime % size] = (ltime, {query_id})
            return True
        if query_id in ids or len(ids) >= QUERIES_PER_LTIME_MAX:
            return False
        ids.add(query_id)
        return True
