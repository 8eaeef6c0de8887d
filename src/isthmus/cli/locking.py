"""Locks and semaphores over sessions and keys, laid out as Consul's client library has them.

==============================  ================================================================
lock at a prefix                the key ``PREFIX/.lock``, held by a session, with `LOCK_FLAGS`
semaphore at a prefix           ``PREFIX/.lock``: limit and holders as JSON, with
                                `SEMAPHORE_FLAGS`; each contender's session holds the key
                                ``PREFIX/<session>``, and counts only while it does
==============================  ================================================================

So programs of both kinds exclude one another, and a prefix used for both is noticed.
"""

import contextlib
import json
import posixpath
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final

from isthmus.cli.client import RequestFailed
from isthmus.cli.lock_calls import Held, LockCalls
from isthmus.errors import IsthmusError
from isthmus.units import SECOND

KEY: Final = ".lock"
LOCK_FLAGS: Final = 0x2DDCCBC058A50C18
SEMAPHORE_FLAGS: Final = 0xE0F69A2BAA414DE0
SESSION_TTL: Final = "15s"
"""Time to live of the session; Consul's default."""
RENEW_INTERVAL: Final = 7.5
RENEW_RETRY: Final = 1.0
WAIT: Final = 15 * SECOND
"""Longest wait of one question for a lock, in nanoseconds; Consul's default."""
WATCH_WAIT: Final = 60 * SECOND
"""The same for one that we hold."""
DELAY_RETRY: Final = 5.0
"""Seconds after which a lock that was lost lately is tried again; Consul's default."""
MONITOR_RETRY: Final = 1.0
"""Seconds between two tries to see whether a lock is still held."""
_SERVER_ERRORS: Final = range(500, 600)


class LockFailed(IsthmusError):
    """A lock cannot be had, given up or cleaned up. Its text ends a sentence."""


class LockInUse(LockFailed):
    """Others use it, so it was not cleaned up."""


class Holding(ABC):
    """A lock or semaphore of ours: taken once, watched, given up, cleaned up.

    Args:
        calls: Asks the agent.
        name: Name of the session.
        timeout: Seconds after which taking it is given up; 0 for never.
        retries: Server errors in a row that are borne while it is held.
        clock: Seconds on a monotonic clock.

    Attributes:
        lost: Set once it is not ours any more; always after it was given up.
    """

    def __init__(
        self,
        calls: LockCalls,
        *,
        name: str,
        timeout: float = 0.0,
        retries: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._calls, self._name = calls, name
        self._timeout, self._retries, self._clock = timeout, retries, clock
        self.lost = threading.Event()
        self._over = threading.Event()
        self.session = ""

    def acquire(self, stop: threading.Event, *, lost: Callable[[], object] = lambda: None) -> bool:
        """Take it; False if `stop` was set or the time is over before that.

        Args:
            stop: Gives up.
            lost: Called, in another thread, when it is not ours any more.

        Raises:
            LockFailed: The agent refuses, or the key is used for something else.
        """
        try:
            self.session = self._create_session()
        except RequestFailed as error:
            raise LockFailed(f"failed to create session: {error}") from error
        threading.Thread(target=self._renew, daemon=True).start()
        held = False
        try:
            held = self._take(stop)
        finally:
            if not held:
                self._end_session()
        if held:
            threading.Thread(target=self._watch, args=(lost,), daemon=True).start()
        return held

    def release(self) -> None:
        """Give it up, lost or not.

        Raises:
            LockFailed: The agent does not answer well; the session ends by itself then.
        """
        self._over.set()
        try:
            self._give_up()
        except RequestFailed as error:
            raise LockFailed(f"failed to release lock: {error}") from error
        finally:
            self._end_session()

    @abstractmethod
    def clean_up(self) -> None:
        """Delete what is left behind, if nobody uses it.

        Raises:
            LockInUse: Somebody does.
            LockFailed: The agent does not answer well, or the key is used for something else.
        """

    @abstractmethod
    def _create_session(self) -> str:
        """Begin the session."""

    @abstractmethod
    def _attempt(self, wait: int, index: int) -> "_Attempt":
        """Look how things are, waiting for a change after `index`; take it if it is free."""

    @abstractmethod
    def _give_up(self) -> None:
        """Give it up."""

    @abstractmethod
    def _look(self, index: int) -> tuple[bool, int]:
        """Whether it is still ours, waiting for a change after `index`; and the next index."""

    def _take(self, stop: threading.Event) -> bool:
        started, index, wait = self._clock(), 0, WAIT
        while not stop.is_set():
            try:
                attempt = self._attempt(wait, index)
            except RequestFailed as error:
                raise LockFailed(f"failed to take lock: {error}") from error
            if attempt.held:
                return True
            if self._timeout:
                left = self._timeout - (self._clock() - started)
                if left <= 0:
                    return False
                wait = min(WAIT, int(left * SECOND) + 1)
            index = attempt.index
            if attempt.delayed and stop.wait(min(DELAY_RETRY, wait / SECOND)):
                return False
        return False

    def _renew(self) -> None:
        """Keep the session alive until it is over."""
        interval = RENEW_INTERVAL
        while not self._over.wait(interval):
            interval = RENEW_INTERVAL
            try:
                if not self._calls.renew_session(self.session):
                    return  # Whoever watches the key will see it.
            except RequestFailed:
                interval = RENEW_RETRY

    def _watch(self, lost: Callable[[], object]) -> None:
        """Notice when it is not ours any more."""
        index, retries = 0, self._retries
        while not self._over.is_set():
            try:
                ours, index = self._look(index)
            except RequestFailed as error:
                if retries <= 0 or (error.status and error.status not in _SERVER_ERRORS):
                    break
                retries, index = retries - 1, 0
                self._over.wait(MONITOR_RETRY)
                continue
            except LockFailed:
                break
            if not ours:
                break
            retries = self._retries
        self.lost.set()
        lost()

    def abandon(self) -> None:
        """Have the session end, and with it the lock, in whatever state that is."""
        if self.session:
            self._end_session()

    def _end_session(self) -> None:
        self._over.set()
        with contextlib.suppress(RequestFailed):  # It ends by itself.
            self._calls.destroy_session(self.session)


class _Attempt:
    """What came of an attempt.

    Attributes:
        held: It is ours.
        index: Nothing will change before this index has passed; 0: try again at once.
        delayed: It is free, and may not be taken yet.
    """

    __slots__ = ("delayed", "held", "index")

    def __init__(self, *, held: bool = False, index: int = 0, delayed: bool = False) -> None:
        self.held, self.index, self.delayed = held, index, delayed


class Lock(Holding):
    """A lock, held by one.

    Args:
        calls: Asks the agent.
        prefix: Where its key is.
        options: As `Holding`'s.
    """

    def __init__(self, calls: LockCalls, prefix: str, **options: Any) -> None:
        super().__init__(calls, **options)
        self.key: Final = _join(prefix, KEY)

    def clean_up(self) -> None:
        """See `Holding.clean_up`."""
        try:
            found, _ = self._calls.read(self.key)
            if not found:
                return
            self._check(found[0])
            if found[0].session or not self._calls.delete(self.key, index=found[0].modify_index):
                raise LockInUse("lock in use")
        except RequestFailed as error:
            raise LockFailed(f"failed to remove lock: {error}") from error

    def _create_session(self) -> str:
        return self._calls.create_session(self._name, SESSION_TTL)

    def _attempt(self, wait: int, index: int) -> _Attempt:
        found, reached = self._calls.read(self.key, index=index, wait=wait)
        if found:
            self._check(found[0])
            if found[0].session == self.session:
                return _Attempt(held=True)
            if found[0].session:
                return _Attempt(index=reached)
        if self._calls.lock(self.key, self.session, flags=LOCK_FLAGS):
            return _Attempt(held=True)
        found, reached = self._calls.read(self.key)
        if found and found[0].session:
            return _Attempt(index=reached)
        return _Attempt(delayed=True)

    def _check(self, entry: Held) -> None:
        if entry.flags != LOCK_FLAGS:
            raise LockFailed(f"the key {self.key} is there and is no lock")

    def _give_up(self) -> None:
        self._calls.unlock(self.key, self.session, flags=LOCK_FLAGS)

    def _look(self, index: int) -> tuple[bool, int]:
        found, reached = self._calls.read(self.key, index=index, wait=WATCH_WAIT, consistent=True)
        return bool(found) and found[0].session == self.session, reached


class Semaphore(Holding):
    """A semaphore, held by a limited number.

    Args:
        calls: Asks the agent.
        prefix: Where its keys are.
        limit: How many may hold it; all contenders must agree.
        options: As `Holding`'s.
    """

    def __init__(self, calls: LockCalls, prefix: str, limit: int, **options: Any) -> None:
        super().__init__(calls, **options)
        self._prefix, self._limit = prefix, limit
        self.key: Final = _join(prefix, KEY)

    def clean_up(self) -> None:
        """See `Holding.clean_up`."""
        try:
            entries, _ = self._calls.read(self._prefix, recurse=True)
            entry = self._entry(entries)
            if entry is None:
                return
            _, holders = self._decode(entry, entries)
            if holders or not self._calls.delete(self.key, index=entry.modify_index):
                raise LockInUse("semaphore in use")
        except RequestFailed as error:
            raise LockFailed(f"failed to remove semaphore: {error}") from error

    def _create_session(self) -> str:
        # A contender's key goes with its session, or it would be left behind for ever.
        session = self._calls.create_session(self._name, SESSION_TTL, behavior="delete")
        if not self._calls.lock(self._own_key(session), session, flags=SEMAPHORE_FLAGS):
            raise LockFailed("failed to make contender entry")
        return session

    def _own_key(self, session: str) -> str:
        return _join(self._prefix, session)

    def _attempt(self, wait: int, index: int) -> _Attempt:
        entries, reached = self._calls.read(self._prefix, recurse=True, index=index, wait=wait)
        entry = self._entry(entries)
        limit, holders = self._decode(entry, entries)
        if limit != self._limit:
            raise LockFailed(f"semaphore limit conflict (lock: {limit}, local: {self._limit})")
        if len(holders) >= limit:
            return _Attempt(index=reached)
        return _Attempt(held=self._swap(entry, [*holders, self.session]))

    def _give_up(self) -> None:
        while True:
            found, _ = self._calls.read(self.key)
            entry = found[0] if found else None
            _, holders = self._decode(entry, None)
            if self.session not in holders:
                break
            if self._swap(entry, [holder for holder in holders if holder != self.session]):
                break
        self._calls.delete(self._own_key(self.session))

    def _look(self, index: int) -> tuple[bool, int]:
        entries, reached = self._calls.read(
            self._prefix, recurse=True, index=index, wait=WATCH_WAIT, consistent=True
        )
        _, holders = self._decode(self._entry(entries), entries)
        return self.session in holders, reached

    def _entry(self, entries: list[Held]) -> Held | None:
        return next((entry for entry in entries if entry.key == self.key), None)

    def _decode(self, entry: Held | None, entries: list[Held] | None) -> tuple[int, list[str]]:
        """Limit and holders; of the holders those that live, if all entries are given."""
        if entry is None:
            return self._limit, []
        if entry.flags != SEMAPHORE_FLAGS:
            raise LockFailed(f"the key {self.key} is there and is no semaphore")
        if not entry.value:
            return self._limit, []
        try:
            value = json.loads(entry.value)
            limit, holders = int(value["Limit"]), list(value["Holders"] or ())
        except (ValueError, KeyError, TypeError) as error:
            raise LockFailed(f"lock decoding failed: {error!r}") from error
        alive = None if entries is None else {other.session for other in entries if other.session}
        return limit, [holder for holder in holders if alive is None or holder in alive]

    def _swap(self, entry: Held | None, holders: list[str]) -> bool:
        value = {"Limit": self._limit, "Holders": dict.fromkeys(holders, True)}
        return self._calls.swap(
            self.key,
            json.dumps(value, separators=(",", ":")).encode(),
            flags=SEMAPHORE_FLAGS,
            index=0 if entry is None else entry.modify_index,
        )


def _join(prefix: str, name: str) -> str:
    """Join as Consul's client does, so that both mean the same key."""
    return posixpath.normpath(f"{prefix}/{name}").lstrip("/")
