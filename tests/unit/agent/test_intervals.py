"""The figures of the last whole ten seconds, on virtual time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

from isthmus.agent.intervals import Intervals
from isthmus.model.metric import Metric, MetricKind, Metrics
from support.virtual_loop import now, run_virtual

BEGIN = datetime(2026, 11, 23, 12, 0, 3, tzinfo=UTC)


def wall() -> datetime:
    return BEGIN + timedelta(seconds=now())


class Counting:
    """An agent that counts; implements `Collector`."""

    def __init__(self) -> None:
        self.count = 0
        self.begun: list[float] = []

    async def collect(self) -> Metrics:
        counted = Metric("c", MetricKind.COUNTER, float(self.count))
        return Metrics(wall(), now(), (counted, Metric("g", MetricKind.GAUGE, float(self.count))))

    def begin_interval(self) -> None:
        self.begun.append(now())


class Taking:
    """A sink."""

    def __init__(self) -> None:
        self.taken: list[list[float]] = []

    async def take(self, metrics: Sequence[Metric]) -> None:
        self.taken.append([metric.value for metric in metrics])


def values(metrics: Metrics) -> tuple[str, list[float]]:
    assert metrics.seconds == 10.0
    return f"{metrics.time:%H:%M:%S}", [metric.value for metric in metrics.metrics]


def play(act: Callable[[Counting, Intervals, Taking], Awaitable[None]]) -> None:
    async def run() -> None:
        counting, sink = Counting(), Taking()
        intervals = Intervals(counting, wall=wall, sinks=[sink])
        running = asyncio.ensure_future(intervals.run())
        await act(counting, intervals, sink)
        running.cancel()

    run_virtual(run())


def test_first_interval_is_shown_while_it_runs() -> None:
    async def act(counting: Counting, intervals: Intervals, _: Taking) -> None:
        counting.count = 4
        assert values(await intervals.recent()) == ("12:00:00", [4.0, 4.0])

    play(act)


def test_last_whole_interval_is_shown_until_the_next_is_whole() -> None:
    async def act(counting: Counting, intervals: Intervals, sink: Taking) -> None:
        counting.count = 4
        await asyncio.sleep(8)  # 12:00:11
        counting.count = 7
        assert values(await intervals.recent()) == ("12:00:00", [4.0, 4.0])
        await asyncio.sleep(10)  # 12:00:21
        assert values(await intervals.recent()) == ("12:00:10", [3.0, 7.0])
        await asyncio.sleep(10)
        assert values(await intervals.recent()) == ("12:00:20", [7.0])
        assert counting.begun == [7.0, 17.0, 27.0]
        assert sink.taken == [[4.0, 4.0], [3.0, 7.0], [7.0]]

    play(act)


def test_who_waits_gets_each_interval_when_it_is_over() -> None:
    async def act(counting: Counting, intervals: Intervals, _: Taking) -> None:
        counting.count = 2
        assert values(await intervals.next()) == ("12:00:00", [2.0, 2.0])
        assert now() == 7.0
        counting.count = 5
        assert values(await intervals.next()) == ("12:00:10", [3.0, 5.0])
        assert now() == 17.0

    play(act)
