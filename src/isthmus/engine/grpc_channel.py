"""A connection to a gRPC server, in the loop that its callers run in.

It takes no thread and no second loop: a call is one write, and its answer one turn of the loop.
"""

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import AsyncGenerator
from typing import Final

from isthmus.engine.http2 import Answered, Ended, Event, GrpcConnection
from isthmus.errors import ProtocolError
from isthmus.names import split_host_port

logging.getLogger("hpack").setLevel(logging.WARNING)  # Below that it logs each header.

UNIX: Final = "unix:"
"""What an endpoint begins with that is the path of a socket."""
RETRY_INTERVAL: Final = 0.05
KEEPALIVE_INTERVAL: Final = 5.0
KEEPALIVE_TIMEOUT: Final = 3.0
Metadata = tuple[tuple[str, str], ...]


class GrpcError(Exception):
    """A call failed.

    Attributes:
        status: gRPC's name of the code, such as ``UNAVAILABLE``.
        details: The server's text, or ours.
        sent: Whether the request may have reached the server.
    """

    def __init__(self, status: str, details: str, *, sent: bool = True) -> None:
        super().__init__(f"{status}: {details}")
        self.status, self.details, self.sent = status, details, sent


class GrpcChannel(asyncio.Protocol):
    """One connection; `connect` makes one.

    Args:
        authority: Name of the server.
        secure: Whether it is over TLS.
    """

    def __init__(self, authority: str, *, secure: bool) -> None:
        self._core = GrpcConnection(authority, secure=secure)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._calls: dict[int, _Call] = {}
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._watchdog: asyncio.TimerHandle | None = None
        self._heard_at = self._loop.time()
        self._pinged_at = 0.0
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._lost = ""
        """Why there is no connection any more."""

    @property
    def is_lost(self) -> bool:
        """Whether the connection is over."""
        return bool(self._lost)

    @property
    def is_open(self) -> bool:
        """Whether calls can be begun."""
        return not self._lost and not self._core.is_closing

    async def call(
        self, path: str, request: bytes, *, timeout: float, metadata: Metadata = ()
    ) -> bytes:
        """Ask for one answer.

        Raises:
            GrpcError: There was none.
        """
        call = self._begin(path, request, metadata, ends=True)
        timer = self._loop.call_later(timeout, call.expire)
        try:
            while not call.over:
                await call.wait()
            if call.status != "OK":
                raise GrpcError(call.status, call.details)
            if not call.messages:
                raise GrpcError("INTERNAL", "an answer without a message")
            return call.messages[-1]
        finally:
            timer.cancel()
            self._forget(call)

    async def stream(
        self, path: str, request: bytes, *, metadata: Metadata = ()
    ) -> AsyncGenerator[bytes, None]:
        """Yield the answers to one request as they come, until the server ends them.

        Raises:
            GrpcError: They broke off.
        """
        call = self._begin(path, request, metadata, ends=False)
        try:
            while True:
                while call.messages:
                    message = call.messages.popleft()
                    self._core.taken(call.number)
                    self._flush()
                    yield message
                if call.over:
                    break
                await call.wait()
            if call.status != "OK":
                raise GrpcError(call.status, call.details)
        finally:
            self._forget(call)

    def close(self, reason: str = "the connection was given up") -> None:
        """End the connection, and with it all calls. Idempotent."""
        if self._transport is not None:
            self._transport.abort()
        self._end(reason)

    async def closed(self) -> None:
        """Return when the socket is closed."""
        if self._transport is not None:
            await asyncio.wait({self._gone})

    def retire(self) -> None:
        """Close once all open calls are over."""
        self._core.is_closing = True
        self._close_if_done()

    # The connection ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._flush()
        self._watch()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._heard_at = self._loop.time()
        try:
            events = self._core.receive_data(data)
        except ProtocolError as error:
            self.close(str(error))
            return
        for event in events:
            self._receive(event)
        self._flush()
        if self._core.is_ready and not self._ready.done():
            self._ready.set_result(None)
        if self._core.is_closing:
            self._close_if_done()

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        if not self._gone.done():
            self._gone.set_result(None)
        self._end(f"the connection broke: {error}" if error else "the server hung up")

    async def ready(self) -> None:
        """Return when the server has answered.

        Raises:
            GrpcError: The connection broke before.
        """
        while not self._ready.done():
            await asyncio.wait({self._ready})
        if self._lost:
            raise GrpcError("UNAVAILABLE", self._lost, sent=False)

    def _begin(self, path: str, request: bytes, metadata: Metadata, *, ends: bool) -> "_Call":
        if not self.is_open:
            raise GrpcError("UNAVAILABLE", self._lost or "the server goes away", sent=False)
        if self._core.is_full:
            raise GrpcError("RESOURCE_EXHAUSTED", "too many calls are open", sent=False)
        number = self._core.call(path, request, metadata=metadata, ends=ends)
        call = self._calls[number] = _Call(number, self._loop)
        self._flush()
        return call

    def _forget(self, call: "_Call") -> None:
        if self._calls.pop(call.number, None) is not None:
            self._core.cancel(call.number)
            self._flush()
        if self._core.is_closing:
            self._close_if_done()

    def _receive(self, event: Event) -> None:
        call = self._calls.get(event.stream)
        if isinstance(event, Ended):
            if call is not None:
                del self._calls[event.stream]
                call.end(event.status, event.details)
        elif call is not None:
            assert isinstance(event, Answered)
            call.messages.append(event.message)
            call.wake()

    def _flush(self) -> None:
        output = self._core.take_output()
        if output and self._transport is not None and not self._lost:
            self._transport.write(output)

    def _end(self, reason: str) -> None:
        if not self._lost:
            self._lost = reason
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        if not self._ready.done():
            self._ready.set_result(None)
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.end("UNAVAILABLE", reason)

    def _close_if_done(self) -> None:
        if not self._calls and not self._lost:
            self.close("no more calls")

    def _watch(self) -> None:
        """Make sure that the server lives: it must answer our pings."""
        if self._lost:
            return
        now = self._loop.time()
        wait = self._heard_at + KEEPALIVE_INTERVAL - now
        if wait <= 0:
            if self._pinged_at > self._heard_at and now - self._pinged_at >= KEEPALIVE_TIMEOUT:
                self.close("the server does not answer")
                return
            if self._pinged_at <= self._heard_at:  # Else we ask already; or we stood still.
                self._pinged_at = now
                self._core.ping()
                self._flush()
            wait = KEEPALIVE_TIMEOUT
        self._watchdog = self._loop.call_later(max(wait, RETRY_INTERVAL), self._watch)


class _Call:
    """What has come for one call."""

    __slots__ = ("_loop", "_waiter", "details", "messages", "number", "over", "status")

    def __init__(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self.number, self._loop = number, loop
        self.messages: deque[bytes] = deque()  # Bounded by the window of the stream.
        self.over, self.status, self.details = False, "", ""
        self._waiter: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Until something has come; only one may wait."""
        self._waiter = self._loop.create_future()
        await self._waiter

    def wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def end(self, status: str, details: str) -> None:
        self.over, self.status, self.details = True, status, details
        self.wake()

    def expire(self) -> None:
        if not self.over:
            self.end("DEADLINE_EXCEEDED", "no answer in time")


async def connect(endpoint: str, context: ssl.SSLContext | None, *, timeout: float) -> GrpcChannel:
    """Connect to a server, trying again while it refuses.

    Args:
        endpoint: ``host:port``, or ``unix:`` and the path of a socket.
        context: For TLS; None: clear text.
        timeout: Seconds after which to give up.

    Raises:
        GrpcError: It does not answer.
    """
    failure = ""
    try:
        async with asyncio.timeout(timeout):
            while True:
                try:
                    return await _connect(endpoint, context)
                except (OSError, GrpcError) as error:
                    failure = f": {str(error) or type(error).__name__}"
                await asyncio.sleep(RETRY_INTERVAL)
    except TimeoutError:
        raise GrpcError("UNAVAILABLE", f"{endpoint} does not answer{failure}", sent=False) from None


async def _connect(endpoint: str, context: ssl.SSLContext | None) -> GrpcChannel:
    loop = asyncio.get_running_loop()
    if endpoint.startswith(UNIX):
        path = endpoint.removeprefix(UNIX)
        _, channel = await loop.create_unix_connection(
            lambda: GrpcChannel("localhost", secure=False), path
        )
    else:
        host, port = split_host_port(endpoint)
        _, channel = await loop.create_connection(
            lambda: GrpcChannel(endpoint, secure=context is not None),
            host,
            port,
            ssl=context,
            server_hostname=host if context else None,
        )
    try:
        await channel.ready()
    except BaseException:
        channel.close()
        await channel.closed()
        raise
    return channel
