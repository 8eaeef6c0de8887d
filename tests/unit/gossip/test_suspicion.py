from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.gossip.config import GossipConfig
from isthmus.gossip.suspicion import Suspicion, SuspicionTimes


@pytest.mark.parametrize(
    ("config", "count", "timeout_min", "timeout_max", "confirmations"),
    [
        (GossipConfig.lan(), 3, 4, 24, 0),
        (GossipConfig.lan(), 4, 4, 24, 2),
        (GossipConfig.lan(), 10, 4, 24, 2),
        (GossipConfig.lan(), 100, 8, 48, 2),
        (GossipConfig.lan(), 1000, 12, 72, 2),
        (GossipConfig.wan(), 5, 30, 180, 0),
        (GossipConfig.wan(), 6, 30, 180, 4),
        (GossipConfig.wan(), 1000, 90, 540, 4),
    ],
)
def test_limits_follow_the_size_of_the_pool(
    config: GossipConfig, count: int, timeout_min: float, timeout_max: float, confirmations: int
) -> None:
    """protocol/gossip.md §6, second table."""
    times = SuspicionTimes.of(config, member_count=count)
    assert times == SuspicionTimes(timeout_min, timeout_max, confirmations)


def test_timer_is_shortest_at_once_where_nobody_could_confirm() -> None:
    times = SuspicionTimes.of(GossipConfig.lan(), member_count=3)
    assert Suspicion("a", times, now=10.0).deadline == 14.0


def test_each_other_accuser_shortens_the_timer_once() -> None:
    """LAN, 4 to 10 members: 24 s, after one confirmation 11.4 s, after two 4 s."""
    times = SuspicionTimes.of(GossipConfig.lan(), member_count=5)
    suspicion = Suspicion("a", times, now=0.0)
    assert suspicion.deadline == 24.0
    assert not suspicion.confirm("a")
    assert suspicion.deadline == 24.0
    assert suspicion.confirm("b")
    assert suspicion.deadline == pytest.approx(11.381, abs=0.001)
    assert not suspicion.confirm("b")
    assert suspicion.confirm("c")
    assert suspicion.deadline == 4.0
    assert not suspicion.confirm("d")


def test_renewed_timer_runs_its_shortest_time_whatever_others_say() -> None:
    suspicion = Suspicion("a", SuspicionTimes.of(GossipConfig.lan(), member_count=5), now=0.0)
    suspicion.renew(now=600.0)
    assert suspicion.deadline == 604.0
    assert suspicion.confirm("b")
    assert suspicion.confirm("c")
    assert suspicion.deadline == 604.0
    suspicion.renew(now=900.0)
    assert suspicion.deadline == 604.0


def test_renewal_never_shortens() -> None:
    suspicion = Suspicion("a", SuspicionTimes.of(GossipConfig.lan(), member_count=5), now=0.0)
    suspicion.renew(now=1.0)
    assert suspicion.deadline == 24.0


@given(st.integers(1, 100_000), st.integers(1, 10))
def test_timer_never_leaves_its_limits(count: int, mult: int) -> None:
    config = replace(GossipConfig.lan(), suspicion_mult=mult)
    times = SuspicionTimes.of(config, member_count=count)
    runs = [times.after(confirmed) for confirmed in range(times.confirmations + 1)]
    assert runs == sorted(runs, reverse=True)
    assert all(times.timeout_min <= run <= times.timeout_max + 1e-9 for run in runs)
