"""Whole pools in virtual time: nobody is lost, the dead are found, the living are kept."""

import statistics
from dataclasses import replace

import pytest

from isthmus.gossip.config import GossipConfig
from isthmus.gossip.roster import (
    Member,
    MemberFailed,
    MemberJoined,
    MemberLeft,
    MemberReaped,
    MemberStatus,
)
from isthmus.gossip.serf import UserEventReceived
from support.gossip_world import World


@pytest.mark.parametrize("keys", [(), (bytes(range(16)), bytes(32))])
def test_members_that_join_through_one_know_all(keys: tuple[bytes, ...]) -> None:
    world = World(keys=keys)
    names = world.add_pool(10)
    for name in names:
        assert next(member.name for member in world.sites[name].serf.members()) == name
        assert world.statuses(name) == {MemberStatus.ALIVE}
        assert world.events(name, MemberFailed) == []


def test_different_keys_do_not_mix() -> None:
    world = World(keys=(bytes(16),))
    world.add("a")
    world.keys = (bytes(32),)
    world.add("b")
    number = world.join("b", "a")
    world.run(until=30)
    (error,) = world.sites["b"].joins[number].errors
    assert error.startswith("Failed to join 10.0.0.1:7946: ")
    assert world.status("a", "b") is MemberStatus.NONE


@pytest.mark.parametrize("size", [3, 5, 10, 30])
def test_crashed_member_is_found_by_all(size: int) -> None:
    """protocol/gossip.md §17: about 5 to 7 s with the LAN profile, everywhere within a second."""
    world = World(seed=size)
    names = world.add_pool(size)
    victim = names[1]
    start = world.now
    world.crash(victim)
    world.run(until=start + 20)
    found = []
    for name in names:
        if name != victim:
            ((moment, who),) = world.events(name, MemberFailed)
            assert who == victim
            found.append(moment - start)
    assert 4 <= min(found) <= 11
    assert max(found) - min(found) < 1


@pytest.mark.parametrize("size", [2, 3, 5, 10])
def test_crash_on_a_host_that_runs_on_is_found_sooner(size: int) -> None:
    """Everybody hears that nobody listens there, so no probe waits for its deadline."""
    found = []
    for seed in range(9):
        world = World(seed=seed)
        world.hosts_refuse = True
        names = world.add_pool(size)
        start = world.now
        world.crash(names[1])
        world.run(until=start + 20)
        ((moment, who),) = world.events(names[0], MemberFailed)
        assert who == names[1]
        found.append(moment - start)
    assert min(found) >= 4  # The suspicion's own time is the protocol's.
    assert statistics.median(found) < 5


@pytest.mark.parametrize("trouble", ["loss", "pause", "restart"])
def test_hosts_that_refuse_make_no_member_that_lives_fail(trouble: str) -> None:
    world = World(seed=5, loss=0.3 if trouble == "loss" else 0.0)
    world.hosts_refuse = True
    names = world.add_pool(6)
    for round_ in range(20):
        start = world.now
        if trouble == "pause":
            world.pause(names[round_ % 6], until=start + 2.0)
        if trouble == "restart":
            world.crash(names[5])
            world.run(until=start + 2.0)
            world.add(names[5])
            world.join(names[5], names[0])
        world.run(until=start + 15)
    for name in names:
        assert world.statuses(name) == {MemberStatus.ALIVE}
        assert world.events(name, MemberFailed) == []


def test_member_that_leaves_is_left_not_failed() -> None:
    world = World()
    names = world.add_pool(8)
    world.leave(names[3])
    world.run(until=world.now + 30)
    assert world.statuses(names[3]) == {MemberStatus.LEFT}
    for name in names:
        assert world.events(name, MemberFailed) == []


def test_last_member_leaves_at_once() -> None:
    world = World()
    world.add("alone")
    world.leave("alone")
    world.run(until=0.1)
    assert not world.sites["alone"].running


@pytest.mark.parametrize("seed", range(2))
def test_loss_of_packets_kills_nobody(seed: int) -> None:
    """Five packets in a hundred are lost, for two minutes."""
    world = World(seed=seed, loss=0.05)
    names = world.add_pool(30)
    world.run(until=120)
    failures = [world.events(name, MemberFailed) for name in names]
    assert failures == [[]] * len(names)


def test_member_cut_off_from_one_is_vouched_for_by_the_others() -> None:
    """Indirect probes (SWIM §3.1): one broken path is no death."""
    world = World()
    names = world.add_pool(6)
    a, b = names[1], names[2]
    world.cut = lambda source, target: {source, target} == {a, b}
    world.run(until=120)
    for name in names:
        assert world.events(name, MemberFailed) == []


def test_partition_heals() -> None:
    """Both halves declare the other dead; reconnecting brings them together again."""
    world = World(seed=5)
    names = world.add_pool(8)
    left = set(names[:4])
    world.cut = lambda source, target: (source in left) != (target in left)
    world.run(until=90)
    assert world.status(names[0], names[7]) is MemberStatus.FAILED
    assert world.status(names[7], names[0]) is MemberStatus.FAILED
    assert world.status(names[0], names[1]) is MemberStatus.ALIVE
    world.cut = lambda source, target: False
    world.run(until=400)
    for name in names:
        assert world.statuses(name) == {MemberStatus.ALIVE}


def test_restarted_member_is_alive_again() -> None:
    """Its incarnation starts anew; the push/pull tells it to outbid its own death."""
    world = World()
    names = world.add_pool(5)
    world.crash(names[4])
    world.run(until=world.now + 20)
    assert world.statuses(names[4]) == {MemberStatus.FAILED}
    world.add(names[4])
    world.join(names[4], names[0])
    world.run(until=world.now + 10)
    assert world.statuses(names[4]) == {MemberStatus.ALIVE}
    assert world.sites[names[4]].serf.memberlist.table.me.incarnation > 1


def test_member_that_left_may_come_back() -> None:
    world = World()
    names = world.add_pool(5)
    world.leave(names[4])
    world.run(until=world.now + 20)
    assert world.statuses(names[4]) == {MemberStatus.LEFT}
    world.add(names[4])
    world.join(names[4], names[0])
    world.run(until=world.now + 30)
    assert world.statuses(names[4]) == {MemberStatus.ALIVE}


def test_member_that_stood_still_for_minutes_comes_back_by_itself() -> None:
    world = World()
    names = world.add_pool(5)
    world.pause(names[2], until=world.now + 180)
    world.run(until=world.now + 100)
    assert world.statuses(names[2]) == {MemberStatus.FAILED}
    world.run(until=world.now + 200)
    assert world.statuses(names[2]) == {MemberStatus.ALIVE}
    for name in names:
        assert world.status(names[2], name) is MemberStatus.ALIVE


def test_failed_member_can_be_made_to_leave() -> None:
    world = World()
    names = world.add_pool(5)
    world.crash(names[4])
    world.run(until=world.now + 20)
    world.sites[names[0]].serf.force_leave(names[4], prune=False, now=world.now)
    world.flush(names[0])
    world.run(until=world.now + 5)
    assert world.statuses(names[4]) == {MemberStatus.LEFT}
    assert len(world.events(names[1], MemberLeft)) == 1


def test_pruned_member_is_forgotten() -> None:
    world = World()
    names = world.add_pool(5)
    world.crash(names[4])
    world.run(until=world.now + 20)
    world.sites[names[0]].serf.force_leave(names[4], prune=True, now=world.now)
    world.flush(names[0])
    world.run(until=world.now + 5)
    assert world.statuses(names[4]) == {MemberStatus.NONE}
    assert len(world.events(names[1], MemberReaped)) == 1


def test_living_member_refuses_to_be_made_to_leave() -> None:
    world = World()
    names = world.add_pool(5)
    world.sites[names[0]].serf.force_leave(names[4], prune=True, now=world.now)
    world.flush(names[0])
    world.run(until=world.now + 60)
    assert world.statuses(names[4]) == {MemberStatus.ALIVE}


def test_user_event_reaches_everyone_once() -> None:
    world = World(loss=0.02)
    names = world.add_pool(20)
    serf = world.sites[names[7]].serf
    ltime = serf.user_event("deploy", b"1", coalesce=False)
    world.flush(names[7])
    world.run(until=world.now + 40)
    expected = UserEventReceived(ltime, "deploy", b"1", False)
    for name in names:
        events = [e for _, e in world.sites[name].events if isinstance(e, UserEventReceived)]
        assert events == [expected]


def test_tags_follow() -> None:
    world = World()
    names = world.add_pool(6)
    world.sites[names[1]].serf.update_tags({"role": "new"}, now=world.now)
    world.flush(names[1])
    world.run(until=world.now + 3)
    for name in names:
        (tags,) = [m.tags for m in world.sites[name].serf.members() if m.name == names[1]]
        assert tags == {"role": "new"}


def test_refused_joiner_stays_outside() -> None:
    def check(members: object) -> str | None:
        assert isinstance(members, (list, tuple))
        wrong = [m for m in members if isinstance(m, Member) and m.tags.get("dc") != "dc1"]
        return f"Member '{wrong[0].name}' part of wrong datacenter" if wrong else None

    world = World(merge_check=check)
    world.add("a", tags={"dc": "dc1"})
    world.add("b", tags={"dc": "dc1"})
    world.merge_check = None  # The intruder does not look.
    world.add("c", tags={"dc": "dc9"})
    world.join("b", "a")
    world.run(until=2)
    world.join("c", "a")
    world.run(until=60)
    assert world.status("a", "c") is MemberStatus.NONE
    assert world.status("b", "c") is MemberStatus.NONE
    assert any(
        "Failed push/pull merge: Member 'c'" in text for _, text in world.sites["a"].warnings
    )


def make_federation(*, seed: int = 1) -> World:
    world = World(seed=seed, config=GossipConfig.wan(), by_name=True)
    for name in ("alpha.dc1", "beta.dc1", "gamma.dc2", "delta.dc3"):
        world.add(name)
    for name in ("beta.dc1", "gamma.dc2", "delta.dc3"):
        world.join(name, "alpha.dc1")
    world.run(until=20)
    return world


def test_federation_by_names_stays_alive() -> None:
    """Nothing is sent without a name: probes, acks, helpers, exchanges (federation.md §15.3)."""
    world = make_federation()
    world.run(until=600)
    for name, site in world.sites.items():
        assert world.statuses(name) == {MemberStatus.ALIVE}
        assert world.events(name, MemberFailed) == []
        assert site.serf.stats().get("packets_without_name") is None


def test_refused_sends_count_as_lost_pings() -> None:
    """A gateway that is gone must not hide a dead member (gossip.md §16, last row)."""
    world = make_federation()
    world.crash("delta.dc3")
    world.refuse = lambda source, target: target == "delta.dc3"
    start = world.now
    world.run(until=start + 90)
    assert world.statuses("delta.dc3") == {MemberStatus.FAILED}
    for name in ("alpha.dc1", "beta.dc1", "gamma.dc2"):
        ((moment, _),) = world.events(name, MemberFailed)
        assert moment - start < 60


def test_held_rumours_survive_until_the_way_is_known() -> None:
    """federation.md §21.8: a restarted server holds its gossip until it knows its gateways."""
    world = make_federation()
    restarted = world.add("gamma.dc2")
    restarted.hold()
    world.refuse = lambda source, target: source == "gamma.dc2"
    world.flush("gamma.dc2")
    world.run(until=world.now + 15)
    assert world.sites["gamma.dc2"].packets_sent <= 12  # Answers only, and they fail.
    world.refuse = lambda source, target: False
    restarted.release(now=world.now)
    world.flush("gamma.dc2")
    world.join("gamma.dc2", "alpha.dc1")
    world.run(until=world.now + 60)
    assert world.statuses("gamma.dc2") == {MemberStatus.ALIVE}


def test_failed_sends_do_not_use_up_a_rumour() -> None:
    world = make_federation()
    world.refuse = lambda source, target: source == "gamma.dc2"
    serf = world.sites["gamma.dc2"].serf
    serf.update_tags({"role": "new"}, now=world.now)
    world.flush("gamma.dc2")
    world.run(until=world.now + 10)
    assert len(serf.memberlist.rumours) > 0
    world.refuse = lambda source, target: False
    world.run(until=world.now + 10)
    for name in world.sites:
        (tags,) = [m.tags for m in world.sites[name].serf.members() if m.name == "gamma.dc2"]
        assert tags == {"role": "new"}


def test_same_seed_same_history() -> None:
    def history(seed: int) -> list[object]:
        world = World(seed=seed, loss=0.1)
        names = world.add_pool(8)
        world.crash(names[5])
        world.run(until=30)
        return [(name, world.sites[name].events, world.sites[name].packets_sent) for name in names]

    assert history(3) == history(3)
    assert history(3) != history(4)


def test_idle_pool_is_quiet() -> None:
    """protocol/gossip.md §17: about 1.9 packets per second and node in a LAN pool of three."""
    world = World()
    names = world.add_pool(3)
    world.run(until=30)
    before = sum(world.sites[name].packets_sent for name in names)
    world.run(until=330)
    sent = sum(world.sites[name].packets_sent for name in names) - before
    assert 1.5 <= sent / 300 / 3 <= 2.0


def test_dead_are_forgotten_at_last() -> None:
    config = replace(GossipConfig.lan(), reconnect_timeout=100.0)
    world = World(config=config)
    names = world.add_pool(4)
    world.crash(names[3])
    world.run(until=world.now + 150)
    assert world.statuses(names[3]) == {MemberStatus.NONE}
    for name in names[:3]:
        assert names[3] not in world.sites[name].serf.memberlist.table.nodes
        assert len(world.events(name, MemberReaped)) == 1
        assert len(world.events(name, MemberJoined)) == 4


@pytest.mark.parametrize(
    ("size", "least", "most"), [(2, 1.97, 2.01), (3, 1.66, 1.77), (10, 1.92, 2.01)]
)
def test_idle_member_says_no_more_than_one_of_the_reference(
    size: int, least: float, most: float
) -> None:
    """protocol/gossip.md §17: 1.9 packets per second and node in a pool of three."""
    world = World(seed=4)
    names = world.add_pool(size)
    world.run(until=60)
    before = sum(world.sites[name].packets_sent for name in names)
    world.run(until=1260)
    sent = sum(world.sites[name].packets_sent for name in names) - before
    assert least <= sent / 1200 / size <= most
