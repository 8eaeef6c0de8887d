"""Small helpers: samples, medians and the way they are printed."""

import resource
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path


def show(what: str, samples: Sequence[float], unit: str, target: str = "") -> None:
    """Print median and range of samples."""
    ordered = sorted(samples)
    line = (
        f"{what:<58} {statistics.median(ordered):>10.4g} {unit:<6}"
        f" ({ordered[0]:.4g} to {ordered[-1]:.4g}, n={len(ordered)})"
    )
    print(f"{line}  target {target}" if target else line, flush=True)


def percentile(samples: Sequence[float], share: float) -> float:
    """The sample below which `share` (0 to 1) of all lie."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def repeat(times: int, measure: Callable[[], float]) -> list[float]:
    """Samples of a measurement."""
    return [measure() for _ in range(times)]


def microseconds(action: Callable[[], object], count: int) -> float:
    """What one run of something takes, of `count` in a row."""
    started = time.perf_counter()
    for _ in range(count):
        action()
    return (time.perf_counter() - started) / count * 1e6


def measure(what: str, action: Callable[[], object], count: int, target: str = "") -> None:
    """Print what one run of something takes, five times `count` runs."""
    show(what, repeat(5, lambda: microseconds(action, count)), "us", target)


def resident(pid: int) -> float:
    """Resident memory of a process and its children, in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    own = pages * resource.getpagesize() / 2**20
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(resident(int(child)) for child in children)
