"""SWIM (Das, Gupta, Motivala; DSN 2002): one test per statement, cited in its docstring."""

import math
from collections import Counter

import pytest

from isthmus.gossip.roster import MemberFailed, MemberJoined, MemberStatus
from isthmus.wire import memberlist as wire
from support.gossip_world import World


def messages(world: World) -> list[tuple[float, str, str, wire.PacketMessage]]:
    """Everything that was sent since recording began: moment, from, to, message."""
    return [
        (moment, source, target, wire.decode_message(leaf))
        for moment, source, target, data in world.packets
        for leaf in wire.open_packet(data).messages
    ]


def recorded(size: int, *, seconds: float, seed: int = 1) -> World:
    """A settled pool whose packets of so many seconds were recorded."""
    world = World(seed=seed)
    world.add_pool(size)
    world.run(until=60)
    world.record_packets = True
    world.run(until=60 + seconds)
    return world


def test_one_member_is_chosen_each_period_and_pinged() -> None:
    """§3.1: each protocol period a member pings one randomly chosen other."""
    world = recorded(10, seconds=100)
    pings = Counter(source for _, source, _, m in messages(world) if isinstance(m, wire.Ping))
    assert set(pings) == set(world.sites)
    assert all(85 <= count <= 101 for count in pings.values())  # Ends of rounds cost some ticks.


def test_ping_is_answered_with_an_ack() -> None:
    """§3.1: with an ack in time nothing else happens until the period ends."""
    world = recorded(5, seconds=60)
    kinds = Counter(type(message) for _, _, _, message in messages(world))
    assert set(kinds) == {wire.Ping, wire.Ack}
    assert abs(kinds[wire.Ping] - kinds[wire.Ack]) <= 1


def test_without_an_ack_k_others_are_asked_to_ping() -> None:
    """§3.1: without an ack, k randomly chosen members get a ping request."""
    world = World()
    names = world.add_pool(8)
    world.crash(names[7])
    world.record_packets = True
    world.run(until=world.now + 12)
    asked = [
        (source, message.seq_no, target)
        for _, source, target, message in messages(world)
        if isinstance(message, wire.IndirectPing)
    ]
    by_probe = Counter((source, number) for source, number, _ in asked)
    assert by_probe
    assert set(by_probe.values()) == {3}
    assert len(set(asked)) == len(asked)


def test_indirect_ack_keeps_a_member_alive() -> None:
    """§3.1: helpers ping the target and forward its ack."""
    world = World()
    names = world.add_pool(6)
    a, b = names[0], names[1]
    world.cut = lambda source, target: {source, target} == {a, b}
    world.record_packets = True
    world.run(until=world.now + 60)
    assert any(isinstance(m, wire.IndirectPing) for *_, m in messages(world))
    assert not any(isinstance(m, wire.Suspect) for *_, m in messages(world))


def test_load_on_a_member_does_not_grow_with_the_group() -> None:
    """§3: the expected message load of a member is independent of the group size."""
    loads = []
    for size in (10, 40):
        world = recorded(size, seconds=60)
        loads.append(len(world.packets) / size / 60)
    assert loads[1] == pytest.approx(loads[0], rel=0.1)


def test_time_to_first_detection_does_not_grow_with_the_group() -> None:
    """§3.1: the expected time to first detection is e/(e-1) periods in any group."""
    means = []
    for size in (6, 20):
        times = []
        for seed in range(8):
            world = World(seed=seed)
            names = world.add_pool(size)
            start = world.now
            world.record_packets = True
            world.crash(names[-1])
            world.run(until=start + 10)
            suspected = [
                moment
                for moment, _, _, message in messages(world)
                if isinstance(message, wire.Suspect) and message.node == names[-1]
            ]
            times.append(min(suspected) - start)
        means.append(sum(times) / len(times))
    # Half a period until the next ping, its own period until the verdict.
    expected = math.e / (math.e - 1) + 1
    assert all(abs(mean - expected) < 1 for mean in means)


def test_news_travel_on_the_failure_detectors_messages() -> None:
    """§4.1: membership updates are piggybacked on pings and acks."""
    world = World()
    names = world.add_pool(4)
    world.record_packets = True
    world.sites[names[0]].serf.update_tags({"x": "1"}, now=world.now)
    world.flush(names[0])
    world.run(until=world.now + 5)
    mixed = [
        {type(wire.decode_message(leaf)) for leaf in wire.open_packet(data).messages}
        for _, _, _, data in world.packets
    ]
    assert any({wire.Ping, wire.Alive} <= kinds for kinds in mixed)
    assert any({wire.Ack, wire.Alive} <= kinds for kinds in mixed)


@pytest.mark.parametrize("size", [8, 32])
def test_news_reach_everyone_in_logarithmic_time(size: int) -> None:
    """§4.1: infection-style dissemination takes a logarithmic number of rounds."""
    world = World(seed=size)
    names = world.add_pool(size)
    world.run(until=30)
    world.sites[names[0]].serf.update_tags({"x": "1"}, now=world.now)
    world.flush(names[0])
    world.run(until=world.now + 0.2 * (2 + 2 * math.ceil(math.log2(size))))
    knowing = [
        name
        for name in names
        for member in world.sites[name].serf.members()
        if member.name == names[0] and member.tags
    ]
    assert knowing == names


def test_suspected_member_that_answers_is_marked_alive_again() -> None:
    """§4.2: a suspected member that is alive gets unmarked: it outbids the suspicion."""
    world = World()
    names = world.add_pool(5)
    suspect = wire.Suspect(incarnation=1, node=names[1], from_=names[4])
    world.record_packets = True
    world.sites[names[0]].serf.receive_packet(
        wire.encode_message(suspect), source=None, now=world.now
    )
    world.flush(names[0])
    world.run(until=world.now + 40)
    assert world.statuses(names[1]) == {MemberStatus.ALIVE}
    for name in names:
        assert world.events(name, MemberFailed) == []
        node = world.sites[name].serf.memberlist.table.nodes[names[1]]
        assert (node.status, node.incarnation) == (wire.NodeStatus.ALIVE, 2)


def test_only_the_member_itself_raises_its_incarnation() -> None:
    """§4.2: an incarnation number is raised only by the member that it belongs to."""
    world = World(loss=0.2)
    names = world.add_pool(8)
    world.record_packets = True
    world.run(until=120)
    highest: dict[str, int] = dict.fromkeys(names, 1)
    for _, source, _, message in messages(world):
        if isinstance(message, wire.Alive):
            if source == message.node:
                highest[source] = max(highest[source], message.incarnation)
            assert message.incarnation <= highest[message.node]


def test_every_member_is_probed_within_two_rounds() -> None:
    """§4.3: two probes of one target are at most 2n - 1 periods apart."""
    world = recorded(8, seconds=200)
    last: dict[tuple[str, str], float] = {}
    for moment, source, target, message in messages(world):
        if isinstance(message, wire.Ping):
            before = last.get((source, target))
            last[source, target] = moment
            if before is not None:
                assert moment - before <= (2 * 8 - 1) * 1.0 + 2  # Two ticks lost at round ends.
    assert len(last) == 8 * 7


def test_newcomer_is_inserted_at_a_random_place() -> None:
    """§4.3: a newcomer enters the list at a place chosen uniformly at random."""
    places = Counter[int]()
    for seed in range(200):
        world = World(seed=seed)
        serf = world.add("a")
        for number in range(4):
            alive = wire.Alive(
                incarnation=1,
                node=f"x{number}",
                addr=bytes((10, 1, 0, number)),
                port=1,
                vsn=bytes((1, 5, 2, 2, 5, 4)),
            )
            serf.receive_packet(wire.encode_message(alive), source=None, now=0.0)
        ring = serf.memberlist.table.ring
        places[ring.index("x3")] += 1
    assert set(places) == {0, 1, 2, 3, 4}
    assert all(20 <= count <= 65 for count in places.values())


def test_all_members_learn_of_a_join_through_one_contact() -> None:
    """§4: one contact is enough for the whole group to learn of a newcomer."""
    world = World()
    names = world.add_pool(12)
    world.add("late")
    world.join("late", names[5])
    world.run(until=world.now + 3)
    assert all((m := world.events(name, MemberJoined)) and m[-1][1] == "late" for name in names)
