"""A datacenter of one or several servers on loopback, of isthmus or of another executable."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

HTTP_PORT = 8500
CONNECTIONS_MAX = 12_000
_DEADLINE = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")
_OWN = "isthmus"
_NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"
"""Where it is set each start would compile all modules, which an installed package does not."""


class Program:
    """What is measured.

    Attributes:
        name: For the output.
        command: How it is run.
        number: Part of its addresses, so that several can run side by side.
    """

    def __init__(self, name: str, command: Sequence[str], number: int) -> None:
        self.name, self.command, self.number = name, list(command), number

    @property
    def is_own(self) -> bool:
        """Whether it is isthmus as this checkout has it."""
        return self.name == _OWN


def programs() -> list[Program]:
    """isthmus, and with ``--against=PATH`` that executable.

    Raises:
        RuntimeError: It is no executable.
    """
    found = [Program(_OWN, [sys.executable, "-m", "isthmus.cli.main"], 20)]
    for word in sys.argv:
        option, _, path = word.partition("=")
        if option != "--against":
            continue
        if not os.access(path, os.X_OK):
            raise RuntimeError(f"--against={path}: not an executable")
        found.append(Program(Path(path).name, [path], 40))
    return found


class Server:
    """One server: its process, its address, its files.

    Args:
        program: What to run.
        host: Its address.
        folder: For its files.
        config: All configuration keys.
    """

    def __init__(self, program: Program, host: str, folder: Path, config: dict[str, Any]) -> None:
        self.program, self.host = program, host
        self.door = f"{host}:{HTTP_PORT}"
        self._log = folder / f"{host}.log"
        self._file = folder / f"{host}.json"
        self._file.write_text(json.dumps(config))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, without waiting for anything."""
        command = [*self.program.command, "agent", "-config-file", str(self._file)]
        environment = {name: text for name, text in os.environ.items() if name != _NO_BYTECODE}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment
            )

    def stop(self) -> None:
        """Stop it gracefully."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """SIGKILL to the agent, and to its etcd at the same time."""
        assert self.process is not None
        family = [self.process.pid, *_children(self.process.pid)]
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def request(
        self, method: str, path: str, body: object = None, *, timeout: float = 15.0
    ) -> tuple[int, bytes]:
        """Ask on a connection of its own; status and body.

        Raises:
            OSError, HTTPException: It could not be asked.
        """
        connection = HTTPConnection(self.host, HTTP_PORT, timeout=timeout)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def answers(self, path: str) -> bool:
        """Whether a read is answered with something."""
        try:
            status, body = self.request("GET", path, timeout=5.0)
        except (OSError, HTTPException):
            return False
        return status == 200 and body.strip() not in {b"", b'""', b"[]", b"null"}

    def processor_time(self) -> float:
        """Seconds of processor time that the agent has used, without its children."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def resident(self) -> int:
        """Bytes of resident memory of the agent, without its children."""
        assert self.process is not None
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def log(self) -> str:
        """The end of what it has printed."""
        return self._log.read_text(errors="replace")[-1500:]


class Datacenter:
    """Servers that form one datacenter.

    Args:
        program: What to run.
        count: How many.
        folder: For configuration, logs and data, on a disk.
        engine: Our storage engine; empty for the default.
        number: Sets it apart from other datacenters of the same program.
    """

    def __init__(
        self, program: Program, count: int, folder: Path, *, engine: str = "", number: int = 0
    ) -> None:
        self.program = program
        hosts = [f"127.{program.number + number}.0.{index}" for index in range(1, count + 1)]
        ports = iter(_free_ports(2 * count))
        self.servers = []
        for host in hosts:
            config: dict[str, Any] = {
                "server": True,
                "bootstrap_expect": count,
                "node_name": f"server-{host.rpartition('.')[2]}",
                "data_dir": str(folder / f"{program.name}-{host}"),
                "bind_addr": host,
                "advertise_addr": host,
                "client_addr": host,
                "retry_join": [other for other in hosts if other != host],
                "log_level": "warn",
                "limits": {"http_max_conns_per_client": CONNECTIONS_MAX},
            }
            if program.is_own:
                config["storage"] = {
                    **({"engine": engine} if engine else {}),
                    "etcd": {"client_port": next(ports), "peer_port": next(ports)},
                }
            self.servers.append(Server(program, host, folder, config))

    @property
    def doors(self) -> tuple[str, ...]:
        """``host:port`` of all HTTP doors."""
        return tuple(server.door for server in self.servers)

    def start(self) -> None:
        """Start all that do not run, and wait until each has a leader that takes writes."""
        for server in self.servers:
            if server.process is None or server.process.poll() is not None:
                server.start()
        self.wait()

    def wait(self) -> None:
        """Wait until a write through each server works.

        Raises:
            RuntimeError: Not in time; the text has the end of a log.
        """
        for server in self.servers:
            until(lambda: _writes(server), what=server)  # noqa: B023 (awaited at once)

    def leader(self) -> Server:
        """Who leads, as the first server that answers knows."""

        def find() -> Server | None:
            for server in self.servers:
                with contextlib.suppress(OSError, HTTPException):
                    host = json.loads(server.request("GET", "/v1/status/leader")[1])
                    for other in self.servers:
                        if host.rpartition(":")[0] == other.host:
                            return other
            return None

        found = until(find, what=self.servers[0])
        assert found is not None
        return found

    def stop(self) -> None:
        """Stop all."""
        for server in self.servers:
            if server.process is not None and server.process.poll() is None:
                server.process.terminate()
        for server in self.servers:
            server.stop()


@contextlib.contextmanager
def running(
    program: Program, count: int, *, engine: str = "", number: int = 0
) -> Iterator[Datacenter]:
    """A datacenter with fresh data on the disk, until the block ends."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        datacenter = Datacenter(program, count, Path(folder), engine=engine, number=number)
        try:
            datacenter.start()
            yield datacenter
        finally:
            datacenter.stop()


def until(check: Callable[[], T], *, what: Server, timeout: float = _DEADLINE) -> T:
    """Ask until the answer is true.

    Raises:
        RuntimeError: Not in time; the text has the end of the server's log.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if found := check():
            return found
        time.sleep(0.01)
    raise RuntimeError(f"{what.door} of {what.program.name} is not ready; its log:\n{what.log()}")


def show_ratio(what: str, figures: Sequence[float]) -> None:
    """Print the ratio of ours to the other's figure, if there is another."""
    if len(figures) == 2 and figures[1]:
        print(f"{what:<58} {figures[0] / figures[1]:>10.3g} ratio of isthmus to the other")


def _writes(server: Server) -> bool:
    try:
        return server.request("PUT", f"/v1/kv/bench/ready/{time.monotonic_ns()}", 1)[1] == b"true"
    except (OSError, HTTPException):
        return False


def _children(pid: int) -> list[int]:
    """All descendants of a process."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for word in task.read_text().split():
                found += [int(word), *_children(int(word))]
    return found


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports
