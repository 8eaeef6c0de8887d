"""A datacenter of several servers as processes, each with its etcd; to be hurt and compared."""

import itertools
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from support.agent_process import HTTP_PORT
from support.netns import Namespace
from support.processes import ISTHMUS, Process, eventually, shown_on_failure

FORM_TIMEOUT = 60.0
EQUAL_TIMEOUT = 30.0
TABLES = (
    "kv/?recurse",
    "catalog/nodes",
    "catalog/services",
    "health/state/any",
    "coordinate/nodes",
    "internal/federation-states",
)
"""What every server answers alike, read from its own tables."""
_numbers = itertools.count(os.getpid() * 31)
"""Tells networks and ports apart, also of processes that run tests side by side."""


class ServerProcess:
    """One server, on an address of its own.

    Attributes:
        program: What is run; another release's before an upgrade.

    Args:
        folder: For its configuration, its data and its log.
        name: Its node.
        host: Its address.
        place: The namespace it is in; None: ours.
        config: Configuration keys beyond addresses and data directory.
    """

    def __init__(
        self, folder: Path, name: str, host: str, *, place: Namespace | None = None, **config: Any
    ) -> None:
        self.name, self.host, self.place = name, host, place
        self.data_dir = Path(config.pop("data_dir", folder / f"data-{name}"))
        self.log, self._file = folder / f"{name}.log", folder / f"{name}.json"
        self.config = {
            "server": True,
            "node_name": name,
            "data_dir": str(self.data_dir),
            "bind_addr": host,
            "advertise_addr": host,
            "client_addr": host,
            **config,
        }
        self._process: Process | None = None
        self.program: Sequence[str] = ISTHMUS

    # Life -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it, for the first time or again."""
        assert self._process is None or not self._process.running()
        self._file.write_text(json.dumps(self.config))
        command = [*self.program, "agent", "-config-file", str(self._file)]
        self._process = Process(self.place.command(*command) if self.place else command, self.log)

    @property
    def process(self) -> Process:
        """The agent's."""
        assert self._process is not None
        return self._process

    @property
    def is_running(self) -> bool:
        """Whether the agent has not ended."""
        return self._process is not None and self._process.running()

    @property
    def etcd_pid(self) -> int:
        """Process id of its member of the storage."""
        return int((self.data_dir / "storage" / "etcd.pid").read_text())

    def kill(self) -> None:
        """SIGKILL the agent; its etcd dies with it. Returns when both are gone."""
        member = None
        with suppress(OSError, ValueError):
            member = self.etcd_pid
        self.process.stop(signal.SIGKILL)
        if member is not None:
            eventually(lambda: not _runs(member), timeout=5, every=0.005, what="etcd is gone")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop it kindly; its exit code."""
        return self.process.stop(number)

    def signal(self, number: signal.Signals, *, agent: bool = True, etcd: bool = False) -> None:
        """Send a signal to the agent, to its etcd, or to both at once."""
        if etcd:
            os.kill(self.etcd_pid, number)
        if agent:
            self.process.send(number)

    # Asking -----------------------------------------------------------------------------------

    def connect(self, timeout: float) -> HTTPConnection:
        """A connection to its HTTP port."""
        connection = HTTPConnection(self.host, HTTP_PORT, timeout=timeout)
        if self.place is None:
            connection.connect()
        else:
            connection.sock = self.place.connect(self.host, HTTP_PORT, timeout)
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def request(
        self, method: str, path: str, body: bytes | None = None, *, timeout: float = 10.0
    ) -> tuple[int, bytes, dict[str, str]]:
        """Ask on a connection of its own; status, body and headers."""
        connection = self.connect(timeout)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.getheaders())
        finally:
            connection.close()

    def get(self, path: str, *, timeout: float = 10.0) -> Any:
        """GET and decode."""
        status, body, _ = self.request("GET", path, timeout=timeout)
        assert status == 200, (self.name, path, status, body)
        return json.loads(body)

    def put(self, key: str, value: bytes = b"x", *, timeout: float = 10.0) -> bool:
        """Write a key; whether it was."""
        status, body, _ = self.request("PUT", f"/v1/kv/{key}", value, timeout=timeout)
        return status == 200 and body.strip() == b"true"

    def is_back(self, key: str) -> bool:
        """Whether its own storage works and it can write; it passes calls on before that."""
        return bool(self.get("/v1/status/leader")) and self.put(key)

    def tables(self) -> dict[str, Any]:
        """All that it answers by itself."""
        found = {}
        for path in TABLES:
            status, body, _ = self.request(
                "GET", f"/v1/{path}{'&' if '?' in path else '?'}stale", timeout=30
            )
            assert status in {200, 404}, (self.name, path, status, body)
            found[path] = json.loads(body) if status == 200 else None
        return found


class Datacenter:
    """Several servers that form one datacenter. A context manager, which stops them all.

    Args:
        folder: For configuration, data and logs.
        count: How many servers; they wait for all of them before they form.
        address: Makes the address of the server with a number, from 1 on; None: a loopback
            network of its own.
        places: The namespaces of the servers; None: ours.
        name: What the servers' names begin with.
        config: Configuration keys for every server.
    """

    def __init__(
        self,
        folder: Path,
        count: int = 3,
        *,
        address: Callable[[int], str] | None = None,
        places: Sequence[Namespace] | None = None,
        name: str = "s",
        **config: Any,
    ) -> None:
        self._name = name
        self._folder, self._count, self._config = folder, count, config
        network = next(_numbers)
        self._address = address or (
            lambda index: f"127.{60 + network // 250 % 60}.{network % 250}.{index}"
        )
        self._ports = 20_000 + 10 * (network % 1_000)
        self._places = places
        self.servers: list[ServerProcess] = []
        for _ in range(count):
            self.add()

    def add(self, **config: Any) -> ServerProcess:
        """Another server, not started yet."""
        number = len(self.servers) + 1
        server = ServerProcess(
            self._folder,
            f"{self._name}{number}",
            self._address(number),
            place=self._places[number - 1] if self._places else None,
            **{
                "bootstrap_expect": self._count,
                "retry_join": [self._address(index) for index in range(1, self._count + 1)],
                "retry_interval": "1s",
                "storage": {"etcd": {"client_port": self._ports + number}},
                **self._config,
                **config,
            },
        )
        self.servers.append(server)
        return server

    def start(self) -> None:
        """Start all and wait until the datacenter works."""
        for server in self.servers:
            server.start()
        self.wait_until_formed()

    def wait_until_formed(self) -> None:
        """Wait until every server that runs knows a leader and can write."""
        with shown_on_failure(*(server.process for server in self.running)):
            for server in self.running:
                eventually(
                    lambda server=server: server.is_back(f"formed/{server.name}"),  # type: ignore[misc]
                    timeout=FORM_TIMEOUT,
                    what=f"{server.name} is part of the datacenter",
                )

    @property
    def running(self) -> list[ServerProcess]:
        """Servers whose agents run."""
        return [server for server in self.servers if server.is_running]

    def leader(self, *, asked: ServerProcess | None = None, timeout: float = 30.0) -> ServerProcess:
        """Who leads, as a server says; it waits until one does."""

        def find() -> ServerProcess | None:
            for server in [asked] if asked else self.running:
                address = server.get("/v1/status/leader", timeout=9)
                for candidate in self.servers:
                    if candidate.is_running and address == f"{candidate.host}:8300":
                        return candidate
            return None

        found = eventually(find, timeout=timeout, every=0.05, what="a leader")
        assert found is not None
        return found

    def followers(self) -> list[ServerProcess]:
        """All that run and do not lead."""
        leader = self.leader()
        return [server for server in self.running if server is not leader]

    def voters(self, asked: ServerProcess | None = None) -> dict[str, str]:
        """Nodes of the servers that make up the majority, by server id, as one of them says."""
        servers = (asked or self.running[0]).get("/v1/operator/raft/configuration")["Servers"]
        return {server["ID"]: server["Node"] for server in servers if server["Voter"]}

    def wait_until_voters(self, *nodes: str, timeout: float = 60.0) -> None:
        """Wait until exactly these vote."""

        def settled() -> bool:
            assert sorted(self.voters().values()) == sorted(nodes), self.voters()
            return True

        eventually(settled, timeout=timeout, every=0.3, what=f"voters {nodes}")

    def wait_until_equal(self) -> dict[str, Any]:
        """Wait until the tables of all that run are the same; those tables."""

        def equal() -> dict[str, Any] | None:
            first, *others = [server.tables() for server in self.running]
            for server, tables in zip(self.running[1:], others, strict=True):
                for path, table in tables.items():
                    assert table == first[path], _difference(server.name, path, first[path], table)
            return first

        found = eventually(equal, timeout=EQUAL_TIMEOUT, every=0.3, what="equal tables")
        assert found is not None
        return found

    def __enter__(self) -> "Datacenter":
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.running:
            with suppress(OSError, ValueError):  # A paused child is killed as well.
                server.signal(signal.SIGCONT, etcd=True)
        for server in self.running:
            server.process.send(signal.SIGKILL)
        for server in self.servers:
            if server._process is not None:
                server.process.wait()

    def processes(self) -> Iterator[Process]:
        """All that were started and not replaced."""
        for server in self.servers:
            if server._process is not None:
                yield server.process


def _difference(name: str, path: str, first: Any, other: Any) -> str:
    if not isinstance(first, list) or not isinstance(other, list):
        return f"{name} {path}: {str(other)[:300]} instead of {str(first)[:300]}"
    missing = [row for row in first if row not in other][:3]
    more = [row for row in other if row not in first][:3]
    return f"{name} {path}: {len(other)} rows, not {len(first)}; lacks {missing}, has {more}"


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
