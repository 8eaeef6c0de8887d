from isthmus.gossip.recent import (
    EVENTS_PER_LTIME_MAX,
    QUERIES_PER_LTIME_MAX,
    RecentEvents,
    RecentQueries,
)
from isthmus.wire.serf import UserEventBody, UserEvents

DEPLOY, STOP = UserEventBody(name="deploy"), UserEventBody(name="stop", payload=b"1")


def test_event_is_new_once() -> None:
    recent = RecentEvents(4)
    assert recent.add(1, DEPLOY, clock=2)
    assert not recent.add(1, DEPLOY, clock=2)
    assert recent.add(1, STOP, clock=2)
    assert recent.slots()[1] == UserEvents(ltime=1, events=(DEPLOY, STOP))


def test_later_time_takes_over_the_slot_and_older_ones_are_too_old() -> None:
    recent = RecentEvents(4)
    recent.add(1, DEPLOY, clock=2)
    assert recent.add(5, DEPLOY, clock=6)
    assert recent.slots()[1] == UserEvents(ltime=5, events=(DEPLOY,))
    assert not recent.add(1, STOP, clock=6)


def test_events_from_before_a_join_are_ignored() -> None:
    recent = RecentEvents(4)
    recent.ltime_min = 3
    assert not recent.add(2, DEPLOY, clock=3)
    assert recent.add(3, DEPLOY, clock=4)


def test_query_is_new_once() -> None:
    recent = RecentQueries(4)
    assert recent.add(1, 77, clock=2)
    assert not recent.add(1, 77, clock=2)
    assert recent.add(1, 78, clock=2)
    assert not recent.add(1, 79, clock=9)


def test_one_lamport_time_holds_a_bounded_number() -> None:
    events, queries = RecentEvents(4), RecentQueries(4)
    for number in range(EVENTS_PER_LTIME_MAX):
        assert events.add(1, UserEventBody(name=str(number)), clock=2)
    assert not events.add(1, DEPLOY, clock=2)
    for number in range(QUERIES_PER_LTIME_MAX):
        assert queries.add(1, number, clock=2)
    assert not queries.add(1, 9999, clock=2)
