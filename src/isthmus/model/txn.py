"""Transactions: up to 64 operations on keys, nodes, services and checks, all or none.

Source: protocol/rpc.md §6, protocol/http-api.md §6.4.
"""

from typing import Final

from isthmus.model.catalog import HealthCheck, Node, NodeService
from isthmus.model.kv import (
    KV_CAS,
    KV_DELETE,
    KV_DELETE_CAS,
    KV_DELETE_TREE,
    KV_LOCK,
    KV_SET,
    KV_UNLOCK,
    DirEntry,
)
from isthmus.model.query import QueryMeta, QueryOptions
from isthmus.model.record import Record
from isthmus.model.session import Session

OPERATION_COUNT_MAX: Final = 64  # Consul's limit.

GET: Final = "get"
ROW_SET: Final = "set"
ROW_CAS: Final = "cas"
ROW_DELETE: Final = "delete"
ROW_DELETE_CAS: Final = "delete-cas"
"""Verbs on nodes, services and checks; sessions can be deleted only."""

KV_GET: Final = "get"
KV_GET_TREE: Final = "get-tree"
KV_CHECK_SESSION: Final = "check-session"
KV_CHECK_INDEX: Final = "check-index"
KV_CHECK_NOT_EXISTS: Final = "check-not-exists"
"""Verbs on keys that only transactions have; the others are those of `model.kv`."""
KV_WRITES: Final = frozenset(
    {KV_SET, KV_CAS, KV_LOCK, KV_UNLOCK, KV_DELETE, KV_DELETE_CAS, KV_DELETE_TREE}
)
"""Verbs on keys that may change something."""


class TxnKVOp(Record, frozen=True, kw_only=True):
    """Operation on a key."""

    verb: str = ""
    dir_ent: DirEntry = DirEntry()


class TxnNodeOp(Record, frozen=True, kw_only=True):
    """Operation on a node."""

    verb: str = ""
    node: Node = Node()


class TxnServiceOp(Record, frozen=True, kw_only=True):
    """Operation on a service of a node."""

    verb: str = ""
    node: str = ""
    service: NodeService = NodeService()


class TxnCheckOp(Record, frozen=True, kw_only=True):
    """Operation on a check."""

    verb: str = ""
    check: HealthCheck = HealthCheck()


class TxnSessionOp(Record, frozen=True, kw_only=True):
    """Operation on a session."""

    verb: str = ""
    session: Session = Session()


class TxnOp(Record, frozen=True, kw_only=True):
    """One operation: exactly one of its fields is set.

    `intention` is kept as it came: only Consul's own servers use it, inside a datacenter.
    """

    kv: TxnKVOp | None = None
    intention: dict[str, object] | None = None
    node: TxnNodeOp | None = None
    service: TxnServiceOp | None = None
    check: TxnCheckOp | None = None
    session: TxnSessionOp | None = None


class TxnRequest(Record, frozen=True, kw_only=True):
    """A transaction that writes."""

    datacenter: str = ""
    ops: tuple[TxnOp, ...] | None = None
    token: str = ""


class TxnReadRequest(QueryOptions, frozen=True, kw_only=True):
    """A transaction that only reads; it may be stale."""

    datacenter: str = ""
    ops: tuple[TxnOp, ...] | None = None


class TxnResult(Record, frozen=True, kw_only=True):
    """What one operation gave: exactly one of its fields is set."""

    json_omit_empty = frozenset({"kv", "node", "service", "check"})

    kv: DirEntry | None = None
    node: Node | None = None
    service: NodeService | None = None
    check: HealthCheck | None = None


class TxnError(Record, frozen=True, kw_only=True):
    """Why a transaction was rolled back: which operation, and what it ran into."""

    op_index: int = 0
    what: str = ""


class TxnResponse(Record, frozen=True, kw_only=True):
    """Reply of ``Txn.Apply``: results, or errors."""

    results: tuple[TxnResult, ...] | None = None
    errors: tuple[TxnError, ...] | None = None


class TxnReadResponse(QueryMeta, frozen=True, kw_only=True):
    """Reply of ``Txn.Read``."""

    results: tuple[TxnResult, ...] | None = None
    errors: tuple[TxnError, ...] | None = None
