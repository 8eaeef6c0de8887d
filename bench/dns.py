"""Answers per second of the DNS door over UDP: a whole agent on one core, asked by dnsperf.

``--executable PATH``: ask another agent, one that takes Consul's flags, the same way, in turns.
The agent has a core, dnsperf another one, if there is one. Processor time is what an answer costs
the agent, whoever else uses the machine.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path

from bench.figures import resident, show

SECONDS = 2
ROUNDS = 3
OUTSTANDING = 64
INSTANCES = 10
CASES = (
    ("A, 10 instances, EDNS", "web.service.consul A", ("-e",), ">= 12000"),
    ("SRV, 10 instances, EDNS", "web.service.consul SRV", ("-e",), ">= 12000"),
    ("A, plain: 3 of 10 instances", "web.service.consul A", (), ">= 12000"),
    ("SRV, plain: 3 of 10 instances", "web.service.consul SRV", (), ">= 12000"),
    ("SRV by tag, 5 instances, EDNS", "_web._t1.service.consul SRV", ("-e",), ""),
    ("node", "n5.node.consul A", ("-e",), ""),
    ("unknown service", "nothing.service.consul A", ("-e",), ""),
    ("A, 10 instances, TCP", "web.service.consul A", ("-m", "tcp"), ""),
)
_DEADLINE = 30.0
_ISTHMUS = (sys.executable, "-m", "isthmus.cli.main")


def main() -> None:
    """Print answers per second."""
    if shutil.which("dnsperf") is None:
        raise RuntimeError("dnsperf is not installed")
    cores = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        hosts = {"": _running(_ISTHMUS, "127.77.53.1", folder, cores[0])}
        if "--executable" in sys.argv:
            other = sys.argv[sys.argv.index("--executable") + 1]
            hosts["other: "] = _running((other,), "127.77.53.2", folder, cores[0])
        agents = {name: stack.enter_context(agent) for name, agent in hosts.items()}
        for what, question, options, target in CASES:
            rates: dict[str, list[float]] = {name: [] for name in agents}
            costs: dict[str, list[float]] = {name: [] for name in agents}
            for _ in range(ROUNDS):
                for name, (host, pid) in agents.items():
                    before = _processor_time(pid)
                    rate, count = _rate(host, question, options, folder, cores[-1])
                    rates[name].append(rate)
                    costs[name].append((_processor_time(pid) - before) / count * 1e6)
            for name, found in rates.items():
                show(f"{name}{what}", found, "/s", "" if name else target)
                show("   processor time of an answer", costs[name], "us")
        for name, (_, pid) in agents.items():
            show(f"{name}resident memory after that", [resident(pid)], "MiB")


@contextmanager
def _running(
    executable: Sequence[str], host: str, folder: Path, core: int
) -> Iterator[tuple[str, int]]:
    """A development agent with instances in its catalog: its address and process id."""
    command = ["taskset", "-c", str(core), *executable, "agent", "-dev"]
    command += ["-bind", host, "-client", host, "-node", "own"]
    with (folder / f"{host}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait(host, process)
        for number in range(1, INSTANCES + 1):
            _register(host, number)
        yield host, process.pid
    finally:
        process.terminate()
        process.wait()


def _wait(host: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _DEADLINE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if _request(host, "GET", "/v1/status/leader") not in {b"", b'""'}:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"the agent at {host} does not answer")


def _register(host: str, number: int) -> None:
    service = {"Service": "web", "Port": 8000 + number, "Tags": [f"t{number % 2}"]}
    check = {"CheckID": "web", "ServiceID": "web", "Status": "passing"}
    body = {"Node": f"n{number}", "Address": f"10.0.0.{number}", "Service": service, "Check": check}
    _request(host, "PUT", "/v1/catalog/register", json.dumps(body).encode())


def _request(host: str, method: str, path: str, body: bytes | None = None) -> bytes:
    connection = HTTPConnection(host, 8500, timeout=5)
    try:
        connection.request(method, path, body)
        return connection.getresponse().read()
    finally:
        connection.close()


def _processor_time(pid: int) -> float:
    """Seconds that a process has used: busy neighbours do not count."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rate(
    host: str, question: str, options: Sequence[str], folder: Path, core: int
) -> tuple[float, int]:
    """Answers per second, and how many there were."""
    questions = folder / "questions"
    questions.write_text(question + "\n")
    command = ["taskset", "-c", str(core), "dnsperf", "-s", host, "-p", "8600", *options]
    command += ["-d", str(questions), "-l", str(SECONDS), "-q", str(OUTSTANDING)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    lost = re.search(r"Queries lost:\s+(\d+)", run.stdout)
    count = re.search(r"Queries completed:\s+(\d+)", run.stdout)
    rate = re.search(r"Queries per second:\s+([\d.]+)", run.stdout)
    if lost is None or count is None or rate is None or int(lost[1]):
        raise RuntimeError(f"dnsperf lost answers to {question}: {run.stdout[-800:]}")
    return float(rate[1]), int(count[1])
