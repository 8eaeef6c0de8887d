"""Two datacenters of one server each, in one process: HTTP handlers, servers, and the wire between.

Calls from one to the other are encoded and decoded as on a connection, so `?dc=` shows what
MessagePack keeps of requests, replies and errors.
"""

import asyncio
import json
from collections.abc import Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from isthmus.errors import IsthmusError, RemoteError
from isthmus.federation.router import Router, ServerInfo
from isthmus.http.context import Context
from isthmus.http.door import Door
from isthmus.http.request import Request
from isthmus.model.methods import METHODS
from isthmus.model.record import Record
from isthmus.net.client import ServerTarget
from isthmus.server.forward import Forwarder
from isthmus.server.server import Server
from isthmus.sim.loop import VirtualLoop
from isthmus.wire import blob, msgpack
from support.http import FakeLocal
from support.servers import make_server

T = TypeVar("T")

_VALUE_SIZE_MAX = 512 * 1024


@dataclass(frozen=True)
class Reply:
    """An answer to an HTTP request."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        """The body's value."""
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    @property
    def index(self) -> int:
        """The index to block on next."""
        return int(self.headers["X-Consul-Index"])


class Wire:
    """Implements `RemoteCaller`: encodes, decodes, calls."""

    def __init__(self) -> None:
        self.servers: dict[str, Server] = {}

    async def call(
        self,
        target: ServerTarget,
        method: str,
        request: Record,
        reply_type: Any,
        *,
        timeout: float,
        repeatable: bool = False,
    ) -> Any:
        """Have the only server of a datacenter answer."""
        kind: type[Record] = METHODS[method].request
        sent = blob.message_from_plain(kind, msgpack.unpack(blob.encode_message(request)))
        try:
            async with asyncio.timeout(timeout):
                reply = await self.servers[target.dc].call(method, sent)
        except IsthmusError as error:
            raise RemoteError(str(error)) from error
        return blob.message_from_plain(reply_type, msgpack.unpack(blob.encode_message(reply)))


class Pair:
    """Servers of ``dc1`` and ``dc2``, and the HTTP door of the former's agent, on virtual time.

    A context manager; what it does outside of `run` is nothing: time stands still.
    """

    def __init__(self) -> None:
        self._runner = asyncio.Runner(loop_factory=VirtualLoop)
        wire, router = Wire(), Router()
        for dc in ("dc1", "dc2"):
            server = ServerInfo(name=f"alpha.{dc}", node="alpha", dc=dc, host="10.0.0.1", port=8300)
            router.put(server)
            wire.servers[dc] = make_server(dc=dc, forward=Forwarder(router, wire))
        self.servers = wire.servers
        context = Context(self.servers["dc1"].call, FakeLocal(), kv_value_size_max=_VALUE_SIZE_MAX)
        self._door = Door(context)

    def __enter__(self) -> Self:
        """Start the servers."""
        for server in self.servers.values():
            self.run(server.start())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop them."""
        for server in self.servers.values():
            self.run(server.stop())
        self._runner.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Carry something out; virtual time passes while it waits."""
        return self._runner.get_loop().run_until_complete(work)

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return self._runner.get_loop().time()

    def request(self, method: str, target: str, body: object = b"") -> Reply:
        """Send a request to dc1's agent; a body that is no bytes is sent as JSON."""
        return self.run(self.ask(method, target, body))

    async def ask(self, method: str, target: str, body: object = b"") -> Reply:
        """As `request`, from within the loop."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = await self._door.handle(Request(method, target, {}, data, peer="127.0.0.1"))
        return Reply(response.status, bytes(response.body), dict(response.headers))
