"""The agent's cache: replies kept for callers who would rather have an old one than wait.

The replies of reads that can block are kept up to date: from the first question on, one blocking
query per entry follows what it shows, so a hit is as new as the last change that reached us. Other
replies are as old as the question that fetched them, and callers say how old is too old.

While the servers cannot be reached, what was known is answered, and how long it has been so.
Source: protocol/http-api.md §2, ``cached``.
"""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from operator import attrgetter
from random import Random
from typing import Any, Final

from msgspec.structs import replace

from isthmus.errors import (
    ACL_NOT_FOUND,
    PERMISSION_DENIED,
    EngineError,
    IsthmusError,
    ProtocolError,
    RequestError,
    Unavailable,
)
from isthmus.federation.pacing import Backoff
from isthmus.model.query import CachedReply, QueryMeta, QueryOptions
from isthmus.model.record import Record
from isthmus.net.tasks import TaskScope, pause
from isthmus.units import Duration

logger = logging.getLogger(__name__)

ENTRIES_MAX: Final = 4096
"""Replies kept; then the one that nobody asked for the longest goes."""
IDLE_MAX: Final = 72 * 3600.0
"""Seconds that a reply is kept that nobody asks for; Consul's default."""
FOLLOW_WAIT: Final = 600.0
"""Seconds that the query which follows a reply may block; Consul's."""
WAIT_DEFAULT: Final = 300.0
"""Seconds that a caller waits for a change who does not say; Consul's default_query_time."""

FOLLOWED: Final = frozenset({"Catalog.ListServices", "Catalog.ServiceNodes", "Health.ServiceNodes"})
"""Methods whose replies are kept up to date."""
FETCHED: Final = frozenset({"Catalog.ListDatacenters", "PreparedQuery.Execute"})
"""Methods whose replies are fetched when they are asked for."""

_RETRY_FIRST, _RETRY_LONGEST, _RETRY_JITTER = 0.25, 60.0, 0.2
_ZERO: Final = Duration(0)

_PATIENCE: Final[dict[str, Any]] = {
    "min_query_index": 0,
    "max_query_time": _ZERO,
    "allow_stale": True,
    "use_cache": False,
    "max_age": _ZERO,
    "must_revalidate": False,
    "stale_if_error": _ZERO,
    "max_stale_duration": _ZERO,
}
"""What callers say about waiting and about age, as the cache itself asks. Any server may answer:
what is kept gets old anyway."""

_Key = tuple[Any, ...]


class _Entry:
    """One question and what is known of its answer.

    Args:
        method: RPC method.
        question: Its argument, without what callers say about waiting and about age.

    Attributes:
        reply: The newest; None before the first.
        index: Index of it, at least 1.
        error: Why the last fetch failed; None when it did not.
        fetched_at: When the reply came.
        lost_at: Since when fetches fail; None while they do not.
        used_at: When somebody asked last.
        task: Fetches; done or None when nothing is on its way.
        wanted: Wakes the task while it waits after a failure.
    """

    __slots__ = (
        "error",
        "fetched_at",
        "index",
        "lost_at",
        "method",
        "news",
        "question",
        "reply",
        "task",
        "used_at",
        "wanted",
    )

    def __init__(self, method: str, question: QueryOptions) -> None:
        self.method, self.question = method, question
        self.reply: Any = None
        self.index = 0
        self.error: IsthmusError | None = None
        self.fetched_at = self.used_at = 0.0
        self.lost_at: float | None = None
        self.task: asyncio.Task[None] | None = None
        self.wanted = asyncio.Event()
        self.news = asyncio.Event()

    def take(self, reply: Any, now: float) -> None:
        """A fetch succeeded."""
        if isinstance(reply, QueryMeta) and self.method in FOLLOWED:
            index = reply.index or 1
        else:
            index = self.index + 1  # Executions all show the same index.
        if self.reply is None or index != self.index:
            self.reply = reply  # Else the known one: doors have its encoded form.
        self.index, self.fetched_at = index, now
        self.error, self.lost_at = None, None
        self.tell()

    def fail(self, error: IsthmusError, now: float) -> None:
        """A fetch failed; the reply stays."""
        self.error = error
        if self.lost_at is None:
            self.lost_at = now
        self.tell()

    def tell(self) -> None:
        """Wake whoever waits for the end of a fetch."""
        news, self.news = self.news, asyncio.Event()
        news.set()


class CallCache:
    """Replies to reads, on behalf of the agent's doors.

    Args:
        rpc: Carries out calls.
        rng: Source of jitter.
        entries_max: Replies kept.
    """

    def __init__(
        self,
        rpc: Callable[[str, Record], Awaitable[object]],
        *,
        rng: Random,
        entries_max: int = ENTRIES_MAX,
    ) -> None:
        self._rpc, self._rng, self._entries_max = rpc, rng, entries_max
        self._entries: dict[_Key, _Entry] = {}  # The one used last is the last.
        self._tasks = TaskScope()
        self.hit_count = self.miss_count = 0

    def __len__(self) -> int:
        """How many replies are kept or on their way."""
        return len(self._entries)

    def keeps(self, method: str) -> bool:
        """Whether replies of a method are kept."""
        return method in FOLLOWED or method in FETCHED

    async def get(self, method: str, request: QueryOptions) -> CachedReply:
        """Answer a read from the cache, or through it.

        Args:
            method: One of `FOLLOWED` or `FETCHED`.
            request: With the options that say how old a reply may be. One that names an index
                waits until what is kept has changed.

        Raises:
            IsthmusError: There is no reply yet, or none that is new enough, and fetching failed.
        """
        assert self.keeps(method), method
        key = _key(method, request)
        clock = asyncio.get_running_loop()
        entry = self._enter(key, request)
        if self._is_good(entry, request):
            self.hit_count += 1
            return CachedReply(entry.reply, hit=True, age=self._age(entry))
        self.miss_count += 1
        deadline = clock.time() + (request.max_query_time.seconds or WAIT_DEFAULT)
        request = replace(request, must_revalidate=False)
        while True:
            news = entry.news
            self._fetch(key, entry)
            try:
                # Without any reply the caller gets that of the first fetch, however long it takes.
                async with asyncio.timeout_at(None if entry.reply is None else deadline):
                    await news.wait()
            except TimeoutError:
                return CachedReply(entry.reply, hit=False, age=0.0)
            if entry.error is not None:
                return self._despite(entry, request, entry.error)
            if self._is_good(entry, request):
                return CachedReply(entry.reply, hit=False, age=0.0)
            entry = self._enter(key, request)

    async def close(self) -> None:
        """Follow nothing any more."""
        await self._tasks.close()

    def _enter(self, key: _Key, request: QueryOptions) -> _Entry:
        """The entry of a question, now the one used last; the one unused for longest may go."""
        entry = self._entries.pop(key, None) or _Entry(key[0], replace(request, **_PATIENCE))
        self._entries[key] = entry
        entry.used_at = asyncio.get_running_loop().time()
        while True:
            oldest = next(iter(self._entries))
            idle = entry.used_at - self._entries[oldest].used_at
            if len(self._entries) <= self._entries_max and idle <= IDLE_MAX:
                return entry
            self._drop(oldest)

    def _drop(self, key: _Key) -> None:
        entry = self._entries.pop(key)
        if entry.task is not None:
            entry.task.cancel()
        entry.tell()

    def _is_good(self, entry: _Entry, request: QueryOptions) -> bool:
        """Whether a reply is what its caller wants."""
        if entry.reply is None:
            return False
        if entry.method in FOLLOWED:
            return not request.min_query_index or request.min_query_index < entry.index
        age = asyncio.get_running_loop().time() - entry.fetched_at
        return not request.must_revalidate and (
            request.max_age <= 0 or age <= request.max_age.seconds
        )

    def _age(self, entry: _Entry) -> float:
        now = asyncio.get_running_loop().time()
        if entry.method in FOLLOWED:
            return 0.0 if entry.lost_at is None else now - entry.lost_at
        return now - entry.fetched_at

    def _despite(self, entry: _Entry, request: QueryOptions, error: IsthmusError) -> CachedReply:
        """What a caller gets when fetching failed: the old reply if it said so.

        Raises:
            IsthmusError: The failure.
        """
        age = asyncio.get_running_loop().time() - entry.fetched_at
        if entry.reply is None or not 0 <= age <= request.stale_if_error.seconds:
            raise error
        return CachedReply(entry.reply, hit=True, age=age)

    def _fetch(self, key: _Key, entry: _Entry) -> None:
        """See that a fetch is on its way."""
        entry.wanted.set()
        if entry.task is None or entry.task.done():
            work = self._follow if key[0] in FOLLOWED else self._fetch_once
            entry.task = self._tasks.spawn(work(key, entry))

    async def _fetch_once(self, key: _Key, entry: _Entry) -> None:
        await self._call(entry, entry.question)
        if entry.reply is None and self._entries.get(key) is entry:
            del self._entries[key]

    async def _follow(self, key: _Key, entry: _Entry) -> None:
        """Keep a reply up to date until nobody has asked for it for long."""
        clock = asyncio.get_running_loop()
        backoff = Backoff(
            first=_RETRY_FIRST, longest=_RETRY_LONGEST, jitter=_RETRY_JITTER, rng=self._rng
        )
        while clock.time() - entry.used_at <= IDLE_MAX:
            request = entry.question
            if entry.reply is not None and entry.error is None:  # Else we need to know at once.
                wait = Duration.of(FOLLOW_WAIT)
                request = replace(request, min_query_index=entry.index, max_query_time=wait)
            await self._call(entry, request)
            if entry.error is None:
                backoff.reset()
                continue
            if entry.reply is None or _is_denied(entry.error):
                break
            entry.wanted.clear()
            await pause(entry.wanted, backoff.failed())
        if self._entries.get(key) is entry:
            del self._entries[key]

    async def _call(self, entry: _Entry, request: QueryOptions) -> None:
        clock = asyncio.get_running_loop()
        try:
            reply = await self._rpc(entry.method, request)
        except (RequestError, Unavailable, EngineError, ProtocolError) as error:
            logger.debug("the cache keeps what it has: %s", error, extra={"rpc": entry.method})
            entry.fail(error, clock.time())
        else:
            entry.take(reply, clock.time())


def _key(method: str, request: QueryOptions) -> _Key:
    """What tells two questions apart: everything but `_PATIENCE`."""
    values = _telling(type(request))(request)
    return (method, *[tuple(sorted(v.items())) if isinstance(v, dict) else v for v in values])


@functools.cache
def _telling(kind: type[QueryOptions]) -> Callable[[QueryOptions], tuple[Any, ...]]:
    """What gets the values of a request that tell questions apart."""
    return attrgetter(*(name for name in kind.__struct_fields__ if name not in _PATIENCE))


def _is_denied(error: IsthmusError) -> bool:
    """Whether the token may not read that (any more)."""
    text = str(error)
    return PERMISSION_DENIED in text or ACL_NOT_FOUND in text
