"""Retry-join and the search for the primary's gateways, on virtual time."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from random import Random
from typing import Any

import pytest

from isthmus.agent.join import (
    REUNION_INTERVAL,
    JoinGaveUp,
    Rejoin,
    RetryJoin,
    Reunion,
    discover_primary_gateways,
)
from isthmus.errors import Unavailable
from isthmus.federation.joining import REJOIN_BURST, REJOIN_RATE
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


def test_repeated_failures_are_warned_of_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    assert attempts_of(FakePool(failures=8))[-1] == 91.5
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 2


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
    with pytest.raises(JoinGaveUp, match=r"in 1 attempt \(retry_max\)"):
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


# Rejoin ---------------------------------------------------------------------------------------


class FakeWan:
    """Datacenters with a federation state, and those with a living server in the pool.

    A join brings its datacenter back unless it is `down`; either takes `seconds`.
    """

    def __init__(
        self,
        *known: str,
        present: Collection[str] = (),
        down: Collection[str] = (),
        seconds: float = 0.0,
        error: Exception | None = None,
    ) -> None:
        self.known, self.present, self.down = {"dc1", *known}, {"dc1", *present}, set(down)
        self.seconds, self.error = seconds, error or Unavailable("no server answered")
        self.joins: list[tuple[float, str]] = []

    async def join(self, dc: str) -> None:
        self.joins.append((now(), dc))
        await asyncio.sleep(self.seconds)
        if dc in self.down:
            raise self.error
        self.present.add(dc)

    def run(
        self,
        *,
        until: float,
        at: dict[float, Callable[[], object]] | None = None,
        wake: bool = True,
    ) -> list[tuple[float, str]]:
        """Rejoin until a moment; `at` others something happens, and is told if `wake`."""

        async def play() -> None:
            rejoin = Rejoin(
                known=lambda: self.known,
                present=lambda: self.present,
                join=self.join,
                rng=NoJitter(),
            )
            for moment, happen in sorted((at or {}).items()):
                asyncio.get_running_loop().call_later(moment, happen)
                if wake:
                    asyncio.get_running_loop().call_later(moment, rejoin.wake)
            await stop_after(rejoin.run(), until)

        run_virtual(play())
        return self.joins


async def stop_after(work: Awaitable[object], seconds: float) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await work


def test_datacenters_without_a_living_server_are_joined_at_once() -> None:
    wan = FakeWan("dc2", "dc3", "dc4", present=["dc3"])
    assert wan.run(until=100) == [(0.0, "dc2"), (0.0, "dc4")]


def test_pool_that_is_complete_is_left_alone() -> None:
    assert FakeWan("dc2", present=["dc2"]).run(until=1000) == []


def test_datacenter_in_the_pool_without_federation_state_is_not_asked_for() -> None:
    assert FakeWan(present=["dc9"]).run(until=100) == []


@pytest.mark.parametrize("error", [Unavailable("down"), OSError("down"), TimeoutError()])
def test_datacenter_is_tried_until_it_is_back(error: Exception) -> None:
    """The waits double to one second and no further: a datacenter that returns is soon found."""
    wan = FakeWan("dc2", down=["dc2"], error=error)
    joins = wan.run(until=100, at={3.0: wan.down.clear}, wake=False)
    assert joins == [(0.0, "dc2"), (0.5, "dc2"), (1.5, "dc2"), (2.5, "dc2"), (3.5, "dc2")]


def test_datacenter_that_comes_back_by_itself_is_tried_no_more() -> None:
    wan = FakeWan("dc2", down=["dc2"])
    joins = wan.run(until=100, at={0.7: lambda: wan.present.add("dc2")})
    assert joins == [(0.0, "dc2"), (0.5, "dc2")]


def test_datacenter_that_was_forgotten_is_tried_no_more() -> None:
    wan = FakeWan("dc2", down=["dc2"])
    joins = wan.run(until=100, at={0.7: lambda: wan.known.discard("dc2")})
    assert joins == [(0.0, "dc2"), (0.5, "dc2")]


def test_join_that_brought_nobody_is_repeated() -> None:
    """A server was reached, and failed before gossip knew it alive."""
    wan = FakeWan("dc2")
    joins = wan.run(until=1.2, at={0.1: lambda: wan.present.discard("dc2")})
    assert joins == [(0.0, "dc2"), (0.5, "dc2")]


def test_lost_datacenter_is_joined_as_soon_as_it_is_told() -> None:
    wan = FakeWan("dc2", present=["dc2"])
    joins = wan.run(until=100, at={7.0: lambda: wan.present.discard("dc2")})
    assert joins == [(7.0, "dc2")]


def test_new_datacenter_is_joined_as_soon_as_it_is_told() -> None:
    wan = FakeWan()
    assert wan.run(until=100, at={7.0: lambda: wan.known.add("dc2")}) == [(7.0, "dc2")]


def test_loss_that_nobody_told_of_is_found_within_half_a_minute() -> None:
    wan = FakeWan("dc2", present=["dc2"])
    joins = wan.run(until=100, at={31.0: lambda: wan.present.discard("dc2")}, wake=False)
    assert joins == [(60.0, "dc2")]


def test_news_start_no_second_attempt_beside_the_first() -> None:
    wan = FakeWan("dc2", down=["dc2"], seconds=4.0)
    joins = wan.run(until=9, at={moment: lambda: None for moment in (1.0, 2.0, 3.0, 4.2)})
    assert joins == [(0.0, "dc2"), (4.5, "dc2")]


def test_hung_datacenter_does_not_hold_up_the_others() -> None:
    wan = FakeWan("dc2", "dc3", seconds=1000.0)
    joins = wan.run(until=100, at={5.0: lambda: wan.known.add("dc4")})
    assert joins == [(0.0, "dc2"), (0.0, "dc3"), (5.0, "dc4")]


def test_many_lost_at_once_are_joined_at_a_bounded_rate() -> None:
    """After a restart in a large federation: a burst, then so many a second, in order."""
    names = [f"dc{number:03}" for number in range(100, 200)]
    joins = FakeWan(*names).run(until=60)
    assert sorted(dc for _, dc in joins) == names
    assert [moment for moment, _ in joins] == [
        max(0.0, round((number - REJOIN_BURST + 1) / REJOIN_RATE, 6))
        for number in range(len(names))
    ]


def test_unreachable_datacenters_share_the_rate() -> None:
    names = [f"dc{number:03}" for number in range(100, 200)]
    joins = FakeWan(*names, down=names).run(until=60)
    assert len(joins) <= REJOIN_BURST + 60 * REJOIN_RATE
    tries = Counter(dc for _, dc in joins)
    assert set(tries) == set(names)
    assert max(tries.values()) - min(tries.values()) <= 1  # Nobody goes short.


def test_attempts_end_with_the_duty() -> None:
    async def play() -> list[str]:
        ended: list[str] = []

        async def hang(dc: str) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(dc)

        rejoin = Rejoin(known=lambda: ["dc2"], present=list, join=hang, rng=NoJitter())
        await stop_after(rejoin.run(), 5)
        return [*ended]  # As it is now: the loop cancels what is left.

    assert run_virtual(play()) == ["dc2"]


def test_fault_of_ours_is_reported_and_the_others_go_on() -> None:
    wan = FakeWan("dc2", down=["dc2"], error=AssertionError("ours"))
    reports: list[Any] = []

    async def play() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reports.append(context["exception"]))
        rejoin = Rejoin(
            known=lambda: wan.known, present=lambda: wan.present, join=wan.join, rng=NoJitter()
        )
        for change in (lambda: wan.known.add("dc3"), wan.down.clear, rejoin.wake):
            loop.call_later(2.0, change)
        await stop_after(rejoin.run(), 5)

    run_virtual(play())
    assert [str(error) for error in reports] == ["ours"]
    assert wan.joins == [(0.0, "dc2"), (2.0, "dc2"), (2.0, "dc3")]


def test_failed_servers_are_tried_one_attempt_each_until_they_are_back() -> None:
    failed = ["s2/10.0.0.2:8301", "s3/10.0.0.3:8301"]
    attempts: list[tuple[float, str]] = []

    async def join(addresses: Sequence[str]) -> int:
        (address,) = addresses
        attempts.append((now(), address))
        if address.startswith("s3"):
            await asyncio.sleep(5 * REUNION_INTERVAL)  # A network that swallows everything.
        elif len(attempts) > 4:
            failed.remove(address)
            return 1
        raise Unavailable("nobody there")

    run_virtual(stop_after(Reunion(failed=lambda: failed, join=join).run(), 10.5))
    first = [moment for moment, address in attempts if address.startswith("s2")]
    other = [moment for moment, address in attempts if address.startswith("s3")]
    assert first == [REUNION_INTERVAL * number for number in (1, 2, 3, 4)]
    assert other == [REUNION_INTERVAL]
