"""What runs on this node: its services and checks, and keeping the catalog the same.

A change is pushed at once; a full comparison each minute repairs what was changed elsewhere.
Source: protocol/http-api.md §9.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Final

import msgspec

from isthmus.errors import EngineError, NotFound, RequestError, Unavailable
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
    Weights,
)
from isthmus.model.record import Record

logger = logging.getLogger(__name__)

Rpc = Callable[[str, Record], Awaitable[object]]

FULL_SYNC_INTERVAL: Final = 60.0  # Consul's interval for up to 128 nodes.
LEADER_SYNC_SPREAD: Final = 3.0  # Consul's; all agents hear of a new leader at the same time.
SYNC_WAIT_MAX: Final = 3.0  # A registration does not wait longer for the catalog.
_RETRY_FIRST, _RETRY_LONGEST, _RETRY_JITTER = 0.25, 15.0, 0.2
_SERVICE, _CHECK = "service", "check"
_WEIGHTS: Final = Weights(passing=1, warning=1)  # The catalog gives them to who has none.


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the catalog is told of this node."""

    dc: str
    node: str
    node_id: str
    address: str
    tagged_addresses: dict[str, str]
    meta: dict[str, str]


class LocalState:
    """Local services and checks, and which of them the catalog does not have yet.

    Args:
        facts: Of this node.
        rpc: Calls to the servers of our datacenter.
        rng: Source of jitter.
    """

    def __init__(self, *, facts: NodeFacts, rpc: Rpc, rng: Random) -> None:
        self._facts, self._rpc, self._rng = facts, rpc, rng
        self._services: dict[str, NodeService] = {}
        self._checks: dict[str, HealthCheck] = {}
        self._pending: set[tuple[str, str]] = set()  # What the catalog has to be told.
        self._node_pending = True
        self._compare_at = 0.0
        self._work = asyncio.Event()
        self._work.set()
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def services(self) -> dict[str, NodeService]:
        """Services by id."""
        return dict(self._services)

    @property
    def checks(self) -> dict[str, HealthCheck]:
        """Checks by id."""
        return dict(self._checks)

    # Changes from our side ---------------------------------------------------------------------

    def put_service(self, service: NodeService, checks: Sequence[HealthCheck] = ()) -> None:
        """Add or replace a service with its checks; other checks of it stay.

        A check that is known keeps its state.
        """
        self._services[service.id] = service
        self._mark(_SERVICE, service.id)
        for check in checks:
            self.put_check(check)

    def put_check(self, check: HealthCheck) -> None:
        """Add or replace a check.

        Raises:
            RequestError: Its service is not registered here.
        """
        if check.service_id:
            service = self._services.get(check.service_id)
            if service is None:
                raise RequestError(f'ServiceID "{check.service_id}" does not exist')
            check = msgspec.structs.replace(
                check, service_name=service.service, service_tags=service.tags
            )
        known = self._checks.get(check.check_id)
        if known is not None:
            check = msgspec.structs.replace(check, status=known.status, output=known.output)
        self._checks[check.check_id] = msgspec.structs.replace(check, node=self._facts.node)
        self._mark(_CHECK, check.check_id)

    def remove_service(self, service_id: str) -> tuple[str, ...]:
        """Remove a service; returns the ids of its checks, which go with it.

        Raises:
            NotFound: It is not registered here.
        """
        if self._services.pop(service_id, None) is None:
            raise NotFound(f'Unknown service ID "{service_id}"')
        gone = tuple(
            check_id for check_id, check in self._checks.items() if check.service_id == service_id
        )
        for check_id in gone:
            del self._checks[check_id]
            self._pending.discard((_CHECK, check_id))
        self._mark(_SERVICE, service_id)
        return gone

    def remove_check(self, check_id: str) -> None:
        """Remove a check; an unknown one changes nothing."""
        if self._checks.pop(check_id, None) is not None:
            self._mark(_CHECK, check_id)

    def update_check(self, check_id: str, status: str, output: str) -> None:
        """Take the result of a check; an unknown one changes nothing."""
        check = self._checks.get(check_id)
        if check is None or (check.status, check.output) == (status, output):
            return
        self._checks[check_id] = msgspec.structs.replace(check, status=status, output=output)
        self._mark(_CHECK, check_id)

    async def wait_for_change(self, seconds: float) -> None:
        """Return at the next change from our side or of the catalog's copy, or in time."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            async with asyncio.timeout(seconds):
                await waiter
        except TimeoutError:
            return
        finally:
            self._waiting.discard(waiter)

    def compare_soon(self) -> None:
        """There is a new leader, which may know less: compare with the catalog within seconds."""
        soon = asyncio.get_running_loop().time() + LEADER_SYNC_SPREAD * self._rng.random()
        self._compare_at = min(self._compare_at, soon)
        self._work.set()

    async def synced(self) -> None:
        """Return once the catalog has our changes, or after some seconds without it."""
        deadline = asyncio.get_running_loop().time() + SYNC_WAIT_MAX
        while self._pending and (left := deadline - asyncio.get_running_loop().time()) > 0:
            await self.wait_for_change(left)

    # The catalog --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the catalog the same as this node, until cancelled."""
        backoff = Backoff(
            first=_RETRY_FIRST, longest=_RETRY_LONGEST, jitter=_RETRY_JITTER, rng=self._rng
        )
        clock = asyncio.get_running_loop()
        self._compare_at = clock.time()
        while True:
            self._work.clear()
            try:
                if clock.time() >= self._compare_at:
                    await self._compare_in_turn(clock.time())
                await self._push()
                self._wake()
                backoff.reset()
            except (RequestError, Unavailable, EngineError) as error:
                wait = backoff.failed()
                logger.warning("could not update the catalog, next try in %.1f s: %s", wait, error)
                await self._until_work(clock.time() + wait)
                continue
            await self._until_work(self._compare_at)

    async def _until_work(self, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                await self._work.wait()
        except TimeoutError:
            return

    async def _compare_in_turn(self, now: float) -> None:
        """Compare; the next turn is an interval away, unless this one failed or it is asked for."""
        due = self._compare_at
        self._compare_at = now + FULL_SYNC_INTERVAL * (1 + self._rng.random() / 16)
        try:
            await self._compare()
        except BaseException:
            self._compare_at = due
            raise

    async def _compare(self) -> None:
        """Find what the catalog has that we have not, or otherwise."""
        request = NodeRequest(datacenter=self._facts.dc, node=self._facts.node)
        services = await self._rpc("Catalog.NodeServices", request)
        checks = await self._rpc("Health.NodeChecks", request)
        assert isinstance(services, IndexedNodeServices)
        assert isinstance(checks, IndexedHealthChecks)
        found = services.node_services
        node = found.node if found is not None else None
        self._node_pending = node is None or (
            (node.id, node.address, node.tagged_addresses or {}, node.meta or {})
            != (
                self._facts.node_id,
                self._facts.address,
                self._facts.tagged_addresses,
                self._facts.meta,
            )
        )
        stored = (found.services if found is not None else None) or {}
        for service_id in sorted({*stored, *self._services} - {CONSUL_SERVICE}):
            ours, theirs = self._services.get(service_id), stored.get(service_id)
            if ours is None or theirs is None or not same_service(ours, theirs):
                self._pending.add((_SERVICE, service_id))
        known = {check.check_id: check for check in checks.health_checks or ()}
        for check_id in sorted({*known, *self._checks} - {SERF_HEALTH}):
            mine, other = self._checks.get(check_id), known.get(check_id)
            if mine is None or other is None or not same_check(mine, other):
                self._pending.add((_CHECK, check_id))

    async def _push(self) -> None:
        for kind, name in sorted(self._pending, key=lambda item: (item[0] == _CHECK, item[1])):
            if (kind, name) not in self._pending:
                continue  # Went along with its service, or was removed meanwhile.
            self._pending.discard((kind, name))
            try:
                await (self._push_service(name) if kind == _SERVICE else self._push_check(name))
            except RequestError as error:
                # The others go on; the next comparison finds it again.
                logger.warning("the catalog refuses %s %s: %s", kind, name, error)
            except BaseException:
                self._pending.add((kind, name))
                raise
        if self._node_pending:
            await self._register()

    async def _push_service(self, service_id: str) -> None:
        service = self._services.get(service_id)
        if service is None:
            await self._deregister(service_id=service_id)
            logger.info("deregistered service %s", service_id)
            return
        checks = tuple(check for check in self._checks.values() if check.service_id == service_id)
        for check in checks:
            self._pending.discard((_CHECK, check.check_id))
        await self._register(service=service, checks=checks)
        logger.info("registered service %s", service_id)

    async def _push_check(self, check_id: str) -> None:
        check = self._checks.get(check_id)
        if check is None:
            await self._deregister(check_id=check_id)
            return
        await self._register(checks=(check,))

    async def _register(
        self, *, service: NodeService | None = None, checks: tuple[HealthCheck, ...] = ()
    ) -> None:
        facts = self._facts
        skip = not self._node_pending
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
                skip_node_update=skip,
            ),
        )
        if not skip:
            self._node_pending = False

    async def _deregister(self, *, service_id: str = "", check_id: str = "") -> None:
        await self._rpc(
            "Catalog.Deregister",
            DeregisterRequest(
                datacenter=self._facts.dc,
                node=self._facts.node,
                service_id=service_id,
                check_id=check_id,
            ),
        )

    def _mark(self, kind: str, name: str) -> None:
        self._pending.add((kind, name))
        self._work.set()
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)


def same_service(ours: NodeService, theirs: NodeService) -> bool:
    """Whether the catalog's copy of a service is up to date."""
    return _bare(ours) == _bare(theirs)


def _bare(service: NodeService) -> NodeService:
    """The service as it compares: without indexes, with the catalog's defaults, nil as empty."""
    return msgspec.structs.replace(
        service,
        tags=service.tags or None,
        meta=service.meta or None,
        tagged_addresses=service.tagged_addresses or None,
        weights=service.weights or _WEIGHTS,
        create_index=0,
        modify_index=0,
    )


def same_check(ours: HealthCheck, theirs: HealthCheck) -> bool:
    """Whether the catalog's copy of a check is up to date."""
    return (ours.status, ours.output, ours.name, ours.notes, ours.service_id) == (
        theirs.status,
        theirs.output,
        theirs.name,
        theirs.notes,
        theirs.service_id,
    )
