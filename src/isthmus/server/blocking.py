"""Blocking queries: a read that waits until its result passes an index, or its time is over.

A waiting read costs one future, one timer and one registration with the store's watches; no
task polls. Source: protocol/rpc.md §8.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from random import Random
from typing import Final, TypeVar

from isthmus.errors import NoLeader
from isthmus.model.query import QueryOptions
from isthmus.store.answer import Answer
from isthmus.store.watch import Watches

T = TypeVar("T")

QUERY_TIME: Final = 300.0  # Consul's default.
QUERY_TIME_MAX: Final = 600.0  # Consul's default.
_JITTER_FRACTION: Final = 16  # Consul's default: up to a sixteenth longer.


class Blocking:
    """Waits on behalf of reads.

    Args:
        watches: Whom writes wake.
        rng: Source of the jitter.
        query_time: Seconds to wait when the caller does not say.
        query_time_max: Longest wait that a caller may ask for, in seconds, before jitter.
    """

    def __init__(
        self,
        watches: Watches,
        *,
        rng: Random,
        query_time: float = QUERY_TIME,
        query_time_max: float = QUERY_TIME_MAX,
    ) -> None:
        self._watches, self._rng = watches, rng
        self._query_time, self._query_time_max = query_time, query_time_max
        self._closed = False

    def limit(self, options: QueryOptions) -> float:
        """Seconds that a read may block, jitter included."""
        wait = options.max_query_time.seconds
        wait = min(wait, self._query_time_max) if wait > 0 else self._query_time
        return wait + self._rng.uniform(0, wait / _JITTER_FRACTION)

    async def answer(self, read: Callable[[], Answer[T]], options: QueryOptions) -> Answer[T]:
        """Answer a read at once, or if it blocks, when its result has changed or time is over.

        Raises:
            NoLeader: The server stops.
            TooManyWatches: Too many readers wait already.
        """
        found = read()
        if not options.min_query_index or found.changed > options.min_query_index:
            return found
        return await self.wait_past(
            read, options.min_query_index, timeout=self.limit(options), found=found
        )

    async def wait_past(
        self,
        read: Callable[[], Answer[T]],
        index: int,
        *,
        timeout: float | None = None,
        found: Answer[T] | None = None,
    ) -> Answer[T]:
        """Read until the result has changed after `index`, or `timeout` seconds are over.

        Args:
            read: Pure read of the store.
            index: What the caller has seen.
            timeout: Longest wait; None for as long as it takes.
            found: What `read` answers now, if the caller knows.

        Returns:
            The last answer; after a timeout `changed` is still not past `index`. So it may be
            when all data was replaced: the caller's index says nothing of it then.

        Raises:
            NoLeader: The server stops.
            TooManyWatches: Too many readers wait already.
        """
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        found = read() if found is None else found
        replaced_count = self._watches.replaced_count
        while found.changed <= index and replaced_count == self._watches.replaced_count:
            if self._closed:
                raise NoLeader
            waiter: asyncio.Future[None] = loop.create_future()
            watch = self._watches.register(found.topics, partial(_resolve, waiter))
            timer = None if deadline is None else loop.call_at(deadline, _resolve, waiter)
            try:
                await waiter
            finally:
                self._watches.cancel(watch)
                if timer is not None:
                    timer.cancel()
            if self._closed:
                raise NoLeader
            found = read()
            if deadline is not None and loop.time() >= deadline:
                break
        return found

    async def follow(self, read: Callable[[], Answer[T]]) -> AsyncIterator[Answer[T]]:
        """Yield what a read answers now, and again whenever that has changed.

        A reader that is slow misses states in between, never the last one.

        Raises:
            NoLeader: The server stops.
        """
        found = read()
        while True:
            seen = found.changed
            yield found
            found = await self.wait_past(read, seen)

    def close(self) -> None:
        """Release every waiting read with `NoLeader`; none waits any more."""
        self._closed = True
        self._watches.wake_all()


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
