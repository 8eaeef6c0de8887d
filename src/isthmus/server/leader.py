"""Duties of a datacenter's leader in the federation: announce, replicate, prune.

What is done and when, the cores in `isthmus.federation` decide; here they get our store's tables,
the calls to other datacenters, and time. Source: protocol/federation.md §10, §11.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from datetime import datetime
from random import Random
from typing import Any, Final, Protocol, TypeVar

from isthmus.errors import PERMISSION_DENIED, EngineError, RequestError, Unavailable
from isthmus.federation.announce import (
    AnnounceOutput,
    Announcer,
    DeleteState,
    Pruner,
    StateWritten,
    WriteFailed,
    WriteState,
)
from isthmus.federation.locator import GatewayLocator
from isthmus.federation.replication import (
    HEARSAY_TIMEOUT,
    AskForGateways,
    FetchStates,
    FollowStates,
    ReplicationOutput,
    ReplicationStatus,
    Replicator,
    RoundDone,
    RoundFailed,
    writes_to_follow,
)
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
from isthmus.model.reminders import Reminders
from isthmus.net.tasks import pause

logger = logging.getLogger(__name__)

Output = TypeVar("Output", covariant=True)

REPEATED_WARNING_INTERVAL: Final = 60.0
_WATCH_RETRY: Final = 1.0  # Seconds after which our own store is watched again.
_TRANSIENT: Final = (RequestError, Unavailable, EngineError)
"""What a duty survives: after an `EngineError` either the store recovers or we lead no more."""


class _Duty(Protocol[Output]):
    """A core of `isthmus.federation`, as its driver sees it."""

    def next_timer(self) -> float | None:
        """Moment at which `handle_timer` is due."""

    def handle_timer(self, *, now: float) -> None:
        """Do what is due."""

    def take_outputs(self) -> Sequence[Output]:
        """Remove and return all that is to be done."""


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
        locator: Is told how replication fares; of the states `feed_locator` tells it.
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
        self._clock = asyncio.get_running_loop()
        now = self._clock.time()
        self._dc, self._primary_dc = dc, primary_dc
        self._tables, self._remote, self._locator = tables, remote, locator
        self._token, self._on_locator = token, on_locator
        self.replication = ReplicationStatus(running=dc != primary_dc)
        self._announcer = Announcer(dc, enabled=enabled, wall=wall, rng=rng, now=now)
        self._replicator = Replicator(
            dc,
            primary_dc,
            locator=locator,
            enabled=enabled,
            known_dcs=known_dcs,
            status=self.replication,
            rng=rng,
            now=now,
        )
        self._pruner = Pruner(dc, known_dcs=known_dcs, now=now)
        self._announcing, self._other = asyncio.Event(), asyncio.Event()
        self._failures = Reminders(REPEATED_WARNING_INTERVAL)

    @property
    def _is_primary(self) -> bool:
        return self._dc == self._primary_dc

    def wake(self) -> None:
        """News from outside (a server joined, the locator was populated): retry now."""
        now = self._clock.time()
        self._pruner.wake()
        self._announcer.wake(now=now)
        self._replicator.wake(now=now)
        self._announcing.set()
        self._other.set()

    def datacenter_departed(self) -> None:
        """The last server of a datacenter left the WAN pool: prune its record now."""
        self._pruner.datacenter_departed(now=self._clock.time())
        self._other.set()

    async def run(self) -> None:
        """Do all duties until cancelled."""
        duties: list[Coroutine[Any, Any, None]] = [
            self._watch_states(),
            self._watch_gateways(),
            self._drive(self._announcer, self._announcing, self._announce),
            self._drive(self._pruner, self._other, self._prune)
            if self._is_primary
            else self._drive(self._replicator, self._other, self._replicate),
        ]
        if self._locator is not None and not self._is_primary:
            self._locator.replication_started()
        try:
            async with asyncio.TaskGroup() as group:
                for duty in duties:
                    group.create_task(duty)
        finally:
            if self._locator is not None:
                self._locator.replication_stopped()

    async def _drive(
        self,
        duty: _Duty[Output],
        news: asyncio.Event,
        carry_out: Callable[[Output], Awaitable[None]],
    ) -> None:
        """Run a core: one action after the other, each answered before the next."""
        while True:
            duty.handle_timer(now=self._clock.time())
            while outputs := duty.take_outputs():
                for output in outputs:
                    await carry_out(output)
            due = duty.next_timer()
            assert due is not None, "an action was not answered"
            await pause(news, due - self._clock.time())

    # What we are told by our own store ---------------------------------------------------------

    async def _watch_states(self) -> None:
        index = 0
        while True:
            try:
                index, states = await self._tables.federation_states(index)
            except _TRANSIENT as error:
                await _watch_again(error)
                continue
            self._pruner.set_states(states)
            self._announcer.set_states(states, now=self._clock.time())
            self._announcing.set()

    async def _watch_gateways(self) -> None:
        index = 0
        while True:
            try:
                index, gateways = await self._tables.mesh_gateways(index)
            except _TRANSIENT as error:
                await _watch_again(error)
                continue
            self._announcer.set_gateways(gateways, now=self._clock.time())
            self._announcing.set()

    # Announce ----------------------------------------------------------------------------------

    async def _announce(self, output: AnnounceOutput) -> None:
        match output:
            case WriteState(state):
                try:
                    await self._write_to_primary(state)
                except _TRANSIENT as error:
                    self._announcer.write_failed(str(error), now=self._clock.time())
                else:
                    self._announcer.written(now=self._clock.time())
            case StateWritten(state):
                logger.info(
                    "federation state written: %d mesh gateways",
                    len(state.mesh_gateways or ()),
                    extra={"dc": self._dc},
                )
            case WriteFailed(text, wait):
                logger.warning(
                    "could not write our federation state to the primary, next try in %.0f s: %s%s",
                    wait,
                    text,
                    " (the replication token needs operator:write)"
                    if PERMISSION_DENIED in text
                    else "",
                    extra={"dc": self._primary_dc},
                )

    async def _write_to_primary(self, state: FederationState) -> None:
        request = FederationStateRequest(
            datacenter=self._primary_dc, op=UPSERT, state=state, token=self._token
        )
        if self._is_primary:
            await self._tables.apply(request)
        else:
            await self._remote.call(self._primary_dc, "FederationState.Apply", request, bool)

    # Replicate ---------------------------------------------------------------------------------

    async def _replicate(self, output: ReplicationOutput) -> None:
        match output:
            case FetchStates(min_index):
                await self._fetch(min_index)
            case FollowStates(states):
                await self._follow(states)
            case AskForGateways(dc):
                await self._ask(dc)
            case RoundFailed(text, wait):
                self._warn_of_failed_round(text, wait)
            case RoundDone(write_count, went_back):
                self._failures.forget()
                if write_count:
                    logger.info("replicated %d federation states from the primary", write_count)
                if went_back:
                    logger.warning(
                        "the primary's index of federation states went back: reading all of them",
                        extra={"dc": self._primary_dc},
                    )

    async def _fetch(self, min_index: int) -> None:
        try:
            reply = await self._list_states(self._primary_dc, min_index)
        except _TRANSIENT as error:
            self._replicator.fetch_failed(str(error), now=self._clock.time())
        else:
            self._replicator.fetched(reply, now=self._clock.time())
        self._on_locator()

    async def _follow(self, states: tuple[FederationState, ...]) -> None:
        try:
            _, ours = await self._tables.federation_states(0)
            writes = writes_to_follow(states, ours)
            for write in writes:
                await self._tables.apply(write)
        except _TRANSIENT as error:
            self._replicator.follow_failed(str(error), now=self._clock.time())
        else:
            self._replicator.followed(len(writes), now=self._clock.time())

    async def _ask(self, dc: str) -> None:
        """While cut off from the primary: another secondary may know its gateways of today."""
        try:
            async with asyncio.timeout(HEARSAY_TIMEOUT):
                reply = await self._list_states(dc, 0)
        except (RequestError, Unavailable, TimeoutError) as error:
            logger.debug("could not ask datacenter %s for the primary's gateways: %s", dc, error)
            self._replicator.not_told(now=self._clock.time())
        else:
            self._replicator.told(reply.states or (), now=self._clock.time())
            self._on_locator()

    async def _list_states(self, dc: str, min_index: int) -> IndexedFederationStates:
        request = DatacenterRequest(
            datacenter=dc, allow_stale=True, min_query_index=min_index, token=self._token
        )
        reply = await self._remote.call(
            dc, "FederationState.List", request, IndexedFederationStates
        )
        assert isinstance(reply, IndexedFederationStates)
        return reply

    def _warn_of_failed_round(self, text: str, wait: float) -> None:
        logger.log(
            logging.WARNING if self._failures.due(now=self._clock.time()) else logging.DEBUG,
            "replication of federation states failed, next try in %.0f s: %s",
            wait,
            text,
            extra={"dc": self._primary_dc},
        )

    # Prune -------------------------------------------------------------------------------------

    async def _prune(self, output: DeleteState) -> None:
        logger.info("pruning the federation state of a departed datacenter: %s", output.dc)
        command = FederationStateRequest(op=DELETE, state=FederationState(datacenter=output.dc))
        try:
            await self._tables.apply(command)
        except _TRANSIENT as error:
            logger.warning(
                "could not prune a federation state, next try in an hour at the latest: %s",
                error,
                extra={"dc": output.dc},
            )


async def feed_locator(
    tables: LocalTables, locator: GatewayLocator, told: Callable[[], None]
) -> None:
    """Tell a server's locator the federation states of our store, whoever leads, until cancelled.

    Args:
        tables: Our own store.
        locator: Is told.
        told: Called after that.
    """
    index = 0
    while True:
        try:
            index, states = await tables.federation_states(index)
        except _TRANSIENT as error:
            await _watch_again(error)
            continue
        locator.set_states(states)
        told()


async def _watch_again(error: Exception) -> None:
    logger.warning("watching our own store failed, next try in %g s: %s", _WATCH_RETRY, error)
    await asyncio.sleep(_WATCH_RETRY)
