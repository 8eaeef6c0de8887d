"""Network coordinates: where nodes lie by round-trip time, and how far apart they are.

Source: protocol/rpc.md §6, protocol/http-api.md §6.5; the geometry: protocol/gossip.md §13.9.
"""

import math
from typing import Final

from isthmus.model.query import QueryMeta
from isthmus.model.record import Record

DIMENSIONS: Final = 8
ERROR_MAX: Final = 1.5
"""Error of a node that knows nothing yet, and the largest."""
HEIGHT_MIN: Final = 1e-5
SECONDS_MAX: Final = 1000.0
"""No length of an honest coordinate comes near: a round trip of 10 s is the longest that counts."""
_NANOSECONDS: Final = 1e9


class Coord(Record, frozen=True, kw_only=True):
    """A point in Vivaldi's space; all lengths are seconds (Vivaldi §3)."""

    vec: tuple[float, ...] | None = None
    error: float = 0.0
    adjustment: float = 0.0
    height: float = 0.0

    def is_compatible(self) -> bool:
        """Whether it lies in our space: `DIMENSIONS` wide, no value infinite or absurd.

        Consul checks dimensions and finiteness only; a length that overflows would make every
        coordinate that is compared with it worthless.
        """
        return (
            self.vec is not None
            and len(self.vec) == DIMENSIONS
            and math.hypot(*self.vec) <= SECONDS_MAX
            and 0.0 <= self.error <= SECONDS_MAX
            and 0.0 <= self.height <= SECONDS_MAX
            and -SECONDS_MAX <= self.adjustment <= SECONDS_MAX
        )


ORIGIN_VEC: Final = (0.0,) * DIMENSIONS
ORIGIN: Final = Coord(vec=ORIGIN_VEC, error=ERROR_MAX, height=HEIGHT_MIN)
"""Where every node begins."""


def distance(a: Coord, b: Coord) -> float:
    """Estimated round trip in seconds between two compatible coordinates.

    It is the way along the vector and both heights; the adjustments count only as long as they
    leave something of it.
    """
    raw = math.dist(a.vec or (), b.vec or ()) + a.height + b.height
    adjusted = raw + a.adjustment + b.adjustment
    return whole_nanoseconds(adjusted if adjusted > 0 else raw)


def whole_nanoseconds(seconds: float) -> float:
    """A length of time rounded down as Consul's durations are."""
    return math.floor(seconds * _NANOSECONDS) / _NANOSECONDS


def shift(old: Coord, new: Coord) -> float:
    """Most seconds by which any estimate changes when a node moves from one to the other."""
    return (
        math.dist(old.vec or (), new.vec or ())
        + abs(old.height - new.height)
        + abs(old.adjustment - new.adjustment)
    )


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


class CoordinateBatch(Record, frozen=True, kw_only=True):
    """The command that stores the coordinates of many nodes at once."""

    updates: tuple[Coordinate, ...] = ()
