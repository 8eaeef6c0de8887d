"""The store: all tables, what is read from them, and how committed batches reach them."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from isthmus.model.operator import AutopilotConfig
from isthmus.model.record import Record
from isthmus.store.autopilot import AUTOPILOT, AutopilotSettings
from isthmus.store.catalog import CHECKS, NODES, SERVICES, Catalog, RowChange
from isthmus.store.config_entry import CONFIG_ENTRIES, ConfigEntries
from isthmus.store.coordinates import COORDINATES, Coordinates
from isthmus.store.delays import LockDelays
from isthmus.store.engine import EMPTY_INDEX, Batch, Change, Corrupt
from isthmus.store.federation import FEDERATION_STATES, FederationStates
from isthmus.store.keys import (
    decode_index,
    encode_index,
    prefix_end,
    row_key,
    split_row_key,
    table_index_key,
    table_part,
)
from isthmus.store.kv import KV, KeyValues
from isthmus.store.prepared_query import PREPARED_QUERIES, PreparedQueries
from isthmus.store.rows import decode_row, decode_rows, encode_row
from isthmus.store.session import SESSIONS, Sessions
from isthmus.store.sharing import Sharing
from isthmus.store.table import Overlay, Schema, Table
from isthmus.store.watch import Topic, Watches

SCHEMAS: Final[tuple[Schema[Any], ...]] = (
    NODES,
    SERVICES,
    CHECKS,
    COORDINATES,
    KV,
    FEDERATION_STATES,
    AUTOPILOT,
    PREPARED_QUERIES,
    SESSIONS,
    CONFIG_ENTRIES,
)
"""Every table."""

_ROWS_AT_ONCE: Final = 500
"""Rows that are loaded together: as many as stay in a processor's cache meanwhile."""
_TABLE_INDEXES: Final = b"i/"
_CATALOG: Final = frozenset({NODES.name, SERVICES.name, CHECKS.name})


class Store:
    """Committed tables and the reads over them.

    Attributes:
        catalog: Nodes, services, checks.
        coordinates: Where the nodes lie.
        kv: Keys and values.
        federation: Federation states.
        queries: Prepared queries.
        sessions: Sessions, which hold the locks of keys.
        config_entries: What operators say of services, proxies and gateways.
        lock_delays: Locks that were lost too lately to be taken.
        autopilot: How servers come and go by themselves.
        watches: Who waits for what.
        index: Index of the last committed command.
        version: Another number after each change of a table.
        generation: Which set of stored rows the tables hold.
    """

    def __init__(
        self, *, watches: Watches | None = None, autopilot: AutopilotConfig | None = None
    ) -> None:
        self.watches = watches or Watches()
        self.index = EMPTY_INDEX
        self.version = 0
        self.generation = 0
        self._sharing = Sharing()
        self._tables: dict[str, Table[Any]] = {schema.name: Table(schema) for schema in SCHEMAS}
        self.catalog = Catalog(
            self._tables[NODES.name], self._tables[SERVICES.name], self._tables[CHECKS.name]
        )
        self.coordinates = Coordinates(self._tables[COORDINATES.name])
        self.kv = KeyValues(self._tables[KV.name])
        self.federation = FederationStates(self._tables[FEDERATION_STATES.name])
        self.queries = PreparedQueries(self._tables[PREPARED_QUERIES.name])
        self.sessions = Sessions(self._tables[SESSIONS.name])
        self.config_entries = ConfigEntries(self._tables[CONFIG_ENTRIES.name])
        self.lock_delays = LockDelays()
        self.autopilot = AutopilotSettings(
            self._tables[AUTOPILOT.name], autopilot or AutopilotConfig()
        )

    def overlay(self) -> Overlay:
        """Begin a batch of commands."""
        return Overlay(self._tables, closed=self.lock_delays)

    def row_counts(self) -> dict[str, int]:
        """Number of rows by table."""
        return {name: len(table) for name, table in self._tables.items()}

    def key_marks(self, every: int) -> dict[str, list[bytes]]:
        """By table the first primary key in order, and each so-and-so-many-th after it."""
        return {name: table.key_marks(every) for name, table in self._tables.items()}

    def copy_rows(self) -> dict[str, dict[bytes, Any]]:
        """All rows by table and primary key; what is written later is not in it."""
        return {name: table.copy_rows() for name, table in self._tables.items()}

    # Loading ----------------------------------------------------------------------------------

    def load(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Put stored rows into empty tables; call `loaded` after the last.

        Raises:
            Corrupt: A row cannot be read.
        """
        rows, start = sorted(pairs), 0  # Engines yield them in order.
        while start < len(rows):
            prefix = table_part(rows[start][0])
            end = bisect_left(rows, (prefix_end(prefix),), start)
            table = self._tables.get(split_row_key(prefix)[0])
            if table is not None:  # Else of a release that knows more tables: not ours to read.
                table.fill(self._chunks(table.schema, len(prefix), rows[start:end]))
            start = end

    def _chunks(
        self, schema: Schema[Any], cut: int, pairs: Sequence[tuple[bytes, bytes]]
    ) -> Iterator[tuple[list[bytes], list[Any]]]:
        """Rows and their primary keys, which follow `cut` bytes of the stored ones."""
        for start in range(0, len(pairs), _ROWS_AT_ONCE):
            chunk = pairs[start : start + _ROWS_AT_ONCE]
            rows = decode_rows(schema.record, [data for _, data in chunk])
            if schema.name in _CATALOG:
                self._sharing.take(rows)
            yield [key[cut:] for key, _ in chunk], rows

    def fill(self, name: str, rows: Iterable[Record]) -> None:
        """Put rows into a table that is empty yet; call `loaded` after the last table.

        Raises:
            Corrupt: Two rows have the same key.
        """
        table, shared = self._tables[name], name in _CATALOG
        found = [self._sharing.row(row) if shared else row for row in rows]
        pks = list(map(table.schema.key, found))
        if len(set(pks)) < len(pks) or any(table.get(pk) is not None for pk in pks):
            raise Corrupt(f"a row of {name} is there twice", operation="load")
        table.fill([(pks, found)])
        table.filled()

    def loaded(
        self,
        *,
        index: int,
        generation: int,
        table_indexes: Iterable[tuple[bytes, bytes]],
        served: bool = True,
    ) -> None:
        """Finish loading: the tables stand at `index`; no reader's index may go back behind it.

        Args:
            index: Index of the last command that the tables hold.
            generation: Which set of stored rows they hold.
            table_indexes: Keys and values of the tables' stored indexes.
            served: Whether this store will be read, and not only be adopted by another.
        """
        self.index, self.generation = index, generation
        for table in self._tables.values():
            table.filled()
        for key, data in table_indexes:
            self._load_table_index(key, data)
        if served:
            self._refresh()

    def adopt(self, other: "Store") -> int:
        """Hold what another store was loaded with; whoever waits here reads again.

        Returns:
            How many readers woke.
        """
        for name, table in self._tables.items():
            table.adopt(other._tables[name])
        self._sharing = other._sharing
        replaced = other.generation != self.generation
        if replaced:
            self.lock_delays.clear()
        self.index, self.generation = other.index, other.generation
        self._refresh()
        return self.watches.wake_all(replaced=replaced)

    def _refresh(self) -> None:
        """Forget what was computed from other rows."""
        self.version += 1
        floor = 0 if self.index == EMPTY_INDEX else self.index
        self.kv.floor = floor
        self.catalog.load(floor)
        self.coordinates.load()
        self.federation.observe()
        self.queries.load()
        self.sessions.loaded()
        self.config_entries.load()

    # Committing -------------------------------------------------------------------------------

    def batch(self, overlay: Overlay, *, index: int, batch_id: bytes, commands: int) -> Batch:
        """What an engine must commit, so that the overlay's changes are durable."""
        puts: dict[bytes, bytes] = {}
        deletes: set[bytes] = set()
        for name, view in overlay.tables.items():
            if not view.changes:
                continue
            for pk, change in view.changes.items():
                key = row_key(self.generation, name, pk)
                if change.row is None:
                    deletes.add(key)
                else:
                    puts[key] = encode_row(change.row)
            last = max(change.modify_index for change in view.changes.values())
            puts[table_index_key(self.generation, name)] = encode_index(last)
        return Batch(puts=puts, deletes=deletes, index=index, id=batch_id, commands=commands)

    def merge(self, overlay: Overlay, *, index: int) -> int:
        """Take over an overlay whose batch is durable; wake whom it concerns, each once.

        Returns:
            How many readers woke.
        """
        changes: list[RowChange] = []
        for name, view in overlay.tables.items():
            table = self._tables[name]
            for pk, (row, at) in view.changes.items():
                if row is None:
                    old = table.delete(pk)
                else:
                    row = self._sharing.row(row) if name in _CATALOG else row
                    old = table.put(row, pk)
                table.index = max(table.index, at)
                changes.append(RowChange(name, pk, old, row, at))
        for pk, delay in overlay.lost_locks.items():
            self.lock_delays.close(pk, delay)
        assert index >= self.index
        self.index = index
        self.version += 1
        return self.watches.wake(self._observe(changes))

    def follow(self, change: Change) -> int:
        """Take over a commit of another server; wake whom it concerns, each once.

        A row that was deleted counts as deleted at the commit's index, which is that of its last
        command, so that no reader can miss it.

        Returns:
            How many readers woke.

        Raises:
            Corrupt: A row cannot be read; some rows may have changed: load everything again.
        """
        assert change.generation == self.generation
        changes: list[RowChange] = []
        for key in [*self._in_ranges(change.ranges), *change.deletes]:
            name, pk = split_row_key(key)
            table = self._tables.get(name)
            if table is not None and (old := table.delete(pk)) is not None:
                changes.append(RowChange(name, pk, old, None, change.index))
        for key, data in change.puts.items():
            if key.startswith(_TABLE_INDEXES):
                self._load_table_index(key, data)
                continue
            name, pk = split_row_key(key)
            table = self._tables.get(name)
            if table is not None:
                row = decode_row(table.schema.record, data)
                row = self._sharing.row(row) if name in _CATALOG else row
                at = getattr(getattr(row, "service", row), "modify_index", change.index)
                changes.append(RowChange(name, pk, table.put(row, pk), row, at))
        self.lock_delays.observe(changes)
        self.index = max(self.index, change.index)
        self.version += 1
        return self.watches.wake(self._observe(changes))

    def _in_ranges(self, ranges: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
        """Keys of our rows in half-open ranges of keys."""
        for start, end in ranges:
            name, first = split_row_key(start)
            table = self._tables.get(name)
            if table is not None:
                for pk in list(table.keys(b"")):
                    key = row_key(self.generation, name, pk)
                    if pk >= first and key < end:
                        yield key

    def _load_table_index(self, key: bytes, data: bytes) -> None:
        table = self._tables.get(key.rpartition(b"/")[2].decode("ascii"))
        if table is not None:
            table.index = max(table.index, decode_index(data))

    def _observe(self, changes: list[RowChange]) -> Iterable[Topic]:
        topics = dict.fromkeys(
            self.catalog.observe(change for change in changes if change.table in _CATALOG)
        )
        for change in changes:
            if change.table == KV.name:
                found = self.kv.observe(change.pk, change.old, change.new, change.modify_index)
                topics.update(dict.fromkeys(found))
            elif change.table == COORDINATES.name:
                found = self.coordinates.observe(change.new or change.old)
                topics.update(dict.fromkeys(found))
            elif change.table == FEDERATION_STATES.name:
                topics.update(dict.fromkeys(self.federation.observe()))
            elif change.table == PREPARED_QUERIES.name:
                found = self.queries.observe(change.new or change.old)
                topics.update(dict.fromkeys(found))
            elif change.table == SESSIONS.name:
                topics.update(dict.fromkeys(self.sessions.observe(change)))
            elif change.table == CONFIG_ENTRIES.name:
                found = self.config_entries.observe(change.new or change.old, change.modify_index)
                topics.update(dict.fromkeys(found))
        return topics
