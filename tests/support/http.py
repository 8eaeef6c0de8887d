"""A door without sockets: a fake rpc, a fake agent, a client that calls the door directly."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from isthmus.errors import IsthmusError, NotFound
from isthmus.http.context import Context, ReadCache
from isthmus.http.door import Door
from isthmus.http.request import Request
from isthmus.http.response import Response
from isthmus.model.agent import AgentService, CheckDefinition, Member, ServiceDefinition
from isthmus.model.catalog import HealthCheck
from isthmus.model.diagnosis import DoctorReport
from isthmus.model.event import UserEvent, event_index
from isthmus.model.methods import METHODS
from isthmus.model.metric import Metrics
from isthmus.model.query import CachedReply, QueryOptions
from isthmus.model.record import Record

Answer = object | IsthmusError | Callable[[Any], object]


class FakeRpc:
    """Answers methods with what a test puts in; remembers what was asked."""

    def __init__(self, **answers: Answer) -> None:
        self.answers: dict[str, Answer] = {
            name.replace("_", "."): answer for name, answer in answers.items()
        }
        self.calls: list[tuple[str, Record]] = []
        self.blocked = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.block = False

    async def __call__(self, method: str, request: Record) -> object:
        assert isinstance(request, METHODS[method].request)
        self.calls.append((method, request))
        if self.block:
            self.blocked.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        answer = self.answers[method]
        if isinstance(answer, IsthmusError):
            raise answer
        return answer(request) if callable(answer) and not isinstance(answer, type) else answer

    @property
    def last(self) -> Any:
        """Argument of the last call."""
        return self.calls[-1][1]


class FakeCache:
    """Implements `ReadCache`: asks an rpc, and calls the answer what a test wants."""

    def __init__(self, rpc: FakeRpc, *, hit: bool = False, age: float = 0.0) -> None:
        self._rpc, self.hit, self.age = rpc, hit, age
        self.asked: list[tuple[str, Any]] = []

    def keeps(self, method: str) -> bool:
        return method in {"Health.ServiceNodes", "Catalog.ListServices", "Catalog.ListDatacenters"}

    async def get(self, method: str, request: QueryOptions) -> CachedReply:
        self.asked.append((method, request))
        return CachedReply(await self._rpc(method, request), hit=self.hit, age=self.age)


class FakeLocal:
    """Implements `LocalAgent` with plain dicts; writes down what it is told."""

    def __init__(self) -> None:
        self.datacenter, self.node_name = "dc1", "alpha"
        self.told: list[tuple[object, ...]] = []
        self.fault: IsthmusError | None = None
        self.lan: list[Member] | None = []
        self.wan: list[Member] | None = []
        self.known: dict[str, AgentService] = {}
        self.known_checks: dict[str, HealthCheck] = {}
        self.routes: dict[str, bytes] = {}
        self.known_events: list[UserEvent] = []
        self.doctor = DoctorReport()
        self.figures = Metrics(datetime(2026, 11, 23, 12, tzinfo=UTC), seconds=10.0)
        self.prometheus_enabled = True
        self.coordinates_enabled = True
        self.debug_enabled = True
        self.log_lines: list[bytes] = []
        self.log_is_endless = False
        self.intervals_left = 0

    def _tell(self, *words: object) -> None:
        if self.fault is not None:
            raise self.fault
        self.told.append(words)

    async def self_info(self) -> Mapping[str, object]:
        return {"Config": {"Datacenter": self.datacenter, "NodeName": self.node_name}}

    def members(self, *, wan: bool) -> Sequence[Member] | None:
        return self.wan if wan else self.lan

    async def join(self, address: str, *, wan: bool) -> None:
        self._tell("join", address, wan)

    async def leave(self) -> None:
        self._tell("leave")

    async def force_leave(self, node: str, *, prune: bool, wan: bool) -> None:
        self._tell("force_leave", node, prune, wan)

    def services(self) -> Mapping[str, AgentService]:
        return self.known

    def services_called(self, name: str) -> list[AgentService]:
        return [service for service in self.known.values() if service.service == name]

    def service(self, service_id: str) -> AgentService | None:
        return self.known.get(service_id)

    def checks_of(self, service_id: str) -> list[HealthCheck]:
        found = self.known_checks.values()
        return [check for check in found if check.service_id in ("", service_id)]

    async def service_changed(
        self, service_id: str, *, content_hash: str, wait: float
    ) -> AgentService | None:
        self._tell("service_changed", service_id, content_hash, wait)
        return self.known.get(service_id)

    async def register_service(
        self, definition: ServiceDefinition, *, replace_existing_checks: bool
    ) -> None:
        self._tell("register_service", definition, replace_existing_checks)

    async def deregister_service(self, service_id: str) -> None:
        self._tell("deregister_service", service_id)

    def checks(self) -> Mapping[str, HealthCheck]:
        return self.known_checks

    async def register_check(self, definition: CheckDefinition) -> None:
        self._tell("register_check", definition)

    async def deregister_check(self, check_id: str) -> None:
        self._tell("deregister_check", check_id)

    async def update_check(self, check_id: str, *, status: str, output: str) -> None:
        if check_id not in self.known_checks:
            raise NotFound(f'CheckID "{check_id}" does not have associated TTL', status=500)
        self._tell("update_check", check_id, status, output)

    async def set_maintenance(
        self, service_id: str, *, enable: bool, reason: str, token: str
    ) -> None:
        if service_id and service_id not in self.known:
            raise NotFound(f'No service registered with ID "{service_id}"')
        self._tell("set_maintenance", service_id, enable, reason, token)

    async def fire_event(self, event: UserEvent, *, dc: str, token: str) -> UserEvent:
        self._tell("fire_event", event, dc, token)
        return msgspec.structs.replace(event, id="00000000-0000-4000-8000-000000000001", version=1)

    async def events(
        self, *, name: str, node: str, service: str, tag: str, index: int, wait: float
    ) -> tuple[int, Sequence[UserEvent]]:
        self._tell("events", name, node, service, tag, index, wait)
        events = self.known_events
        return (event_index(events[-1].id) if events else 1), events

    async def diagnose(self, dc: str) -> DoctorReport:
        self._tell("diagnose", dc)
        return self.doctor

    async def metrics(self) -> Metrics:
        return self.figures

    async def recent_metrics(self) -> Metrics:
        return self.figures

    async def next_metrics(self) -> Metrics:
        if self.intervals_left == 0:
            await asyncio.Event().wait()
        self.intervals_left -= 1
        return self.figures

    async def watch_log(self, level: str, *, as_json: bool) -> AsyncGenerator[bytes, None]:
        self._tell("watch_log", level, as_json)
        try:
            for line in self.log_lines:
                yield line
            if self.log_is_endless:
                await asyncio.Event().wait()
        finally:
            self._tell("log closed")

    def host(self) -> Mapping[str, object]:
        return {"Memory": {"total": 7}, "Errors": None}

    async def reload(self) -> None:
        self._tell("reload")

    def stacks(self) -> str:
        return "thread MainThread\n"

    def memory(self) -> str:
        return "1 8 builtins.int\n"

    async def profile(self, seconds: float) -> str:
        self._tell("profile", seconds)
        return "main;work 7\n"

    async def move_storage(self) -> None:
        self._tell("move storage")

    async def gateway_routes(self, service_id: str, content_hash: str, wait: float) -> bytes | None:
        self._tell("gateway_routes", service_id, content_hash, wait)
        return self.routes.get(service_id)


class FakeConnection:
    """Implements `Closable`; nothing happens."""

    def stop(self) -> asyncio.Task[None] | None:
        return None

    def abort(self) -> None:
        return None

    def expire(self, deadline: float) -> None:
        return None


class FakeTransport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = self.aborted = self.paused = self.ended = False

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def write(self, data: "bytes | bytearray | memoryview[Any]") -> None:
        assert not self.closed
        self.written += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class Client:
    """Calls a door as a connection would."""

    def __init__(self, rpc: FakeRpc, local: FakeLocal, door: Door) -> None:
        self.rpc, self.local, self.door = rpc, local, door

    async def request(
        self, method: str, target: str, body: bytes | object = b"", **headers: str
    ) -> Response:
        """Send a request; a body that is no bytes is sent as JSON; headers in snake_case."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        encoded = {
            name.replace("_", "-").encode(): value.encode() for name, value in headers.items()
        }
        return await self.door.handle(Request(method, target, encoded, data, peer="127.0.0.1"))

    def get(self, target: str, **headers: str) -> Coroutine[Any, Any, Response]:
        """GET."""
        return self.request("GET", target, **headers)

    def put(self, target: str, body: bytes | object = b"") -> Coroutine[Any, Any, Response]:
        """PUT."""
        return self.request("PUT", target, body)


def make_client(
    rpc: FakeRpc | None = None,
    local: FakeLocal | None = None,
    *,
    pretty: bool = False,
    response_headers: Mapping[str, str] | None = None,
    cache: ReadCache | None = None,
    translate_wan: bool = False,
    discovery_max_stale: float = 0.0,
) -> Client:
    """A door with fakes behind it."""
    rpc, local = rpc or FakeRpc(), local or FakeLocal()
    context = Context(
        rpc,
        local,
        pretty=pretty,
        kv_value_size_max=512 * 1024,
        cache=cache,
        translate_wan=translate_wan,
        discovery_max_stale=discovery_max_stale,
    )
    return Client(rpc, local, Door(context, response_headers=response_headers))


def as_dict(response: Response) -> dict[str, str]:
    """Headers of a response."""
    return dict(response.headers)


def as_json(response: Response) -> Any:
    """Body of a response."""
    return json.loads(response.body)
