"""Pools in trouble: broken streams, stalls, moves, flapping, encryption that is switched on."""

from dataclasses import replace
from itertools import product

import pytest

from isthmus.gossip.config import GossipConfig
from isthmus.gossip.keyring import Keyring
from isthmus.gossip.outputs import Warned
from isthmus.gossip.roster import (
    MemberFailed,
    MemberJoined,
    MemberLeft,
    MemberReaped,
    MemberStatus,
)
from isthmus.gossip.streams import JoinTarget
from isthmus.wire.memberlist import Suspect
from support.gossip_world import World

KEY = bytes(16)
LAN = GossipConfig.lan()

# --- Streams that break ---------------------------------------------------------------------------


def test_push_pull_whose_answer_is_lost_counts_for_whom_it_reached() -> None:
    world = World()
    world.add_pool(2)
    world.add("late", tags={"role": "new"})
    world.cut = lambda source, target: target == "late"  # It speaks and does not hear.
    number = world.join("late", "n0")
    world.run(until=world.now + 1)
    assert world.status("n0", "late") is MemberStatus.ALIVE
    assert world.status("n1", "late") is MemberStatus.ALIVE  # And the news went on.
    world.run(until=world.now + 10)
    finished = world.sites["late"].joins[number]
    assert (finished.contacted, finished.errors) == (
        0,
        ("Failed to join 10.0.0.1:7946: i/o timeout",),
    )
    assert world.status("late", "n0") is MemberStatus.NONE


def test_member_that_heard_no_answer_is_complete_once_it_hears_again() -> None:
    world = World()
    world.add_pool(3)
    world.add("late")
    world.cut = lambda source, target: target == "late"
    world.join("late", "n0")
    world.run(until=world.now + 2)
    world.cut = lambda source, target: False
    world.run(until=world.now + 65)
    for name in ("n0", "n1", "n2"):
        assert world.status("late", name) is MemberStatus.ALIVE
        assert world.status(name, "late") is MemberStatus.ALIVE


def test_news_survives_streams_that_all_break() -> None:
    """What a push/pull brings is told by rumours too; a broken one uses none of them up."""
    world = World()
    names = world.add_pool(4)
    answers = {"lost": 0}
    deliver = world._deliver_stream

    def break_it(source: str, target: str, number: int, data: bytes) -> None:
        answers["lost"] += 1
        deliver(source, target, number, data[: len(data) // 2])

    world._deliver_stream = break_it  # type: ignore[method-assign]
    serf = world.sites[names[1]].serf
    serf.update_tags({"role": "db"}, now=world.now)
    world.flush(names[1])
    world.leave(names[2])
    world.run(until=world.now + 70)
    assert answers["lost"] > 4
    for name in (names[0], names[3]):
        members = {member.name: member for member in world.sites[name].serf.members()}
        assert members[names[1]].tags == {"role": "db"}
        assert members[names[2]].status is MemberStatus.LEFT
        assert world.events(name, MemberFailed) == []


# --- Stalls ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_member_that_slept_for_ten_minutes_recovers_and_accuses_nobody(seed: int) -> None:
    world = World(seed=seed)
    names = world.add_pool(6)
    sleeper = names[2]
    start = world.now
    world.pause(sleeper, until=start + 600)
    world.run(until=start + 600)
    assert world.statuses(sleeper) == {MemberStatus.FAILED}
    world.run(until=start + 660)
    for name in names:
        assert world.statuses(name) == {MemberStatus.ALIVE}
        failures = [who for moment, who in world.events(name, MemberFailed)]
        assert set(failures) <= {sleeper}
    assert world.events(sleeper, MemberFailed) == []


def test_suspect_is_asked_once_more_when_we_slept_through_its_time() -> None:
    """What it refuted waits in our socket, or was told while we did not listen."""
    world = World()
    names = world.add_pool(5)
    sleeper, suspect = names[1], names[3]
    accusation = Suspect(incarnation=1, node=suspect, from_=names[0])
    site = world.sites[sleeper]
    site.serf.memberlist.table.receive_suspect(accusation, now=world.now)
    world.flush(sleeper)
    world.pause(sleeper, until=world.now + 60)
    world.run(until=world.now + 120)
    assert world.events(sleeper, MemberFailed) == []
    assert world.statuses(suspect) == {MemberStatus.ALIVE}
    assert world.sites[suspect].serf.memberlist.table.me.incarnation > 1


# --- Coming, going, moving ------------------------------------------------------------------------


def move(world: World, name: str) -> None:
    """A member's process ends and another takes up its name elsewhere."""
    world.crash(name)
    site = world.sites.pop(name)
    world.sites[f"{name}, once"] = site
    world.add(name)


@pytest.mark.parametrize("wait", [5, 31 + 15])
def test_member_takes_its_name_to_another_address_once_the_old_one_is_dead(wait: int) -> None:
    """protocol/gossip.md §4, alive rule 5: dead for longer than 30 s."""
    world = World()
    names = world.add_pool(4)
    mover = names[3]
    old = world.sites[mover].serf.memberlist.table.me.address
    world.crash(mover)
    world.run(until=world.now + wait)
    move(world, mover)
    new = world.sites[mover].serf.memberlist.table.me.address
    world.join(mover, names[0])
    world.run(until=world.now + 3)
    known = {
        (member.address, member.port)
        for name in names[:3]
        for member in world.sites[name].serf.members()
        if member.name == mover
    }
    assert known == ({old} if wait == 5 else {new})
    world.run(until=world.now + 120)  # In the end it is taken for what it is, in any case.
    for name in names[:3]:
        (found,) = [m for m in world.sites[name].serf.members() if m.name == mover]
        assert ((found.address, found.port), found.status) == (new, MemberStatus.ALIVE)


def test_member_that_left_may_come_back_elsewhere_at_once() -> None:
    world = World()
    names = world.add_pool(4)
    mover = names[3]
    world.leave(mover)
    world.run(until=world.now + 10)
    move(world, mover)
    world.join(mover, names[0])
    world.run(until=world.now + 3)
    new = world.sites[mover].serf.memberlist.table.me.address
    for name in names[:3]:
        (found,) = [m for m in world.sites[name].serf.members() if m.name == mover]
        assert ((found.address, found.port), found.status) == (new, MemberStatus.ALIVE)


def test_flapping_member_is_told_in_turn_and_stays() -> None:
    world = World()
    names = world.add_pool(4)
    flapper = names[3]
    for _ in range(4):
        world.crash(flapper)
        world.run(until=world.now + 15)
        world.add(flapper)
        world.join(flapper, names[0])
        world.run(until=world.now + 10)
    for name in names[:3]:
        told = [
            type(event)
            for _, event in world.sites[name].events
            if isinstance(event, (MemberJoined, MemberFailed, MemberLeft, MemberReaped))
            and event.member.name == flapper
        ]
        assert told == [MemberJoined, *[MemberFailed, MemberJoined] * 4]
        assert world.status(name, flapper) is MemberStatus.ALIVE


def test_failed_member_is_found_again_by_whoever_tries() -> None:
    """protocol/gossip.md §13.6: a failed member is joined every 30 s, as chance has it."""
    world = World()
    names = world.add_pool(3)
    world.crash(names[2])
    world.run(until=world.now + 100)
    world.add(names[2])  # It joins nobody.
    world.run(until=world.now + 300)
    assert world.statuses(names[2]) == {MemberStatus.ALIVE}
    assert world.status(names[2], names[0]) is MemberStatus.ALIVE


def test_member_that_left_is_not_tried() -> None:
    world = World()
    names = world.add_pool(3)
    world.leave(names[2])
    world.run(until=world.now + 10)
    world.add(names[2])
    world.run(until=world.now + 300)
    assert world.statuses(names[2]) == {MemberStatus.LEFT}


@pytest.mark.parametrize(
    ("tags", "gone_after"), [({}, 72 * 3600), ({"rc_tm": "10m"}, 600), ({"rc_tm": "x"}, 72 * 3600)]
)
def test_failed_member_is_reaped_when_its_time_is_over(
    tags: dict[str, str], gone_after: int
) -> None:
    """protocol/gossip.md §13.6, §14.2 (``rc_tm``); rounds are every 15 s."""
    world = World(config=replace(LAN, push_pull_interval=3600, probe_interval=300, probe_timeout=60,
                                 reconnect_interval=1e6, gossip_interval=30))  # fmt: skip
    world.add("a")
    world.add("b", tags=tags)
    world.join("b", "a")
    world.run(until=1)
    world.crash("b")
    world.run(until=6 * 3600 if gone_after > 6 * 3600 else 4000)
    ((failed_at, _),) = world.events("a", MemberFailed)
    if gone_after > 6 * 3600:
        assert world.status("a", "b") is MemberStatus.FAILED
        world.run(until=failed_at + gone_after - 1)
        assert world.status("a", "b") is MemberStatus.FAILED
    world.run(until=failed_at + gone_after + 16)
    ((moment, _),) = world.events("a", MemberReaped)
    assert gone_after <= moment - failed_at <= gone_after + 15


def test_pruning_is_known_everywhere_and_survives_a_push_pull() -> None:
    world = World()
    names = world.add_pool(4)
    world.crash(names[3])
    world.run(until=world.now + 20)
    world.sites[names[0]].serf.force_leave(names[3], prune=True, now=world.now)
    world.flush(names[0])
    world.run(until=world.now + 120)
    for name in names[:3]:
        assert world.status(name, names[3]) is MemberStatus.NONE
        assert [who for _, who in world.events(name, MemberReaped)] == [names[3]]


# --- Encryption that is switched on ---------------------------------------------------------------

SWITCHES = list(product([False, True], repeat=2))


@pytest.mark.parametrize(("first", "second"), list(product(SWITCHES, repeat=2)))
def test_members_meet_if_neither_demands_what_the_other_does_not_do(
    first: tuple[bool, bool], second: tuple[bool, bool]
) -> None:
    """``encrypt_verify_incoming`` and ``encrypt_verify_outgoing``, packets and streams."""
    world = World(keys=(KEY,))
    for name, (incoming, outgoing) in (("a", first), ("b", second)):
        world.config = replace(LAN, verify_incoming=incoming, verify_outgoing=outgoing)
        world.add(name)
    number = world.join("b", "a")
    world.run(until=40)
    meet = (first[1] or not second[0]) and (second[1] or not first[0])
    assert bool(world.sites["b"].joins[number].contacted) is meet
    if not meet:
        return
    for name, other in (("a", "b"), ("b", "a")):
        serf = world.sites[name].serf
        assert world.status(name, other) is MemberStatus.ALIVE
        assert serf.memberlist.acked_at[other] > 30  # By packets.
        assert serf.memberlist.counters.get("packets_refused", 0) == 0
        assert not [text for _, text in world.sites[name].warnings]


def test_encryption_is_switched_on_member_by_member_without_a_failure() -> None:
    """First the key everywhere, then its use, then the demand; each by a restart."""
    world = World(keys=())
    names = world.add_pool(4)
    steps = [
        ((KEY,), replace(LAN, verify_incoming=False, verify_outgoing=False)),
        ((KEY,), replace(LAN, verify_incoming=False)),
        ((KEY,), LAN),
    ]
    for world.keys, world.config in steps:
        for place, name in enumerate(names):
            world.crash(name)
            world.run(until=world.now + 1)
            world.add(name)
            world.join(name, names[place - 1])
            world.run(until=world.now + 10)
            for other in names:
                assert world.statuses(other) == {MemberStatus.ALIVE}
    world.run(until=world.now + 60)
    for name in names:
        assert world.sites[name].serf.stats()["encrypted"] == "true"
        assert world.events(name, MemberFailed) == []


def test_new_key_opens_streams_that_were_begun_before_it_came() -> None:
    world = World(keys=(KEY,))
    serf = world.add("a")
    number = serf.accept_stream(peer=("10.0.0.9", 1), now=0.0)
    assert number is not None
    fresh = bytes(range(32))
    serf.memberlist.keyring.add(fresh)
    world.keys = (fresh,)
    other = world.add("b")
    other.join([JoinTarget("a", ("10.0.0.1", 7946))], ignore_old=True, now=0.0)
    (request,) = [o for o in other.take_outputs() if hasattr(o, "timeout")]
    serf.receive_stream_data(number, request.data, now=0.0)  # type: ignore[union-attr]
    assert not [o for o in serf.take_outputs() if isinstance(o, Warned)]
    assert {member.name for member in serf.members()} == {"a", "b"}
    assert len(Keyring(serf.memberlist.keyring.keys).keys) == 2
