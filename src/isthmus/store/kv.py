"""The key-value table: reads, tombstones, and the write of a key.

Source: protocol/http-api.md §2 "Blocking queries" and §6.4.
"""

from typing import Final

import msgspec
from sortedcontainers import SortedDict

from isthmus.errors import InvalidRequest, RequestError
from isthmus.model import kv as ops
from isthmus.model.kv import DirEntry, KVSRequest
from isthmus.store.answer import Answer
from isthmus.store.keys import component, folded_id, prefix_end
from isthmus.store.session import session_key
from isthmus.store.session import view as sessions_of
from isthmus.store.table import Overlay, Schema, Table, TableView
from isthmus.store.watch import Topic, table_topic

KV: Final = Schema(
    "kv",
    DirEntry,
    key=lambda row: component(row.key),
    indexes={"session": lambda row: (folded_id(row.session),) if row.session else ()},
)
_TABLE_TOPIC: Final = table_topic(KV.name)
_GRAVES_MAX: Final = 65_536
_NO_SESSION: Final = "missing session"


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
        else:  # It is gone, be it that it came in the same batch: its prefix has changed.
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
        For ``cas``, ``delete-cas``, ``lock`` and ``unlock`` whether it took place; False for
        all other operations, as in Consul.

    Raises:
        RequestError: The operation is not known, or there is no such session. The caller rolls
            back.
    """
    entry, op = request.dir_ent, request.op
    if op == ops.KV_SET:
        put(overlay, entry, index)
    elif op == ops.KV_DELETE:
        view(overlay).delete(component(entry.key), index)
    elif op == ops.KV_DELETE_TREE:
        delete_tree(overlay, entry.key, index)
    elif op == ops.KV_CAS:
        return cas(overlay, entry, index) is not None
    elif op == ops.KV_DELETE_CAS:
        return delete_cas(overlay, entry, index)
    elif op == ops.KV_LOCK:
        if overlay.is_lock_closed(component(entry.key)):
            return False
        return lock(overlay, entry, index) is not None
    elif op == ops.KV_UNLOCK:
        return unlock(overlay, entry, index) is not None
    else:
        raise InvalidRequest(f"Invalid KVS operation '{op}'", status=500)
    return False


def view(overlay: Overlay) -> TableView[DirEntry]:
    """The keys and values as the command before left them."""
    return overlay.tables[KV.name]


def put(overlay: Overlay, entry: DirEntry, index: int) -> DirEntry:
    """Write an entry, whoever holds its lock, which stays; return it as it is then."""
    old = view(overlay).get(component(entry.key))
    session = old.session if old is not None else ""
    # A plain write counts the locks anew, as Consul's does.
    return _store(overlay, entry, old, session=session, lock_index=entry.lock_index, index=index)


def cas(overlay: Overlay, entry: DirEntry, index: int) -> DirEntry | None:
    """Write an entry if it is as the caller saw it: index 0 means that there was none."""
    old = view(overlay).get(component(entry.key))
    if entry.modify_index != (0 if old is None else old.modify_index):
        return None
    return put(overlay, entry, index)


def lock(overlay: Overlay, entry: DirEntry, index: int) -> DirEntry | None:
    """Write an entry and lock it for its session; None if another session holds the lock.

    The caller looks whether the lock may be taken yet (`Overlay.is_lock_closed`).

    Raises:
        RequestError: There is no such session.
    """
    if not entry.session:
        raise RequestError(_NO_SESSION)
    if sessions_of(overlay).get(session_key(entry.session)) is None:
        raise RequestError(f"invalid session {msgspec.json.encode(entry.session).decode()}")
    old = view(overlay).get(component(entry.key))
    count = 0 if old is None else old.lock_index
    if old is not None and old.session:
        if old.session != entry.session:
            return None
    else:
        count += 1
    return _store(overlay, entry, old, session=entry.session, lock_index=count, index=index)


def unlock(overlay: Overlay, entry: DirEntry, index: int) -> DirEntry | None:
    """Write an entry and give up its lock; None if its session does not hold it.

    Raises:
        RequestError: No session is named.
    """
    if not entry.session:
        raise RequestError(_NO_SESSION)
    old = view(overlay).get(component(entry.key))
    if old is None or old.session != entry.session:
        return None
    return _store(overlay, entry, old, session="", lock_index=old.lock_index, index=index)


def delete_cas(overlay: Overlay, entry: DirEntry, index: int) -> bool:
    """Delete a key if it is as the caller saw it; one that is not there counts as deleted."""
    keys, pk = view(overlay), component(entry.key)
    old = keys.get(pk)
    if old is not None and old.modify_index != entry.modify_index:
        return False
    keys.delete(pk, index)
    return True


def delete_tree(overlay: Overlay, prefix: str, index: int) -> None:
    """Delete all keys under a prefix."""
    keys = view(overlay)
    for row in keys.prefix(component(prefix)):
        keys.delete(KV.key(row), index)


def _store(
    overlay: Overlay,
    entry: DirEntry,
    old: DirEntry | None,
    *,
    session: str,
    lock_index: int,
    index: int,
) -> DirEntry:
    """Write an entry in place of another; one that is equal already is left as it is."""
    row = DirEntry(
        key=entry.key,
        flags=entry.flags,
        value=entry.value or None,
        lock_index=lock_index,
        session=session,
        create_index=old.create_index if old else index,
        modify_index=old.modify_index if old else index,
    )
    if row != old:
        row = msgspec.structs.replace(row, modify_index=index)
        view(overlay).put(row, index)
    return row
