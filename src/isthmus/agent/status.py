"""How the federation fares, as this server sees it; and whose clock is wrong.

The report is put together when somebody asks: nothing here costs a call anything. Only clocks are
looked at unasked, because nothing else would tell that one of them is wrong until certificates
are refused.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from isthmus.config.model import AgentConfig
from isthmus.errors import ProtocolError, RemoteError, Unavailable
from isthmus.federation.diagnosis import CLOCK_DIFFERENCE_MAX, Way, judge_clock
from isthmus.federation.locator import GatewayLocator, is_usable
from isthmus.federation.outcomes import GatewayRecord, Outcomes
from isthmus.federation.replication import ReplicationStatus
from isthmus.federation.router import Router, ServerInfo
from isthmus.gossip.roster import Member
from isthmus.model.diagnosis import (
    BROKEN,
    Clock,
    DatacenterReport,
    FederationReport,
    GatewayReport,
    MemberReport,
    ReplicationReport,
)
from isthmus.model.federation import FederationState
from isthmus.model.query import DatacenterRequest
from isthmus.model.timestamp import Timestamp
from isthmus.net.tasks import TaskScope
from isthmus.units import SECOND, Duration

logger = logging.getLogger(__name__)

CLOCK_INTERVAL: Final = 60.0
"""Seconds between two looks at another datacenter's clock."""
CLOCK_TIMEOUT: Final = 5.0
"""An answer that takes longer says too little about the time."""
APPLY_DELAY_MAX: Final = 60.0
"""Seconds that a federation state may be on its way to the primary."""


class Pool(Protocol):
    """What is needed of the WAN pool."""

    def members(self) -> tuple[Member, ...]:
        """Members now, ours included."""


class Remote(Protocol):
    """Calls to other datacenters; `server.forward.Forwarder` is one."""

    async def call(self, dc: str, method: str, request: Any, reply: Any) -> Any:
        """Have a server of `dc` answer."""


class States(Protocol):
    """Our own store's federation states; `server.server.Server` has them."""

    async def federation_states(self, min_index: int) -> tuple[int, tuple[FederationState, ...]]:
        """States, as soon as their index is greater than `min_index`."""


@dataclass(frozen=True, slots=True)
class ClockReading:
    """Another datacenter's clock against ours.

    Attributes:
        difference: Its clock minus ours, in seconds.
        uncertainty: How far that may be off, in seconds.
    """

    difference: float
    uncertainty: float


class Clocks:
    """Compares the datacenters' clocks, and warns once when one is wrong.

    Two ways to know another's clock: an isthmus server answers ``Isthmus.Clock``, as exactly as
    the round trip is short. A Consul server does not, but the date in its datacenter's federation
    state is that of its leader's clock when it was written: a date in our future proves that its
    clock is ahead, and in the primary, where a write arrives directly, one that is older than a
    write can take proves that it is behind.

    Args:
        dc: Our datacenter.
        primary_dc: The primary datacenter.
        remote: Calls to others.
        datacenters: Those known now.
        wall: Reads the calendar clock.
    """

    def __init__(
        self,
        *,
        dc: str,
        primary_dc: str,
        remote: Remote,
        datacenters: Callable[[], Sequence[str]],
        wall: Callable[[], datetime],
    ) -> None:
        self._dc, self._primary_dc = dc, primary_dc
        self._remote, self._datacenters, self._wall = remote, datacenters, wall
        self._readings: dict[str, ClockReading] = {}  # Of datacenters that are known.
        self._silent: set[str] = set()  # Datacenters whose servers do not tell the time.
        self._wrong: set[str] = set()
        self._dates: dict[str, Timestamp] | None = None
        self._news = asyncio.Event()

    def reading(self, dc: str) -> ClockReading | None:
        """The latest reading; None when there is none."""
        return self._readings.get(dc.lower())

    def wake(self) -> None:
        """A datacenter may have become known, or reachable."""
        self._news.set()

    async def run(self, states: States) -> None:
        """Look until cancelled.

        Args:
            states: Our own store's.
        """
        scope = TaskScope()
        scope.spawn(self._watch_dates(states))
        try:
            while True:
                self._news.clear()
                known = {dc.lower() for dc in self._datacenters()} - {self._dc.lower()}
                for gone in (set(self._readings) | self._wrong | self._silent) - known:
                    self._readings.pop(gone, None)
                    self._wrong.discard(gone)
                    self._silent.discard(gone)
                for dc in sorted(known - self._silent):
                    await self.ask(dc)
                try:
                    async with asyncio.timeout(CLOCK_INTERVAL):
                        await self._wait_for_unread(known)
                except TimeoutError:
                    continue
        finally:
            await scope.close()

    async def ask(self, dc: str) -> ClockReading | None:
        """Ask a datacenter for the time; None when it does not tell, or cannot be reached."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with asyncio.timeout(CLOCK_TIMEOUT):
                reply = await self._remote.call(
                    dc, "Isthmus.Clock", DatacenterRequest(datacenter=dc), Clock
                )
        except RemoteError as error:
            if "can't find" in str(error):
                self._silent.add(dc.lower())
            return self.reading(dc)
        except (Unavailable, ProtocolError, TimeoutError):
            return None
        assert isinstance(reply, Clock)
        half = (loop.time() - started) / 2
        return self._take(dc, since(self._wall(), reply.time) * -1 + half, half)

    async def _wait_for_unread(self, known: set[str]) -> None:
        """Return when the clock of a datacenter that was not read before may be read."""
        while True:
            await self._news.wait()
            self._news.clear()
            now = {dc.lower() for dc in self._datacenters()} - {self._dc.lower()}
            if now - known or now - set(self._readings) - self._silent:
                await asyncio.sleep(1)  # News come in bursts.
                return

    async def _watch_dates(self, states: States) -> None:
        index = 0
        while True:
            try:
                index, found = await states.federation_states(index)
            except Unavailable:
                await asyncio.sleep(1)
                continue
            self.receive_states(found)

    def receive_states(self, states: Sequence[FederationState]) -> None:
        """Take our store's states; a date that changed was written just now."""
        before = self._dates
        self._dates = {state.datacenter.lower(): state.updated_at for state in states}
        if before is None:
            return
        for dc, date in self._dates.items():
            if dc == self._dc.lower() or date.is_zero or before.get(dc) == date:
                continue
            if dc in self._readings and dc not in self._silent:
                continue  # Its servers tell it better.
            age = since(self._wall(), date)
            if age < 0:
                self._take(dc, -age, 0.0)
            elif self._dc == self._primary_dc and before.get(dc) is not None:
                self._take(dc, -age, APPLY_DELAY_MAX)

    def _take(self, dc: str, difference: float, uncertainty: float) -> ClockReading:
        reading = ClockReading(difference, uncertainty)
        key = dc.lower()
        self._readings[key] = reading
        way = Way(source=self._dc, target=dc, primary=self._primary_dc)
        finding = judge_clock(way, difference=difference, uncertainty=uncertainty)
        if finding.verdict == BROKEN and key not in self._wrong:
            self._wrong.add(key)
            logger.warning(
                "%s: remedy: %s", finding.text, finding.remedy, extra={"dc": dc, "hop": "clock"}
            )
        elif key in self._wrong and abs(difference) <= CLOCK_DIFFERENCE_MAX:
            self._wrong.discard(key)
            logger.info("the clock of datacenter %s is right again", dc, extra={"dc": dc})
        return reading


class FederationStatus:
    """Puts the report together.

    Args:
        config: The agent's.
        states: Our own store's states, as they are now.
        is_leader: Whether we lead our datacenter.
        router: Servers of all datacenters.
        locator: None when gateways are not in use.
        outcomes: Of dials and calls.
        clocks: Of the other datacenters.
        members: Of the WAN pool.
        replication: How it fares; None before it started.
        wall: Reads the calendar clock.
    """

    def __init__(
        self,
        config: AgentConfig,
        *,
        states: Callable[[], Sequence[FederationState]],
        is_leader: Callable[[], bool],
        router: Router,
        locator: GatewayLocator | None,
        outcomes: Outcomes,
        clocks: Clocks,
        members: Callable[[], Sequence[Member]],
        replication: Callable[[], ReplicationStatus | None],
        wall: Callable[[], datetime],
    ) -> None:
        self._config, self._states, self._is_leader = config, states, is_leader
        self._router, self._locator, self._outcomes = router, locator, outcomes
        self._clocks, self._members, self._replication = clocks, members, replication
        self._wall = wall

    def report(self) -> FederationReport:
        """How the federation fares, as this server sees it."""
        config, locator = self._config, self._locator
        moments = _Moments(self._wall(), asyncio.get_running_loop().time())
        way, reason = "", ""
        if locator is not None and not config.primary:
            through_local, reason = locator.way_to_primary()
            way = "local gateways" if through_local else "primary gateways"
        return FederationReport(
            datacenter=config.datacenter,
            primary_datacenter=config.primary_datacenter,
            node_name=config.node_name,
            leader=self._is_leader(),
            time=Timestamp.of(moments.wall),
            mesh_gateways_in_use=locator is not None,
            way_to_primary=way,
            way_reason=reason,
            replication=self._replication_report(moments),
            datacenters=self._datacenters(moments),
            gateways=self._gateways(moments),
            members=tuple(
                MemberReport(
                    name=member.name,
                    datacenter=member.tags.get("dc", ""),
                    address=f"{member.address}:{member.port}",
                    status=str(member.status),
                    build=member.tags.get("build", ""),
                )
                for member in sorted(self._members(), key=lambda member: member.name)
            ),
        )

    def _replication_report(self, moments: "_Moments") -> ReplicationReport:
        status = self._replication()
        if status is None:
            return ReplicationReport()
        return ReplicationReport(
            running=status.running,
            primary_index=status.primary_index,
            index=status.index,
            last_success=moments.at(status.succeeded_at),
            failures=status.failures,
            last_error=status.error,
        )

    def _datacenters(self, moments: "_Moments") -> tuple[DatacenterReport, ...]:
        states = {state.datacenter.lower(): state for state in self._states()}
        known = {*states, *self._router.datacenters(), self._config.datacenter}
        known |= {self._config.primary_datacenter}
        known |= {trouble.dc.lower() for trouble in self._outcomes.troubles()}
        return tuple(self._datacenter(dc, states.get(dc), moments) for dc in sorted(known))

    def _datacenter(
        self, dc: str, state: FederationState | None, moments: "_Moments"
    ) -> DatacenterReport:
        servers: tuple[ServerInfo, ...] = self._router.servers(dc)
        gateways = (state.mesh_gateways or ()) if state is not None else ()
        trouble, clock = self._outcomes.trouble(dc), self._clocks.reading(dc)
        alive = {server.node for server in servers if server.alive}
        if alive - self._outcomes.nodes_in_trouble(dc) and not (trouble and trouble.by_call):
            trouble = None  # Another of its servers is fine: nobody had to dial it lately.
        updated_at = state.updated_at if state is not None else Timestamp()
        age = 0.0 if updated_at.is_zero else since(moments.wall, updated_at)
        return DatacenterReport(
            datacenter=state.datacenter if state is not None else dc,
            primary=dc == self._config.primary_datacenter,
            servers=len(servers),
            servers_alive=sum(server.alive for server in servers),
            gateways=len(gateways),
            gateways_usable=sum(map(is_usable, gateways)),
            updated_at=updated_at,
            state_age=Duration.of(age),
            primary_modify_index=state.primary_modify_index if state is not None else 0,
            modify_index=state.modify_index if state is not None else 0,
            failing_since=moments.at(trouble.since if trouble is not None else None),
            failed_step=trouble.step if trouble is not None else "",
            last_error=trouble.text if trouble is not None else "",
            clock_known=clock is not None,
            clock_difference=Duration.of(clock.difference if clock is not None else 0.0),
        )

    def _gateways(self, moments: "_Moments") -> tuple[GatewayReport, ...]:
        roles: dict[str, list[str]] = {}
        if self._locator is not None:
            for role, addresses in (
                ("local", self._locator.local),
                ("primary", self._locator.primary),
                ("configured", self._locator.fallback),
                ("heard of", self._locator.hearsay),
            ):
                for address in addresses:
                    roles.setdefault(address, []).append(role)
        records = {record.address: record for record in self._outcomes.gateways()}
        return tuple(
            _gateway(
                records.get(address) or GatewayRecord(address), roles.get(address, []), moments
            )
            for address in sorted({*roles, *records})
        )


def _gateway(record: GatewayRecord, roles: list[str], moments: "_Moments") -> GatewayReport:
    return GatewayReport(
        address=record.address,
        role=",".join(roles),
        datacenters=tuple(sorted(record.dcs)),
        attempts=record.attempts,
        failures=record.failures,
        last_used=moments.at(record.used_at if record.attempts else None),
        dial_time=Duration.of(record.dial_seconds),
        last_error=record.error,
        last_error_at=moments.at(record.error_at),
        failing_since=moments.at(record.failing_since),
    )


@dataclass(frozen=True, slots=True)
class _Moments:
    """Now on both clocks: moments of the monotonic one can be shown as dates."""

    wall: datetime
    now: float

    def at(self, moment: float | None) -> Timestamp:
        """The date of a moment; Go's zero time for None."""
        if moment is None:
            return Timestamp()
        date = Timestamp.of(self.wall)
        total = date.seconds * SECOND + date.nanoseconds - round((self.now - moment) * SECOND)
        return Timestamp(total // SECOND, total % SECOND)


def since(wall: datetime, date: Timestamp) -> float:
    """Seconds from a date to now."""
    now = Timestamp.of(wall)
    return (now.seconds - date.seconds) + (now.nanoseconds - date.nanoseconds) / SECOND
