"""A snapshot takes the place of all data on every engine, and on each that of another's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isthmus.engine.memory import MemoryEngine
from isthmus.model.kv import KV_DELETE, DirEntry, KVSRequest
from isthmus.server.restoring import GENERATIONS
from isthmus.store.engine import Batch, Engine, EngineUnavailable, Head, Lead
from isthmus.store.snapshot import load_snapshot
from support.etcd import make_etcd
from support.restoring import filled, put, restore, saved, started, stored, tidied
from support.servers import make_sqlite

Reopen = Callable[[], Engine]


async def test_restored_data_is_what_was_saved_and_survives_a_restart(reopen: Reopen) -> None:
    replica = await started(reopen())
    await filled(replica)
    before, index = replica.store.copy_rows(), replica.store.index
    snapshot = saved(replica.store)
    await replica.submit(KVSRequest(op=KV_DELETE, dir_ent=DirEntry(key="k1")))
    await replica.submit(put("later"))
    reached = await restore(replica, snapshot)
    assert reached == replica.store.index == index + 3
    assert replica.store.copy_rows() == before
    await replica.submit(put("after"))
    await tidied(replica, 1)
    rows = replica.store.copy_rows()
    await replica.stop()
    again = await started(reopen())
    assert (again.store.copy_rows(), again.store.index, again.store.generation) == (
        rows,
        index + 4,
        1,
    )
    assert {key[:7] for key, _ in await stored(again.engine)} == {b"d/0001/"}
    await again.stop()


async def test_index_follows_the_greater_of_both(reopen: Reopen) -> None:
    replica = await started(reopen())
    _, fresh = load_snapshot(saved(replica.store))
    assert await replica.restore(fresh, index=5000) == 5001
    await replica.submit(put("k"))
    found = replica.store.kv.get("k").value
    assert found is not None
    assert found.modify_index == 5002
    await replica.stop()


async def test_generations_begin_anew_behind_the_last(reopen: Reopen) -> None:
    replica = await started(reopen())
    await replica.submit(put("k"))
    snapshot = saved(replica.store)
    for _ in range(3):
        await restore(replica, snapshot)
        await tidied(replica, replica.store.generation)
    assert replica.store.generation == 3
    replica.store.generation = GENERATIONS - 1  # As if there had been many more.
    await restore(replica, snapshot)
    assert replica.store.generation == 0
    assert [row.key for row in replica.store.kv.list("").value] == ["k"]
    await replica.stop()


class Failing:
    """An engine whose commits fail from the nth on, once it is told so."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.left: int | None = None
        self.shared = engine.shared

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def commit(self, lead: Lead, base: int, batch: Batch) -> Head:
        if self.left is not None:
            if self.left == 0:
                raise EngineUnavailable("the disk is gone", operation="commit")
            self.left -= 1
        return await self._engine.commit(lead, base, batch)


@pytest.mark.parametrize("commits", [0, 1, 2, 3])
async def test_restore_that_breaks_off_leaves_the_old_data_and_is_cleared_away(
    reopen: Reopen, commits: int
) -> None:
    engine = Failing(reopen())
    replica = await started(engine)
    await filled(replica)
    snapshot = saved(replica.store)
    await replica.submit(put("later"))
    rows, index = replica.store.copy_rows(), replica.store.index
    engine.left = commits
    with pytest.raises(EngineUnavailable):
        await restore(replica, snapshot)
    assert (replica.store.copy_rows(), replica.store.index) == (rows, index)
    engine.left = None
    await replica.stop()
    again = await started(reopen())
    assert (again.store.copy_rows(), again.store.index) == (rows, index)
    await tidied(again, 0)
    assert {key[:7] for key, _ in await stored(again.engine)} == {b"d/0000/"}
    await restore(again, snapshot)
    assert again.store.kv.get("later").value is None
    await again.stop()


async def test_rows_left_by_an_earlier_attempt_are_not_taken_over(reopen: Reopen) -> None:
    engine = Failing(reopen())
    replica = await started(engine)
    empty = saved(replica.store)
    await filled(replica)
    engine.left = 3
    with pytest.raises(EngineUnavailable):
        await restore(replica, saved(replica.store))
    engine.left = None
    await restore(replica, empty)
    await replica.stop()
    again = await started(reopen())
    assert sum(again.store.row_counts().values()) == 0
    await again.stop()


@pytest.mark.parametrize("target", ["memory", "sqlite", "etcd"])
async def test_snapshot_of_one_engine_is_restored_into_another(
    reopen: Reopen, target: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = await started(reopen())
    await filled(source)
    snapshot, rows = saved(source.store), source.store.copy_rows()
    await source.stop()
    other: Engine
    if target == "memory":
        other = MemoryEngine()
    elif target == "sqlite":
        other = make_sqlite(tmp_path / "other")
    else:
        other = make_etcd(request.getfixturevalue("etcd"), f"/other/{tmp_path.name}/")
    replica = await started(other)
    await replica.submit(put("was here before"))
    await restore(replica, snapshot)
    assert replica.store.copy_rows() == rows
    await replica.stop()
