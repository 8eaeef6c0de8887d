"""Anti-entropy: the catalog learns at once what changes here; a comparison repairs the rest.

Source: protocol/http-api.md §9; the pace is Consul's.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Final

from isthmus.agent.local import LocalState, same_check, same_service
from isthmus.agent.outbox import CHECK, NODE, SERVICE, THE_NODE, Item
from isthmus.errors import EngineError, PermissionDenied, RequestError, Unavailable
from isthmus.federation.pacing import Backoff
from isthmus.model.catalog import (
    CONSUL_SERVICE,
    SERF_HEALTH,
    DeregisterRequest,
    HealthCheck,
    IndexedHealthChecks,
    IndexedNodeServices,
    NodeRequest,
    NodeService,
    RegisterRequest,
)
from isthmus.model.record import Record

logger = logging.getLogger(__name__)

Rpc = Callable[[str, Record], Awaitable[object]]

COMPARE_INTERVAL: Final = 60.0  # Consul's; up to as much again is added, more in large clusters.
LEADER_SYNC_SPREAD: Final = 3.0  # Consul's; all agents hear of a new leader at the same time.
RETRY_LONGEST: Final = 15.0  # Consul's wait after a failure; ours starts smaller.
PUSHES_MAX: Final = 32
"""Items that are on their way to the servers at a time."""
_RETRY_FIRST: Final = 0.25
_SCALE_THRESHOLD: Final = 128  # Consul's.
_COMPARED_AT_ONCE: Final = 256
"""Items compared in one go; other work of the loop has its turn in between."""
_TROUBLES: Final = (RequestError, Unavailable, EngineError)


def scale_factor(nodes: int) -> int:
    """By how much the random part of every wait grows in a cluster of so many nodes.

    Source: Consul 1.10, agent/ae: 1 up to 128 nodes, one more with every doubling.
    """
    if nodes <= _SCALE_THRESHOLD:
        return 1
    return math.ceil(math.log2(nodes) - math.log2(_SCALE_THRESHOLD)) + 1


class CatalogSync:
    """Keeps the catalog the same as a node.

    Args:
        local: What there is on the node.
        rpc: Calls to the servers of our datacenter.
        rng: Source of jitter.
        cluster_size: How many nodes the datacenter has.
        token: Used for what was registered without one; asked for each time.
    """

    def __init__(
        self,
        local: LocalState,
        *,
        rpc: Rpc,
        rng: Random,
        cluster_size: Callable[[], int] = lambda: 1,
        token: Callable[[], str] = lambda: "",
    ) -> None:
        self._local, self._rpc, self._rng = local, rpc, rng
        self._cluster_size, self._token = cluster_size, token
        self._compare_at = 0.0
        self._sooner = asyncio.Event()
        self._compared = asyncio.Event()  # The first time: before that nobody knows what to push.

    def compare_soon(self) -> None:
        """There is a new leader, which may know less: compare with the catalog within seconds."""
        soon = asyncio.get_running_loop().time() + self._stagger(LEADER_SYNC_SPREAD)
        if soon < self._compare_at:
            self._compare_at = soon
            self._sooner.set()

    async def run(self) -> None:
        """Keep the catalog the same as this node, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_comparing())
                group.create_task(self._keep_pushing())
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None

    def _stagger(self, seconds: float) -> float:
        return self._rng.random() * seconds * scale_factor(self._cluster_size())

    def _backoff(self) -> Backoff:
        return Backoff(first=_RETRY_FIRST, longest=RETRY_LONGEST, jitter=0.0, rng=self._rng)

    def _failed(self, backoff: Backoff, error: Exception) -> float:
        """Seconds to wait after a failure."""
        wait = backoff.failed()
        wait += self._stagger(wait)
        self._local.give_up_waiting()
        logger.warning("could not update the catalog, next try in %.1f s: %s", wait, error)
        return wait

    # Comparing -----------------------------------------------------------------------------------

    async def _keep_comparing(self) -> None:
        clock, backoff = asyncio.get_running_loop(), self._backoff()
        self._compare_at = clock.time()
        while True:
            await self._until_compare()
            self._compare_at = clock.time() + COMPARE_INTERVAL + self._stagger(COMPARE_INTERVAL)
            try:
                await self._compare()
            except _TROUBLES as error:
                retry_at = clock.time() + self._failed(backoff, error)
                self._compare_at = min(self._compare_at, retry_at)
            else:
                backoff.reset()
                self._compared.set()

    async def _until_compare(self) -> None:
        while True:
            self._sooner.clear()
            try:
                async with asyncio.timeout_at(self._compare_at):
                    await self._sooner.wait()
            except TimeoutError:
                return

    async def _compare(self) -> None:
        """Find what the catalog has that we have not, or otherwise.

        What changes here while we ask and compare is left to the push that the change brings.
        """
        local = self._local
        first = not self._compared.is_set()
        local.touched = touched = set[Item]()
        try:
            await self._compare_with_catalog(first, touched)
        finally:
            local.touched = None

    async def _compare_with_catalog(self, first: bool, touched: set[Item]) -> None:
        local, facts = self._local, self._local.facts
        request = NodeRequest(datacenter=facts.dc, node=facts.node, token=self._token())
        services = await self._rpc("Catalog.NodeServices", request)
        checks = await self._rpc("Health.NodeChecks", request)
        assert isinstance(services, IndexedNodeServices)
        assert isinstance(checks, IndexedHealthChecks)
        found = services.node_services
        node = found.node if found is not None else None
        same_node = node is not None and (
            (node.id, node.address, node.tagged_addresses or {}, node.meta or {})
            == (facts.node_id, facts.address, facts.tagged_addresses, facts.meta)
        )
        self._judge(THE_NODE, touched, same=same_node)
        stored = (found.services if found is not None else None) or {}
        known = {check.check_id: check for check in checks.health_checks or ()}
        for number, item in enumerate(self._items(stored, known), start=1):
            if item not in touched and (first or item not in local.outbox):
                self._judge(item, touched, same=self._is_same(item, stored, known))
            if number % _COMPARED_AT_ONCE == 0:
                await asyncio.sleep(0)

    def _items(
        self, stored: Mapping[str, NodeService], known: Mapping[str, HealthCheck]
    ) -> list[Item]:
        """All that is here or in the catalog, without what the servers look after."""
        local = self._local
        items = {
            **{service_id: Item(SERVICE, service_id, service_id) for service_id in stored},
            **{service_id: Item(SERVICE, service_id, service_id) for service_id in local.services},
        }
        if CONSUL_SERVICE not in local.services:
            items.pop(CONSUL_SERVICE, None)
        owners = {check_id: check.service_id for check_id, check in known.items()}
        owners |= {check_id: check.service_id for check_id, check in local.checks.items()}
        if SERF_HEALTH not in local.checks:
            owners.pop(SERF_HEALTH, None)
        checks = (Item(CHECK, check_id, owner) for check_id, owner in sorted(owners.items()))
        return [*(items[service_id] for service_id in sorted(items)), *checks]

    def _is_same(
        self, item: Item, stored: Mapping[str, NodeService], known: Mapping[str, HealthCheck]
    ) -> bool:
        local = self._local
        if item.kind == SERVICE:
            theirs = stored.get(item.id)
            ours = local.services.get(item.id)
            if ours is None or theirs is None:
                return ours is None and theirs is None
            if ours.enable_tag_override:
                local.adopt_tags(item.id, theirs.tags)
                ours = local.services[item.id]
            return same_service(ours, theirs)
        mine, other = local.checks.get(item.id), known.get(item.id)
        if mine is None or other is None:
            return mine is None and other is None
        return same_check(mine, other, with_output=not local.is_deferred(item.id))

    def _judge(self, item: Item, touched: set[Item], *, same: bool) -> None:
        local = self._local
        if item in touched:
            return
        if same:
            local.outbox.discard(item)
        else:
            local.outbox.add(item)
            local.work.set()

    # Pushing -------------------------------------------------------------------------------------

    async def _keep_pushing(self) -> None:
        clock, backoff = asyncio.get_running_loop(), self._backoff()
        await self._compared.wait()
        while True:
            try:
                await self._push()
            except _TROUBLES as error:
                retry_at = clock.time() + self._failed(backoff, error)
            else:
                backoff.reset()
                self._local.stuck = False
                retry_at = math.inf
            try:
                async with asyncio.timeout_at(retry_at if retry_at < math.inf else None):
                    await self._local.work.wait()
            except TimeoutError:
                pass

    async def _push(self) -> None:
        """Tell the catalog all that waits, also what comes meanwhile; the first failure ends it."""
        flying: set[asyncio.Task[None]] = set()
        try:
            while self._launch(flying):
                done = await self._landed(flying)
                flying -= done
                errors = [error for task in done if (error := task.exception()) is not None]
                if errors:
                    raise errors[0]
                if done:
                    self._local.stuck = False
        except asyncio.CancelledError:
            await _finish(flying, cancel=True)
            raise
        except BaseException:
            await _finish(flying, cancel=False)
            raise

    def _launch(self, flying: set[asyncio.Task[None]]) -> bool:
        """Send on their way as many as may be; whether any are."""
        local = self._local
        local.work.clear()
        while len(flying) < PUSHES_MAX and (item := local.outbox.take()) is not None:
            flying.add(asyncio.get_running_loop().create_task(self._tell(item)))
        return bool(flying)

    async def _landed(self, flying: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
        """Pushes that are done; none when there is new work before."""
        more = asyncio.get_running_loop().create_task(self._local.work.wait())
        try:
            await asyncio.wait({*flying, more}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            more.cancel()
        return {task for task in flying if task.done()}

    async def _tell(self, item: Item) -> None:
        """Tell the catalog of one item; what it refuses the next comparison finds again.

        While the node itself is refused, nothing of it is told: another node may have its name,
        and would get our services.
        """
        checks = self._checks_along(item)
        items = (item, *(Item(CHECK, check.check_id, check.service_id) for check in checks))
        refused = False
        try:
            await self._send(item, checks)
        except RequestError as error:
            if item.kind == NODE and not isinstance(error, PermissionDenied):
                self._local.told(item, again=True)
                raise
            logger.warning("the catalog refuses %s %s: %s", item.kind, item.id, error)
            refused = True
        except BaseException:
            for one in items:
                self._local.told(one, again=True)
            raise
        for one in items:
            self._local.told(one)
        if not refused:
            logger.info("synced %s %s", item.kind, item.id or self._local.facts.node)

    def _checks_along(self, item: Item) -> tuple[HealthCheck, ...]:
        """Checks that go with their service, in one write: those that wait, with its token."""
        local = self._local
        if item.kind != SERVICE or item.id not in local.services:
            return ()
        return tuple(
            check
            for check in local.checks_of(item.id)
            if local.token(one := Item(CHECK, check.check_id, check.service_id))
            == local.token(item)
            and local.outbox.take_along(one)
        )

    async def _send(self, item: Item, checks: tuple[HealthCheck, ...]) -> None:
        local = self._local
        if item.kind == NODE:
            await self._register(item)
        elif item.kind == SERVICE and item.id in local.services:
            await self._register(item, service=local.services[item.id], checks=checks)
        elif item.kind == CHECK and item.id in local.checks:
            await self._register(item, checks=(local.checks[item.id],))
        else:
            await self._deregister(item)

    async def _register(
        self,
        item: Item,
        *,
        service: NodeService | None = None,
        checks: tuple[HealthCheck, ...] = (),
    ) -> None:
        facts = self._local.facts
        await self._rpc(
            "Catalog.Register",
            RegisterRequest(
                datacenter=facts.dc,
                id=facts.node_id,
                node=facts.node,
                address=facts.address,
                tagged_addresses=facts.tagged_addresses,
                node_meta=facts.meta,
                service=service,
                checks=checks or None,
                skip_node_update=item.kind != NODE,
                token=self._local.token(item) or self._token(),
            ),
        )

    async def _deregister(self, item: Item) -> None:
        facts = self._local.facts
        await self._rpc(
            "Catalog.Deregister",
            DeregisterRequest(
                datacenter=facts.dc,
                node=facts.node,
                service_id=item.id if item.kind == SERVICE else "",
                check_id=item.id if item.kind == CHECK else "",
                token=self._local.token(item) or self._token(),
            ),
        )


async def _finish(tasks: set[asyncio.Task[None]], *, cancel: bool) -> None:
    """Wait for the end of pushes whose results nobody needs: they put back what failed."""
    for task in tasks:
        if cancel:
            task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception) and not isinstance(result, _TROUBLES):
            raise result
