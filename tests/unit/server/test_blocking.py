"""Blocking queries, without waiting for real time."""

import asyncio
from random import Random
from typing import Any

import pytest

from isthmus.errors import NoLeader
from isthmus.model.kv import KV_SET, DirEntry, KVSRequest
from isthmus.model.query import QueryOptions
from isthmus.server.blocking import Blocking
from isthmus.store.answer import Answer
from isthmus.units import Duration
from support.stores import Driven

INSTANT = Duration.of(0.001)


def make_blocking(driven: Driven) -> Blocking:
    return Blocking(driven.store.watches, rng=Random(1))


def set_key(key: str) -> KVSRequest:
    return KVSRequest(op=KV_SET, dir_ent=DirEntry(key=key, value=b"v"))


async def until_waiting(driven: Driven, count: int = 1) -> None:
    for _ in range(1000):
        if len(driven.store.watches) >= count:
            return
        await asyncio.sleep(0)  # Let the others run once.
    raise AssertionError(f"only {len(driven.store.watches)} of {count} readers wait")


async def test_read_without_an_index_answers_at_once() -> None:
    driven = Driven()
    read = lambda: driven.store.kv.get("a")  # noqa: E731
    answer = await make_blocking(driven).answer(read, QueryOptions())
    assert answer.value is None


async def test_read_of_an_older_index_answers_at_once() -> None:
    driven = Driven()
    driven.execute(set_key("a"))
    read = lambda: driven.store.kv.get("a")  # noqa: E731
    answer = await make_blocking(driven).answer(read, QueryOptions(min_query_index=1))
    assert answer.index == 2


async def test_blocked_read_wakes_at_the_write_that_concerns_it() -> None:
    driven = Driven()
    blocking = make_blocking(driven)
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(
            blocking.answer(lambda: driven.store.kv.get("a"), QueryOptions(min_query_index=1))
        )
        await until_waiting(driven)
        driven.execute(set_key("b"))
        assert len(driven.store.watches) == 1
        driven.execute(set_key("a"))
    answer = reading.result()
    assert answer.value is not None
    assert answer.index == 3
    assert len(driven.store.watches) == 0


async def test_timeout_answers_in_full_with_the_unchanged_index() -> None:
    driven = Driven()
    driven.execute(set_key("a"))
    options = QueryOptions(min_query_index=2, max_query_time=INSTANT)
    answer = await make_blocking(driven).answer(lambda: driven.store.kv.get("a"), options)
    assert answer.value is not None
    assert answer.index == 2
    assert len(driven.store.watches) == 0


async def test_index_far_too_high_waits_and_answers_the_current_one() -> None:
    driven = Driven()
    driven.execute(set_key("a"))
    options = QueryOptions(min_query_index=2**40, max_query_time=INSTANT)
    answer = await make_blocking(driven).answer(lambda: driven.store.kv.get("a"), options)
    assert answer.index == 2


async def test_wake_without_a_newer_result_sleeps_on() -> None:
    driven = Driven()
    driven.execute(set_key("a"))
    blocking, reads = make_blocking(driven), list[int]()

    def read() -> Answer[Any]:
        reads.append(1)
        return driven.store.kv.get("a")

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(blocking.answer(read, QueryOptions(min_query_index=2)))
        await until_waiting(driven)
        driven.store.watches.wake(driven.store.kv.get("a").topics)
        await until_waiting(driven)
        assert not reading.done()
        driven.execute(set_key("b"))
        driven.execute(KVSRequest(op=KV_SET, dir_ent=DirEntry(key="a", value=b"other")))
    assert reading.result().index == 4
    assert len(reads) == 3


async def test_cancelled_read_leaves_nothing_behind() -> None:
    driven = Driven()
    blocking = make_blocking(driven)
    reading = asyncio.ensure_future(
        blocking.answer(lambda: driven.store.kv.get("a"), QueryOptions(min_query_index=5))
    )
    await until_waiting(driven)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert len(driven.store.watches) == 0


async def test_stop_releases_blocked_reads() -> None:
    driven = Driven()
    blocking = make_blocking(driven)
    reading = asyncio.ensure_future(
        blocking.answer(lambda: driven.store.kv.get("a"), QueryOptions(min_query_index=5))
    )
    await until_waiting(driven)
    blocking.close()
    with pytest.raises(NoLeader):
        await reading
    with pytest.raises(NoLeader):
        await blocking.wait_past(lambda: driven.store.kv.get("a"), 5)


@pytest.mark.parametrize(
    ("asked", "least"), [(0, 300.0), (-1, 300.0), (1, 1.0), (600, 600.0), (10_000, 600.0)]
)
def test_limit_follows_consuls_rules(asked: float, least: float) -> None:
    blocking = make_blocking(Driven())
    options = QueryOptions(max_query_time=Duration.of(asked))
    limits = [blocking.limit(options) for _ in range(200)]
    assert all(least <= limit <= least * (1 + 1 / 16) for limit in limits)
    assert max(limits) - min(limits) > least / 32


async def test_ten_thousand_readers_wake_together_and_nobody_else_does() -> None:
    driven = Driven()
    blocking = make_blocking(driven)
    tasks = [
        asyncio.ensure_future(
            blocking.answer(
                lambda key=f"k{number % 2}": driven.store.kv.get(key),  # type: ignore[misc]
                QueryOptions(min_query_index=1),
            )
        )
        for number in range(10_000)
    ]
    await until_waiting(driven, 10_000)
    driven.execute(set_key("k0"))
    answers = await asyncio.gather(*tasks[::2])
    assert {answer.index for answer in answers} == {2}
    assert not any(task.done() for task in tasks[1::2])
    blocking.close()
    await asyncio.gather(*tasks[1::2], return_exceptions=True)


async def test_follower_sees_the_first_state_and_the_last() -> None:
    driven = Driven()
    blocking = make_blocking(driven)
    seen: list[int] = []
    async for answer in blocking.follow(lambda: driven.store.kv.list("")):
        seen.append(len(answer.value))
        if len(seen) == 3:
            break
        driven.execute(set_key(f"k{len(seen)}"), set_key(f"j{len(seen)}"))
    assert seen == [0, 2, 4]


async def test_read_ends_when_all_data_was_replaced_though_its_index_went_back() -> None:
    driven = Driven()
    driven.execute(set_key("a"))
    blocking = make_blocking(driven)
    other = Driven()
    other.execute(KVSRequest(op=KV_SET, dir_ent=DirEntry(key="a", value=b"old")))
    options = QueryOptions(min_query_index=1000)
    reading = asyncio.ensure_future(blocking.answer(lambda: driven.store.kv.get("a"), options))
    await until_waiting(driven)
    loaded_again = driven.reloaded()
    driven.store.adopt(loaded_again)  # Of the same generation: the reader's index holds.
    await until_waiting(driven)
    assert not reading.done()
    fresh = other.reloaded()
    fresh.generation = 1
    driven.store.adopt(fresh)
    answer = await reading
    assert answer.value is not None
    assert (answer.value.value, answer.changed <= 1000) == (b"old", True)
