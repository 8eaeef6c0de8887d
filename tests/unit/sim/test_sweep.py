"""Scenarios drawn from seeds, and failures made smaller."""

from dataclasses import replace

import pytest

from isthmus.sim.language import parse_fault
from isthmus.sim.recording import Violation
from isthmus.sim.scenario import Scenario
from isthmus.sim.sweep import FAULTS_DRAWN_MAX, Failure, draw_scenario, main, run_seed, shrink

FAULTS = (
    "partition dc1|dc2 at 20s for 60s",
    "crash server 1 of dc1 at 30s for 15s",
    "loss 5% everywhere at 40s for 30s",
)
VIOLATION = Violation(9.0, "ways", "server1.dc2 finds no way to dc1")


def make_scenario() -> Scenario:
    return Scenario(faults=tuple(parse_fault(text) for text in FAULTS), seed=7)


def test_seed_stands_for_one_scenario() -> None:
    assert draw_scenario(5) == draw_scenario(5)
    assert draw_scenario(5) != draw_scenario(6)


def test_drawn_scenarios_are_small_and_differ() -> None:
    drawn = [draw_scenario(seed) for seed in range(200)]
    assert all(1 <= len(scenario.faults) <= FAULTS_DRAWN_MAX for scenario in drawn)
    assert {type(fault).__name__ for scenario in drawn for fault in scenario.faults} >= {
        "Partition",
        "Loss",
        "Duplication",
        "Reordering",
        "Latency",
        "Crash",
        "Pause",
        "Restart",
        "Move",
        "Drift",
    }
    assert {scenario.topology.warm for scenario in drawn} == {True, False}
    assert all(scenario.ends_at < 600 for scenario in drawn)


def test_shrinking_keeps_only_the_faults_that_are_needed() -> None:
    needed = parse_fault(FAULTS[1])
    runs: list[Scenario] = []

    def fails(scenario: Scenario) -> tuple[Violation, ...]:
        runs.append(scenario)
        return (VIOLATION,) if needed in scenario.faults else ()

    shrunk, violations = shrink(make_scenario(), fails)
    assert shrunk.faults == (needed,)
    assert violations == (VIOLATION,)
    assert len(runs) == 1 + len(FAULTS)


def test_shrinking_leaves_all_that_time_to_heal() -> None:
    scenario = make_scenario()
    shrunk, _ = shrink(scenario, lambda _: (VIOLATION,))
    assert shrunk == replace(scenario, faults=(), duration=scenario.ends_at)


def test_failure_names_its_seed_and_both_commands() -> None:
    text = str(Failure(7, replace(make_scenario(), faults=()), (VIOLATION,), 3))
    assert "seed 7 fails; 0 of its 3 faults" in text
    assert "make sim SEED=7 RUNS=1" in text
    assert "isthmus sim -datacenters 3 -servers 3 -seed 7" in text
    assert "ways: server1.dc2 finds no way to dc1" in text


def test_good_seed_has_no_failure() -> None:
    assert run_seed(2) is None


def test_command_prints_its_seed_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "2", "--runs", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 simulations, base seed 2"
    assert lines[1].startswith("1 of 1 held")


def test_chance_picks_the_seed_and_says_which(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--seed", "", "--runs", "1"])
    seed = int(capsys.readouterr().out.splitlines()[0].rpartition(" ")[2])
    assert draw_scenario(seed).seed == seed


@pytest.mark.parametrize("arguments", [["--runs", "0"], ["--seed", "x"], ["--seed", "-1"]])
def test_bad_arguments_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
