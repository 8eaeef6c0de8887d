"""Pools of production cores: idle probes take a short way to the same outcome; faults; restarts."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from isthmus.gossip.config import GossipConfig
from isthmus.gossip.roster import MemberFailed, MemberJoined, MemberStatus
from isthmus.gossip.serf import LeaveFinished
from isthmus.model.coordinate import distance
from isthmus.sim.network import LinkModel, Machine, Shape
from isthmus.sim.pool import Member, Pool
from isthmus.sim.world import World

ALIVE, FAILED, LEFT = MemberStatus.ALIVE, MemberStatus.FAILED, MemberStatus.LEFT
PAYLOAD = bytes(100)
LAN = replace(GossipConfig.lan(), coordinates=False)
WAN = replace(GossipConfig.wan(), coordinates=False)


class Lan:
    """A pool in one datacenter."""

    def __init__(
        self,
        size: int = 5,
        *,
        seed: int = 1,
        link: LinkModel | None = None,
        warm: bool = True,
        idle_probes: bool = True,
        config: GossipConfig = LAN,
        ack_payload: bytes = b"",
    ) -> None:
        self.events: list[tuple[float, str, str, str]] = []
        self.world = World(seed=seed, within=link, trace=True)
        self.pool = Pool(
            self.world,
            config=config,
            on_event=self._note,
            idle_probes=idle_probes,
            ack_payload=ack_payload,
        )
        for number in range(size):
            self.start(f"n{number}")
        if warm:
            self.pool.converge()

    def _note(self, member: Member, event: Any) -> None:
        about = event.member.name if hasattr(event, "member") else ""
        self.events.append((self.world.now, member.name, type(event).__name__, about))

    def start(self, name: str, **options: Any) -> Member:
        machine = self.world.network.machines.get(name) or self.world.machine(name, "dc1")
        return self.pool.add(name, self.world.process(name, machine), **options)

    def __getitem__(self, name: str) -> Member:
        return self.pool.members[name]

    def run(self, seconds: float) -> None:
        self.world.run(until=self.world.now + seconds)

    def seen(self, name: str) -> set[MemberStatus]:
        """What the living others think of a member."""
        others = [m for m in self.pool.members.values() if m.name != name and m.process.alive]
        return {member.status(name) for member in others}

    def trace(self) -> tuple[int, list[Any], list[tuple[int, int, int]]]:
        self.world.settle()
        members = self.pool.members.values()
        sent = [(m.packets_sent, m.packet_bytes_sent, m.stream_bytes_sent) for m in members]
        return self.world.digest, self.events, sent


def quiet(lan: Lan) -> None:
    lan.run(60)


def crashes(lan: Lan) -> None:
    lan.run(5.3)
    lan.world.crash(lan["n1"].process)
    lan.world.crash(lan["n2"].process, silent=True)
    lan.run(30)
    lan.start("n1").join(lan["n0"])
    lan.run(30)


def pauses(lan: Lan) -> None:
    lan.run(5.0)
    for seconds in (0.3, 3.0, 40.0):
        lan.world.pause(lan["n3"].process)
        lan.run(seconds)
        lan.world.resume(lan["n3"].process)
        lan.run(10.0007)


def cuts(lan: Lan) -> None:
    for number in range(40):
        lan.run(0.0501)
        lan.world.network.cut("n1", "n2")
        lan.run(0.0003 * number)
        lan.world.network.heal_all()
    lan.world.network.cut("n4", "dc1")
    lan.run(20)
    lan.world.network.heal_all()
    lan.run(20)


def news(lan: Lan) -> None:
    for number in range(20):
        lan.run(0.7003)
        lan[f"n{number % 5}"].serf.update_tags({"x": str(number)}, now=lan["n0"].clock())
        lan[f"n{number % 5}"].touched()
    lan["n4"].leave()
    lan.run(20)


def drifts(lan: Lan) -> None:
    lan.world.drift(lan["n1"].process, 1.02)
    lan.run(10)
    lan.world.drift(lan["n2"].process, 0.5)
    lan.run(30)


@pytest.mark.parametrize("story", [quiet, crashes, pauses, cuts, news, drifts])
@pytest.mark.parametrize(
    "link",
    [
        LinkModel(),
        LinkModel(median=0.05, spread=1.0, loss=0.1),
        LinkModel(median=0.2, shape=Shape.UNIFORM, spread=0.9),
        LinkModel(loss=0.05, duplication=0.1, reordering=0.1, bandwidth=100_000),
    ],
    ids=["lan", "lossy", "slow", "odd"],
)
def test_idle_probes_spared_the_heap_change_nothing(
    story: Callable[[Lan], None], link: LinkModel
) -> None:
    """The same packets at the same moments, the same events, with and without."""
    traces = []
    for idle_probes in (True, False):
        lan = Lan(link=link, idle_probes=idle_probes)
        story(lan)
        traces.append(lan.trace())
    assert traces[0] == traces[1]


def test_bytes_that_acks_carry_count_with_and_without_idle_probes() -> None:
    sizes, traces = [], []
    for payload, idle_probes in ((b"", True), (PAYLOAD, True), (PAYLOAD, False)):
        lan = Lan(idle_probes=idle_probes, ack_payload=payload)
        lan.run(60.0002)  # Some acks are under way.
        traces.append(lan.trace())
        sizes.append(sum(member.packet_bytes_sent for member in lan.pool.members.values()))
        probes = sum(member.packets_sent for member in lan.pool.members.values()) // 2
    assert traces[1] == traces[2]
    assert sizes[1] - sizes[0] == pytest.approx(probes * len(PAYLOAD), rel=0.03)


def test_a_seed_gives_the_same_run_another_seed_another() -> None:
    digests = []
    for seed in (3, 3, 4):
        lan = Lan(seed=seed, link=LinkModel(loss=0.05))
        crashes(lan)
        digests.append(lan.trace()[0])
    assert digests[0] == digests[1] != digests[2]


def test_suspicions_and_refutations_are_counted() -> None:
    lan = Lan(5)
    lan.run(3)
    lan.world.pause(lan["n2"].process)
    lan.run(4)
    lan.world.resume(lan["n2"].process)
    lan.run(10)
    assert lan.seen("n2") == {ALIVE}
    others = [m for m in lan.pool.members.values() if m.name != "n2"]
    failed = [m.serf.memberlist.counters.get("probes_failed", 0) for m in others]
    assert sum(failed) > 0
    assert lan["n2"].serf.memberlist.table.refutations > 0
    assert all(m.serf.memberlist.table.refutations == 0 for m in others)


def test_idle_pool_sends_a_ping_and_an_ack_per_probe_and_is_left_in_peace() -> None:
    lan = Lan(10)
    lan.run(100)
    packets = sum(member.packets_sent for member in lan.pool.members.values())
    assert packets == pytest.approx(2 * 10 * 100, rel=0.02)
    assert [event for event in lan.events if event[0] > 0] == []
    assert all(member.warnings == 0 for member in lan.pool.members.values())
    acked = lan["n0"].serf.memberlist.acked_at
    assert set(acked) == {f"n{number}" for number in range(1, 10)}
    assert min(acked.values()) > 80


def test_pool_that_starts_warm_keeps_what_all_know_once() -> None:
    lan = Lan(4)
    assert {m.serf.memberlist.table.states() for m in lan.pool.members.values()} == {
        lan["n0"].serf.memberlist.table.states()
    }
    first, last = (lan[name].serf.memberlist.table for name in ("n0", "n3"))
    assert first.states() is last.states()
    assert first.nodes["n1"] is last.nodes["n1"]
    lan.world.crash(lan["n1"].process)
    lan.run(15)
    lan.run(200)
    assert lan.seen("n1") == {FAILED}


def test_members_can_join_one_by_one() -> None:
    lan = Lan(5, warm=False)
    numbers = {name: lan[name].join(lan["n0"]) for name in ("n1", "n2", "n3", "n4")}
    lan.run(5)
    for name, number in numbers.items():
        assert lan[name].joins[number].contacted == 1
    assert all(lan.seen(f"n{number}") == {ALIVE} for number in range(5))


def test_killed_member_is_detected_by_all_sooner_than_a_dead_machine() -> None:
    """The machine of a killed process refuses, so nobody waits for the probe's deadline."""
    moments = {}
    for silent in (False, True):
        lan = Lan(5, seed=2)
        lan.run(3)
        lan.world.crash(lan["n2"].process, silent=silent)
        lan.run(20)
        failed = [m for m, _, kind, about in lan.events if (kind, about) == (FAILURE, "n2")]
        assert len(failed) == 4
        assert {about for _, _, kind, about in lan.events if kind == FAILURE} == {"n2"}
        moments[silent] = max(failed) - 3
    assert 4 < moments[False] < moments[True] < 9


FAILURE = MemberFailed.__name__


def test_member_that_leaves_is_not_taken_for_failed() -> None:
    lan = Lan()
    lan["n3"].leave()
    lan.run(10)
    assert lan.seen("n3") == {LEFT}
    assert FAILURE not in {kind for _, _, kind, _ in lan.events}
    assert LeaveFinished.__name__ in {kind for _, name, kind, _ in lan.events if name == "n3"}


def test_member_restarted_with_nothing_is_a_stranger_until_it_joins() -> None:
    lan = Lan()
    lan.world.crash(lan["n2"].process)
    lan.run(20)
    fresh = lan.start("n2")
    lan.run(5)
    assert fresh.status("n0") in {MemberStatus.NONE, ALIVE}
    fresh.join(lan["n0"])
    lan.run(10)
    assert lan.seen("n2") == {ALIVE}


def test_member_restarted_with_its_snapshot_finds_back_by_itself() -> None:
    lan = Lan()
    lan.run(3)
    snapshot = lan["n2"].snapshot()
    assert set(snapshot.alive) == {"n0", "n1", "n2", "n3", "n4"}
    lan.world.crash(lan["n2"].process)
    lan.world.crash(lan["n0"].process)
    lan.run(2)
    back = lan.start("n2", snapshot=snapshot)
    lan.run(5)
    assert lan.seen("n2") == {ALIVE}
    assert {back.status(name) for name in ("n1", "n3", "n4")} == {ALIVE}


def test_restarted_member_goes_on_looking_while_nobody_is_there() -> None:
    lan = Lan(3)
    snapshot = lan["n0"].snapshot()
    processes = [lan[name].process for name in ("n0", "n1", "n2")]
    for process in processes:
        lan.world.crash(process)
    back = lan.start("n0", snapshot=snapshot)
    lan.run(10)
    assert back.status("n1") is MemberStatus.NONE
    lan.start("n1")
    lan.run(40)
    assert back.status("n1") is ALIVE


def test_acks_carry_coordinates_that_tell_the_round_trip() -> None:
    lan = Lan(4, config=GossipConfig.lan(), link=LinkModel(median=0.05, spread=0.01))
    lan.run(60)
    known = lan["n0"].serf.coordinates.known
    assert set(known) == {"n0", "n1", "n2", "n3"}
    assert distance(known["n0"], known["n1"]) == pytest.approx(0.1, rel=0.3)


class Wan:
    """Three datacenters of two servers and a gateway each."""

    def __init__(self, *, idle_probes: bool = True) -> None:
        self.world = World(seed=1, trace=True)
        self.pool = Pool(
            self.world, config=WAN, route=self.route, port=8302, idle_probes=idle_probes
        )
        self.gateways: dict[str, Machine] = {}
        self.closed: set[str] = set()
        for dc in ("dc1", "dc2", "dc3"):
            self.gateways[dc] = self.world.machine(f"gateway.{dc}", dc)
            for server in ("alpha", "beta"):
                name = f"{server}.{dc}"
                process = self.world.process(name, self.world.machine(name, dc))
                self.pool.add(name, process)
        self.pool.converge()

    def route(self, source: Member, target: Member) -> Sequence[Machine] | None:
        here, there = source.machine, target.machine
        if here.group == there.group:
            return here, there
        if {here.group, there.group} & self.closed:
            return None
        return here, self.gateways[here.group], self.gateways[there.group], there

    def statuses(self, dc: str) -> dict[str, MemberStatus]:
        """What a server of a datacenter thinks of all."""
        alpha = self.pool.members[f"alpha.{dc}"]
        return {member.name: member.status for member in alpha.serf.members()}


@pytest.mark.parametrize("cut", [False, True])
def test_pool_across_gateways_behaves_alike_with_and_without_idle_probes(cut: bool) -> None:
    digests = []
    for idle_probes in (True, False):
        wan = Wan(idle_probes=idle_probes)
        wan.world.run(until=61.03)
        if cut:
            wan.world.network.cut("dc1", "dc2")
            wan.world.run(until=200)
        wan.world.settle()
        forwarded = {name: gateway.bytes_forwarded for name, gateway in wan.gateways.items()}
        assert min(forwarded.values()) > 1000
        digests.append((wan.world.digest, forwarded))
    assert digests[0] == digests[1]


def test_datacenter_without_a_way_out_fails_and_comes_back() -> None:
    wan = Wan()
    wan.world.run(until=30)
    wan.closed = {"dc3"}
    wan.world.run(until=180)
    seen = wan.statuses("dc1")
    assert [seen[name] for name in ("alpha.dc3", "beta.dc3")] == [FAILED, FAILED]
    assert seen["alpha.dc2"] is ALIVE
    assert wan.statuses("dc3")["beta.dc3"] is ALIVE
    wan.closed = set()
    wan.world.run(until=600)
    assert set(wan.statuses("dc1").values()) == {ALIVE}
    assert set(wan.statuses("dc3").values()) == {ALIVE}


def test_packet_behind_a_gateway_that_finds_nobody_counts_as_failed() -> None:
    wan = Wan()
    victim = wan.pool.members["alpha.dc2"]
    wan.world.crash(victim.process)
    wan.world.run(until=60)
    failed = sum(m.serf.memberlist.counters.get("packets_failed", 0) for m in alive(wan.pool))
    refused = sum(
        m.serf.memberlist.counters.get("packets_refused_by_host", 0) for m in alive(wan.pool)
    )
    assert failed > 0
    assert refused > 0, "its neighbour in the datacenter is told by the host"
    assert wan.statuses("dc1")["alpha.dc2"] is FAILED


def alive(pool: Pool) -> list[Member]:
    return [member for member in pool.members.values() if member.process.alive]


def test_events_of_joining_reach_the_owner() -> None:
    lan = Lan(2, warm=False)
    lan["n1"].join(lan["n0"])
    lan.run(2)
    joined = {(name, about) for _, name, kind, about in lan.events if kind == JOINED}
    assert joined == {("n0", "n0"), ("n0", "n1"), ("n1", "n0"), ("n1", "n1")}


JOINED = MemberJoined.__name__
