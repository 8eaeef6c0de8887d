"""The client's side of gRPC on one HTTP/2 connection, without I/O.

What etcd's calls need of it and no more: requests are one message, answers are messages and a
status; nothing is pushed, compressed or prioritised. The server is told to keep no table of
headers, so that equal blocks of headers always mean the same and are decoded once.

Frame layout: length 24 bits, type 8, flags 8, stream 32 (its first bit is zero), then the payload.
Message layout in a stream's data: compressed 8 bits (zero), length 32 bits, then the message.

Source: RFC 9113, RFC 7541, gRPC over HTTP2.
"""

import struct
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias
from urllib.parse import unquote

from hpack import Decoder
from hpack.exceptions import HPACKError

from isthmus.errors import ProtocolError

WINDOW: Final = 64 * 1024 * 1024
"""Bytes of a stream that may be on their way while nobody takes its messages."""
MESSAGE_SIZE_MAX: Final = 256 * 1024 * 1024
STREAM_MAX: Final = 1 << 30
"""Number of a stream after which a connection is not used for more."""
STREAMS_MAX: Final = 1000
"""Calls that may be open on one connection."""
HEADERS_SIZE_MAX: Final = 64 * 1024
_BLOCKS_MAX: Final = 256
_FRAME: Final = struct.Struct(">HBBBI")  # The first two are the length.
_PREFIX: Final = struct.Struct(">BI")
_WORD: Final = struct.Struct(">I")
_SETTING: Final = struct.Struct(">HI")
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PUSH, _PING, _AWAY, _WINDOW_UPDATE, _CONTINUATION = (
    0, 1, 3, 4, 5, 6, 7, 8, 9,
)  # fmt: skip
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 0x01, 0x01, 0x04, 0x08, 0x20
_FRAME_SIZE: Final = 16_384
"""Largest payload that we let the server send, which is the protocol's default."""
_WINDOW_DEFAULT: Final = 65_535
_WINDOW_END: Final = (1 << 31) - 1
_CANCEL: Final = 8

STATUS_NAMES: Final = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
"""gRPC's codes."""


@dataclass(frozen=True, slots=True)
class Answered:
    """Event: a message came on a stream."""

    stream: int
    message: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """Event: a call is over; the stream is forgotten.

    Attributes:
        status: One of `STATUS_NAMES`.
        details: The server's text.
    """

    stream: int
    status: str
    details: str


Event: TypeAlias = Answered | Ended


@dataclass(slots=True)
class _Stream:
    window: int
    """Bytes that we may still send."""
    unsent: deque[memoryview] = field(default_factory=deque)
    ends: bool = False
    """Whether we send nothing after `unsent`."""
    received: bytearray = field(default_factory=bytearray)
    owed: int = 0
    """Bytes received that the server was not yet allowed to send again."""
    waiting: int = 0
    """Messages that were told of and not yet taken."""
    has_headers: bool = False


class GrpcConnection:
    """One connection to a server: calls go in, bytes come out; and the other way round.

    Args:
        authority: Name of the server.
        secure: Whether the bytes will go over TLS.
    """

    def __init__(self, authority: str, *, secure: bool) -> None:
        self._authority, self._secure = authority.encode(), secure
        self._requests: dict[tuple[str, tuple[tuple[str, str], ...]], bytes] = {}
        self._streams: dict[int, _Stream] = {}
        self._next = 1
        self._window = self._stream_window = _WINDOW_DEFAULT
        self._frame_size = _FRAME_SIZE
        self._owed = 0
        self._input = bytearray()
        self._headers: tuple[int, int, bytearray] | None = None
        """Stream, flags and beginning of a block of headers that is not complete."""
        self._blocks: dict[bytes, Mapping[str, str]] = {}
        self._decoder = Decoder()
        self._decoder.header_table_size = self._decoder.max_allowed_table_size = 0
        self.is_ready = False
        """Whether the server has answered."""
        self.is_closing = False
        """Whether no more calls may be begun; those that are open go on."""
        settings = ((1, 0), (2, 0), (4, WINDOW))  # Table of headers, push, window.
        self._output: list[bytes] = [
            _PREFACE,
            _frame(_SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in settings)),
            _frame(_WINDOW_UPDATE, 0, 0, _WORD.pack(_WINDOW_END - _WINDOW_DEFAULT)),
        ]

    # Calls ------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether no call is open."""
        return not self._streams

    @property
    def is_full(self) -> bool:
        """Whether as many calls are open as may be."""
        return len(self._streams) >= STREAMS_MAX

    def call(
        self,
        path: str,
        message: bytes,
        *,
        metadata: tuple[tuple[str, str], ...] = (),
        ends: bool = True,
    ) -> int:
        """Begin a call; the number of its stream.

        Args:
            path: ``/package.Service/Method``.
            message: The request.
            metadata: Headers beside gRPC's own; names in lower case.
            ends: Whether the server is told that no more requests follow.
        """
        assert not self.is_closing
        assert not self.is_full
        number, self._next = self._next, self._next + 2
        if self._next > STREAM_MAX:
            self.is_closing = True
        stream = _Stream(self._stream_window, ends=ends)
        self._streams[number] = stream
        self._output.append(
            _frame(_HEADERS, _END_HEADERS, number, self._request_block(path, metadata))
        )
        stream.unsent.append(memoryview(_PREFIX.pack(0, len(message)) + message))
        self._send(number, stream)
        return number

    def cancel(self, stream: int) -> None:
        """Give a call up; one that is over is left alone."""
        if self._streams.pop(stream, None) is not None:
            self._output.append(_frame(_RESET, 0, stream, _WORD.pack(_CANCEL)))
            # The window of the connection is not lost with it: it is counted apart.

    def taken(self, stream: int) -> None:
        """Somebody took a message that was told of: the server may send more."""
        found = self._streams.get(stream)
        if found is not None:
            found.waiting -= 1
            self._allow(stream, found)

    def ping(self) -> None:
        """Ask the server for a sign of life."""
        self._output.append(_frame(_PING, 0, 0, bytes(8)))

    def take_output(self) -> bytes:
        """Remove and return what is to be sent."""
        output = b"".join(self._output)
        self._output.clear()
        return output

    def _request_block(self, path: str, metadata: tuple[tuple[str, str], ...]) -> bytes:
        block = self._requests.get((path, metadata))
        if block is None:
            block = b"".join(
                [
                    b"\x83\x87" if self._secure else b"\x83\x86",  # POST, and the scheme.
                    b"\x04" + _text(path.encode()),
                    b"\x01" + _text(self._authority),
                    b"\x0f\x10" + _text(b"application/grpc"),
                    _literal("te", "trailers"),
                    *(_literal(name, value) for name, value in metadata),
                ]
            )
            if len(self._requests) >= _BLOCKS_MAX:
                self._requests.clear()
            self._requests[path, metadata] = block
        return block

    def _send(self, number: int, stream: _Stream) -> None:
        """Send as much of a stream's data as the windows allow."""
        while stream.unsent:
            data = stream.unsent[0]
            size = min(len(data), self._window, stream.window, self._frame_size)
            if size <= 0 and len(data):
                return
            self._window -= size
            stream.window -= size
            if size == len(data):
                stream.unsent.popleft()
            else:
                stream.unsent[0] = data[size:]
            flags = _END_STREAM if stream.ends and not stream.unsent else 0
            self._output.append(_frame(_DATA, flags, number, data[:size]))

    # From the server --------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> list[Event]:
        """Take bytes from the server; what they mean for the calls, in order.

        Raises:
            ProtocolError: They break the protocol; the connection is of no more use.
        """
        received = self._input
        received += data
        events: list[Event] = []
        start, end = 0, len(received)
        while end - start >= _FRAME.size:
            high, low, kind, flags, number = _FRAME.unpack_from(received, start)
            size = high << 8 | low
            if size > _FRAME_SIZE:
                raise ProtocolError(f"an HTTP/2 frame of {size} bytes")
            if end - start < _FRAME.size + size:
                break
            start += _FRAME.size
            payload = bytes(received[start : start + size])
            start += size
            self._receive_frame(kind, flags, number & _WINDOW_END, payload, events)
        del received[:start]
        return events

    def _receive_frame(
        self, kind: int, flags: int, number: int, payload: bytes, events: list[Event]
    ) -> None:
        if self._headers is not None and kind != _CONTINUATION:
            raise ProtocolError("an HTTP/2 frame within a block of headers")
        try:
            if kind == _DATA:
                self._receive_body(flags, number, payload, events)
            elif kind == _HEADERS:
                self._receive_headers(flags, number, payload, events)
            elif kind == _CONTINUATION:
                self._receive_continuation(flags, number, payload, events)
            elif kind == _SETTINGS:
                self._receive_settings(flags, payload)
            elif kind == _PING:
                if not flags & _ACK:
                    self._output.append(_frame(_PING, _ACK, 0, payload))
            elif kind == _WINDOW_UPDATE:
                self._receive_window(number, _WORD.unpack(payload)[0] & _WINDOW_END)
            elif kind == _RESET:
                if self._streams.pop(number, None) is not None:
                    (code,) = _WORD.unpack(payload)
                    events.append(
                        Ended(number, "UNAVAILABLE", f"the server ended the call: code {code}")
                    )
            elif kind == _AWAY:
                self._receive_away(_WORD.unpack_from(payload)[0] & _WINDOW_END, events)
            elif kind == _PUSH:
                raise ProtocolError("an HTTP/2 push that we do not allow")
        except (struct.error, IndexError) as error:
            raise ProtocolError(f"a malformed HTTP/2 frame of type {kind}") from error

    def _receive_body(self, flags: int, number: int, payload: bytes, events: list[Event]) -> None:
        self._owed += len(payload)
        if self._owed >= WINDOW // 2:  # That of the connection, whoever they were for.
            self._output.append(_frame(_WINDOW_UPDATE, 0, 0, _WORD.pack(self._owed)))
            self._owed = 0
        stream = self._streams.get(number)
        if stream is None:
            return  # It was cancelled.
        stream.owed += len(payload)
        stream.received += _unpadded(flags, payload)
        self._take_messages(number, stream, events)
        if flags & _END_STREAM:  # Without the trailers that say how it went.
            del self._streams[number]
            events.append(Ended(number, "INTERNAL", "the answer has no status"))
        else:
            self._allow(number, stream)

    def _take_messages(self, number: int, stream: _Stream, events: list[Event]) -> None:
        received, start = stream.received, 0
        while len(received) - start >= _PREFIX.size:
            compressed, size = _PREFIX.unpack_from(received, start)
            if compressed or size > MESSAGE_SIZE_MAX:
                raise ProtocolError(f"a gRPC message of {size} bytes, compressed {compressed}")
            end = start + _PREFIX.size + size
            if end > len(received):
                break
            events.append(Answered(number, bytes(received[start + _PREFIX.size : end])))
            stream.waiting += 1
            start = end
        del received[:start]

    def _allow(self, number: int, stream: _Stream) -> None:
        """Let the server send more, unless messages wait to be taken."""
        if stream.owed >= WINDOW // 2 and not stream.waiting:
            self._output.append(_frame(_WINDOW_UPDATE, 0, number, _WORD.pack(stream.owed)))
            stream.owed = 0

    def _receive_headers(
        self, flags: int, number: int, payload: bytes, events: list[Event]
    ) -> None:
        block = _unpadded(flags, payload)
        if flags & _PRIORITY:
            block = block[5:]
        if flags & _END_HEADERS:
            self._receive_block(flags, number, block, events)
        else:
            self._headers = (number, flags, bytearray(block))

    def _receive_continuation(
        self, flags: int, number: int, payload: bytes, events: list[Event]
    ) -> None:
        if self._headers is None or self._headers[0] != number:
            raise ProtocolError("an HTTP/2 continuation of nothing")
        _, first_flags, block = self._headers
        block += payload
        if len(block) > HEADERS_SIZE_MAX:
            raise ProtocolError(f"more than {HEADERS_SIZE_MAX} bytes of headers")
        if flags & _END_HEADERS:
            self._headers = None
            self._receive_block(first_flags, number, bytes(block), events)

    def _receive_block(self, flags: int, number: int, block: bytes, events: list[Event]) -> None:
        headers = self._decode(block)
        stream = self._streams.get(number)
        if stream is None:
            return  # It was cancelled.
        problem = ""
        if not stream.has_headers:
            stream.has_headers = True
            if headers.get(":status") != "200" and "grpc-status" not in headers:
                problem = f"HTTP status {headers.get(':status')}"
        if not flags & _END_STREAM and not problem:
            return
        del self._streams[number]
        if not flags & _END_STREAM:
            self._output.append(_frame(_RESET, 0, number, _WORD.pack(_CANCEL)))
        if problem or "grpc-status" not in headers:
            events.append(Ended(number, "UNKNOWN", problem or "the answer has no status"))
        else:
            details = unquote(headers.get("grpc-message", ""))
            events.append(Ended(number, _status_name(headers["grpc-status"]), details))

    def _decode(self, block: bytes) -> Mapping[str, str]:
        found = self._blocks.get(block)
        if found is None:
            try:
                pairs: Iterable[tuple[bytes, bytes]] = self._decoder.decode(block, raw=True)
            except HPACKError as error:
                raise ProtocolError(f"malformed HTTP/2 headers: {error}") from error
            found = {
                name.decode("latin-1"): value.decode("utf-8", "replace") for name, value in pairs
            }
            if len(self._blocks) >= _BLOCKS_MAX:
                self._blocks.clear()
            self._blocks[block] = found
        return found

    def _receive_settings(self, flags: int, payload: bytes) -> None:
        if flags & _ACK:
            return
        for name, value in _SETTING.iter_unpack(payload):
            if name == 4:
                if value > _WINDOW_END:
                    raise ProtocolError(f"an HTTP/2 window of {value} bytes")
                for stream in self._streams.values():
                    stream.window += value - self._stream_window
                self._stream_window = value
            elif name == 5:
                self._frame_size = max(_FRAME_SIZE, value)
        self._output.append(_frame(_SETTINGS, _ACK, 0, b""))
        self.is_ready = True
        self._send_all()

    def _receive_window(self, number: int, size: int) -> None:
        if number == 0:
            self._window += size
            self._send_all()
        elif (stream := self._streams.get(number)) is not None:
            stream.window += size
            self._send(number, stream)

    def _send_all(self) -> None:
        for number, stream in self._streams.items():
            if self._window <= 0:
                return
            self._send(number, stream)

    def _receive_away(self, last: int, events: list[Event]) -> None:
        """The server accepts no more calls, and did not begin those after the last."""
        self.is_closing = True
        for number in [number for number in self._streams if number > last]:
            del self._streams[number]
            events.append(Ended(number, "UNAVAILABLE", "the server goes away"))


def _frame(kind: int, flags: int, stream: int, payload: bytes | memoryview) -> bytes:
    size = len(payload)
    return b"".join((_FRAME.pack(size >> 8, size & 0xFF, kind, flags, stream), payload))


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & _PADDED:
        return payload
    return payload[1 : len(payload) - payload[0]]


def _literal(name: str, value: str) -> bytes:
    """A header that is kept in no table."""
    return b"\x00" + _text(name.encode()) + _text(value.encode())


def _text(data: bytes) -> bytes:
    """A string of RFC 7541 §5.2, not compressed; its length has a prefix of seven bits."""
    size = len(data)
    if size < 0x7F:
        return bytes([size]) + data
    size -= 0x7F
    head = bytearray(b"\x7f")
    while size >= 0x80:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + data


def _status_name(text: str) -> str:
    """The name of a status of gRPC."""
    number = int(text) if text.isascii() and text.isdigit() else 2
    return STATUS_NAMES[number] if number < len(STATUS_NAMES) else "UNKNOWN"
