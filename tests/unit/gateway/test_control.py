import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from isthmus.gateway.agent import Agent, AgentAddress
from isthmus.gateway.control import RETRY_MAX, RETRY_MIN, Backoff, Control, RoutesFile
from isthmus.gateway.registration import Registrar
from isthmus.mesh.routes import Endpoint, RouteTable
from support.gateway import DEADLINE, Backend, routes

FIRST = RouteTable(routes(web=(Endpoint("192.0.2.1", 1),)).routes, "aaaa")
SECOND = RouteTable(routes(web=(Endpoint("192.0.2.2", 2),)).routes, "bbbb")


class FakeAgent:
    """An agent: answers requests for routes as a blocking query, knows who registered."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.table = FIRST
        self.known = True
        self.requests: list[str] = []
        self.ended = False
        self.backend = Backend(self._talk)

    def change(self, **state: object) -> None:
        with self.changed:
            for name, value in state.items():
                setattr(self, name, value)
            self.changed.notify_all()

    def wait_for(self, request: str, count: int = 1) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.requests.count(request) >= count, DEADLINE), (
                self.requests
            )

    def _talk(self, sock: socket.socket) -> None:
        with sock.makefile("rb") as stream:
            method, target, _ = stream.readline().decode().split()
            while stream.readline().strip():
                pass
        status, body = self._answer(method, target)
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body)

    def _answer(self, method: str, target: str) -> tuple[int, bytes]:
        path, _, query = target.partition("?")
        with self.changed:
            self.requests.append(f"{method} {path.removeprefix('/v1/')}")
            self.changed.notify_all()
            if "deregister" in path:
                self.known = False
                return 200, b""
            if "register" in path:
                self.known = True
                return 200, b""
            self.changed.wait_for(
                lambda: not self.known or self.table.hash not in query or self.ended, DEADLINE
            )
            if not self.known:
                return 404, b"unknown service ID: gw"
            return 200, self.table.to_json()


class Applied:
    """Collects the tables that were applied."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.tables: list[RouteTable] = []

    def __call__(self, table: RouteTable) -> None:
        with self._changed:
            self.tables.append(table)
            self._changed.notify_all()

    def wait_for(self, *tables: RouteTable) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.tables == list(tables), DEADLINE), (
                self.tables
            )


@pytest.fixture
def fake() -> Iterator[FakeAgent]:
    fake = FakeAgent()
    yield fake
    fake.change(ended=True)
    fake.backend.close()


@pytest.fixture
def make_control(fake: FakeAgent) -> Iterator[Callable[..., tuple[Control, Applied]]]:
    controls: list[Control] = []

    def make(*, register: bool = False, file: str = "") -> tuple[Control, Applied]:
        endpoint = fake.backend.endpoint
        agent = Agent(AgentAddress(host=endpoint.host, port=endpoint.port))
        applied = Applied()
        control = Control(
            agent,
            "gw",
            applied,
            registrar=Registrar(agent, "gw", {"Name": "gw"}) if register else None,
            file=RoutesFile(file),
            rng=Random(1),
        )
        controls.append(control)
        return control, applied

    yield make
    for control in controls:
        control.stop(timeout=DEADLINE)


MakeControl = Callable[..., tuple[Control, Applied]]


def test_routes_are_applied_as_they_change(fake: FakeAgent, make_control: MakeControl) -> None:
    control, applied = make_control()
    control.start()
    applied.wait_for(FIRST)
    fake.change(table=SECOND)
    applied.wait_for(FIRST, SECOND)
    assert set(fake.requests) == {"GET isthmus/gateway/gw/routes"}


def test_gateway_is_registered_first_and_deregistered_at_the_end(
    fake: FakeAgent, make_control: MakeControl
) -> None:
    control, applied = make_control(register=True)
    control.start()
    applied.wait_for(FIRST)
    control.stop(timeout=DEADLINE)
    assert fake.requests[0] == "PUT agent/service/register"
    fake.wait_for("PUT agent/service/deregister/gw")
    assert not fake.known


def test_gateway_that_the_agent_lost_is_registered_again(
    fake: FakeAgent, make_control: MakeControl
) -> None:
    control, applied = make_control(register=True)
    control.start()
    applied.wait_for(FIRST)
    fake.change(known=False)
    fake.wait_for("PUT agent/service/register", 2)


def test_gateway_registered_by_somebody_else_is_waited_for(
    fake: FakeAgent, make_control: MakeControl
) -> None:
    fake.known = False
    control, applied = make_control()
    control.start()
    fake.wait_for("GET isthmus/gateway/gw/routes", 2)
    fake.change(known=True)
    applied.wait_for(FIRST)
    control.stop(timeout=DEADLINE)
    assert fake.known


def test_last_routes_are_in_force_without_an_agent(
    fake: FakeAgent, make_control: MakeControl, tmp_path: Path
) -> None:
    file = tmp_path / "routes.json"
    control, applied = make_control(file=str(file))
    control.start()
    applied.wait_for(FIRST)
    fake.wait_for("GET isthmus/gateway/gw/routes", 2)  # By then the file is written.
    control.stop(timeout=DEADLINE)
    fake.backend.close()
    later, applied = make_control(file=str(file))
    later.start()
    applied.wait_for(FIRST)
    assert [path.name for path in tmp_path.iterdir()] == ["routes.json"]


@pytest.mark.parametrize("content", [b"", b"{}garbage", b'{"version":99}'])
def test_unusable_routes_file_is_passed_over(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "routes.json"
    file.write_bytes(content)
    assert RoutesFile(str(file)).load() is None


def test_routes_file_that_cannot_be_written_is_not_fatal(tmp_path: Path) -> None:
    RoutesFile(str(tmp_path / "none" / "routes.json")).save(FIRST)
    RoutesFile("").save(FIRST)


def test_saved_table_is_json_as_the_agent_sent_it(tmp_path: Path) -> None:
    file = tmp_path / "routes.json"
    RoutesFile(str(file)).save(FIRST)
    assert json.loads(file.read_bytes())["hash"] == "aaaa"
    assert RoutesFile(str(file)).load() == FIRST


def test_pauses_grow_to_a_bound_with_jitter_and_start_over() -> None:
    backoff = Backoff(Random(1))
    pauses = [backoff.take() for _ in range(10)]
    assert RETRY_MIN / 2 <= pauses[0] <= RETRY_MIN
    assert all(RETRY_MAX / 2 <= pause <= RETRY_MAX for pause in pauses[6:])
    assert len(set(pauses)) == 10
    backoff.reset()
    assert backoff.take() <= RETRY_MIN
