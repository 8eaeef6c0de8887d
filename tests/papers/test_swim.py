"""SWIM (Das, Gupta, Motivala; DSN 2002): one test per statement, cited in its docstring."""

import math
from collections import Counter

import pytest

from isthmus.gossip.broadcast import BroadcastQueue
from isthmus.gossip.members import OUR_VSN
from isthmus.gossip.roster import MemberFailed, MemberJoined, MemberStatus
from isthmus.wire import memberlist as wire
from support.gossip_world import World
from support.memberlist_core import QUIET, X_ADDR, Core, X


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


def test_an_ack_counts_only_with_the_number_of_the_running_probe() -> None:
    """§3.1: pings and acks carry the number of the initiator's protocol period."""
    core = Core()
    core.add("x")
    now, ping = core.run_until_probe()
    core.receive(wire.Ack(seq_no=ping.seq_no + 1), now=now)
    core.core.handle_timer(now=now + QUIET.probe_timeout)
    core.core.handle_timer(now=now + QUIET.probe_interval)
    assert core.core.table.nodes["x"].status is wire.NodeStatus.SUSPECT


def test_verdict_falls_at_the_end_of_the_period() -> None:
    """§3.1: at the end of the period it checks whether any ack came, directly or through others."""
    for answered in (False, True):
        core = Core()
        core.add("x")
        core.add("y", b"\x0a\x00\x00\x03")
        now, ping = core.run_until_probe()
        core.core.handle_timer(now=now + QUIET.probe_timeout)
        core.core.handle_timer(now=now + QUIET.probe_interval - 0.001)
        nodes = core.core.table.nodes
        assert nodes[ping.node].status is wire.NodeStatus.ALIVE
        if answered:
            core.receive(wire.Ack(seq_no=ping.seq_no), now=now + QUIET.probe_interval - 0.001)
        core.core.handle_timer(now=now + QUIET.probe_interval)
        expected = wire.NodeStatus.ALIVE if answered else wire.NodeStatus.SUSPECT
        assert nodes[ping.node].status is expected


def test_helper_forwards_the_ack_under_the_askers_number() -> None:
    """§3.1: each helper pings the target and forwards its ack to the asker."""
    core = Core()
    core.receive(
        wire.IndirectPing(
            seq_no=99, target=b"\x0a\x00\x00\x03", port=7946, node="y",
            source_addr=X_ADDR, source_port=7946, source_node="x",
        )
    )  # fmt: skip
    ((target, _, (ping,)),) = core.sent()
    assert isinstance(ping, wire.Ping)
    assert target == ping.node == "y"
    core.receive(wire.Ack(seq_no=ping.seq_no), now=0.1)
    assert core.sent() == [("x", X, [wire.Ack(seq_no=99)])]


def test_every_crash_is_found_by_every_member_that_lives() -> None:
    """§2, §3.1: strong completeness, also when several members fail at once."""
    world = World(seed=3)
    names = world.add_pool(12)
    for name in names[:5]:
        world.crash(name)
    world.run(until=world.now + 60)
    for name in names[5:]:
        assert {member for _, member in world.events(name, MemberFailed)} == set(names[:5])


@pytest.mark.parametrize("loss", [0.01, 0.05, 0.1])
def test_lost_packets_are_made_up_for_by_helpers(loss: float) -> None:
    """§3.1: an ack on any of the k paths is enough, so false detections are rare."""
    world = World(seed=2, loss=loss)
    names = world.add_pool(10)
    world.run(until=120)
    assert [world.events(name, MemberFailed) for name in names] == [[]] * 10


def test_news_travel_on_requests_to_helpers_too() -> None:
    """§4.1: updates are piggybacked on ping, ping-req and ack alike."""
    core = Core()
    for number, name in enumerate(("x", "y", "z"), 2):
        core.add(name, bytes((10, 0, 0, number)))
    now, _ = core.run_until_probe()
    core.receive(
        wire.Alive(incarnation=1, node="new", addr=b"\x0a\x00\x00\x09", port=1, vsn=OUR_VSN),
        now=now,
    )
    core.core.handle_timer(now=now + 0.01)  # Gossip's own rounds are not what is looked at.
    core.sent()
    core.core.handle_timer(now=now + QUIET.probe_timeout)
    asked = [messages for *_, messages in core.sent() if isinstance(messages[0], wire.IndirectPing)]
    assert any(isinstance(message, wire.Alive) for messages in asked for message in messages)


@pytest.mark.parametrize(("members", "times"), [(3, 4), (9, 4), (10, 8), (99, 8), (100, 12)])
def test_an_update_is_sent_lambda_log_n_times(members: int, times: int) -> None:
    """§4.1: each is piggybacked at most λ log n times (memberlist: λ = 4, ⌈log10(n + 1)⌉)."""
    queue = BroadcastQueue(4)
    queue.queue(b"news")
    sent = 0
    while queue.take(1000, overhead=2, member_count=members):
        sent += 1
    assert sent == times


def test_updates_sent_fewer_times_go_first() -> None:
    """§4.1: when not all fit, those gossiped fewer times so far are preferred."""
    queue = BroadcastQueue(4)
    queue.queue(b"old")
    assert [each.data for each in queue.take(5, overhead=2, member_count=9)] == [b"old"]
    queue.queue(b"new")
    assert [each.data for each in queue.take(5, overhead=2, member_count=9)] == [b"new"]
    assert len(queue.take(5, overhead=2, member_count=9)) == 1


def test_member_without_an_ack_is_suspected_and_the_others_are_told() -> None:
    """§4.2: it is not declared failed; it is marked suspected, and that is disseminated."""
    world = World()
    names = world.add_pool(6)
    world.crash(names[5])
    world.record_packets = True
    world.run(until=world.now + 4)
    assert any(isinstance(m, wire.Suspect) and m.node == names[5] for *_, m in messages(world))
    for name in names[:5]:
        node = world.sites[name].serf.memberlist.table.nodes[names[5]]
        assert node.status is wire.NodeStatus.SUSPECT
        assert world.events(name, MemberFailed) == []


def test_suspected_members_are_probed_like_all_others() -> None:
    """§4.2: for the choice of ping targets a suspected member is as good as one that is not."""
    core = Core()
    for number, name in enumerate(("x", "y", "z"), 2):
        core.add(name, bytes((10, 0, 0, number)))
    core.receive(wire.Suspect(incarnation=1, node="y", from_="elsewhere"))
    asked = []
    for _ in range(3):
        now, ping = core.run_until_probe()
        core.receive(wire.Ack(seq_no=ping.seq_no), now=now)
        asked.append(ping.node)
    assert sorted(asked) == ["x", "y", "z"]


def test_suspicion_that_is_not_refuted_in_time_is_confirmed_to_all() -> None:
    """§4.2: after a time-out the suspected is declared faulty, and that is disseminated."""
    core = Core()
    for number, name in enumerate(("x", "y", "z"), 2):
        core.add(name, bytes((10, 0, 0, number)))
    core.core.hold()
    core.receive(wire.Suspect(incarnation=1, node="y", from_="x"), now=1.0)
    core.receive(wire.Suspect(incarnation=1, node="y", from_="z"), now=1.0)
    deadline = core.core.next_timer()
    core.core.handle_timer(now=deadline)
    assert core.core.table.nodes["y"].status is wire.NodeStatus.DEAD
    core.core.release(now=deadline)
    core.core.handle_timer(now=deadline)
    told = [message for *_, messages in core.sent() for message in messages]
    assert wire.Dead(incarnation=1, node="y", from_="me") in told


@pytest.mark.parametrize(
    ("held", "claim", "incarnation", "wins"),
    [
        ("alive", "alive", 6, True),
        ("alive", "alive", 5, False),
        ("alive", "suspect", 5, True),
        ("alive", "suspect", 6, True),
        ("alive", "suspect", 4, False),
        ("suspect", "alive", 6, True),
        ("suspect", "alive", 5, False),
        ("suspect", "suspect", 4, False),
        ("alive", "dead", 5, True),
        ("suspect", "dead", 5, True),
        ("suspect", "dead", 6, True),
        ("dead", "suspect", 9, False),
        ("dead", "dead", 9, False),
        ("dead", "alive", 5, False),
        # SWIM's Confirm is final, whatever the incarnations. In memberlist a member may come back,
        # and an old claim of its death is void.
        ("dead", "alive", 6, True),
        ("alive", "dead", 4, False),
    ],
)
def test_claims_override_each_other_by_incarnation(
    held: str, claim: str, incarnation: int, wins: bool
) -> None:
    """§4.2: alive > suspect or alive of less; suspect > suspect of less, alive of no more; confirm.

    What is held has incarnation 5.
    """
    core = Core()
    tell(core, "alive", 5)
    if held != "alive":
        tell(core, held, 5)
    before = core.core.table.nodes["x"]
    was = (before.status, before.incarnation)
    core.core.rumours.forget("x")
    tell(core, claim, incarnation)
    node = core.core.table.nodes["x"]
    expected = (wire.NodeStatus[claim.upper()], incarnation) if wins else was
    assert (node.status, node.incarnation) == expected
    assert (len(core.core.rumours) > 0) == wins


def tell(core: Core, claim: str, incarnation: int) -> None:
    """Say this about x."""
    match claim:
        case "alive":
            core.receive(
                wire.Alive(incarnation=incarnation, node="x", addr=X_ADDR, port=7946, vsn=OUR_VSN)
            )
        case "suspect":
            core.receive(wire.Suspect(incarnation=incarnation, node="x", from_="z"))
        case _:
            core.receive(wire.Dead(incarnation=incarnation, node="x", from_="z"))


def test_accusation_of_an_earlier_incarnation_is_not_refuted_again() -> None:
    """§4.2: the number goes up when it is suspected in its current incarnation, only then."""
    core = Core()
    core.receive(wire.Suspect(incarnation=1, node="me", from_="x"))
    assert core.core.table.me.incarnation == 2
    core.receive(wire.Suspect(incarnation=1, node="me", from_="y"))
    assert core.core.table.me.incarnation == 2


def test_each_round_probes_every_member_once_in_a_new_order() -> None:
    """§4.3: the list is traversed in order, then brought into a new random order."""
    core = Core()
    names = [f"n{number}" for number in range(8)]
    for number, name in enumerate(names):
        core.add(name, bytes((10, 0, 0, number)))
    rounds = []
    for _ in range(6):
        asked: list[str] = []
        while len(asked) < len(names):
            now, ping = core.run_until_probe()
            core.receive(wire.Ack(seq_no=ping.seq_no), now=now)
            asked.append(ping.node)
        rounds.append(tuple(asked))
    assert all(sorted(asked) == names for asked in rounds)
    assert len(set(rounds)) == len(rounds)
