"""What SWIM and Lifeguard promise."""

import math
from random import Random

import pytest

from isthmus.gossip.config import GossipConfig
from isthmus.sim.formulas import Expected


def test_large_pool_suspects_after_e_over_e_minus_one_periods() -> None:
    """SWIM §3.1: the mean tends to e / (e - 1) protocol periods."""
    expected = Expected.of(GossipConfig.lan(), member_count=100_000)
    assert expected.suspected == pytest.approx(math.e / (math.e - 1), rel=1e-4)


@pytest.mark.parametrize("count", [2, 3, 10, 150])
def test_mean_is_that_of_members_who_pick_at_random(count: int) -> None:
    """Each period each of the others picks a peer; we count until one picks the victim."""
    rng, rounds = Random(count), 4000
    periods = 0
    for _ in range(rounds):
        while True:
            periods += 1
            if any(rng.randrange(count - 1) == 0 for _ in range(count - 1)):
                break
    expected = Expected.of(GossipConfig.wan(), member_count=count)
    assert expected.suspected == pytest.approx(5.0 * periods / rounds, rel=0.05)


def test_suspicion_bounds_are_those_of_the_timer() -> None:
    """Lifeguard: 6 × log10(n) × 5 s at the least for a WAN pool, six times that at the most."""
    expected = Expected.of(GossipConfig.wan(), member_count=1000)
    assert expected.dead_min - expected.suspected == pytest.approx(90.0)
    assert expected.dead_max - expected.suspected == pytest.approx(540.0)


def test_pool_too_small_to_confirm_has_one_bound() -> None:
    expected = Expected.of(GossipConfig.lan(), member_count=3)
    assert expected.dead_min == expected.dead_max


def test_rumour_needs_more_rounds_in_larger_pools() -> None:
    """Four times as many know after each round: 4 rounds for 256 members."""
    expected = Expected.of(GossipConfig.lan(), member_count=256)
    assert expected.spread == pytest.approx(4 * 0.2)
