"""Duties of a datacenter's leader in the federation: announce, replicate, prune.

Everything wakes on events (our store changed, a server of the primary appeared, the locator was
populated); waits after failures and the periodic rounds are repair only.
Source: protocol/federation.md §10, §11.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Any, Final, Protocol

from isthmus.errors import (
    FEDERATION_STATES_DISABLED,
    PERMISSION_DENIED,
    EngineError,
    RequestError,
    Unavailable,
)
from isthmus.federation.announce import state_to_announce, states_to_prune
from isthmus.federation.locator import GatewayLocator
from isthmus.federation.pacing import Backoff, TokenBucket
from isthmus.federation.replication import ReplicationIndex, writes_to_follow
from isthmus.model.catalog import CheckServiceNode
from isthmus.model.federation import (
    DELETE,
    UPSERT,
    FederationState,
    FederationStateRequest,
    IndexedFederationStates,
)
from isthmus.model.query import DatacenterRequest
from isthmus.model.record import Record

logger = logging.getLogger(__name__)

REPLICATION_RATE: Final = 1.0  # Rounds per second, Consul's value.
ANNOUNCE_RATE: Final = 1.0  # Writes per second; Consul: one per 5 s, which delays the last one.
BURST: Final = 5  # Consul's value, of both.
REPLICATION_RETRY_FIRST = 1.0  # Consul's value.
REPLICATION_RETRY_LONGEST = 5.0  # Consul: 120 s, for which a healed federation stays apart.
HEARSAY_TIMEOUT: Final = 3.0  # For asking one other secondary while cut off from the primary.
HEARSAY_ASKED_MAX: Final = 4  # Secondaries asked in one round.
REPEATED_WARNING_INTERVAL: Final = 60.0
ANNOUNCE_RETRY_FIRST = 2.0  # Consul's value.
ANNOUNCE_RETRY_LONGEST = 10.0  # Consul: 256 s.
REPAIR_INTERVAL: Final = 300.0  # Consul's longest time between two comparisons.
PRUNE_INTERVAL: Final = 3600.0  # Consul's value.
_RETRY_JITTER: Final = 0.1
_WATCH_RETRY: Final = 1.0  # Seconds after which our own store is watched again.
_TRANSIENT: Final = (RequestError, Unavailable, EngineError)
"""What a duty survives: after an `EngineError` either the store recovers or we lead no more."""


class LocalTables(Protocol):
    """What the duties read and write of our own store."""

    async def federation_states(self, min_index: int) -> tuple[int, tuple[FederationState, ...]]:
        """States, as soon as their index is greater than `min_index`."""

    async def mesh_gateways(self, min_index: int) -> tuple[int, tuple[CheckServiceNode, ...]]:
        """Services of kind mesh-gateway, as soon as their index is greater than `min_index`."""

    async def apply(self, command: FederationStateRequest) -> object:
        """Commit a write of a federation state."""


class Remote(Protocol):
    """Calls to other datacenters; `server.forward.Forwarder` is one."""

    async def call(self, dc: str, method: str, request: Record, reply: Any) -> Any:
        """Have a server of `dc` answer."""


class FederationDuties:
    """Keeps our record in the primary and the primary's records in our store.

    Attributes:
        replication: How replication fares.

    Args:
        dc: Our datacenter.
        primary_dc: The primary datacenter.
        tables: Our own store.
        remote: Calls to the primary.
        locator: Is told the states, and how replication fares.
        enabled: Whether all servers concerned support federation states.
        known_dcs: Datacenters that have servers in the WAN pool.
        token: ACL token for the primary: it needs operator:write.
        wall: Reads the calendar clock.
        rng: Source of jitter.
    """

    def __init__(
        self,
        *,
        dc: str,
        primary_dc: str,
        tables: LocalTables,
        remote: Remote,
        locator: GatewayLocator | None,
        enabled: Callable[[], bool],
        known_dcs: Callable[[], Collection[str]],
        wall: Callable[[], datetime],
        rng: Random,
        token: str = "",
        on_locator: Callable[[], None] = lambda: None,
    ) -> None:
        self._dc, self._primary_dc = dc, primary_dc
        self._tables, self._remote, self._locator = tables, remote, locator
        self._enabled, self._known_dcs = enabled, known_dcs
        self._wall, self._rng, self._token = wall, rng, token
        self._on_locator = on_locator
        self.replication = ReplicationStatus(running=dc != primary_dc)
        self._states: tuple[FederationState, ...] | None = None
        self._gateways: tuple[CheckServiceNode, ...] | None = None
        self._changed = asyncio.Event()  # Our record or our gateways: announce looks.
        self._news = (asyncio.Event(), asyncio.Event())  # One for each duty that may wait.
        self._departed = asyncio.Event()
        self._seen = {dc.lower() for dc in known_dcs()}  # Datacenters that ever had servers.
        self._unechoed: _Written | None = None

    @property
    def _is_primary(self) -> bool:
        return self._dc == self._primary_dc

    def wake(self) -> None:
        """News from outside (a server joined, the locator was populated): retry now."""
        self._seen.update(dc.lower() for dc in self._known_dcs())
        for event in self._news:
            event.set()
        self._changed.set()

    def datacenter_departed(self) -> None:
        """The last server of a datacenter left the WAN pool: prune its record now."""
        self._departed.set()

    async def run(self) -> None:
        """Do all duties until cancelled."""
        duties: list[Callable[[], Coroutine[Any, Any, None]]] = [
            self._watch_states,
            self._watch_gateways,
            self._announce,
            self._prune if self._is_primary else self._replicate,
        ]
        if self._locator is not None and not self._is_primary:
            self._locator.replication_started()
        try:
            async with asyncio.TaskGroup() as group:
                for duty in duties:
                    group.create_task(duty())
        finally:
            if self._locator is not None:
                self._locator.replication_stopped()

    # What we are told by our own store ---------------------------------------------------------

    async def _watch_states(self) -> None:
        index = 0
        while True:
            try:
                index, self._states = await self._tables.federation_states(index)
            except _TRANSIENT as error:
                await _watch_again(error)
                continue
            if self._locator is not None:
                self._locator.set_states(self._states)
                self._on_locator()
            self._changed.set()

    async def _watch_gateways(self) -> None:
        index = 0
        while True:
            try:
                index, self._gateways = await self._tables.mesh_gateways(index)
            except _TRANSIENT as error:
                await _watch_again(error)
                continue
            self._changed.set()

    # Announce ----------------------------------------------------------------------------------

    async def _announce(self) -> None:
        clock = asyncio.get_running_loop()
        bucket = TokenBucket(rate=ANNOUNCE_RATE, burst=BURST, now=clock.time())
        backoff = self._backoff(ANNOUNCE_RETRY_FIRST, ANNOUNCE_RETRY_LONGEST)
        while True:
            await _pause(self._changed, REPAIR_INTERVAL)
            if self._state_to_announce() is None:
                continue
            await asyncio.sleep(bucket.take(now=clock.time()))
            state = self._state_to_announce()
            if state is None:
                continue  # What changed was changed back meanwhile.
            stored = self._stored()
            self._news[0].clear()  # Only news that this attempt could not use bring another.
            try:
                await self._write_to_primary(state)
            except _TRANSIENT as error:
                wait = backoff.failed()
                logger.warning(
                    "could not write our federation state to the primary, next try in %.0f s: %s%s",
                    wait,
                    error,
                    " (the replication token needs operator:write)"
                    if PERMISSION_DENIED in str(error)
                    else "",
                    extra={"dc": self._primary_dc},
                )
                if await _pause(self._news[0], wait):
                    backoff.reset()
                self._changed.set()
            else:
                backoff.reset()
                self._unechoed = _Written(state, stored, clock.time() + REPAIR_INTERVAL)
                logger.info(
                    "federation state written: %d mesh gateways",
                    len(state.mesh_gateways or ()),
                    extra={"dc": self._dc},
                )

    def _state_to_announce(self) -> FederationState | None:
        if self._states is None or self._gateways is None or not self._enabled():
            return None
        stored = self._stored()
        state = state_to_announce(self._dc, self._gateways, stored, wall=self._wall())
        written, now = self._unechoed, asyncio.get_running_loop().time()
        if state is not None and written is not None and written.covers(state, stored, now=now):
            return None
        return state

    def _stored(self) -> FederationState | None:
        """Our record in our own store."""
        dc = self._dc.lower()
        return next((state for state in self._states or () if state.datacenter.lower() == dc), None)

    async def _write_to_primary(self, state: FederationState) -> None:
        request = FederationStateRequest(
            datacenter=self._primary_dc, op=UPSERT, state=state, token=self._token
        )
        if self._is_primary:
            await self._tables.apply(request)
        else:
            await self._remote.call(self._primary_dc, "FederationState.Apply", request, bool)

    # Replicate ---------------------------------------------------------------------------------

    async def _replicate(self) -> None:
        clock = asyncio.get_running_loop()
        bucket = TokenBucket(rate=REPLICATION_RATE, burst=BURST, now=clock.time())
        backoff = self._backoff(REPLICATION_RETRY_FIRST, REPLICATION_RETRY_LONGEST)
        index = ReplicationIndex()
        warned_at = -REPEATED_WARNING_INTERVAL
        while True:
            await asyncio.sleep(bucket.take(now=clock.time()))
            if not self._enabled():
                if await _pause(self._news[1], backoff.failed()):
                    backoff.reset()
                continue
            self._news[1].clear()  # Only news that this round could not use bring another.
            try:
                reply = await self._fetch(index.last)
                self.replication.primary_index = reply.index
                _, ours = await self._tables.federation_states(0)
                writes = writes_to_follow(reply.states or (), ours)
                for write in writes:
                    await self._tables.apply(write)
            except _TRANSIENT as error:
                self.replication.failed(str(error))
                index.reset()
                wait = backoff.failed()
                repeated = clock.time() - warned_at < REPEATED_WARNING_INTERVAL
                warned_at = warned_at if repeated else clock.time()
                logger.log(
                    logging.DEBUG if repeated else logging.WARNING,
                    "replication of federation states failed, next try in %.0f s: %s",
                    wait,
                    error,
                    extra={"dc": self._primary_dc},
                )
                await self._ask_others()
                if await _pause(self._news[1], wait):
                    backoff.reset()
                continue
            backoff.reset()
            warned_at = -REPEATED_WARNING_INTERVAL
            self.replication.succeeded(reply.index, now=clock.time())
            if writes:
                logger.info("replicated %d federation states from the primary", len(writes))
            if index.receive(reply.index):
                logger.warning(
                    "the primary's index of federation states went back: reading all of them",
                    extra={"dc": self._primary_dc},
                )

    async def _fetch(self, min_index: int) -> IndexedFederationStates:
        request = DatacenterRequest(
            datacenter=self._primary_dc,
            allow_stale=True,
            min_query_index=min_index,
            token=self._token,
        )
        try:
            reply = await self._remote.call(
                self._primary_dc, "FederationState.List", request, IndexedFederationStates
            )
        except (RequestError, Unavailable) as error:
            if FEDERATION_STATES_DISABLED not in str(error):
                self._tell_locator(succeeded=False)
            raise
        self._tell_locator(succeeded=True)
        assert isinstance(reply, IndexedFederationStates)
        return reply

    async def _ask_others(self) -> None:
        """While cut off from the primary: other secondaries may know its gateways of today."""
        if self._locator is None or not self._locator.is_cut_off:
            return
        others = sorted(set(self._known_dcs()) - {self._dc, self._primary_dc})
        for dc in self._rng.sample(others, k=min(len(others), HEARSAY_ASKED_MAX)):
            request = DatacenterRequest(datacenter=dc, allow_stale=True, token=self._token)
            try:
                async with asyncio.timeout(HEARSAY_TIMEOUT):
                    reply = await self._remote.call(
                        dc, "FederationState.List", request, IndexedFederationStates
                    )
            except (RequestError, Unavailable, TimeoutError) as error:
                logger.debug(
                    "could not ask datacenter %s for the primary's gateways: %s", dc, error
                )
                continue
            self._locator.set_hearsay(reply.states or ())
            self._on_locator()
            return

    def _tell_locator(self, *, succeeded: bool) -> None:
        if self._locator is None:
            return
        if succeeded:
            self._locator.replication_succeeded()
        else:
            self._locator.replication_failed()
        self._on_locator()

    # Prune -------------------------------------------------------------------------------------

    async def _prune(self) -> None:
        """Delete records of departed datacenters: hourly, and when one departs.

        The first full round waits a whole interval: after a start the WAN pool fills only slowly.
        Until then a record goes only when we saw servers of its datacenter and they left.
        """
        clock = asyncio.get_running_loop()
        full_at = clock.time() + PRUNE_INTERVAL
        while True:
            await _pause(self._departed, full_at - clock.time())
            departed = states_to_prune(self._states or (), self._known_dcs(), own_dc=self._dc)
            if clock.time() < full_at:
                departed = [dc for dc in departed if dc.lower() in self._seen]
            else:
                full_at = clock.time() + PRUNE_INTERVAL
            for dc in departed:
                await self._delete(dc)

    async def _delete(self, dc: str) -> None:
        logger.info("pruning the federation state of a departed datacenter: %s", dc)
        command = FederationStateRequest(op=DELETE, state=FederationState(datacenter=dc))
        try:
            await self._tables.apply(command)
        except _TRANSIENT as error:
            logger.warning(
                "could not prune a federation state, next try in an hour at the latest: %s",
                error,
                extra={"dc": dc},
            )

    def _backoff(self, first: float, longest: float) -> Backoff:
        return Backoff(first=first, longest=longest, jitter=_RETRY_JITTER, rng=self._rng)


@dataclass(slots=True)
class ReplicationStatus:
    """How replication from the primary fares.

    Attributes:
        running: Whether this server replicates.
        primary_index: Newest index that the primary told.
        index: Newest of those whose records are all in our store.
        succeeded_at: When a round ended well last, on the loop's clock; None for never.
        failures: Rounds that failed since then.
        error: Of the latest of them.
    """

    running: bool = False
    primary_index: int = 0
    index: int = 0
    succeeded_at: float | None = None
    failures: int = 0
    error: str = ""

    def succeeded(self, index: int, *, now: float) -> None:
        """A round ended well."""
        self.index, self.succeeded_at, self.failures, self.error = index, now, 0, ""

    def failed(self, error: str) -> None:
        """A round failed."""
        self.failures += 1
        self.error = error


@dataclass(frozen=True, slots=True)
class _Written:
    """A state that the primary took, until replication brings it back.

    Attributes:
        state: What was written.
        stored: Our own copy at that time.
        until: When it counts as lost, on the loop's clock.
    """

    state: FederationState
    stored: FederationState | None
    until: float

    def covers(self, state: FederationState, stored: FederationState | None, *, now: float) -> bool:
        """Whether `state` need not be written: the same was, and its echo is still to come."""
        return now < self.until and stored == self.stored and state.is_same(self.state)


async def _watch_again(error: Exception) -> None:
    logger.warning("watching our own store failed, next try in %g s: %s", _WATCH_RETRY, error)
    await asyncio.sleep(_WATCH_RETRY)


async def _pause(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event, at most so long; the event is taken. Whether it came."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    event.clear()
    return True
