"""What is due when: one moment per key, each of which may be moved at no cost."""

import heapq
from collections.abc import Hashable
from itertools import count
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_SPARE: Final = 64
"""Entries of the heap that may be out of date, besides as many as there are keys."""


class Deadlines(Generic[K]):
    """Keys with their moments on the driver's clock.

    The heap is lazy: a moment that is moved later keeps its old entry, which is put right when it
    comes up. So moving one, as each renewal of a session does, costs a dict entry.
    """

    def __init__(self) -> None:
        self._at: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._numbers = count()  # Keys need not compare.

    def __len__(self) -> int:
        return len(self._at)

    def __contains__(self, key: object) -> bool:
        return key in self._at

    @property
    def heap_size(self) -> int:
        """Entries of the heap, those that are out of date included."""
        return len(self._heap)

    def set(self, key: K, at: float) -> None:
        """Let a key be due at a moment, instead of the one that it had."""
        before = self._at.get(key)
        self._at[key] = at
        if before is None or at < before:
            self._push(key, at)

    def discard(self, key: K) -> None:
        """Forget a key; one that is not there is no error."""
        self._at.pop(key, None)
        if len(self._heap) > 2 * len(self._at) + _SPARE:
            self._heap = [(at, next(self._numbers), key) for key, at in self._at.items()]
            heapq.heapify(self._heap)

    def clear(self) -> None:
        """Forget all."""
        self._at.clear()
        self._heap.clear()

    def next(self) -> float | None:
        """The earliest moment; None without keys."""
        while self._heap:
            at, _, key = self._heap[0]
            current = self._at.get(key)
            if current == at:
                return at
            heapq.heappop(self._heap)
            if current is not None and current > at:
                self._push(key, current)
        return None

    def take_due(self, now: float, *, count_max: int) -> list[K]:
        """Remove and return keys that are due, the earliest first, no more than so many."""
        due: list[K] = []
        while len(due) < count_max and (at := self.next()) is not None and at <= now:
            _, _, key = heapq.heappop(self._heap)
            del self._at[key]
            due.append(key)
        return due

    def _push(self, key: K, at: float) -> None:
        heapq.heappush(self._heap, (at, next(self._numbers), key))
