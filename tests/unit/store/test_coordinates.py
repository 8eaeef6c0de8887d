"""Coordinates in the store: whose are kept, what counts as a move, whom it wakes."""

import pytest

from isthmus.model.catalog import DeregisterRequest, NodeService, RegisterRequest
from isthmus.model.coordinate import Coord, Coordinate, CoordinateBatch
from isthmus.store import commands
from isthmus.store.coordinates import ERROR_MOVE_MIN, MOVE_MIN
from support.coordinates import at
from support.stores import Driven, Sleeper


def driven(*nodes: str) -> Driven:
    """A store with some nodes; its index is 1 + their number."""
    store = Driven()
    store.execute(*(RegisterRequest(node=node, address="10.0.0.1") for node in nodes))
    return store


def batch(*updates: tuple[str, Coord], segment: str = "") -> CoordinateBatch:
    return CoordinateBatch(
        updates=tuple(Coordinate(node=node, segment=segment, coord=c) for node, c in updates)
    )


def names(store: Driven) -> list[str]:
    return [row.node for row in store.store.coordinates.list().value]


def test_a_batch_takes_one_index() -> None:
    store = driven("a", "b")
    store.execute(batch(("b", at(0.2)), ("a", at(0.1))))
    answer = store.store.coordinates.list()
    assert answer.value == (
        Coordinate(node="a", coord=at(0.1)),
        Coordinate(node="b", coord=at(0.2)),
    )
    assert (answer.index, store.store.index) == (4, 4)


def test_nodes_that_the_catalog_lacks_are_left_out() -> None:
    store = driven("a")
    store.execute(batch(("zz", at(0.1))))
    assert (names(store), store.store.index) == ([], 2)
    store.execute(batch(("zz", at(0.1)), ("A", at(0.1))))
    assert (names(store), store.store.index) == (["a"], 3)


@pytest.mark.parametrize(
    ("coord", "written"),
    [
        (at(0.1), False),
        (at(0.1 + MOVE_MIN / 2), False),
        (at(0.1, height=1e-5 + MOVE_MIN / 2), False),
        (at(0.1, error=1.5 - ERROR_MOVE_MIN / 2), False),
        (at(0.1 + MOVE_MIN * 1.01), True),
        (at(0.1, height=1e-5 + MOVE_MIN * 1.01), True),
        (at(0.1, adjustment=-MOVE_MIN * 1.01), True),
        (at(0.1, error=1.5 - ERROR_MOVE_MIN * 1.01), True),
        (at(0.1 + MOVE_MIN / 2, 0, adjustment=MOVE_MIN * 0.6), True),
    ],
)
def test_only_a_noticeable_move_is_a_write(coord: Coord, written: bool) -> None:
    store = driven("a")
    store.execute(batch(("a", at(0.1))))
    index = store.store.index
    store.execute(batch(("a", coord)))
    assert store.store.index == index + written
    assert store.store.coordinates.of("a") == {"": coord if written else at(0.1)}


def test_small_moves_add_up() -> None:
    store = driven("a")
    for number in range(1, 10):
        store.execute(batch(("a", at(number * MOVE_MIN / 2.5))))
    assert store.store.index == 2 + 3  # The first, and every third after it.


def test_coordinates_go_with_their_node() -> None:
    store = driven("a", "ab")
    store.execute(
        batch(("a", at(0.1)), ("ab", at(0.2))),
        batch(("a", at(0.3)), segment="s"),
    )
    assert store.store.coordinates.of("A") == {"": at(0.1), "s": at(0.3)}
    store.execute(DeregisterRequest(node="A"))
    assert names(store) == ["ab"]
    assert store.store.coordinates.of("a") == {}
    assert [row.node for row in store.reloaded().coordinates.list().value] == ["ab"]


def test_coordinates_stay_when_only_a_service_goes() -> None:
    store = driven("a")
    web = NodeService(id="web", service="web")
    store.execute(RegisterRequest(node="a", address="10.0.0.1", service=web))
    store.execute(batch(("a", at(0.1))), DeregisterRequest(node="a", service_id="web"))
    assert names(store) == ["a"]


def test_coordinates_of_a_renamed_node_go() -> None:
    store = Driven()
    node_id = "11111111-2222-3333-4444-555555555555"
    store.execute(RegisterRequest(id=node_id, node="old", address="10.0.0.1"))
    store.execute(batch(("old", at(0.1))))
    store.execute(RegisterRequest(id=node_id, node="new", address="10.0.0.1"))
    assert names(store) == []


def test_a_store_that_is_loaded_knows_them() -> None:
    store = driven("a")
    store.execute(batch(("a", at(0.1, 0.2, height=0.3, adjustment=-0.4, error=0.5))))
    loaded = store.reloaded().coordinates.list()
    assert loaded == store.store.coordinates.list()


def test_list_is_the_same_object_until_one_moves() -> None:
    store = driven("a", "b")
    store.execute(batch(("a", at(0.1))))
    first = store.store.coordinates.list()
    store.execute(RegisterRequest(node="c", address="10.0.0.1"))
    assert store.store.coordinates.list() is first
    store.execute(batch(("b", at(0.1))))
    assert store.store.coordinates.list() is not first


def test_who_reads_one_node_wakes_for_it_only() -> None:
    store = driven("a", "b")
    store.execute(batch(("a", at(0.1))))
    coordinates = store.store.coordinates
    one, missing = coordinates.node("A"), coordinates.node("zz")
    assert [row.coord for row in one.value] == [at(0.1)]
    assert missing.value == ()
    sleepers = [Sleeper(store.store, answer.topics) for answer in (one, missing)]
    every = Sleeper(store.store, coordinates.list().topics)
    store.execute(batch(("b", at(0.1))))
    assert ([sleeper.woken for sleeper in sleepers], every.woken) == ([False, False], True)
    store.execute(DeregisterRequest(node="a"))
    assert [sleeper.stop() for sleeper in sleepers] == [True, False]
    assert coordinates.node("a").changed > one.changed


def test_command_is_as_large_as_its_updates() -> None:
    small, large = (batch(*[("a", at(0.1))] * count) for count in (1, 100))
    assert commands.size(large) - commands.size(small) == 99 * 256
