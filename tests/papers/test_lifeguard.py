"""Lifeguard (Dadgar, Phillips, Currey; 2018): one test per statement, cited in its docstring."""

import math
from random import Random

import pytest

from isthmus.gossip.awareness import Awareness
from isthmus.gossip.config import GossipConfig
from isthmus.gossip.probe import ProbeFailed, Prober
from isthmus.gossip.roster import MemberFailed, MemberStatus
from isthmus.gossip.suspicion import Suspicion, SuspicionTimes
from isthmus.wire import memberlist as wire
from support.gossip_world import World
from support.memberlist_core import X_ADDR, Core, X

LAN = GossipConfig.lan()
INDIRECT = wire.IndirectPing(
    seq_no=99, target=b"\x0a\x00\x00\x03", port=7946, node="y", nack=True,
    source_addr=X_ADDR, source_port=7946, source_node="x",
)  # fmt: skip


def make_prober(awareness: Awareness) -> Prober:
    prober = Prober(LAN, awareness, rng=Random(1), now=0.0)
    prober.start("x", 1, now=0.0)
    return prober


def finish(prober: Prober) -> None:
    """Let the running probe come to its end."""
    while prober.running:
        prober.handle_timer(now=prober.next_timer())


def test_multiplier_saturates_and_never_falls_below_zero() -> None:
    """LHA-Probe: the local health multiplier saturates at S and is never negative."""
    awareness = Awareness(LAN.awareness_max)
    awareness.apply(-5)
    assert awareness.score == 0
    awareness.apply(100)
    assert awareness.score == 7


def test_successful_probe_improves_health_by_one() -> None:
    """LHA-Probe: a successful probe counts -1."""
    awareness = Awareness(8)
    awareness.apply(3)
    make_prober(awareness).receive_ack(1, b"", now=0.1)
    assert awareness.score == 2


def test_failed_probe_worsens_health_by_one() -> None:
    """LHA-Probe: a failed probe counts +1."""
    awareness = Awareness(8)
    finish(make_prober(awareness))
    assert awareness.score == 1


def test_missed_nack_worsens_health() -> None:
    """LHA-Probe: each missed nack counts +1."""
    awareness = Awareness(8)
    prober = make_prober(awareness)
    prober.expect_nacks(3)
    prober.receive_nack(1)
    finish(prober)
    assert awareness.score == 2


def test_refuting_a_suspicion_worsens_health_by_one() -> None:
    """LHA-Probe: having to refute a suspicion of oneself counts +1."""
    world = World()
    serf = world.add("a")
    claim = wire.Suspect(incarnation=1, node="a", from_="b")
    serf.receive_packet(wire.encode_message(claim), source=None, now=0.0)
    assert serf.memberlist.awareness.score == 1


@pytest.mark.parametrize("score", range(8))
def test_probe_interval_is_stretched_by_the_score(score: int) -> None:
    """LHA-Probe: the probe interval is its base times (multiplier + 1)."""
    awareness = Awareness(8)
    awareness.apply(score)
    prober = make_prober(awareness)
    prober.handle_timer(now=LAN.probe_timeout)
    assert prober.next_timer() == LAN.probe_interval * (score + 1)


def test_helper_that_gets_no_ack_sends_a_nack_in_time() -> None:
    """LHA-Probe: a helper without an ack sends a nack (memberlist: at the probe time-out)."""
    world = World()
    names = world.add_pool(4)
    world.crash(names[3])
    world.record_packets = True
    world.run(until=world.now + 4)
    asked: dict[tuple[str, str], float] = {}
    nacks = 0
    for moment, source, target, data in world.packets:
        for leaf in wire.open_packet(data).messages:
            message = wire.decode_message(leaf)
            if isinstance(message, wire.IndirectPing) and message.nack:
                asked[target, source] = moment
            elif isinstance(message, wire.Nack):
                nacks += 1
                waited = moment - asked[source, target]
                assert LAN.probe_timeout <= waited <= LAN.probe_timeout + 0.01
    assert nacks > 0


def test_suspicion_starts_at_its_maximum() -> None:
    """LHA-Suspicion: with no confirmation the timer runs for its maximum."""
    times = SuspicionTimes(timeout_min=4.0, timeout_max=24.0, confirmations=3)
    assert Suspicion("a", times, now=0.0).deadline == 24.0


@pytest.mark.parametrize("confirmed", range(4))
def test_suspicion_falls_with_the_logarithm_of_its_confirmations(confirmed: int) -> None:
    """LHA-Suspicion: max(Min, Max - (Max - Min) log(C+1) / log(K+1))."""
    times = SuspicionTimes(timeout_min=4.0, timeout_max=24.0, confirmations=3)
    exact = max(4.0, 24.0 - 20.0 * math.log(confirmed + 1) / math.log(4))
    assert times.after(confirmed) == pytest.approx(exact, abs=0.001)


def test_suspicion_counts_independent_accusers_only() -> None:
    """LHA-Suspicion: only suspicions by different members count."""
    suspicion = Suspicion("a", SuspicionTimes(4.0, 24.0, 3), now=0.0)
    assert not suspicion.confirm("a")
    assert suspicion.confirm("b")
    assert not suspicion.confirm("b")


def test_first_k_independent_suspicions_are_passed_on() -> None:
    """LHA-Suspicion: the first K independent suspicions are gossiped on."""
    world = World()
    names = world.add_pool(6)
    serf = world.sites[names[0]].serf
    rumours = serf.memberlist.rumours
    spread = []
    for accuser in ("p", "q", "r", "s"):
        rumours.forget(names[1])
        claim = wire.Suspect(incarnation=1, node=names[1], from_=accuser)
        serf.receive_packet(wire.encode_message(claim), source=None, now=world.now)
        spread.append(len(rumours) > 0)
    assert spread == [True, True, True, False]  # The first accuser and K = 2 others.


def test_suspect_hears_of_the_suspicion_from_the_next_who_pings_it() -> None:
    """Buddy System: a ping to a suspect carries the suspicion."""
    world = World()
    names = world.add_pool(5)
    world.record_packets = True
    claim = wire.Suspect(incarnation=1, node=names[1], from_="z")
    for name in names:
        if name != names[1]:
            serf = world.sites[name].serf
            serf.receive_packet(wire.encode_message(claim), source=None, now=world.now)
            serf.memberlist.rumours.forget(names[1])  # Only pings may carry it.
            world.flush(name)
    world.run(until=world.now + 6)
    to_suspect = [
        [wire.decode_message(leaf) for leaf in wire.open_packet(data).messages]
        for _, _, target, data in world.packets
        if target == names[1]
    ]
    pinged = next(group for group in to_suspect if any(isinstance(m, wire.Ping) for m in group))
    assert [type(m) for m in pinged] == [wire.Ping, wire.Suspect]
    world.run(until=world.now + 40)
    assert world.statuses(names[1]) == {MemberStatus.ALIVE}


def test_slow_member_doubts_itself_before_it_kills_others() -> None:
    """Evaluation: a member that stands still again and again kills no healthy one."""
    world = World(seed=4)
    names = world.add_pool(16)
    for start in range(10, 70, 4):
        world.at(start, lambda: world.pause(names[3], until=world.now + 3.0))
    world.run(until=90)
    dead = {who for name in names for _, who in world.events(name, MemberFailed)}
    assert dead <= {names[3]}


@pytest.mark.parametrize("score", range(8))
def test_probe_timeout_is_memberlists_own(score: int) -> None:
    """LHA-Probe scales ProbeTimeout as well; memberlist leaves it (protocol/gossip.md §5)."""
    awareness = Awareness(8)
    awareness.apply(score)
    assert make_prober(awareness).next_timer() == LAN.probe_timeout


def test_healthy_member_probes_at_the_base_rate_again() -> None:
    """LHA-Probe: acks bring the multiplier back to zero, and with it the interval."""
    awareness = Awareness(8)
    prober = Prober(LAN, awareness, rng=Random(1), now=0.0)
    now = 0.0
    stretched = []
    for number in range(12):
        now = max(now, prober.next_timer())
        assert prober.is_due(now=now)
        prober.start("x", number, now=now)
        prober.handle_timer(now=now + LAN.probe_timeout)
        stretched.append(prober.next_timer() - now)
        if number < 4:
            now = prober.next_timer()
            prober.handle_timer(now=now)
        else:
            prober.receive_ack(number, b"", now=now + 0.6)
            now += 0.6
    assert stretched == pytest.approx([1, 2, 3, 4, 5, 4, 3, 2, 1, 1, 1, 1])


def test_helper_that_hears_an_ack_sends_no_nack() -> None:
    """LHA-Probe: a nack is sent only when no ack comes in time."""
    core = Core()
    core.core.hold()
    core.receive(INDIRECT)
    ((_, _, (asked,)),) = core.sent()
    assert isinstance(asked, wire.Ping)
    core.receive(wire.Ack(seq_no=asked.seq_no), now=0.4)
    core.core.handle_timer(now=LAN.probe_timeout)
    assert core.sent() == [("x", X, [wire.Ack(seq_no=INDIRECT.seq_no)])]


def test_nack_does_not_save_the_target() -> None:
    """LHA-Probe: a nack speaks for the helper's health only; the probe fails all the same."""
    awareness = Awareness(8)
    prober = make_prober(awareness)
    prober.handle_timer(now=LAN.probe_timeout)
    prober.expect_nacks(1)
    prober.receive_nack(1)
    assert prober.handle_timer(now=LAN.probe_interval) == ProbeFailed("x")
    assert awareness.score == 0


@pytest.mark.parametrize(
    ("members", "low", "high", "confirmations"),
    [
        (2, 4, 24, 0),
        (3, 4, 24, 0),
        (4, 4, 24, 2),
        (10, 4, 24, 2),
        (100, 8, 48, 2),
        (1000, 12, 72, 2),
    ],
)
def test_suspicion_limits_follow_the_groups_size(
    members: int, low: float, high: float, confirmations: int
) -> None:
    """LHA-Suspicion: Min = α log10(n) · interval, Max = β Min (α = 4, β = 6 in the LAN profile)."""
    times = SuspicionTimes.of(LAN, member_count=members)
    assert (times.timeout_min, times.timeout_max) == (low, high)
    assert times.confirmations == confirmations


def test_group_too_small_for_k_confirmations_waits_the_minimum() -> None:
    """LHA-Suspicion: where K others cannot exist, the timer starts at Min."""
    times = SuspicionTimes.of(LAN, member_count=3)
    assert Suspicion("a", times, now=0.0).deadline == times.timeout_min


def test_suspicion_reaches_its_minimum_with_the_kth_confirmation() -> None:
    """LHA-Suspicion: K independent suspicions bring the timer down to Min, further ones nothing."""
    times = SuspicionTimes(timeout_min=4.0, timeout_max=24.0, confirmations=3)
    suspicion = Suspicion("a", times, now=10.0)
    deadlines = []
    for accuser in ("b", "c", "d", "e"):
        suspicion.confirm(accuser)
        deadlines.append(suspicion.deadline)
    assert deadlines == [24.0, 18.15, 14.0, 14.0]


def test_lonely_accuser_gives_the_accused_more_time() -> None:
    """LHA-Suspicion: a member that alone suspects others is slow to declare them failed."""
    world = World()
    names = world.add_pool(10)
    claim = wire.Suspect(incarnation=1, node=names[1], from_=names[0])
    core = world.sites[names[0]].serf.memberlist
    core.table.receive_suspect(claim, now=world.now)
    world.cut = lambda source, target: True  # Neither the refutation nor a confirmation comes.
    start = world.now
    due = core.table.next_timer()
    assert due is not None
    assert due - start == 24.0


def test_refuted_suspicion_is_dropped_everywhere() -> None:
    """Buddy System, LHA-Suspicion: the refutation of the accused ends all timers."""
    world = World()
    names = world.add_pool(6)
    for name in names[2:]:
        claim = wire.Suspect(incarnation=1, node=names[1], from_=names[0])
        world.sites[name].serf.receive_packet(
            wire.encode_message(claim), source=None, now=world.now
        )
        world.flush(name)
    world.run(until=world.now + 5)
    for name in names:
        assert world.sites[name].serf.memberlist.table.next_timer() is None
        assert world.events(name, MemberFailed) == []


def test_ping_to_an_unsuspected_member_carries_no_suspicion_of_it() -> None:
    """Buddy System: only a ping to the suspected member itself is made to carry the suspicion."""
    core = Core()
    core.add("x")
    _, ping = core.run_until_probe()
    assert ping.node == "x"
    core = Core()
    core.add("x")
    core.receive(wire.Suspect(incarnation=1, node="x", from_="z"))
    core.core.rumours.forget("x")  # It was told often enough: piggybacking would be over.
    while True:
        core.core.handle_timer(now=core.core.next_timer())
        pings = [m for *_, m in core.sent() if isinstance(m[0], wire.Ping)]
        if pings:
            break
    ((_, buddy),) = pings
    assert buddy == wire.Suspect(incarnation=1, node="x", from_="me")


def test_buddy_makes_the_refutation_come_with_the_next_ping() -> None:
    """Buddy System: the accused refutes on the ack's way, before any gossip reaches it."""
    core = Core()
    ping = wire.Ping(seq_no=1, node="me", source_addr=X_ADDR, source_port=7946, source_node="x")
    core.receive(ping, wire.Suspect(incarnation=1, node="me", from_="x"))
    assert core.core.table.me.incarnation == 2
    core.sent()
    core.receive(ping)
    ((_, _, (ack, alive)),) = core.sent()
    assert isinstance(ack, wire.Ack)
    assert isinstance(alive, wire.Alive)
    assert (alive.node, alive.incarnation) == ("me", 2)
