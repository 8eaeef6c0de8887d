from hypothesis import given
from hypothesis import strategies as st

from isthmus.gossip.lamport import LTIME_MAX, LamportClock


def test_clock_starts_at_one_and_counts() -> None:
    clock = LamportClock()
    assert clock.time == 1
    assert clock.increment() == 2


@given(st.lists(st.integers(0, 2**64 - 1)))
def test_clock_is_later_than_all_it_believes(ltimes: list[int]) -> None:
    clock = LamportClock()
    for ltime in ltimes:
        before = clock.time
        clock.witness(ltime)
        assert clock.time == (ltime + 1 if before <= ltime < LTIME_MAX else before)
