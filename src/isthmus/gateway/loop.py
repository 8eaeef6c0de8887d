"""One thread, one epoll: sockets, timers, calls from other threads, work put off to the next turn.

Every socket is registered once for its whole life, edge-triggered, for reading and writing: its
handler remembers what was reported. A socket that is done with is *retired*: it is closed only
when all events of the turn are handled, so that none of them can hit a new socket that was given
the same descriptor.
"""

import collections
import logging
import math
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from isthmus.gateway.stream import Socket
from isthmus.gateway.timers import Timers

_log = logging.getLogger(__name__)

READABLE: Final = select.EPOLLIN
WRITABLE: Final = select.EPOLLOUT
HANGUP: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
BROKEN: Final = select.EPOLLERR
_EVERYTHING: Final = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_EVENTS_MAX: Final = 256

Handler: TypeAlias = Callable[[int], None]
"""Called with the epoll mask of what happened to a socket."""


class Loop:
    """An epoll loop. All methods are for its own thread, except `call_from_thread`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._retired: list[Socket] = []
        self._put_off: list[Callable[[], None]] = []
        self._calls: collections.deque[Callable[[], None]] = collections.deque()
        # Keeps the descriptor open while it is written to; a signal handler may interrupt `close`.
        self._open = threading.RLock()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._handlers[self._wake] = self._run_calls
        self._timers: list[Timers[Any]] = []
        self.on_bug: Callable[[int], None] = lambda fd: None
        """Called when the handler of a descriptor raised what it should not have."""
        self.now = time.monotonic()
        """Moment at which this turn began, on the monotonic clock."""

    def add_timers(self, timers: Timers[Any]) -> None:
        """Let the loop expire these timers."""
        self._timers.append(timers)

    def watch(self, sock: Socket, handler: Handler) -> None:
        """Report to `handler` whatever happens to a socket, until it is retired."""
        fd = sock.fileno()
        self._handlers[fd] = handler
        self._epoll.register(fd, _EVERYTHING)

    def watch_listener(self, sock: Socket, handler: Handler) -> None:
        """Report waiting connections for as long as there are any (level-triggered)."""
        fd = sock.fileno()
        self._handlers[fd] = handler
        self._epoll.register(fd, select.EPOLLIN)

    def unwatch(self, sock: Socket) -> None:
        """Report nothing more of this socket, which stays open."""
        fd = sock.fileno()
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def hand_over(self, sock: Socket, handler: Handler) -> None:
        """Give a watched socket another handler."""
        self._handlers[sock.fileno()] = handler

    def retire(self, sock: Socket) -> None:
        """Close a socket at the end of this turn; nothing of it is reported any more."""
        self._handlers.pop(sock.fileno(), None)
        self._retired.append(sock)

    def put_off(self, call: Callable[[], None]) -> None:
        """Make a call in the next turn, which starts without waiting."""
        self._put_off.append(call)

    def call_from_thread(self, call: Callable[[], None]) -> None:
        """Make a call in the loop's thread, soon; safe in any thread and in signal handlers.

        Once the loop is closed the call is dropped.
        """
        with self._open:
            if self._wake >= 0:
                self._calls.append(call)
                os.eventfd_write(self._wake, 1)

    def turn(self) -> None:
        """Wait for something to happen and handle all of it."""
        due = math.inf
        for timers in self._timers:
            if timers.due:
                due = min(due, next(iter(timers.due.values())))
        if self._put_off:
            patience = 0.0
        elif due == math.inf:
            patience = -1.0
        else:
            patience = max(due - time.monotonic(), 0.0)
        events = self._epoll.poll(patience, _EVENTS_MAX)
        self.now = time.monotonic()
        put_off, self._put_off = self._put_off, []
        handlers = self._handlers
        for fd, mask in events:
            handler = handlers.get(fd)
            if handler is None:
                continue
            try:
                handler(mask)
            except AssertionError:
                raise
            except Exception:
                _log.exception("a connection failed unexpectedly")
                self.on_bug(fd)
        for call in put_off:
            try:
                call()
            except AssertionError:
                raise
            except Exception:
                _log.exception("a connection failed unexpectedly")
        if due <= self.now:
            for timers in self._timers:
                timers.handle_timer(now=self.now)
        if self._retired:
            for sock in self._retired:
                sock.close()
            self._retired.clear()

    def _run_calls(self, mask: int) -> None:
        os.eventfd_read(self._wake)
        for _ in range(len(self._calls)):
            self._calls.popleft()()

    def close(self) -> None:
        """Close the loop's own descriptors and what was retired."""
        for sock in self._retired:
            sock.close()
        self._retired.clear()
        self._handlers.clear()
        self._epoll.close()
        with self._open:
            os.close(self._wake)
            self._wake = -1
