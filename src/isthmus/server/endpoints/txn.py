"""Transactions: ``Txn``. Source: protocol/rpc.md §6, protocol/http-api.md §6.4."""

from collections.abc import Mapping
from typing import Final

import msgspec

from isthmus.errors import RequestError
from isthmus.model.kv import KV_DELETE_TREE, KV_LOCK
from isthmus.model.registration import validate_kind
from isthmus.model.txn import (
    GET,
    TxnError,
    TxnOp,
    TxnReadRequest,
    TxnReadResponse,
    TxnRequest,
    TxnResponse,
)
from isthmus.server.endpoints.catalog import check_node_id, complete_service
from isthmus.server.endpoints.context import Context, Handler
from isthmus.store import txn
from isthmus.store.keys import component

_APPLY_PREFIX: Final = "raft apply failed: "  # Consul's, which clients match.
OPERATIONS_MAX: Final = 1024
"""Most operations of one call; the HTTP door of any Consul lets far fewer pass."""
_MUST_PROVIDE_NODE: Final = "Must provide node"


async def apply(context: Context, request: TxnRequest) -> TxnResponse:
    """Carry out a transaction: results, or errors, and then nothing has changed."""
    ops, errors = _completed(context, request.ops or ())
    if errors:
        return TxnResponse(errors=errors)
    try:
        answer = await context.commit(TxnRequest(datacenter=context.dc, ops=ops))
    except RequestError as error:
        raise RequestError(f"{_APPLY_PREFIX}{error}", status=error.status) from error
    assert isinstance(answer, TxnResponse)
    return answer


async def read(context: Context, request: TxnReadRequest) -> TxnReadResponse:
    """Carry out a transaction that only reads; it never blocks."""
    if request.require_consistent:
        await context.confirm()
    ops, errors = _completed(context, request.ops or ())
    answer = TxnResponse(errors=errors)
    if not errors:
        store = context.store
        answer = txn.run(store.overlay(), ops, store.index, read_only=True)
    return TxnReadResponse(results=answer.results, errors=answer.errors, index=1, known_leader=True)


def _completed(
    context: Context, ops: tuple[TxnOp, ...]
) -> tuple[tuple[TxnOp, ...], tuple[TxnError, ...]]:
    """Fill in what operations leave out; name those that cannot be right.

    Raises:
        RequestError: There are too many.
    """
    if len(ops) > OPERATIONS_MAX:
        raise RequestError(
            f"Transaction contains too many operations ({len(ops)} > {OPERATIONS_MAX})"
        )
    done: list[TxnOp] = []
    errors: list[TxnError] = []
    for number, op in enumerate(ops):
        try:
            done.append(_complete(context, op))
        except RequestError as error:
            errors.append(TxnError(op_index=number, what=str(error)))
    return tuple(done), tuple(errors)


def _complete(context: Context, op: TxnOp) -> TxnOp:
    if op.kv is not None:
        key = op.kv.dir_ent.key
        if not key and op.kv.verb != KV_DELETE_TREE:
            raise RequestError("Must provide key")
        if op.kv.verb == KV_LOCK and component(key) in context.store.lock_delays:
            raise txn.lock_is_closed(key)
    elif op.node is not None and op.node.verb != GET:
        node = op.node.node
        if not node.node:
            raise RequestError(_MUST_PROVIDE_NODE)
        if node.id:
            check_node_id(node.id)
        node = msgspec.structs.replace(node, datacenter=context.dc)
        changed_node = msgspec.structs.replace(op.node, node=node)
        return msgspec.structs.replace(op, node=changed_node)
    elif op.service is not None and op.service.verb != GET:
        service = complete_service(op.service.service)
        validate_kind(service)
        changed = msgspec.structs.replace(op.service, service=service)
        return msgspec.structs.replace(op, service=changed)
    elif op.check is not None and op.check.verb != GET:
        check = op.check.check
        if not check.check_id:
            check = msgspec.structs.replace(check, check_id=check.name)
            changed_check = msgspec.structs.replace(op.check, check=check)
            return msgspec.structs.replace(op, check=changed_check)
    return op


METHODS: Final[Mapping[str, Handler]] = {"Apply": apply, "Read": read}
