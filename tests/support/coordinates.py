"""Network coordinates for tests: made by hand, by chance, and from real pings' captured acks."""

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from isthmus.model.coordinate import SECONDS_MAX, Coord

_CAPTURED = Path(__file__).parents[1] / "vectors" / "gossip" / "02-ack-coordinate-consul.json"


def at(*vec: float, height: float = 1e-5, adjustment: float = 0.0, error: float = 1.5) -> Coord:
    """A coordinate whose further dimensions are 0."""
    padded = (*vec, *[0.0] * (8 - len(vec)))
    return Coord(vec=padded, height=height, adjustment=adjustment, error=error)


def captured() -> tuple[bytes, Coord]:
    """Payload of an ack of Consul's, and the coordinate in it."""
    (message,) = json.loads(_CAPTURED.read_text())["messages"]
    told: dict[str, Any] = message["coordinate"]
    return bytes.fromhex(message["body"]["Payload"].removeprefix("0x")), Coord(
        vec=tuple(told["Vec"]),
        error=told["Error"],
        adjustment=told["Adjustment"],
        height=told["Height"],
    )


def coords(*, largest: float = SECONDS_MAX / 4) -> st.SearchStrategy[Coord]:
    """Coordinates of our space, up to absurd ones."""
    length = st.floats(-largest, largest)
    return st.builds(
        Coord,
        vec=st.tuples(*[length] * 8),
        error=st.floats(0, largest),
        adjustment=length,
        height=st.floats(0, largest),
    )


def wild_coords() -> st.SearchStrategy[Coord]:
    """Anything that the wire can carry, mostly of no use."""
    number = st.one_of(st.floats(), st.floats(0, 1), st.just(0.0))
    vec = st.one_of(
        st.none(),
        st.lists(number, max_size=10).map(tuple),
        st.tuples(*[st.floats(-1e3, 1e3)] * 8),
    )
    return st.one_of(
        coords(),
        st.builds(Coord, vec=vec, error=number, adjustment=number, height=number),
    )
