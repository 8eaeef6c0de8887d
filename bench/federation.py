"""Three datacenters behind built-in gateways on loopback: reads with ``?dc=``, memory, forming.

Under load twice: everybody reads the same service, which is what services that look for each
other do, and everybody reads another key every time, so that no reply equals an earlier one.
All six processes of two datacenters and the load share this machine's cores.
"""

import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path

from bench import wrk
from bench.figures import percentile, resident, show
from isthmus.cli.demo import Datacenter, Demo

READS = 2000
KEYS = 1000
RUNS = 5
_DEADLINE = 60.0


def form(demo: Demo) -> float:
    """Start it; seconds until everybody sees everybody's services."""
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


def _load(what: str, host: str, path: str, script: Path | None = None) -> None:
    """Reads with 32 connections, several short runs."""
    runs = [wrk.run(f"http://{host}:8500{path}", script=script) for _ in range(RUNS)]
    show(f"?dc= reads, 32 connections, {what}", [load.rate for load in runs], "/s", "4000")
    show(f"{'':28}p99", [load.p99_ms for load in runs], "ms", "20")


def _write_keys(host: str) -> None:
    connection = HTTPConnection(host, 8500, timeout=10)
    for number in range(KEYS):
        connection.request("PUT", f"/v1/kv/bench/{number}", f"value {number}")
        connection.getresponse().read()
    connection.close()


_EVERY_KEY = f"""
local number = 0
request = function()
  number = (number + 1) % {KEYS}
  return wrk.format("GET", "/v1/kv/bench/" .. number .. "?dc=dc2")
end
"""


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        demo = Demo(3, Path(folder))
        try:
            show("three datacenters: exec to every service read everywhere", [form(demo)], "s")
            first = demo.datacenters[0]
            samples = _latencies(first.host, "/v1/health/service/web?dc=dc2")
            show("?dc= read through two gateways, idle: p50", [percentile(samples, 0.5)], "ms", "3")
            show("                                      p99", [percentile(samples, 0.99)], "ms")
            _load("one service", first.host, "/v1/health/service/web?dc=dc2")
            _write_keys(demo.datacenters[1].host)
            script = Path(folder) / "keys.lua"
            script.write_text(_EVERY_KEY)
            _load("1000 keys", first.host, "/", script)
            time.sleep(10)
            servers = [resident(datacenter.processes[0].pid) for datacenter in demo.datacenters]
            gateways = [resident(datacenter.processes[1].pid) for datacenter in demo.datacenters]
            show("resident memory of an idle federated server", servers, "MiB", "80")
            show("resident memory of a gateway", gateways, "MiB")
        finally:
            demo.stop()


if __name__ == "__main__":
    main()
