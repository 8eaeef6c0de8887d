"""A figure about the agent, as metrics show it: name, kind, labels, value."""

import enum
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from isthmus.model import timing


class MetricKind(enum.Enum):
    """What a figure tells."""

    GAUGE = enum.auto()
    """How much there is now."""
    COUNTER = enum.auto()
    """How often something happened."""
    TIMING = enum.auto()
    """How often, and how long it took: `Metric.value` is the sum, in milliseconds as in Consul."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure.

    Attributes:
        name: Words joined by dots, prefix included: ``consul.rpc.cross-dc``.
        kind: What it tells.
        value: The figure; for a timing the sum.
        labels: Pairs of name and value, in a fixed order for each name.
        about: What it means, one line; the same for all of a name.
        count: For a timing: how often.
        least: For a timing: the shortest since the interval began; 0 for none.
        most: For a timing: the longest since then.
        squares: For a timing: the sum of the squares.
    """

    name: str
    kind: MetricKind
    value: float
    labels: tuple[tuple[str, str], ...] = ()
    about: str = ""
    count: int = 0
    least: float = 0.0
    most: float = 0.0
    squares: float = 0.0

    @property
    def deviation(self) -> float:
        """For a timing: the standard deviation."""
        return timing.deviation(self.count, self.value, self.squares)


@dataclass(frozen=True, slots=True)
class Metrics:
    """All figures at one moment, or of one interval.

    Attributes:
        time: When they were collected, or when the interval began.
        seconds: What counters and timings cover: since the agent started, or the interval.
        metrics: In order of their collection.
    """

    time: datetime
    seconds: float
    metrics: tuple[Metric, ...] = ()


def difference(before: Iterable[Metric], now: Iterable[Metric]) -> tuple[Metric, ...]:
    """What happened between two moments.

    Args:
        before: Figures that cover the time since the start.
        now: The same, later.

    Returns:
        All gauges of `now`; of counters and timings only those that something was added to.
    """
    old = {
        (metric.name, metric.labels): metric
        for metric in before
        if metric.kind is not MetricKind.GAUGE
    }
    found = list[Metric]()
    for metric in now:
        if metric.kind is MetricKind.GAUGE:
            found.append(metric)
            continue
        base = old.get((metric.name, metric.labels))
        if base is not None:
            metric = replace(
                metric,
                value=metric.value - base.value,
                count=metric.count - base.count,
                squares=metric.squares - base.squares,
            )
        happened = metric.count if metric.kind is MetricKind.TIMING else metric.value
        if happened > 0:  # What counts anew, such as a pool that was opened again, is left out.
            found.append(metric)
    return tuple(found)
