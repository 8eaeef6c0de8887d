"""A client on TCP: each message after its size, as two bytes (RFC 1035 §4.2.2, RFC 7766)."""

import asyncio
from typing import Final, Protocol

from isthmus.dns.request import HEADER_SIZE, REQUEST_SIZE_MAX

PENDING_MAX: Final = 64
"""Requests of a connection that are being answered; meanwhile no more are read from it."""

_SIZE_SIZE: Final = 2


class Answering(Protocol):
    """What a connection needs of its server."""

    def submit(self, data: bytes, client: str, connection: "Connection") -> bool:
        """Have a request answered with `Connection.answer`; whether an answer will come."""

    def closed(self, connection: "Connection") -> None:
        """The connection has ended."""


class Connection(asyncio.Protocol):
    """Takes requests apart, and sends answers in the order in which they are ready.

    Attributes:
        client: IP address.
        heard_at: When something came or went last, on the loop's clock.

    Args:
        server: Answers.
        client: IP address.
    """

    def __init__(self, server: Answering, client: str) -> None:
        self._server, self.client = server, client
        self._clock = asyncio.get_running_loop()
        self.heard_at = self._clock.time()
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._pending = 0
        self._reading = self._writable = True
        self._is_over = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it is being answered."""
        return not self._pending

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._transport = None
        self._server.closed(self)

    def data_received(self, data: bytes) -> None:
        """Take what came; whole requests are answered."""
        self._buffer += data
        self._take()

    def eof_received(self) -> bool:
        """The client sends no more; what it asked is still answered."""
        self._is_over = True
        return self._pending > 0

    def pause_writing(self) -> None:
        """The client does not read its answers: it may not ask more."""
        self._writable = False
        self._flow()

    def resume_writing(self) -> None:
        """It does again."""
        self._writable = True
        self._take()

    def answer(self, data: bytes | None) -> None:
        """Send an answer; None: there is none after all."""
        self._pending -= 1
        if self._transport is None:
            return
        if data is not None:
            self.heard_at = self._clock.time()
            self._transport.write(len(data).to_bytes(_SIZE_SIZE, "big") + data)
        if self._is_over and not self._pending:
            self._transport.close()
            return
        self._take()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _take(self) -> None:
        """Submit the whole requests in the buffer, as far as there is room for them."""
        buffer = self._buffer
        while self._can_take and len(buffer) >= _SIZE_SIZE:
            size = int.from_bytes(buffer[:_SIZE_SIZE], "big")
            if not HEADER_SIZE <= size <= REQUEST_SIZE_MAX:
                self.abort()  # Nothing of ours, and nobody knows where it ends.
                return
            end = _SIZE_SIZE + size
            if len(buffer) < end:
                break
            data = bytes(buffer[_SIZE_SIZE:end])
            del buffer[:end]
            self.heard_at = self._clock.time()  # Not before it is whole: slow ones are idle.
            self._pending += 1
            if not self._server.submit(data, self.client, self):
                self._pending -= 1
        self._flow()

    @property
    def _can_take(self) -> bool:
        return self._writable and self._pending < PENDING_MAX and self._transport is not None

    def _flow(self) -> None:
        """Read on, or wait until there is room."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._can_take and not self._reading:
            self._reading = True
            self._transport.resume_reading()
        elif not self._can_take and self._reading:
            self._reading = False
            self._transport.pause_reading()
