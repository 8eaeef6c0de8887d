"""Operations of transactions for tests."""

from typing import Any

from isthmus.model.catalog import HealthCheck, Node, NodeService
from isthmus.model.kv import DirEntry
from isthmus.model.txn import (
    TxnCheckOp,
    TxnKVOp,
    TxnNodeOp,
    TxnOp,
    TxnReadResponse,
    TxnResponse,
    TxnServiceOp,
)


def key(verb: str, name: str, **fields: Any) -> TxnOp:
    """On a key."""
    return TxnOp(kv=TxnKVOp(verb=verb, dir_ent=DirEntry(key=name, **fields)))


def node(verb: str, **fields: Any) -> TxnOp:
    """On a node."""
    return TxnOp(node=TxnNodeOp(verb=verb, node=Node(**fields)))


def service(verb: str, on: str, **fields: Any) -> TxnOp:
    """On a service of a node."""
    return TxnOp(service=TxnServiceOp(verb=verb, node=on, service=NodeService(**fields)))


def check(verb: str, **fields: Any) -> TxnOp:
    """On a check."""
    return TxnOp(check=TxnCheckOp(verb=verb, check=HealthCheck(**fields)))


def faults(answer: TxnResponse | TxnReadResponse) -> list[tuple[int, str]]:
    """What went wrong: number of the operation, and text."""
    assert answer.results is None
    return [(error.op_index, error.what) for error in answer.errors or ()]
