"""Durations added up."""

import statistics

import pytest

from isthmus.model.timing import Timing


def timing(*seconds: float) -> Timing:
    made = Timing()
    for one in seconds:
        made.add(one)
    return made


def test_what_is_added_up() -> None:
    found = timing(3.0, 1.0, 2.0)
    assert (found.count, found.total, found.least, found.most) == (3, 6.0, 1.0, 3.0)
    assert found.deviation == pytest.approx(statistics.stdev([3.0, 1.0, 2.0]))


def test_nothing_and_one_have_no_deviation() -> None:
    assert Timing().deviation == timing(5.0).deviation == 0.0


def test_deviation_of_equal_durations_is_no_root_of_less_than_nothing() -> None:
    assert timing(*[0.1] * 10).deviation == pytest.approx(0.0, abs=1e-6)


def test_merging_is_adding_all() -> None:
    whole = timing(4.0)
    whole.merge(timing(1.0, 7.0))
    whole.merge(Timing())
    assert whole == timing(4.0, 1.0, 7.0)
    empty = Timing()
    empty.merge(whole)
    assert empty == whole


def test_shortest_and_longest_are_those_of_the_interval() -> None:
    found = timing(1.0, 9.0)
    found.begin_interval()
    assert (found.least, found.most, found.recent) == (0.0, 0.0, 0)
    found.add(5.0)
    found.add(4.0)
    assert (found.least, found.most, found.recent) == (4.0, 5.0, 2)
    assert (found.count, found.total) == (4, 19.0)


def test_what_took_no_time_counts() -> None:
    found = timing(2.0)
    found.add_instant()
    assert (found.count, found.total, found.least, found.most) == (2, 2.0, 0.0, 2.0)
