"""Small helpers: samples, medians and the way they are printed."""

import resource
import statistics
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


def resident(pid: int) -> float:
    """Resident memory of a process and its children, in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    own = pages * resource.getpagesize() / 2**20
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(resident(int(child)) for child in children)
