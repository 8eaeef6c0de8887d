"""In which order the catalog is told, and what is on its way at a time."""

from hypothesis import given
from hypothesis import strategies as st

from isthmus.agent.outbox import CHECK, SERVICE, THE_NODE, Item, Outbox

WEB, DB = Item(SERVICE, "web", "web"), Item(SERVICE, "db", "db")
WEB_CHECK, NODE_CHECK = Item(CHECK, "c1", "web"), Item(CHECK, "disk")


def filled(*items: Item) -> Outbox:
    outbox = Outbox()
    for item in items:
        outbox.add(item)
    return outbox


def all_taken(outbox: Outbox) -> list[Item]:
    """What can be on its way at a time."""
    return list(iter(outbox.take, None))


def test_oldest_goes_first_and_once() -> None:
    outbox = filled(WEB, DB, WEB, NODE_CHECK)
    assert len(outbox) == 3
    assert all_taken(outbox) == [WEB, DB, NODE_CHECK]


def test_one_item_of_a_service_is_on_its_way_at_a_time() -> None:
    outbox = filled(WEB, DB)
    assert all_taken(outbox) == [WEB, DB]
    outbox.add(WEB)
    outbox.add(WEB_CHECK)
    assert all_taken(outbox) == []
    outbox.arrived(WEB)
    assert WEB in outbox
    assert all_taken(outbox) == [WEB]
    outbox.arrived(WEB)
    assert WEB not in outbox
    assert all_taken(outbox) == [WEB_CHECK]


def test_service_goes_before_its_checks() -> None:
    assert filled(WEB_CHECK, WEB).take() == WEB


def test_check_goes_along_with_its_service() -> None:
    outbox = filled(WEB, WEB_CHECK)
    assert outbox.take() == WEB
    assert outbox.take_along(WEB_CHECK)
    assert not outbox.take_along(WEB_CHECK)
    outbox.arrived(WEB)
    outbox.arrived(WEB_CHECK)
    assert (len(outbox), outbox.take()) == (0, None)


def test_node_goes_first_and_alone() -> None:
    outbox = filled(WEB, THE_NODE, DB)
    assert all_taken(outbox) == [THE_NODE]
    outbox.arrived(THE_NODE)
    assert all_taken(outbox) == [WEB, DB]
    outbox.add(THE_NODE)
    assert all_taken(outbox) == []
    outbox.arrived(WEB)
    outbox.arrived(DB)
    assert all_taken(outbox) == [THE_NODE]


def test_what_came_back_waits_again() -> None:
    outbox = filled(WEB)
    outbox.take()
    outbox.came_back(WEB)
    assert outbox.waits(WEB)
    assert all_taken(outbox) == [WEB]


def test_discarded_item_does_not_go() -> None:
    outbox = filled(WEB, DB)
    outbox.discard(WEB)
    outbox.discard(WEB)
    assert all_taken(outbox) == [DB]


ITEMS = (THE_NODE, WEB, DB, WEB_CHECK, NODE_CHECK)


@given(st.lists(st.tuples(st.sampled_from(["add", "take", "arrive", "fail"]), st.integers(0, 4))))
def test_nothing_is_lost_and_lanes_hold_one(steps: list[tuple[str, int]]) -> None:
    """Whatever happens: what was added and not delivered since is told in the end."""
    outbox, due, away = Outbox(), set[Item](), list[Item]()
    for step, number in steps:
        if step == "add":
            outbox.add(ITEMS[number])
            due.add(ITEMS[number])
        elif step == "take" and (item := outbox.take()) is not None:
            due.discard(item)
            away.append(item)
        elif away and step in {"arrive", "fail"}:
            item = away.pop(number % len(away))
            if step == "arrive":
                outbox.arrived(item)
            else:
                outbox.came_back(item)
                due.add(item)
        lanes = [item.lane or item[:2] for item in away]
        assert len(lanes) == len(set(lanes))
        assert THE_NODE not in away or away == [THE_NODE]
        assert all(item in outbox for item in (*due, *away))
    while away or due:
        for item in away:
            outbox.arrived(item)
        away = all_taken(outbox)
        assert away or not due
        due -= set(away)
    assert len(outbox) == 0
