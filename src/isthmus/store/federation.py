"""The federation states: one record per datacenter, under one index.

Source: protocol/federation.md §9.1.
"""

from typing import Final, TypeVar

import msgspec

from isthmus.errors import InvalidRequest
from isthmus.model.catalog import CheckServiceNode
from isthmus.model.federation import DELETE, UPSERT, FederationState, FederationStateRequest
from isthmus.store.answer import Answer
from isthmus.store.keys import folded
from isthmus.store.table import Overlay, Schema, Table, TableView
from isthmus.store.watch import Topic, table_topic

T = TypeVar("T")

FEDERATION_STATES: Final = Schema(
    "federation", FederationState, key=lambda row: folded(row.datacenter)
)
_TOPICS: Final = (table_topic(FEDERATION_STATES.name),)


class FederationStates:
    """Reads of the federation states. All share the table's index and wake on any write."""

    def __init__(self, table: Table[FederationState]) -> None:
        self._table = table
        self._list: Answer[tuple[FederationState, ...]] | None = None
        self._gateways: Answer[dict[str, tuple[CheckServiceNode, ...]]] | None = None

    def __len__(self) -> int:
        """How many datacenters have a record."""
        return len(self._table)

    @property
    def topics(self) -> tuple[Topic, ...]:
        """What to wait for: any change of a state."""
        return _TOPICS

    def get(self, dc: str) -> Answer[FederationState | None]:
        """Record of one datacenter; None when there is none. Case does not count."""
        return self._answer(self._table.get(folded(dc)))

    def list(self) -> Answer[tuple[FederationState, ...]]:
        """All records by datacenter; the same object until one changes."""
        if self._list is None:
            self._list = self._answer(tuple(self._table))
        return self._list

    def gateways(self) -> Answer[dict[str, tuple[CheckServiceNode, ...]]]:
        """Gateways by datacenter, those without left out; the same object until one changes."""
        if self._gateways is None:
            self._gateways = self._answer(
                {row.datacenter: row.mesh_gateways for row in self._table if row.mesh_gateways}
            )
        return self._gateways

    def observe(self) -> tuple[Topic, ...]:
        """Take note of a committed change; return whom it concerns."""
        self._list = self._gateways = None
        return _TOPICS

    def _answer(self, value: T) -> Answer[T]:
        return Answer(value, self._table.index, _TOPICS, self._table.index)


def apply(overlay: Overlay, request: FederationStateRequest, index: int) -> bool:
    """Carry out the write of a federation state.

    Returns:
        True for an upsert, False for a delete.

    Raises:
        InvalidRequest: No datacenter is named, or the operation is not known. Nothing changed.
    """
    view: TableView[FederationState] = overlay.tables[FEDERATION_STATES.name]
    state = request.state
    if state is None or not state.datacenter:
        raise InvalidRequest("invalid request: missing federation state datacenter", status=500)
    if request.op == UPSERT:
        old = view.get(folded(state.datacenter))
        row = msgspec.structs.replace(
            state,
            create_index=old.create_index if old else index,
            modify_index=index,
            primary_modify_index=state.primary_modify_index or index,
        )
        view.put(row, index)
        return True
    if request.op == DELETE:
        view.delete(folded(state.datacenter), index)
        return False
    raise InvalidRequest(f"Invalid federation state operation: {request.op}", status=500)
