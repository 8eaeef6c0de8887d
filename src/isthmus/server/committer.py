"""Group commit: commands queue, run one by one on an overlay, and become durable together.

While one batch is being committed the next one gathers. A caller is answered when its batch is
durable, in order; readers never see a row that is not. Those who were just answered often write
again at once: for a part of the time that a commit takes the next batch waits for them, else each
would go with every other batch. A writer that is alone waits for nobody.
Source: design of storage, §6 (which has no such wait).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

from isthmus.errors import EngineError, NoLeader, RequestError, Unavailable
from isthmus.store import commands
from isthmus.store.commands import Command
from isthmus.store.engine import (
    Engine,
    EngineUnavailable,
    Fenced,
    Lead,
    NoSpace,
    OutcomeUnknown,
    TooLarge,
)
from isthmus.store.store import Store
from isthmus.store.table import Overlay

T = TypeVar("T")

QUEUE_COMMANDS_MAX: Final = 20_000
QUEUE_SIZE_MAX: Final = 64 * 1024 * 1024
BATCH_COMMANDS_MAX: Final = 1024
BATCH_SIZE_MAX: Final = 1024 * 1024
BATCH_TIME_MAX: Final = 0.02
"""Seconds that running a batch's commands may hold the event loop."""
QUEUE_TIME_MAX: Final = 10.0
GATHER_COMMANDS_MAX: Final = 64
"""With so many commands a batch waits for no more."""
GATHER_SHARE: Final = 0.5
"""How long it waits for them at most, as a share of the time that the last commit took."""
GATHER_TIME_MIN: Final = 0.0005
"""Shorter waits are not worth their timer."""
EXCLUSIVE_MAX: Final = 8
"""Pieces of work that may wait for their turn between two batches."""
_CONFIRM: Final = "confirm"  # `EngineError.operation` of `Engine.confirm`.
_HARMLESS: Final = (NoSpace, TooLarge, EngineUnavailable)
"""Errors after which the engine is as before the commit, so that the leader goes on."""


class Busy(Unavailable):
    """Too many writes wait, or this one waited too long. It did not take effect; try later."""


@dataclass(frozen=True, slots=True)
class _Exclusive:
    work: Callable[[], Awaitable[Any]]
    reason: str
    future: asyncio.Future[Any]


@dataclass(slots=True)
class _Entry:
    command: Command
    size: int
    deadline: float
    future: asyncio.Future[object]


_Outcome: TypeAlias = tuple[asyncio.Future[object], object]
"""A caller and its result or exception."""


class Committer:
    """The leader's writer. `run` does the work; `submit` adds to it.

    Args:
        store: Tables that committed batches are merged into.
        engine: Where batches become durable.
        lead: Leadership that each commit is fenced with.
        batch_id: Makes ids of 16 random bytes.
        queue_commands_max: How many commands may wait.
        queue_size_max: How many bytes they may have together.
        batch_commands_max: How many commands one batch may hold.
        batch_time_max: Seconds that running them may take; the batch then ends.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        *,
        lead: Lead,
        batch_id: Callable[[], bytes],
        queue_commands_max: int = QUEUE_COMMANDS_MAX,
        queue_size_max: int = QUEUE_SIZE_MAX,
        batch_commands_max: int = BATCH_COMMANDS_MAX,
        batch_time_max: float = BATCH_TIME_MAX,
    ) -> None:
        self._store, self._engine, self._lead = store, engine, lead
        self._batch_id = batch_id
        self._queue_commands_max, self._queue_size_max = queue_commands_max, queue_size_max
        self._batch_commands_max = batch_commands_max
        self._batch_time_max = batch_time_max
        self._queue: deque[_Entry] = deque()
        self._queue_size = 0
        self._filled = asyncio.Event()
        self._expected = 0
        """Commands that the next batch waits for, until `_expected_until` at most."""
        self._expected_until = 0.0
        self._gathered: asyncio.Future[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._exclusive: deque[_Exclusive] = deque()
        self._held_by = ""
        """What writes wait for; empty while they do not."""
        self._closed = False
        self.committed_at = 0.0
        """When the last commit that was acknowledged began, on the loop's clock."""
        self.revision = 0
        """The engine's, of that commit; 0 before the first."""
        self.batch_count = 0
        self.command_count = 0

    @property
    def is_open(self) -> bool:
        """Whether commands are accepted."""
        return not self._closed

    async def submit(self, command: Command) -> object:
        """Queue a command and wait until it is durable; return its result.

        Raises:
            RequestError: The command is refused; nothing changed.
            NoLeader: This server does not lead (any more); nothing changed.
            Busy: The queue is full, or the wait was too long; nothing changed.
            EngineError: The commit failed; the class says what is known.
        """
        if self._closed:
            raise NoLeader
        size = commands.size(command)
        full = len(self._queue) >= self._queue_commands_max
        if full or self._queue_size + size > self._queue_size_max:
            raise Busy("server busy: too many writes are waiting")
        loop = asyncio.get_running_loop()
        entry = _Entry(command, size, loop.time() + QUEUE_TIME_MAX, loop.create_future())
        self._queue.append(entry)
        self._queue_size += size
        self._filled.set()
        if len(self._queue) >= self._expected:
            self._stop_gathering()
        if self._expiry is None:
            self._expiry = loop.call_at(entry.deadline, self._expire)
        return await entry.future

    def use(self, engine: Engine, lead: Lead) -> None:
        """Commit to another engine from now on; only from within `exclusive`."""
        self._engine, self._lead = engine, lead
        self.revision = 0  # It was the other engine's.

    async def exclusive(self, work: Callable[[], Awaitable[T]], *, reason: str) -> T:
        """Do something with the engine between two batches; writes are held meanwhile.

        Args:
            work: What to do; it commits by itself, and leaves the store at the engine's index.
            reason: What a write that waited too long is told.

        Returns:
            What `work` returned.

        Raises:
            NoLeader: This server does not lead (any more).
            Busy: Too much waits for its turn already.
            Exception: What `work` raised.
        """
        if self._closed:
            raise NoLeader
        if len(self._exclusive) >= EXCLUSIVE_MAX:
            raise Busy(f"server busy: {self._held_by or reason}")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._exclusive.append(_Exclusive(work, reason, future))
        self._filled.set()
        return await future

    async def run(self) -> None:
        """Commit what is queued, batch by batch, until `close` or until the engine fails.

        Raises:
            EngineError: This server must stop leading. Everything queued got `NoLeader`.
        """
        try:
            while not self._closed:
                if self._exclusive:
                    await self._do(self._exclusive.popleft())
                    continue
                if not self._queue:
                    self._filled.clear()
                    await self._filled.wait()
                    continue
                await self._gather()
                await self._commit()
        finally:
            self.close()

    def close(self) -> None:
        """Accept no more; what is queued and not in a batch gets `NoLeader`. Idempotent."""
        self._closed = True
        self._filled.set()
        self._stop_gathering()
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        while self._queue:
            _fail(self._take().future, NoLeader())
        while self._exclusive:
            _fail(self._exclusive.popleft().future, NoLeader())

    async def _gather(self) -> None:
        """Wait a little for those who were answered with the last batch."""
        loop = asyncio.get_running_loop()
        if len(self._queue) >= self._expected:
            return
        if self._expected_until - loop.time() < GATHER_TIME_MIN:
            return
        self._gathered = loop.create_future()
        timer = loop.call_at(self._expected_until, self._stop_gathering)
        await self._gathered
        timer.cancel()

    def _stop_gathering(self) -> None:
        gathered, self._gathered = self._gathered, None
        if gathered is not None and not gathered.done():
            gathered.set_result(None)

    async def _do(self, exclusive: _Exclusive) -> None:
        """Do a piece of work of `exclusive`'s callers; its errors are theirs, and the engine's."""
        self._held_by = exclusive.reason
        try:
            result = await exclusive.work()
        except EngineError as error:
            _fail(exclusive.future, NoLeader() if isinstance(error, Fenced) else error)
            if not isinstance(error, _HARMLESS):
                raise
        except AssertionError:
            _fail(exclusive.future, OutcomeUnknown("the server stopped", operation="commit"))
            raise
        except Exception as error:  # The border of a request: it alone fails.
            _fail(exclusive.future, error)
        except BaseException:
            _fail(exclusive.future, OutcomeUnknown("the server stopped", operation="commit"))
            raise
        else:
            if not exclusive.future.done():
                exclusive.future.set_result(result)
            self.committed_at = asyncio.get_running_loop().time()
        finally:
            self._held_by = ""

    async def _commit(self) -> None:
        """Make one batch of what is queued, and answer its callers."""
        outcomes: list[_Outcome] = []
        clock = asyncio.get_running_loop()
        started = clock.time()
        try:
            overlay, index = self._execute(outcomes)
            await self._make_durable(overlay, index)
        except EngineError as error:
            for future, outcome in outcomes:
                _fail(future, _blame(error, outcome))
            if not isinstance(error, _HARMLESS):
                raise
        except BaseException:  # We are cancelled, or broken: nobody may wait for ever.
            for future, _ in outcomes:
                _fail(future, OutcomeUnknown("the server stopped", operation="commit"))
            raise
        else:
            for future, outcome in outcomes:
                if isinstance(outcome, Exception):
                    _fail(future, outcome)
                elif not future.done():
                    future.set_result(outcome)
            now = clock.time()
            self._expected = min(GATHER_COMMANDS_MAX, len(outcomes) + len(self._queue))
            self._expected_until = now + GATHER_SHARE * (now - started)

    def _execute(self, outcomes: list[_Outcome]) -> tuple[Overlay, int]:
        """Run queued commands on an overlay, up to the bounds of a batch.

        Args:
            outcomes: Gets each caller's future with its result or error, in order.

        Returns:
            The overlay, and the index it leads to.
        """
        overlay, index, size = self._store.overlay(), self._store.index, 0
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._batch_time_max
        while self._queue and len(outcomes) < self._batch_commands_max:
            if size and size + self._queue[0].size > BATCH_SIZE_MAX:
                break
            if outcomes and loop.time() > deadline:
                break
            entry = self._take()
            if entry.future.done():
                continue  # Its caller is gone.
            size += entry.size
            outcome: object = None
            try:
                outcome, changed = commands.apply(overlay, entry.command, index + 1)
                index += changed
            except AssertionError:
                outcomes.append((entry.future, None))
                raise
            except Exception as error:  # The border of a request: it alone fails.
                outcome = error
            outcomes.append((entry.future, outcome))
        return overlay, index

    async def _make_durable(self, overlay: Overlay, index: int) -> None:
        base = self._store.index
        if index == base:
            # Every command was refused, or found things as it wants them. That counts only while
            # nobody else can have changed those things.
            await self._engine.confirm(self._lead)
            return
        count = index - base
        batch = self._store.batch(overlay, index=index, batch_id=self._batch_id(), commands=count)
        started = asyncio.get_running_loop().time()
        head = await self._engine.commit(self._lead, base, batch)
        self._store.merge(overlay, index=index)
        self.committed_at, self.revision = started, head.revision
        self.batch_count += 1
        self.command_count += count

    def _take(self) -> _Entry:
        entry = self._queue.popleft()
        self._queue_size -= entry.size
        return entry

    def _expire(self) -> None:
        """Fail what has waited too long, oldest first."""
        loop = asyncio.get_running_loop()
        self._expiry = None
        while self._queue:
            entry = self._queue[0]
            if entry.deadline > loop.time():
                self._expiry = loop.call_at(entry.deadline, self._expire)
                return
            reason = self._held_by or "the write waited too long"
            _fail(self._take().future, Busy(f"server busy: {reason}"))


def _blame(error: EngineError, outcome: object) -> Exception:
    """What a caller is told when its batch was not committed."""
    if isinstance(outcome, RequestError):
        return outcome
    # Where only a confirmation failed there was nothing to commit, so nothing took effect.
    return NoLeader() if isinstance(error, Fenced) or error.operation == _CONFIRM else error


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
