"""Token bucket and backoff."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from isthmus.federation.pacing import Backoff, TokenBucket


def test_burst_is_free_then_the_rate_holds() -> None:
    bucket = TokenBucket(rate=2.0, burst=3, now=0.0)
    assert [bucket.take(now=0.0) for _ in range(5)] == [0.0, 0.0, 0.0, 0.5, 1.0]
    assert bucket.take(now=10.0) == 0.0


@given(st.lists(st.floats(0, 3), min_size=1, max_size=60))
def test_no_window_holds_more_than_burst_and_rate_allow(gaps: list[float]) -> None:
    bucket, now = TokenBucket(rate=1.0, burst=5, now=0.0), 0.0
    starts: list[float] = []
    for gap in gaps:
        now = max(now + gap, starts[-1] if starts else 0.0)
        starts.append(now + bucket.take(now=now))
    for first, start in enumerate(starts):
        within = sum(start <= other <= start + 10 for other in starts[first:])
        assert within <= 5 + 10 + 1


def test_waits_double_up_to_the_longest_and_start_over() -> None:
    backoff = Backoff(first=1.0, longest=5.0, jitter=0.0, rng=Random(1))
    assert [backoff.failed() for _ in range(4)] == [1.0, 2.0, 4.0, 5.0]
    backoff.reset()
    assert backoff.failed() == 1.0


def test_jitter_only_lengthens() -> None:
    backoff = Backoff(first=10.0, longest=10.0, jitter=0.1, rng=Random(1))
    waits = [backoff.failed() for _ in range(100)]
    assert min(waits) >= 10.0
    assert max(waits) <= 11.0
    assert len(set(waits)) > 50
