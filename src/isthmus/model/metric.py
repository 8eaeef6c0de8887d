"""A figure about the agent, as metrics show it: name, kind, labels, value."""

import enum
from dataclasses import dataclass
from datetime import datetime


class MetricKind(enum.Enum):
    """What a figure tells."""

    GAUGE = enum.auto()
    """How much there is now."""
    COUNTER = enum.auto()
    """How often something happened since the agent started."""
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
        least: For a timing: the shortest; 0 for none.
        most: For a timing: the longest.
        deviation: For a timing: the standard deviation.
    """

    name: str
    kind: MetricKind
    value: float
    labels: tuple[tuple[str, str], ...] = ()
    about: str = ""
    count: int = 0
    least: float = 0.0
    most: float = 0.0
    deviation: float = 0.0


@dataclass(frozen=True, slots=True)
class Metrics:
    """All figures at one moment.

    Attributes:
        time: When they were collected.
        seconds: Since the agent started: what counters and timings cover.
        metrics: In order of their collection.
    """

    time: datetime
    seconds: float
    metrics: tuple[Metric, ...] = ()
