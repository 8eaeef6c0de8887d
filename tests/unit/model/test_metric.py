"""What happened between two looks at the figures."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.model.metric import Metric, MetricKind, difference
from isthmus.model.timing import Timing


def counter(name: str, value: float, **labels: str) -> Metric:
    return Metric(name, MetricKind.COUNTER, value, tuple(labels.items()))


def timed(name: str, timing: Timing) -> Metric:
    return Metric(
        name,
        MetricKind.TIMING,
        timing.total,
        count=timing.count,
        least=timing.least,
        most=timing.most,
        squares=timing.squares,
    )


def test_counters_tell_what_was_added_and_only_those() -> None:
    before = [counter("a", 3), counter("b", 5), counter("c", 1, dc="dc1")]
    now = [counter("a", 7), counter("b", 5), counter("c", 2, dc="dc1"), counter("c", 4, dc="dc2")]
    assert difference(before, now) == (
        counter("a", 4),
        counter("c", 1, dc="dc1"),
        counter("c", 4, dc="dc2"),
    )


def test_gauges_are_as_they_are() -> None:
    gauge = Metric("g", MetricKind.GAUGE, 5.0)
    assert difference([Metric("g", MetricKind.GAUGE, 9.0)], [gauge]) == (gauge,)


def test_counter_that_begins_anew_is_left_out() -> None:
    assert difference([counter("a", 9)], [counter("a", 2)]) == ()


@given(
    st.lists(st.floats(0.0, 100.0), max_size=10),
    st.lists(st.floats(0.0, 100.0), min_size=2, max_size=10),
)
def test_timings_tell_of_the_interval_alone(before: list[float], later: list[float]) -> None:
    timing = Timing()
    for one in before:
        timing.add(one)
    first = timed("t", timing)
    timing.begin_interval()
    for one in later:
        timing.add(one)
    (found,) = difference([first], [timed("t", timing)])
    assert (found.count, found.least, found.most) == (len(later), min(later), max(later))
    assert found.value == pytest.approx(sum(later), abs=1e-6)
    assert found.deviation == pytest.approx(statistics.stdev(later), abs=1e-2)
