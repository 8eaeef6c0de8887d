"""Retry-join and the search for the primary's gateways, on virtual time."""

import asyncio
from collections.abc import Sequence
from random import Random

import pytest

from isthmus.agent.join import JoinGaveUp, RetryJoin, discover_primary_gateways
from isthmus.errors import Unavailable
from support.virtual_loop import now, run_virtual

ADDRESSES = ("*.dc1/192.0.2.2:8302",)


class FakePool:
    """Refuses the first `failures` joins, each after `seconds`; records when each began."""

    def __init__(
        self, failures: int, *, seconds: float = 0.0, error: type[Exception] = Unavailable
    ) -> None:
        self.failures, self.seconds, self.error = failures, seconds, error
        self.attempts: list[float] = []
        self.addresses: list[Sequence[str]] = []

    async def join(self, addresses: Sequence[str]) -> int:
        self.attempts.append(now())
        self.addresses.append(addresses)
        await asyncio.sleep(self.seconds)
        if len(self.attempts) <= self.failures:
            raise self.error("nobody there")
        return 1


class NoJitter(Random):
    def random(self) -> float:
        return 0.0


def make_join(
    pool: FakePool,
    *,
    interval: float = 30.0,
    attempts_max: int = 0,
    ready: asyncio.Event | None = None,
) -> RetryJoin:
    async def until_ready() -> None:
        assert ready is not None
        await ready.wait()

    return RetryJoin(
        pool="WAN",
        addresses=ADDRESSES,
        join=pool.join,
        interval=interval,
        rng=NoJitter(),
        attempts_max=attempts_max,
        ready=until_ready if ready is not None else None,
    )


def attempts_of(pool: FakePool, **options: float | int) -> list[float]:
    async def play() -> None:
        await make_join(pool, **options).run()  # type: ignore[arg-type]

    run_virtual(play())
    return pool.attempts


def test_success_ends_it() -> None:
    pool = FakePool(failures=0)
    assert attempts_of(pool) == [0.0]
    assert pool.addresses == [ADDRESSES]


def test_waits_double_up_to_the_interval() -> None:
    assert attempts_of(FakePool(failures=8)) == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 61.5, 91.5]


def test_interval_shorter_than_the_first_wait_is_kept() -> None:
    assert attempts_of(FakePool(failures=3), interval=0.2) == [0, 0.2, 0.4, 0.6]


@pytest.mark.parametrize("error", [Unavailable, OSError, TimeoutError])
def test_what_a_network_can_raise_is_survived(error: type[Exception]) -> None:
    assert attempts_of(FakePool(failures=1, error=error)) == [0, 0.5]


def test_fault_of_ours_is_not_survived() -> None:
    with pytest.raises(AssertionError):
        attempts_of(FakePool(failures=1, error=AssertionError))


def test_gives_up_after_the_time_that_so_many_intervals_take() -> None:
    """The operator who set `retry_max` 3 at 30 s counts on a minute, not on 1.5 s."""
    pool = FakePool(failures=1000)
    with pytest.raises(JoinGaveUp, match=r"WAN pool in 8 attempts \(retry_max\).*192\.0\.2\.2"):
        attempts_of(pool, attempts_max=3)
    assert pool.attempts == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 61.5]


def test_one_attempt_only() -> None:
    pool = FakePool(failures=1000)
    with pytest.raises(JoinGaveUp):
        attempts_of(pool, attempts_max=1)
    assert pool.attempts == [0]


def test_attempt_waits_until_it_can_succeed() -> None:
    async def play() -> list[float]:
        pool, ready = FakePool(failures=0), asyncio.Event()
        asyncio.get_running_loop().call_later(100.0, ready.set)
        await make_join(pool, ready=ready).run()
        return pool.attempts

    assert run_virtual(play()) == [100.0]


def test_never_ready_counts_as_failed_attempts() -> None:
    async def play() -> float:
        pool = FakePool(failures=0)
        with pytest.raises(JoinGaveUp):
            await make_join(pool, attempts_max=3, ready=asyncio.Event()).run()
        assert pool.attempts == []
        return now()

    assert run_virtual(play()) == 90.0


def wake_at(moment: float, pool: FakePool) -> list[float]:
    async def play() -> None:
        join = make_join(pool)
        asyncio.get_running_loop().call_later(moment, join.wake)
        await join.run()

    run_virtual(play())
    return pool.attempts


def test_news_bring_the_next_attempt_forward_and_make_waits_short_again() -> None:
    assert wake_at(20.0, FakePool(failures=7)) == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 20.0, 20.5]


def test_news_come_no_earlier_than_after_a_first_failure() -> None:
    assert wake_at(0.1, FakePool(failures=1)) == [0, 0.5]


def test_news_during_an_attempt_are_not_lost() -> None:
    pool = FakePool(failures=7, seconds=10.0)
    assert wake_at(70.0, pool) == [0, 10.5, 21.5, 33.5, 47.5, 65.5, 76.0, 86.5]


def test_cancelled_while_it_waits() -> None:
    async def play() -> None:
        pool = FakePool(failures=1000)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await make_join(pool).run()

    run_virtual(play())


# Discovery ------------------------------------------------------------------------------------


def discover(answers: Sequence[Sequence[str] | Exception]) -> list[tuple[float, Sequence[str]]]:
    told: list[tuple[float, Sequence[str]]] = []
    left = list(answers)

    async def resolve() -> Sequence[str]:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def play() -> None:
        await discover_primary_gateways(
            resolve, lambda addresses: told.append((now(), addresses)), interval=30.0
        )

    with pytest.raises(IndexError):  # The answers are used up; it would go on for ever.
        run_virtual(play())
    return told


def test_gateways_are_looked_up_again_for_as_long_as_the_agent_runs() -> None:
    assert discover([["a:443"], ["a:443"], ["b:443"]]) == [
        (0.0, ["a:443"]),
        (30.0, ["a:443"]),
        (60.0, ["b:443"]),
    ]


def test_failed_lookup_keeps_what_is_known() -> None:
    assert discover([["a:443"], OSError("no resolver"), [], Unavailable("no"), ["b:443"]]) == [
        (0.0, ["a:443"]),
        (120.0, ["b:443"]),
    ]
