"""Putting a snapshot in the place of all data, at once for every reader.

The rows are written under the next generation, which nobody reads, in batches that leave the
index as it is; one more commit makes that generation the current one. Whatever stops the work
before leaves rows that nobody reads: the next leader, or the next restore, removes them. A key
of the generation's own tells that they are there. Source: design of storage, §9.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from isthmus.errors import InvalidRequest, NoLeader
from isthmus.store.engine import (
    EMPTY_INDEX,
    Batch,
    Engine,
    EngineUnavailable,
    Lead,
    LeaderInfo,
)
from isthmus.store.keys import (
    encode_index,
    prefix_end,
    row_key,
    rows_prefix,
    table_index_key,
)
from isthmus.store.rows import encode_row
from isthmus.store.store import Store

STAGED_ROWS_MAX: Final = 500
"""Rows encoded at once, so that the loop is not held for long."""
STAGED_SIZE_MAX: Final = 512 * 1024
"""Bytes of rows in one batch, unless a single row is larger."""
REMOVED_ROWS: Final = 5000
"""Old rows removed by one commit, about."""
GENERATIONS: Final = 0x10000
"""Generations are counted in 4 hexadecimal digits, and then from the beginning."""

_Range = tuple[bytes, bytes]


class Restoring:
    """One restore by the leader. Every commit is fenced with its leadership.

    Args:
        store: The tables that are served.
        engine: Where they are durable.
        lead: The leadership.
        batch_id: Makes ids of batches.
        is_open: Whether to go on; asked between two batches.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        *,
        lead: Lead,
        batch_id: Callable[[], bytes],
        is_open: Callable[[], bool],
    ) -> None:
        self._store, self._engine, self._lead = store, engine, lead
        self._batch_id, self._is_open = batch_id, is_open
        self.generation = 0
        """The generation that is written, once it is known."""

    async def restore(self, fresh: Store, *, index: int) -> list[_Range]:
        """Replace the tables by others.

        Args:
            fresh: What they are to hold; not to be used by anyone else any more.
            index: Index that it was taken at.

        Returns:
            What may be removed now: ranges of keys, with about `REMOVED_ROWS` rows each.

        Raises:
            NoLeader: `is_open` says that it is enough; nothing changed.
            EngineError: A commit failed; nothing changed unless the class says otherwise.
        """
        # Only now: a restore that ran before this one has used its own.
        self.generation = next_generation(self._store.generation)
        await self._stage(fresh)
        target = max(self._store.index, index) + 1
        marker = table_index_key(self.generation)
        indexes = {
            table_index_key(self.generation, name): encode_index(target)
            for name in fresh.row_counts()
        }
        await self._commit(
            Batch(
                puts=indexes,
                deletes={marker},
                index=target,
                id=self._batch_id(),
                commands=1,
                generation=self.generation,
            )
        )
        old = [*_slices(self._store), *generation_ranges(self._store.generation)]
        fresh.loaded(
            index=target,
            generation=self.generation,
            table_indexes=indexes.items(),
            served=False,
        )
        self._store.adopt(fresh)
        return old

    async def _stage(self, fresh: Store) -> None:
        """Write all rows under the generation to come, which is emptied first."""
        marker = {table_index_key(self.generation): encode_index(0)}
        await self._commit(self._batch(ranges=generation_ranges(self.generation)))
        await self._commit(self._batch(puts=marker))
        limits = self._engine.limits()
        count_max = max(1, min(STAGED_ROWS_MAX, limits.operations_max - 1))
        size_max = min(STAGED_SIZE_MAX, limits.bytes_max)
        puts: dict[bytes, bytes] = {}
        size = 0
        for key, value in self._rows(fresh):
            if puts and (len(puts) >= count_max or size + len(key) + len(value) > size_max):
                await self._commit(self._batch(puts=puts))
                puts, size = {}, 0
            puts[key] = value
            size += len(key) + len(value)
        if puts:
            await self._commit(self._batch(puts=puts))

    def _rows(self, fresh: Store) -> Iterator[tuple[bytes, bytes]]:
        for name, rows in fresh.copy_rows().items():
            for pk, row in rows.items():
                yield row_key(self.generation, name, pk), encode_row(row)

    def _batch(
        self, *, puts: dict[bytes, bytes] | None = None, ranges: list[_Range] | None = None
    ) -> Batch:
        """A batch that no reader sees: the index stays."""
        return Batch(
            puts=puts or {},
            deletes=set(),
            ranges=ranges or [],
            index=self._store.index,
            id=self._batch_id(),
            commands=0,
        )

    async def _commit(self, batch: Batch) -> None:
        if not self._is_open():
            raise NoLeader
        await self._engine.commit(self._lead, self._store.index, batch)
        await asyncio.sleep(0)  # Whatever the engine: others have their turn.

    async def remove(self, ranges: list[_Range]) -> None:
        """Remove rows that nobody reads."""
        await self._commit(self._batch(ranges=ranges))


@dataclass(frozen=True, slots=True)
class Filled:
    """An engine that was empty and has all data now.

    Attributes:
        lead: Our leadership there.
        store: The tables as that engine has them.
        restoring: With which what is left may be removed.
        left: Ranges of keys that nobody reads.
    """

    lead: Lead
    store: Store
    restoring: Restoring
    left: list[_Range]


async def fill_engine(
    engine: Engine,
    tables: Store,
    *,
    index: int,
    info: LeaderInfo,
    batch_id: Callable[[], bytes],
    is_open: Callable[[], bool] = lambda: True,
) -> Filled:
    """Put tables into an engine that is closed and empty; it is open and led by us then.

    Args:
        engine: Where they go.
        tables: Not to be used by anyone else any more.
        index: Index that they stand at; the engine's goes on from there.
        info: Who we are.
        batch_id: Makes ids of batches.
        is_open: Whether to go on; asked between two batches.

    Raises:
        InvalidRequest: The engine has data; it is closed again, and nothing changed.
        EngineError, NoLeader: It could not be done.
    """
    head = await engine.open()
    if head.index != EMPTY_INDEX:
        await engine.close()
        raise InvalidRequest(f"the storage to move to has data already, at index {head.index}")
    lead = await engine.claim(info, preempt=True)
    if lead is None:
        raise EngineUnavailable(
            "another server has taken the storage to move to; stop it first", operation="claim"
        )
    store = Store()
    store.loaded(index=head.index, generation=head.generation, table_indexes=())
    restoring = Restoring(store, engine, lead=lead, batch_id=batch_id, is_open=is_open)
    left = await restoring.restore(tables, index=index)
    return Filled(lead, store, restoring, left)


def next_generation(current: int) -> int:
    """Generation that a restore writes."""
    return (current + 1) % GENERATIONS


def generation_ranges(generation: int) -> list[_Range]:
    """All that is stored of a generation."""
    return [
        (prefix, _end(prefix)) for prefix in (rows_prefix(generation), table_index_key(generation))
    ]


def _slices(store: Store) -> Iterator[_Range]:
    """Ranges of about `REMOVED_ROWS` rows each that cover a store's rows."""
    for name, marks in store.key_marks(REMOVED_ROWS).items():
        keys = [row_key(store.generation, name, pk) for pk in marks]
        yield from zip(keys, [*keys[1:], _end(row_key(store.generation, name))], strict=False)


def _end(prefix: bytes) -> bytes:
    end = prefix_end(prefix)
    assert end is not None, "these prefixes are text"
    return end


def generation_of(key: bytes) -> int | None:
    """Generation that the key of a table's index belongs to; None when it is no such key."""
    parts = key.split(b"/", 2)
    if len(parts) < 3 or parts[0] != b"i":
        return None
    try:
        return int(parts[1], 16)
    except ValueError:
        return None
