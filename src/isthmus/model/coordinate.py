"""Network coordinates: where nodes lie by round-trip time.

Source: protocol/rpc.md §6, protocol/http-api.md §6.5.
"""

from isthmus.model.query import QueryMeta
from isthmus.model.record import Record


class Coord(Record, frozen=True, kw_only=True):
    """A point in Vivaldi's space; all lengths are seconds (Vivaldi §3)."""

    vec: tuple[float, ...] | None = None
    error: float = 0.0
    adjustment: float = 0.0
    height: float = 0.0


class Coordinate(Record, frozen=True, kw_only=True):
    """The coordinate of a node."""

    node: str = ""
    segment: str = ""
    coord: Coord | None = None


class DatacenterMap(Record, frozen=True, kw_only=True):
    """Coordinates of a datacenter's servers; `area_id` is ``wan``."""

    datacenter: str = ""
    area_id: str = ""
    coordinates: tuple[Coordinate, ...] | None = None


class CoordinateUpdateRequest(Record, frozen=True, kw_only=True):
    """Store a node's coordinate."""

    datacenter: str = ""
    node: str = ""
    segment: str = ""
    coord: Coord | None = None
    token: str = ""


class IndexedCoordinates(QueryMeta, frozen=True, kw_only=True):
    """Reply of ``Coordinate.ListNodes`` and ``Coordinate.Node``."""

    coordinates: tuple[Coordinate, ...] | None = None
