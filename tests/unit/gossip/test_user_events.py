"""User events: told once, spread by whoever fires them."""

import pytest

from isthmus.errors import InvalidRequest
from isthmus.gossip.config import GossipConfig
from isthmus.gossip.lamport import LamportClock
from isthmus.gossip.user_events import UserEvents
from isthmus.wire import serf as wire


class Events:
    """The events of one member, and what came of them."""

    def __init__(self) -> None:
        self.clock = LamportClock()
        self.spread: list[bytes] = []
        self.told: list[wire.UserEvent] = []
        self.events = UserEvents(
            GossipConfig.lan(), clock=self.clock, spread=self.spread.append, tell=self.told.append
        )


def test_fired_event_is_told_and_spread() -> None:
    member = Events()
    assert member.events.fire("deploy", b"7", coalesce=True) == 1
    event = wire.UserEvent(ltime=1, name="deploy", payload=b"7", cc=True)
    assert (member.told, member.spread) == ([event], [wire.encode_message(event)])
    assert member.clock.time == 2
    assert not member.events.receive(event)


@pytest.mark.parametrize(
    ("size", "when"), [(507, "before"), (500, "after")], ids=["raw", "encoded"]
)
def test_event_that_is_too_long_leaves_no_trace(size: int, when: str) -> None:
    member = Events()
    with pytest.raises(InvalidRequest, match=f"configured limit of 512 bytes {when} encoding"):
        member.events.fire("deploy", bytes(size), coalesce=False)
    assert (member.told, member.spread, member.clock.time) == ([], [], 1)


def slot(ltime: int, *names: str) -> wire.UserEvents:
    bodies = tuple(wire.UserEventBody(name=name) for name in names)
    return wire.UserEvents(ltime=ltime, events=bodies)


@pytest.mark.parametrize(
    ("ignore_old", "told"), [(False, ["a", "b", "c"]), (True, ["c"])], ids=["all", "new"]
)
def test_replayed_events_are_told_but_not_spread(ignore_old: bool, told: list[str]) -> None:
    member = Events()
    state = wire.SerfPushPull(event_ltime=6, events=(slot(5, "a", "b"), None, slot(6, "c")))
    member.events.replay(state, ignore_old=ignore_old)
    assert [event.name for event in member.told] == told
    assert (member.spread, member.clock.time) == ([], 7)


def test_minimum_of_a_join_never_falls() -> None:
    member = Events()
    member.events.recent.ltime_min = 9
    member.events.replay(wire.SerfPushPull(event_ltime=6), ignore_old=True)
    assert member.events.recent.ltime_min == 9
