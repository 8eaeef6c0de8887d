"""HTTP load by wrk, an external program."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

CONNECTIONS = 32
SECONDS = 3


class Load(NamedTuple):
    """What a run measured: requests per second, and milliseconds."""

    rate: float
    p50_ms: float
    p99_ms: float


def run(
    url: str,
    *,
    threads: int = 1,
    seconds: int = SECONDS,
    script: Path | None = None,
    before: Sequence[str] = (),
) -> Load:
    """Ask over `CONNECTIONS` connections that stay open.

    Args:
        url: What is asked for.
        threads: Of the load.
        seconds: How long.
        script: What else is asked for, in wrk's language.
        before: A command that starts another, such as ``taskset -c 0``.

    Raises:
        RuntimeError: wrk is missing, or some answer was not 200.
    """
    if shutil.which("wrk") is None:
        raise RuntimeError("wrk is not installed")
    command = [*before, "wrk", f"-t{threads}", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency"]
    command += ["-s", str(script)] if script is not None else []
    done = subprocess.run([*command, url], capture_output=True, text=True, check=False)
    values = {
        line.split()[0]: line.split()[-1] for line in done.stdout.splitlines() if line.strip()
    }
    if "Non-2xx" in done.stdout or "Requests/sec:" not in values:
        raise RuntimeError(f"wrk: {url}: {done.stdout or done.stderr}")
    return Load(
        float(values["Requests/sec:"]), _milliseconds(values["50%"]), _milliseconds(values["99%"])
    )


def _milliseconds(text: str) -> float:
    for unit, factor in (("us", 0.001), ("ms", 1.0), ("s", 1000.0)):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    raise RuntimeError(f"wrk: {text!r} is no time")
