"""Locks that were lost lately: closed for a while, so that whoever lost one may notice.

There is no clock here: whoever has one is told of each lock that closes, and opens it again. Every
server of a datacenter keeps the same list, so that a new leader knows of locks lost before.
Source: protocol/http-api.md §6.4, "lock-delay".
"""

from collections.abc import Callable, Sequence
from typing import Final

from isthmus.model.kv import DirEntry
from isthmus.model.session import LOCK_DELAY_MAX, Session
from isthmus.store.catalog import RowChange
from isthmus.store.kv import KV
from isthmus.store.session import SESSIONS
from isthmus.units import Duration

CLOSED_MAX: Final = 262_144
"""Locks that are closed at once; beyond that the one that closed first opens."""


class LockDelays:
    """Keys whose locks nobody may take yet.

    Args:
        closed_max: How many there may be.

    Attributes:
        told: Called with each key that closes, and for how long.
    """

    def __init__(self, *, closed_max: int = CLOSED_MAX) -> None:
        self._closed_max = closed_max
        self._closed: dict[bytes, None] = {}
        self.told: Callable[[bytes, Duration], object] = _ignore

    def __contains__(self, key: object) -> bool:
        return key in self._closed

    def __len__(self) -> int:
        return len(self._closed)

    def close(self, key: bytes, delay: Duration) -> None:
        """Let nobody take a lock until it is opened."""
        self._closed.pop(key, None)
        self._closed[key] = None
        if len(self._closed) > self._closed_max:
            self.open(next(iter(self._closed)))
        self.told(key, delay)

    def open(self, key: bytes) -> None:
        """Let a lock be taken again; one that is open is no error."""
        self._closed.pop(key, None)

    def clear(self) -> None:
        """Open all: other data is there now."""
        self._closed.clear()

    def observe(self, changes: Sequence[RowChange]) -> None:
        """Close the locks that were lost in a commit of another server.

        The commit does not say which keys were given up just before their session ended; their
        locks close too, which delays who wants them, and endangers nobody.
        """
        delays: dict[str, Duration] = {}
        for change in changes:
            if change.table == SESSIONS.name and change.new is None and change.old is not None:
                session: Session = change.old
                delays[session.id.lower()] = min(session.lock_delay, LOCK_DELAY_MAX)
        if not any(delays.values()):
            return
        for change in changes:
            if change.table == KV.name and change.old is not None:
                old: DirEntry = change.old
                delay = delays.get(old.session.lower(), Duration(0))
                if delay > 0 and (change.new is None or change.new.session != old.session):
                    self.close(change.pk, delay)


def _ignore(key: bytes, delay: Duration) -> None:
    """Nobody has a clock."""
