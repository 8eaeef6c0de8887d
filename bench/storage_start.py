"""100 000 services with a check each: memory as they are registered, and a start with them.

SQLite, then an etcd of our own with one member. ``--against=PATH`` measures another
Consul-compatible executable too; ``--instances=N`` changes how many there are.
"""

import statistics
import time

from bench.figures import show
from bench.storage_datacenter import Datacenter, Program, programs, running, show_ratio, until
from bench.storage_load import Load, run
from bench.storage_writes import option

INSTANCES = 100_000
MEASURED = 50_000
"""Instances after which their memory is measured."""
WRITERS = 64
STARTS = 3


def main() -> None:
    """Measure and print."""
    instances = option("--instances", INSTANCES)
    starts, sizes = [], []
    for program in programs():
        for engine in ("sqlite", "etcd") if program.is_own else ("",):
            seconds, size = _measure(program, engine, instances)
            starts.append(seconds)
            sizes.append(size)
    if len(starts) == 3:
        for engine, seconds, size in zip(("sqlite", "etcd"), starts, sizes, strict=False):
            show_ratio(f"{engine}: start", [seconds, starts[2]])
            show_ratio(f"{engine}: memory of an instance", [size, sizes[2]])


def _measure(program: Program, engine: str, instances: int) -> tuple[float, float]:
    name = f"{program.name}{', ' if engine else ''}{engine}"
    with running(program, 1, engine=engine) as datacenter:
        (server,) = datacenter.servers
        measured = min(MEASURED, instances)
        size = _register(datacenter, "first", measured)
        show(f"{name}: memory of an instance with one check", [size], "bytes", "<= 2048")
        if instances > measured:
            _register(datacenter, "more", instances - measured)
        samples, processor = [], []
        for _ in range(STARTS):
            server.stop()
            started = time.perf_counter()
            server.start()
            until(lambda: server.answers("/v1/health/service/first-7"), what=server)
            samples.append(time.perf_counter() - started)
            processor.append(server.processor_time())
            datacenter.wait()
        show(f"{name}: start with {instances} services to HTTP answers", samples, "s", "<= 3")
        show("   processor time of the agent for it", processor, "s")
        return statistics.median(samples), size


def _register(datacenter: Datacenter, tag: str, count: int) -> float:
    """Register; resident bytes for each."""
    (server,) = datacenter.servers
    before = server.resident()
    result = run(
        Load(datacenter.doors, WRITERS, kind="services", tag=tag, warm=0, seconds=0, writes=count)
    )
    show(f"{datacenter.program.name}: registrations, {WRITERS} writers", [result.rate], "/s")
    return (server.resident() - before) / count


if __name__ == "__main__":
    main()
