"""Look-ups: one call to a server for all who ask the same at the same time, and never too many.

A datacenter that does not answer keeps look-ups waiting; so each datacenter has its own share, and
whoever comes when that is full is refused at once, as is who waits too long.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeAlias

from msgspec.structs import replace

from isthmus.dns.config import DnsConfig
from isthmus.dns.names import NodeLookup, QueryLookup, ServiceLookup
from isthmus.errors import Unavailable
from isthmus.model.catalog import NodeRequest, ServiceRequest
from isthmus.model.prepared_query import PreparedQueryExecuteRequest
from isthmus.model.query import DatacenterRequest, QueryMeta, QueryOptions, QuerySource
from isthmus.net.tasks import TaskScope
from isthmus.units import SECOND, Duration

CALLS_PER_DATACENTER_MAX: Final = 64
"""Calls about one datacenter that run at a time."""
WAITING_PER_DATACENTER_MAX: Final = 1024
"""Requests that wait for calls about one datacenter."""
LOOKUP_TIMEOUT: Final = 4.0
"""Seconds after which a look-up has failed: just before most resolvers give up."""
SILENCE: Final = 2.0
"""Seconds in which another datacenter that did not answer in time is not asked again."""
STALE_COUNTED: Final = 5 * SECOND
"""Answers from data older than this are counted."""

Rpc: TypeAlias = Callable[[str, Any], Awaitable[Any]]
"""Carries out a method of `model.methods.METHODS`, wherever the datacenter in the request is."""


class Lookups:
    """Asks servers on behalf of DNS.

    Attributes:
        stale_count: Answers from old data.
        refused_count: Look-ups refused because too many ran.

    Args:
        config: What look-ups are made with.
        rpc: The way to the data.
        is_here: Whether calls with that ``allow_stale``, about our datacenter, are answered in
            this process without waiting for anything.
        cached: The same as `rpc`, from a cache where it can; None: there is no cache.
    """

    def __init__(
        self,
        config: DnsConfig,
        rpc: Rpc,
        *,
        is_here: Callable[[bool], bool],
        cached: Rpc | None = None,
    ) -> None:
        self.config, self._rpc, self._is_here = config, rpc, is_here
        self._cached = cached
        self._tasks = TaskScope()
        self._running: dict[tuple[str, QueryOptions], asyncio.Task[Any]] = {}
        self._calls: Counter[str] = Counter()
        self._waiting: Counter[str] = Counter()
        self._silent_until: dict[str, float] = {}
        self.stale_count = 0
        self.refused_count = 0

    async def close(self) -> None:
        """Give up what is under way."""
        await self._tasks.close()

    # What is asked --------------------------------------------------------------------------------

    def service_request(self, lookup: ServiceLookup) -> ServiceRequest:
        """The call that finds instances: ``Health.ServiceNodes``."""
        config = self.config
        return ServiceRequest(
            datacenter=lookup.dc or config.datacenter,
            service_name=lookup.service,
            service_tags=(lookup.tag,) if lookup.tag else None,
            tag_filter=bool(lookup.tag),
            connect=lookup.connect,
            ingress=lookup.ingress,
            token=config.token,
            allow_stale=config.allow_stale,
            max_stale_duration=Duration.of(config.max_stale),
        )

    def node_request(self, lookup: NodeLookup) -> NodeRequest:
        """The call that finds a node: ``Catalog.NodeServices``."""
        config = self.config
        return NodeRequest(
            datacenter=lookup.dc or config.datacenter,
            node=lookup.node,
            token=config.token,
            allow_stale=config.allow_stale,
        )

    def query_request(self, lookup: QueryLookup, client: str) -> PreparedQueryExecuteRequest:
        """The call that runs a prepared query for a client at that address."""
        config = self.config
        return PreparedQueryExecuteRequest(
            datacenter=lookup.dc or config.datacenter,
            query_id_or_name=lookup.query,
            token=config.token,
            allow_stale=config.allow_stale,
            source=QuerySource(ip=client.removeprefix("::ffff:")),
            agent=QuerySource(datacenter=config.datacenter, node=config.node_name),
        )

    def nodes_request(self) -> DatacenterRequest:
        """The call that lists our datacenter's nodes: ``Catalog.ListNodes``."""
        config = self.config
        return DatacenterRequest(
            datacenter=config.datacenter, token=config.token, allow_stale=config.allow_stale
        )

    def address_request(self, address: str) -> ServiceRequest:
        """The call that finds services of our datacenter by address: ``Catalog.ServiceNodes``."""
        config = self.config
        return ServiceRequest(
            datacenter=config.datacenter,
            service_address=address,
            token=config.token,
            allow_stale=config.allow_stale,
        )

    # Calls ----------------------------------------------------------------------------------------

    def at_once(self, method: str, request: Any) -> Any:
        """Answer a call in this process, without waiting.

        Returns:
            The reply; None when it takes longer, and `call` is the way.
        """
        if request.datacenter != self.config.datacenter or not self._is_here(request.allow_stale):
            return None
        call: Coroutine[Any, Any, Any] = self._rpc(method, request)  # type: ignore[assignment]
        try:
            call.send(None)
        except StopIteration as end:
            return None if self._is_too_old(end.value) else end.value
        call.close()  # It waits for something after all.
        return None

    async def call(self, method: str, request: Any) -> Any:
        """Answer a call, together with others who make the same one meanwhile.

        Raises:
            IsthmusError: It failed, took too long, or too many run.
        """
        reply = await self._shared(method, request)
        if isinstance(reply, QueryMeta) and request.allow_stale:
            if self._is_too_old(reply):
                return await self._shared(method, replace(request, allow_stale=False))
            if reply.last_contact > STALE_COUNTED:
                self.stale_count += 1
        return reply

    def _is_too_old(self, reply: Any) -> bool:
        return isinstance(reply, QueryMeta) and (
            reply.last_contact > self.config.max_stale * SECOND
        )

    async def _shared(self, method: str, request: Any) -> Any:
        dc, key = request.datacenter, (method, request)
        if self._waiting[dc] >= WAITING_PER_DATACENTER_MAX:
            self._refuse(dc, self._waiting[dc])
        task = self._running.get(key)
        if task is None:
            self._refuse_silent(dc)
            if self._calls[dc] >= CALLS_PER_DATACENTER_MAX:
                self._refuse(dc, self._calls[dc])
            task = self._tasks.spawn(self._run(method, request))
            self._running[key] = task
            self._calls[dc] += 1
            task.add_done_callback(lambda _: self._ended(key, dc))
        self._waiting[dc] += 1
        try:
            failure, reply = await asyncio.shield(task)
        finally:
            self._waiting[dc] -= 1
            if not self._waiting[dc]:
                del self._waiting[dc]
        if failure is not None:
            raise failure
        return reply

    async def _run(self, method: str, request: Any) -> tuple[Exception | None, Any]:
        """Make the call; a failure is for whoever waits, and may be for nobody."""
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT):
                return None, await self._fetch(method, request)
        except TimeoutError:
            dc = request.datacenter
            self._note_silence(dc)
            return Unavailable(f"datacenter {dc} did not answer in {LOOKUP_TIMEOUT:g} s"), None
        except Exception as error:
            return error, None

    async def _fetch(self, method: str, request: Any) -> Any:
        if self._cached is None or not self.config.use_cache or not request.allow_stale:
            return await self._rpc(method, request)
        age = Duration.of(self.config.cache_max_age)
        return await self._cached(method, replace(request, use_cache=True, max_age=age))

    def _note_silence(self, dc: str) -> None:
        """Remember that another datacenter did not answer; whoever asks next need not wait."""
        now = asyncio.get_running_loop().time()
        self._silent_until = {dc: at for dc, at in self._silent_until.items() if at > now}
        if dc != self.config.datacenter:
            self._silent_until[dc] = now + SILENCE

    def _refuse_silent(self, dc: str) -> None:
        if self._silent_until.get(dc, 0.0) > asyncio.get_running_loop().time():
            self.refused_count += 1
            raise Unavailable(f"datacenter {dc} did not answer a moment ago")

    def _ended(self, key: tuple[str, QueryOptions], dc: str) -> None:
        self._running.pop(key, None)
        self._calls[dc] -= 1
        if not self._calls[dc]:
            del self._calls[dc]

    def _refuse(self, dc: str, count: int) -> None:
        self.refused_count += 1
        raise Unavailable(f"{count} look-ups wait for datacenter {dc} already")
