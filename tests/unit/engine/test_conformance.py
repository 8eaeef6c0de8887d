"""What every engine promises: atomic batches, fencing, ordered scans, nothing lost."""

import dataclasses
from collections.abc import AsyncGenerator, Callable

import pytest

from isthmus.store.engine import (
    EMPTY_INDEX,
    Engine,
    EngineUnavailable,
    Fenced,
    LeaderInfo,
)
from support.batches import make_batch

INFO = LeaderInfo("id", "alpha", "127.0.0.1:8300")
Reopen = Callable[[], Engine]


async def rows(engine: Engine, prefix: bytes = b"d/") -> list[tuple[bytes, bytes]]:
    return [pair async for page in engine.scan(prefix) for pair in page]


async def test_new_engine_is_empty_at_the_index_that_no_write_takes(reopen: Reopen) -> None:
    engine = reopen()
    head = await engine.open()
    assert (head.index, head.generation, await rows(engine)) == (EMPTY_INDEX, 0, [])
    await engine.close()


async def test_batch_changes_all_its_keys(reopen: Reopen) -> None:
    engine = reopen()
    await engine.open()
    lead = await engine.claim(INFO)
    assert lead is not None
    await engine.commit(
        lead, 1, make_batch(2, puts={b"d/%d" % i: b"v%d" % i for i in range(6)} | {b"i/x": b"i"})
    )
    head = await engine.commit(
        lead,
        2,
        make_batch(
            5, puts={b"d/0": b"new"}, deletes={b"d/1", b"d/none"}, ranges=[(b"d/2", b"d/4")]
        ),
    )
    assert head.index == 5
    assert head.batch_id == (5).to_bytes(16, "big")
    assert await rows(engine) == [(b"d/0", b"new"), (b"d/4", b"v4"), (b"d/5", b"v5")]
    assert await rows(engine, b"i/") == [(b"i/x", b"i")]
    await engine.close()


async def test_scan_keeps_the_order_of_bytes_and_the_bounds_of_its_prefix(reopen: Reopen) -> None:
    engine = reopen()
    await engine.open()
    lead = await engine.claim(INFO)
    assert lead is not None
    keys = [b"d/a", b"d/a\x00", b"d/a\x00\xff", b"d/a\xff", b"d/b", b"d/\xff", b"d0", b"d"]
    await engine.commit(lead, 1, make_batch(2, puts=dict.fromkeys(keys, b"")))
    assert [key for key, _ in await rows(engine)] == sorted(keys[:6])
    assert [key for key, _ in await rows(engine, b"d/a")] == sorted(keys[:4])
    await engine.close()


async def test_scan_of_many_rows_has_each_once_and_may_be_given_up(reopen: Reopen) -> None:
    engine = reopen()
    await engine.open()
    lead = await engine.claim(INFO)
    assert lead is not None
    stored = {b"d/%05d" % number: b"%d" % number for number in range(2500)}
    await engine.commit(lead, 1, make_batch(2, puts=stored))
    assert await rows(engine) == sorted(stored.items())
    pages = engine.scan(b"d/")
    assert isinstance(pages, AsyncGenerator)
    first = await anext(pages)
    assert first == sorted(stored.items())[: len(first)]
    await pages.aclose()
    head = await engine.commit(lead, 2, make_batch(3, puts={b"d/00000": b"new"}))
    assert head.index == 3
    assert (await rows(engine))[0] == (b"d/00000", b"new")
    await engine.close()


async def test_batch_on_another_index_is_fenced_and_changes_nothing(reopen: Reopen) -> None:
    engine = reopen()
    await engine.open()
    lead = await engine.claim(INFO)
    assert lead is not None
    await engine.commit(lead, 1, make_batch(2, puts={b"d/a": b"1"}))
    with pytest.raises(Fenced):
        await engine.commit(lead, 1, make_batch(3, puts={b"d/a": b"2"}))
    assert await rows(engine) == [(b"d/a", b"1")]
    await engine.close()


async def test_deposed_leader_is_fenced(reopen: Reopen) -> None:
    engine = reopen()
    await engine.open()
    old, new = await engine.claim(INFO), await engine.claim(INFO)
    assert old is not None
    assert new is not None
    with pytest.raises(Fenced):
        await engine.commit(old, 1, make_batch(2, puts={b"d/a": b"1"}))
    with pytest.raises(Fenced):
        await engine.confirm(old)
    await engine.confirm(new)
    assert await rows(engine) == []
    await engine.close()


async def test_reopened_engine_has_everything_and_fences_the_lead_of_before(
    reopen: Reopen,
) -> None:
    engine = reopen()
    first = await engine.open()
    old = await engine.claim(INFO)
    assert old is not None
    value = bytes(range(256)) * 5000
    await engine.commit(old, 1, make_batch(7, puts={b"d/big": value}))
    await engine.close()
    again = reopen()
    head = await again.open()
    assert (head.index, head.batch_id, head.cluster) == (7, (7).to_bytes(16, "big"), first.cluster)
    assert await rows(again) == [(b"d/big", value)]
    new = await again.claim(INFO)
    assert new is not None
    assert new.epoch > old.epoch
    await again.commit(new, 7, make_batch(8))
    with pytest.raises(Fenced):
        await again.commit(old, 8, make_batch(9))
    await again.close()


async def test_leader_is_who_claimed_last(reopen: Reopen) -> None:
    engine = reopen()
    await engine.open()
    assert await engine.leader() is None
    lead = await engine.claim(INFO)
    assert lead is not None
    assert await engine.leader() == LeaderInfo("id", "alpha", "127.0.0.1:8300", lead.epoch)
    await engine.close()


async def test_closed_engine_says_so(reopen: Reopen) -> None:
    engine = reopen()
    await engine.open()
    lead = await engine.claim(INFO)
    assert lead is not None
    await engine.close()
    await engine.close()
    with pytest.raises(EngineUnavailable, match="closed"):
        await engine.commit(lead, 1, make_batch(2))


async def test_stats_name_the_engine_and_its_size(reopen: Reopen) -> None:
    engine = reopen()
    await engine.open()
    lead = await engine.claim(INFO)
    assert lead is not None
    await engine.commit(lead, 1, make_batch(2, puts={b"d/a": bytes(10_000)}))
    await engine.maintain()
    stats = await engine.stats()
    assert stats["engine"] in {"memory", "sqlite", "etcd"}
    assert isinstance(stats["size"], int)
    assert stats["size"] >= 10_000
    assert engine.limits().operations_max >= 100
    await engine.close()


async def test_commit_may_make_another_generation_the_current_one(reopen: Reopen) -> None:
    engine = reopen()
    await engine.open()
    lead = await engine.claim(INFO)
    assert lead is not None
    staged = make_batch(1, puts={b"d/0001/kv/k": b"v"})
    head = await engine.commit(lead, 1, staged)
    assert (head.index, head.generation) == (1, 0)
    switch = dataclasses.replace(make_batch(9, puts={b"i/0001/kv": b"i"}), generation=1)
    head = await engine.commit(lead, 1, switch)
    assert (head.index, head.generation) == (9, 1)
    head = await engine.commit(lead, 9, make_batch(10, ranges=[(b"d/0000/", b"d/00000")]))
    assert head.generation == 1
    await engine.resign(lead)
    await engine.close()
    again = reopen()
    head = await again.open()
    assert (head.index, head.generation) == (10, 1)
    assert await rows(again) == [(b"d/0001/kv/k", b"v")]
    await again.close()
