"""One connection to a server, on which calls run: streams used again, silence noticed.

A pool keeps one for each server. Source: protocol/rpc.md §2, protocol/federation.md §21.6.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from isthmus.errors import (
    REMOTE_SERVER,
    TLS,
    ConnectionLost,
    ProtocolError,
)
from isthmus.net.connections import ConnectionSet
from isthmus.net.multiplex import MultiplexProtocol
from isthmus.net.tls import describe
from isthmus.rpc.calls import ClientChannel, Reply
from isthmus.rpc.yamux import (
    DataReceived,
    Output,
    PeerGoingAway,
    Role,
    SessionClosed,
    SessionConfig,
    StreamAcknowledged,
    StreamEnded,
    StreamReset,
)
from isthmus.wire.netrpc import RequestHeader

M = TypeVar("M", bound=MultiplexProtocol)


@dataclass(frozen=True, slots=True)
class ServerTarget:
    """A server to call; all of it is the key of its connection.

    The datacenter is part of it because two datacenters may use the same names and addresses.

    Attributes:
        dc: Its datacenter.
        node: Its short node name.
        host: Its address; not used through gateways.
        port: Its RPC port; not used through gateways.
    """

    dc: str
    node: str
    host: str
    port: int


class ServerDialer(Protocol):
    """Makes a connection that speaks yamux with a server."""

    async def dial_server(
        self, factory: Callable[[], M], target: ServerTarget, *, timeout: float
    ) -> M:
        """Dial `target`; the session may begin on return.

        Raises:
            DialFailed: No connection; nothing is left open.
        """


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """Limits of a pool; times in seconds.

    Attributes:
        dial_timeout: Connect and handshake.
        idle_timeout: After the last call a connection is closed.
        idle_streams_max: Streams kept open for the next calls, per connection.
        connections_max: Connections, those being dialled included.
        calls_max: Calls in flight, over all connections.
        probe_after: Silence, while calls run, after which the server is asked for a sign of life.
        probe_interval: Between two such questions while it answers.
        suspect_after: No sign since: reads are repeated on a connection of their own, which may
            lead through another gateway. Three round trips at least, once those are known.
        dead_after: No sign since: the connection is given up, its calls fail.
        session: Limits of the yamux sessions; servers open no streams towards us.
    """

    dial_timeout: float = 10.0
    idle_timeout: float = 120.0
    idle_streams_max: int = 64
    connections_max: int = 4096
    calls_max: int = 65536
    probe_after: float = 0.4
    probe_interval: float = 2.0
    suspect_after: float = 0.3
    dead_after: float = 3.0
    session: SessionConfig = field(default_factory=lambda: SessionConfig(streams_max=0))

    def __post_init__(self) -> None:
        """Check the relations between the values."""
        assert self.dial_timeout > 0
        assert self.idle_timeout > 0
        assert self.idle_streams_max >= 0
        assert self.connections_max > 0
        assert self.calls_max > 0
        assert 0 < self.probe_after <= self.probe_interval
        assert 0 < self.suspect_after < self.dead_after


class NotOpened(Exception):
    """The connection takes no more calls; nothing was sent."""


class Suspicious(Exception):
    """The connection of a repeatable call shows no sign of life; the call may be made again."""

    def __init__(self, call: "Call") -> None:
        self.call = call
        super().__init__()


class Call:
    """A stream and the call on it, if any."""

    __slots__ = ("answered", "channel", "repeatable", "stream")

    def __init__(self) -> None:
        self.stream = 0
        self.repeatable = False
        self.channel = ClientChannel()
        self.answered: asyncio.Future[Reply] | None = None


class ClientConnection(MultiplexProtocol):
    """A yamux session with a server; calls run on streams that are used again."""

    def __init__(
        self,
        target: ServerTarget,
        config: PoolConfig,
        connections: ConnectionSet,
        lost: Callable[[], None],
        silent: Callable[[], None],
    ) -> None:
        super().__init__(Role.DIALER, config.session)
        self._silent = silent
        self._watch: asyncio.TimerHandle | None = None  # While calls run.
        self._probed_at: float | None = None  # When a question was sent that nothing followed.
        self._round_trip = 0.0
        self._is_suspect = False
        self._dead = ""
        self._connections = connections
        self._target, self._limits, self._lost = target, config, lost
        self._calls: dict[int, Call] = {}  # By stream; idle ones too.
        self._idle: list[Call] = []
        self._running_count = 0
        self._waiting: deque[asyncio.Future[None]] = deque()  # For a stream to be acknowledged.
        self._retired = False
        self._used_at = self._loop.time()
        self.heard_at = self._asked_at = self._used_at
        self._idle_timer: asyncio.TimerHandle | None = None

    @property
    def is_usable(self) -> bool:
        """Whether it takes new calls."""
        return not self._retired and self.session.is_usable

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the session and the watch for idleness."""
        super().connection_made(transport)
        self._connections.add(self.transport)
        self._idle_timer = self._loop.call_later(self._limits.idle_timeout, self._on_idle)

    def data_received(self, data: bytes) -> None:
        """Take bytes; whatever they are, they are a sign of life."""
        self.heard_at = self._loop.time()
        if self._probed_at is not None:
            self._round_trip = self.heard_at - self._probed_at
            self._probed_at = None
        super().data_received(data)

    def _look(self) -> None:
        """While calls run: after some silence ask for a sign of life, and see whether it comes."""
        self._watch = None
        if not self._running_count or not self.session.is_usable:
            return
        now, limits = self._loop.time(), self._limits
        if self._probed_at is None:
            silence = now - max(self.heard_at, self._asked_at)
            if silence < limits.probe_after:
                self._look_at(now + limits.probe_after - silence)
                return
            if now - self.heard_at < limits.probe_interval and self._asked_at < self.heard_at:
                self._look_at(self.heard_at + limits.probe_interval)
                return
            self._probed_at = now
            self.session.probe()
            self.flush()
            self._look_at(now + self._suspect_after)
            return
        if now >= self._probed_at + limits.dead_after:
            self._dead = f"no sign of life for {now - self._probed_at:.1f} s"
            self.transport.abort()
            return
        if now >= self._probed_at + self._suspect_after and not self._is_suspect:
            self._is_suspect = self._retired = True
            self._silent()
            while self._waiting:
                self._wake()
            for call in list(self._calls.values()):
                if call.repeatable and call.answered is not None and not call.answered.done():
                    told, call.answered = call.answered, self._loop.create_future()
                    told.set_exception(Suspicious(call))
        self._look_at(
            self._probed_at + (limits.dead_after if self._is_suspect else self._suspect_after)
        )

    @property
    def _suspect_after(self) -> float:
        return min(
            max(self._limits.suspect_after, 3 * self._round_trip), self._limits.dead_after / 2
        )

    def _look_at(self, moment: float) -> None:
        if self._watch is None:
            self._watch = self._loop.call_at(moment, self._look)

    def connection_lost(self, error: Exception | None) -> None:
        """End; calls in flight fail."""
        super().connection_lost(error)
        self._connections.discard(self.transport)

    async def call(self, header: RequestHeader, body: bytes, *, repeatable: bool) -> Reply:
        """Call on an idle stream or a new one; a cancelled call resets its stream.

        Raises:
            NotOpened: The session takes no more streams; nothing was sent.
            Suspicious: The call is repeatable and the connection shows no sign of life. The
                call goes on until `finish`.
            ConnectionLost: As `RpcPool.call`.
        """
        self._running_count += 1
        try:
            call = await self._ask(header, body)
        except BaseException:
            self._ended()
            raise
        call.repeatable = repeatable
        self.flush_soon()
        self._asked_at = self._loop.time()
        self._look_at(self._asked_at + self._limits.probe_after)
        assert call.answered is not None
        try:
            reply = await call.answered
        except Suspicious:
            raise
        except BaseException:
            self.finish(call)
            raise
        self._ended()
        return reply

    def finish(self, call: "Call") -> None:
        """Nobody waits for a call any more; without an answer yet its stream is reset."""
        assert call.answered is not None
        if not call.answered.done() or call.answered.cancelled():
            call.answered.cancel()
            self._calls.pop(call.stream, None)
            self.session.reset(call.stream)
            self.flush()
        self._ended()

    def _ended(self) -> None:
        self._running_count -= 1
        self._used_at = self._loop.time()
        self._close_if_done()

    def retire(self) -> None:
        """Take no more calls; close when those in flight are done."""
        self._retired = True
        self._close_if_done()

    def shut(self) -> None:
        """Close now; calls in flight fail."""
        self.session.close()
        self.flush()

    async def _ask(self, header: RequestHeader, body: bytes) -> Call:
        """Send a request, as soon as a stream may be had for it."""
        while True:
            if not self.is_usable:
                raise NotOpened
            if self._idle:
                call = self._idle.pop()
                call.answered = self._loop.create_future()
                self.session.send(call.stream, call.channel.ask(header, body))
                return call
            if self.session.may_open:
                call = Call()
                call.answered = self._loop.create_future()
                request = call.channel.ask(header, body)
                call.stream = self.session.open_stream(request, now=self._loop.time())
                self._calls[call.stream] = call
                return call
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake()  # Its turn goes to the next.
                raise

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def on_event(self, event: Output) -> None:
        """Take an event of the session."""
        match event:
            case DataReceived(stream, data):
                self._receive(stream, data)
            case StreamAcknowledged():
                self._wake()
            case StreamEnded(stream):
                self._fail(stream, "the server ended the stream: EOF")
                self.session.end(stream, now=self._loop.time())
            case StreamReset(stream):
                self._fail(stream, "the server reset the stream: EOF")
            case PeerGoingAway():
                self.retire()
            case SessionClosed(error):
                self._end(error)
            case _:
                return

    def _receive(self, stream: int, data: bytes) -> None:
        call = self._calls.get(stream)
        if call is None:
            return
        try:
            reply = call.channel.receive_data(data)
        except ProtocolError as error:
            self._fail(stream, str(error))
            self.session.reset(stream)
            return
        self.session.consume(stream, len(data))
        if reply is None:
            return
        assert call.answered is not None
        if not call.answered.done():
            call.answered.set_result(reply)
        if reply.error or len(self._idle) >= self._limits.idle_streams_max:
            # After some errors the server ends the stream; we cannot tell which.
            del self._calls[stream]
            self.session.end(stream, now=self._loop.time())
        else:
            self._idle.append(call)
        self._wake()

    def _fail(self, stream: int, text: str) -> None:
        """Drop a stream; its call, if any is running, fails."""
        call = self._calls.pop(stream, None)
        if call is None:
            return
        if call in self._idle:
            self._idle.remove(call)
        elif call.answered is not None and not call.answered.done():
            target = self._target
            call.answered.set_exception(
                ConnectionLost(
                    f"server {target.node} of datacenter {target.dc}{self._through}: {text}",
                    gateway=self.gateway,
                    step=self._failed_step,
                )
            )
        self._wake()

    @property
    def _through(self) -> str:
        return f" through mesh gateway {self.gateway}" if self.gateway else ""

    @property
    def _failed_step(self) -> str:
        return TLS if isinstance(self.lost_error, ssl.SSLError) else REMOTE_SERVER

    def _end(self, error: ProtocolError | None) -> None:
        self._retired = True
        self._lost()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
        lost = error or self.lost_error or self._dead
        if isinstance(lost, ssl.SSLError):  # A certificate is refused after our handshake.
            reason = f"the connection ended: {describe(lost)}: EOF"
        else:
            reason = f"the connection ended: {lost}: EOF" if lost else "the connection ended: EOF"
        for stream in list(self._calls):
            self._fail(stream, reason)
        while self._waiting:
            self._wake()

    def _close_if_done(self) -> None:
        if self._retired and not self._running_count and not self.session.is_closed:
            self.shut()

    def _on_idle(self) -> None:
        due = self._used_at + self._limits.idle_timeout
        if self._running_count or due > self._loop.time():
            due = max(due, self._loop.time() + self._limits.idle_timeout / 2)
            self._idle_timer = self._loop.call_at(due, self._on_idle)
        else:
            self.shut()
