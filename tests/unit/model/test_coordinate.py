"""Coordinates as captured, which are of our space, and how far they are apart."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.model.coordinate import (
    HEIGHT_MIN,
    ORIGIN,
    SECONDS_MAX,
    Coord,
    Coordinate,
    IndexedCoordinates,
    distance,
    shift,
)
from isthmus.wire import gojson, msgpack
from support.coordinates import at, captured, coords
from support.rpc_vectors import load


def test_captured_coordinate_is_the_origin_with_the_first_error() -> None:
    reply = msgpack.decode(IndexedCoordinates, load("coordinate-listnodes-response").body)
    assert reply.coordinates == (Coordinate(node="a1", coord=ORIGIN),)
    assert gojson.encode(ORIGIN) == (
        b'{"Vec":[0,0,0,0,0,0,0,0],"Error":1.5,"Adjustment":0,"Height":0.00001}'
    )


@pytest.mark.parametrize(
    ("coord", "compatible"),
    [
        (ORIGIN, True),
        (captured()[1], True),
        (at(0.1, height=0.0), True),
        (at(SECONDS_MAX), True),
        (at(SECONDS_MAX * 1.001), False),
        (at(1e308, 1e308), False),
        (Coord(), False),
        (Coord(vec=(0.0,) * 7), False),
        (Coord(vec=(0.0,) * 9), False),
        (at(math.nan), False),
        (at(0, 0, math.inf), False),
        (at(height=math.nan), False),
        (at(height=-1e-5), False),
        (at(height=math.inf), False),
        (at(adjustment=-math.inf), False),
        (at(adjustment=math.nan), False),
        (at(error=math.nan), False),
        (at(error=-0.1), False),
        (at(error=SECONDS_MAX * 2), False),
    ],
)
def test_only_coordinates_of_our_space_are_compatible(coord: Coord, compatible: bool) -> None:
    assert coord.is_compatible() is compatible


def test_distance_is_the_vectors_and_both_heights_and_both_adjustments() -> None:
    a = at(0.003, 0, 0, height=0.001, adjustment=0.0005)
    b = at(0, 0.004, 0, height=0.002, adjustment=-0.0002)
    assert distance(a, b) == pytest.approx(0.005 + 0.003 + 0.0003, abs=1e-9)


def test_adjustments_that_leave_nothing_do_not_count() -> None:
    a, b = at(0.003, adjustment=-0.002), at(adjustment=-0.002)
    assert distance(a, b) == pytest.approx(0.003 + 2 * HEIGHT_MIN, abs=1e-9)


def test_distance_is_rounded_down_to_nanoseconds() -> None:
    assert distance(at(1.9e-9, height=0), at(height=0)) == 1e-9


@given(a=coords(), b=coords())
def test_distance_is_the_same_both_ways_and_never_negative(a: Coord, b: Coord) -> None:
    assert distance(a, b) == distance(b, a) >= 0


@given(old=coords(largest=1.0), new=coords(largest=1.0), other=coords(largest=1.0))
def test_no_estimate_changes_by_more_than_the_shift(old: Coord, new: Coord, other: Coord) -> None:
    """As long as the adjustments count on both sides, or on neither."""
    before, after = distance(old, other), distance(new, other)
    old_raw, new_raw = (
        distance(Coord(vec=one.vec, height=one.height), other_raw)
        for one, other_raw in (
            (old, Coord(vec=other.vec, height=other.height)),
            (new, Coord(vec=other.vec, height=other.height)),
        )
    )
    both = old_raw + old.adjustment + other.adjustment > 1e-6
    if both == (new_raw + new.adjustment + other.adjustment > 1e-6):
        assert abs(before - after) <= shift(old, new) + 1e-8


@given(coord=coords(), by=st.floats(0, 1))
def test_shift_of_a_height_is_its_change(coord: Coord, by: float) -> None:
    higher = Coord(
        vec=coord.vec, height=coord.height + by, adjustment=coord.adjustment, error=coord.error
    )
    assert shift(coord, coord) == 0
    assert shift(coord, higher) == pytest.approx(by, abs=1e-9)
