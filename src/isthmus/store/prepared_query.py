"""The prepared queries: by id, by name, by the longest prefix that is a template's name.

Source: protocol/http-api.md §6.5.
"""

from typing import Final

import msgspec

from isthmus.errors import NotFound, RequestError
from isthmus.model.identifier import is_uuid, uuid_fault
from isthmus.model.prepared_query import (
    QUERY_CREATE,
    QUERY_DELETE,
    QUERY_NOT_FOUND,
    QUERY_UPDATE,
    PreparedQuery,
    PreparedQueryRequest,
)
from isthmus.store.answer import Answer
from isthmus.store.keys import folded_id
from isthmus.store.query_template import Template
from isthmus.store.table import Overlay, Schema, Table, TableView
from isthmus.store.watch import Topic, table_topic

MISSING_ID: Final = "Missing Query ID"
_SESSIONS: Final = "sessions"
_TEMPLATE_BY_ID: Final = "prepared query templates can only be resolved up by name, not by ID"
_LOOKUP_FAILED: Final = "failed prepared query lookup: "
_TOPIC_FAMILY: Final = "query"


def _names(row: PreparedQuery) -> tuple[bytes, ...]:
    return (folded_id(row.name),) if row.name else ()


def _templates(row: PreparedQuery) -> tuple[bytes, ...]:
    """The prefix that a template answers to, which may be empty."""
    return (folded_id(row.name),) if row.template.type else ()


def _sessions(row: PreparedQuery) -> tuple[bytes, ...]:
    return (folded_id(row.session),) if row.session else ()


PREPARED_QUERIES: Final = Schema(
    "queries",
    PreparedQuery,
    key=lambda row: folded_id(row.id),
    indexes={"name": _names, "template": _templates, "session": _sessions},
)
_TABLE_TOPIC: Final = table_topic(PREPARED_QUERIES.name)


class PreparedQueries:
    """Reads of the prepared queries. The index is the table's; one query wakes its reader only.

    Args:
        table: The committed rows.
    """

    def __init__(self, table: Table[PreparedQuery]) -> None:
        self._table = table
        self._list: Answer[tuple[PreparedQuery, ...]] | None = None
        self._compiled: dict[bytes, Template] = {}
        self._sizes: list[int] | None = None
        """Lengths that names of templates have, longest first; None: to be found out."""

    def list(self) -> Answer[tuple[PreparedQuery, ...]]:
        """All queries by id; the same object until one changes."""
        if self._list is None:
            index = self._table.index
            self._list = Answer(tuple(self._table), index, (_TABLE_TOPIC,), index)
        return self._list

    def get(self, query_id: str) -> Answer[tuple[PreparedQuery]]:
        """One query by its id.

        Raises:
            NotFound: There is none.
            RequestError: That is no id.
        """
        row = self.row(query_id)
        if row is None:
            raise NotFound(QUERY_NOT_FOUND)
        topics = (Topic(_TOPIC_FAMILY, folded_id(query_id)),)
        return Answer((row,), self._table.index, topics, row.modify_index)

    def row(self, query_id: str) -> PreparedQuery | None:
        """One query by its id; None when there is none.

        Raises:
            RequestError: That is no id.
        """
        if fault := uuid_fault(query_id):
            raise RequestError(_LOOKUP_FAILED + fault)
        return self._table.get(folded_id(query_id))

    def resolve(self, id_or_name: str, *, segment: str = "") -> PreparedQuery:
        """The query that an id or a name stands for, ready to be executed.

        Ids come first, then names, then templates; of those the one with the longest name.

        Args:
            id_or_name: As the caller wrote it.
            segment: Network segment of the agent that was asked.

        Raises:
            NotFound: It stands for none.
            RequestError: It is empty or the id of a template, or the template cannot be filled in.
        """
        if not id_or_name:
            raise RequestError(MISSING_ID)
        if is_uuid(id_or_name):
            row = self._table.get(folded_id(id_or_name))
            if row is not None:
                if row.template.type:
                    raise RequestError(_TEMPLATE_BY_ID)
                return row
        named = self._table.by("name", folded_id(id_or_name))
        row = named[0] if named else self._longest(id_or_name)
        if row is None:
            raise NotFound(QUERY_NOT_FOUND)
        if not row.template.type:
            return row
        return self._template(row).render(id_or_name, segment=segment)

    def _longest(self, name: str) -> PreparedQuery | None:
        """The template whose name is the longest prefix."""
        folded = name.lower()
        if self._sizes is None:
            rows = (row for row in self._table if row.template.type)
            self._sizes = sorted({len(row.name.lower()) for row in rows}, reverse=True)
        for size in self._sizes:
            if size <= len(folded):
                found = self._table.by("template", folded_id(folded[:size]))
                if found:
                    return found[0]
        return None

    def _template(self, row: PreparedQuery) -> Template:
        key = folded_id(row.id)
        template = self._compiled.get(key)
        if template is None:
            template = self._compiled[key] = Template(row)
        return template

    def observe(self, row: PreparedQuery) -> tuple[Topic, ...]:
        """Take note of a committed change of a row; return whom it concerns."""
        self._compiled.pop(folded_id(row.id), None)
        self._list = self._sizes = None
        return (Topic(_TOPIC_FAMILY, folded_id(row.id)), _TABLE_TOPIC)

    def load(self) -> None:
        """Take over a table that was filled without `observe`."""
        self._compiled.clear()
        self._list = self._sizes = None


def apply(overlay: Overlay, request: PreparedQueryRequest, index: int) -> str:
    """Carry out the write of a prepared query.

    Returns:
        Its id.

    Raises:
        RequestError: Its name is taken, its session or template is not valid, or the operation is
            not known. Nothing changed.
    """
    query = request.query
    if query is None or not query.id:
        raise RequestError(MISSING_ID)
    if fault := uuid_fault(query.id):
        raise RequestError(_LOOKUP_FAILED + fault)
    view: TableView[PreparedQuery] = overlay.tables[PREPARED_QUERIES.name]
    if request.op in {QUERY_CREATE, QUERY_UPDATE}:
        _set(overlay, view, query, index)
    elif request.op == QUERY_DELETE:
        view.delete(folded_id(query.id), index)
    else:
        raise RequestError(f"Invalid PreparedQuery operation '{request.op}'")
    return query.id


def delete_of_session(overlay: Overlay, session_id: str, index: int) -> None:
    """Delete the queries that are bound to a session, which ends."""
    view: TableView[PreparedQuery] = overlay.tables[PREPARED_QUERIES.name]
    for row in view.by("session", folded_id(session_id)):
        view.delete(folded_id(row.id), index)


def _set(
    overlay: Overlay, view: TableView[PreparedQuery], query: PreparedQuery, index: int
) -> None:
    key = folded_id(query.id)
    old = view.get(key)
    if query.name:
        if any(folded_id(other.id) != key for other in view.by("name", folded_id(query.name))):
            raise RequestError(f"name '{query.name}' aliases an existing query name")
    elif query.template.type and any(
        folded_id(other.id) != key for other in view.by("template", b"")
    ):
        raise RequestError("a query template with an empty name already exists")
    if is_uuid(query.name) and view.get(folded_id(query.name)) is not None:
        raise RequestError(f"name '{query.name}' aliases an existing query ID")
    if query.session:
        _check_session(overlay, query.session)
    if query.template.type:
        try:
            Template(query)
        except RequestError as error:
            raise RequestError(f"failed compiling template: {error}") from None
    row = msgspec.structs.replace(
        query,
        create_index=old.create_index if old else index,
        modify_index=old.modify_index if old else index,
    )
    if row != old:
        view.put(msgspec.structs.replace(row, modify_index=index), index)


def _check_session(overlay: Overlay, session_id: str) -> None:
    if fault := uuid_fault(session_id):
        raise RequestError(f"invalid session: {fault}")
    sessions = overlay.tables.get(_SESSIONS)
    if sessions is None or sessions.get(folded_id(session_id)) is None:
        raise RequestError(f'invalid session "{session_id}"')
