"""Coordinates as captured."""

from isthmus.model.coordinate import Coord, Coordinate, IndexedCoordinates
from isthmus.wire import gojson, msgpack
from support.rpc_vectors import load


def test_captured_coordinate_is_the_origin_with_the_first_error() -> None:
    reply = msgpack.decode(IndexedCoordinates, load("coordinate-listnodes-response").body)
    origin = Coord(vec=(0.0,) * 8, error=1.5, adjustment=0.0, height=1e-5)
    assert reply.coordinates == (Coordinate(node="a1", coord=origin),)
    assert gojson.encode(origin) == (
        b'{"Vec":[0,0,0,0,0,0,0,0],"Error":1.5,"Adjustment":0,"Height":0.00001}'
    )
