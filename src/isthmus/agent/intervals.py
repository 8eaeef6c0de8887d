"""The figures of the last ten seconds, as Consul's metrics show them.

The parts of an agent count since they started. Here the counts are looked at when an interval
ends, and what was added meanwhile is that interval's. Intervals begin at whole tens of seconds of
the calendar clock, as go-metrics has them. Source: protocol/http-api.md §6.3.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final, Protocol

from isthmus.model.metric import Metric, Metrics, difference

INTERVAL: Final = 10
"""Seconds; Consul's number."""


class Collector(Protocol):
    """Collects figures that cover the time since the agent started."""

    async def collect(self) -> Metrics:
        """Every figure as it is now."""

    def begin_interval(self) -> None:
        """Look for the shortest and longest times anew."""


class Sink(Protocol):
    """Somebody who gets the figures of each interval."""

    async def take(self, metrics: Sequence[Metric]) -> None:
        """Take one interval's figures."""


class Intervals:
    """Keeps the figures of the last whole interval.

    Args:
        collector: Collects them.
        wall: Reads the calendar clock.
        sinks: Get them, too.
    """

    def __init__(
        self, collector: Collector, *, wall: Callable[[], datetime], sinks: Sequence[Sink] = ()
    ) -> None:
        self._collector, self._wall, self._sinks = collector, wall, sinks
        self._before: tuple[Metric, ...] = ()
        self._finished: Metrics | None = None
        self._ended = asyncio.Condition()

    async def run(self) -> None:
        """End one interval after the other, until cancelled."""
        while True:
            start = _start(self._wall())
            await asyncio.sleep((start - self._wall()).total_seconds() + INTERVAL)
            await self._end(start)

    async def recent(self) -> Metrics:
        """Figures of the last whole interval; in the first one those since the start."""
        if self._finished is not None:
            return self._finished
        found = await self._collector.collect()
        metrics = difference((), found.metrics)
        return Metrics(_start(found.time), float(INTERVAL), metrics)

    async def next(self) -> Metrics:
        """Figures of the interval that runs now, once it is over."""
        async with self._ended:
            await self._ended.wait()
        assert self._finished is not None
        return self._finished

    async def _end(self, start: datetime) -> None:
        found = await self._collector.collect()
        self._collector.begin_interval()
        metrics = difference(self._before, found.metrics)
        self._before = found.metrics
        self._finished = Metrics(start, float(INTERVAL), metrics)
        for sink in self._sinks:
            await sink.take(metrics)
        async with self._ended:
            self._ended.notify_all()


def _start(now: datetime) -> datetime:
    """When the interval that now runs began."""
    return now - timedelta(seconds=now.second % INTERVAL, microseconds=now.microsecond)
