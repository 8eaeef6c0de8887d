"""Our gateways against what the primary has of us, and which records to prune.

Everything wakes on facts that are told; waits after failures and the periodic rounds are repair
only. Source: protocol/federation.md §11.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from random import Random
from typing import Final, TypeAlias

from isthmus.federation.pacing import RETRY_JITTER, Backoff, TokenBucket
from isthmus.model.catalog import CheckServiceNode
from isthmus.model.federation import FederationState
from isthmus.model.timestamp import Timestamp

ANNOUNCE_RATE: Final = 1.0  # Writes per second; Consul: one per 5 s, which delays the last one.
ANNOUNCE_BURST: Final = 5  # Consul's value.
ANNOUNCE_RETRY_FIRST: Final = 2.0  # Consul's value.
ANNOUNCE_RETRY_LONGEST: Final = 10.0  # Consul: 256 s.
REPAIR_INTERVAL: Final = 300.0  # Consul's longest time between two comparisons.
PRUNE_INTERVAL: Final = 3600.0  # Consul's value.


def state_to_announce(
    dc: str,
    gateways: tuple[CheckServiceNode, ...],
    stored: FederationState | None,
    *,
    wall: datetime,
) -> FederationState | None:
    """The record to write to the primary, or None when it has the same already.

    Args:
        dc: Our datacenter.
        gateways: All our services of kind mesh-gateway, healthy or not, in catalog order.
        stored: Our record in our own store, where it came back by replication.
        wall: Now, for `updated_at`.
    """
    state = FederationState(
        datacenter=dc, mesh_gateways=gateways or None, updated_at=Timestamp.of(wall)
    )
    return None if stored is not None and stored.is_same(state) else state


def states_to_prune(
    states: Iterable[FederationState], known_dcs: Collection[str], *, own_dc: str
) -> list[str]:
    """Datacenters whose record may go: no server of theirs is in the WAN pool any more."""
    known = {dc.lower() for dc in known_dcs} | {own_dc.lower()}
    return sorted(state.datacenter for state in states if state.datacenter.lower() not in known)


# Announce -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WriteState:
    """Action: write our record in the primary; answer `written` or `write_failed` once."""

    state: FederationState


@dataclass(frozen=True, slots=True)
class StateWritten:
    """Event: the primary took our record."""

    state: FederationState


@dataclass(frozen=True, slots=True)
class WriteFailed:
    """Event: the primary did not take it; the next try is in `wait` seconds at the latest."""

    text: str
    wait: float


AnnounceOutput: TypeAlias = WriteState | StateWritten | WriteFailed


class _Stage(Enum):
    """What an announcer waits for."""

    IDLE = auto()
    """A change, or the next comparison."""
    PACED = auto()
    """Its turn to write."""
    WRITING = auto()
    """The primary's answer."""
    FAILED = auto()
    """News, or the end of a wait after a failure."""


class Announcer:
    """Keeps our record in the primary equal to our gateways.

    Args:
        dc: Our datacenter.
        enabled: Whether all servers concerned support federation states; asked at each look.
        wall: Reads the calendar clock.
        rng: Source of jitter.
        now: Seconds on the driver's monotonic clock.
    """

    def __init__(
        self,
        dc: str,
        *,
        enabled: Callable[[], bool],
        wall: Callable[[], datetime],
        rng: Random,
        now: float,
    ) -> None:
        self._dc, self._enabled, self._wall = dc, enabled, wall
        self._bucket = TokenBucket(rate=ANNOUNCE_RATE, burst=ANNOUNCE_BURST, now=now)
        self._backoff = Backoff(
            first=ANNOUNCE_RETRY_FIRST,
            longest=ANNOUNCE_RETRY_LONGEST,
            jitter=RETRY_JITTER,
            rng=rng,
        )
        self._stored: FederationState | None = None
        self._states_known = False
        self._gateways: tuple[CheckServiceNode, ...] | None = None
        self._stage, self._due = _Stage.IDLE, now + REPAIR_INTERVAL
        self._news = False  # That the attempt in flight could not use.
        self._writing: tuple[FederationState, FederationState | None] | None = None
        self._unechoed: _Written | None = None
        self._outputs: list[AnnounceOutput] = []

    def set_states(self, states: Iterable[FederationState], *, now: float) -> None:
        """Take the federation states of our own store."""
        dc = self._dc.lower()
        self._stored = next((state for state in states if state.datacenter.lower() == dc), None)
        self._states_known = True
        self._look_soon(now=now)

    def set_gateways(self, gateways: tuple[CheckServiceNode, ...], *, now: float) -> None:
        """Take all our services of kind mesh-gateway, healthy or not, in catalog order."""
        self._gateways = gateways
        self._look_soon(now=now)

    def wake(self, *, now: float) -> None:
        """News from outside (a server joined, a gateway became known): retry now."""
        if self._stage is _Stage.FAILED:
            self._backoff.reset()
            self._go(_Stage.IDLE, now)
        else:
            self._news = True
            self._look_soon(now=now)

    def written(self, *, now: float) -> None:
        """The primary took the record of `WriteState`."""
        assert self._stage is _Stage.WRITING
        assert self._writing is not None
        state, stored = self._writing
        self._backoff.reset()
        self._unechoed = _Written(state, stored, now + REPAIR_INTERVAL)
        self._outputs.append(StateWritten(state))
        self._go(_Stage.IDLE, now)

    def write_failed(self, text: str, *, now: float) -> None:
        """The primary refused the record of `WriteState`, or could not be reached."""
        assert self._stage is _Stage.WRITING
        wait = self._backoff.failed()
        self._outputs.append(WriteFailed(text, wait))
        if self._news:
            self._backoff.reset()
            self._go(_Stage.IDLE, now)
        else:
            self._go(_Stage.FAILED, now + wait)

    def next_timer(self) -> float | None:
        """Moment at which `handle_timer` is due; None while the primary's answer is awaited."""
        return None if self._stage is _Stage.WRITING else self._due

    def handle_timer(self, *, now: float) -> None:
        """Do what is due by `now`; may be called early or late."""
        if self._stage is _Stage.WRITING or now < self._due:
            return
        state = self._to_announce(now=now)
        if state is None:
            self._go(_Stage.IDLE, now + REPAIR_INTERVAL)
            return
        if self._stage is not _Stage.PACED:
            wait = self._bucket.take(now=now)
            if wait > 0:
                self._go(_Stage.PACED, now + wait)
                return
        self._news = False
        self._writing = state, self._stored
        self._stage = _Stage.WRITING
        self._outputs.append(WriteState(state))

    def take_outputs(self) -> list[AnnounceOutput]:
        """Remove and return all that is to be done, oldest first."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def _look_soon(self, *, now: float) -> None:
        if self._stage is _Stage.IDLE:
            self._due = now

    def _go(self, stage: _Stage, due: float) -> None:
        self._stage, self._due = stage, due

    def _to_announce(self, *, now: float) -> FederationState | None:
        if not self._states_known or self._gateways is None or not self._enabled():
            return None
        state = state_to_announce(self._dc, self._gateways, self._stored, wall=self._wall())
        written = self._unechoed
        if state is not None and written is not None:
            return None if written.covers(state, self._stored, now=now) else state
        return state


@dataclass(frozen=True, slots=True)
class _Written:
    """A state that the primary took, until replication brings it back.

    Attributes:
        state: What was written.
        stored: Our own copy at that time.
        until: When it counts as lost, on the driver's clock.
    """

    state: FederationState
    stored: FederationState | None
    until: float

    def covers(self, state: FederationState, stored: FederationState | None, *, now: float) -> bool:
        """Whether `state` need not be written: the same was, and its echo is still to come."""
        return now < self.until and stored == self.stored and state.is_same(self.state)


# Prune --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeleteState:
    """Action: delete a departed datacenter's record; nothing is to be answered."""

    dc: str


class Pruner:
    """Deletes, in the primary, the records of datacenters that departed: hourly, and at once.

    The first full round waits a whole interval: after a start the WAN pool fills only slowly.
    Until then a record goes only when we saw servers of its datacenter and they left.

    Args:
        dc: Our datacenter.
        known_dcs: Datacenters that have servers in the WAN pool.
        now: Seconds on the driver's monotonic clock.
    """

    def __init__(self, dc: str, *, known_dcs: Callable[[], Collection[str]], now: float) -> None:
        self._dc, self._known_dcs = dc, known_dcs
        self._states: tuple[FederationState, ...] = ()
        self._seen: set[str] = set()  # Datacenters that ever had servers.
        self._full_at = now + PRUNE_INTERVAL
        self._look_at: float | None = None
        self._outputs: list[DeleteState] = []
        self.wake()

    def set_states(self, states: tuple[FederationState, ...]) -> None:
        """Take the federation states of our own store."""
        self._states = states

    def wake(self) -> None:
        """Servers joined: remember which datacenters have some."""
        self._seen.update(dc.lower() for dc in self._known_dcs())

    def datacenter_departed(self, *, now: float) -> None:
        """The last server of a datacenter left the WAN pool: prune its record now."""
        self._look_at = now

    def next_timer(self) -> float:
        """Moment at which `handle_timer` is due, on the driver's clock."""
        return self._full_at if self._look_at is None else min(self._look_at, self._full_at)

    def handle_timer(self, *, now: float) -> None:
        """Do what is due by `now`; may be called early or late."""
        if now < self.next_timer():
            return
        self._look_at = None
        departed = states_to_prune(self._states, self._known_dcs(), own_dc=self._dc)
        if now < self._full_at:
            departed = [dc for dc in departed if dc.lower() in self._seen]
        else:
            self._full_at = now + PRUNE_INTERVAL
        self._outputs += [DeleteState(dc) for dc in departed]

    def take_outputs(self) -> list[DeleteState]:
        """Remove and return all that is to be done, oldest first."""
        outputs, self._outputs = self._outputs, []
        return outputs
