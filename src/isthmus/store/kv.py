"""The key-value table: reads, tombstones, and the write of a key.

Source: protocol/http-api.md §2 "Blocking queries" and §6.4.
"""

from typing import Final

import msgspec
from sortedcontainers import SortedDict

from isthmus.errors import InvalidRequest
from isthmus.model import kv as ops
from isthmus.model.kv import DirEntry, KVSRequest
from isthmus.store.answer import Answer
from isthmus.store.keys import component, prefix_end
from isthmus.store.table import Overlay, Schema, Table, TableView
from isthmus.store.watch import Topic, table_topic

KV: Final = Schema("kv", DirEntry, key=lambda row: component(row.key))
_TABLE_TOPIC: Final = table_topic(KV.name)
_GRAVES_MAX: Final = 65_536


class KeyValues:
    """Reads of the key-value table.

    A deleted key leaves a tombstone, so that the index of what is around it keeps rising. Only
    the youngest are kept: `floor` is an index that no forgotten one exceeds.

    Args:
        table: The committed rows.
        graves_max: How many tombstones to keep.
    """

    def __init__(self, table: Table[DirEntry], *, graves_max: int = _GRAVES_MAX) -> None:
        self._table = table
        self._graves_max = graves_max
        self._graves: dict[bytes, int] = {}  # Oldest first.
        self._sorted_graves: SortedDict[bytes, int] = SortedDict()
        self.floor = 0

    def get(self, key: str) -> Answer[DirEntry | None]:
        """One key; the value is None when it does not exist."""
        pk = component(key)
        row = self._table.get(pk)
        topics = (Topic("kv", pk),)
        if row is not None:
            return Answer(row, row.modify_index, topics, row.modify_index)
        return Answer(None, self._table.index, topics, self._graves.get(pk, self.floor))

    def list(self, prefix: str) -> Answer[tuple[DirEntry, ...]]:
        """All entries under a prefix, in order of their keys as bytes."""
        pk = component(prefix)
        rows = tuple(self._table.prefix(pk))
        if not pk:
            return Answer(rows, self._table.index, (_TABLE_TOPIC,), self._table.index)
        changed = max((row.modify_index for row in rows), default=0)
        for grave in self._sorted_graves.irange(pk, prefix_end(pk), (True, False)):
            changed = max(changed, self._graves[grave])
        changed = max(changed, self.floor)
        return Answer(rows, changed or self._table.index, (Topic("kv", pk, True),), changed)

    def keys(self, prefix: str, separator: str) -> Answer[tuple[str, ...]]:
        """Keys under a prefix; what follows the next separator is folded into one key."""
        answer = self.list(prefix)
        return answer.of(_fold(answer.value, len(prefix), separator))

    def observe(
        self, pk: bytes, old: DirEntry | None, new: DirEntry | None, index: int
    ) -> tuple[Topic, ...]:
        """Take note of a committed change; return whom it concerns."""
        if new is not None:
            if pk in self._graves:
                del self._graves[pk], self._sorted_graves[pk]
        elif old is not None:
            self._graves.pop(pk, None)
            self._graves[pk] = self._sorted_graves[pk] = index
            if len(self._graves) > self._graves_max:
                oldest = next(iter(self._graves))
                self.floor = max(self.floor, self._graves.pop(oldest))
                del self._sorted_graves[oldest]
        return (Topic("kv", pk), _TABLE_TOPIC)


def _fold(rows: tuple[DirEntry, ...], start: int, separator: str) -> tuple[str, ...]:
    if not separator:
        return tuple([row.key for row in rows])
    folded: dict[str, None] = {}
    for row in rows:
        end = row.key.find(separator, start)
        folded[row.key if end < 0 else row.key[: end + len(separator)]] = None
    return tuple(folded)


def apply(overlay: Overlay, request: KVSRequest, index: int) -> bool:
    """Carry out the write of a key.

    Returns:
        For ``cas`` and ``delete-cas`` whether it took place; False for all other operations,
        as in Consul.

    Raises:
        InvalidRequest: The operation is not known, or needs sessions. Nothing changed.
    """
    view: TableView[DirEntry] = overlay.tables[KV.name]
    entry = request.dir_ent
    pk = component(entry.key)
    if request.op == ops.KV_SET:
        _set(view, entry, index)
    elif request.op == ops.KV_DELETE:
        view.delete(pk, index)
    elif request.op == ops.KV_DELETE_TREE:
        for row in view.prefix(pk):
            view.delete(component(row.key), index)
    elif request.op == ops.KV_CAS:
        return _cas(view, entry, index)
    elif request.op == ops.KV_DELETE_CAS:
        old = view.get(pk)
        if old is not None and old.modify_index != entry.modify_index:
            return False
        view.delete(pk, index)
        return True
    elif request.op in {ops.KV_LOCK, ops.KV_UNLOCK}:
        raise InvalidRequest(f"KVS operation '{request.op}' needs a session: not supported yet")
    else:
        raise InvalidRequest(f"Invalid KVS operation '{request.op}'", status=500)
    return False


def _cas(view: TableView[DirEntry], entry: DirEntry, index: int) -> bool:
    """Set if the entry is as the caller saw it: index 0 means that there was none."""
    old = view.get(component(entry.key))
    if entry.modify_index != (0 if old is None else old.modify_index):
        return False
    _set(view, entry, index)
    return True


def _set(view: TableView[DirEntry], entry: DirEntry, index: int) -> None:
    """Write an entry; its lock stays; one that is equal already is left as it is."""
    old = view.get(component(entry.key))
    row = DirEntry(
        key=entry.key,
        flags=entry.flags,
        value=entry.value or None,
        lock_index=old.lock_index if old else 0,
        session=old.session if old else "",
        create_index=old.create_index if old else index,
        modify_index=old.modify_index if old else index,
    )
    if row != old:
        view.put(msgspec.structs.replace(row, modify_index=index), index)
