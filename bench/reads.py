"""Reads over HTTP from one server agent: 32 connections, ten instances, twenty services.

``--against=PATH`` measures another Consul-compatible executable in alternation with isthmus;
``--rounds=N`` and ``--seconds=N`` change how often and how long.
"""

import contextlib
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench import wrk
from bench.figures import show
from bench.storage_datacenter import Datacenter, programs, running, show_ratio
from bench.storage_writes import option

INSTANCES = 10
SERVICES = 20
KEYS = 1000
WRITES = 200
"""Writes per second beside the reads, where there are any."""

_EVERY_KEY = f"""
local number = 0
request = function()
  number = (number + 1) % {KEYS}
  return wrk.format("GET", "/v1/kv/bench/" .. number)
end
"""


class Case(NamedTuple):
    """What is asked for."""

    name: str
    path: str
    target: str = ""
    every_key: bool = False
    writes: bool = False


CASES = (
    Case("health/service?passing", "/v1/health/service/web?passing", "12000"),
    Case("kv get", "/v1/kv/bench/1", "20000"),
    Case("catalog/services", "/v1/catalog/services", "20000"),
    Case("kv get, no key asked for twice in 1 000", "/", every_key=True),
    Case("health/service?passing beside writes", "/v1/health/service/web?passing", writes=True),
    Case("health/service?passing&cached", "/v1/health/service/web?passing&cached"),
)


def main() -> None:
    """Measure and print."""
    rounds, seconds = option("--rounds", 3), option("--seconds", 3)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        script = folder / "keys.lua"
        script.write_text(_EVERY_KEY)
        sides = [stack.enter_context(running(program, 1)) for program in programs()]
        for side in sides:
            _fill(side)
        for case in CASES:
            samples: list[list[tuple[wrk.Load, float]]] = [[] for _ in sides]
            for _ in range(rounds):
                for side, found in zip(sides, samples, strict=True):
                    found.append(_once(side, case, seconds, script if case.every_key else None))
            for side, found in zip(sides, samples, strict=True):
                name = f"{side.program.name}: {case.name}"
                wanted = f">= {case.target}" if case.target and side.program.is_own else ""
                show(name, [load.rate for load, _ in found], "/s", wanted)
                p99 = statistics.median(load.p99_ms for load, _ in found)
                cost = statistics.median(cost for _, cost in found)
                print(f"   {p99:.3g} ms p99, {cost:.3g} us of the agent's processor a read")
            rates = [statistics.median(load.rate for load, _ in found) for found in samples]
            show_ratio(case.name, rates)
        for side in sides:
            show(f"{side.program.name}: resident after that", [_mebibytes(side)], "MiB")


def _once(
    side: Datacenter, case: Case, seconds: int, script: Path | None
) -> tuple[wrk.Load, float]:
    """One run: its figures, and microseconds of the agent's processor for a read."""
    server = side.servers[0]
    with _writing(side) if case.writes else contextlib.nullcontext():
        before = server.processor_time()
        load = wrk.run(f"http://{server.door}{case.path}", seconds=seconds, script=script)
        cost = (server.processor_time() - before) / (load.rate * seconds) * 1e6
    return load, cost


@contextlib.contextmanager
def _writing(side: Datacenter) -> Iterator[None]:
    """Write keys that nobody reads, until the block ends."""
    done = threading.Event()

    def write() -> None:
        due = time.monotonic()
        while not done.is_set():
            side.servers[0].request("PUT", "/v1/kv/other", due)
            due += 1 / WRITES
            done.wait(max(0.0, due - time.monotonic()))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        done.set()
        writer.join()


def _fill(side: Datacenter) -> None:
    """Put in what is read."""
    server = side.servers[0]
    for number in range(INSTANCES):
        node, name = f"node-{number}", f"web-{number}"
        service = {"ID": name, "Service": "web", "Port": 8000 + number, "Tags": ["v1", "primary"]}
        checks = [
            {"CheckID": "serfHealth", "Name": "Serf Health Status", "Status": "passing"},
            {"CheckID": f"service:{name}", "Name": "web", "Status": "passing", "ServiceID": name},
        ]
        _put(side, {"Node": node, "Address": "10.0.0.1", "Service": service, "Checks": checks})
    for number in range(SERVICES):
        service = {"Service": f"service-{number}", "Tags": ["v1"]}
        _put(side, {"Node": "node-0", "SkipNodeUpdate": True, "Service": service})
    for number in range(KEYS):
        server.request("PUT", f"/v1/kv/bench/{number}", f"value {number}")


def _put(side: Datacenter, registration: object) -> None:
    status, body = side.servers[0].request("PUT", "/v1/catalog/register", registration)
    if status != 200:
        raise RuntimeError(f"{side.program.name}: {body!r}")


def _mebibytes(side: Datacenter) -> float:
    return side.servers[0].resident() / 2**20


if __name__ == "__main__":
    main()
