"""Federations of 3 to 1 000 datacenters in the simulator: the scale table of docs/simulator.md.

    python -m bench scale [--quick] [--fresh] [--rows=3,30] [--gossip-wan='probe_interval=10s']

Each figure comes from one of three runs: without loss, where servers crash and gateways move, and
at 1 % and 5 % loss, where nothing else happens. What a run measured is kept in `RESULTS` under the
command that repeats it, so an interrupted table goes on where it stopped; --fresh forgets it. Among
all benchmarks (no name given) only the quick table runs.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from isthmus.gossip.config import GossipConfig
from isthmus.sim.command import replay_command
from isthmus.sim.files import gossip_of, link_of
from isthmus.sim.language import parse_fault
from isthmus.sim.run import simulate
from isthmus.sim.scenario import Scenario
from isthmus.sim.summary import Summary
from isthmus.sim.topology import Topology

ROWS = (3, 30, 300, 1000)
QUICK_ROWS = (3, 10)
SERVERS = 3
SEED = 1
VICTIMS_MAX = 5
RESULTS = Path(__file__).with_name("scale-results.json")
_FAULTS_AT = 60
_LOSSES = ("1%", "5%")


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    rows: tuple[int, ...]
    quick: bool
    fresh: bool
    wan: GossipConfig


def parse_options(arguments: list[str]) -> Options:
    """Read the flags behind ``python -m bench``.

    Raises:
        RuntimeError: A flag is wrong.
    """
    quick = "--quick" in arguments or "scale" not in arguments
    rows, wan = QUICK_ROWS if quick else ROWS, GossipConfig.wan()
    try:
        for argument in arguments:
            name, _, value = argument.partition("=")
            if name == "--rows":
                rows = tuple(int(count) for count in value.split(","))
            elif name == "--gossip-wan":
                wan = gossip_of(value, wan)
            elif name.startswith("-") and name not in {"--quick", "--fresh"}:
                raise ValueError("unknown flag")
    except ValueError as error:
        raise RuntimeError(f"{argument}: {error}") from error
    return Options(rows, quick, "--fresh" in arguments, wan)


def lossy_scenario(count: int, loss: str, options: Options) -> Scenario:
    """Nothing goes wrong but that packets get lost: whoever is declared dead was well."""
    words = f"loss={loss}"
    plain = Topology(datacenters=count, servers=SERVERS)
    topology = replace(plain, lan=link_of(words, plain.lan), wan=link_of(words, plain.wan))
    duration = 120.0 if options.quick else 600.0
    return Scenario(topology=topology, wan=options.wan, seed=SEED, duration=duration)


def faulty_scenario(count: int, options: Options) -> Scenario:
    """Servers of several datacenters crash at once; then gateways move, one after another."""
    topology = Topology(datacenters=count, servers=SERVERS)
    last = min(count, 1 + VICTIMS_MAX)
    texts = (
        f"crash server {SERVERS} of dc2..dc{last} at {_FAULTS_AT}s",
        f"move gateway 1 of dc1..dc{min(count, 3)} at {_FAULTS_AT + 30}s 20s apart",
    )
    faults = tuple(parse_fault(text, topology) for text in texts)
    return Scenario(topology=topology, faults=faults, wan=options.wan, seed=SEED)


def measure(scenario: Scenario, known: dict[str, Any], *, save: Callable[[], None]) -> Any:
    """Figures of a scenario: those kept, or of a run that is made now."""
    command = replay_command(scenario)
    if command not in known:
        started = time.process_time()
        print(f"   {command}", file=sys.stderr, flush=True)
        figures = json.loads(Summary.of(simulate(scenario)).as_json())
        figures["CpuSeconds"] = round(time.process_time() - started, 1)
        known[command] = figures
        save()
    return known[command]


HEADS = (
    "datacenters",
    "LAN detection, median / 95 %",
    "WAN detection, median / 95 %",
    "SWIM: first suspicion",
    "Lifeguard: dead if confirmed – if not",
    "false positives at 1 %",
    "at 5 %",
    "LAN bytes/s of a server",
    "WAN bytes/s of a server",
    "connections of a gateway",
    "converged after a gateway change",
    "processor time",
)


def row_of(
    count: int, options: Options, known: dict[str, Any], save: Callable[[], None]
) -> list[str]:
    """One row of the table; runs what is not known yet."""
    faulty = measure(faulty_scenario(count, options), known, save=save)
    lossy = [measure(lossy_scenario(count, loss, options), known, save=save) for loss in _LOSSES]
    wan, lan = faulty["Wan"], faulty["Lan"]
    converged = faulty["Convergence"]
    unfinished = f"; {converged['Unfinished']} never" if converged["Unfinished"] else ""
    spent = sum(figures["CpuSeconds"] for figures in (faulty, *lossy))
    return [
        f"{count} × {SERVERS}",
        detection(lan),
        detection(wan),
        f"{wan['SwimExpected']:.1f} s",
        f"{wan['LifeguardMin']:.0f} – {wan['LifeguardMax']:.0f} s",
        *(mistakes(figures) for figures in lossy),
        f"{lan['BytesPerSecond']:.0f}",
        f"{wan['BytesPerSecond']:.0f}",
        f"{faulty['GatewayConnections']:.0f}",
        f"{converged['Median']:.2f} s, at most {converged['Max']:.2f} s{unfinished}",
        f"{spent:.0f} s",
    ]


def detection(pool: Mapping[str, Any]) -> str:
    """Median and 95th percentile; a dash when nobody found out."""
    times = pool["Detection"]
    return f"{times['Median']:.1f} / {times['P95']:.1f} s" if times["Count"] else "–"


def mistakes(figures: Mapping[str, Any]) -> str:
    """False positives of both pools, and in how many minutes."""
    lan, wan = figures["Lan"]["FalsePositives"], figures["Wan"]["FalsePositives"]
    return f"{lan} LAN, {wan} WAN in {figures['Seconds'] / 60:.0f} min"


def main() -> None:
    """Print the table, a row as soon as it is there."""
    options = parse_options(sys.argv[1:])
    known: dict[str, Any] = {}
    if RESULTS.exists() and not options.fresh:
        known = json.loads(RESULTS.read_text())

    def save() -> None:
        RESULTS.write_text(json.dumps(known, indent=1))

    print(f"| {' | '.join(HEADS)} |")
    print("|" + "---|" * len(HEADS), flush=True)
    for count in options.rows:
        print(f"| {' | '.join(row_of(count, options, known, save))} |", flush=True)


if __name__ == "__main__":
    main()
