"""Times of sessions: the leader ends those that are not renewed; every server opens lost locks.

Only who leads may say that a session has outlived its time, and only by its own clock: the rows
know no moments. A new leader gives every session its whole time again. The grace of twice the
time to live is Consul's, whose contract is that none ends earlier than its time.
Source: protocol/http-api.md §6.4.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from isthmus.errors import EngineError, RequestError, Unavailable
from isthmus.model.session import SESSION_DESTROY, Session, SessionRequest
from isthmus.model.timing import Timing
from isthmus.server.deadlines import Deadlines
from isthmus.store.commands import Command
from isthmus.store.delays import LockDelays
from isthmus.store.session import Sessions
from isthmus.units import Duration, parse_duration

TTL_MULTIPLIER: Final = 2
"""A session ends after so many times its time to live without a renewal; Consul's number."""
RETRY: Final = 1.0
"""Seconds after which a session that could not be ended is tried again."""
ENDING_MAX: Final = 256
"""Sessions that are ended at once; the others follow."""
_OPENED_MAX: Final = 4096
"""Locks that are opened before other work gets its turn."""

_logger = logging.getLogger(__name__)


class SessionTimers:
    """Ends sessions that outlived their time, and opens locks whose delay is over.

    Args:
        sessions: The sessions of this server's store; their changes come here.
        delays: The closed locks of this server's store; those that close come here.
        commit: Makes a command durable.
        dc: Our datacenter.

    Attributes:
        endings: How long it took to end sessions that outlived their time.
    """

    def __init__(
        self,
        sessions: Sessions,
        delays: LockDelays,
        *,
        commit: Callable[[Command], Awaitable[object]],
        dc: str,
    ) -> None:
        self._sessions, self._delays, self._commit, self._dc = sessions, delays, commit, dc
        self._ends: Deadlines[str] = Deadlines()
        self._opens: Deadlines[bytes] = Deadlines()
        self._ending: set[str] = set()
        self._leading = False
        self._term = 0
        """Another number after each change of whether we lead."""
        self._moved = asyncio.Event()
        self.endings: Final = Timing()
        sessions.changed = self._changed
        sessions.loaded = self._restart
        delays.told = self._closed

    @property
    def active_count(self) -> int:
        """How many sessions have a time to live that this server watches."""
        return len(self._ends)

    def lead(self, leading: bool) -> None:
        """Begin or cease to lead; who begins gives every session its whole time."""
        if leading != self._leading:
            self._leading = leading
            self._term += 1
            self._restart()

    def renew(self, session: Session) -> bool:
        """Give a session its whole time again; False when it is just being ended."""
        if session.id in self._ending:
            return False
        if self._leading:
            self._watch(session)
        return True

    async def run(self) -> None:
        """Do what is due, until cancelled."""
        clock = asyncio.get_running_loop()
        while True:
            self._moved.clear()
            now = clock.time()
            for key in self._opens.take_due(now, count_max=_OPENED_MAX):
                self._delays.open(key)
            due = self._ends.take_due(now, count_max=ENDING_MAX)
            if due:
                await self._end(due)
                continue
            await self._sleep()

    async def _sleep(self) -> None:
        """Wait for the next moment, or until another one may be the next."""
        moments = [at for at in (self._ends.next(), self._opens.next()) if at is not None]
        try:
            async with asyncio.timeout_at(min(moments, default=None)):
                await self._moved.wait()
        except TimeoutError:
            return

    async def _end(self, ids: list[str]) -> None:
        clock = asyncio.get_running_loop()
        started, term = clock.time(), self._term
        self._ending.update(ids)
        try:
            results = await asyncio.gather(
                *(self._commit(self._ending_of(session_id)) for session_id in ids),
                return_exceptions=True,
            )
        finally:
            self._ending.difference_update(ids)
        self.endings.add(clock.time() - started)
        for session_id, result in zip(ids, results, strict=True):
            if isinstance(result, RequestError | Unavailable | EngineError):
                if term == self._term:  # Else a new leader gives it its whole time again.
                    _logger.warning("could not end an expired session: %s", result)
                    self._ends.set(session_id, clock.time() + RETRY)
            elif isinstance(result, BaseException):
                raise result
            else:
                _logger.debug("a session expired: %s", session_id)

    def _ending_of(self, session_id: str) -> SessionRequest:
        session = Session(id=session_id)
        return SessionRequest(datacenter=self._dc, op=SESSION_DESTROY, session=session)

    def _watch(self, session: Session) -> None:
        ttl = time_to_live(session)
        if ttl > 0:
            now = asyncio.get_running_loop().time()
            self._ends.set(session.id, now + TTL_MULTIPLIER * ttl.seconds)
            self._moved.set()

    def _changed(self, old: Session | None, new: Session | None) -> None:
        """A session of the store began, changed or ended."""
        if old is not None and new is None:
            self._ends.discard(old.id)
        elif new is not None and self._leading:
            self._watch(new)

    def _restart(self) -> None:
        """Other sessions are there, or we lead since now, or do not any more."""
        self._ends.clear()
        if self._leading:
            for session in self._sessions.list().value:
                self._watch(session)

    def _closed(self, key: bytes, delay: Duration) -> None:
        """A lock was lost."""
        self._opens.set(key, asyncio.get_running_loop().time() + delay.seconds)
        self._moved.set()


def time_to_live(session: Session) -> Duration:
    """Time to live of a session; 0 for none."""
    try:
        return parse_duration(session.ttl) if session.ttl else Duration(0)
    except ValueError:
        return Duration(0)  # Refused where sessions are created; it came out of a foreign snapshot.
