"""The network coordinate that serf puts into its acks.

Layout: ``version:u8 = 1 | map {Adjustment, Error, Height: float64, Vec: [float64 × dimensions]}``,
lengths in seconds, keys in alphabetical order. Source: protocol/gossip.md §13.9.
"""

from typing import Final

from isthmus.errors import MalformedPacket
from isthmus.model.coordinate import Coord
from isthmus.wire import fields

VERSION: Final = 1
_VERSION: Final = bytes([VERSION])


def encode_ack(coord: Coord) -> bytes:
    """Payload of an ack."""
    return _VERSION + fields.pack(
        {
            "Adjustment": coord.adjustment,
            "Error": coord.error,
            "Height": coord.height,
            "Vec": coord.vec,
        }
    )


def decode_ack(payload: bytes) -> Coord:
    """Coordinate out of an ack's payload; how many dimensions it has, and how large it is, is open.

    Raises:
        MalformedPacket: Another version, not MessagePack, or of another shape.
    """
    if payload[:1] != _VERSION:
        raise MalformedPacket(f"coordinate of unknown version {payload[:1].hex() or 'none'}")
    found = fields.unpack(payload[1:])
    if type(found) is not dict:
        raise MalformedPacket(f"coordinate is no map but {type(found).__name__}")
    vec = found.get(b"Vec")
    if vec is not None and type(vec) is not list:
        raise MalformedPacket(f"coordinate's vector is no list but {type(vec).__name__}")
    return Coord(
        vec=None if vec is None else tuple([_number(value) for value in vec]),
        error=_number(found.get(b"Error")),
        adjustment=_number(found.get(b"Adjustment")),
        height=_number(found.get(b"Height")),
    )


def _number(value: object) -> float:
    if type(value) is float:
        return value
    if value is None:
        return 0.0
    if type(value) is int:
        return float(value)
    raise MalformedPacket(f"coordinate holds a {type(value).__name__} for a number")
