"""Three datacenters behind built-in gateways on loopback: reads with ``?dc=``, memory, forming."""

import subprocess
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path

from bench.figures import percentile, resident, show
from isthmus.cli.demo import Datacenter, Demo

READS = 2000
_DEADLINE = 60.0


def _form(demo: Demo) -> float:
    started = time.perf_counter()
    demo.start()
    for label, step in demo.steps():
        for datacenter in demo.datacenters:
            while not _holds(step, datacenter):
                if time.perf_counter() - started > _DEADLINE:
                    raise RuntimeError(f"{datacenter.name}: not {label}")
                time.sleep(0.02)
    return time.perf_counter() - started


def _holds(step: object, datacenter: Datacenter) -> bool:
    try:
        return bool(step(datacenter))  # type: ignore[operator]
    except OSError:
        return False


def _latencies(host: str, path: str) -> list[float]:
    connection = HTTPConnection(host, 8500, timeout=10)
    samples = []
    for _ in range(READS):
        started = time.perf_counter()
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        samples.append((time.perf_counter() - started) * 1000)
        assert answer.status == 200, answer.status
    connection.close()
    return samples[READS // 10 :]


def _throughput(host: str, path: str) -> None:
    done = subprocess.run(
        ["wrk", "-t1", "-c32", "-d5s", "--latency", f"http://{host}:8500{path}"],
        capture_output=True,
        text=True,
        check=False,
    )
    for line in done.stdout.splitlines():
        if any(word in line for word in ("Requests/sec", "50%", "99%", "Non-2xx")):
            print(f"   wrk, 32 connections: {line.strip()}")


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        demo = Demo(3, Path(folder))
        try:
            show("three datacenters: exec to every service read everywhere", [_form(demo)], "s")
            first = demo.datacenters[0]
            samples = _latencies(first.host, "/v1/health/service/web?dc=dc2")
            show("?dc= read through two gateways, idle: p50", [percentile(samples, 0.5)], "ms", "3")
            show("                                      p99", [percentile(samples, 0.99)], "ms")
            _throughput(first.host, "/v1/health/service/web?dc=dc2")
            time.sleep(10)
            servers = [resident(datacenter.processes[0].pid) for datacenter in demo.datacenters]
            gateways = [resident(datacenter.processes[1].pid) for datacenter in demo.datacenters]
            show("resident memory of an idle federated server", servers, "MiB", "80")
            show("resident memory of a gateway", gateways, "MiB")
        finally:
            demo.stop()


if __name__ == "__main__":
    main()
