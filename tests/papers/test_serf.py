"""Serf's rules: its documentation's (gossip protocol, Lamport clocks) and protocol/gossip.md §13.

One test per statement, which its docstring cites.
"""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from isthmus.errors import InvalidRequest
from isthmus.gossip.config import GossipConfig
from isthmus.gossip.lamport import LamportClock
from isthmus.gossip.members import OUR_VSN
from isthmus.gossip.outputs import OpenStream
from isthmus.gossip.queries import QueryReceived, Question
from isthmus.gossip.roster import (
    MemberFailed,
    MemberJoined,
    MemberLeft,
    MemberReaped,
    MemberStatus,
    MemberUpdated,
    Roster,
)
from isthmus.gossip.serf import QueryFinished, UserEventReceived
from isthmus.gossip.streams import JoinTarget
from isthmus.wire import memberlist as packets
from isthmus.wire import serf as wire
from support.gossip_world import World
from support.serf_core import X_ADDR, Core, X, event, query, sent


def user_events(world: World, name: str) -> list[tuple[int, str]]:
    return [
        (event.ltime, event.name)
        for _, event in world.sites[name].events
        if isinstance(event, UserEventReceived)
    ]


def fire(world: World, name: str, event: str) -> int:
    ltime = world.sites[name].serf.user_event(event, b"", coalesce=False)
    world.flush(name)
    return ltime


def test_later_clock_follows_what_it_sees() -> None:
    """Lamport 1978, IR2(b): a receipt sets the clock later than the message."""
    clock = LamportClock()
    clock.witness(41)
    assert clock.time == 42
    clock.witness(7)
    assert clock.time == 42


def test_events_that_caused_each_other_are_ordered() -> None:
    """Lamport 1978: if a happened before b, the time of a is smaller."""
    world = World()
    names = world.add_pool(5)
    first = fire(world, names[0], "cause")
    world.run(until=world.now + 2)
    second = fire(world, names[4], "effect")
    assert second > first
    world.run(until=world.now + 2)
    for name in names:
        assert user_events(world, name) == [(first, "cause"), (second, "effect")]


def test_graceful_leave_is_told_from_failure() -> None:
    """Gossip protocol: a graceful leave is marked as left, not as failed."""
    world = World()
    names = world.add_pool(5)
    world.leave(names[1])
    world.crash(names[2])
    world.run(until=world.now + 20)
    assert world.statuses(names[1]) == {MemberStatus.LEFT}
    assert world.statuses(names[2]) == {MemberStatus.FAILED}


def test_intent_that_comes_late_is_not_lost() -> None:
    """Gossip protocol: Lamport times let messages arrive out of order."""
    world = World()
    names = world.add_pool(5)
    world.cut = lambda source, target: target == names[4]  # It does not hear the intent.
    world.leave(names[1])
    world.run(until=world.now + 2)
    world.cut = lambda source, target: False
    world.run(until=world.now + 60)
    assert world.status(names[4], names[1]) is MemberStatus.LEFT
    assert world.status(names[0], names[1]) is MemberStatus.LEFT


def test_newcomer_gets_recent_events_by_state_exchange() -> None:
    """Gossip protocol: recent user events travel in the exchange of state."""
    world = World()
    names = world.add_pool(3)
    fire(world, names[0], "deploy")
    world.run(until=world.now + 2)
    for name, ignore_old, expected in (("eager", False, ["deploy"]), ("calm", True, [])):
        serf = world.add(name)
        from_zero = world.sites[names[0]].serf.memberlist.table.me.address
        serf.join([JoinTarget("", from_zero)], ignore_old=ignore_old, now=world.now)
        world.flush(name)
        world.run(until=world.now + 2)
        assert [event for _, event in user_events(world, name)] == expected


def test_failed_members_are_tried_again() -> None:
    """Gossip protocol: failed members are tried again from time to time."""
    world = World()
    names = world.add_pool(3)
    world.cut = lambda source, target: names[2] in {source, target}
    world.run(until=world.now + 40)
    assert world.statuses(names[2]) == {MemberStatus.FAILED}
    world.cut = lambda source, target: False
    world.run(until=world.now + 150)
    assert world.statuses(names[2]) == {MemberStatus.ALIVE}


def test_force_leave_turns_failed_into_left() -> None:
    """force-leave: a failed member enters the left state."""
    world = World()
    names = world.add_pool(3)
    world.crash(names[2])
    world.run(until=world.now + 20)
    world.sites[names[0]].serf.force_leave(names[2], prune=False, now=world.now)
    world.flush(names[0])
    world.run(until=world.now + 5)
    assert [who for _, who in world.events(names[1], MemberFailed)] == [names[2]]
    assert [who for _, who in world.events(names[1], MemberLeft)] == [names[2]]


def test_force_leave_of_a_living_member_does_not_last() -> None:
    """force-leave: a member that is alive after all comes back."""
    world = World()
    names = world.add_pool(3)
    world.sites[names[0]].serf.force_leave(names[2], prune=False, now=world.now)
    world.flush(names[0])
    world.run(until=world.now + 30)
    assert world.statuses(names[2]) == {MemberStatus.ALIVE}
    assert world.events(names[1], MemberReaped) == []


# --- protocol/gossip.md §13.2: Lamport clocks -----------------------------------------------------


def test_each_of_the_three_clocks_starts_at_1() -> None:
    """§13.2: three clocks (member, event, query), each starts at 1."""
    serf = Core().serf
    assert (serf.clock.time, serf.event_clock.time, serf.query_clock.time) == (1, 1, 1)


def test_snapshot_value_is_witnessed() -> None:
    """§13.2: a snapshot value is then witnessed."""
    serf = Core().serf
    serf.resume(clock=41, event_clock=0, query_clock=7)
    assert (serf.clock.time, serf.event_clock.time, serf.query_clock.time) == (42, 1, 8)


@pytest.mark.parametrize(("seen", "after"), [(9, 10), (10, 11), (30, 31)])
def test_witness_moves_the_clock_past_what_it_sees(seen: int, after: int) -> None:
    """§13.2: witness(v): if v >= clock then clock = v + 1."""
    clock = LamportClock()
    clock.witness(9)
    clock.witness(seen)
    assert clock.time == after


def test_increment_adds_one() -> None:
    """§13.2: increment: +1."""
    clock = LamportClock()
    assert clock.increment() == clock.time == 2


@given(st.lists(st.integers(0, 2**40), max_size=20))
def test_clock_never_goes_back(seen: list[int]) -> None:
    """Lamport 1978, IR1 and IR2: a clock only goes on."""
    clock, before = LamportClock(), 0
    for ltime in seen:
        clock.witness(ltime)
        assert clock.time > max(before - 1, ltime)
        before = clock.time


def test_push_pull_witnesses_one_less_than_the_others_clocks() -> None:
    """§13.2: push/pull: witness(remote - 1) for each clock > 0."""
    core = Core()
    core.receive_state(ltime=30, event_ltime=0, query_ltime=1)
    serf = core.serf
    assert (serf.clock.time, serf.event_clock.time, serf.query_clock.time) == (31, 1, 1)


# --- §13.3: tags ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("meta", "tags"),
    [(wire.encode_tags({"a": "1"}), {"a": "1"}), (b"web", {"role": "web"}), (b"", {"role": ""})],
)
def test_meta_without_its_mark_is_the_role(meta: bytes, tags: dict[str, str]) -> None:
    """§13.3: no leading ff: whole Meta is the role tag; empty Meta: role ""."""
    core = Core()
    core.claim(packets.Alive(incarnation=1, node="x", addr=X_ADDR, port=1, meta=meta, vsn=OUR_VSN))
    (member,) = [member for member in core.serf.members() if member.name == "x"]
    assert member.tags == tags


def test_changed_tags_are_an_alive_of_the_next_incarnation() -> None:
    """§13.3: changing tags = alive with incarnation + 1."""
    core = Core()
    before = core.serf.memberlist.table.me.incarnation
    core.serf.update_tags({"role": "db"}, now=0.0)
    assert core.serf.memberlist.table.me.incarnation == before + 1


def test_peers_of_a_member_whose_tags_changed_tell_an_update() -> None:
    """§13.3: peers raise member-update."""
    world = World()
    names = world.add_pool(3)
    world.sites[names[1]].serf.update_tags({"role": "db"}, now=world.now)
    world.flush(names[1])
    world.run(until=world.now + 2)
    for name in (names[0], names[2]):
        assert [who for _, who in world.events(name, MemberUpdated)] == [names[1]]


# --- §13.4: join and leave intents ----------------------------------------------------------------


def test_successful_join_is_followed_by_an_intent_of_the_clocks_time() -> None:
    """§13.4: join{LTime = clock (not incremented; then witnessed)}."""
    core = Core()
    core.receive_state(ltime=5)
    assert core.rumours() == [wire.Join(ltime=5, node="me")]
    assert core.serf.clock.time == 6


def test_newest_intent_about_an_unknown_member_is_remembered() -> None:
    """§13.4: join intent, member unknown: remember newest intent per node; rebroadcast if newer."""
    core = Core()
    told: list[wire.SerfMessage] = [
        wire.Join(ltime=3, node="x"),
        wire.Leave(ltime=4, node="x"),
        wire.Join(ltime=2, node="x"),
    ]
    for message in told:
        core.hear(message)
    waiting = core.rumours()
    assert [message for message in told if message in waiting] == told[:2]
    core.add("x")
    assert core.status("x") == (MemberStatus.LEAVING, 4)


def test_intent_about_an_unknown_member_is_forgotten_after_five_minutes() -> None:
    """§13.4: (5 min)."""
    core = Core()
    core.hear(wire.Leave(ltime=4, node="x"))
    now = 0.0
    while now < 320:
        now = core.serf.next_timer()
        core.serf.handle_timer(now=now)
    core.add("x")
    assert core.status("x") == (MemberStatus.ALIVE, 0)


@pytest.mark.parametrize("ltime", [4, 5])
def test_join_intent_that_is_not_newer_is_ignored(ltime: int) -> None:
    """§13.4: join intent, LTime <= member's status LTime: ignore."""
    core = Core()
    core.add()
    core.hear(wire.Leave(ltime=5, node="x"))
    core.hear(wire.Join(ltime=ltime, node="x"))
    assert core.status("x") == (MemberStatus.LEAVING, 5)
    assert wire.Join(ltime=ltime, node="x") not in core.rumours()


def test_newer_join_intent_makes_the_leaving_stay() -> None:
    """§13.4: join intent, newer: store LTime; leaving -> alive; rebroadcast."""
    core = Core()
    core.add()
    core.hear(wire.Leave(ltime=5, node="x"), wire.Join(ltime=6, node="x"))
    assert core.status("x") == (MemberStatus.ALIVE, 6)
    assert wire.Join(ltime=6, node="x") in core.rumours()


@pytest.mark.parametrize("ltime", [4, 5])
def test_old_leave_intent_is_ignored(ltime: int) -> None:
    """§13.4: leave intent, old: ignore."""
    core = Core()
    core.add()
    core.hear(wire.Join(ltime=5, node="x"))
    core.rumours()
    core.hear(wire.Leave(ltime=ltime, node="x"))
    assert core.status("x") == (MemberStatus.ALIVE, 5)
    assert wire.Leave(ltime=ltime, node="x") not in core.rumours()


def test_leave_intent_about_a_living_self_is_refuted() -> None:
    """§13.4: leave intent about self while alive: refute: broadcast join{LTime = clock}."""
    core = Core()
    core.hear(wire.Leave(ltime=8, node="me"))
    assert core.rumours() == [wire.Join(ltime=9, node="me")]
    assert core.status("me") == (MemberStatus.ALIVE, 9)


def test_newer_leave_intent_makes_the_alive_leaving() -> None:
    """§13.4: leave intent, newer: store LTime always; alive -> leaving; rebroadcast."""
    core = Core()
    core.add()
    leave = wire.Leave(ltime=5, node="x")
    assert core.hear(leave) == []
    assert core.status("x") == (MemberStatus.LEAVING, 5)
    assert core.rumours() == [leave]


def test_newer_leave_intent_makes_the_failed_left_and_tells_it() -> None:
    """§13.4: failed -> left (+ leave event "forced")."""
    core = Core()
    core.add()
    core.bury()
    (told,) = core.hear(wire.Leave(ltime=5, node="x"))
    assert isinstance(told, MemberLeft)
    assert core.status("x") == (MemberStatus.LEFT, 5)


def test_newer_leave_intent_about_one_that_left_is_stored() -> None:
    """§13.4: store LTime always."""
    core = Core()
    core.add()
    core.hear(wire.Leave(ltime=5, node="x"))
    core.bury(from_="x")
    assert core.hear(wire.Leave(ltime=6, node="x")) == []
    assert core.status("x") == (MemberStatus.LEFT, 6)


def test_prune_erases_the_gone_at_once() -> None:
    """§13.4: Prune: erase the member."""
    core = Core()
    core.add()
    core.bury()
    told = core.hear(wire.Leave(ltime=5, node="x", prune=True))
    assert [type(each) for each in told] == [MemberLeft, MemberReaped]
    assert [member.name for member in core.serf.members()] == ["me"]


def test_prune_erases_the_leaving_when_it_had_time_to_go() -> None:
    """§13.4: (for a leaving one after BroadcastTimeout + LeavePropagateDelay)."""
    core = Core()
    core.add()
    core.hear(wire.Leave(ltime=5, node="x", prune=True))
    core.serf.handle_timer(now=7.9)
    assert core.status("x") == (MemberStatus.LEAVING, 5)
    core.serf.handle_timer(now=8.0)
    assert [member.name for member in core.serf.members()] == ["me"]


@pytest.mark.parametrize("from_", ["x", "y"])
def test_death_of_the_leaving_is_a_departure(from_: str) -> None:
    """§13.4: memberlist dead/left event: leaving -> left (member-leave)."""
    core = Core()
    core.add()
    core.hear(wire.Leave(ltime=5, node="x"))
    (told,) = core.bury(from_=from_)
    assert isinstance(told, MemberLeft)


def test_death_of_the_alive_is_a_failure() -> None:
    """§13.4: alive -> failed; a dead message without an intent gives failed."""
    core = Core()
    core.add()
    (told,) = core.bury(from_="y")
    assert isinstance(told, MemberFailed)
    assert core.status("x") == (MemberStatus.FAILED, 0)


def test_departure_without_an_intent_is_one_all_the_same() -> None:
    """§13.4 has "failed" until the intent comes; who says of itself that it is gone, left."""
    core = Core()
    core.add()
    (told,) = core.bury(from_="x")
    assert isinstance(told, MemberLeft)


@pytest.mark.parametrize("leaves", [True, False])
def test_alive_after_it_was_gone_is_a_join(leaves: bool) -> None:
    """§13.4: memberlist alive event after failed/left: alive, member-join."""
    core = Core()
    core.add()
    if leaves:
        core.hear(wire.Leave(ltime=5, node="x"))
    core.bury()
    (told,) = core.claim(
        packets.Alive(incarnation=2, node="x", addr=X_ADDR, port=7946, vsn=OUR_VSN)
    )
    assert isinstance(told, MemberJoined)
    assert core.status("x")[0] is MemberStatus.ALIVE


def test_push_pull_tells_who_left_by_an_intent_of_the_next_time() -> None:
    """§13.4: push/pull LeftMembers: leave intent with LTime = StatusLTimes[name] + 1."""
    core = Core()
    core.add()
    core.receive_state(ltime=9, status_ltimes={"x": 4}, left_members=("x",))
    assert core.status("x") == (MemberStatus.LEAVING, 5)


def test_push_pull_tells_the_others_by_join_intents() -> None:
    """§13.4: push/pull other StatusLTimes: join intent with that LTime."""
    core = Core()
    core.add()
    core.hear(wire.Leave(ltime=3, node="x"))
    core.receive_state(ltime=9, status_ltimes={"x": 4})
    assert core.status("x") == (MemberStatus.ALIVE, 4)


def test_leaving_takes_the_clocks_time_and_moves_it_on() -> None:
    """§13.4: leave{LTime = clock} broadcast -> clock + 1."""
    core = Core()
    core.add()
    core.hear(wire.Join(ltime=6, node="x"))
    core.rumours()
    core.serf.leave(now=0.0)
    assert wire.Leave(ltime=7, node="me") in core.rumours()
    assert core.serf.clock.time == 8


def test_force_leave_is_the_same_intent_about_another() -> None:
    """§13.4: force-leave = the same leave intent about another node, LTime = clock, clock + 1."""
    core = Core()
    core.add("x")
    core.add("y", b"\x0a\x00\x00\x03")
    core.bury()
    core.serf.force_leave("x", prune=False, now=0.0)
    assert core.rumours() == [wire.Leave(ltime=1, node="x")]
    assert core.serf.clock.time == 2
    assert core.status("x") == (MemberStatus.LEFT, 1)


# --- §13.5: user events ---------------------------------------------------------------------------


def test_event_takes_the_event_clocks_time_and_moves_it_on() -> None:
    """§13.5: LTime of an event: event clock, then increment."""
    core = Core()
    core.hear(event(8))
    assert core.serf.user_event("mine", b"", coalesce=False) == 9
    assert core.serf.event_clock.time == 10


@pytest.mark.parametrize(
    ("other", "news"),
    [
        (wire.UserEvent(ltime=9, name="deploy", payload=b"7"), False),
        (wire.UserEvent(ltime=9, name="deploy", payload=b"8"), True),
        (wire.UserEvent(ltime=9, name="stop", payload=b"7"), True),
        (wire.UserEvent(ltime=10, name="deploy", payload=b"7"), True),
    ],
)
def test_event_is_a_duplicate_by_time_name_and_payload(other: wire.UserEvent, news: bool) -> None:
    """§13.5: same LTime + Name + Payload; rebroadcast if new."""
    core = Core()
    core.hear(event(9))
    core.rumours()
    assert bool(core.hear(other)) is news
    assert (other in core.rumours()) is news


@pytest.mark.parametrize(("ltime", "news"), [(487, False), (488, True)])
def test_event_is_too_old_when_512_times_passed(ltime: int, news: bool) -> None:
    """§13.5: LTime < clock - 512."""
    core = Core()
    core.hear(event(999))
    assert core.serf.event_clock.time == 1000
    assert bool(core.hear(event(ltime))) is news


@pytest.mark.parametrize(("ltime", "news"), [(39, False), (40, True)])
def test_join_that_ignores_old_events_sets_the_minimum(ltime: int, news: bool) -> None:
    """§13.5: or below the minimum set by a join that ignores old events (= peer's EventLTime)."""
    core = Core()
    core.receive_state(event_ltime=40, ignore_old=True)
    assert bool(core.hear(event(ltime))) is news


def test_ring_of_events_travels_in_a_push_pull() -> None:
    """§13.5: replay: the ring travels in push/pull, so late joiners get events."""
    core = Core()
    core.hear(event(9))
    state = wire.decode_message(core.serf.user_state(join=False))
    assert isinstance(state, wire.SerfPushPull)
    late = Core()
    told = late.receive_state(event_ltime=state.event_ltime, events=state.events)
    assert [each.ltime for each in told if isinstance(each, UserEventReceived)] == [9]
    assert late.serf.event_clock.time == 10


# --- §13.5: queries -------------------------------------------------------------------------------


def test_query_takes_the_query_clocks_time_and_its_own_handling_witnesses_it() -> None:
    """§13.5: LTime of a query: query clock (own handling witnesses it)."""
    core = Core()
    core.add()
    core.hear(query(ltime=8))
    core.rumours()
    core.serf.query(Question(name="mine"), now=0.0)
    (asked,) = [
        message
        for message in core.rumours()
        if isinstance(message, wire.Query) and message.name == "mine"
    ]
    assert (asked.ltime, core.serf.query_clock.time) == (9, 10)
    assert 0 <= asked.id < 2**31


@pytest.mark.parametrize(
    ("fields", "news"), [({}, False), ({"id": 78}, True), ({"ltime": 2}, True)]
)
def test_query_is_a_duplicate_by_time_and_id(fields: dict[str, int], news: bool) -> None:
    """§13.5: same LTime + ID."""
    core = Core()
    core.hear(query())
    assert bool(core.hear(query(**fields))) is news


@pytest.mark.parametrize(("ltime", "news"), [(487, False), (488, True)])
def test_query_is_too_old_when_512_times_passed(ltime: int, news: bool) -> None:
    """§13.5: LTime < clock - 512."""
    core = Core()
    core.hear(query(ltime=999))
    assert bool(core.hear(query(ltime=ltime, id=5))) is news


@pytest.mark.parametrize(("flags", "passed_on"), [(0, True), (1, True), (2, False), (3, False)])
def test_query_is_passed_on_even_if_it_is_for_others(flags: int, passed_on: bool) -> None:
    """§13.5: rebroadcast if new and flag 2 unset, even when filtered out."""
    core = Core()
    asked = query(flags=flags, filters=(wire.encode_filter(wire.NodeFilter(("x",))),))
    assert core.hear(asked) == []
    assert (core.rumours() == [asked]) is passed_on


@pytest.mark.parametrize(
    ("filters", "meant"),
    [
        ((wire.NodeFilter(("x", "me")),), True),
        ((wire.NodeFilter(("x",)),), False),
        ((wire.TagFilter(tag="role", expr="e"),), True),
        ((wire.TagFilter(tag="role", expr="^e"),), False),
        ((wire.TagFilter(tag="none", expr="^$"),), True),
        ((wire.NodeFilter(("me",)), wire.TagFilter(tag="role", expr="db")), False),
    ],
)
def test_all_filters_must_match(
    filters: tuple[wire.NodeFilter | wire.TagFilter, ...], meant: bool
) -> None:
    """§13.5: names; regexp search on the local tag value. All must match."""
    core = Core(tags={"role": "web"})
    assert bool(core.hear(query(filters=tuple(map(wire.encode_filter, filters))))) is meant


def test_receipt_comes_before_the_answer() -> None:
    """§13.5: Ack (Flags 1, nil Payload) first when wanted; straight to Addr/Port."""
    core = Core()
    outputs = core.hear(query(flags=wire.QueryFlag.ACK))
    core.serf.respond(query(flags=wire.QueryFlag.ACK), b"1", now=0.0)
    told = sent(outputs + core.serf.take_outputs())
    base = wire.QueryResponse(ltime=1, id=77, from_="me")
    assert told == [
        ("x", X, replace(base, flags=wire.QueryFlag.ACK)),
        ("x", X, replace(base, payload=b"1")),
    ]


def test_member_answers_at_most_once() -> None:
    """§13.5: at most one per node, before Timeout."""
    core = Core()
    core.hear(query())
    core.serf.respond(query(), b"1", now=0.0)
    with pytest.raises(InvalidRequest, match="already sent"):
        core.serf.respond(query(), b"2", now=0.0)


def test_relayed_bytes_are_sent_on_as_they_are() -> None:
    """§13.5: the same response wrapped in relay; they send the inner bytes on."""
    core = Core()
    inner = wire.QueryResponse(ltime=1, id=7, from_="y", payload=b"1")
    relay = wire.Relay(ip=X_ADDR, port=7946, dest_name="x", message=wire.encode_message(inner))
    assert sent(core.hear(relay)) == [("x", X, inner)]


def test_asker_drops_what_it_has_from_a_member() -> None:
    """§13.5: originator drops duplicates per From."""
    core = Core()
    core.add()
    number = core.serf.query(Question(name="load"), now=0.0)
    (asked,) = [m for m in core.rumours() if isinstance(m, wire.Query)]
    answer = wire.QueryResponse(ltime=asked.ltime, id=asked.id, from_="x", payload=b"1")
    core.hear(answer, replace(answer, payload=b"2"))
    core.serf.handle_timer(now=3.3)
    (result,) = [o for o in core.serf.take_outputs() if isinstance(o, QueryFinished)]
    assert (result.id, result.result.responses) == (number, {"x": b"1"})


@pytest.mark.parametrize("name", ["ping", "conflict", "install-key", "list-keys", "unheard-of"])
def test_internal_queries_are_not_told(name: str) -> None:
    """§13.5: internal queries are not passed to the application."""
    core = Core()
    outputs = core.hear(query(name=f"_serf_{name}", payload=b"me"))
    assert not [output for output in outputs if isinstance(output, QueryReceived)]
    assert core.rumours() != []


def test_conflict_is_not_answered_by_the_named() -> None:
    """§13.5: payload = node name; not answered by the named node."""
    core = Core()
    core.add("y", b"\x0a\x00\x00\x03")
    assert core.hear(query(name="_serf_conflict", payload=b"me")) == []
    ((_, _, response),) = sent(core.hear(query(id=78, name="_serf_conflict", payload=b"y")))
    assert isinstance(response, wire.QueryResponse)
    answer = wire.decode_message(response.payload)
    assert isinstance(answer, wire.ConflictResponse)
    assert (answer.name, answer.addr, answer.port) == ("y", b"\x0a\x00\x00\x03", 7946)


# --- §13.6: reap and reconnect --------------------------------------------------------------------


@pytest.mark.parametrize(("leaves", "hours"), [(False, 72), (True, 24)])
def test_gone_member_is_erased_when_its_time_is_over(leaves: bool, hours: int) -> None:
    """§13.6: failed older than ReconnectTimeout, left older than TombstoneTimeout (member-reap)."""
    core = Core()
    core.add()
    if leaves:
        core.hear(wire.Leave(ltime=5, node="x"))
    core.bury()
    core.serf.handle_timer(now=hours * 3600.0)
    assert len(core.serf.members()) == 2
    core.serf.handle_timer(now=hours * 3600.0 + 16)
    assert [o.member.name for o in core.serf.take_outputs() if isinstance(o, MemberReaped)] == ["x"]


def test_failed_member_is_joined_by_name_without_an_intent() -> None:
    """§13.6: one random failed member is joined as name/addr:port (no join intent)."""
    core = Core()
    core.add()
    core.bury()
    core.rumours()
    core.serf.handle_timer(now=30.0)
    (request,) = [o for o in core.serf.take_outputs() if isinstance(o, OpenStream)]
    assert (request.node, request.address) == ("x", X)
    reader = packets.StreamReader(dialler=False)
    reader.receive_data(request.data)
    assert isinstance(reader.message, packets.PushPull)
    assert reader.message.join
    state = packets.PushPull(
        join=True, nodes=(), user_state=wire.encode_message(wire.SerfPushPull())
    )
    answer = packets.wrap_stream(packets.encode_stream(state), dialler=False)
    core.serf.receive_stream_data(request.id, answer, now=30.1)
    assert core.rumours() == []


def test_the_fewer_are_alive_the_likelier_a_failed_one_is_tried() -> None:
    """§13.6: with probability failed/alive."""
    tried = {}
    for alive in (1, 4, 19):
        roster = Roster(GossipConfig.lan(), emit=lambda event: None)
        for number in range(alive + 1):
            node = packets.NodeState(name=str(number), addr=X_ADDR, port=1, vsn=OUR_VSN)
            roster.node_joined(node)
        roster.node_left(node, now=0.0)
        rng = Random(1)
        tried[alive] = sum(roster.pick_failed(rng) is not None for _ in range(2000)) / 2000
    assert tried[1] == 1
    assert tried[4] == pytest.approx(1 / 4, abs=0.03)
    assert tried[19] == pytest.approx(1 / 19, abs=0.02)
