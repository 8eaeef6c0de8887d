"""Keys and values.

Source: protocol/rpc.md §6, protocol/http-api.md §6.4.
"""

from isthmus.model.query import QueryMeta, QueryOptions
from isthmus.model.record import Record, Uint

KV_SET = "set"
KV_CAS = "cas"
KV_DELETE = "delete"
KV_DELETE_CAS = "delete-cas"
KV_DELETE_TREE = "delete-tree"
KV_LOCK = "lock"
KV_UNLOCK = "unlock"


class DirEntry(Record, frozen=True, kw_only=True):
    """A key with its value, flags and lock.

    `value` is None where Go has a nil slice: an empty value and a listing without values.
    """

    json_omit_empty = frozenset({"session"})

    lock_index: Uint = 0
    key: str = ""
    flags: Uint = 0
    value: bytes | None = None
    session: str = ""
    create_index: Uint = 0
    modify_index: Uint = 0


class KVSRequest(Record, frozen=True, kw_only=True):
    """Write of a key: `op` is one of the ``KV_`` constants."""

    datacenter: str = ""
    op: str = ""
    dir_ent: DirEntry = DirEntry()
    token: str = ""


class KeyRequest(QueryOptions, frozen=True, kw_only=True):
    """Read of a key, or of all under it as a prefix."""

    datacenter: str = ""
    key: str = ""


class KeyListRequest(QueryOptions, frozen=True, kw_only=True):
    """Keys under a prefix, folded at a separator (misspelt on the wire)."""

    datacenter: str = ""
    prefix: str = ""
    seperator: str = ""


class IndexedDirEntries(QueryMeta, frozen=True, kw_only=True):
    """Reply of ``KVS.Get`` and ``KVS.List``."""

    entries: tuple[DirEntry, ...] | None = None


class IndexedKeyList(QueryMeta, frozen=True, kw_only=True):
    """Reply of ``KVS.ListKeys``."""

    keys: tuple[str, ...] | None = None
