"""The sessions: reads, and how one begins. How one ends is `store.invalidation`'s.

A session belongs to a node and depends on checks of it. Source: protocol/http-api.md §6.4.
"""

from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from isthmus.errors import RequestError
from isthmus.model.catalog import CRITICAL
from isthmus.model.identifier import uuid_fault
from isthmus.model.session import BEHAVIOR_DELETE, BEHAVIOR_RELEASE, Session
from isthmus.store.answer import Answer
from isthmus.store.catalog import CHECKS, NODES, RowChange
from isthmus.store.keys import folded, folded_id, owned
from isthmus.store.table import Overlay, Schema, Table, TableView
from isthmus.store.watch import Topic, table_topic

T = TypeVar("T")


def check_ids(session: Session) -> tuple[str, ...]:
    """Ids of all checks that a session depends on, in whichever form they were named."""
    services = tuple([check.id for check in session.service_checks or ()])
    return (*(session.checks or ()), *(session.node_checks or ()), *services)


def _checks(row: Session) -> tuple[bytes, ...]:
    node = folded(row.node)
    return tuple(dict.fromkeys(owned(node, folded_id(check)) for check in check_ids(row)))


SESSIONS: Final = Schema(
    "sessions",
    Session,
    key=lambda row: folded_id(row.id),
    indexes={"node": lambda row: (folded(row.node),), "check": _checks},
)
_TABLE_TOPIC: Final = table_topic(SESSIONS.name)
_SESSION: Final = "session"
_NODE_SESSIONS: Final = "node_sessions"


def session_key(session_id: str) -> bytes:
    """Primary key of a session.

    Raises:
        RequestError: No UUID has this form; the text is Consul's.
    """
    if fault := uuid_fault(session_id):
        raise RequestError(f"failed session lookup: {fault}")
    return folded_id(session_id)


class Sessions:
    """Reads of the sessions.

    Args:
        table: The committed rows.

    Attributes:
        changed: Called with each session that began, changed or ended: as it was, as it is.
        loaded: Called when other rows have taken the place of all.
    """

    def __init__(self, table: Table[Session]) -> None:
        self._table = table
        self.changed: Callable[[Session | None, Session | None], object] = _ignore
        self.loaded: Callable[[], object] = _ignore

    def __len__(self) -> int:
        return len(self._table)

    def get(self, session_id: str) -> Answer[Session | None]:
        """One session; the value is None when there is none.

        Raises:
            RequestError: No session has an id of this form.
        """
        pk = session_key(session_id)
        return self._of_table(self._table.get(pk), Topic(_SESSION, pk))

    def list(self) -> Answer[tuple[Session, ...]]:
        """All sessions by id."""
        return self._of_table(tuple(self._table), _TABLE_TOPIC)

    def of_node(self, node: str) -> Answer[tuple[Session, ...]]:
        """All sessions of a node by id."""
        key = folded(node)
        return self._of_table(tuple(self._table.by("node", key)), Topic(_NODE_SESSIONS, key))

    def _of_table(self, value: T, topic: Topic) -> Answer[T]:
        return Answer(value, self._table.index, (topic,), self._table.index)

    def observe(self, change: RowChange) -> tuple[Topic, ...]:
        """Take note of a committed change; return whom it concerns."""
        self.changed(change.old, change.new)
        row: Session | None = change.new or change.old
        if row is None:
            return ()  # It began and ended in one batch: nobody has seen it.
        return (Topic(_SESSION, change.pk), Topic(_NODE_SESSIONS, folded(row.node)), _TABLE_TOPIC)


def _ignore(*_: object) -> None:
    """Nobody wants to know."""


def view(overlay: Overlay) -> TableView[Session]:
    """The sessions as the command before left them."""
    return overlay.tables[SESSIONS.name]


def create(overlay: Overlay, session: Session, index: int) -> str:
    """Begin a session, whose id its caller chose; return the id.

    Raises:
        RequestError: Its node or a check of it is not there, or a check fails, or its id is none.
    """
    if not session.id:
        raise RequestError("Missing session ID")
    behavior = session.behavior or BEHAVIOR_RELEASE
    if behavior not in {BEHAVIOR_RELEASE, BEHAVIOR_DELETE}:
        raise RequestError(f"Invalid session behavior: {behavior}")
    node = folded(session.node)
    if overlay.tables[NODES.name].get(node) is None:
        raise RequestError("Missing node registration")
    checks = overlay.tables[CHECKS.name]
    for check_id in check_ids(session):
        check = checks.get(owned(node, folded_id(check_id)))
        if check is None:
            raise RequestError(f"Missing check '{check_id}' registration")
        if check.status == CRITICAL:
            raise RequestError(f"Check '{check_id}' is in {check.status} state")
    sessions = view(overlay)
    old = sessions.get(session_key(session.id))
    row = msgspec.structs.replace(
        session,
        behavior=behavior,
        create_index=index if old is None else old.create_index,
        modify_index=index if old is None else old.modify_index,
    )
    if row != old:
        sessions.put(msgspec.structs.replace(row, modify_index=index), index)
    return row.id
