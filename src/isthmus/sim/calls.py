"""Calls between simulated servers of different datacenters: as messages, through gateways.

Who is asked, and how often, `federation.attempts` and the locator decide; here stand what net/pool
and net/client do with sockets: one connection per server, signs of life while calls run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol, TypeAlias

from isthmus.federation.attempts import CallAttempts
from isthmus.federation.router import Router, ServerInfo
from isthmus.model.federation import IndexedFederationStates
from isthmus.model.methods import METHODS
from isthmus.model.record import Record
from isthmus.net.client import PoolConfig
from isthmus.net.wan import RPC_DIAL_TIMEOUT
from isthmus.server.forward import call_timeout
from isthmus.sim.gateways import Connection
from isthmus.sim.network import Machine
from isthmus.sim.ways import NoWay, Way
from isthmus.sim.world import Actor, Message, World

CONFIG: Final = PoolConfig()
CALLS_MAX: Final = 64
"""Calls of one server in flight: its duties make a handful."""
_CALL_SIZE: Final = 300
_STATE_SIZE: Final = 700
"""Bytes of a federation state as MessagePack, with two gateways."""
_SIGN_SIZE: Final = 12

Answer: TypeAlias = Record | bool
Done: TypeAlias = Callable[[Answer | str], None]
"""Takes the answer, or why there is none."""


@dataclass(eq=False, slots=True)
class Call:
    """One call, over all its attempts.

    Attributes:
        dc: Datacenter that is called.
        method: ``Service.Method``.
        request: The argument.
        done: Is told how it ends, once.
        attempts: Which servers are tried.
        server: The one that is tried now.
        over: It was answered or given up.
        attempt: Number of the attempt under way; answers to earlier ones are late.
    """

    dc: str
    method: str
    request: Record
    done: Done
    attempts: CallAttempts
    server: ServerInfo | None = None
    over: bool = False
    attempt: int = 0


class Request(Message):
    """A call reaches a server."""

    __slots__ = ("attempt", "back", "call", "caller", "connection", "forwarded")

    def __init__(
        self, call: Call, caller: Actor, connection: Connection, back: tuple[Machine, ...]
    ) -> None:
        super().__init__(_CALL_SIZE, reliable=True)
        self.call, self.attempt, self.caller = call, call.attempt, caller
        self.connection, self.back = connection, back
        self.forwarded = False

    def forward(self, leader: Machine) -> "Request":
        """The same call, passed on to the leader's machine."""
        request = Request(self.call, self.caller, self.connection, (leader, *self.back))
        request.attempt, request.forwarded = self.attempt, True
        return request


class Reply(Message):
    """An answer, or the text of an error, reaches the caller."""

    __slots__ = ("answer", "attempt", "call")

    def __init__(self, request: Request, answer: Answer | str) -> None:
        size = _CALL_SIZE
        if isinstance(answer, IndexedFederationStates):
            size += _STATE_SIZE * len(answer.states or ())
        super().__init__(size, reliable=True)
        self.call, self.attempt, self.answer = request.call, request.attempt, answer


class Sign(Message):
    """A question for a sign of life on a connection, or with `is_answer` the sign itself."""

    __slots__ = ("back", "caller", "is_answer", "link")

    def __init__(
        self, link: "Link", caller: Actor, back: tuple[Machine, ...], *, is_answer: bool
    ) -> None:
        super().__init__(_SIGN_SIZE, reliable=True)
        self.link, self.caller, self.back, self.is_answer = link, caller, back, is_answer


class Surroundings(Protocol):
    """What a caller needs of its server and of the federation."""

    def dial(self, dc: str, node: str) -> Way | NoWay:
        """Look for a way now, over the gateways that the locator offers."""

    def connect(self, way: Way, lost: Callable[[], None]) -> Connection | None:
        """Open a connection on a way; None: what leads there is gone meanwhile."""

    def actor(self, machine: Machine) -> Actor | None:
        """The server on a machine."""

    def alarm(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something later, by our own clock."""

    def send(self, path: Sequence[Machine], actor: Actor, message: Message) -> None:
        """Send a message along a path."""

    def silent(self, address: str) -> None:
        """A connection through a gateway shows no sign of life."""


@dataclass(eq=False, slots=True)
class Link:
    """A connection to one server, and the calls that wait on it.

    Attributes:
        dc: Its datacenter.
        node: The server.
        connection: None while it is being dialled.
        address: Gateway that was dialled.
        calls: Sent or waiting for the dial.
        used_at: End of the last call, world's time.
        heard_at: Last sign of life.
        asked_at: When one was asked for that has not come; None: never, or it came.
    """

    dc: str
    node: str
    connection: Connection | None = None
    address: str = ""
    calls: dict[Call, None] = field(default_factory=dict)
    used_at: float = 0.0
    asked_at: float | None = None


class Caller:
    """Makes one server's calls to other datacenters.

    Args:
        world: Time and network.
        me: The server.
        router: Servers of other datacenters.
        surroundings: Ways, connections, alarms.
    """

    def __init__(self, world: World, me: Actor, router: Router, surroundings: Surroundings) -> None:
        self._world, self._me, self._router, self._around = world, me, router, surroundings
        self._links: dict[tuple[str, str], Link] = {}
        self._count = 0

    def call(self, dc: str, method: str, request: Record, done: Done, *, timeout: float) -> None:
        """Have a server of `dc` answer; `done` is told, `timeout` seconds later at the latest."""
        read = METHODS[method].read
        attempts = CallAttempts(self._router, dc, repeatable=read, now=self._world.now)
        call = Call(dc, method, request, done, attempts)
        server = attempts.next()
        if server is None or self._count >= CALLS_MAX:
            done(f"No path to datacenter {dc}")
            return
        self._count += 1
        limit = min(timeout, call_timeout(request))
        self._around.alarm(limit, partial(self._end, call, "rpc timeout"))
        self._try(call, server)

    def receive_reply(self, reply: Reply) -> None:
        """An answer came."""
        call = reply.call
        if call.over or reply.attempt != call.attempt:
            return
        assert call.server is not None
        link = self._links.get((call.dc, call.server.node))
        if link is not None:
            link.asked_at = None
        self._end(call, reply.answer)

    def receive_sign(self, sign: Sign) -> None:
        """The server of a link lives."""
        sign.link.asked_at = None

    def close(self) -> None:
        """The process died: its connections close, nobody is told."""
        for link in self._links.values():
            if link.connection is not None:
                link.connection.close()
        self._links.clear()

    # Attempts -------------------------------------------------------------------------------------

    def _try(self, call: Call, server: ServerInfo) -> None:
        call.server, call.attempt = server, call.attempt + 1
        key = call.dc, server.node
        link = self._links.get(key)
        if link is None:
            link = self._links[key] = Link(call.dc, server.node)
            self._dial(link)
        link.calls[call] = None
        if link.connection is not None:
            self._send(link, call)

    def _dial(self, link: Link) -> None:
        way = self._around.dial(link.dc, link.node)
        if isinstance(way, NoWay):
            seconds = RPC_DIAL_TIMEOUT if way.hangs else way.seconds
            self._around.alarm(seconds, partial(self._failed, link, way.text))
        elif way.seconds > RPC_DIAL_TIMEOUT:
            self._around.alarm(RPC_DIAL_TIMEOUT, partial(self._failed, link, "i/o timeout"))
        else:
            self._around.alarm(way.seconds, partial(self._dialled, link, way))

    def _dialled(self, link: Link, way: Way) -> None:
        connection = self._around.connect(way, partial(self._lost, link))
        if connection is None:
            self._failed(link, "the connection was reset")
            return
        link.connection, link.address, link.used_at = connection, way.address, self._world.now
        for call in list(link.calls):
            self._send(link, call)
        self._watch(link)

    def _failed(self, link: Link, text: str) -> None:
        """The dial failed: each call that waits for it goes on to the next server."""
        del self._links[link.dc, link.node]
        for call in list(link.calls):
            assert call.server is not None
            call.attempts.dial_failed(call.server, now=self._world.now)
            self._next(call, text)

    def _lost(self, link: Link, text: str = "the connection was closed") -> None:
        """The connection broke under its calls."""
        if self._links.get((link.dc, link.node)) is not link:
            return
        del self._links[link.dc, link.node]
        for call in list(link.calls):
            assert call.server is not None
            call.attempts.connection_lost(call.server, now=self._world.now)
            self._next(call, text)

    def _next(self, call: Call, text: str) -> None:
        if call.over:
            return
        server = call.attempts.next()
        if server is None:
            self._end(call, text)
        else:
            self._try(call, server)

    def _end(self, call: Call, answer: Answer | str) -> None:
        if call.over:
            return
        call.over = True
        self._count -= 1
        assert call.server is not None
        link = self._links.get((call.dc, call.server.node))
        if link is not None:
            link.calls.pop(call, None)
            link.used_at = self._world.now
        call.done(answer)

    def _send(self, link: Link, call: Call) -> None:
        connection = link.connection
        assert connection is not None
        actor = self._around.actor(connection.path[-1])
        if actor is None:
            return
        if connection.usable(self._world.network):
            request = Request(call, self._me, connection, tuple(reversed(connection.path)))
            connection.carried(request.size)
            self._around.send(connection.path, actor, request)

    # Signs of life --------------------------------------------------------------------------------

    def _watch(self, link: Link) -> None:
        """Ask for a sign of life while calls run; give up what is silent; close what is idle."""
        connection = link.connection
        if connection is None or self._links.get((link.dc, link.node)) is not link:
            return
        now = self._world.now
        if link.calls:
            if link.asked_at is not None and now - link.asked_at >= CONFIG.dead_after:
                connection.close()
                self._around.silent(link.address)
                self._lost(link, "no sign of life")
                return
            if link.asked_at is None:
                self._ask(link, connection)
            self._around.alarm(CONFIG.probe_interval, partial(self._watch, link))
        elif now - link.used_at >= CONFIG.idle_timeout:
            connection.close()
            del self._links[link.dc, link.node]
        else:
            self._around.alarm(CONFIG.probe_interval, partial(self._watch, link))

    def _ask(self, link: Link, connection: Connection) -> None:
        link.asked_at = self._world.now
        actor = self._around.actor(connection.path[-1])
        if actor is not None and connection.usable(self._world.network):
            connection.carried(_SIGN_SIZE)
            back = tuple(reversed(connection.path))
            self._around.send(connection.path, actor, Sign(link, self._me, back, is_answer=False))
