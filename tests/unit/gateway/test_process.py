"""The gateway as a process: what it loads, how it stops."""

import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from isthmus.gateway.agent import Agent, AgentAddress
from isthmus.gateway.process import await_registration, is_local
from support.gateway import DEADLINE, Backend, client_hello, read_exactly, routes

COMMAND = "import sys; from isthmus.cli.connect_gateway import run; sys.exit(run(sys.argv[1:]))"
HEAVY = {
    "ssl",
    "hashlib",
    "http",
    "email",
    "asyncio",
    "click",
    "rich",
    "cryptography",
    "granian",
    "json",
    "hcl2",
}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


class Process:
    """A gateway process whose log is read as it is written."""

    def __init__(self, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, "-gateway=mesh", *args],
            stderr=subprocess.PIPE,
            text=True,
        )
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()

    def wait_for(self, text: str) -> None:
        with self._changed:
            assert self._changed.wait_for(
                lambda: any(text in line for line in self._lines), DEADLINE
            ), self._lines

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        code = self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


@pytest.fixture
def routes_file(tmp_path: Path) -> Path:
    return tmp_path / "routes.json"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_gateway_forwards_with_the_routes_of_its_file_and_stops_cleanly(
    number: int, routes_file: Path
) -> None:
    backend = Backend(lambda sock: sock.sendall(b"hi") if sock.recv(1 << 16) else None)
    routes_file.write_bytes(routes(web=(backend.endpoint,)).to_json())
    port = free_port()
    gateway = Process(
        f"-address=127.0.0.1:{port}", f"-routes-file={routes_file}", "-http-addr=127.0.0.1:1"
    )
    gateway.wait_for("listening on 127.0.0.1")
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
        client.sendall(client_hello("web.example"))
        assert read_exactly(client, 2) == b"hi"
    gateway.process.send_signal(signal.SIGUSR1)
    gateway.wait_for('"web.example":{"kind":"local-service","connections":1')
    assert gateway.end(number) == 0
    backend.close()


def test_address_that_is_taken_is_an_error(routes_file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        gateway = Process(f"-address=127.0.0.1:{port}")
        gateway.wait_for(f"cannot listen on 127.0.0.1:{port}")
        assert gateway.end(0) == 1


def test_gateway_loads_nothing_heavy() -> None:
    code = "import sys, isthmus.cli.connect_gateway; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert HEAVY & set(loaded.stdout.split()) == set()


def test_local_addresses_can_be_listened_on() -> None:
    assert is_local("127.0.0.9")
    assert not is_local("203.0.113.77")
    assert not is_local("gateway.invalid")


def test_registration_by_somebody_else_is_waited_for() -> None:
    answers = [b"404 Not Found", b"500 No", b"200 OK"]
    body = b'{"Kind":"mesh-gateway","Address":"127.0.0.1","Port":8443}'

    def talk(sock: socket.socket) -> None:
        asked = sock.recv(1 << 16).split(b" ")[1]
        assert asked == b"/v1/agent/service/gw%2F1"
        sock.sendall(b"HTTP/1.1 %s\r\n\r\n%s" % (answers.pop(0), body))

    backend = Backend(talk)
    agent = Agent(AgentAddress(host=backend.endpoint.host, port=backend.endpoint.port))
    pauses: list[float] = []
    assert await_registration(agent, "gw/1", sleep=pauses.append) == [("127.0.0.1", 8443)]
    assert len(pauses) == 2
    backend.close()
