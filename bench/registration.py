"""Services registered through one client agent, and a check's way to a reader far away.

5 000 services with a check each go in over 16 connections; then the catalog must hold just them,
and nothing may be written while nothing changes. ``--services=N``, ``--idle=SECONDS`` change the
measure; ``--against=PATH`` runs another Consul-compatible executable, too.

The second part changes a TTL check in one datacenter and times a blocked reader in another, with
two gateways in between.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from bench.federation import form
from bench.figures import percentile, resident, show
from bench.storage_datacenter import Program, programs
from bench.storage_writes import option
from isthmus.cli.demo import Demo

CONNECTIONS = 16
CHANGES = 60
_DEADLINE = 120.0


def main() -> None:
    """Print the figures."""
    for program in programs():
        _register(program, count=option("--services", 5000), idle=option("--idle", 15))
    _propagate()


# Many registrations -------------------------------------------------------------------------------


def _register(program: Program, *, count: int, idle: int) -> None:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server, client = (f"127.{program.number}.9.{last}" for last in (1, 2))
        settings = {"server": True, "bootstrap": True, "retry_join": []}
        stack.enter_context(_agent(program, folder, server, settings))
        settings = {"server": False, "retry_join": [server]}
        pid = stack.enter_context(_agent(program, folder, client, settings))
        _until(lambda: len(_get(server, "/v1/catalog/nodes") or ()) == 2, "both agents are known")

        started, spent = time.perf_counter(), _processor_time(pid)
        asyncio.run(_put_all(client, count))
        answered = time.perf_counter() - started
        node = f"/v1/catalog/node/node-{client}"
        _until(lambda: len(_get(server, node)["Services"]) == count, "all are in the catalog")
        show(f"{program.name}: {count} services answered", [answered], "s")
        took = time.perf_counter() - started
        show(f"{'':20}in the catalog", [took], "s", "<= 10" if program.is_own else "")
        each = (_processor_time(pid) - spent) / count * 1000
        show(f"{'':20}the client agent's processor for each", [each], "ms")
        show(f"{'':20}the client agent's memory", [resident(pid)], "MiB")

        catalog = {key: one["Port"] for key, one in _get(server, node)["Services"].items()}
        local = {key: one["Port"] for key, one in _get(client, "/v1/agent/services").items()}
        assert catalog == local, "the catalog is not what the agent has"
        checks = f"/v1/health/node/node-{client}"
        _until(lambda: len(_get(server, checks)) == count + 1, "all checks are in the catalog")
        before = _index(server)
        time.sleep(idle)
        show(f"{'':20}writes in {idle} idle seconds", [_index(server) - before], "", "0")


@contextlib.contextmanager
def _agent(program: Program, folder: Path, host: str, settings: dict[str, Any]) -> Iterator[int]:
    """Run an agent; yields its process id."""
    config = {
        "bind_addr": host,
        "client_addr": host,
        "node_name": f"node-{host}",
        "data_dir": str(folder / host),
        "ports": {"serf_wan": -1},
        "disable_coordinates": True,  # They would be written now and then.
        "log_level": "WARN",
        **settings,
    }
    file = folder / f"{host}.json"
    file.write_text(json.dumps(config))
    with (folder / f"{host}.log").open("wb") as log:
        command = [*program.command, "agent", "-config-file", str(file)]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _until(lambda: bool(_get(host, "/v1/status/leader")), f"{host} has a leader")
        yield process.pid
    finally:
        process.terminate()
        process.wait()


async def _put_all(host: str, count: int) -> None:
    """Register over `CONNECTIONS` connections, each with one request at a time."""
    numbers = iter(range(count))

    async def one() -> None:
        reader, writer = await asyncio.open_connection(host, 8500)
        for number in numbers:
            body = json.dumps(
                {
                    "Name": f"service-{number % 500}",
                    "ID": f"service-{number}",
                    "Port": 1000 + number,
                    "Tags": ["v1", "primary"],
                    "Meta": {"version": "1.2.3"},
                    "Check": {"TTL": "1h", "Status": "passing"},
                }
            ).encode()
            head = f"PUT /v1/agent/service/register HTTP/1.1\r\nHost: {host}\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), answer
        writer.close()

    await asyncio.gather(*(one() for _ in range(CONNECTIONS)))


# One change, far away ---------------------------------------------------------------------------


def _propagate() -> None:
    with tempfile.TemporaryDirectory() as folder:
        demo = Demo(2, Path(folder))
        try:
            form(demo)
            here, there = demo.datacenters
            body = {"Name": "far", "Port": 1, "Check": {"TTL": "1h", "Status": "passing"}}
            _put(here.host, "/v1/agent/service/register", body)
            path = f"/v1/health/service/far?dc={here.name}"
            _until(lambda: len(_get(there.host, path)) == 1, "the service is seen elsewhere")
            reads = _times(lambda: _get(there.host, path), CHANGES)
            show("read of it through two gateways, idle: p50", [percentile(reads, 0.5)], "ms")
            delays = [_change(here.host, there.host, path, turn) for turn in range(CHANGES)]
            show("check result to a blocked reader there: p50", [percentile(delays, 0.5)], "ms")
            show(f"{'':41}p99", [percentile(delays, 0.99)], "ms", "<= 50 + network")
        finally:
            demo.stop()


def _change(here: str, there: str, path: str, turn: int) -> float:
    """Milliseconds from sending a check's result to its arrival at a blocked reader."""
    _, index = _ask(there, path)
    arrived: list[float] = []

    def read() -> None:
        _ask(there, f"{path}&index={index}&wait=30s")
        arrived.append(time.perf_counter())

    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(0.1)  # The reader is blocked by then.
    started = time.perf_counter()
    word = "warn" if turn % 2 == 0 else "pass"
    _put(here, f"/v1/agent/check/{word}/service:far", None)
    reader.join()
    return (arrived[0] - started) * 1000


def _times(act: Any, count: int) -> list[float]:
    samples = []
    for _ in range(count):
        started = time.perf_counter()
        act()
        samples.append((time.perf_counter() - started) * 1000)
    return samples


# Asking -------------------------------------------------------------------------------------------


def _ask(host: str, path: str) -> tuple[Any, str]:
    connection = HTTPConnection(host, 8500, timeout=60)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        data = answer.read()
        assert answer.status == 200, data
        return json.loads(data), answer.getheader("X-Consul-Index") or ""
    finally:
        connection.close()


def _get(host: str, path: str) -> Any:
    try:
        return _ask(host, path)[0]
    except OSError:
        return None


def _put(host: str, path: str, body: Any) -> None:
    connection = HTTPConnection(host, 8500, timeout=60)
    try:
        connection.request("PUT", path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        assert answer.read() == b"", path
        assert answer.status == 200, path
    finally:
        connection.close()


def _processor_time(pid: int) -> float:
    """Seconds of processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _index(server: str) -> int:
    return int(_get(server, "/v1/agent/self")["Stats"]["raft"]["applied_index"])


def _until(condition: Any, what: str) -> None:
    deadline = time.perf_counter() + _DEADLINE
    while True:
        with contextlib.suppress(AssertionError, TypeError, KeyError):
            if condition():
                return
        if time.perf_counter() > deadline:
            raise RuntimeError(f"not within {_DEADLINE:g} s: {what}")
        time.sleep(0.05)


if __name__ == "__main__":
    main()
