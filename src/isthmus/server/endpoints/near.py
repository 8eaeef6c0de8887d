"""Sorting an answer by the distance from a node (``near``). Source: protocol/http-api.md §2."""

import math
from collections.abc import Callable, Mapping
from typing import TypeVar

from isthmus.model.coordinate import Coord, distance
from isthmus.model.query import QuerySource
from isthmus.server.endpoints.context import Context

T = TypeVar("T")


def nearest_first(
    context: Context, source: QuerySource, rows: tuple[T, ...], node_of: Callable[[T], str]
) -> tuple[T, ...]:
    """Rows in order of the estimated round trip from the node that the query comes from.

    The sort is stable, and rows of nodes that nothing is known of stand last. The very same rows
    are returned when no node is named, it lies in another datacenter (coordinates of two LAN pools
    have nothing to do with each other) or nothing is known of it.

    Args:
        context: With the coordinates.
        source: Node, and the datacenter that it is in.
        rows: What to sort.
        node_of: Name of a row's node.
    """
    if not source.node or source.datacenter.lower() != context.dc.lower():
        return rows
    coordinates = context.store.coordinates
    origin = coordinates.of(source.node)
    if not origin:
        return rows
    distances: dict[str, float] = {}

    def far(row: T) -> float:
        name = node_of(row)
        found = distances.get(name)
        if found is None:
            found = distances[name] = _between(origin, coordinates.of(name))
        return found

    return tuple(sorted(rows, key=far))


def _between(origin: Mapping[str, Coord], target: Mapping[str, Coord]) -> float:
    """Seconds between two nodes in the first segment that both are in; infinite without one."""
    for segment in sorted(origin.keys() & target.keys()):
        return distance(origin[segment], target[segment])
    return math.inf
