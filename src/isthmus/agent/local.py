"""What runs on this node: its services and checks, and what of it the catalog does not have yet.

`agent.sync` carries it to the catalog. Source: protocol/http-api.md §9.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from types import MappingProxyType
from typing import Final

import msgspec

from isthmus.agent.outbox import CHECK, SERVICE, THE_NODE, Item, Outbox
from isthmus.errors import NotFound, RequestError
from isthmus.model.catalog import HealthCheck, NodeService, Weights

SYNC_WAIT_MAX: Final = 3.0  # A registration does not wait longer for the catalog.
_CHECKS_OF: Final = "checks of"
_WEIGHTS: Final = Weights(passing=1, warning=1)  # The catalog gives them to who has none.


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the catalog is told of this node."""

    dc: str
    node: str
    node_id: str
    address: str
    tagged_addresses: dict[str, str]
    meta: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalConfig:
    """How results of checks are kept.

    Attributes:
        update_interval: Seconds that a change of a check's output alone may take to the catalog;
            0: none, it is told at once.
        discard_output: Outputs of checks are not kept at all.
    """

    update_interval: float = 300.0
    discard_output: bool = False


class LocalState:
    """Local services and checks, and which of them the catalog does not have yet.

    Args:
        facts: Of this node.
        rng: Source of jitter.
        config: How results of checks are kept.

    Attributes:
        outbox: What the catalog has to be told.
        work: Set while something new may be in the outbox.
        touched: While the catalog is compared: items that changed or that it was told meanwhile.
        stuck: The catalog could not be told: nobody waits for that.
    """

    def __init__(
        self, *, facts: NodeFacts, rng: Random, config: LocalConfig = LocalConfig()
    ) -> None:
        self.facts, self._rng, self._config = facts, rng, config
        self._services: dict[str, NodeService] = {}
        self._checks: dict[str, HealthCheck] = {}
        self._checks_of: dict[str, dict[str, None]] = {}  # By service; "" for the node.
        self._tokens: dict[tuple[str, str], str] = {}
        self._deferred: dict[str, asyncio.TimerHandle] = {}
        self._watchers: dict[tuple[str, str], set[asyncio.Future[None]]] = {}
        self.outbox = Outbox()
        self.work = asyncio.Event()
        self.touched: set[Item] | None = None
        self.stuck = False

    @property
    def services(self) -> Mapping[str, NodeService]:
        """Services by id; a view."""
        return MappingProxyType(self._services)

    @property
    def checks(self) -> Mapping[str, HealthCheck]:
        """Checks by id; a view."""
        return MappingProxyType(self._checks)

    def checks_of(self, service_id: str, *, with_node: bool = False) -> tuple[HealthCheck, ...]:
        """Checks of a service, or with an empty id of the node; `with_node` adds the node's."""
        owners = ("", service_id) if with_node and service_id else (service_id,)
        ids = (check_id for owner in owners for check_id in self._checks_of.get(owner, ()))
        return tuple(self._checks[check_id] for check_id in ids)

    def token(self, item: Item) -> str:
        """Token with which the catalog is told of an item, and of its removal; maybe empty."""
        return self._tokens.get(item[:2], "")

    def is_deferred(self, check_id: str) -> bool:
        """Whether the catalog has an older output of a check, and will be told later."""
        return check_id in self._deferred

    def reconfigure(self, config: LocalConfig) -> None:
        """Take another configuration for results from now on."""
        self._config = config

    def set_meta(self, meta: dict[str, str]) -> None:
        """Replace the metadata of the node."""
        if meta != self.facts.meta:
            self.facts = msgspec.structs.replace(self.facts, meta=meta)
            self._mark(THE_NODE)

    # Changes from our side ---------------------------------------------------------------------

    def put_service(
        self, service: NodeService, checks: Sequence[HealthCheck] = (), *, token: str = ""
    ) -> None:
        """Add or replace a service with its checks; other checks of it stay.

        A check that is known keeps its state. What is the same as before is not told again.
        """
        item = _service_item(service.id)
        known = self._services.get(service.id)
        self._services[service.id] = service
        if known is None or not same_service(known, service) or token != self.token(item):
            self._set_token(item, token)
            self._mark(item)
        for check in checks:
            self.put_check(check, token=token)

    def put_check(self, check: HealthCheck, *, token: str = "") -> None:
        """Add or replace a check; one that is known keeps its state.

        Raises:
            RequestError: Its service is not registered here.
        """
        service = self._services.get(check.service_id)
        if check.service_id and service is None:
            raise RequestError(f'ServiceID "{check.service_id}" does not exist')
        known = self._checks.get(check.check_id)
        check = msgspec.structs.replace(
            check,
            node=self.facts.node,
            service_name=service.service if service is not None else "",
            service_tags=service.tags if service is not None else None,
            status=known.status if known is not None else check.status,
            output="" if self._config.discard_output else (known or check).output,
        )
        if known is not None and known.service_id != check.service_id:
            self._unlist(known)
        self._checks[check.check_id] = check
        self._checks_of.setdefault(check.service_id, {})[check.check_id] = None
        item = _check_item(check)
        if known is None or not same_check(known, check) or token != self.token(item):
            self._set_token(item, token)
            self._mark(item)

    def remove_service(self, service_id: str) -> tuple[str, ...]:
        """Remove a service; returns the ids of its checks, which go with it.

        Raises:
            NotFound: It is not registered here.
        """
        if self._services.pop(service_id, None) is None:
            raise NotFound(f'Unknown service ID "{service_id}"')
        gone = self.checks_of(service_id)
        for check in gone:
            self._drop(check)
            self.outbox.discard(_check_item(check))  # The catalog removes them with the service.
            self._tokens.pop((CHECK, check.check_id), None)
        self._mark(_service_item(service_id))
        return tuple(check.check_id for check in gone)

    def remove_check(self, check_id: str) -> None:
        """Remove a check; an unknown one changes nothing."""
        check = self._checks.get(check_id)
        if check is not None:
            self._drop(check)
            self._mark(_check_item(check))

    def update_check(self, check_id: str, status: str, output: str) -> None:
        """Take the result of a check; an unknown one changes nothing.

        The catalog learns of another status at once, of another output alone later, so that
        a check whose output never repeats does not write all the time.
        """
        check = self._checks.get(check_id)
        output = "" if self._config.discard_output else output
        if check is None or (check.status, check.output) == (status, output):
            return
        self._checks[check_id] = msgspec.structs.replace(check, status=status, output=output)
        interval = self._config.update_interval
        if status == check.status and interval > 0:
            if check_id not in self._deferred:
                wait = interval / 2 + self._rng.random() * interval  # Consul's jitter.
                later = asyncio.get_running_loop().call_later
                self._deferred[check_id] = later(wait, self._mark, _check_item(check))
        else:
            self._mark(_check_item(check))

    def adopt_tags(self, service_id: str, tags: tuple[str, ...] | None) -> None:
        """Take tags of a service from the catalog, where others may change them."""
        service = self._services[service_id]
        if (service.tags or ()) != (tags or ()):
            self._services[service_id] = msgspec.structs.replace(service, tags=tags)
            self._wake(SERVICE, service_id)

    def _drop(self, check: HealthCheck) -> None:
        del self._checks[check.check_id]
        self._unlist(check)
        self._cancel_deferred(check.check_id)

    def _unlist(self, check: HealthCheck) -> None:
        listed = self._checks_of[check.service_id]
        del listed[check.check_id]
        if not listed:
            del self._checks_of[check.service_id]

    def _set_token(self, item: Item, token: str) -> None:
        if token:
            self._tokens[item[:2]] = token
        else:
            self._tokens.pop(item[:2], None)

    def _cancel_deferred(self, check_id: str) -> None:
        timer = self._deferred.pop(check_id, None)
        if timer is not None:
            timer.cancel()

    # Who waits -----------------------------------------------------------------------------------

    async def wait_for_service(self, service_id: str, seconds: float) -> None:
        """Return when a service changes, comes or goes, or in time."""
        await self._wait([(SERVICE, service_id)], seconds)

    async def wait_for_checks(self, service_id: str, seconds: float) -> None:
        """Return when a check of a service or of the node changes, or the service, or in time."""
        keys = [(SERVICE, service_id), (_CHECKS_OF, service_id), (_CHECKS_OF, "")]
        await self._wait(keys, seconds)

    async def synced(self, *names: tuple[str, str]) -> None:
        """Return once the catalog has what is named, or it is clear that it takes longer.

        Args:
            names: `SERVICE` or `CHECK` with an id, each.
        """
        deadline = asyncio.get_running_loop().time() + SYNC_WAIT_MAX
        while not self.stuck:
            open_ones = [name for name in names if Item(*name) in self.outbox]
            left = deadline - asyncio.get_running_loop().time()
            if not open_ones or left <= 0:
                return
            await self._wait([(f"{kind} told", name) for kind, name in open_ones], left)

    def told(self, item: Item, *, again: bool = False) -> None:
        """The catalog was told of an item that was on its way, or could not be (`again`)."""
        if again:
            self.outbox.came_back(item)
        else:
            self.outbox.arrived(item)
            self.forget_removed(item)
        self._touch(item)
        self._wake(f"{item.kind} told", item.id)

    def forget_removed(self, item: Item) -> None:
        """Forget the token of what is neither here nor in the catalog any more."""
        kept = self._services if item.kind == SERVICE else self._checks
        if item.id not in kept and item not in self.outbox:
            self._tokens.pop(item[:2], None)

    def give_up_waiting(self) -> None:
        """The catalog can not be told for now: nobody shall wait for it."""
        self.stuck = True
        for (kind, _), waiters in self._watchers.items():
            if kind.endswith(" told"):
                _finish(waiters)

    async def _wait(self, keys: Sequence[tuple[str, str]], seconds: float) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for key in keys:
            self._watchers.setdefault(key, set()).add(waiter)
        try:
            async with asyncio.timeout(seconds):
                await waiter
        except TimeoutError:
            return
        finally:
            for key in keys:
                waiters = self._watchers[key]
                waiters.discard(waiter)
                if not waiters:
                    del self._watchers[key]

    def _mark(self, item: Item) -> None:
        if item.kind == CHECK:
            self._cancel_deferred(item.id)
            self._wake(_CHECKS_OF, item.lane)
        self.outbox.add(item)
        self._touch(item)
        self.work.set()
        self._wake(item.kind, item.id)

    def _touch(self, item: Item) -> None:
        if self.touched is not None:
            self.touched.add(item)

    def _wake(self, kind: str, name: str) -> None:
        _finish(self._watchers.get((kind, name), ()))


def _finish(waiters: "Iterable[asyncio.Future[None]]") -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)


def _service_item(service_id: str) -> Item:
    return Item(SERVICE, service_id, service_id)


def _check_item(check: HealthCheck) -> Item:
    return Item(CHECK, check.check_id, check.service_id)


def same_service(ours: NodeService, theirs: NodeService) -> bool:
    """Whether two copies of a service say the same; indexes do not count, nil is empty."""
    return _bare(ours) == _bare(theirs)


def _bare(service: NodeService) -> tuple[object, ...]:
    return (
        service.id,
        service.service,
        service.kind,
        service.address,
        service.port,
        service.tags or (),
        service.meta or {},
        service.tagged_addresses or {},
        service.socket_path,
        service.weights or _WEIGHTS,
        service.enable_tag_override,
        service.proxy,
        service.connect,
    )


def same_check(ours: HealthCheck, theirs: HealthCheck, *, with_output: bool = True) -> bool:
    """Whether two copies of a check say the same; indexes do not count.

    Name and tags of its service do not count either: the catalog fills them in.
    """
    return (not with_output or ours.output == theirs.output) and (
        ours.status,
        ours.name,
        ours.notes,
        ours.service_id,
        ours.type,
        ours.interval,
        ours.timeout,
        ours.exposed_port,
        ours.definition,
    ) == (
        theirs.status,
        theirs.name,
        theirs.notes,
        theirs.service_id,
        theirs.type,
        theirs.interval,
        theirs.timeout,
        theirs.exposed_port,
        theirs.definition,
    )
