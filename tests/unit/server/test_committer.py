"""Group commit: batches, order, failures, bounds."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest

from isthmus.engine.memory import MemoryEngine
from isthmus.errors import EngineError, NoLeader, RequestError
from isthmus.model.catalog import HealthCheck, RegisterRequest
from isthmus.model.kv import KV_CAS, KV_SET, DirEntry, KVSRequest
from isthmus.server.committer import EXCLUSIVE_MAX, GATHER_SHARE, Busy, Committer
from isthmus.store.engine import (
    Batch,
    EngineUnavailable,
    Fenced,
    Head,
    Lead,
    LeaderInfo,
    NoSpace,
    OutcomeUnknown,
)
from isthmus.store.store import Store
from support.virtual_loop import now, run_virtual


class GatedEngine(MemoryEngine):
    """A memory engine whose commits wait for a gate, and may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = asyncio.Event()
        self.failures: list[EngineError] = []
        self.batches: list[Batch] = []

    async def commit(self, lead: Lead, base: int, batch: Batch) -> Head:
        self.waiting.set()
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.batches.append(batch)
        return await super().commit(lead, base, batch)


@asynccontextmanager
async def running(
    engine: GatedEngine, store: Store, *, batch_time_max: float = math.inf, **bounds: int
) -> AsyncIterator[tuple[Committer, asyncio.Task[None]]]:
    """A committer that runs, and its task."""
    await engine.open()
    lead = await engine.claim(LeaderInfo("id", "alpha", ""))
    assert lead is not None
    ids = count(1)
    committer = Committer(
        store,
        engine,
        lead=lead,
        batch_id=lambda: next(ids).to_bytes(16, "big"),
        batch_time_max=batch_time_max,
        **bounds,
    )
    task = asyncio.ensure_future(committer.run())
    try:
        yield committer, task
    finally:
        engine.gate.set()
        committer.close()
        await asyncio.gather(task, return_exceptions=True)


def set_key(key: str, value: bytes = b"v") -> KVSRequest:
    return KVSRequest(op=KV_SET, dir_ent=DirEntry(key=key, value=value))


async def submit_all(
    committer: Committer, commands: list[KVSRequest]
) -> list[asyncio.Future[object]]:
    """Queue commands while the committer cannot take them."""
    futures: list[asyncio.Future[object]] = [
        asyncio.ensure_future(committer.submit(command)) for command in commands
    ]
    await asyncio.sleep(0)
    return futures


async def outcome(future: asyncio.Future[object]) -> object:
    async with asyncio.timeout(5):
        try:
            return await future
        except Exception as error:
            return error


async def test_what_gathers_while_a_batch_is_in_flight_is_the_next_batch() -> None:
    engine, store = GatedEngine(), Store()
    async with running(engine, store) as (committer, _):
        engine.gate.clear()
        first = await submit_all(committer, [set_key("a")])
        await engine.waiting.wait()
        rest = await submit_all(committer, [set_key(f"k{number}") for number in range(50)])
        engine.gate.set()
        await asyncio.gather(*first, *rest)
    assert [batch.commands for batch in engine.batches] == [1, 50]
    assert [batch.index for batch in engine.batches] == [2, 52]
    assert (committer.batch_count, committer.command_count) == (2, 51)


async def test_rows_are_not_visible_before_they_are_durable() -> None:
    engine, store = GatedEngine(), Store()
    async with running(engine, store) as (committer, _):
        engine.gate.clear()
        (future,) = await submit_all(committer, [set_key("a")])
        await engine.waiting.wait()
        assert store.kv.get("a").value is None
        assert not future.done()
        engine.gate.set()
        await future
        assert store.kv.get("a").value is not None


async def test_callers_are_answered_in_order_each_with_its_own_result() -> None:
    engine, store = GatedEngine(), Store()
    async with running(engine, store) as (committer, _):
        bad = RegisterRequest(node="x", checks=(HealthCheck(node="x", service_id="no"),))
        lost = KVSRequest(op=KV_CAS, dir_ent=DirEntry(key="a", modify_index=99))
        won = KVSRequest(op=KV_CAS, dir_ent=DirEntry(key="a", value=b"2", modify_index=2))
        order: list[int] = []
        futures = [
            asyncio.ensure_future(committer.submit(command))
            for command in (set_key("a"), lost, bad, won)
        ]
        for number, future in enumerate(futures):
            future.add_done_callback(lambda _, number=number: order.append(number))  # type: ignore[misc]
        outcomes = [await outcome(future) for future in futures]
    assert outcomes[:2] == [False, False]
    assert isinstance(outcomes[2], RequestError)
    assert outcomes[3] is True
    assert order == [0, 1, 2, 3]
    assert store.index == 3


async def test_watchers_wake_once_a_batch() -> None:
    engine, store = GatedEngine(), Store()
    woken: list[int] = []
    store.watches.register(store.kv.list("").topics, lambda: woken.append(store.index))
    async with running(engine, store) as (committer, _):
        await asyncio.gather(*await submit_all(committer, [set_key("a"), set_key("b")]))
    assert woken == [3]


async def test_batch_of_refusals_only_is_not_committed() -> None:
    engine, store = GatedEngine(), Store()
    async with running(engine, store) as (committer, _):
        lost = KVSRequest(op=KV_CAS, dir_ent=DirEntry(key="a", modify_index=99))
        assert await committer.submit(lost) is False
    assert engine.batches == []


async def test_full_disk_refuses_one_batch_and_the_next_goes_on() -> None:
    engine, store = GatedEngine(), Store()
    async with running(engine, store) as (committer, _):
        engine.failures.append(NoSpace("full", operation="commit"))
        with pytest.raises(NoSpace):
            await committer.submit(set_key("a"))
        await committer.submit(set_key("b"))
    assert [row.key for row in store.kv.list("").value] == ["b"]
    assert store.index == 2


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Fenced("other", operation="commit"), NoLeader),
        (OutcomeUnknown("timeout", operation="commit"), OutcomeUnknown),
    ],
)
async def test_fatal_errors_end_the_committer(error: EngineError, told: type[Exception]) -> None:
    engine, store = GatedEngine(), Store()
    async with running(engine, store) as (committer, task):
        engine.gate.clear()
        engine.failures.append(error)
        (first,) = await submit_all(committer, [set_key("a")])
        await engine.waiting.wait()
        (queued,) = await submit_all(committer, [set_key("b")])
        engine.gate.set()
        assert isinstance(await outcome(first), told)
        assert isinstance(await outcome(queued), NoLeader)
        with pytest.raises(type(error)):
            await task
        with pytest.raises(NoLeader):
            await committer.submit(set_key("c"))
    assert store.index == 1
    assert not committer.is_open


async def test_stop_finishes_the_batch_in_flight_and_refuses_the_queue() -> None:
    engine, store = GatedEngine(), Store()
    async with running(engine, store) as (committer, task):
        engine.gate.clear()
        (first,) = await submit_all(committer, [set_key("a")])
        await engine.waiting.wait()
        (queued,) = await submit_all(committer, [set_key("b")])
        committer.close()
        assert isinstance(await outcome(queued), NoLeader)
        engine.gate.set()
        assert await outcome(first) is False
        await task


async def test_cancelled_committer_tells_callers_that_the_outcome_is_unknown() -> None:
    engine, store = GatedEngine(), Store()
    async with running(engine, store) as (committer, task):
        engine.gate.clear()
        (first,) = await submit_all(committer, [set_key("a")])
        await engine.waiting.wait()
        task.cancel()
        assert isinstance(await outcome(first), OutcomeUnknown)


@pytest.mark.parametrize(
    ("bounds", "value", "fits"),
    [({"queue_commands_max": 3}, b"", 3), ({"queue_size_max": 40_000}, bytes(10_000), 3)],
)
async def test_full_queue_is_said_so(bounds: dict[str, int], value: bytes, fits: int) -> None:
    engine, store = GatedEngine(), Store()
    async with running(engine, store, **bounds) as (committer, _):
        engine.gate.clear()
        first = await submit_all(committer, [set_key("a")])
        await engine.waiting.wait()
        queued = await submit_all(committer, [set_key(f"k{n}", value) for n in range(fits)])
        with pytest.raises(Busy, match="too many writes are waiting"):
            await committer.submit(set_key("more", value))
        engine.gate.set()
        await asyncio.gather(*first, *queued)
        await committer.submit(set_key("more", value))


async def test_batches_have_a_bound() -> None:
    engine, store = GatedEngine(), Store()
    async with running(engine, store, batch_commands_max=10) as (committer, _):
        await asyncio.gather(
            *await submit_all(committer, [set_key(f"k{number}") for number in range(25)])
        )
    assert [batch.commands for batch in engine.batches] == [10, 10, 5]


async def test_batches_do_not_hold_the_loop_for_long() -> None:
    engine, store = GatedEngine(), Store()
    async with running(engine, store, batch_time_max=-1.0) as (committer, _):
        await asyncio.gather(
            *await submit_all(committer, [set_key(f"k{number}") for number in range(3)])
        )
    assert [batch.commands for batch in engine.batches] == [1, 1, 1]


async def test_broken_invariant_stops_the_committer_and_leaves_nobody_waiting() -> None:
    engine, store = GatedEngine(), Store()

    def overlay() -> Any:
        raise AssertionError("broken")

    async with running(engine, store) as (committer, task):
        store.overlay = overlay  # type: ignore[method-assign]
        (queued,) = await submit_all(committer, [set_key("a")])
        assert isinstance(await outcome(queued), NoLeader)
        with pytest.raises(AssertionError, match="broken"):
            await task


async def test_large_commands_end_a_batch() -> None:
    engine, store = GatedEngine(), Store()
    async with running(engine, store) as (committer, _):
        big = [set_key(f"k{number}", bytes(600_000)) for number in range(3)]
        await asyncio.gather(*await submit_all(committer, big))
    assert [batch.commands for batch in engine.batches] == [1, 1, 1]


async def test_caller_that_gave_up_before_its_turn_changes_nothing() -> None:
    engine, store = GatedEngine(), Store()
    async with running(engine, store) as (committer, _):
        engine.gate.clear()
        first = await submit_all(committer, [set_key("a")])
        await engine.waiting.wait()
        (gone, other) = await submit_all(committer, [set_key("gone"), set_key("b")])
        gone.cancel()
        await asyncio.sleep(0)
        engine.gate.set()
        await asyncio.gather(*first, other)
    assert [row.key for row in store.kv.list("").value] == ["a", "b"]


async def test_write_that_waits_too_long_is_refused() -> None:
    engine, store = GatedEngine(), Store()
    async with running(engine, store) as (committer, _):
        engine.gate.clear()
        first = await submit_all(committer, [set_key("a")])
        await engine.waiting.wait()
        (late,) = await submit_all(committer, [set_key("late")])
        committer._queue[0].deadline = 0.0
        committer._expire()
        assert isinstance(await outcome(late), Busy)
        engine.gate.set()
        await asyncio.gather(*first)
    assert store.kv.get("late").value is None


async def test_broken_command_fails_alone() -> None:
    """A bug in one command is its caller's error, not the server's end."""
    engine, store = GatedEngine(), Store()
    async with running(engine, store) as (committer, _):
        broken: Any = object()
        futures = await submit_all(committer, [set_key("a"), broken, set_key("b")])
        outcomes = [await outcome(future) for future in futures]
    assert outcomes[0] is outcomes[2] is False
    assert isinstance(outcomes[1], KeyError)
    assert store.index == 3


async def test_nothing_is_refused_or_found_unchanged_on_behalf_of_a_deposed_leader() -> None:
    engine, store = GatedEngine(), Store()
    async with running(engine, store) as (committer, task):
        await committer.submit(set_key("k"))
        await engine.claim(LeaderInfo("other", "beta", ""), preempt=True)
        late = KVSRequest(op=KV_CAS, dir_ent=DirEntry(key="k", value=b"w", modify_index=77))
        outcomes = await asyncio.gather(
            committer.submit(set_key("k")), committer.submit(late), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [NoLeader, NoLeader]
        with pytest.raises(Fenced):
            await task


async def test_write_that_finds_nothing_to_do_waits_for_a_leader_that_can_say_so() -> None:
    class Doubtful(GatedEngine):
        async def confirm(self, lead: Lead) -> None:
            raise EngineUnavailable("no answer in time", operation="confirm")

    engine, store = Doubtful(), Store()
    async with running(engine, store) as (committer, _):
        await committer.submit(set_key("k"))
        with pytest.raises(NoLeader):  # It is passed on or held, then; nothing took effect.
            await committer.submit(set_key("k"))
        await committer.submit(set_key("other"))


async def test_exclusive_work_runs_between_two_batches_and_holds_writes() -> None:
    engine, store = GatedEngine(), Store()
    order: list[str] = []
    async with running(engine, store) as (committer, _):
        engine.gate.clear()
        first = asyncio.ensure_future(committer.submit(set_key("a")))
        await engine.waiting.wait()
        going = asyncio.Event()

        async def work() -> str:
            order.append(f"work at {store.index}")
            await going.wait()
            return "done"

        working = asyncio.ensure_future(committer.exclusive(work, reason="a test holds it"))
        later = asyncio.ensure_future(committer.submit(set_key("b")))
        engine.gate.set()
        await first
        for _ in range(20):
            await asyncio.sleep(0)
        assert (order, later.done()) == (["work at 2"], False)
        going.set()
        assert await working == "done"
        await later
        assert store.index == 3


async def test_write_that_waits_too_long_is_told_for_what() -> None:
    engine, store = GatedEngine(), Store()
    async with running(engine, store) as (committer, _):
        going = asyncio.Event()
        working = asyncio.ensure_future(committer.exclusive(going.wait, reason="a test holds it"))
        await asyncio.sleep(0)
        writing = asyncio.ensure_future(committer.submit(set_key("a")))
        await asyncio.sleep(0)
        for entry in committer._queue:
            entry.deadline = 0.0
        committer._expire()
        with pytest.raises(Busy, match="server busy: a test holds it"):
            await writing
        going.set()
        await working


@pytest.mark.parametrize(
    ("error", "told", "lives"),
    [
        (NoSpace("full", operation="commit"), NoSpace, True),
        (RequestError("wrong"), RequestError, True),
        (ValueError("broken"), ValueError, True),
        (Fenced("replaced", operation="commit"), NoLeader, False),
        (OutcomeUnknown("lost", operation="commit"), OutcomeUnknown, False),
    ],
)
async def test_exclusive_work_fails_alone_unless_the_leadership_is_over(
    error: Exception, told: type[Exception], lives: bool
) -> None:
    engine, store = GatedEngine(), Store()

    async def work() -> None:
        raise error

    async with running(engine, store) as (committer, task):
        with pytest.raises(told):
            await committer.exclusive(work, reason="")
        await asyncio.sleep(0)
        assert committer.is_open is lives
        if not lives:
            with pytest.raises(NoLeader):
                await committer.exclusive(work, reason="")
            assert isinstance(task.exception(), EngineError)


async def test_exclusive_work_that_waits_is_bounded_and_ends_with_the_leadership() -> None:
    engine, store = GatedEngine(), Store()
    async with running(engine, store) as (committer, _):
        going = asyncio.Event()
        waiting = [
            asyncio.ensure_future(committer.exclusive(going.wait, reason="a test"))
            for _ in range(EXCLUSIVE_MAX + 1)
        ]
        for _ in range(3):
            await asyncio.sleep(0)
        late = asyncio.ensure_future(committer.exclusive(going.wait, reason="a test"))
        done, _ = await asyncio.wait([late, *waiting], return_when=asyncio.FIRST_COMPLETED)
        assert all(isinstance(one.exception(), Busy) for one in done)
        committer.close()
        going.set()
        results = await asyncio.gather(*waiting, late, return_exceptions=True)
        kinds = {type(result) for result in results}
        assert kinds <= {bool, NoLeader, Busy}
        assert NoLeader in kinds


class SlowEngine(GatedEngine):
    """A memory engine whose commits take a second."""

    async def commit(self, lead: Lead, base: int, batch: Batch) -> Head:
        await asyncio.sleep(1)
        return await super().commit(lead, base, batch)


def commit_slowly(act: Callable[[Committer], Awaitable[None]]) -> list[int]:
    """Sizes of the batches that come of it, when each takes a second."""
    engine = SlowEngine()

    async def whole() -> None:
        async with running(engine, Store()) as (committer, _):
            await act(committer)

    run_virtual(whole())
    return [batch.commands for batch in engine.batches]


def test_writers_that_write_again_at_once_share_every_batch() -> None:
    async def act(committer: Committer) -> None:
        async def write(writer: int) -> None:
            await asyncio.sleep(writer / 100)
            for number in range(5):
                await committer.submit(set_key(f"{writer}/{number}"))
                await asyncio.sleep(0.1)

        await asyncio.gather(*(write(writer) for writer in range(8)))

    # The first that comes goes alone: nobody knows of the others yet.
    assert commit_slowly(act) == [1, 8, 8, 8, 8, 7]


def test_lone_writer_waits_for_nobody() -> None:
    async def act(committer: Committer) -> None:
        begun = now()
        for number in range(5):
            await committer.submit(set_key(f"k{number}"))
        assert now() - begun == pytest.approx(5.0)

    assert commit_slowly(act) == [1] * 5


def test_writers_that_do_not_come_back_are_waited_for_once_and_not_for_long() -> None:
    async def act(committer: Committer) -> None:
        await asyncio.gather(*(committer.submit(set_key(f"k{number}")) for number in range(8)))
        begun = now()
        await committer.submit(set_key("lone"))
        assert 1.0 < now() - begun <= 1.0 + GATHER_SHARE
        begun = now()
        await committer.submit(set_key("lone again"))
        assert now() - begun == pytest.approx(1.0)

    commit_slowly(act)


def test_committer_that_waits_for_writers_can_be_closed() -> None:
    async def act(committer: Committer) -> None:
        await asyncio.gather(*(committer.submit(set_key(f"k{number}")) for number in range(8)))
        waiting = asyncio.ensure_future(committer.submit(set_key("late")))
        await asyncio.sleep(0.1)
        committer.close()
        with pytest.raises(NoLeader):
            await waiting

    commit_slowly(act)
