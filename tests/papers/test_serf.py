"""Serf's documented rules (internals: gossip protocol, Lamport clocks), one test per statement."""

from isthmus.gossip.lamport import LamportClock
from isthmus.gossip.roster import MemberFailed, MemberLeft, MemberReaped, MemberStatus
from isthmus.gossip.serf import UserEventReceived
from isthmus.gossip.streams import JoinTarget
from support.gossip_world import World


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
