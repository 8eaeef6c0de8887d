import asyncio
import math
import re

import pytest

from isthmus.sim.loop import (
    Deadlock,
    HostLoop,
    Livelock,
    Timeline,
    describe_waiting,
    now,
    run_virtual,
    settle,
)


async def _sleep_until(moments: list[float], count: int, interval: float) -> None:
    for _ in range(count):
        await asyncio.sleep(interval)
        moments.append(now())


def test_a_year_of_sleeping_takes_no_time() -> None:
    async def work() -> float:
        async with asyncio.timeout(9e5):
            for _ in range(1000):
                await asyncio.sleep(60)
        return now()

    assert run_virtual(work()) == 60_000.0


def test_settle_lets_others_run_without_time_passing() -> None:
    async def work() -> tuple[float, bool]:
        event = asyncio.Event()
        task = asyncio.ensure_future(event.wait())
        event.set()
        await settle()
        return now(), task.done()

    assert run_virtual(work()) == (0.0, True)


async def _wait_for_each_other() -> None:
    first, second = asyncio.Event(), asyncio.Event()

    async def left() -> None:
        await first.wait()
        second.set()

    async def right() -> None:
        await second.wait()
        first.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(left())
        group.create_task(right())


def test_deadlock_names_the_tasks_and_where_they_wait() -> None:
    with pytest.raises(Deadlock) as caught:
        run_virtual(_wait_for_each_other())
    text = str(caught.value)
    for name in ("left", "right"):
        assert re.search(rf"loop: \S*{name} #\d+ waits at \S*test_loop:\d+ in \S*{name}", text)


def test_program_that_only_waits_for_timers_is_a_deadlock_in_the_end() -> None:
    async def work() -> None:
        while True:  # noqa: ASYNC110 - For ever is meant.
            await asyncio.sleep(1e5)

    with pytest.raises(Deadlock, match="nothing but timers"):
        run_virtual(work())


def test_threads_are_refused() -> None:
    async def work() -> None:
        await asyncio.to_thread(lambda: None)

    with pytest.raises(NotImplementedError, match="no threads"):
        run_virtual(work())


def test_sets_of_tasks_and_futures_iterate_as_they_were_made() -> None:
    async def work() -> list[int]:
        order: list[int] = []

        async def note(number: int) -> int:
            await asyncio.sleep(1)
            order.append(number)
            return number

        done, _ = await asyncio.wait({asyncio.ensure_future(note(n)) for n in range(8)})
        return order + [task.result() for task in done]

    assert run_virtual(work()) == run_virtual(work())
    futures: set[asyncio.Future[None]] = set()

    async def make() -> None:
        futures.update(asyncio.get_running_loop().create_future() for _ in range(3))

    run_virtual(make())
    assert sorted(hash(future) for future in futures) == [hash(future) for future in futures]


# Many loops -------------------------------------------------------------------------------------


def make_timeline(*names: str) -> tuple[Timeline, list[HostLoop]]:
    timeline = Timeline()
    return timeline, [timeline.loop(name) for name in names]


def test_loops_share_one_time() -> None:
    timeline, (a, b) = make_timeline("a", "b")
    moments: list[float] = []
    other = b.create_task(_sleep_until(moments, 3, 2.0))
    timeline.run(a, asyncio.sleep(5.0))
    assert moments == [2.0, 4.0]
    assert timeline.now == 5.0
    timeline.run(a, asyncio.sleep(1.5))
    assert other.done()
    timeline.close()


def test_paused_loop_runs_late_and_then_catches_up() -> None:
    timeline, (a, b) = make_timeline("a", "b")
    moments: list[float] = []
    b.create_task(_sleep_until(moments, 3, 1.0))
    timeline.run(a, asyncio.sleep(1.5))
    b.paused = True
    b.call_soon_threadsafe(moments.append, -1.0)
    timeline.run(a, asyncio.sleep(8.5))
    assert moments == [1.0]
    b.paused = False
    timeline.run(a, asyncio.sleep(2.5))
    assert moments == [1.0, -1.0, 10.0, 11.0]
    timeline.close()


def test_clock_that_drifts_wakes_its_timers_early() -> None:
    timeline, (a, b) = make_timeline("a", "b")
    moments: list[float] = []

    async def work() -> None:
        await asyncio.sleep(10)
        moments.append(timeline.now)

    timeline.run(a, asyncio.sleep(4))
    b.create_task(work())
    timeline.run(a, asyncio.sleep(0.5))
    b.drift(2.0)
    timeline.run(a, asyncio.sleep(20))
    assert moments == [pytest.approx(4.5 + 9.5 / 2)]
    assert b.time() == pytest.approx(4.5 + 20 * 2)
    timeline.close()


def test_events_happen_in_order_and_may_be_cancelled() -> None:
    timeline, (a,) = make_timeline("a")
    seen: list[str] = []
    timeline.call_at(2.0, seen.append, "second")
    timeline.call_at(1.0, seen.append, "first")
    timeline.call_at(2.0, seen.append, "third")
    timeline.call_later(1.5, seen.append, "never").cancel()
    timeline.call_at(-5.0, seen.append, "at once")
    timeline.run(a, asyncio.sleep(3))
    assert seen == ["at once", "first", "second", "third"]
    timeline.close()


def test_deadlock_of_many_loops_names_each() -> None:
    timeline, (a, b) = make_timeline("a", "b")
    b.create_task(_wait_for_each_other(), name="hopeless")
    with pytest.raises(Deadlock, match=r"b: hopeless waits at \S*test_loop:\d+ in _wait_for_each"):
        timeline.run(a, _wait_for_each_other())
    assert "a: " in describe_waiting([a])
    timeline.close()


def test_endless_chatter_within_one_moment_is_found() -> None:
    timeline, (a,) = make_timeline("a")

    async def spin() -> None:
        while True:  # noqa: ASYNC110 - For ever is meant.
            await asyncio.sleep(0)

    with pytest.raises(Livelock, match="spin #1 waits at"):
        timeline.run(a, spin())
    timeline.close()


def test_buried_loop_has_no_tasks_and_nobody_hears_of_their_end() -> None:
    timeline, (a,) = make_timeline("a")
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append("cancelled")
            raise ValueError("nobody hears this")

    task = a.create_task(work())
    timeline.run(a, asyncio.sleep(1))
    a.bury()
    assert ended == ["cancelled"]
    assert isinstance(task.exception(), ValueError)
    assert a.defects == []
    assert a.is_closed()


def test_task_that_dies_unheard_is_a_defect() -> None:
    timeline, (a,) = make_timeline("a")

    def fail() -> None:
        raise ValueError("broken on purpose")

    a.call_soon_threadsafe(fail)
    timeline.run(a, asyncio.sleep(1))
    assert len(a.defects) == 1
    assert "broken on purpose" in a.defects[0]
    timeline.close()


def test_loop_without_network_knows_no_names() -> None:
    timeline, (a,) = make_timeline("a")

    async def work() -> None:
        with pytest.raises(OSError, match="no network"):
            await asyncio.get_running_loop().getaddrinfo("alpha", 1)
        with pytest.raises(OSError, match="cannot connect"):
            await asyncio.open_connection("alpha", 1)

    timeline.run(a, work())
    assert a.next_due() == math.inf
    timeline.close()
