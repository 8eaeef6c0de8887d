"""When a pool is joined: attempts, waits, news, and the end of patience.

`tests/unit/agent/test_join.py` runs the same cores with asyncio around them.
"""

from random import Random

from isthmus.federation.joining import (
    REJOIN_BURST,
    REJOIN_CHECK_INTERVAL,
    REJOIN_RATE,
    AwaitReady,
    GaveUp,
    JoinDatacenter,
    JoinRetry,
    NotReady,
    Rejoining,
    TryFailed,
    TryJoin,
)


class NoJitter(Random):
    def random(self) -> float:
        return 0.0


def make_retry(*, attempts_max: int = 0, gated: bool = False) -> JoinRetry:
    return JoinRetry(interval=30.0, attempts_max=attempts_max, gated=gated, rng=NoJitter(), now=0.0)


def fail(retry: JoinRetry, now: float) -> float | None:
    """The attempt under way fails; when the next one is due."""
    assert retry.take_outputs()[-1] == TryJoin()
    retry.join_failed("nobody there", now=now)
    return retry.next_timer()


def test_first_attempt_is_made_at_once_and_its_success_ends_all() -> None:
    retry = make_retry()
    assert retry.take_outputs() == [TryJoin()]
    assert retry.next_timer() is None
    retry.joined()
    assert retry.ended
    assert retry.next_timer() is None


def test_failure_is_told_with_the_wait_that_follows() -> None:
    retry = make_retry()
    assert fail(retry, 10.0) == 10.5
    assert retry.take_outputs() == [TryFailed("nobody there", 0.5)]
    retry.handle_timer(now=10.4)
    assert retry.take_outputs() == []
    retry.handle_timer(now=10.5)
    assert retry.take_outputs() == [TryJoin()]


def test_news_shorten_a_long_wait_but_not_the_first() -> None:
    retry = make_retry()
    assert fail(retry, 0.0) == 0.5
    retry.wake()
    assert retry.next_timer() == 0.5
    retry.handle_timer(now=0.5)
    assert fail(retry, 1.0) == 1.5  # The news made waits short again.
    retry.handle_timer(now=1.5)
    assert fail(retry, 2.0) == 3.0
    retry.wake()
    assert retry.next_timer() == 2.5


def test_gated_attempt_waits_until_it_can_succeed() -> None:
    retry = make_retry(gated=True)
    assert retry.take_outputs() == [AwaitReady(30.0)]
    retry.ready()
    assert retry.take_outputs() == [TryJoin()]


def test_never_ready_is_told_and_counts_as_an_attempt() -> None:
    retry = make_retry(gated=True, attempts_max=2)
    retry.take_outputs()
    retry.not_ready(now=30.0)
    assert retry.take_outputs() == [NotReady(), AwaitReady(30.0)]
    retry.not_ready(now=60.0)
    assert retry.take_outputs() == [NotReady(), GaveUp(2)]
    assert retry.ended


def test_patience_lasts_as_long_as_whole_intervals_would() -> None:
    retry = make_retry(attempts_max=2)
    now, attempts = 0.0, 0
    while not retry.ended:
        due = fail(retry, now)
        attempts += 1
        if due is not None:
            now = due
            retry.handle_timer(now=now)
    assert now >= 30.0
    assert retry.take_outputs()[-1] == GaveUp(attempts)


# Rejoining ------------------------------------------------------------------------------------


class Federation:
    """Which datacenters are missing, and the core that brings them back."""

    def __init__(self, *missing: str) -> None:
        self.missing = set(missing)
        self.core = Rejoining(missing=lambda: self.missing, rng=NoJitter(), now=0.0)

    def joins(self, now: float) -> list[str]:
        self.core.handle_timer(now=now)
        return [output.dc for output in self.core.take_outputs()]


def test_missing_datacenters_are_joined_in_order() -> None:
    federation = Federation("dc3", "dc2")
    assert federation.joins(0.0) == ["dc2", "dc3"]


def test_attempt_under_way_is_not_repeated() -> None:
    federation = Federation("dc2")
    assert federation.joins(0.0) == ["dc2"]
    federation.core.wake(now=1.0)
    assert federation.joins(1.0) == []


def test_attempt_that_brought_nobody_is_followed_by_another() -> None:
    federation = Federation("dc2")
    federation.joins(0.0)
    federation.core.tried("dc2", now=2.0)
    assert federation.joins(2.4) == []
    assert federation.joins(2.5) == ["dc2"]
    federation.core.tried("dc2", now=3.0)
    federation.missing.clear()
    assert federation.joins(4.0) == []
    federation.missing.add("dc2")
    federation.core.wake(now=5.0)
    assert federation.joins(5.0) == ["dc2"]  # Lost again: from the beginning.


def test_attempt_that_is_never_answered_can_be_forgotten() -> None:
    federation = Federation("dc2")
    federation.joins(0.0)
    federation.core.forget("dc2")
    assert federation.joins(REJOIN_CHECK_INTERVAL) == ["dc2"]


def test_many_share_a_bounded_rate() -> None:
    names = [f"dc{number:03}" for number in range(100)]
    federation = Federation(*names)
    assert federation.joins(0.0) == names[:REJOIN_BURST]
    assert federation.joins(1.0) == names[REJOIN_BURST : REJOIN_BURST + int(REJOIN_RATE)]


def test_actions_name_their_datacenter() -> None:
    federation = Federation("dc2")
    federation.core.handle_timer(now=0.0)
    assert federation.core.take_outputs() == [JoinDatacenter("dc2")]
