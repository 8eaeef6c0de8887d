"""User events: who takes them, what is remembered, how one waits; on virtual time."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.agent.events import (
    EVENT_COUNT_MAX,
    LEADERSHIP_LOOK_INTERVAL,
    WAIT_MAX,
    EventFilter,
    UserEvents,
    announce_leadership,
)
from isthmus.errors import NoPathToDatacenter, RequestError, Unavailable
from isthmus.model.catalog import NodeService
from isthmus.model.event import EventFireRequest, UserEvent, event_index
from isthmus.model.record import Record
from isthmus.net.gossip import UserEventReceived
from isthmus.wire.user_event import NEW_LEADER, PREFIX, decode_user_event, encode_user_event
from support.virtual_loop import now, run_virtual

ALL = EventFilter()
WEB = NodeService(id="web-1", service="web", tags=("v1", "blue"))


def event_id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"


def event(number: int, name: str = "deploy", **filters: Any) -> UserEvent:
    return UserEvent(id=event_id(number), name=name, version=1, **filters)


def received(fired: UserEvent, *, ltime: int = 1) -> UserEventReceived:
    return UserEventReceived(ltime, PREFIX + fired.name, encode_user_event(fired), False)


class World:
    """The events of an agent with one service, and what it asked servers."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, Record]] = []
        self.failure: Exception | None = None
        self.services = [WEB]
        self.leaders = 0
        numbers = count(1)
        self.events = UserEvents(
            node="alpha",
            services=lambda: self.services,
            rpc=self.rpc,
            entropy=lambda size: bytes([next(numbers)]) * size,
            leader_elected=self.elected,
        )

    async def rpc(self, method: str, request: Record) -> object:
        self.requests.append((method, request))
        if self.failure is not None:
            raise self.failure
        return None

    def elected(self) -> None:
        self.leaders += 1

    def take(self, fired: UserEvent, *, ltime: int = 1) -> None:
        self.events.receive(received(fired, ltime=ltime))

    def names(self, chosen: EventFilter = ALL) -> list[str]:
        return [one.name for one in self.events.recent(chosen)[1]]


def play(act: Callable[[World], Awaitable[None]]) -> World:
    async def main() -> World:
        world = World()
        await act(world)
        return world

    return run_virtual(main())


def test_fired_event_goes_to_a_server_of_the_datacenter_with_an_id_of_its_own() -> None:
    async def act(world: World) -> None:
        wanted = UserEvent(name="deploy", payload=b"v2", service_filter="web", tag_filter="blue")
        fired = await world.events.fire(wanted, dc="dc2", token="secret")
        ((method, request),) = world.requests
        assert method == "Internal.EventFire"
        assert isinstance(request, EventFireRequest)
        assert (request.datacenter, request.name, request.token) == ("dc2", "deploy", "secret")
        assert request.allow_stale
        assert request.payload is not None
        assert decode_user_event(request.payload) == fired
        assert (fired.id, fired.version) == ("01010101-0101-4101-8101-010101010101", 1)
        assert (fired.payload, fired.tag_filter) == (b"v2", "blue")
        assert world.names() == []  # It comes back by gossip, if it is meant for us.

    play(act)


@pytest.mark.parametrize(
    ("filters", "text"),
    [
        ({"tag_filter": "x"}, "Cannot provide tag filter without service filter"),
        (
            {"node_filter": "("},
            "Invalid node filter: error parsing regexp: missing closing ): `(`",
        ),
        ({"service_filter": "("}, "Invalid service filter: "),
        ({"service_filter": "a", "tag_filter": "*"}, "Invalid tag filter: "),
    ],
)
def test_filter_that_is_none_is_refused_before_anything_is_sent(
    filters: dict[str, Any], text: str
) -> None:
    async def act(world: World) -> None:
        with pytest.raises(RequestError) as caught:
            await world.events.fire(UserEvent(name="x", **filters), dc="dc1", token="")
        assert str(caught.value).startswith(text)
        assert caught.value.status == 500
        assert world.requests == []

    play(act)


def test_datacenter_that_cannot_be_reached_is_the_callers_to_hear() -> None:
    async def act(world: World) -> None:
        world.failure = NoPathToDatacenter("dc9")
        with pytest.raises(NoPathToDatacenter):
            await world.events.fire(UserEvent(name="x"), dc="dc9", token="")

    play(act)


@pytest.mark.parametrize(
    ("filters", "taken"),
    [
        ({}, True),
        ({"node_filter": "^alp"}, True),
        ({"node_filter": "beta"}, False),
        ({"service_filter": "^web$"}, True),
        ({"service_filter": "^web-1$"}, True),
        ({"service_filter": "db"}, False),
        ({"service_filter": "web", "tag_filter": "^blue$"}, True),
        ({"service_filter": "web", "tag_filter": "green"}, False),
        ({"node_filter": "beta", "service_filter": "web"}, False),
        ({"node_filter": "("}, False),
        ({"service_filter": "web", "tag_filter": "("}, False),
    ],
)
def test_agent_takes_what_is_meant_for_its_name_and_services(
    filters: dict[str, str], taken: bool
) -> None:
    async def act(world: World) -> None:
        world.take(event(1, **filters))
        assert world.names() == ["deploy"] * taken

    play(act)


def test_tag_counts_only_on_a_service_that_matches_too() -> None:
    async def act(world: World) -> None:
        world.services = [NodeService(id="db", service="db", tags=("blue",)), WEB]
        world.take(event(1, service_filter="^db$", tag_filter="v1"))
        assert world.names() == []

    play(act)


def test_list_is_the_newest_events_with_their_times() -> None:
    async def act(world: World) -> None:
        for number in range(1, EVENT_COUNT_MAX + 11):
            world.take(event(number, name=f"e{number}"), ltime=number)
        index, events = world.events.recent(ALL)
        assert len(events) == EVENT_COUNT_MAX
        assert (events[0].name, events[0].ltime) == ("e11", 11)
        assert index == event_index(event_id(EVENT_COUNT_MAX + 10))

    play(act)


def test_event_that_comes_twice_is_listed_once() -> None:
    async def act(world: World) -> None:
        world.take(event(1), ltime=4)
        world.take(event(1), ltime=9)
        assert [one.ltime for one in world.events.recent(ALL)[1]] == [4]

    play(act)


def test_what_is_no_event_for_users_is_not_listed() -> None:
    async def act(world: World) -> None:
        world.take(event(1, name="_rexec"))
        world.take(UserEvent(id="no-uuid", name="x", version=1))
        world.take(UserEvent(id=event_id(2), name="x", version=2))
        world.events.receive(UserEventReceived(1, PREFIX + "x", b"\xff", False))
        world.events.receive(UserEventReceived(1, "of-serf", b"", False))
        world.events.receive(object())
        assert world.names() == []
        assert world.events.recent(ALL)[0] == 1

    assert play(act).leaders == 0


def test_new_leader_wakes_who_has_to_know() -> None:
    async def act(world: World) -> None:
        world.events.receive(UserEventReceived(1, NEW_LEADER, b"server\xff", False))
        assert world.names() == []

    assert play(act).leaders == 1


def test_list_may_be_narrowed() -> None:
    async def act(world: World) -> None:
        world.services = [WEB, NodeService(id="db", service="db", tags=("v1",))]
        world.take(event(1, "all"))
        world.take(event(2, "nodes", node_filter="^alpha$"))
        world.take(event(3, "web", service_filter="^web$"))
        world.take(event(4, "tagged", service_filter="web|db", tag_filter="v1"))
        assert world.names(EventFilter(name="web")) == ["web"]
        assert world.names(EventFilter(node="beta")) == ["all", "web", "tagged"]
        assert world.names(EventFilter(service="db")) == ["all", "nodes", "tagged"]
        assert world.names(EventFilter(service="web", tag="v2")) == ["all", "nodes", "web"]
        assert world.events.recent(EventFilter(name="none")) == (1, ())
        assert world.events.recent(EventFilter(name="web"))[0] == event_index(event_id(3))

    play(act)


def test_wait_ends_with_the_next_event() -> None:
    async def act(world: World) -> None:
        world.take(event(1))
        seen = world.events.recent(ALL)[0]
        asyncio.get_running_loop().call_later(7, world.take, event(2, "next"))
        index, events = await world.events.changed(ALL, index=seen, wait=60)
        assert now() == 7
        assert (index, [one.name for one in events]) == (
            event_index(event_id(2)),
            ["deploy", "next"],
        )

    play(act)


def test_event_that_was_not_asked_for_does_not_end_the_wait() -> None:
    async def act(world: World) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(1, world.take, event(1, "other"))
        loop.call_later(2, world.take, event(2, "mine"))
        index, events = await world.events.changed(EventFilter(name="mine"), index=1, wait=60)
        assert (now(), [one.name for one in events]) == (2, ["mine"])
        assert index == event_index(event_id(2))

    play(act)


@pytest.mark.parametrize(("wait", "waited"), [(30, 30), (0, WAIT_MAX), (10_000, WAIT_MAX)])
def test_wait_ends_in_time(wait: float, waited: float) -> None:
    async def act(world: World) -> None:
        world.take(event(1))
        seen = world.events.recent(ALL)
        assert await world.events.changed(ALL, index=seen[0], wait=wait) == seen
        assert now() == waited

    play(act)


def test_no_wait_without_an_index_or_with_another() -> None:
    async def act(world: World) -> None:
        world.take(event(1))
        assert await world.events.changed(ALL, index=0, wait=60) == world.events.recent(ALL)
        assert await world.events.changed(ALL, index=12345, wait=60) == world.events.recent(ALL)
        assert now() == 0

    play(act)


class Leadership:
    """Leads from some moments on, and no longer from others; tells of each."""

    def __init__(self, *changes: float) -> None:
        self.changes = changes

    @property
    def is_leader(self) -> bool:
        return sum(change <= now() for change in self.changes) % 2 == 1

    async def leader_changed(self, timeout: float) -> None:
        until = [change - now() for change in self.changes if change > now()]
        await asyncio.sleep(min([timeout, *until]))


def announced(leadership: Leadership, *, seconds: float, failures: int = 0) -> list[float]:
    """When the datacenter was told of its new leader."""
    told: list[float] = []
    left = failures

    async def fire(name: str, payload: bytes) -> None:
        nonlocal left
        assert (name, payload) == (NEW_LEADER, b"alpha")
        if left:
            left -= 1
            raise Unavailable("the gossip thread does not run")
        told.append(now())

    async def main() -> None:
        duty = announce_leadership(leadership, fire, node="alpha")
        running = asyncio.get_running_loop().create_task(duty)
        await asyncio.wait({running}, timeout=seconds)
        assert not running.done()
        running.cancel()
        await asyncio.wait({running})

    run_virtual(main())
    return told


def test_datacenter_is_told_each_time_that_we_become_its_leader() -> None:
    assert announced(Leadership(0), seconds=1000) == [0]
    assert announced(Leadership(5, 20, 30), seconds=1000) == [5, 30]
    assert announced(Leadership(), seconds=1000) == []


def test_announcement_that_failed_is_repeated() -> None:
    told = announced(Leadership(5), seconds=1000, failures=1)
    assert told == [5 + LEADERSHIP_LOOK_INTERVAL]


@given(
    name=st.sampled_from([NEW_LEADER, PREFIX + "x", "x"]),
    payload=st.one_of(
        st.binary(max_size=80),
        st.builds(
            UserEvent,
            id=st.sampled_from([event_id(1), "", "x"]),
            name=st.text(max_size=5),
            payload=st.none() | st.binary(max_size=5),
            node_filter=st.text(max_size=5),
            service_filter=st.text(max_size=5),
            tag_filter=st.text(max_size=5),
            version=st.integers(-1, 2),
        ).map(encode_user_event),
    ),
)
def test_whatever_a_member_sends_is_taken_or_left(name: str, payload: bytes) -> None:
    async def act(world: World) -> None:
        world.events.receive(UserEventReceived(1, name, payload, False))
        index, events = world.events.recent(ALL)
        assert index == (event_index(event_id(1)) if events else 1)

    play(act)
