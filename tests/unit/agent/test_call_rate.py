"""A client agent's bucket of calls."""

from hypothesis import given
from hypothesis import strategies as st

from isthmus.agent.call_rate import CallRate
from isthmus.config.model import LimitConfig


def made(rate: CallRate, *, count: int, now: float) -> int:
    """How many of so many calls may be made at once."""
    return sum(rate.take(now=now) for _ in range(count))


def test_burst_and_then_the_rate() -> None:
    rate = CallRate(LimitConfig(rpc_rate=2.0, rpc_max_burst=3), now=10.0)
    assert made(rate, count=5, now=10.0) == 3
    assert made(rate, count=5, now=10.4) == 0
    assert made(rate, count=5, now=11.5) == 3
    assert made(rate, count=9, now=1000.0) == 3


def test_no_limit() -> None:
    assert made(CallRate(LimitConfig(), now=0.0), count=5000, now=0.0) == 5000


def test_rate_of_zero_lets_the_burst_through_and_nothing_more() -> None:
    rate = CallRate(LimitConfig(rpc_rate=0.0, rpc_max_burst=2), now=0.0)
    assert made(rate, count=5, now=1000.0) == 2
    assert made(rate, count=5, now=9000.0) == 0


def test_rate_changes_while_running() -> None:
    rate = CallRate(LimitConfig(rpc_rate=1.0, rpc_max_burst=10), now=0.0)
    rate.reconfigure(LimitConfig(rpc_rate=100.0, rpc_max_burst=2), now=0.0)
    assert made(rate, count=10, now=0.0) == 2
    rate.reconfigure(LimitConfig(), now=0.0)
    assert made(rate, count=10, now=0.0) == 10


@given(
    st.floats(0.1, 1000.0),
    st.integers(1, 100),
    st.lists(st.floats(0.0, 10.0), min_size=1, max_size=50),
)
def test_never_more_than_burst_and_rate_allow(rate: float, burst: int, pauses: list[float]) -> None:
    bucket, now, count = CallRate(LimitConfig(rpc_rate=rate, rpc_max_burst=burst), now=0.0), 0.0, 0
    for pause in pauses:
        now += pause
        count += bucket.take(now=now)
    assert count <= burst + rate * now + 1e-6
