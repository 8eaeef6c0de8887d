"""Transactions: operations on keys, nodes, services, checks and sessions, all or none.

An operation sees what those before it did. One that fails does not stop the others, so that the
caller learns of all that is wrong; then nothing of the transaction takes place. Texts are
Consul's. Source: protocol/http-api.md §6.4, "Txn body".
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

import msgspec

from isthmus.errors import RequestError
from isthmus.model import kv as verbs
from isthmus.model.catalog import HealthCheck, Node
from isthmus.model.kv import DirEntry
from isthmus.model.session import Session
from isthmus.model.txn import (
    GET,
    KV_CHECK_INDEX,
    KV_CHECK_NOT_EXISTS,
    KV_CHECK_SESSION,
    KV_GET,
    KV_GET_TREE,
    ROW_CAS,
    ROW_DELETE,
    ROW_DELETE_CAS,
    ROW_SET,
    TxnCheckOp,
    TxnError,
    TxnNodeOp,
    TxnOp,
    TxnRequest,
    TxnResponse,
    TxnResult,
    TxnServiceOp,
    TxnSessionOp,
)
from isthmus.store import invalidation, kv, registration
from isthmus.store.catalog import CHECKS, NODES, SERVICES, ServiceRow
from isthmus.store.keys import component, folded, folded_id, owned
from isthmus.store.session import session_key
from isthmus.store.table import Overlay, TableView

Results: TypeAlias = tuple[TxnResult, ...]

_NONE: Final[Results] = ()
_READ_ONLY: Final = "cannot insert in read-only transaction"


def apply(overlay: Overlay, request: TxnRequest, index: int) -> TxnResponse:
    """Carry out a transaction; with errors in the answer nothing has changed."""
    return run(overlay, request.ops or (), index)


def run(
    overlay: Overlay, ops: Iterable[TxnOp], index: int, *, read_only: bool = False
) -> TxnResponse:
    """Carry out the operations of a transaction, or none.

    Args:
        overlay: Tables as the command before left them.
        ops: What to do, in order.
        index: Modify index that its rows take.
        read_only: Whether an operation that writes is an error.
    """
    ops = tuple(ops)
    if closed := _closed_locks(overlay, ops):
        return TxnResponse(errors=closed)
    start = overlay.mark()
    results: list[TxnResult] = []
    errors: list[TxnError] = []
    for number, op in enumerate(ops):
        mark = overlay.mark()
        try:
            results += _dispatch(overlay, op, index)
            if read_only and overlay.mark() > mark:
                raise RequestError(_READ_ONLY)
        except RequestError as error:
            overlay.rollback(mark)
            errors.append(TxnError(op_index=number, what=str(error)))
    if errors:
        overlay.rollback(start)
        return TxnResponse(errors=tuple(errors))
    return TxnResponse(results=tuple(results))


def _closed_locks(overlay: Overlay, ops: tuple[TxnOp, ...]) -> tuple[TxnError, ...]:
    """The locks that may not be taken yet; with one of them nothing else is looked at."""
    return tuple(
        TxnError(op_index=number, what=str(lock_is_closed(op.kv.dir_ent.key)))
        for number, op in enumerate(ops)
        if op.kv is not None
        and op.kv.verb == verbs.KV_LOCK
        and overlay.is_lock_closed(component(op.kv.dir_ent.key))
    )


def lock_is_closed(key: str) -> RequestError:
    """What is said of a lock that was lost too lately to be taken."""
    return RequestError(f"failed to lock key {_quote(key)} due to lock delay")


def _dispatch(overlay: Overlay, op: TxnOp, index: int) -> Results:
    if op.kv is not None:
        return _key(overlay, op.kv.verb, op.kv.dir_ent, index)
    if op.node is not None:
        return _node(overlay, op.node, index)
    if op.service is not None:
        return _service(overlay, op.service, index)
    if op.check is not None:
        return _check(overlay, op.check, index)
    if op.session is not None:
        return _session(overlay, op.session, index)
    raise RequestError("no operation specified")


# Keys ---------------------------------------------------------------------------------------------


def _key(overlay: Overlay, verb: str, entry: DirEntry, index: int) -> Results:
    do = _KEY_VERBS.get(verb)
    if do is None:
        raise RequestError(f"unknown KV verb {_quote(verb)}")
    return do(overlay, entry, index)


def _told(entry: DirEntry) -> Results:
    """What is said of an entry that was written or compared: all but its value."""
    return (TxnResult(kv=msgspec.structs.replace(entry, value=None)),)


def _found(overlay: Overlay, entry: DirEntry, why: str = "") -> DirEntry:
    row = kv.view(overlay).get(component(entry.key))
    if row is None:
        raise RequestError(f"{why}key {_quote(entry.key)} doesn't exist")
    return row


def _set_key(overlay: Overlay, entry: DirEntry, index: int) -> Results:
    return _told(kv.put(overlay, entry, index))


def _cas_key(overlay: Overlay, entry: DirEntry, index: int) -> Results:
    row = kv.cas(overlay, entry, index)
    if row is None:
        raise RequestError(f"failed to set key {_quote(entry.key)}, index is stale")
    return _told(row)


def _lock_key(overlay: Overlay, entry: DirEntry, index: int) -> Results:
    row = kv.lock(overlay, entry, index)
    if row is None:
        raise RequestError(f"failed to lock key {_quote(entry.key)}, lock is already held")
    return _told(row)


def _unlock_key(overlay: Overlay, entry: DirEntry, index: int) -> Results:
    row = kv.unlock(overlay, entry, index)
    if row is None:
        raise RequestError(
            f"failed to unlock key {_quote(entry.key)}, lock isn't held, or is held by another "
            "session"
        )
    return _told(row)


def _get_key(overlay: Overlay, entry: DirEntry, index: int) -> Results:
    return (TxnResult(kv=_found(overlay, entry)),)


def _get_tree(overlay: Overlay, entry: DirEntry, index: int) -> Results:
    rows = kv.view(overlay).prefix(component(entry.key))
    return tuple([TxnResult(kv=row) for row in rows])


def _check_session(overlay: Overlay, entry: DirEntry, index: int) -> Results:
    row = _found(overlay, entry, "failed to check session, ")
    if row.session != entry.session:
        raise RequestError(
            f"failed session check for key {_quote(entry.key)}, current session "
            f"{_quote(row.session)} != {_quote(entry.session)}"
        )
    return _told(row)


def _check_index(overlay: Overlay, entry: DirEntry, index: int) -> Results:
    row = _found(overlay, entry, "failed to check index, ")
    if row.modify_index != entry.modify_index:
        raise RequestError(
            f"failed index check for key {_quote(entry.key)}, current modify index "
            f"{row.modify_index} != {entry.modify_index}"
        )
    return _told(row)


def _check_not_exists(overlay: Overlay, entry: DirEntry, index: int) -> Results:
    if kv.view(overlay).get(component(entry.key)) is not None:
        raise RequestError(f"key {_quote(entry.key)} exists")
    return _NONE


def _delete_key(overlay: Overlay, entry: DirEntry, index: int) -> Results:
    kv.view(overlay).delete(component(entry.key), index)
    return _NONE


def _delete_cas_key(overlay: Overlay, entry: DirEntry, index: int) -> Results:
    if not kv.delete_cas(overlay, entry, index):
        raise RequestError(f"failed to delete key {_quote(entry.key)}, index is stale")
    return _NONE


def _delete_tree(overlay: Overlay, entry: DirEntry, index: int) -> Results:
    kv.delete_tree(overlay, entry.key, index)
    return _NONE


_KEY_VERBS: Final[Mapping[str, Callable[[Overlay, DirEntry, int], Results]]] = {
    verbs.KV_SET: _set_key,
    verbs.KV_CAS: _cas_key,
    verbs.KV_LOCK: _lock_key,
    verbs.KV_UNLOCK: _unlock_key,
    KV_GET: _get_key,
    KV_GET_TREE: _get_tree,
    KV_CHECK_SESSION: _check_session,
    KV_CHECK_INDEX: _check_index,
    KV_CHECK_NOT_EXISTS: _check_not_exists,
    verbs.KV_DELETE: _delete_key,
    verbs.KV_DELETE_CAS: _delete_cas_key,
    verbs.KV_DELETE_TREE: _delete_tree,
}


# Nodes, services, checks --------------------------------------------------------------------------


def _is_as_seen(seen: int, found: int | None, *, verb: str) -> bool:
    """Whether a row is as its caller saw it; for a write 0 means that there was none.

    Args:
        seen: Modify index that the caller names.
        found: Modify index of the row; None when there is none.
        verb: Operation, which is one that compares or one that does not.
    """
    if verb == ROW_CAS:
        return seen == (found or 0)
    if verb == ROW_DELETE_CAS:
        return found is not None and seen == found
    return True


def _stale(verb: str, what: str) -> RequestError:
    action = "set" if verb == ROW_CAS else "delete"
    return RequestError(f"failed to {action} {what}, index is stale")


def _node(overlay: Overlay, op: TxnNodeOp, index: int) -> Results:
    node, verb = op.node, op.verb
    nodes: TableView[Node] = overlay.tables[NODES.name]

    def found() -> Node | None:
        if node.id:
            return next(iter(nodes.by("id", folded(node.id))), None)
        return nodes.get(folded(node.node))

    if verb == GET:
        row = found()
        if row is None:
            raise RequestError(f"node {_quote(node.node)} doesn't exist")
        return (TxnResult(node=row),)
    there = nodes.get(folded(node.node))
    index_there = None if there is None else there.modify_index
    if not _is_as_seen(node.modify_index, index_there, verb=verb):
        raise _stale(verb, f"node {_quote(node.node)}")
    if verb in {ROW_SET, ROW_CAS}:
        registration.set_node(overlay, node, index)
        row = found()
        return _NONE if row is None else (TxnResult(node=row),)
    if verb in {ROW_DELETE, ROW_DELETE_CAS}:
        registration.remove_node(overlay, node.node, index)
        return _NONE
    raise RequestError(f"unknown Node verb {_quote(verb)}")


def _service(overlay: Overlay, op: TxnServiceOp, index: int) -> Results:
    service, verb = op.service, op.verb
    services: TableView[ServiceRow] = overlay.tables[SERVICES.name]
    key = owned(folded(op.node), folded_id(service.id))
    what = f"service {_quote(service.id)} on node {_quote(op.node)}"
    row = services.get(key)
    if verb == GET:
        if row is None:
            raise RequestError(f"{what} doesn't exist")
        return (TxnResult(service=row.service),)
    index_there = None if row is None else row.service.modify_index
    if not _is_as_seen(service.modify_index, index_there, verb=verb):
        raise _stale(verb, what)
    if verb in {ROW_SET, ROW_CAS}:
        registration.set_service(overlay, op.node, service, index)
        row = services.get(key)
        return _NONE if row is None else (TxnResult(service=row.service),)
    if verb in {ROW_DELETE, ROW_DELETE_CAS}:
        registration.remove_service(overlay, op.node, service.id, index)
        return _NONE
    raise RequestError(f"unknown Service verb {_quote(verb)}")


def _check(overlay: Overlay, op: TxnCheckOp, index: int) -> Results:
    check, verb = op.check, op.verb
    checks: TableView[HealthCheck] = overlay.tables[CHECKS.name]
    key = owned(folded(check.node), folded_id(check.check_id))
    what = f"check {_quote(check.check_id)} on node {_quote(check.node)}"
    row = checks.get(key)
    if verb == GET:
        if row is None:
            raise RequestError(f"{what} doesn't exist")
        return (TxnResult(check=row),)
    index_there = None if row is None else row.modify_index
    if not _is_as_seen(check.modify_index, index_there, verb=verb):
        raise _stale(verb, what)
    if verb in {ROW_SET, ROW_CAS}:
        registration.set_check(overlay, check, index)
        row = checks.get(key)
        return _NONE if row is None else (TxnResult(check=row),)
    if verb in {ROW_DELETE, ROW_DELETE_CAS}:
        registration.remove_check(overlay, check.node, check.check_id, index)
        return _NONE
    raise RequestError(f"unknown Check verb {_quote(verb)}")


def _session(overlay: Overlay, op: TxnSessionOp, index: int) -> Results:
    session: Session = op.session
    if op.verb != ROW_DELETE:
        raise RequestError(f"unknown Session verb {_quote(op.verb)}")
    if not invalidation.destroy(overlay, session_key(session.id), index):
        raise RequestError("failed to delete session: not found")
    return _NONE


def _quote(text: str) -> str:
    """Text in double quotes, as Go's errors show it."""
    return msgspec.json.encode(text.encode("utf-8", "replace").decode()).decode()
