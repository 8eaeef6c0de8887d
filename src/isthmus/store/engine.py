"""The interface that storage engines implement: one durable batch at a time, by one leader.

An engine keeps bytes under keys (`store.keys`), compares on every commit that the caller still
leads and that nothing was committed in between, and answers when the batch is durable.
Source: design of storage, §3.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from isthmus.errors import EngineError

EMPTY_INDEX: Final = 1
"""Index of a store that nothing was written to: the first command takes the next one.

Answers show an index of at least 1, so a write must never have that index: a reader of an empty
table that blocks on it would miss the write.
"""


class Fenced(EngineError):
    """Another server leads, or committed in between. The batch is not in; step down."""


class OutcomeUnknown(EngineError):
    """No answer to a commit: it may be in or not. Step down; never retry for the caller."""

    def __init__(self, text: str, *, operation: str) -> None:
        super().__init__(f"{text}; the write may have taken effect", operation=operation)


class EngineUnavailable(EngineError):
    """Surely nothing was committed; the same call may be tried again."""


class TooLarge(EngineError):
    """The batch exceeds `Limits`; nothing was committed."""


class NoSpace(EngineError):
    """The disk or the quota is full; nothing was committed, reads go on."""


class Compacted(EngineError):
    """The history asked for is no longer kept: open again and load everything."""


class Locked(EngineError):
    """Another process has the data open. Nothing was touched."""


class Corrupt(EngineError):
    """Stored data breaks its own rules. Stop serving, repair nothing silently."""


class FormatTooNew(EngineError):
    """The data was written by a newer release, or belongs to another datacenter."""


@dataclass(frozen=True, slots=True)
class Head:
    """Where an engine stands.

    Attributes:
        index: Last logical index; `EMPTY_INDEX` when empty.
        revision: The engine's own counter, monotone, opaque.
        batch_id: Id of the last batch: 16 bytes.
        generation: Which set of rows is current; only a restore changes it.
        cluster: UUID that the datacenter got when its storage was made.
    """

    index: int
    revision: int
    batch_id: bytes
    generation: int
    cluster: str


@dataclass(frozen=True, slots=True)
class LeaderInfo:
    """Who leads: what the leader key says."""

    server_id: str
    node: str
    address: str
    """``host:port`` of its RPC port."""
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Lead:
    """Proof of leadership that each commit is fenced with."""

    epoch: int
    fence: int
    """Engine revision at which the leader key was written."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one commit changes. Keys of `puts`, `deletes` and `ranges` are disjoint.

    Attributes:
        index: Logical index after the batch.
        id: 16 random bytes, so that a repeated send is recognised.
        commands: How many commands it holds.
    """

    puts: dict[bytes, bytes]
    deletes: set[bytes]
    index: int
    id: bytes
    commands: int
    ranges: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Half-open ranges of keys to delete."""
    generation: int | None = None
    """Which set of rows is current from then on; None: the same as before. See `Head`."""


@dataclass(frozen=True, slots=True)
class Change:
    """One commit, or one change of leadership, as every server sees it.

    Attributes:
        index: Logical index after it; 0 when only the leadership changed.
        generation: Which set of rows is current after it.
        leadership: Whether `Engine.leader` has something new to say.
    """

    revision: int
    index: int
    puts: dict[bytes, bytes]
    deletes: set[bytes]
    ranges: list[tuple[bytes, bytes]]
    generation: int = 0
    leadership: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one batch may hold: operations and bytes."""

    operations_max: int
    bytes_max: int


class Engine(Protocol):
    """What every engine does; one call at a time, but `scan`, `changes`, `leadership`, `stats`.

    Attributes:
        shared: Whether other servers may commit too, so that `changes` must be followed.
    """

    shared: bool

    async def open(self) -> Head:
        """Open, creating what is missing; when open already, see where the storage stands now.

        Raises:
            Locked, Corrupt, EngineUnavailable, FormatTooNew: As their names say.
        """
        ...

    def scan(self, prefix: bytes) -> AsyncIterator[list[tuple[bytes, bytes]]]:
        """Yield pages of keys and values under `prefix`, in order of keys.

        They are as of the last `open`, or the last commit of our own.

        Raises:
            Compacted: That moment is too long ago.
        """
        ...

    def changes(self, after: int) -> AsyncIterator[Change]:
        """Yield whole commits and changes of leadership after a revision, as they happen.

        Raises:
            Compacted: That revision is too long ago; load again.
            EngineUnavailable: The storage is away; ask again later, from the last one seen.
        """
        ...

    def leadership(self, lead: Lead) -> AsyncIterator[None]:
        """Yield whenever `leader` may have something new to say since `lead` was claimed.

        For who leads: that server knows its own commits, and nobody else's are possible, so
        `changes` would tell it nothing else.

        Raises:
            EngineUnavailable: The storage is away; ask again later.
        """
        ...

    async def claim(self, info: LeaderInfo, *, preempt: bool = False) -> Lead | None:
        """Become leader; None when another server was faster.

        Args:
            info: Who we are.
            preempt: Take the place of another server that has not resigned. Fencing makes that
                safe; it is for a server that knows better than the leader key, as the one whose
                member of the storage leads there.
        """
        ...

    async def commit(self, lead: Lead, base: int, batch: Batch) -> Head:
        """Commit atomically; the answer comes when the batch is durable.

        Args:
            lead: Leadership under which the batch was computed.
            base: Index it was computed on.
            batch: What to change.

        Raises:
            Fenced, TooLarge, NoSpace, OutcomeUnknown, EngineUnavailable: See there what is known.
        """
        ...

    async def confirm(self, lead: Lead) -> None:
        """Return if we led at a moment after the call began.

        Raises:
            Fenced: We do not.
        """
        ...

    async def resign(self, lead: Lead, to: str = "") -> None:
        """Give up leadership, to a server id if named; best effort."""
        ...

    async def leader(self) -> LeaderInfo | None:
        """Who leads now."""
        ...

    def limits(self) -> Limits:
        """How large a batch may be."""
        ...

    async def stats(self) -> dict[str, object]:
        """Sizes in bytes, times in seconds, version."""
        ...

    async def maintain(self) -> None:
        """Compact what grew; the leader schedules it."""
        ...

    async def close(self) -> None:
        """Close; idempotent."""
        ...
