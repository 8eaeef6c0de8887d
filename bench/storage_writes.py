"""``PUT /v1/kv`` over HTTP, synced to a disk: one server, then three on this machine.

``--against=PATH`` measures another Consul-compatible executable in alternation with isthmus.
``--rounds=N`` and ``--seconds=N`` change how often and how long; ``--one`` and ``--three`` choose.
"""

import contextlib
import statistics
import sys
from collections.abc import Sequence

from bench.figures import show
from bench.storage_datacenter import Datacenter, programs, running, show_ratio
from bench.storage_load import Load, run

WRITERS = (1, 16, 256, 2000)
ONE = (1200, 5000, 8000, 8000)
THREE = (350, 2200, 5000, 5000)
_WARM = 1.0
"""Seconds before each measurement, in which 2 000 writers connect."""


def main() -> None:
    """Measure and print."""
    if "--three" not in sys.argv:
        _measure(1, ONE, round_robin=False)
    if "--one" not in sys.argv:
        _measure(3, THREE, round_robin=False)
        _measure(3, (0,) * len(WRITERS), round_robin=True)


def _measure(count: int, targets: Sequence[int], *, round_robin: bool) -> None:
    rounds, seconds = option("--rounds", 3), option("--seconds", 3)
    with contextlib.ExitStack() as stack:
        sides = [stack.enter_context(running(program, count)) for program in programs()]
        for writers, target in zip(WRITERS, targets, strict=True):
            what = f"{count} server{'s' * (count > 1)}, {writers} writers"
            what += ", to all in turn" if round_robin else ", to the leader" * (count > 1)
            samples: list[list[tuple[float, float, float, float]]] = [[] for _ in sides]
            for number in range(rounds):
                for side, found in zip(sides, samples, strict=True):
                    tag = f"{writers}-{number}-{int(round_robin)}"
                    found.append(_once(side, writers, tag, seconds, round_robin=round_robin))
            for side, found in zip(sides, samples, strict=True):
                rates, costs, p50, p99 = zip(*found, strict=True)
                name = f"{side.program.name}: {what}"
                show(name, rates, "/s", f">= {target}" if target and side.program.is_own else "")
                print(
                    f"   {statistics.median(p50):.3g} ms p50, {statistics.median(p99):.3g} ms p99, "
                    f"{statistics.median(costs):.0f} us of the leader's processor a write"
                )
            show_ratio(what, [statistics.median(rate for rate, *_ in found) for found in samples])


def _once(
    side: Datacenter, writers: int, tag: str, seconds: float, *, round_robin: bool
) -> tuple[float, float, float, float]:
    """Writes per second, processor time of a write in us, p50 and p99 in ms."""
    leader = side.leader()
    doors = side.doors if round_robin else (leader.door,)
    before = leader.processor_time()
    load = Load(doors, writers, tag=tag, seconds=seconds, warm=_WARM)
    result = run(load)
    cost = (leader.processor_time() - before) / result.writes * 1e6
    return result.rate, cost, result.p50_ms, result.p99_ms


def option(name: str, default: int) -> int:
    """A number from the command line, as in ``--rounds=3``."""
    found = [word.partition("=")[2] for word in sys.argv if word.startswith(f"{name}=")]
    return int(found[-1]) if found else default


if __name__ == "__main__":
    main()
