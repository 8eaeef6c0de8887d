"""The network coordinates of nodes in their datacenter's LAN pool.

A coordinate belongs to a node and goes with it. Source: protocol/http-api.md §6.5; the rule that
a move too small to matter is no write is ours: Consul writes every one, which keeps an idle store
busy for ever, and no reader can tell.
"""

from collections.abc import Mapping
from typing import Final

from isthmus.model.catalog import Node
from isthmus.model.coordinate import Coord, Coordinate, CoordinateBatch, shift
from isthmus.store.answer import Answer
from isthmus.store.catalog import NODES
from isthmus.store.keys import component, folded, owned
from isthmus.store.table import Overlay, Schema, Table, TableView
from isthmus.store.watch import Topic, table_topic

COORDINATES: Final = Schema(
    "coordinates",
    Coordinate,
    key=lambda row: owned(folded(row.node), component(row.segment)),
)
MOVE_MIN: Final = 5e-5
"""A move that changes every estimated round trip by less than so many seconds is not written."""
ERROR_MOVE_MIN: Final = 0.05
"""Nor is one whose certainty changes by less than this."""
_TABLE_TOPIC: Final = table_topic(COORDINATES.name)


class Coordinates:
    """Reads of the coordinates. The index is the table's; who reads one node wakes for it only."""

    def __init__(self, table: Table[Coordinate]) -> None:
        self._table = table
        self._list: Answer[tuple[Coordinate, ...]] | None = None

    def list(self) -> Answer[tuple[Coordinate, ...]]:
        """Coordinates of all nodes by name; the same object until one changes."""
        if self._list is None:
            index = self._table.index
            self._list = Answer(tuple(self._table), index, (_TABLE_TOPIC,), index)
        return self._list

    def node(self, name: str) -> Answer[tuple[Coordinate, ...]]:
        """Coordinates of one node, one for each segment that it is in."""
        rows = tuple(self._table.prefix(owned(folded(name), b"")))
        index = self._table.index
        return Answer(rows, index, (Topic("coordinate", folded(name)),), index)

    def of(self, name: str) -> Mapping[str, Coord]:
        """Coordinates of one node by segment; empty when it has none."""
        rows = self._table.prefix(owned(folded(name), b""))
        return {row.segment: row.coord for row in rows if row.coord is not None}

    def observe(self, row: Coordinate) -> tuple[Topic, ...]:
        """Take note of a committed change of a row; return whom it concerns."""
        self._list = None
        return (Topic("coordinate", folded(row.node)), _TABLE_TOPIC)

    def load(self) -> None:
        """Take over a table that was filled without `observe`."""
        self._list = None


def apply(overlay: Overlay, batch: CoordinateBatch, index: int) -> None:
    """Carry out the write of many coordinates.

    Those of nodes that the catalog does not have are left out, as nothing would ever delete them;
    so are moves that nobody would notice (`MOVE_MIN`).
    """
    nodes: TableView[Node] = overlay.tables[NODES.name]
    view: TableView[Coordinate] = overlay.tables[COORDINATES.name]
    for update in batch.updates:
        node = nodes.get(folded(update.node))
        if node is None or update.coord is None:
            continue
        row = Coordinate(node=node.node, segment=update.segment, coord=update.coord)
        old = view.get(COORDINATES.key(row))
        if old is None or old.coord is None or _is_noticeable(old.coord, update.coord):
            view.put(row, index)


def delete_node(overlay: Overlay, node: bytes, index: int) -> None:
    """Remove the coordinates of a node, named as in keys, that is being deleted."""
    view: TableView[Coordinate] = overlay.tables[COORDINATES.name]
    for row in view.prefix(owned(node, b"")):
        view.delete(COORDINATES.key(row), index)


def _is_noticeable(old: Coord, new: Coord) -> bool:
    return shift(old, new) >= MOVE_MIN or abs(old.error - new.error) >= ERROR_MOVE_MIN
