"""A run: faults in time, samples, an end."""

import gc

import pytest

from isthmus.sim.language import parse_fault
from isthmus.sim.recording import SimulationStopped
from isthmus.sim.run import COLLECT_AFTER, Run, simulate
from isthmus.sim.scenario import Scenario
from isthmus.sim.topology import Host, Role, Topology
from isthmus.sim.world import ProcessState

TOPOLOGY = Topology(datacenters=2, servers=2, clients=1, gateways=2)


def make_scenario(*faults: str, duration: float = 30.0) -> Scenario:
    parsed = tuple(parse_fault(text, TOPOLOGY) for text in faults)
    return Scenario(topology=TOPOLOGY, faults=parsed, duration=duration)


def states(host: Host, fault: str) -> list[ProcessState]:
    """What a host's process does before, during and after a fault from 10 s to 20 s."""
    run = Run(make_scenario(fault))
    found = []
    for until in (9.0, 15.0, 25.0):
        run.federation.world.run(until=until)
        found.append(run.federation.process_of(host).state)
    return found


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize(
    ("verb", "during"), [("pause", ProcessState.PAUSED), ("crash", ProcessState.CRASHED)]
)
def test_host_faults_begin_and_end(role: Role, verb: str, during: ProcessState) -> None:
    running = ProcessState.RUNNING
    fault = f"{verb} {role} 1 of dc2 at 10s for 10s"
    assert states(Host("dc2", role, 1), fault) == [running, during, running]


def test_restart_is_a_fresh_process() -> None:
    run = Run(make_scenario("restart server 1 of dc2 at 10s"))
    host = Host("dc2", Role.SERVER, 1)
    before = run.federation.servers[host]
    run.federation.world.run(until=20.0)
    after = run.federation.servers[host]
    assert after is not before
    assert (before.process.alive, after.process.running) == (False, True)
    assert after.known_count == 4


@pytest.mark.parametrize("role", list(Role))
def test_host_that_moves_has_another_address(role: Role) -> None:
    run = Run(make_scenario(f"move {role} 1 of dc2 at 10s"))
    host = Host("dc2", role, 1)
    before = run.federation.machine_of(host).address
    run.federation.world.run(until=15.0)
    assert run.federation.machine_of(host).address != before
    assert run.federation.process_of(host).machine is run.federation.machine_of(host)


def test_clock_drifts_while_the_fault_lasts() -> None:
    run = Run(make_scenario("drift server 1 of dc2 1.5 at 10s for 10s"))
    run.federation.world.run(until=30.0)
    assert run.federation.servers[Host("dc2", Role.SERVER, 1)].now == pytest.approx(35.0)
    assert run.federation.servers[Host("dc2", Role.SERVER, 2)].now == 30.0


def test_time_is_quiet_before_and_after_a_fault_that_ends() -> None:
    run = Run(make_scenario("partition dc1|dc2 at 10s for 10s"))
    quiet = []
    for until in (9.0, 15.0, 25.0):
        run.federation.world.run(until=until)
        quiet.append(run.quiet_since())
    assert quiet == [0.0, None, 20.0]


def test_fault_that_lasts_is_no_excuse_but_for_whom_it_separates() -> None:
    run = Run(make_scenario("partition dc1|dc2 at 10s"))
    run.federation.world.run(until=15.0)
    assert run.quiet_since() == 10.0
    assert run.unreachable("dc1", "dc2")
    assert run.unreachable("dc2", "dc1")


def test_samples_are_taken_each_second_to_the_end() -> None:
    recording = simulate(make_scenario(duration=12.5))
    assert [sample.at for sample in recording.samples] == [*map(float, range(1, 13)), 12.5]
    assert recording.ended_at == 12.5
    last = recording.samples[-1]
    assert (last.alive, last.known.low, last.converged) == (4, 4, 2)
    assert last.lan_rate.middle > 0
    assert recording.counters["packets"] > 0


def test_progress_is_told_and_may_stop_the_run() -> None:
    told: list[float] = []

    def progress(share: float) -> None:
        told.append(share)
        if len(told) == 3:
            raise SimulationStopped

    recording = simulate(make_scenario(duration=10.0), progress=progress)
    assert told == [0.1, 0.2, 0.3]
    assert (recording.interrupted, recording.ended_at) == (True, 3.0)


def test_faults_and_leaders_are_noted() -> None:
    recording = simulate(make_scenario("crash server 1 of dc2 at 10s for 5s"))
    texts = [note.text for note in recording.notes]
    assert texts[:2] == ["server1.dc1 leads dc1", "server1.dc2 leads dc2"]
    assert "crash server 1 of dc2" in texts
    assert "crash of server 1 of dc2 is over" in texts


def test_collector_of_garbage_is_patient_during_a_run_only() -> None:
    before = gc.get_threshold()
    seen = []

    def stop(share: float) -> None:
        seen.append(gc.get_threshold()[0])
        raise ValueError(share)

    with pytest.raises(ValueError, match="0"):
        simulate(make_scenario(), progress=stop)
    assert seen == [COLLECT_AFTER] != [before[0]]
    assert gc.get_threshold() == before
