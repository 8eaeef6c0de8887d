"""What a gateway's routes are made of: read from a server's own store, or from afar by a client.

A client agent keeps the answers of three blocking reads. While no server answers, the last ones
stay: a gateway goes on forwarding on the routes that it has.

Source: protocol/mesh.md §3, protocol/federation.md §17, §18.
"""

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Final, Protocol

from msgspec.structs import replace

from isthmus.errors import EngineError, ProtocolError, RequestError, Unavailable
from isthmus.federation.pacing import Backoff
from isthmus.model.catalog import (
    CONSUL_SERVICE,
    CheckServiceNode,
    IndexedCheckServiceNodes,
    IndexedNodesWithGateways,
    ServiceDumpRequest,
    ServiceRequest,
)
from isthmus.model.federation import FederationState, IndexedFederationStates
from isthmus.model.query import DatacenterRequest, QueryOptions
from isthmus.model.record import Record
from isthmus.net.tasks import TaskScope
from isthmus.server.blocking import Blocking
from isthmus.store.answer import Answer
from isthmus.store.store import Store

logger = logging.getLogger(__name__)

PROXY_KIND: Final = "connect-proxy"
_RETRY_FIRST, _RETRY_LONGEST, _RETRY_JITTER = 0.25, 15.0, 0.2
_PACE: Final = 0.1
"""Seconds between two reads of one table: what changes all the time is not read each time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """The rows that routes are made of.

    Attributes:
        servers: Instances of the servers' own service.
        proxies: Those of all sidecar proxies.
        states: Federation states of all datacenters.
    """

    servers: tuple[CheckServiceNode, ...] = ()
    proxies: tuple[CheckServiceNode, ...] = ()
    states: tuple[FederationState, ...] = ()


class Reading(Protocol):
    """The rows as they were, to be waited past."""

    @property
    def value(self) -> Known:
        """The rows."""


class Tables(Protocol):
    """Where the rows are."""

    async def read(self, timeout: float) -> Reading:
        """The rows as they are known now.

        Raises:
            Unavailable: Nothing is known yet, and was not for `timeout` seconds.
        """

    async def changed(self, since: Any, timeout: float) -> None:
        """Return when the rows are not those of a reading any more, or after so many seconds.

        Raises:
            Unavailable: We stop.
        """

    async def close(self) -> None:
        """Read no more."""


class StoreTables:
    """The rows in a server's own store.

    Args:
        store: The store.
        blocking: Waits for changes of it.
    """

    def __init__(self, store: Store, blocking: Blocking) -> None:
        self._store, self._blocking = store, blocking

    async def read(self, timeout: float) -> Answer[Known]:
        """See `Tables.read`."""
        return self._read()

    async def changed(self, since: Answer[Known], timeout: float) -> None:
        """See `Tables.changed`."""
        await self._blocking.wait_past(self._read, since.changed, timeout=timeout)

    async def close(self) -> None:
        """See `Tables.close`."""

    def _read(self) -> Answer[Known]:
        servers = self._store.catalog.check_service_nodes(CONSUL_SERVICE)
        proxies = self._store.catalog.dump_kind(PROXY_KIND)
        states = self._store.federation.list()
        answers = (servers, proxies, states)
        return Answer(
            Known(servers.value, proxies.value, states.value),
            max(answer.index for answer in answers),
            tuple(topic for answer in answers for topic in answer.topics),
            max(answer.changed for answer in answers),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _Copy:
    """What a client read; its number grows with every change."""

    value: Known
    number: int


class RemoteTables:
    """The rows as the servers have them, kept up to date from the first question on.

    Args:
        dc: Our datacenter.
        rpc: Calls to its servers.
        rng: Source of jitter.
    """

    def __init__(
        self, dc: str, *, rpc: Callable[[str, Record], Awaitable[object]], rng: Random
    ) -> None:
        self._dc, self._rpc, self._rng = dc, rpc, rng
        self._known, self._number = Known(), 0
        self._missing = {"servers", "proxies", "states"}  # What was never read.
        self._news = asyncio.Event()
        self._scope: TaskScope | None = None

    async def read(self, timeout: float) -> _Copy:
        """See `Tables.read`."""
        self._begin()
        deadline = asyncio.get_running_loop().time() + timeout
        while self._missing:
            if not await self._tidings(deadline - asyncio.get_running_loop().time()):
                raise Unavailable("no server has told the routes of this gateway yet")
        return _Copy(self._known, self._number)

    async def changed(self, since: _Copy, timeout: float) -> None:
        """See `Tables.changed`."""
        if self._number == since.number:
            await self._tidings(timeout)

    async def close(self) -> None:
        """See `Tables.close`."""
        if self._scope is not None:
            await self._scope.close()

    async def _tidings(self, timeout: float) -> bool:
        """Wait for a change; False: there was none in time."""
        news = self._news
        try:
            async with asyncio.timeout(timeout):
                await news.wait()
        except TimeoutError:
            return False
        return True

    def _begin(self) -> None:
        """Follow the servers' tables, unless that goes on already."""
        if self._scope is not None:
            return
        self._scope = TaskScope()
        dc = self._dc
        # Any server may answer: without a leader, too, gateways learn what is known.
        servers = ServiceRequest(datacenter=dc, service_name=CONSUL_SERVICE, allow_stale=True)
        proxies = ServiceDumpRequest(
            datacenter=dc, service_kind=PROXY_KIND, use_service_kind=True, allow_stale=True
        )
        states = DatacenterRequest(datacenter=dc, allow_stale=True)
        self._scope.spawn(self._follow("servers", "Health.ServiceNodes", servers))
        self._scope.spawn(self._follow("proxies", "Internal.ServiceDump", proxies))
        self._scope.spawn(self._follow("states", "FederationState.List", states))

    async def _follow(self, part: str, method: str, request: QueryOptions) -> None:
        backoff = Backoff(
            first=_RETRY_FIRST, longest=_RETRY_LONGEST, jitter=_RETRY_JITTER, rng=self._rng
        )
        index = 0
        while True:
            try:
                reply = await self._rpc(method, replace(request, min_query_index=index))
            except (RequestError, Unavailable, EngineError, ProtocolError) as error:
                wait = backoff.failed()
                logger.warning(
                    "gateway routes keep what was known of %s, next try in %.1f s: %s",
                    part,
                    wait,
                    error,
                )
                await asyncio.sleep(wait)
                continue
            backoff.reset()
            rows, newer = _rows(reply)
            index = newer if newer >= index else 0  # Another server, or a store that was restored.
            self._take(part, rows)
            await asyncio.sleep(_PACE)

    def _take(self, part: str, rows: tuple[Any, ...]) -> None:
        if part not in self._missing and getattr(self._known, part) == rows:
            return
        self._missing.discard(part)
        fresh: dict[str, Any] = {part: rows}
        self._known = dataclasses.replace(self._known, **fresh)
        self._number += 1
        news, self._news = self._news, asyncio.Event()
        news.set()


def _rows(reply: object) -> tuple[tuple[Any, ...], int]:
    """The rows of a reply, and its index."""
    match reply:
        case IndexedCheckServiceNodes(nodes=nodes, index=index):
            return nodes or (), index
        case IndexedNodesWithGateways(nodes=nodes, index=index):
            return nodes or (), index
        case IndexedFederationStates(states=states, index=index):
            return states or (), index
        case _:
            raise AssertionError(f"unexpected reply: {type(reply).__name__}")
