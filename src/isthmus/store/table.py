"""Rows by primary key, in order, with secondary indexes; and a view with changes laid over.

Rows are immutable records: whoever holds one may keep it. A table holds committed rows only;
commands work on an `Overlay`, whose changes reach the tables when they are durable.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, NamedTuple, TypeVar

from sortedcontainers import SortedList

from isthmus.model.record import Record
from isthmus.store.keys import prefix_end
from isthmus.units import Duration

Row = TypeVar("Row", bound=Record)


@dataclass(frozen=True)
class Schema(Generic[Row]):
    """What a table holds.

    Attributes:
        name: Name of the table, part of the stored keys.
        record: Type of its rows.
        key: Primary key of a row.
        indexes: Keys of a row in each secondary index; none when the row is not in it.
    """

    name: str
    record: type[Row]
    key: Callable[[Row], bytes]
    indexes: Mapping[str, Callable[[Row], tuple[bytes, ...]]] = field(default_factory=dict)


class Table(Generic[Row]):
    """The rows of a schema.

    Attributes:
        index: Modify index of the last write to the table, deletes included; 0 at first.
    """

    def __init__(self, schema: Schema[Row]) -> None:
        self.schema: Final = schema
        self.index = 0
        self._rows: dict[bytes, Row] = {}
        self._keys = SortedList()
        self._unsorted: list[bytes] = []
        # A bucket is the primary key itself while it is the only one: most are.
        self._buckets: dict[str, dict[bytes, bytes | list[bytes]]] = {
            name: {} for name in schema.indexes
        }

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        """Rows in order of their keys."""
        rows = self._rows
        return (rows[pk] for pk in self._keys)

    def get(self, pk: bytes) -> Row | None:
        """The row under a primary key."""
        return self._rows.get(pk)

    def prefix(self, prefix: bytes) -> Iterator[Row]:
        """Rows whose primary key starts with `prefix`, in order."""
        rows = self._rows
        return (rows[pk] for pk in self.keys(prefix))

    def keys(self, prefix: bytes) -> Iterator[bytes]:
        """Primary keys that start with `prefix`, in order; do not write while iterating."""
        keys: Iterator[bytes] = self._keys.irange(prefix, prefix_end(prefix), (True, False))
        return keys

    def by(self, index: str, key: bytes) -> list[Row]:
        """Rows that a secondary index has under `key`, in order of their primary keys."""
        bucket = self._buckets[index].get(key)
        if bucket is None:
            return []
        if isinstance(bucket, bytes):
            return [self._rows[bucket]]
        rows = self._rows
        return [rows[pk] for pk in bucket]

    def has(self, index: str, key: bytes) -> bool:
        """Whether a secondary index has a row under `key`."""
        return key in self._buckets[index]

    def index_keys(self, index: str) -> Iterable[bytes]:
        """All keys of a secondary index, in no order."""
        return self._buckets[index].keys()

    def key_marks(self, every: int) -> list[bytes]:
        """The first primary key of all, in order, and each so-and-so-many-th after it."""
        return list(self._keys[::every])

    def copy_rows(self) -> dict[bytes, Row]:
        """All rows by primary key, in no order; what is written later is not in it."""
        return self._rows.copy()

    def fill(self, chunks: Iterable[tuple[Sequence[bytes], Sequence[Row]]]) -> None:
        """Insert many rows, chunk by chunk with their primary keys, none of which is there yet.

        Call `filled` after the last; before that only `get` finds them.
        """
        indexes = [(self._buckets[name], keys_of) for name, keys_of in self.schema.indexes.items()]
        for pks, rows in chunks:
            count = len(self._rows) + len(pks)
            self._rows.update(zip(pks, rows, strict=True))
            assert len(self._rows) == count, "a table is filled once"
            self._unsorted += pks
            for buckets, keys_of in indexes:
                for pk, keys in zip(pks, map(keys_of, rows), strict=True):
                    for key in keys:
                        bucket = buckets.get(key)
                        if bucket is None:
                            buckets[key] = pk
                        elif type(bucket) is list and bucket[-1] < pk:
                            bucket.append(pk)  # Nearly always: they come in order.
                        else:
                            _add(buckets, key, pk)

    def filled(self) -> None:
        """Put the rows of `fill` in order."""
        self._keys.update(self._unsorted)
        self._unsorted = []

    def adopt(self, other: "Table[Row]") -> None:
        """Hold what another table of the same schema holds; that one is not to be used again."""
        assert other.schema is self.schema
        assert not other._unsorted
        self._rows, self._keys, self._buckets = other._rows, other._keys, other._buckets
        self.index = other.index

    def put(self, row: Row, pk: bytes | None = None) -> Row | None:
        """Insert or replace a row; return the one it replaced.

        Args:
            row: What to insert.
            pk: Its primary key, if the caller knows it.
        """
        if pk is None:
            pk = self.schema.key(row)
        old = self._rows.get(pk)
        self._rows[pk] = row
        if old is None:
            self._keys.add(pk)
        for name, keys_of in self.schema.indexes.items():
            after = keys_of(row)
            before = () if old is None else keys_of(old)
            if before != after:
                for key in before:
                    self._drop(name, key, pk)
                for key in after:
                    _add(self._buckets[name], key, pk)
        return old

    def delete(self, pk: bytes) -> Row | None:
        """Remove a row; return it, or None when there was none."""
        old = self._rows.pop(pk, None)
        if old is not None:
            self._keys.remove(pk)
            for name, keys_of in self.schema.indexes.items():
                for key in keys_of(old):
                    self._drop(name, key, pk)
        return old

    def _drop(self, name: str, key: bytes, pk: bytes) -> None:
        buckets = self._buckets[name]
        bucket = buckets[key]
        if isinstance(bucket, bytes):
            del buckets[key]
            return
        del bucket[bisect_left(bucket, pk)]
        if len(bucket) == 1:
            buckets[key] = bucket[0]


def _add(buckets: dict[bytes, bytes | list[bytes]], key: bytes, pk: bytes) -> None:
    """Add a primary key to the bucket of a secondary index's key."""
    bucket = buckets.get(key)
    if bucket is None:
        buckets[key] = pk
    elif isinstance(bucket, bytes):
        buckets[key] = [bucket, pk] if bucket < pk else [pk, bucket]
    else:
        insort(bucket, pk)


class TableChange(NamedTuple):
    """A row as an overlay leaves it: `row` is None when it is deleted."""

    row: Any
    modify_index: int


class TableView(Generic[Row]):
    """A table as it will be: pending rows over committed ones."""

    def __init__(self, table: Table[Row], undo: list[Callable[[], object]]) -> None:
        self._table = table
        self._undo = undo
        self._pending = Table(table.schema)
        self.changes: dict[bytes, TableChange] = {}

    @property
    def schema(self) -> Schema[Row]:
        """Schema of the table."""
        return self._table.schema

    def get(self, pk: bytes) -> Row | None:
        """The row under a primary key."""
        change = self.changes.get(pk)
        if change is not None:
            row: Row | None = change.row
            return row
        return self._table.get(pk)

    def prefix(self, prefix: bytes) -> list[Row]:
        """Rows whose primary key starts with `prefix`, in order."""
        rows = [(pk, self._table.get(pk)) for pk in self._table.keys(prefix)]
        return self._merge(rows, [(pk, self._pending.get(pk)) for pk in self._pending.keys(prefix)])

    def by(self, index: str, key: bytes) -> list[Row]:
        """Rows that a secondary index has under `key`, in order of their primary keys."""
        key_of = self.schema.key
        rows = [(key_of(row), row) for row in self._table.by(index, key)]
        return self._merge(rows, [(key_of(row), row) for row in self._pending.by(index, key)])

    def _merge(
        self, rows: Sequence[tuple[bytes, Row | None]], pending: Sequence[tuple[bytes, Row | None]]
    ) -> list[Row]:
        if self.changes:
            kept = [item for item in rows if item[0] not in self.changes]
            rows = sorted([*kept, *pending], key=lambda item: item[0]) if pending else kept
        return [row for _, row in rows if row is not None]

    def put(self, row: Row, index: int) -> None:
        """Insert or replace a row; `index` is the modify index of the write."""
        pk = self.schema.key(row)
        self._remember(pk)
        self._pending.put(row, pk)
        self.changes[pk] = TableChange(row, index)

    def delete(self, pk: bytes, index: int) -> Row | None:
        """Remove a row; return it, or None when there was none, which changes nothing."""
        old = self.get(pk)
        if old is not None:
            self._remember(pk)
            self._pending.delete(pk)
            self.changes[pk] = TableChange(None, index)
        return old

    def _remember(self, pk: bytes) -> None:
        before = self.changes.get(pk)
        self._undo.append(lambda: self._restore(pk, before))

    def _restore(self, pk: bytes, before: TableChange | None) -> None:
        if before is None:
            del self.changes[pk]
        else:
            self.changes[pk] = before
        if before is None or before.row is None:
            self._pending.delete(pk)
        else:
            self._pending.put(before.row)


class Overlay:
    """Pending changes over a set of tables: what a batch of commands makes of them.

    Reads see pending rows first. `mark` and `rollback` undo what a command did before it failed.

    Args:
        tables: The committed rows.
        closed: Keys whose locks nobody may take yet.

    Attributes:
        lost_locks: Keys whose locks were lost, and for how long they are closed after that.
    """

    def __init__(
        self, tables: Mapping[str, Table[Any]], *, closed: Container[bytes] = frozenset()
    ) -> None:
        self._undo: list[Callable[[], object]] = []
        self._closed = closed
        self.tables: Final = {name: TableView(table, self._undo) for name, table in tables.items()}
        self.lost_locks: Final[dict[bytes, Duration]] = {}

    def lose_lock(self, key: bytes, delay: Duration) -> None:
        """Close a lock that was lost, for so long from the commit on."""
        before = self.lost_locks.get(key)
        self.lost_locks[key] = delay
        self._undo.append(lambda: self._regain_lock(key, before))

    def _regain_lock(self, key: bytes, before: Duration | None) -> None:
        if before is None:
            del self.lost_locks[key]
        else:
            self.lost_locks[key] = before

    def is_lock_closed(self, key: bytes) -> bool:
        """Whether a lock was lost too lately to be taken."""
        return key in self.lost_locks or key in self._closed

    def mark(self) -> int:
        """A point to roll back to."""
        return len(self._undo)

    def rollback(self, mark: int) -> None:
        """Undo all that was done since `mark`, newest first."""
        while len(self._undo) > mark:
            self._undo.pop()()
