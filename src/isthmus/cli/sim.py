"""``isthmus sim``: rehearse a federation and what may befall it, in virtual time."""

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Final, Protocol, TextIO

from isthmus.cli.command import Command, CommandFailed, complain, format_mistakes, say
from isthmus.cli.flags import Flag, Parsed, UsageError, switch, whole_number
from isthmus.errors import ConfigError
from isthmus.sim.amounts import format_seconds, parse_seconds, parse_share
from isthmus.sim.command import replay_command
from isthmus.sim.files import expect_of, gossip_of, link_of, load_scenario, pair_of
from isthmus.sim.language import VERBS, parse_fault
from isthmus.sim.recording import Recording, SimulationStopped
from isthmus.sim.report import render_report
from isthmus.sim.scenario import SEED_MAX, Scenario
from isthmus.sim.summary import Summary, format_summary
from isthmus.sim.topology import Topology

RUNS_MAX: Final = 10_000
FAILED: Final = 1
BAD_USAGE: Final = 2
INTERRUPTED: Final = 130
_VIOLATIONS_SHOWN: Final = 10
_PERIOD: Final = 0.1
"""Seconds between two pictures of the progress bar."""
_BAR_WIDTH: Final = 40
_WITHOUT_REPLAY: Final = frozenset({"seed", "runs", "report", "json"})
"""Flags that do not change what a run does."""


class Simulate(Protocol):
    """What runs a scenario: `isthmus.sim.run.simulate`."""

    def __call__(
        self, scenario: Scenario, *, progress: Callable[[float], None] | None = None
    ) -> Recording:
        """Run it; `progress` gets the share that is done, 0 to 1, and may raise to stop."""
        ...


def make_command(simulate: Simulate, simulate_agents: Simulate) -> Command:
    """The command, with what runs scenarios: of cores, and with ``-agents`` of whole agents."""

    def run(args: Parsed) -> int:
        scenario = scenario_of(args)
        chosen = simulate_agents if args["agents"] else simulate
        runs = args["runs"]
        if not 1 <= runs <= RUNS_MAX:
            raise UsageError(f"-runs must be from 1 to {RUNS_MAX}")
        if scenario.seed + runs - 1 > SEED_MAX:
            raise UsageError(f"-seed is at most {SEED_MAX}")
        if args["report"]:
            _check_report(Path(args["report"]))
        code = 0
        for seed in range(scenario.seed, scenario.seed + runs):
            code = max(code, _run_one(replace(scenario, seed=seed), args, chosen))
            if code == INTERRUPTED:
                break
        return code

    return Command(
        "sim",
        "Rehearse a federation in virtual time: what happens, and how long it takes.",
        run,
        FLAGS,
        examples=(
            "isthmus sim -datacenters 50 -servers 3 -fault 'partition dc1|dc2 for 60s' -seed 7 "
            "-report out.html",
            "isthmus sim -fault 'crash gateway 1 of dc2 for 30s' -fault 'loss 5% everywhere'",
            "isthmus sim -scenario examples/sim/rolling_restart.toml -runs 10",
        ),
        usage_code=BAD_USAGE,
    )


def _run_one(scenario: Scenario, args: Parsed, simulate: Simulate) -> int:
    """Run one seed and say what came of it; the exit code."""
    several = args["runs"] > 1
    progress = Progress(
        sys.stderr, total=scenario.ends_at, label=f"seed {scenario.seed}", clock=time.perf_counter
    )
    with stopping(progress):
        try:
            recording = simulate(scenario, progress=progress.reached)
        except ValueError as error:
            raise CommandFailed(f"cannot run this: {error}", code=BAD_USAGE) from error
    progress.close()
    summary = Summary.of(recording)
    if args["report"]:
        _write_report(summary, args["report"], several=several)
    if args["json"]:
        say(summary.as_json())
    elif several and summary.held:
        say(f"seed {scenario.seed}: held")
    else:
        say(_describe(scenario))
        say(format_summary(summary))
    if not summary.held:
        complain(_failure(summary))
    if recording.interrupted:
        reached = format_seconds(round(recording.ended_at, 1))
        complain(f"stopped at {reached} of {format_seconds(scenario.ends_at)}")
    if not summary.held:
        return FAILED if not recording.interrupted else INTERRUPTED
    return INTERRUPTED if recording.interrupted else 0


def _describe(scenario: Scenario) -> str:
    topology = scenario.topology
    counts = [f"{topology.datacenters} datacenters", f"{topology.servers} servers"]
    counts += [f"{topology.clients} clients"] if topology.clients else []
    counts += [f"{topology.gateways} gateways each"]
    start = "warm" if topology.warm else "cold"
    head = f"{scenario.name}: {', '.join(counts)}; {start} start, "
    head += f"{format_seconds(scenario.ends_at)}, seed {scenario.seed}"
    return "\n".join([head, *(f"  {fault}" for fault in scenario.faults), ""])


def _failure(summary: Summary) -> str:
    recording = summary.recording
    failed = [verdict.name for verdict in summary.verdicts if not verdict.held]
    lines = [f"seed {recording.scenario.seed}: did not hold: {', '.join(failed)}"]
    lines += [
        f"  at {violation.at:.3f} s: {violation.invariant}: {violation.text}"
        for violation in recording.violations[:_VIOLATIONS_SHOWN]
    ]
    if (more := len(recording.violations) - _VIOLATIONS_SHOWN) > 0:
        lines.append(f"  and {more} more")
    lines.append(f"replay: {replay_command(recording.scenario)}")
    return "\n".join(lines)


def _check_report(path: Path) -> None:
    """Refuse at once what could not be written after a run that may take an hour."""
    if path.is_dir():
        number = errno.EISDIR
    elif not path.parent.is_dir():
        number = errno.ENOTDIR if path.parent.exists() else errno.ENOENT
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        number = errno.EACCES
    else:
        return
    raise CommandFailed(f"cannot write {path}: {os.strerror(number)}", code=BAD_USAGE)


def _write_report(summary: Summary, name: str, *, several: bool) -> None:
    path = Path(name)
    if several:
        path = path.with_stem(f"{path.stem}-{summary.recording.scenario.seed}")
    try:
        path.write_text(render_report(summary), encoding="utf-8")
    except OSError as error:
        raise CommandFailed(f"cannot write {path}: {error.strerror}") from error
    complain(f"report: {path}")


# From flags to the scenario


def scenario_of(args: Parsed) -> Scenario:
    """What the command line asks for.

    Raises:
        UsageError: It is wrong.
        CommandFailed: The scenario's file is.
    """
    scenario = Scenario()
    if args["scenario"]:
        try:
            scenario = load_scenario(Path(args["scenario"]))
        except ConfigError as error:
            text = format_mistakes(error, prefix="not a scenario: ")
            raise CommandFailed(text, code=BAD_USAGE) from error
    given = {name: args[name] for name in args.given}
    try:
        topology = _topology(scenario.topology, given)
        faults = (*scenario.faults, *(parse_fault(text, topology) for text in args["fault"]))
        return replace(
            scenario,
            topology=topology,
            faults=faults,
            lan=gossip_of(given.get("gossip-lan", ""), scenario.lan),
            wan=gossip_of(given.get("gossip-wan", ""), scenario.wan),
            expect=expect_of(given.get("expect", ""), scenario.expect),
            duration=given.get("duration", scenario.duration),
            settle=given.get("settle", scenario.settle),
            seed=given.get("seed", scenario.seed),
            arguments=_arguments(args),
        )
    except ValueError as error:
        raise CommandFailed(f"{error}\n\nisthmus sim -help says more.", code=BAD_USAGE) from error


def _topology(topology: Topology, given: dict[str, Any]) -> Topology:
    counts: dict[str, Any] = {
        name: given[name]
        for name in ("datacenters", "servers", "clients", "gateways")
        if name in given
    }
    if given.get("agents"):
        counts = {"servers": 1, "warm": False, **counts}
    if "cold" in given:
        counts["warm"] = not given["cold"]
    topology = replace(topology, **counts)
    topology = replace(
        topology,
        lan=link_of(given.get("lan", ""), topology.lan),
        wan=link_of(given.get("wan", ""), topology.wan),
    )
    if "loss" in given:
        topology = replace(
            topology,
            lan=replace(topology.lan, loss=given["loss"]),
            wan=replace(topology.wan, loss=given["loss"]),
            pairs={
                pair: replace(link, loss=given["loss"]) for pair, link in topology.pairs.items()
            },
        )
    for text in given.get("link", ()):
        topology = replace(topology, pairs=pair_of(text, topology, topology.pairs))
    return topology


def _arguments(args: Parsed) -> tuple[str, ...]:
    """The command line without what does not change a run, to be repeated."""
    words = list[str]()
    for flag in FLAGS:
        if flag.name in _WITHOUT_REPLAY or flag.name not in args.given:
            continue
        values = args[flag.name] if flag.repeated else [args[flag.name]]
        for value in values:
            if flag.parse is None:
                words.append(f"-{flag.name}" if value else f"-{flag.name}=false")
            else:
                words += [f"-{flag.name}", _SHOWN.get(flag.parse, str)(value)]
    return tuple(words)


def _positive_seconds(text: str) -> float:
    seconds = parse_seconds(text)
    if seconds == 0:
        raise ValueError("must be more than 0s")
    return seconds


def _loss(text: str) -> float:
    share = parse_share(text)
    if share == 1:
        raise ValueError("100% leaves nothing; that is a partition")
    return share


# How it goes on


class Progress:
    """How far a run is: a bar on a terminal, a line for each tenth elsewhere.

    Args:
        out: Where to.
        total: Virtual seconds of the run.
        label: Stands before it.
        clock: Seconds of real time.
    """

    def __init__(
        self, out: TextIO, *, total: float, label: str, clock: Callable[[], float]
    ) -> None:
        self._out, self._total, self._label, self._clock = out, total, label, clock
        self._started = self._shown = clock()
        self._terminal = out.isatty()
        self._tenth = 0
        self.stop = False

    def reached(self, share: float) -> None:
        """Take note of the share that is done, 0 to 1.

        Raises:
            SimulationStopped: The operator wants no more.
        """
        if self.stop:
            raise SimulationStopped
        now = self._clock()
        if not self._terminal:
            if (tenth := int(share * 10 + 1e-9)) > self._tenth:
                self._tenth = tenth
                self._out.write(f"{self._line(share, now)}\n")
                self._out.flush()
        elif now - self._shown >= _PERIOD:
            self._shown = now
            full = int(share * _BAR_WIDTH)
            bar = "█" * full + "░" * (_BAR_WIDTH - full)
            self._out.write(f"\r{bar} {self._line(share, now)}\033[K")
            self._out.flush()

    def close(self) -> None:
        """Take the bar away."""
        if self._terminal:
            self._out.write("\r\033[K")
            self._out.flush()

    def _line(self, share: float, now: float) -> str:
        elapsed = now - self._started
        rest = f", {elapsed / share - elapsed:.0f} s left" if 0.02 < share < 1 else ""
        reached = format_seconds(int(share * self._total + 1e-6))
        return (
            f"{self._label}: {reached} of {format_seconds(self._total)} ({share:.0%})"
            f" in {elapsed:.0f} s{rest}"
        )


@contextmanager
def stopping(progress: Progress) -> Iterator[None]:
    """Let the first Ctrl-C end the run with what was measured; a second one ends the program."""

    def stop(number: int, frame: FrameType | None) -> None:
        progress.stop = True
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


_SHOWN: Final[dict[Callable[[str], Any], Callable[[Any], str]]] = {
    _positive_seconds: format_seconds,
    _loss: lambda share: f"{share * 100:g}%",
}
FLAGS: Final = (
    Flag("scenario", "TOML file with a scenario; other flags change it.", placeholder="FILE"),
    Flag("datacenters", "How many; dc1 is the primary. Default 3.", whole_number, placeholder="N"),
    Flag("servers", "Servers of each datacenter. Default 3.", whole_number, placeholder="N"),
    Flag("clients", "Client agents of each datacenter. Default 0.", whole_number, placeholder="N"),
    Flag("gateways", "Mesh gateways of each datacenter. Default 2.", whole_number, placeholder="N"),
    switch("cold", "Start every server alone instead of with all pools joined."),
    switch(
        "agents",
        "Run whole agents as they ship, HTTP and TLS names and all, one server in each datacenter: "
        "as exact as it is slow, for up to about ten datacenters.",
    ),
    Flag(
        "fault",
        f"What goes wrong, such as 'partition dc1|dc2 at 30s for 60s'. Faults: {', '.join(VERBS)}. "
        "May be given several times.",
        repeated=True,
        placeholder="'FAULT'",
    ),
    Flag("loss", "Packets lost on every link, from the start.", _loss, placeholder="SHARE"),
    Flag("lan", "Links within datacenters: 'latency=1ms loss=0.1%'.", placeholder="'KEY=VALUE …'"),
    Flag("wan", "Links between datacenters: 'latency=80ms'.", placeholder="'KEY=VALUE …'"),
    Flag(
        "link",
        "Links that differ: 'dc1|dc3 latency=200ms'. May be given several times.",
        repeated=True,
        placeholder="'LINKS KEY=VALUE …'",
    ),
    Flag("gossip-lan", "LAN gossip: 'probe_interval=2s'.", placeholder="'KEY=VALUE …'"),
    Flag("gossip-wan", "WAN gossip: 'suspicion_mult=8'.", placeholder="'KEY=VALUE …'"),
    Flag(
        "expect",
        "What must hold: 'detection=2m converged_within=30s false_positives=0'.",
        placeholder="'KEY=VALUE …'",
    ),
    Flag(
        "duration",
        "Virtual time. Default: until the last fault has had time to heal.",
        _positive_seconds,
        placeholder="TIME",
    ),
    Flag(
        "settle",
        "All must be well again so long after the last fault. Default: by the pool's size.",
        _positive_seconds,
        placeholder="TIME",
    ),
    Flag("seed", "Seed of every random choice. Default 1.", whole_number, placeholder="N"),
    Flag("runs", "Run with so many seeds, from -seed on.", whole_number, 1, placeholder="N"),
    Flag("report", "Write an HTML page with plots.", placeholder="FILE"),
    switch("json", "Print one line of JSON for each run."),
)


def _simulate(scenario: Scenario, *, progress: Callable[[float], None] | None = None) -> Recording:
    from isthmus.sim.run import simulate  # The engine is loaded only for a good command line.

    return simulate(scenario, progress=progress)


def _simulate_agents(
    scenario: Scenario, *, progress: Callable[[float], None] | None = None
) -> Recording:
    from isthmus.sim.agent_run import simulate_agents

    return simulate_agents(scenario, progress=progress)


SIM: Final = make_command(_simulate, _simulate_agents)
