"""``isthmus sim``: the command line, what it prints, how it ends. Runs are faked."""

import io
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from isthmus.cli.command import Command
from isthmus.cli.sim import BAD_USAGE, FAILED, INTERRUPTED, Progress, make_command
from isthmus.sim.recording import Recording, SimulationStopped
from isthmus.sim.scenario import Scenario
from isthmus.sim.topology import Topology
from support.cli import Cli
from support.recordings import make_recording


class FakeSimulation:
    """Runs scenarios as `isthmus.sim.run.simulate` does; keeps what it was asked to run."""

    def __init__(self) -> None:
        self.ran: list[Scenario] = []
        self.bad_seeds: set[int] = set()
        self.at: dict[float, Callable[[], None]] = {}

    def __call__(
        self, scenario: Scenario, *, progress: Callable[[float], None] | None = None
    ) -> Recording:
        self.ran.append(scenario)
        recording = make_recording(scenario, seed=scenario.seed)
        if scenario.seed in self.bad_seeds:
            recording.violated(12.5, "indexes", "dc3: from 9 back to 8")
        try:
            for second in range(int(scenario.ends_at) + 1):
                if second in self.at:
                    self.at[second]()
                recording.ended_at = float(second)
                if progress is not None:
                    progress(second / scenario.ends_at)
        except SimulationStopped:
            recording.interrupted = True
        return recording


@pytest.fixture
def simulation() -> FakeSimulation:
    return FakeSimulation()


def no_agents(scenario: Scenario, *, progress: Callable[[float], None] | None = None) -> Recording:
    """Whole agents are not asked for."""
    raise AssertionError(scenario)


@pytest.fixture
def sim(simulation: FakeSimulation) -> Command:
    return make_command(simulation, no_agents)


Captured = pytest.CaptureFixture[str]


def test_command_line_becomes_the_scenario(sim: Command, simulation: FakeSimulation) -> None:
    code = sim(
        [
            *("--datacenters", "50", "--servers", "5", "-clients=2", "-gateways=1", "-cold"),
            *("--fault", "partition dc1|dc2 for 60s", "-fault", "crash server 5 of dc9"),
            *("-wan", "latency=80ms", "-link", "dc1|dc3 latency=200ms", "-loss", "1%"),
            *("-gossip-wan", "suspicion_mult=8", "-expect", "detection=9m"),
            *("-duration", "10m", "-settle", "2m", "--seed", "7"),
        ]
    )
    assert code == 0
    (scenario,) = simulation.ran
    topology = scenario.topology
    assert (topology.datacenters, topology.servers, topology.clients) == (50, 5, 2)
    assert (topology.gateways, topology.warm) == (1, False)
    assert [str(fault) for fault in scenario.faults] == [
        "partition dc1|dc2 at 10s for 1m",
        "crash server 5 of dc9 at 10s",
    ]
    assert (topology.lan.loss, topology.wan.loss, topology.wan.median) == (0.01, 0.01, 0.08)
    assert topology.link("dc3", "dc1").median == 0.2
    assert topology.link("dc3", "dc1").loss == 0.01
    assert (scenario.wan.suspicion_mult, scenario.lan.suspicion_mult) == (8, 4)
    assert scenario.expect.detection == 540.0
    assert (scenario.duration, scenario.settle, scenario.seed) == (600.0, 120.0, 7)


def test_whole_agents_run_one_server_each_from_a_cold_start(simulation: FakeSimulation) -> None:
    sim = make_command(no_agents, simulation)
    assert sim(["-agents", "-datacenters", "2"]) == 0
    assert sim(["-agents", "-servers", "3"]) == 0
    one, other = (scenario.topology for scenario in simulation.ran)
    assert (one.datacenters, one.servers, one.warm) == (2, 1, False)
    assert other.servers == 3
    assert simulation.ran[0].arguments == ("-datacenters", "2", "-agents")


def test_what_cannot_be_simulated_is_a_mistake_of_the_command_line(capsys: Captured) -> None:
    def refuse(scenario: Scenario, *, progress: Callable[[float], None] | None = None) -> Recording:
        raise ValueError("set servers to 1")

    assert make_command(no_agents, refuse)(["-agents"]) == BAD_USAGE
    assert "cannot run this: set servers to 1" in capsys.readouterr().err


def test_without_flags_the_default_federation_runs(
    sim: Command, simulation: FakeSimulation
) -> None:
    assert sim([]) == 0
    assert simulation.ran[0].topology == Topology()
    assert simulation.ran[0].seed == 1


def test_summary_is_printed(sim: Command, capsys: Captured) -> None:
    assert sim(["-fault", "partition dc1|dc2 for 60s"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "federation: 3 datacenters, 3 servers, 2 gateways each; warm start, 4m10s, seed 1\n"
        "  partition dc1|dc2 at 10s for 1m\n"
    )
    assert "ok    indexes: no index goes back (held)" in out


def test_violation_exits_1_with_seed_and_the_command_that_replays_it(
    sim: Command, simulation: FakeSimulation, capsys: Captured
) -> None:
    simulation.bad_seeds = {7}
    assert sim(["-fault", "loss 5% everywhere", "-seed", "7", "-json"]) == FAILED
    captured = capsys.readouterr()
    assert "seed 7: did not hold: indexes\n" in captured.err
    assert "  at 12.500 s: indexes: dc3: from 9 back to 8\n" in captured.err
    assert "replay: isthmus sim -fault 'loss 5% everywhere' -seed 7\n" in captured.err
    assert json.loads(captured.out)["Held"] is False


def test_runs_take_seeds_in_order_and_tell_the_failing_one(
    sim: Command, simulation: FakeSimulation, capsys: Captured
) -> None:
    simulation.bad_seeds = {12}
    assert sim(["-seed", "11", "-runs", "3"]) == FAILED
    assert [scenario.seed for scenario in simulation.ran] == [11, 12, 13]
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert (lines[0], lines[-1]) == ("seed 11: held", "seed 13: held")
    assert "FAIL  indexes" in captured.out
    assert "replay: isthmus sim -seed 12\n" in captured.err


def test_json_is_a_line_for_each_run(sim: Command, capsys: Captured) -> None:
    assert sim(["-runs", "3", "-json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["Seed"] for line in lines] == [1, 2, 3]


def test_report_is_written(sim: Command, tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "out.html"
    assert sim(["-seed", "7", "-report", str(path)]) == 0
    assert path.read_text().startswith("<!DOCTYPE html>")
    assert f"report: {path}\n" in capsys.readouterr().err


def test_each_of_several_runs_has_a_report(sim: Command, tmp_path: Path) -> None:
    assert sim(["-seed", "7", "-runs", "2", "-report", str(tmp_path / "out.html")]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-7.html", "out-8.html"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("none/out.html", "No such file or directory"),
        ("file/out.html", "Not a directory"),
        (".", "Is a directory"),
    ],
)
def test_report_that_cannot_be_written_is_told_before_anything_runs(
    sim: Command,
    simulation: FakeSimulation,
    tmp_path: Path,
    capsys: Captured,
    name: str,
    why: str,
) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / name
    assert sim(["-report", str(path)]) == BAD_USAGE
    assert f"cannot write {path}: {why}" in capsys.readouterr().err
    assert simulation.ran == []


def test_report_that_cannot_be_written_after_all_is_told(
    simulation: FakeSimulation, tmp_path: Path, capsys: Captured
) -> None:
    path = tmp_path / "out.html"

    def simulate(
        scenario: Scenario, *, progress: Callable[[float], None] | None = None
    ) -> Recording:
        path.mkdir()
        return simulation(scenario, progress=progress)

    assert make_command(simulate, no_agents)(["-report", str(path)]) == FAILED
    assert f"cannot write {path}: Is a directory" in capsys.readouterr().err


def test_file_is_run_and_flags_change_it(
    sim: Command, simulation: FakeSimulation, tmp_path: Path, capsys: Captured
) -> None:
    path = tmp_path / "outage.toml"
    path.write_text('faults = ["partition dc1|* for 1m"]\nseed = 5\n[topology]\ndatacenters = 9\n')
    simulation.bad_seeds = {5}
    assert (
        sim(["-scenario", str(path), "-datacenters", "4", "-fault", "leave server 1 of dc4"]) == 1
    )
    (scenario,) = simulation.ran
    assert (scenario.name, scenario.seed, scenario.topology.datacenters) == ("outage", 5, 4)
    assert len(scenario.faults) == 2
    replay = f"isthmus sim -scenario {path} -datacenters 4 -fault 'leave server 1 of dc4' -seed 5\n"
    assert f"replay: {replay}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["-datacenter", "3"], "flag provided but not defined: -datacenter"),
        (["extra"], "Too many arguments (expected 0, got 1)"),
        (["-runs", "0"], "-runs must be from 1 to 10000"),
        (["-loss", "100%"], "100% leaves nothing; that is a partition"),
        (["-duration", "soon"], "'soon' is no duration"),
        (["-datacenters", "0"], "datacenters: 0 is not within 1 to 2000"),
        (["-wan", "latensy=3s"], "latensy: unknown key; did you mean latency?"),
        (["-scenario", "/none.toml"], "not a scenario: No such file or directory"),
        (
            ["-fault", "partition dc1|dc9"],
            "there is no dc9; there are dc1 to dc3\n  partition dc1|dc9\n                ^^^\n",
        ),
        (
            ["-fault", "leave server 1 of dc1", "-fault", "crash server 1 of dc1 at 1m"],
            "server 1 of dc1 does not run then",
        ),
        (["-seed", str(2**63 - 1), "-runs", "2"], "-seed is at most"),
    ],
)
def test_bad_usage_exits_2_and_runs_nothing(
    args: list[str], says: str, sim: Command, simulation: FakeSimulation, capsys: Captured
) -> None:
    assert sim(args) == BAD_USAGE
    assert says in capsys.readouterr().err
    assert simulation.ran == []


def test_ctrl_c_ends_with_what_was_measured(
    sim: Command, simulation: FakeSimulation, tmp_path: Path, capsys: Captured
) -> None:
    before = signal.getsignal(signal.SIGINT)
    simulation.at[60] = lambda: os.kill(os.getpid(), signal.SIGINT)
    report = tmp_path / "out.html"
    assert sim(["-runs", "3", "-json", "-report", str(report)]) == INTERRUPTED
    captured = capsys.readouterr()
    assert json.loads(captured.out)["Interrupted"] is True
    assert "stopped at 1m of 2m\n" in captured.err
    assert len(simulation.ran) == 1
    assert (tmp_path / "out-1.html").exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_progress_is_told_in_lines_where_there_is_no_terminal(
    sim: Command, capsys: Captured
) -> None:
    sim(["-json"])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("seed 1: ")]
    assert len(lines) == 10
    assert lines[4].startswith("seed 1: 1m of 2m (50%) in ")
    assert lines[-1].startswith("seed 1: 2m of 2m (100%)")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_on_a_terminal_that_vanishes() -> None:
    out, now = _Terminal(), [0.0]
    progress = Progress(out, total=100.0, label="seed 7", clock=lambda: now[0])
    for second in range(51):
        now[0] = second / 16
        progress.reached(second / 100)
    assert out.getvalue().count("\r") == 25  # Not one each call.
    assert "█" * 20 + "░" * 20 + " seed 7: 50s of 1m40s (50%) in 3 s, 3 s left" in out.getvalue()
    progress.close()
    assert out.getvalue().endswith("\r\033[K")


def test_stopped_progress_stops_the_run() -> None:
    progress = Progress(io.StringIO(), total=1.0, label="", clock=lambda: 0.0)
    progress.stop = True
    with pytest.raises(SimulationStopped):
        progress.reached(0.5)


def test_help_names_every_fault(cli: Cli) -> None:
    result = cli("sim", "-help")
    assert result.code == 0
    for verb in ("partition", "loss", "pause", "crash", "restart", "leave", "move", "drift"):
        assert verb in result.out
