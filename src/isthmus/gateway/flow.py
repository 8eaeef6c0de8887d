"""One direction of a connection: bytes from a source socket to a sink socket, then its end.

Small messages are copied through one buffer that all flows share. A read that fills the buffer
turns the flow to bulk: the kernel moves its bytes through a pipe (`splice`), and no byte enters
this process. A bulk flow whose moves stay small for a while turns back.

Nothing is read that the sink does not take: a slow reader holds back its sender, and a flow holds
at most one buffer, or one pipe, of bytes.

Source: protocol/mesh.md §9.
"""

import os
import socket
from typing import Final

from isthmus.gateway.pipes import Pipe, PipePool
from isthmus.gateway.stream import Socket

BUFFER_SIZE: Final = 16 * 1024
ROUNDS_MAX: Final = 8
"""Moves of one flow in one turn; then the others have theirs."""
_SPLICE_SIZE: Final = 1024 * 1024
_THIN_SIZE: Final = 2 * 1024
_THIN_MAX: Final = 16
"""So many moves of at most `_THIN_SIZE` in a row end bulk."""
_SPLICE: Final[int] = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Carriage:
    """What all flows of one loop share: the copy buffer and the pipes."""

    __slots__ = ("buffer", "pipes", "view")

    def __init__(self, pipes: PipePool) -> None:
        self.buffer = bytearray(BUFFER_SIZE)
        self.view = memoryview(self.buffer)
        self.pipes = pipes


class Flow:
    """Bytes from `source` to `sink`.

    The flags `readable`, `writable` and `hangup` are set by whoever hears of events (which are
    edge-triggered) and cleared here when a call says otherwise.

    Attributes:
        readable: The source may have bytes, or its end.
        writable: The sink may take bytes.
        hangup: The source's end, or an error, may lie behind the bytes it still has, and will
            not be reported again: it has to be read until it says so.
        ended: The end of the source was passed on to the sink; nothing will follow.
        moved: Bytes that left the source.
    """

    __slots__ = (
        "_bulk",
        "_carriage",
        "_in_pipe",
        "_pending",
        "_pipe",
        "_thin",
        "ended",
        "hangup",
        "moved",
        "readable",
        "sink",
        "source",
        "writable",
    )

    def __init__(self, source: Socket, sink: Socket, carriage: Carriage) -> None:
        self.source, self.sink = source, sink
        self._carriage = carriage
        self.readable = False
        self.writable = True
        self.hangup = False
        self.ended = False
        self.moved = 0
        self._bulk = False
        self._thin = 0
        self._pending = b""  # Copied from the source, not yet taken by the sink.
        self._pipe: Pipe | None = None
        self._in_pipe = 0

    def push(self, data: bytes) -> None:
        """Pass on bytes that were read from the source by somebody else.

        Raises:
            OSError: The sink is broken.
        """
        self.moved += len(data)
        self._pending += data
        self._send_pending()

    def pump(self) -> bool:
        """Move what can be moved without waiting, within a fair share.

        Returns:
            Whether there may be more to do at once.

        Raises:
            OSError: Either socket is broken; the connection cannot go on.
        """
        for _ in range(ROUNDS_MAX):
            if not self.writable:
                return False
            if self._pending:
                self._send_pending()
            elif self._in_pipe:
                self._empty_pipe()
            elif not self.readable or self.ended:
                return False
            elif self._bulk:
                self._splice()
            else:
                self._copy()
        return self.writable and (self.readable or self._in_pipe > 0) and not self.ended

    def close(self) -> None:
        """Let go of the pipe; the sockets are the connection's."""
        if self._pipe is not None:
            self._carriage.pipes.discard(self._pipe)
            self._pipe = None
            self._in_pipe = 0

    def _copy(self) -> None:
        carriage = self._carriage
        try:
            size = self.source.recv_into(carriage.buffer)
        except BlockingIOError:
            self.readable = False
            return
        if size == BUFFER_SIZE:
            self._bulk = True
        elif size == 0:
            self._end()
            return
        elif not self.hangup:
            self.readable = False  # A short read took all there was; more will be reported.
        self.moved += size
        try:
            sent = self.sink.send(carriage.view[:size])
        except BlockingIOError:
            sent = 0
        if sent < size:
            self.writable = False
            self._pending = bytes(carriage.view[sent:size])

    def _send_pending(self) -> None:
        try:
            sent = self.sink.send(self._pending)
        except BlockingIOError:
            sent = 0
        self._pending = self._pending[sent:]
        if self._pending:
            self.writable = False

    def _splice(self) -> None:
        pipe = self._pipe
        if pipe is None:
            pipe = self._pipe = self._carriage.pipes.borrow()
            if pipe is None:
                self._copy()
                return
        # The pipe is empty here, so "would block" can only mean that the source has nothing.
        try:
            size = os.splice(self.source.fileno(), pipe.writer, _SPLICE_SIZE, flags=_SPLICE)
        except BlockingIOError:
            self.readable = False
            self._return_pipe()
            return
        if size == 0:
            self._return_pipe()
            self._end()
            return
        self.moved += size
        self._in_pipe = size
        self._thin = self._thin + 1 if size <= _THIN_SIZE else 0
        self._empty_pipe()

    def _empty_pipe(self) -> None:
        pipe, sink = self._pipe, self.sink.fileno()
        assert pipe is not None
        while self._in_pipe:
            try:
                self._in_pipe -= os.splice(pipe.reader, sink, self._in_pipe, flags=_SPLICE)
            except BlockingIOError:
                self.writable = False
                return
        if self._thin > _THIN_MAX:
            self._bulk, self._thin = False, 0
            self._return_pipe()

    def _return_pipe(self) -> None:
        if self._pipe is not None:
            self._carriage.pipes.give_back(self._pipe)
            self._pipe = None

    def _end(self) -> None:
        self.readable, self.ended = False, True
        self.sink.shutdown(socket.SHUT_WR)
