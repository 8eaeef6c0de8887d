"""Scenarios of the fault language, run with whole agents."""

from dataclasses import replace

import pytest

from isthmus.gossip.config import GossipConfig
from isthmus.sim.agent_run import AgentRun, simulate_agents
from isthmus.sim.invariants import DECLARED_DEAD
from isthmus.sim.language import parse_fault
from isthmus.sim.recording import WAN, Recording, SimulationStopped
from isthmus.sim.scenario import Scenario
from isthmus.sim.summary import Summary, format_summary
from isthmus.sim.topology import Host, Role, Topology

TOPOLOGY = Topology(datacenters=3, servers=1, gateways=1)


def scenario(*faults: str, duration: float | None = 100.0, seed: int = 1) -> Scenario:
    return Scenario(
        topology=TOPOLOGY,
        faults=tuple(parse_fault(text, TOPOLOGY) for text in faults),
        duration=duration,
        seed=seed,
    )


def simulate(*faults: str, duration: float = 100.0, seed: int = 1) -> Recording:
    return simulate_agents(scenario(*faults, duration=duration, seed=seed))


def test_quiet_federation_knows_everybody_and_breaks_nothing() -> None:
    recording = simulate(duration=60)
    assert recording.violations == []
    assert recording.false_positives == []
    last = recording.samples[-1]
    assert (last.at, last.alive, last.known.low, last.converged) == (60.0, 3, 3.0, 3)
    assert last.gateway_rate.high > 0
    assert {one.dc for one in recording.convergences if one.seconds is not None} == {
        "dc1",
        "dc2",
        "dc3",
    }
    assert recording.ended_at >= 60
    assert format_summary(Summary.of(recording))


def test_crash_is_detected_by_every_other_server() -> None:
    recording = simulate("crash server 1 of dc2 at 10s for 60s", duration=110)
    victim = Host("dc2", Role.SERVER, 1)
    assert {detection.observer.dc for detection in recording.detections} == {"dc1", "dc3"}
    for detection in recording.detections:
        assert (detection.victim, detection.pool) == (victim, WAN)
        assert 5 < detection.seconds < 60
    assert recording.violations == []
    assert recording.samples[40].alive == 2
    assert recording.samples[-1].known.low == 3


def test_faults_of_every_kind_pass() -> None:
    recording = simulate(
        "partition dc1|dc2 at 10s for 10s",
        "loss 5% everywhere at 22s for 10s",
        "latency +200ms dc1|dc3 at 22s for 10s",
        "pause server 1 of dc3 at 35s for 5s",
        "restart gateway 1 of dc2 at 42s",
        "move gateway 1 of dc3 at 50s",
        "drift server 1 of dc2 1.02 at 55s for 20s",
        "leave server 1 of dc3 at 60s",
        "restart server 1 of dc3 at 75s",
        duration=130.0,
    )
    assert recording.violations == []
    assert recording.samples[-1].known.low == 3
    assert recording.samples[-1].converged == 3
    assert len(recording.notes) >= 14


def test_partition_is_no_mistake_of_anybody() -> None:
    recording = simulate("partition dc1|dc2 at 10s for 60s", duration=120)
    assert recording.false_positives == []
    assert recording.detections == []


def test_same_scenario_gives_the_same_recording() -> None:
    one, other = (simulate("partition dc1>dc2 at 10s for 30s", seed=3) for _ in range(2))
    assert one == other
    assert simulate("partition dc1>dc2 at 10s for 30s", seed=4).counters != one.counters


def test_violation_is_recorded_and_ends_the_run() -> None:
    run = AgentRun(replace(scenario(duration=100), settle=10.0))
    for dc in ("dc1", "dc3"):  # Nobody is told that this is a disturbance.
        run.federation.timeline.call_at(20.0, run.federation.links.cut, dc, "dc2")
    recording = run.run()
    assert [violation.invariant for violation in recording.violations] == [DECLARED_DEAD]
    assert recording.ended_at < 100


def test_progress_is_told_and_may_stop() -> None:
    shares: list[float] = []

    def tell(share: float) -> None:
        shares.append(share)
        if share >= 0.5:
            raise SimulationStopped

    recording = simulate_agents(scenario(duration=40.0), progress=tell)
    assert shares == sorted(shares)
    assert recording.interrupted
    assert recording.ended_at == pytest.approx(20.0, abs=0.01)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (Scenario(topology=Topology(servers=3)), "one server and no clients"),
        (scenario("move server 1 of dc2"), "only gateways can move"),
        (scenario("leave gateway 1 of dc2"), "only servers can leave"),
        (replace(scenario(), wan=replace(GossipConfig.wan(), compress=False)), "gossip of the wan"),
    ],
)
def test_what_whole_agents_cannot_do_is_refused(wrong: Scenario, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        simulate_agents(wrong)


def test_gossip_settings_reach_the_agents() -> None:
    fast = replace(GossipConfig.wan(), probe_interval=1.0, probe_timeout=0.5)
    given = replace(scenario("crash server 1 of dc2 at 10s", duration=60), wan=fast)
    recording = simulate_agents(given)
    assert recording.detections
    assert max(detection.seconds for detection in recording.detections) < 20
