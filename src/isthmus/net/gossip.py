"""Runs gossip: a thread with an event loop of its own, on which pools live.

Gossip that is late is taken for dead, so nothing else runs on this loop, and whatever blocks the
agent's main loop does not hold it up. Whole values cross the threads: calls one way, events the
other.
"""

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from isthmus.errors import Unavailable
from isthmus.gossip.conflict import ConflictLost
from isthmus.gossip.keys import KeyOperation, KeyResult
from isthmus.gossip.queries import QueryReceived, QueryResult, Question
from isthmus.gossip.roster import (
    Member,
    MemberFailed,
    MemberJoined,
    MemberLeft,
    MemberReaped,
    MemberStatus,
    MemberUpdated,
)
from isthmus.gossip.serf import UserEventReceived
from isthmus.model.coordinate import Coord
from isthmus.net.gossip_driver import PoolDriver
from isthmus.net.gossip_pool import JoinFailed, Mailbox, PoolConfig, PoolEvent
from isthmus.net.network import Inbound, Network
from isthmus.wire.serf import Query

__all__ = [
    "ConflictLost",
    "GossipRunner",
    "GossipThread",
    "JoinFailed",
    "KeyOperation",
    "KeyResult",
    "Member",
    "MemberFailed",
    "MemberJoined",
    "MemberLeft",
    "MemberReaped",
    "MemberStatus",
    "MemberUpdated",
    "Pool",
    "PoolConfig",
    "PoolEvent",
    "QueryReceived",
    "QueryResult",
    "UserEventReceived",
]

T = TypeVar("T")

_logger = logging.getLogger(__name__)


class GossipRunner(Protocol):
    """Where pools live: `GossipThread`, or the one loop of a simulated agent.

    Its methods are called on the main loop.
    """

    def start(self) -> None:
        """Start it; pools can be opened on return."""

    async def stop(self) -> None:
        """Close all pools without leaving them, and end."""

    async def open_pool(
        self, config: PoolConfig, *, on_event: Callable[[PoolEvent], None]
    ) -> "Pool":
        """See `GossipThread.open_pool`."""

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine where the pools live and wait for its result.

        Raises:
            Unavailable: It does not run.
        """

    def post(self, callback: Callable[[], None]) -> bool:
        """Run a function where the pools live soon; False: it does not run any more."""

    async def close_driver(self, driver: "PoolDriver") -> None:
        """Close one pool; called where the pools live."""


class GossipThread:
    """The thread and its loop. Its methods are called on the main loop.

    Args:
        network: How to listen and dial.
        on_failure: Called on the gossip thread when a defect of ours stopped it.
    """

    def __init__(
        self, network: Network, *, on_failure: Callable[[BaseException], None] | None = None
    ) -> None:
        self._network, self._on_failure = network, on_failure
        self._thread = threading.Thread(target=self._run, name="gossip", daemon=True)
        self._started = threading.Event()
        self._finished: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._drivers: set[PoolDriver] = set()
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Start it; returns once its loop runs."""
        self._thread.start()
        self._started.wait()

    async def stop(self) -> None:
        """Close all pools without leaving them, end the loop and the thread."""
        if self._loop is None or self._finished.done():
            return
        assert self._stopping is not None
        self._loop.call_soon_threadsafe(self._stopping.set)
        await asyncio.wrap_future(self._finished)
        self._thread.join()

    async def open_pool(
        self, config: PoolConfig, *, on_event: Callable[[PoolEvent], None]
    ) -> "Pool":
        """Listen and become a member of a pool of one.

        Args:
            config: The pool.
            on_event: Called on this loop for every event, in order.

        Raises:
            OSError: The port is taken, or the address is not ours.
            InvalidRequest: The tags are too long, or a key has the wrong length.
        """
        mailbox = Mailbox(asyncio.get_running_loop(), on_event)
        driver = PoolDriver(config, self._network, mailbox)
        await self.call(self._open(driver))
        return Pool(self, driver)

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the gossip loop and wait for its result.

        Raises:
            Unavailable: The thread does not run.
        """
        if self._loop is None or self._finished.done():
            work.close()
            raise Unavailable("the gossip thread does not run")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise Unavailable("the gossip thread was stopped") from None

    def post(self, callback: Callable[[], None]) -> bool:
        """Run a function on the gossip loop soon; False: it does not run any more."""
        if self._loop is None or self._finished.done():
            return False
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:  # Its loop was closed this moment.
            return False
        return True

    async def _open(self, driver: "PoolDriver") -> None:
        await driver.open()
        self._drivers.add(driver)

    async def close_driver(self, driver: "PoolDriver") -> None:
        """Close one pool; on the gossip loop."""
        self._drivers.discard(driver)
        await driver.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            self.failure = self.failure or error
            _logger.exception("the gossip thread failed")
        finally:
            self._started.set()
            self._finished.set_result(None)
            if self.failure is not None and self._on_failure is not None:
                self._on_failure(self.failure)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._on_exception)
        self._stopping = asyncio.Event()
        self._started.set()
        await self._stopping.wait()
        while self._drivers:
            await self._drivers.pop().close()

    def _on_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback or task died: a defect of ours stops the thread, all else is logged."""
        error = context.get("exception")
        _logger.error("gossip: %s", context.get("message"), exc_info=error)
        if isinstance(error, AssertionError):
            self.failure = error
            assert self._stopping is not None
            self._stopping.set()


class Pool:
    """A pool that we are a member of. Its methods are called on the main loop unless they say so.

    Made by `GossipRunner.open_pool`.
    """

    def __init__(self, thread: GossipRunner, driver: "PoolDriver") -> None:
        self._thread, self._driver = thread, driver

    @property
    def address(self) -> tuple[str, int]:
        """Address and port that we listen on. Any thread."""
        return self._driver.address

    def members(self) -> tuple[Member, ...]:
        """All members, ourselves included, as of now. Any thread."""
        return self._driver.members

    def local_member(self) -> Member:
        """Ourselves. Any thread."""
        return self._driver.local_member

    def coordinate(self) -> Coord:
        """Our network coordinate; the origin as long as we know nothing. Any thread."""
        return self._driver.coordinates.own

    def coordinates(self) -> Mapping[str, Coord]:
        """Last known coordinate of each member, ours included, as of now. Any thread."""
        return self._driver.coordinates.known.copy()  # One step, whatever its thread does.

    def coordinate_of(self, name: str) -> Coord | None:
        """Last known coordinate of a member; None when there is none. Any thread."""
        return self._driver.coordinates.known.get(name)

    async def join(self, addresses: Sequence[str], *, ignore_old: bool = True) -> int:
        """Join through each of ``[name/]host[:port]``.

        Args:
            addresses: At most `JOIN_ADDRESSES_MAX`.
            ignore_old: Whether user events from before are of no interest.

        Returns:
            How many members were contacted.

        Raises:
            JoinFailed: None was.
        """
        return await self._thread.call(self._driver.join(addresses, ignore_old=ignore_old))

    async def leave(self) -> None:
        """Leave for good and wait until that is known; the pool is still to be closed."""
        await self._thread.call(self._driver.leave())

    async def force_leave(self, name: str, prune: bool = False) -> None:
        """Declare that a failed member left; with `prune` forget it at once.

        Raises:
            NotFound: There is no member of that name.
        """
        await self._thread.call(self._driver.force_leave(name, prune))

    async def update_tags(self, tags: Mapping[str, str]) -> None:
        """Replace our tags; the others are told.

        Raises:
            InvalidRequest: They are too long; nothing changed.
        """
        await self._thread.call(self._driver.update_tags(tags))

    async def user_event(self, name: str, payload: bytes, *, coalesce: bool = False) -> int:
        """Tell all members an event; return its Lamport time.

        Raises:
            InvalidRequest: It is too long; nothing was sent.
        """
        return await self._thread.call(self._driver.user_event(name, payload, coalesce))

    async def query(
        self,
        name: str,
        payload: bytes,
        *,
        nodes: Sequence[str] = (),
        tags: Mapping[str, str] = MappingProxyType({}),
        relay_factor: int = 0,
        acks: bool = False,
        timeout: float | None = None,
    ) -> QueryResult:
        """Ask all members, ourselves included; wait until everyone answered or time is over.

        Args:
            name: What is asked; the members' applications know what it means.
            payload: Goes with it.
            nodes: Only these members answer; empty: all.
            tags: Only members answer in whose tags these regular expressions (RE2) are found.
            relay_factor: Members that carry each answer beside the direct way.
            acks: Whether everyone who is meant sends a receipt too.
            timeout: Seconds; None: as the size of the pool suggests.

        Raises:
            InvalidRequest: It is too long, or something is out of range; nothing was sent.
            Unavailable: Too many queries of ours are open, or the pool is closed.
        """
        question = Question(
            name=name,
            payload=payload,
            nodes=nodes,
            tags=tags,
            relay_factor=relay_factor,
            acks=acks,
            timeout=timeout,
        )
        return await self._thread.call(self._driver.query(question))

    async def keys(
        self, operation: KeyOperation, key: bytes = b"", *, relay_factor: int = 0
    ) -> KeyResult:
        """Let all members, ourselves included, do this to their keyrings.

        What members could not do is in the result, and so is who did not answer: see
        `KeyResult.error`.

        Raises:
            InvalidRequest: `relay_factor` is out of range; nothing was sent.
            Unavailable: Too many queries of ours are open, or the pool is closed.
        """
        return await self._thread.call(self._driver.keys(operation, key, relay_factor))

    async def respond(self, query: Query, payload: bytes) -> None:
        """Answer a query that `QueryReceived` told of, once and within its time-out.

        Raises:
            InvalidRequest: The answer is too long, late, or not the first; nothing was sent.
        """
        await self._thread.call(self._driver.respond(query, payload))

    async def stats(self) -> dict[str, str]:
        """Figures for an operator."""
        return await self._thread.call(self._driver.stats())

    async def acks(self) -> dict[str, float]:
        """Seconds since members answered a probe of ours last, by name.

        An answer travels its own way, so it proves both directions.
        """
        return await self._thread.call(self._driver.acks())

    async def conflicts(self) -> dict[str, tuple[str, float]]:
        """Names that two members claim: the other's address, and seconds since it did so."""
        return await self._thread.call(self._driver.conflicts())

    def hold(self) -> None:
        """Start nothing by ourselves until `release`; go on answering. Any thread."""
        self._thread.post(self._driver.hold)

    def release(self) -> None:
        """Take probes, rumours and exchanges up again. Any thread."""
        self._thread.post(self._driver.release)

    def accept_packets(self, inbound: Inbound) -> None:
        """Take over a connection that brings packets through a gateway. Any thread."""
        if not self._thread.post(lambda: self._driver.accept_packets(inbound)):
            inbound.close()

    def accept_stream(self, inbound: Inbound) -> None:
        """Take over a gossip stream that came through a gateway. Any thread."""
        if not self._thread.post(lambda: self._driver.accept_stream(inbound)):
            inbound.close()

    async def close(self) -> None:
        """Stop without leaving: the others will see us fail, unless `leave` was called before."""
        with contextlib.suppress(Unavailable):  # A thread that does not run holds no pools.
            await self._thread.call(self._thread.close_driver(self._driver))
