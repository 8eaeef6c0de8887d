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

from isthmus.errors import PERMISSION_DENIED
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
    ENTRY_RETRY_LONGEST,
    EntryReplicator,
    ReplicationStatus,
    StateReplicator,
    entry_writes_to_follow,
    writes_to_follow,
)
from isthmus.model.catalog import CheckServiceNode
from isthmus.model.config_entry import (
    CONFIG_ENTRY_TYPES,
    ConfigEntry,
    ConfigEntryListAllRequest,
    ConfigEntryRequest,
    IndexedGenericConfigEntries,
)
from isthmus.model.federation import (
    DELETE,
    UPSERT,
    FederationState,
    FederationStateRequest,
    IndexedFederationStates,
)
from isthmus.model.query import DatacenterRequest
from isthmus.model.record import Record
from isthmus.net.tasks import pause
from isthmus.server.replication import TRANSIENT, Replication

logger = logging.getLogger(__name__)

Output = TypeVar("Output", covariant=True)

_WATCH_RETRY: Final = 1.0  # Seconds after which our own store is watched again.


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

    def config_entries(self) -> tuple[ConfigEntry, ...]:
        """All config entries."""

    async def apply(self, command: FederationStateRequest | ConfigEntryRequest) -> object:
        """Commit a write of a federation state or a config entry."""


class Remote(Protocol):
    """Calls to other datacenters; `server.forward.Forwarder` is one."""

    async def call(self, dc: str, method: str, request: Record, reply: Any) -> Any:
        """Have a server of `dc` answer."""


class FederationDuties:
    """Keeps our record in the primary and the primary's records in our store.

    Attributes:
        replication: How replication of federation states fares.
        entry_replication: How replication of config entries fares.

    Args:
        dc: Our datacenter.
        primary_dc: The primary datacenter.
        tables: Our own store.
        remote: Calls to the primary.
        locator: Is told how replication fares; of the states `feed_locator` tells it.
        enabled: Whether all servers concerned support federation states.
        known_dcs: Datacenters that have servers in the WAN pool.
        token: ACL token for the primary: it needs operator:write, and for config entries
            service_prefix "" read.
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
        self._token = token
        self.replication = ReplicationStatus(running=dc != primary_dc)
        self.entry_replication = ReplicationStatus(running=dc != primary_dc)
        self._announcer = Announcer(dc, enabled=enabled, wall=wall, rng=rng, now=now)
        states = StateReplicator(
            dc,
            primary_dc,
            locator=locator,
            enabled=enabled,
            known_dcs=known_dcs,
            status=self.replication,
            rng=rng,
            now=now,
        )
        self._states = Replication(
            "federation states",
            states,
            primary_dc=primary_dc,
            fetch=self._list_states,
            follow=self._follow_states,
            told=on_locator,
        )
        entries = EntryReplicator(
            dc,
            primary_dc,
            locator=None,
            enabled=lambda: True,
            known_dcs=known_dcs,
            status=self.entry_replication,
            rng=rng,
            now=now,
            retry_longest=ENTRY_RETRY_LONGEST,
        )
        self._entries = Replication(
            "config entries",
            entries,
            primary_dc=primary_dc,
            fetch=self._list_entries,
            follow=self._follow_entries,
        )
        self._pruner = Pruner(dc, known_dcs=known_dcs, now=now)
        self._announcing, self._other = asyncio.Event(), asyncio.Event()
        self._following_entries = asyncio.Event()

    @property
    def _is_primary(self) -> bool:
        return self._dc == self._primary_dc

    def wake(self) -> None:
        """News from outside (a server joined, the locator was populated): retry now."""
        now = self._clock.time()
        self._pruner.wake()
        self._announcer.wake(now=now)
        self._states.replicator.wake(now=now)
        self._entries.replicator.wake(now=now)
        self._announcing.set()
        self._other.set()
        self._following_entries.set()

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
        ]
        if self._is_primary:
            duties.append(self._drive(self._pruner, self._other, self._prune))
        else:
            states, entries = self._states, self._entries
            duties.append(self._drive(states.replicator, self._other, states.carry_out))
            duties.append(
                self._drive(entries.replicator, self._following_entries, entries.carry_out)
            )
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
            except TRANSIENT as error:
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
            except TRANSIENT as error:
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
                except TRANSIENT as error:
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

    async def _list_states(
        self, dc: str, min_index: int
    ) -> tuple[int, tuple[FederationState, ...]]:
        request = DatacenterRequest(
            datacenter=dc, allow_stale=True, min_query_index=min_index, token=self._token
        )
        reply = await self._remote.call(
            dc, "FederationState.List", request, IndexedFederationStates
        )
        assert isinstance(reply, IndexedFederationStates)
        if self.entry_replication.failures and dc == self._primary_dc:  # The way to it works.
            self._entries.replicator.wake(now=self._clock.time())
            self._following_entries.set()
        return reply.index, reply.states or ()

    async def _follow_states(self, states: tuple[FederationState, ...]) -> int:
        _, ours = await self._tables.federation_states(0)
        return await self._write(writes_to_follow(states, ours))

    async def _list_entries(self, dc: str, min_index: int) -> tuple[int, tuple[ConfigEntry, ...]]:
        request = ConfigEntryListAllRequest(
            datacenter=dc,
            kinds=tuple(CONFIG_ENTRY_TYPES),
            allow_stale=True,
            min_query_index=min_index,
            token=self._token,
        )
        reply = await self._remote.call(
            dc, "ConfigEntry.ListAll", request, IndexedGenericConfigEntries
        )
        assert isinstance(reply, IndexedGenericConfigEntries)
        return reply.index, reply.entries

    async def _follow_entries(self, entries: tuple[ConfigEntry, ...]) -> int:
        return await self._write(entry_writes_to_follow(entries, self._tables.config_entries()))

    async def _write(self, writes: Sequence[FederationStateRequest | ConfigEntryRequest]) -> int:
        for write in writes:
            await self._tables.apply(write)
        return len(writes)

    # Prune -------------------------------------------------------------------------------------

    async def _prune(self, output: DeleteState) -> None:
        logger.info("pruning the federation state of a departed datacenter: %s", output.dc)
        command = FederationStateRequest(op=DELETE, state=FederationState(datacenter=output.dc))
        try:
            await self._tables.apply(command)
        except TRANSIENT as error:
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
        except TRANSIENT as error:
            await _watch_again(error)
            continue
        locator.set_states(states)
        told()


async def _watch_again(error: Exception) -> None:
    logger.warning("watching our own store failed, next try in %g s: %s", _WATCH_RETRY, error)
    await asyncio.sleep(_WATCH_RETRY)
