"""When a server leads that has nobody to ask."""

from random import Random

from isthmus.server.election import Alone
from isthmus.store.engine import LeaderInfo

OTHER = LeaderInfo("id-2", "s2", "10.0.0.2:8300", 1)


def test_who_has_nobody_beside_it_leads_at_once() -> None:
    assert Alone(Random(1)).may_claim(None, now=7.0)


def test_a_free_leadership_is_claimed_after_our_share_of_the_delay() -> None:
    shares = set()
    for seed in range(20):
        election = Alone(Random(seed), delay_max=1.0)
        assert not election.may_claim(OTHER, now=0.0)
        asked = (now / 100 for now in range(1000, 1200))
        shares.add(next(now for now in asked if election.may_claim(None, now=now)))
    assert min(shares) > 10.0
    assert max(shares) <= 11.0
    assert len(shares) > 10


def test_the_delay_begins_anew_when_somebody_led_meanwhile() -> None:
    election = Alone(Random(1), delay_max=1.0)
    assert not election.may_claim(None, now=0.0)
    assert not election.may_claim(OTHER, now=5.0)
    assert not election.may_claim(None, now=6.0)
    assert election.may_claim(None, now=7.0)


def test_who_leads_is_left_alone() -> None:
    assert not Alone(Random(1)).may_preempt(OTHER)
