"""One HTTP/1.1 connection: bytes to requests, responses to bytes. Parsing is httptools' (llhttp).

Requests of one connection are answered in order, one at a time. A client that goes away takes
its request with it: the task is cancelled, so a blocking query frees its watch.
"""

import asyncio
import logging
from contextlib import aclosing
from http import HTTPStatus
from time import gmtime, strftime
from typing import Final

import httptools

from isthmus.errors import IsthmusError
from isthmus.http.connections import Admission, Connections
from isthmus.http.door import Door
from isthmus.http.repeats import REQUEST_SIZE_MAX
from isthmus.http.request import Request
from isthmus.http.response import PLAIN, Response
from isthmus.http.streams import BodyStream

HEAD_SIZE_MAX: Final = 1024 * 1024
"""Bytes of a request's line and headers; Go's default."""
PIPELINE_MAX: Final = 32
"""Requests that may wait for an earlier one of their connection; then reading pauses."""
HALF_CLOSED_GRACE: Final = 1.0
"""Seconds that a request may run on after its client has ended its sending side."""
LINGER_TIME: Final = 5.0
"""Seconds that a client may go on sending a body that was too large, to read why."""

_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus
}
_LAST_CHUNK: Final = b"0\r\n\r\n"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_TOO_MANY: Final = (
    "Your IP is issuing too many concurrent connections, please rate limit your calls\n"
)


_logger = logging.getLogger(__name__)


class Connection(asyncio.Protocol):
    """Serves one client.

    Args:
        door: Who answers.
        connections: The table of all connections.
        peer: Address of the client; empty on a unix socket.
    """

    # Thousands of them wait in blocking queries, so their size counts.
    __slots__ = (
        "_body",
        "_closing",
        "_connections",
        "_door",
        "_head_size",
        "_headers",
        "_in_head",
        "_keep_alive",
        "_limit",
        "_lingering",
        "_loop",
        "_parser",
        "_parts_slowly",
        "_peer",
        "_reading",
        "_receiving_since",
        "_request",
        "_started",
        "_stream",
        "_streaming",
        "_target",
        "_task",
        "_transport",
        "_waiting",
        "_writable",
    )

    def __init__(self, door: Door, connections: Connections, peer: str) -> None:
        self._door, self._connections, self._peer = door, connections, peer
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._task: asyncio.Task[None] | None = None
        self._started: Request | None = None
        """Request whose answer began with the bytes that are being taken."""
        self._waiting: list[Request] = []
        self._writable = True
        self._reading = True
        self._closing = False  # No further request is taken.
        self._keep_alive = True
        self._parts_slowly = False  # The client is still sending what is not wanted.
        self._lingering = False
        # The request that is arriving.
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._body = bytearray()
        self._request: Request | None = None
        self._in_head, self._head_size = True, 0
        self._limit = 0
        self._receiving_since: float | None = None
        self._stream: BodyStream | None = None
        """Body that arrives while its request is being answered."""
        self._streaming: asyncio.Event | None = None
        """Set when the client can take more of an answer that is sent piece by piece."""

    # From the transport ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve the client, unless there are too many already."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        admission = self._connections.admit(self, self._peer)
        if admission is not Admission.WELCOME:
            crowded = admission is Admission.CLIENT_FULL
            self._refuse(429 if crowded else 503, _TOO_MANY if crowded else "")

    def connection_lost(self, error: Exception | None) -> None:
        """Give up the request that is running: nobody waits for it."""
        self._closing = True
        self._connections.remove(self, self._peer)
        if self._transport is not None:
            self._connections.unsent.note(self._transport, self._peer, 0)
        self._waiting.clear()
        if self._stream is not None:
            self._stream.fail("the client went away")
        if self._task is not None:
            self._task.cancel()
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        if self._closing and self._stream is None:
            return
        whole = self._is_idle() and len(data) <= REQUEST_SIZE_MAX
        if whole and self._repeat(data):
            return
        if self._in_head:
            self._head_size += len(data)
            if self._head_size > HEAD_SIZE_MAX:
                self._refuse(431, "431 Request Header Fields Too Large")
                return
        self._started = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._closing = True  # We speak nothing else; the request is answered, then we part.
        except httptools.HttpParserError:
            self._refuse(400, "400 Bad Request")
        else:
            if whole:
                self._note_whole(data)

    def eof_received(self) -> bool:
        """Let a running request end, if it ends soon; the client may still read."""
        self._closing = True
        transport = self._transport
        if self._task is None or transport is None or transport.get_extra_info("ssl_object"):
            return False
        self._loop.call_later(HALF_CLOSED_GRACE, self._abandon)
        return True

    def pause_writing(self) -> None:
        """Start no further request while the client does not read its answers."""
        self._writable = False

    def resume_writing(self) -> None:
        """The client reads again."""
        self._writable = True
        if self._streaming is not None:
            self._streaming.set()
        if self._transport is not None:
            self._connections.unsent.note(self._transport, self._peer, 0)
        self._next()

    # From the parser ------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """First byte of a request."""
        self._receiving_since = self._loop.time()

    def on_url(self, url: bytes) -> None:
        """Part of the target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Decide how large the body may be."""
        self._in_head = False
        self._head_size = 0
        self._keep_alive = self._parser.should_keep_alive()
        request = Request(
            self._parser.get_method().decode("ascii"),
            self._target.decode("latin-1"),
            self._headers,
            peer=self._peer,
        )
        self._request = request
        length = self._headers.get(b"content-length", b"0")
        has_body = length != b"0" or b"transfer-encoding" in self._headers
        if has_body and self._door.streams(request):
            assert self._transport is not None
            if self._headers.get(b"expect", b"").lower() == b"100-continue" and self._task is None:
                self._transport.write(_CONTINUE)
            request.stream = BodyStream(self._pause_body, self._resume_body)
            self._submit()
            self._stream, self._in_head = request.stream, False
        elif has_body:
            self._limit = self._door.body_limit(request)
            if int(length) > self._limit:
                request.oversize = int(length)
                self._submit()
            elif self._headers.get(b"expect", b"").lower() == b"100-continue":
                assert self._transport is not None
                if self._task is None:  # Else the answer before would come after it.
                    self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        """Part of the body; more than the limit is not kept, and ends the connection."""
        if self._stream is not None:
            self._stream.feed(body)
            return
        if self._closing:
            return
        self._body += body
        if len(self._body) > self._limit:
            assert self._request is not None
            self._request.oversize = len(self._body)
            self._submit()

    def on_message_complete(self) -> None:
        """A request is complete."""
        if self._stream is not None:
            self._stream.end()
            self._stream, self._in_head, self._head_size = None, True, 0
            return
        if not self._closing:
            self._submit()

    # Answering ------------------------------------------------------------------------------

    def stop(self) -> asyncio.Task[None] | None:
        """Take no further request; close now if none is running, else return its task."""
        self._closing = True
        if self._task is None and self._transport is not None:
            self._transport.close()
        return self._task

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def expire(self, deadline: float) -> None:
        """Close if a request began to arrive before `deadline` and has not arrived yet."""
        if self._receiving_since is not None and self._receiving_since < deadline:
            self.abort()

    def _is_idle(self) -> bool:
        """Whether nothing is being answered, and nothing has come of the next request."""
        return (
            self._task is None
            and self._receiving_since is None
            and self._writable
            and not self._head_size
            and not self._closing
        )

    def _note_whole(self, data: bytes) -> None:
        """Tell the request that these bytes began how it came, if they were no more and no less."""
        request = self._started
        ended = self._receiving_since is None and not self._head_size and not self._waiting
        if request is not None and ended and not request.body and request.stream is None:
            request.whole = data

    def _repeat(self, data: bytes) -> bool:
        """Answer a request as it was answered before, if that is still the answer."""
        connections = self._connections
        date = connections.date(self._loop.time())
        answer = self._door.repeats.get(data, date)
        if answer is None or not connections.has_turn(self._peer):
            return False
        assert self._transport is not None
        connections.note_answer(self._peer, len(answer))
        self._transport.write(answer)
        self._note_unsent()
        return True

    def _note_unsent(self) -> None:
        if not self._writable and self._transport is not None:
            transport = self._transport
            self._connections.unsent.note(transport, self._peer, transport.get_write_buffer_size())

    def _begin(self) -> None:
        """Expect a new request."""
        self._target, self._headers = b"", {}
        if self._body:
            self._body = bytearray()
        self._request = None
        self._in_head, self._head_size = True, 0
        self._limit = 0
        self._receiving_since = None

    def _submit(self) -> None:
        """Have the request answered, after those before it."""
        request = self._request
        assert request is not None
        if request.oversize:
            self._closing = True  # The rest of its body would be taken for a request.
            self._parts_slowly = True
        elif self._body:
            request.body = bytes(self._body)
        if not self._keep_alive:
            self._closing = True
        self._begin()
        if self._task is None and self._writable and not self._waiting:
            self._start(request)
            return
        self._waiting.append(request)
        if len(self._waiting) >= PIPELINE_MAX and self._reading and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()

    def _start(self, request: Request) -> None:
        self._started = request
        self._task = self._connections.tasks.spawn(self._answer(request))

    async def _answer(self, request: Request) -> None:
        try:
            await self._connections.take_turn(self._peer)
            response = await self._door.handle(request)
            if request.stream is not None and not request.stream.is_complete:
                request.stream.discard()
                response.close = True  # The rest of its body would be taken for a request.
            if response.stream is not None:
                await self._send_stream(request, response)
        except BaseException:
            self._task = None
            self.abort()
            raise
        self._task = None
        if response.stream is None:
            self._send(request, response)
        self._next()

    def _next(self) -> None:
        """Start the next request that waits, or close if there will be none."""
        if self._transport is None or self._task is not None:
            return
        if self._waiting:
            if self._writable:
                self._start(self._waiting.pop(0))
        elif self._parts_slowly:
            self._linger()
        elif self._closing:
            self._transport.close()
        if not self._reading and len(self._waiting) < PIPELINE_MAX // 2:
            self._reading = True
            self._transport.resume_reading()

    def _linger(self) -> None:
        """Drop what still comes, until the client has read its answer and closes.

        To close while it sends would reset the connection, and the answer would be lost.
        """
        assert self._transport is not None
        if self._lingering:
            return
        self._lingering = True
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._loop.call_later(LINGER_TIME, self.abort)

    def _send(self, request: Request, response: Response) -> None:
        if self._transport is None:
            return
        if response.close:
            self._closing = True
        last = self._closing and not self._waiting
        self._connections.note_answer(self._peer, len(response.body))
        date = self._connections.date(self._loop.time())
        data = encode_response(response, date=date, close=last, body=request.method != "HEAD")
        self._transport.write(data)
        self._note_unsent()
        if response.repeats and not last:
            assert response.timing is not None
            self._door.repeats.keep(
                request.whole,
                data,
                method=response.repeats,
                version=response.version,
                date=date,
                timing=response.timing,
            )

    async def _send_stream(self, request: Request, response: Response) -> None:
        """Send an answer piece by piece, as fast as the client takes them.

        A body that breaks off ends the connection, so that the client sees it is not whole. One
        of unknown length comes in chunks, or up to the connection's end if the client knows none.
        """
        assert response.stream is not None
        if response.close:
            self._closing = True
        self._streaming = asyncio.Event()
        left = response.stream_size or 0
        is_endless = response.stream_size is None
        chunked = is_endless and self._parser.get_http_version() != "1.0"
        if is_endless and not chunked:
            self._closing = response.close = True
        date = self._connections.date(self._loop.time())
        last = self._closing and not self._waiting
        self._write(encode_response(response, date=date, close=last, body=False))
        try:
            async with aclosing(response.stream) as pieces:
                async for piece in pieces:
                    assert piece  # An empty chunk would be the last one.
                    left -= 0 if is_endless else len(piece)
                    self._write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                    while not self._writable:
                        self._streaming.clear()
                        await self._streaming.wait()
            if chunked:
                self._write(_LAST_CHUNK)
        except IsthmusError as error:
            left = 1
            _logger.info("an answer broke off: %s", error, extra={"path": request.raw_path})
        finally:
            self._streaming = None
        if left:
            self.abort()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _pause_body(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def _resume_body(self) -> None:
        if self._transport is not None and self._reading:
            self._transport.resume_reading()

    def _refuse(self, status: int, text: str) -> None:
        """Answer something that is no request of ours, and close."""
        self._closing = True
        if self._task is not None:
            self.abort()  # The answers before would come after this one.
        elif self._transport is not None:
            response = Response(status, [PLAIN], text.encode())
            date = self._connections.date(self._loop.time())
            self._transport.write(encode_response(response, date=date, close=True))
            self._transport.close()

    def _abandon(self) -> None:
        if self._task is not None:
            self._task.cancel()


def encode_response(
    response: Response, *, date: str, close: bool = False, body: bool = True
) -> bytes:
    """Bytes of a response.

    Args:
        response: With headers as they are to be spelled.
        date: Value of the ``Date`` header.
        close: Whether the connection ends after it.
        body: Whether the body is sent; its length is told anyway.
    """
    parts = [_STATUS_LINES.get(response.status) or f"HTTP/1.1 {response.status} \r\n"]
    parts += [f"{name}: {value}\r\n" for name, value in response.headers]
    parts.append(f"Date: {date}\r\n")
    if response.stream is None:
        parts.append(f"Content-Length: {len(response.body)}\r\n")
    elif response.stream_size is not None:
        parts.append(f"Content-Length: {response.stream_size}\r\n")
    elif not response.close:
        parts.append("Transfer-Encoding: chunked\r\n")
    parts.append("Connection: close\r\n\r\n" if close else "\r\n")
    head = "".join(parts).encode("latin-1", "replace")
    return head + response.body if body else head


def http_date(moment: float | None = None) -> str:
    """A moment as HTTP writes it.

    Args:
        moment: Seconds since 1970; None for now.
    """
    return strftime("%a, %d %b %Y %H:%M:%S GMT", gmtime(moment))
