"""Tables that are loaded out of an engine."""

import gc

import pytest

from isthmus.engine.memory import MemoryEngine
from isthmus.model.kv import DirEntry
from isthmus.server.loading import FROZEN_ROWS_MIN, load_tables
from isthmus.store.engine import Corrupt, Engine, LeaderInfo
from isthmus.store.keys import encode_index, row_key, table_index_key
from isthmus.store.rows import encode_row
from isthmus.store.store import Store
from support.batches import make_batch


async def kept(rows: dict[bytes, bytes], *, index: int = 7) -> Engine:
    """An engine that keeps these."""
    engine = MemoryEngine()
    head = await engine.open()
    lead = await engine.claim(LeaderInfo("id-1", "s1", ""))
    assert lead is not None
    await engine.commit(lead, head.index, make_batch(index, puts=rows))
    return engine


def entry(number: int, *, generation: int = 0) -> tuple[bytes, bytes]:
    key = f"k{number}"
    return row_key(generation, "kv", key.encode()), encode_row(DirEntry(key=key))


async def test_rows_of_the_generation_are_loaded_and_the_indexes_of_all_told() -> None:
    engine = await kept(
        {
            **dict([entry(1), entry(2), entry(3, generation=1)]),
            table_index_key(0, "kv"): encode_index(5),
            table_index_key(1, "kv"): encode_index(6),
        }
    )
    store = Store()
    told = await load_tables(store, engine, await engine.open())
    assert store.row_counts()["kv"] == 2
    assert (store.index, store.generation) == (7, 0)
    assert set(told) == {table_index_key(0, "kv"), table_index_key(1, "kv")}


async def test_garbage_collection_goes_on_and_leaves_many_rows_alone() -> None:
    rows = dict(entry(number) for number in range(FROZEN_ROWS_MIN))
    engine = await kept(rows)
    frozen = gc.get_freeze_count()
    await load_tables(Store(), engine, await engine.open())
    assert gc.isenabled()
    assert gc.get_freeze_count() > frozen


async def test_a_row_that_cannot_be_read_stops_the_load_and_nothing_else() -> None:
    engine = await kept({row_key(0, "kv", b"k"): b"\x02\xc1"})
    with pytest.raises(Corrupt, match="unreadable row"):
        await load_tables(Store(), engine, await engine.open())
    assert gc.isenabled()
