"""Runs a yamux session (`rpc.yamux`) on a connection."""

import asyncio
from abc import ABC, abstractmethod

from isthmus.rpc.yamux import (
    Output,
    Role,
    SendData,
    Session,
    SessionClosed,
    SessionConfig,
)


class MultiplexProtocol(asyncio.Protocol, ABC):
    """Carries bytes and time to a session, and its outputs to the connection and a subclass.

    Subclasses use `session` and call `flush` or `flush_soon` afterwards; `on_event` may use it
    freely.
    """

    session: Session
    transport: asyncio.Transport
    gateway: str = ""
    """``host:port`` of the mesh gateway that the connection leads through, set by the dialler."""

    def __init__(self, role: Role, config: SessionConfig) -> None:
        self._role, self._config = role, config
        self._loop = asyncio.get_running_loop()
        self._writable = True
        self._flushing = False
        self._flush_due = False
        self._timer: asyncio.TimerHandle | None = None
        self.lost_error: Exception | None = None
        """Why the connection was lost, once it is; None when it was just closed."""

    @abstractmethod
    def on_event(self, event: Output) -> None:
        """Take an event of the session, never `SendData`.

        `SessionClosed` is the last one, and comes exactly once.
        """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the session."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.session = Session(self._role, self._config, now=self._loop.time())
        self._set_timer()

    def data_received(self, data: bytes) -> None:
        """Pass bytes to the session."""
        self.session.receive_data(data)
        self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        """End the session, if it has not ended the connection itself."""
        self.lost_error = error
        self.session.receive_eof()
        self.flush()

    def pause_writing(self) -> None:
        """Let data wait in the session."""
        self._writable = False
        self.session.pause_writing()

    def resume_writing(self) -> None:
        """Let data flow again."""
        self._writable = True
        self.session.resume_writing()
        self.flush()

    def flush_soon(self) -> None:
        """Flush in the loop's next turn, so that what comes in one turn goes out in one write."""
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Carry out the session's outputs, and those that follow from them."""
        if self._flushing:
            return  # The caller is `on_event`; the loop below goes on.
        self._flushing = True
        self._flush_due = False
        try:
            while outputs := self._take_outputs():
                data: list[bytes] = []
                for output in outputs:
                    if isinstance(output, SendData):
                        data.append(output.data)
                    else:
                        self.on_event(output)
                if data and not self.transport.is_closing():
                    self.transport.write(data[0] if len(data) == 1 else b"".join(data))
                if isinstance(outputs[-1], SessionClosed) and not self.transport.is_closing():
                    self.transport.close()
        finally:
            self._flushing = False
        self._set_timer()

    def _take_outputs(self) -> list[Output]:
        if self._writable:
            self.session.resume_writing()
        return self.session.take_outputs()

    def _set_timer(self) -> None:
        """Wake not later than the session wants; too early does no harm and saves rescheduling."""
        due = self.session.next_timer()
        if self._timer is not None and (due is None or self._timer.when() > due):
            self._timer.cancel()
            self._timer = None
        if self._timer is None and due is not None:
            self._timer = self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.session.handle_timer(now=self._loop.time())
        self.flush()
