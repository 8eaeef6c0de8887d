"""Calls to other servers: one yamux connection per server, shared by all callers.

The first caller dials, the others wait for it, each for its own time; a failed dial fails all
of them at once. Source: protocol/rpc.md §2 "Pool", §7.
"""

import asyncio
import itertools
import os
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from isthmus.errors import (
    ALPN,
    CONNECT,
    DEADLINE,
    NO_ROUTE,
    REMOTE_SERVER,
    TLS,
    ConnectionLost,
    DialFailed,
    ProtocolError,
    RemoteError,
    Unavailable,
    located,
)
from isthmus.model.record import Record
from isthmus.names import host_port, server_name
from isthmus.net.connections import ConnectionSet
from isthmus.net.multiplex import MultiplexProtocol
from isthmus.net.network import Network, TlsDial
from isthmus.net.tasks import TaskScope
from isthmus.net.tls import AlpnRefused, HandshakeEnded, describe
from isthmus.rpc.calls import ClientChannel, Reply
from isthmus.rpc.replies import Replies
from isthmus.rpc.sniff import TypeByte
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
from isthmus.wire.msgpack import encode
from isthmus.wire.netrpc import RequestHeader

P = TypeVar("P", bound=asyncio.BaseProtocol)
M = TypeVar("M", bound=MultiplexProtocol)

_MULTI: Final = bytes([TypeByte.RPC_MULTI])
_TLS: Final = bytes([TypeByte.TLS])


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


class RpcPool:
    """Calls servers over pooled connections. Belongs to one event loop.

    Args:
        dialer: How servers are reached.
        config: Limits.
        on_silent: Told when a connection through a gateway (``host:port``) shows no sign of life.
    """

    def __init__(
        self,
        dialer: ServerDialer,
        config: PoolConfig | None = None,
        *,
        on_silent: Callable[[ServerTarget, str], None] | None = None,
    ) -> None:
        self._dialer, self._config = dialer, config or PoolConfig()
        self._on_silent = on_silent
        self._entries: dict[ServerTarget, _Entry] = {}
        self._open = ConnectionSet()
        self._scope = TaskScope()
        self._closed = False
        self._sequence = itertools.count(1)
        self._call_count = 0
        self._replies = Replies()

    @property
    def call_count(self) -> int:
        """Calls in flight."""
        return self._call_count

    @property
    def connection_count(self) -> int:
        """Connections, those being dialled included."""
        return len(self._entries)

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
        """Call a server.

        Args:
            target: The server.
            method: ``Service.Method``.
            request: The argument.
            reply_type: What to decode the reply to, as in `isthmus.model.methods`.
            timeout: Seconds for all of it: dialling, a place among the streams, the answer.
            repeatable: Whether it may be sent twice (a read): then it does not wait for a
                connection that shows no sign of life, but is sent on another one as well.

        Returns:
            The reply, a `reply_type`.

        Raises:
            RemoteError: The server answered with an error text.
            DialFailed: No connection to it; the call did not take effect.
            ConnectionLost: The connection ended, or time ran out, before the answer; whether
                the call took effect is unknown.
            Unavailable: Too much is in flight; the call did not take effect.
            ProtocolError: The answer cannot be understood.
        """
        if self._call_count >= self._config.calls_max:
            raise Unavailable(f"{self._call_count} RPC calls in flight, more are refused")
        body = encode(request)
        header = RequestHeader(next(self._sequence), method)
        self._call_count += 1
        started = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(timeout):
                reply = await self._call(target, header, body, repeatable=repeatable)
        except TimeoutError:
            entry = self._entries.get(target)
            if entry is not None and entry.connection is None:
                raise _dial_timed_out(target, timeout) from None
            if entry is not None and entry.connection is not None:
                self._suspect(target, entry.connection, since=started)
            raise ConnectionLost(
                f"no answer to {method} from server {target.node} of datacenter {target.dc}"
                f" within {timeout:g} s"
            ) from None
        finally:
            self._call_count -= 1
        if reply.error:
            entry = self._entries.get(target)
            through = entry.connection.gateway if entry and entry.connection else ""
            raise RemoteError(reply.error, gateway=through)
        return self._replies.decode(reply_type, reply.body)

    def forget(self, target: ServerTarget) -> None:
        """Use the connection to a server no more; calls on it are finished."""
        entry = self._entries.get(target)
        if entry is not None and entry.connection is not None:
            del self._entries[target]
            entry.connection.retire()

    async def close(self) -> None:
        """Close all connections: calls in flight fail, further ones get `Unavailable`."""
        self._closed = True
        await self._scope.close()
        for entry in list(self._entries.values()):
            if entry.connection is not None:
                entry.connection.shut()
        self._entries.clear()
        await self._open.close()

    def _suspect(
        self, target: ServerTarget, connection: "_ClientConnection", *, since: float
    ) -> None:
        """Give up a connection that has been silent for the time of a whole call.

        What it goes through may hang while its TCP connection stays up; the next call is to
        find another way, which yamux's keepalive would allow only after 40 s.
        """
        if connection.heard_at < since:
            self.forget(target)

    async def _call(
        self, target: ServerTarget, header: RequestHeader, body: bytes, *, repeatable: bool
    ) -> Reply:
        while True:
            connection, fresh = await self._connection(target)
            try:
                return await connection.call(header, body, repeatable=repeatable)
            except _Suspicious as suspicion:
                return await self._call_again(target, connection, suspicion.call, header, body)
            except _NotOpened:
                # Nothing was sent. A pooled connection may just have ended: dial, once.
                if fresh:
                    raise ConnectionLost(
                        f"server {target.node} of datacenter {target.dc} closes its connections"
                    ) from None

    async def _call_again(
        self,
        target: ServerTarget,
        connection: "_ClientConnection",
        pending: "_Call",
        header: RequestHeader,
        body: bytes,
    ) -> Reply:
        """The connection of a call has become suspect: call on another one as well.

        The first answer counts. An error counts once there is no other call that may succeed.
        """
        assert pending.answered is not None
        second = asyncio.get_running_loop().create_task(
            self._call(target, header, body, repeatable=False)
        )
        try:
            running: set[asyncio.Future[Reply]] = {pending.answered, second}
            while running:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for answer in done:
                    if answer.exception() is None:
                        return answer.result()
            # Both failed; why there is no second way tells an operator more.
            return await second
        finally:
            connection.finish(pending)
            if not second.done():
                second.cancel()
                await asyncio.wait({second})
            if not second.cancelled():
                second.exception()  # Seen: the other call's answer counted.

    async def _connection(self, target: ServerTarget) -> "tuple[_ClientConnection, bool]":
        """The connection to a server, and whether it was dialled for this call."""
        if self._closed:
            raise Unavailable("this agent is stopping, it calls no server any more")
        entry = self._entries.get(target)
        if entry is None or (entry.connection is not None and not entry.connection.is_usable):
            if entry is None and len(self._entries) >= self._config.connections_max:
                raise Unavailable(f"{len(self._entries)} RPC connections, more are refused")
            entry = self._entries[target] = _Entry()
            self._scope.spawn(self._dial(target, entry))
        if entry.connection is not None:
            return entry.connection, False
        try:
            return await asyncio.shield(entry.dialled), True
        except Unavailable as error:
            raise _again(error) from error

    def _silent(self, target: ServerTarget, entry: "_Entry") -> None:
        """A connection shows no sign of life: new calls dial anew, its own go on for a while."""
        assert entry.connection is not None
        if self._entries.get(target) is entry:
            del self._entries[target]
        if self._on_silent is not None and entry.connection.gateway:
            self._on_silent(target, entry.connection.gateway)

    async def _dial(self, target: ServerTarget, entry: "_Entry") -> None:
        def lost() -> None:
            if self._entries.get(target) is entry:
                del self._entries[target]

        try:
            entry.connection = await self._dialer.dial_server(
                lambda: _ClientConnection(
                    target, self._config, self._open, lost, lambda: self._silent(target, entry)
                ),
                target,
                timeout=self._config.dial_timeout,
            )
        except Unavailable as error:
            lost()
            entry.dialled.set_exception(error)
            entry.dialled.exception()  # The callers may all have given up.
        except BaseException:
            lost()
            entry.dialled.cancel()
            raise
        else:
            entry.dialled.set_result(entry.connection)


class _Entry:
    """A server's connection, or the dial that will bring it."""

    def __init__(self) -> None:
        self.connection: _ClientConnection | None = None
        self.dialled: asyncio.Future[_ClientConnection] = asyncio.get_running_loop().create_future()


class _NotOpened(Exception):
    """The connection takes no more calls; nothing was sent."""


class _Suspicious(Exception):
    """The connection of a repeatable call shows no sign of life; the call may be made again."""

    def __init__(self, call: "_Call") -> None:
        self.call = call
        super().__init__()


class _Call:
    """A stream and the call on it, if any."""

    __slots__ = ("answered", "channel", "repeatable", "stream")

    def __init__(self) -> None:
        self.stream = 0
        self.repeatable = False
        self.channel = ClientChannel()
        self.answered: asyncio.Future[Reply] | None = None


class _ClientConnection(MultiplexProtocol):
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
        self._calls: dict[int, _Call] = {}  # By stream; idle ones too.
        self._idle: list[_Call] = []
        self._running_count = 0
        self._waiting: deque[asyncio.Future[None]] = deque()  # For a stream to be acknowledged.
        self._retired = False
        self._used_at = self._loop.time()
        self.heard_at = self._asked_at = self._used_at
        self._idle_timer: asyncio.TimerHandle | None = None

    @property
    def is_usable(self) -> bool:
        return not self._retired and self.session.is_usable

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connections.add(self.transport)
        self._idle_timer = self._loop.call_later(self._limits.idle_timeout, self._on_idle)

    def data_received(self, data: bytes) -> None:
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
                    told.set_exception(_Suspicious(call))
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
        super().connection_lost(error)
        self._connections.discard(self.transport)

    async def call(self, header: RequestHeader, body: bytes, *, repeatable: bool) -> Reply:
        """Call on an idle stream or a new one; a cancelled call resets its stream.

        Raises:
            _NotOpened: The session takes no more streams; nothing was sent.
            _Suspicious: The call is repeatable and the connection shows no sign of life. The
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
        except _Suspicious:
            raise
        except BaseException:
            self.finish(call)
            raise
        self._ended()
        return reply

    def finish(self, call: "_Call") -> None:
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

    async def _ask(self, header: RequestHeader, body: bytes) -> _Call:
        """Send a request, as soon as a stream may be had for it."""
        while True:
            if not self.is_usable:
                raise _NotOpened
            if self._idle:
                call = self._idle.pop()
                call.answered = self._loop.create_future()
                self.session.send(call.stream, call.channel.ask(header, body))
                return call
            if self.session.may_open:
                call = _Call()
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


class DirectDialer:
    """Dials servers at their own addresses: type byte 4, or 3 and TLS and 4.

    Args:
        network: Where to dial.
        tls: Whether to speak TLS (``verify_outgoing``).
        check_name: Whether the server's certificate must name ``server.<dc>.<domain>``
            (``verify_server_hostname``); otherwise only its chain is checked.
        domain: DNS domain of the federation.
        source_host: Address to bind to; empty: the system's choice.
    """

    def __init__(
        self,
        network: Network,
        *,
        tls: bool = False,
        check_name: bool = False,
        domain: str = "consul",
        source_host: str = "",
    ) -> None:
        self._network, self._tls, self._check_name = network, tls, check_name
        self._domain, self._source_host = domain, source_host

    async def dial_server(
        self, factory: Callable[[], M], target: ServerTarget, *, timeout: float
    ) -> M:
        """See `ServerDialer.dial_server`."""
        name = server_name(target.dc, self._domain) if self._check_name else ""
        try:
            protocol = await self._network.dial(
                factory,
                target.host,
                target.port,
                tls=TlsDial(name) if self._tls else None,
                timeout=timeout,
                source_host=self._source_host,
                preamble=_TLS if self._tls else b"",
            )
        except OSError as error:
            text, step = explain_dial(error, host_port(target.host, target.port))
            dc, node = target.dc, target.node
            raise DialFailed(
                located(text, dc=dc, node=node, gateway="", step=step),
                dc=dc,
                node=node,
                gateway="",
                step=step,
            ) from error
        protocol.transport.write(_MULTI)
        return protocol


def explain_dial(error: OSError, address: str) -> tuple[str, str]:
    """Text of a failed dial to `address`, and the step that failed, as `DialFailed` names it.

    The text begins as Go's does.
    """
    if isinstance(error, AlpnRefused):
        return f"dial tcp {address}: {error}", ALPN
    if isinstance(error, HandshakeEnded):
        return f"dial tcp {address}: TLS: {error}", NO_ROUTE
    if isinstance(error, ssl.SSLError):
        return f"dial tcp {address}: TLS: {describe(error)}", TLS
    if isinstance(error, TimeoutError):
        return f"dial tcp {address}: i/o timeout: {error}", DEADLINE
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    reason = (reason or type(error).__name__).lower()
    return f"dial tcp {address}: connect: {reason}", CONNECT


def _dial_timed_out(target: ServerTarget, timeout: float) -> DialFailed:
    dc, node = target.dc, target.node
    text = f"dial took longer than {timeout:g} s"
    return DialFailed(
        located(text, dc=dc, node=node, gateway="", step=DEADLINE),
        dc=dc,
        node=node,
        gateway="",
        step=DEADLINE,
    )


def _again(error: Unavailable) -> Unavailable:
    """The same error for another caller, without the tracebacks of the others."""
    if isinstance(error, DialFailed):
        return DialFailed(
            str(error), dc=error.dc, node=error.node, gateway=error.gateway, step=error.step
        )
    return Unavailable(str(error))
