"""One net/rpc channel: requests one way, each answered before the next is read.

A channel is a yamux stream, or a whole connection for the type byte "single". Neither side
numbers streams or knows time; bytes in, calls and bytes out. Source: protocol/rpc.md §3.1.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

from isthmus.errors import MalformedPacket, ProtocolError
from isthmus.wire.msgpack import Unpacker, unpack
from isthmus.wire.netrpc import (
    EMPTY_BODY,
    RequestHeader,
    ResponseHeader,
    encode_request,
    encode_response,
    request_header,
    response_header,
)

REQUEST_SIZE_MAX: Final = 32 * 1024 * 1024
"""Header and argument; a transaction of 64 values of 512 KiB just fits."""
REPLY_SIZE_MAX: Final = 64 * 1024 * 1024
"""Header and reply."""

_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class CallReceived:
    """Event: a request is complete. Answer it with `ServerChannel.answer` or `.refuse`.

    Attributes:
        header: Its number and method.
        body: The argument as plain values.
    """

    header: RequestHeader
    body: object


@dataclass(frozen=True, slots=True)
class CallMalformed:
    """Event: the bytes are no request; nothing more is read. Send `answer`, then end the channel.

    Attributes:
        error: What is wrong.
        answer: Bytes that tell the caller; empty when not even the header was readable.
    """

    error: ProtocolError
    answer: bytes


ServerEvent: TypeAlias = CallReceived | CallMalformed


class ServerChannel:
    """The answering side of a channel.

    While a call is in flight, what arrives is kept as it is and not consumed: the caller's flow
    control is what bounds it.

    Args:
        size_max: Bytes of a request; a longer one breaks the channel.
    """

    def __init__(self, *, size_max: int = REQUEST_SIZE_MAX) -> None:
        self._size_max = size_max
        self._unpacker = Unpacker(size_max=size_max)
        self._waiting: list[bytes] = []
        self._header: RequestHeader | None = None  # Of the request whose argument is awaited.
        self._in_flight: RequestHeader | None = None
        self._size = 0  # Bytes of the request that is incomplete.
        self._consumed = 0
        self._ended = False
        self._broken = False
        self._events: list[ServerEvent] = []

    @property
    def incomplete_size(self) -> int:
        """Bytes held of a request that is not complete; 0 while a call is in flight."""
        return 0 if self._in_flight else self._size

    @property
    def is_finished(self) -> bool:
        """Whether nothing more is to be answered: the caller has ended or broken the channel."""
        return self._in_flight is None and (self._ended or self._broken) and not self._events

    def receive_data(self, data: bytes) -> None:
        """Accept bytes, however they are cut."""
        self._waiting.append(data)
        self._parse()

    def receive_eof(self) -> None:
        """Accept that the caller sends no more; a call in flight is still answered."""
        self._ended = True

    def answer(self, body: bytes) -> bytes:
        """Answer the call in flight with a reply, already MessagePack; returns bytes to send."""
        return self._respond("", body)

    def refuse(self, error: str) -> bytes:
        """Answer the call in flight with an error text; returns bytes to send."""
        assert error
        return self._respond(error, EMPTY_BODY)

    def take_consumed(self) -> int:
        """Bytes that are no longer held back since the last time this was asked."""
        consumed, self._consumed = self._consumed, 0
        return consumed

    def take_events(self) -> list[ServerEvent]:
        """Remove and return what happened, oldest first; at most one call at a time."""
        events, self._events = self._events, []
        return events

    def _respond(self, error: str, body: bytes) -> bytes:
        assert self._in_flight is not None
        sequence, method = self._in_flight
        self._in_flight = None
        self._parse()
        return encode_response(ResponseHeader(error, sequence, method), body)

    def _parse(self) -> None:
        """Take what waits as far as to the end of one request."""
        while self._in_flight is None and not self._broken:
            try:
                value = self._next_value()
                if value is _MISSING:
                    return
                if self._header is None:
                    self._header = request_header(value)
                    continue
            except MalformedPacket as error:
                self._break(error)
                return
            self._in_flight, self._header = self._header, None
            self._size = 0
            self._events.append(CallReceived(self._in_flight, value))

    def _next_value(self) -> object:
        unpacker = self._unpacker
        packed = unpacker.take()
        if packed is None and self._waiting:
            for data in self._waiting:
                self._size += len(data)
                self._consumed += len(data)
                if self._size > self._size_max:
                    raise MalformedPacket(f"RPC request is larger than {self._size_max} bytes")
                unpacker.feed(data)
            self._waiting.clear()
            packed = unpacker.take()
        if packed is None:
            return _MISSING
        return unpack(packed, offset=unpacker.offset - len(packed))

    def _break(self, error: MalformedPacket) -> None:
        self._broken = True
        self._waiting.clear()
        answer = b""
        if self._header is not None:
            sequence, method = self._header
            response = ResponseHeader(f"codec.decoder: {error}", sequence, method)
            answer = encode_response(response, EMPTY_BODY)
        self._events.append(CallMalformed(error, answer))


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back.

    Attributes:
        error: Text of the failure; empty for success.
        body: The reply, one MessagePack value that `wire.msgpack.unpack` takes.
    """

    error: str
    body: bytes


class ClientChannel:
    """The calling side of a channel: one call at a time.

    Args:
        size_max: Bytes of an answer; a longer one is refused.
    """

    def __init__(self, *, size_max: int = REPLY_SIZE_MAX) -> None:
        self._size_max = size_max
        self._unpacker = Unpacker(size_max=size_max)
        self._asked: RequestHeader | None = None
        self._header: ResponseHeader | None = None
        self._size = 0

    @property
    def is_idle(self) -> bool:
        """Whether a call may be made."""
        return self._asked is None

    def ask(self, header: RequestHeader, body: bytes) -> bytes:
        """Make a call; `body` is the argument, already MessagePack. Returns bytes to send."""
        assert self._asked is None
        self._asked = header
        self._size = 0
        return encode_request(header, body)

    def receive_data(self, data: bytes) -> Reply | None:
        """Accept bytes, however they are cut.

        Returns:
            The reply when its last byte is among them; the channel is idle again.

        Raises:
            ProtocolError: No answer to what was asked; abandon the channel.
        """
        if self._asked is None:
            raise ProtocolError("RPC bytes that answer no call")
        self._size += len(data)
        if self._size > self._size_max:
            raise MalformedPacket(f"RPC answer is larger than {self._size_max} bytes")
        self._unpacker.feed(data)
        if self._header is None:
            packed = self._unpacker.take()
            if packed is None:
                return None
            self._header = self._check(response_header(unpack(packed)))
        body = self._unpacker.take()
        if body is None:
            return None
        reply = Reply(self._header.error, body)
        self._asked = self._header = None
        if self._unpacker.take() is not None:
            raise ProtocolError("RPC bytes that answer no call")
        return reply

    def _check(self, header: ResponseHeader) -> ResponseHeader:
        assert self._asked is not None
        if header.sequence != self._asked.sequence:
            raise ProtocolError(
                f"RPC answer number {header.sequence} to call {self._asked.sequence}"
            )
        return header
