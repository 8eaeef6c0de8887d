from hypothesis import given
from hypothesis import strategies as st

from isthmus.gossip.awareness import Awareness


@given(st.integers(1, 16), st.lists(st.integers(-10, 10)))
def test_score_stays_within_its_bounds(limit: int, deltas: list[int]) -> None:
    awareness = Awareness(limit)
    for delta in deltas:
        awareness.apply(delta)
        assert 0 <= awareness.score < limit


def test_bad_health_stretches_durations() -> None:
    awareness = Awareness(8)
    assert awareness.scale(2.0) == 2.0
    awareness.apply(3)
    assert awareness.scale(2.0) == 8.0
