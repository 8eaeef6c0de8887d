"""Many runs with topology and faults drawn from their seeds; a failure is shrunk.

Run as ``python -m isthmus.sim.sweep --seed N --runs 200`` (``make sim SEED=N RUNS=200``).
"""

import argparse
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from isthmus.sim.command import replay_command
from isthmus.sim.language import FaultError, parse_fault
from isthmus.sim.recording import Violation
from isthmus.sim.run import simulate
from isthmus.sim.scenario import Scenario
from isthmus.sim.topology import Topology

RUNS_MAX: Final = 100_000
SEED_SPAN: Final = 2**32
FAULTS_DRAWN_MAX: Final = 4
DRAWS_MAX: Final = 50
"""Draws of a fault that contradicts the others until fewer faults are taken."""
LASTS: Final = (15, 30, 60, 90)
"""Seconds that a drawn fault lasts."""
BEGINS: Final = (5, 120)
"""Earliest and latest second at which one begins."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that violated an invariant.

    Attributes:
        seed: Of the run.
        scenario: With the fewest faults that still fail.
        violations: The first ones of that.
        drawn: How many faults there were at first.
    """

    seed: int
    scenario: Scenario
    violations: tuple[Violation, ...]
    drawn: int

    def __str__(self) -> str:
        lines = [
            f"seed {self.seed} fails; {len(self.scenario.faults)} of its {self.drawn} faults are"
            " needed for it",
            f"  again:   make sim SEED={self.seed} RUNS=1",
            f"  shrunk:  {replay_command(self.scenario)}",
        ]
        lines += [f"  {v.at:8.1f} s  {v.invariant}: {v.text}" for v in self.violations]
        return "\n".join(lines)


def draw_scenario(seed: int) -> Scenario:
    """The scenario that a seed stands for: a small federation, and up to four faults."""
    rng = Random(seed)
    topology = Topology(
        datacenters=rng.choice((2, 3, 3, 4, 5)),
        servers=rng.choice((1, 2, 3, 3)),
        clients=rng.choice((0, 0, 1)),
        gateways=rng.choice((1, 2, 2)),
        warm=rng.random() < 0.6,
    )
    faults: list[str] = []
    count = rng.randint(1, FAULTS_DRAWN_MAX)
    for _ in range(DRAWS_MAX):
        if len(faults) == count:
            break
        drawn = [*faults, _draw_fault(rng, topology)]
        try:
            _scenario(seed, topology, drawn)
        except FaultError:
            continue
        faults = drawn
    return _scenario(seed, topology, faults)


def _scenario(seed: int, topology: Topology, faults: Sequence[str]) -> Scenario:
    return Scenario(
        name=f"drawn from {seed}",
        topology=topology,
        faults=tuple(parse_fault(text, topology) for text in faults),
        seed=seed,
    )


def _draw_fault(rng: Random, topology: Topology) -> str:
    """One fault in the fault language; all but moves come to an end."""
    names = topology.names
    one, other = rng.sample(names, k=2)
    dc = rng.choice(names)
    server = f"server {rng.randint(1, topology.servers)} of {dc}"
    gateway = f"gateway {rng.randint(1, topology.gateways)} of {dc}"
    at = f"at {rng.randint(*BEGINS)}s"
    lasting = f"{at} for {rng.choice(LASTS)}s"
    apart = rng.choice(("", " 10s apart", " 25s apart"))
    return rng.choice(
        (
            f"partition {one}|{other} {lasting}",
            f"partition {one}>{other} {lasting}",
            f"partition {dc}|* {lasting}",
            f"partition {topology.primary}|* {lasting}",
            f"partition within {dc} {lasting}",
            f"loss {rng.choice((5, 20, 40))}% {one}|{other} {lasting}",
            f"loss {rng.choice((5, 20))}% everywhere {lasting}",
            f"duplication 10% everywhere {lasting}",
            f"reordering 20% everywhere {lasting}",
            f"latency +{rng.choice((200, 1000))}ms {one}|{other} {lasting}",
            f"crash {server} {lasting}",
            f"pause {server} {lasting}",
            f"restart {server} {at}",
            f"restart every server of {dc} {at}{apart}",
            f"crash {gateway} {lasting}",
            f"pause {gateway} {lasting}",
            f"restart {gateway} {at}",
            f"move {gateway} {at}",
            f"move every gateway of {dc} {at}{apart}",
            f"crash every gateway of {dc} {lasting}",
            f"drift {server} {rng.choice((0.9, 1.1))} {lasting}",
        )
    )


def shrink(
    scenario: Scenario, fails: Callable[[Scenario], tuple[Violation, ...]]
) -> tuple[Scenario, tuple[Violation, ...]]:
    """Drop faults one by one, as long as what is left still fails.

    Args:
        scenario: One that fails.
        fails: Runs one; its violations.
    """
    violations = fails(scenario)
    # The time that all had to heal stays, or fewer faults would leave less of it.
    kept = replace(scenario, duration=scenario.ends_at)
    at = 0
    while at < len(kept.faults):
        fewer = replace(kept, faults=kept.faults[:at] + kept.faults[at + 1 :])
        found = fails(fewer)
        if found:
            kept, violations = fewer, found
        else:
            at += 1
    return kept, violations


def run_seed(seed: int) -> Failure | None:
    """Run what a seed stands for; None: all invariants held."""
    scenario = draw_scenario(seed)
    if not _violations(scenario):
        return None
    shrunk, violations = shrink(scenario, _violations)
    return Failure(seed, shrunk, violations[:10], len(scenario.faults))


def _violations(scenario: Scenario) -> tuple[Violation, ...]:
    return tuple(simulate(scenario).violations)


def run_seeds(seeds: Sequence[int], *, processes: int) -> Iterator[Failure | None]:
    """Run many seeds, in order of the seeds, several at the same time."""
    if processes == 1:
        yield from map(run_seed, seeds)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(run_seed, seeds, chunksize=4)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 1 when a run failed."""
    parser = argparse.ArgumentParser(prog="isthmus.sim.sweep", description=__doc__)
    parser.add_argument("--seed", default="", help="first seed; without one chance picks it")
    parser.add_argument("--runs", type=int, default=200, help="how many, with seeds in a row")
    parser.add_argument("--processes", type=int, default=2, help="how many at the same time")
    args = parser.parse_args(arguments)
    if not 0 < args.runs <= RUNS_MAX:
        parser.error(f"--runs: {args.runs} is not from 1 to {RUNS_MAX}")
    if args.seed and not args.seed.isdecimal():
        parser.error(f"--seed: {args.seed!r} is no number")
    base = int(args.seed) if args.seed else secrets.randbelow(SEED_SPAN)
    print(f"{args.runs} simulations, base seed {base}", flush=True)
    started, failed = time.perf_counter(), 0
    processes = min(args.processes, args.runs)
    for failure in run_seeds(range(base, base + args.runs), processes=processes):
        if failure is not None:
            failed += 1
            print(failure, flush=True)
    seconds = time.perf_counter() - started
    print(f"{args.runs - failed} of {args.runs} held, in {seconds:.0f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
