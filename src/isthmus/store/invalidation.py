"""How a session ends, and what becomes of the keys that it locked.

It is destroyed, or a check that it depends on becomes critical or goes, or its node goes. Its
keys are released or deleted, as it was created to have it, and their locks stay closed for its
lock delay, so that whoever lost them may notice. Prepared queries that are bound to it go too.
Source: protocol/http-api.md §6.4.
"""

from typing import Final

import msgspec

from isthmus.errors import RequestError
from isthmus.model.session import (
    BEHAVIOR_DELETE,
    LOCK_DELAY_MAX,
    SESSION_CREATE,
    SESSION_DESTROY,
    Session,
    SessionRequest,
)
from isthmus.store.kv import KV
from isthmus.store.prepared_query import delete_of_session
from isthmus.store.session import create, session_key, view
from isthmus.store.table import Overlay

_NO_ID: Final = ""


def apply(overlay: Overlay, request: SessionRequest, index: int) -> str:
    """Create or destroy a session.

    Returns:
        The id of a session that was created; ``""`` for one that was destroyed.

    Raises:
        RequestError: It cannot be created, or the operation is not known.
    """
    if request.op == SESSION_CREATE:
        return create(overlay, request.session, index)
    if request.op == SESSION_DESTROY:
        destroy(overlay, session_key(request.session.id), index)
        return _NO_ID
    raise RequestError(f"Invalid Session operation '{request.op}'")


def destroy(overlay: Overlay, pk: bytes, index: int) -> bool:
    """End a session; return whether there was one."""
    session = view(overlay).delete(pk, index)
    if session is None:
        return False
    keys = overlay.tables[KV.name]
    delay = min(session.lock_delay, LOCK_DELAY_MAX)
    for entry in keys.by("session", pk):
        if session.behavior == BEHAVIOR_DELETE:
            keys.delete(KV.key(entry), index)
        else:
            keys.put(msgspec.structs.replace(entry, session="", modify_index=index), index)
        if delay > 0:
            overlay.lose_lock(KV.key(entry), delay)
    delete_of_session(overlay, session.id, index)
    return True


def end_with_check(overlay: Overlay, check: bytes, index: int) -> None:
    """End the sessions that depend on a check, which is critical now, or gone.

    Args:
        overlay: Tables as the command before left them.
        check: Primary key of the check.
        index: Index of the command.
    """
    _end(overlay, "check", check, index)


def end_with_node(overlay: Overlay, node: bytes, index: int) -> None:
    """End the sessions of a node that is gone.

    Args:
        overlay: Tables as the command before left them.
        node: Primary key of the node.
        index: Index of the command.
    """
    _end(overlay, "node", node, index)


def _end(overlay: Overlay, by: str, key: bytes, index: int) -> None:
    sessions = view(overlay)
    rows: list[Session] = sessions.by(by, key)
    for session in rows:
        destroy(overlay, sessions.schema.key(session), index)
