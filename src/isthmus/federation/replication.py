"""The primary's federation states and config entries against ours: what closes the gap, and when.

Source: protocol/federation.md §10, protocol/rpc.md §8. Consul decides by the index of its last
round and rewrites everything after an error; we compare what is there, of federation states
`primary_modify_index` too, and skip records that are equal.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from random import Random
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

import msgspec

from isthmus.errors import FEDERATION_STATES_DISABLED
from isthmus.federation.pacing import RETRY_JITTER, Backoff, TokenBucket
from isthmus.model import config_entry
from isthmus.model.config_entry import ConfigEntry, ConfigEntryRequest
from isthmus.model.federation import (
    DELETE,
    UPSERT,
    FederationState,
    FederationStateRequest,
)
from isthmus.model.record import Record

R = TypeVar("R", bound=Record)
R_contra = TypeVar("R_contra", bound=Record, contravariant=True)
"""Records of the table that is replicated."""

REPLICATION_RATE: Final = 1.0  # Rounds per second, Consul's value.
REPLICATION_BURST: Final = 5  # Consul's value.
REPLICATION_RETRY_FIRST: Final = 1.0  # Consul's value.
REPLICATION_RETRY_LONGEST: Final = 5.0  # Consul: 120 s, for which a healed federation stays apart.
ENTRY_RETRY_LONGEST: Final = 60.0
"""Of config entries: a round of federation states that works brings their next one forward."""
HEARSAY_TIMEOUT: Final = 3.0  # For asking one other secondary while cut off from the primary.
HEARSAY_ASKED_MAX: Final = 4  # Secondaries asked in one round.


def writes_to_follow(
    primary: Iterable[FederationState], ours: Iterable[FederationState]
) -> list[FederationStateRequest]:
    """Writes that make our store equal to the primary's: deletions first, each in order of name.

    A record is written when it is missing here or was written in the primary since: its
    `primary_modify_index` becomes the primary's modify index, so a second run finds nothing.
    """
    theirs = {state.datacenter.lower(): state for state in primary}
    stored = {state.datacenter.lower(): state for state in ours}
    deletes = [
        FederationStateRequest(op=DELETE, state=FederationState(datacenter=state.datacenter))
        for name, state in sorted(stored.items())
        if name not in theirs
    ]
    upserts = [
        FederationStateRequest(op=UPSERT, state=_as_replica(state))
        for name, state in sorted(theirs.items())
        if name not in stored or not _is_replica(stored[name], state)
    ]
    return deletes + upserts


def entry_writes_to_follow(
    primary: Iterable[ConfigEntry], ours: Iterable[ConfigEntry]
) -> list[ConfigEntryRequest]:
    """As `writes_to_follow` for config entries: those are written whose content differs.

    They take indexes of our own store, so those of the primary say nothing of them.
    """
    theirs = {_key(entry): entry for entry in primary}
    stored = {_key(entry): entry for entry in ours}
    deletes = [
        ConfigEntryRequest(op=config_entry.DELETE, entry=entry)
        for key, entry in sorted(stored.items(), key=lambda item: item[0])
        if key not in theirs
    ]
    copies = [
        ConfigEntryRequest(op=config_entry.COPY, entry=entry)
        for key, entry in sorted(theirs.items(), key=lambda item: item[0])
        if key not in stored or _content(stored[key]) != _content(entry)
    ]
    return deletes + copies


class ReplicationIndex:
    """Which index of the primary to wait for next.

    A remote index that goes back means another store (a restored or rebuilt primary): the next
    round reads everything.
    """

    def __init__(self) -> None:
        self._last = 0

    @property
    def last(self) -> int:
        """Index to block on; 0 answers at once."""
        return self._last

    def receive(self, index: int) -> bool:
        """Take the index of an answer; returns whether it went back."""
        went_back = index < self._last
        self._last = 0 if went_back else index
        return went_back

    def reset(self) -> None:
        """An error left the gap unknown: read everything next time."""
        self._last = 0


@dataclass(slots=True)
class ReplicationStatus:
    """How replication from the primary fares.

    Attributes:
        running: Whether this server replicates.
        primary_index: Newest index that the primary told.
        index: Newest of those whose records are all in our store.
        succeeded_at: When a round ended well last, on the driver's clock; None for never.
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
class FetchRecords:
    """Action: read the primary's records, as soon as their index is greater than `min_index`.

    Answer `fetched` or `fetch_failed` once.
    """

    min_index: int


@dataclass(frozen=True, slots=True)
class FollowRecords(Generic[R]):
    """Action: make our store hold these records only; answer `followed` or `follow_failed`."""

    records: tuple[R, ...]


@dataclass(frozen=True, slots=True)
class AskForGateways:
    """Action: read the records of another secondary; answer `told` or `not_told` once."""

    dc: str


@dataclass(frozen=True, slots=True)
class RoundFailed:
    """Event: a round failed; the next is in `wait` seconds at the latest."""

    text: str
    wait: float


@dataclass(frozen=True, slots=True)
class RoundDone:
    """Event: so many records were written to follow the primary.

    Attributes:
        write_count: Upserts and deletes.
        went_back: The primary's index is lower than before: all is read again.
    """

    write_count: int
    went_back: bool


ReplicationOutput: TypeAlias = (
    FetchRecords | FollowRecords[R] | AskForGateways | RoundFailed | RoundDone
)


class Witness(Protocol[R_contra]):
    """Is told how rounds end; `federation.locator.GatewayLocator` is one."""

    @property
    def is_cut_off(self) -> bool:
        """Whether rounds failed so often that others shall be asked."""

    def replication_succeeded(self) -> None:
        """The primary answered."""

    def replication_failed(self) -> None:
        """The primary could not be reached."""

    def set_hearsay(self, states: Iterable[R_contra], /) -> None:
        """What another secondary knows."""


class _Stage(Enum):
    """What a replicator waits for."""

    PACED = auto()
    """Its turn to begin a round."""
    FETCHING = auto()
    FOLLOWING = auto()
    ASKING = auto()
    """What another secondary knows, before the wait after a failure."""
    WAITING = auto()
    """News, or the end of a wait."""


class Replicator(Generic[R]):
    """Keeps a table of a secondary equal to the primary's.

    Args:
        dc: Our datacenter.
        primary_dc: The primary datacenter.
        locator: Is told how rounds end; None when no gateways are in use, or when that is the
            business of another table's replicator.
        enabled: Whether all servers concerned support that table; asked at each round.
        known_dcs: Datacenters that have servers in the WAN pool.
        status: Is kept up to date.
        rng: Source of jitter, and of whom to ask.
        now: Seconds on the driver's monotonic clock.
        retry_longest: Longest wait after a round that failed, in seconds, before jitter.
    """

    def __init__(
        self,
        dc: str,
        primary_dc: str,
        *,
        locator: Witness[R] | None,
        enabled: Callable[[], bool],
        known_dcs: Callable[[], Collection[str]],
        status: ReplicationStatus,
        rng: Random,
        now: float,
        retry_longest: float = REPLICATION_RETRY_LONGEST,
    ) -> None:
        self._dc, self._primary_dc, self._locator = dc, primary_dc, locator
        self._enabled, self._known_dcs, self._rng = enabled, known_dcs, rng
        self.status = status
        self._bucket = TokenBucket(rate=REPLICATION_RATE, burst=REPLICATION_BURST, now=now)
        self._backoff = Backoff(
            first=REPLICATION_RETRY_FIRST,
            longest=retry_longest,
            jitter=RETRY_JITTER,
            rng=rng,
        )
        self._index = ReplicationIndex()
        self._news = False  # That the round in flight could not use.
        self._reply_index = 0
        self._to_ask: list[str] = []
        self._wait = 0.0
        self._outputs: list[ReplicationOutput[R]] = []
        self._stage, self._due = _Stage.PACED, now + self._bucket.take(now=now)

    def wake(self, *, now: float) -> None:
        """News from outside (a server joined, a gateway became known): retry now."""
        if self._stage is _Stage.WAITING:
            self._backoff.reset()
            self._begin_round(now=now)
        else:
            self._news = True

    def fetched(self, records: Sequence[R], index: int, *, now: float) -> None:
        """The primary answered: its records, at an index."""
        assert self._stage is _Stage.FETCHING
        if self._locator is not None:
            self._locator.replication_succeeded()
        self.status.primary_index = self._reply_index = index
        self._stage = _Stage.FOLLOWING
        self._outputs.append(FollowRecords(tuple(records)))

    def fetch_failed(self, text: str, *, now: float) -> None:
        """The primary could not be reached, or refused."""
        assert self._stage is _Stage.FETCHING
        if self._locator is not None and FEDERATION_STATES_DISABLED not in text:
            self._locator.replication_failed()
        self._failed(text, now=now)

    def followed(self, write_count: int, *, now: float) -> None:
        """Our store has what the primary answered, after so many writes."""
        assert self._stage is _Stage.FOLLOWING
        self._backoff.reset()
        self.status.succeeded(self._reply_index, now=now)
        went_back = self._index.receive(self._reply_index)
        self._outputs.append(RoundDone(write_count, went_back))
        self._begin_round(now=now)

    def follow_failed(self, text: str, *, now: float) -> None:
        """Our store could not be read or written."""
        assert self._stage is _Stage.FOLLOWING
        self._failed(text, now=now)

    def told(self, records: Iterable[R], *, now: float) -> None:
        """Another secondary answered: it may know the primary's gateways of today."""
        assert self._stage is _Stage.ASKING
        if self._locator is not None:
            self._locator.set_hearsay(records)
        self._pause(now=now)

    def not_told(self, *, now: float) -> None:
        """Another secondary did not answer: ask the next."""
        assert self._stage is _Stage.ASKING
        self._ask_next(now=now)

    def next_timer(self) -> float | None:
        """Moment at which `handle_timer` is due; None while an answer is awaited."""
        waits = self._stage is _Stage.PACED or self._stage is _Stage.WAITING
        return self._due if waits else None

    def handle_timer(self, *, now: float) -> None:
        """Do what is due by `now`; may be called early or late."""
        due = self.next_timer()
        if due is None or now < due:
            return
        if self._stage is _Stage.WAITING:
            self._begin_round(now=now)
            if now < self._due:
                return
        if not self._enabled():
            self._wait = self._backoff.failed()
            self._pause(now=now)
            return
        self._news = False
        self._stage = _Stage.FETCHING
        self._outputs.append(FetchRecords(self._index.last))

    def take_outputs(self) -> list[ReplicationOutput[R]]:
        """Remove and return all that is to be done, oldest first."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def _begin_round(self, *, now: float) -> None:
        self._stage, self._due = _Stage.PACED, now + self._bucket.take(now=now)

    def _failed(self, text: str, *, now: float) -> None:
        self.status.failed(text)
        self._index.reset()
        self._wait = self._backoff.failed()
        self._outputs.append(RoundFailed(text, self._wait))
        self._to_ask = []
        if self._locator is not None and self._locator.is_cut_off:
            others = sorted(set(self._known_dcs()) - {self._dc, self._primary_dc})
            self._to_ask = self._rng.sample(others, k=min(len(others), HEARSAY_ASKED_MAX))
        self._ask_next(now=now)

    def _ask_next(self, *, now: float) -> None:
        if not self._to_ask:
            self._pause(now=now)
            return
        self._stage = _Stage.ASKING
        self._outputs.append(AskForGateways(self._to_ask.pop(0)))

    def _pause(self, *, now: float) -> None:
        """Wait after a failure, unless news came that the failed round could not use."""
        if self._news:
            self._news = False
            self._backoff.reset()
            self._begin_round(now=now)
        else:
            self._stage, self._due = _Stage.WAITING, now + self._wait


StateReplicator: TypeAlias = Replicator[FederationState]
EntryReplicator: TypeAlias = Replicator[ConfigEntry]


def _key(entry: ConfigEntry) -> tuple[str, str]:
    return entry.kind, entry.name.lower()


def _content(entry: ConfigEntry) -> ConfigEntry:
    return msgspec.structs.replace(entry, create_index=0, modify_index=0)


def _as_replica(state: FederationState) -> FederationState:
    return msgspec.structs.replace(
        state, primary_modify_index=state.modify_index, create_index=0, modify_index=0
    )


def _is_replica(ours: FederationState, primary: FederationState) -> bool:
    """Same write of the primary. Content is compared too: a rebuilt primary may reuse indexes."""
    return (
        ours.primary_modify_index == primary.modify_index
        and ours.updated_at == primary.updated_at
        and ours.is_same(primary)
    )
