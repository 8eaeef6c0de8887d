"""Crowds at an agent's doors: memory of a held connection, and what others wait meanwhile."""

import contextlib
import json
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from http.client import HTTPConnection
from pathlib import Path

from bench.figures import percentile, resident, show

HOST = "127.88.99.1"
PORTS = {":8300": 8300, "LAN gossip": 8301, "WAN gossip": 8302, "HTTP": 8500}
CROWD = 10_000
HELD_PER_ADDRESS = 100
HELD_ADDRESSES = 20
START_TIMEOUT = 20.0
_SPARE_DESCRIPTORS = 200


def main() -> None:
    """Start an agent, crowd each of its ports."""
    crowd = _allow(CROWD)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "agent.json")
        config.write_text(json.dumps({"bind_addr": HOST, "client_addr": HOST}))
        command = [sys.executable, "-m", "isthmus.cli.main", "agent", "-dev"]
        with Path(folder, "log").open("wb") as log:
            agent = subprocess.Popen(
                [*command, "-config-file", str(config)], stdout=log, stderr=subprocess.STDOUT
            )
        try:
            _await_agent()
            _hold(agent.pid, "idle HTTP connection", 8500, b"")
            blocked = b"GET /v1/kv/waits?index=9 HTTP/1.1\r\nHost: bench\r\n\r\n"
            _hold(agent.pid, "blocked HTTP query", 8500, blocked)
            _hold(agent.pid, "RPC connection in clear", 8300, b"\x04")
            for name, port in PORTS.items():
                _flood(agent.pid, name, port, crowd)
        finally:
            agent.terminate()
            agent.wait()


def _allow(wanted: int) -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = wanted + _SPARE_DESCRIPTORS
    if soft < need:
        soft = need if hard == resource.RLIM_INFINITY else min(need, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(wanted, soft - _SPARE_DESCRIPTORS)


def _ask() -> float:
    """Seconds of one request on a connection of its own."""
    started = time.perf_counter()
    connection = HTTPConnection(HOST, 8500, timeout=10)
    try:
        connection.request("GET", "/v1/catalog/nodes")
        if connection.getresponse().status != 200:
            raise RuntimeError("the agent answers an error")
    finally:
        connection.close()
    return time.perf_counter() - started


def _await_agent() -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            _ask()
        except (OSError, RuntimeError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def _connect(port: int, source: str) -> socket.socket:
    return socket.create_connection((HOST, port), timeout=10, source_address=(source, 0))


def _hold(pid: int, what: str, port: int, first: bytes) -> None:
    """Memory of one of many connections that stay."""
    before = resident(pid)
    held = []
    for address in range(HELD_ADDRESSES):
        for _ in range(HELD_PER_ADDRESS):
            sock = _connect(port, f"127.88.98.{address + 1}")
            sock.sendall(first)
            held.append(sock)
    _ask()
    show(f"memory of one {what}", [(resident(pid) - before) * 1024 / len(held)], "KiB")
    for sock in held:
        sock.close()


def _flood(pid: int, name: str, port: int, count: int) -> None:
    """One address opens as many connections as it can; another one goes on asking."""
    waits: list[float] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(0.02):
            waits.append(_ask() * 1e3)

    healthy = threading.Thread(target=ask)
    before = resident(pid)
    healthy.start()
    opened = []
    started = time.perf_counter()
    for _ in range(count):
        with contextlib.suppress(OSError):
            opened.append(_connect(port, "127.88.98.66"))
    elapsed = time.perf_counter() - started
    grown = resident(pid) - before
    for sock in opened:
        sock.close()
    stop.set()
    healthy.join()
    show(f"{name}: connections tried by one address", [count / elapsed], "/s")
    show(f"{name}: growth of memory", [grown], "MiB")
    show(f"{name}: another's request, median", waits, "ms")
    show(f"{name}: another's request, p99", [percentile(waits, 0.99)], "ms")


if __name__ == "__main__":
    main()
