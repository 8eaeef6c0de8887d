"""Serf's view of the members: what they intend, and what became of them.

Memberlist says who answers; intents, ordered by Lamport times, say who meant to leave. Only both
together tell a member that left from one that failed.

Source: protocol/gossip.md §13.4, §13.6.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from random import Random
from typing import Final, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from isthmus.errors import ProtocolError
from isthmus.gossip.config import GossipConfig
from isthmus.gossip.members import addr_text
from isthmus.units import parse_duration
from isthmus.wire import serf as wire
from isthmus.wire.memberlist import NodeState

RECENT_INTENTS_MAX: Final = 4096
"""Intents about unknown members that are remembered; the oldest give way."""
RECONNECT_TIMEOUT_TAG: Final = "rc_tm"
"""Tag with which a member chooses when it is forgotten."""


class MemberStatus(IntEnum):
    """What became of a member; the numbers are those of Consul's HTTP API."""

    NONE = 0
    ALIVE = 1
    LEAVING = 2
    LEFT = 3
    FAILED = 4

    def __str__(self) -> str:
        """Lower-case word, as listings show it."""
        return self.name.lower()


class Member(Struct, frozen=True, kw_only=True):
    """One member as the layers above see it.

    Attributes:
        address: Textual IP address.
        status_ltime: Lamport time of the newest intent about it.
    """

    name: str
    address: str
    port: int
    tags: Mapping[str, str]
    status: MemberStatus
    status_ltime: int = 0
    protocol_min: int = 0
    protocol_max: int = 0
    protocol_cur: int = 0
    delegate_min: int = 0
    delegate_max: int = 0
    delegate_cur: int = 0


@dataclass(frozen=True, slots=True)
class MemberJoined:
    """Event: it is alive, and was unknown, failed or gone before."""

    member: Member


@dataclass(frozen=True, slots=True)
class MemberFailed:
    """Event: it is dead and never said that it would leave."""

    member: Member


@dataclass(frozen=True, slots=True)
class MemberLeft:
    """Event: it left, or was declared to have left."""

    member: Member


@dataclass(frozen=True, slots=True)
class MemberUpdated:
    """Event: its tags changed."""

    member: Member


@dataclass(frozen=True, slots=True)
class MemberReaped:
    """Event: it was gone for so long that it is forgotten."""

    member: Member


MemberEvent: TypeAlias = MemberJoined | MemberFailed | MemberLeft | MemberUpdated | MemberReaped


class _Entry:
    """A member, when it went, and whether its status' time was only implied by a push/pull."""

    __slots__ = ("gone_at", "implied", "member", "prune_at")

    def __init__(self, member: Member) -> None:
        self.member = member
        self.gone_at = 0.0
        self.implied = False
        self.prune_at: float | None = None


@dataclass(frozen=True, slots=True)
class _Intent:
    ltime: int
    leaving: bool
    heard_at: float
    implied: bool = False


def member_of(node: NodeState, *, status: MemberStatus, status_ltime: int = 0) -> Member:
    """The member that a memberlist record describes.

    Raises:
        ProtocolError: Its tags can not be read.
    """
    vsn = node.vsn
    return Member(
        name=node.name,
        address=addr_text(node.addr),
        port=node.port,
        tags=wire.decode_tags(node.meta),
        status=status,
        status_ltime=status_ltime,
        protocol_min=vsn[0],
        protocol_max=vsn[1],
        protocol_cur=vsn[2],
        delegate_min=vsn[3],
        delegate_max=vsn[4],
        delegate_cur=vsn[5],
    )


class Roster:
    """All members with their status.

    Args:
        config: Times.
        emit: Receives events.
    """

    def __init__(self, config: GossipConfig, *, emit: Callable[[MemberEvent], None]) -> None:
        self._config, self._emit = config, emit
        self._entries: dict[str, _Entry] = {}
        self._intents: dict[str, _Intent] = {}
        self._snapshot: tuple[Member, ...] | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def members(self) -> tuple[Member, ...]:
        """All of them; the same object until something changes."""
        if self._snapshot is None:
            self._snapshot = tuple([entry.member for entry in self._entries.values()])
        return self._snapshot

    def get(self, name: str) -> Member | None:
        """One of them."""
        entry = self._entries.get(name)
        return None if entry is None else entry.member

    def with_status(self, *statuses: MemberStatus) -> list[Member]:
        """Those with one of these statuses."""
        return [member for member in self.members() if member.status in statuses]

    # --- What memberlist says ---------------------------------------------------------------

    def node_joined(self, node: NodeState) -> None:
        """A node came to life."""
        entry = self._entries.get(node.name)
        if entry is None:
            intent = self._intents.pop(node.name, None)
            status = MemberStatus.LEAVING if intent and intent.leaving else MemberStatus.ALIVE
            ltime = intent.ltime if intent else 0
            member = _tolerant(node, status=status, status_ltime=ltime)
            entry = self._entries[node.name] = _Entry(member)
            entry.implied = intent is not None and intent.implied
        else:
            member = _tolerant(
                node, status=MemberStatus.ALIVE, status_ltime=entry.member.status_ltime
            )
            entry.prune_at = None
        self._put(member)
        self._emit(MemberJoined(member))

    def node_updated(self, node: NodeState) -> None:
        """A node changed its meta."""
        entry = self._entries.get(node.name)
        if entry is None:
            return
        old = entry.member
        member = _tolerant(node, status=old.status, status_ltime=old.status_ltime)
        self._put(member)
        self._emit(MemberUpdated(member))

    def node_left(self, node: NodeState, *, now: float) -> None:
        """A node died, or declared itself gone: whether it left, its intent decides."""
        entry = self._entries.get(node.name)
        if entry is None:
            return
        if entry.member.status is MemberStatus.LEAVING:
            entry.gone_at = now
            self._emit(MemberLeft(self._set_status(entry, MemberStatus.LEFT)))
        elif entry.member.status is MemberStatus.ALIVE:
            entry.gone_at = now
            self._emit(MemberFailed(self._set_status(entry, MemberStatus.FAILED)))

    # --- What members intend ------------------------------------------------------------------

    def receive_join(self, join: wire.Join, *, now: float, implied: bool = False) -> bool:
        """Take in an intent to stay; return whether it was news.

        Args:
            join: The intent.
            now: Seconds on the driver's monotonic clock.
            implied: It is no intent but a status' time in a push/pull. That may as well be the
                time of a leave that has not reached us yet, so a leave of the same time still
                counts; the reference then takes a member that left for a failed one.
        """
        entry = self._entries.get(join.node)
        if entry is None:
            return self._remember(join.node, _Intent(join.ltime, False, now, implied))
        if join.ltime <= entry.member.status_ltime:
            return False
        entry.implied = implied
        self._put(replace(entry.member, status_ltime=join.ltime))
        if entry.member.status is MemberStatus.LEAVING:
            self._set_status(entry, MemberStatus.ALIVE)
            entry.prune_at = None
        return True

    def receive_leave(self, leave: wire.Leave, *, now: float) -> bool:
        """Take in an intent to leave; return whether it was news."""
        entry = self._entries.get(leave.node)
        if entry is None:
            return self._remember(leave.node, _Intent(leave.ltime, True, now))
        if leave.ltime < entry.member.status_ltime + (0 if entry.implied else 1):
            return False
        entry.implied = False
        self._put(replace(entry.member, status_ltime=leave.ltime))
        if entry.member.status is MemberStatus.ALIVE:
            self._set_status(entry, MemberStatus.LEAVING)
        elif entry.member.status is MemberStatus.FAILED:
            self._emit(MemberLeft(self._set_status(entry, MemberStatus.LEFT)))
        if leave.prune:
            leaving = entry.member.status is MemberStatus.LEAVING
            wait = self._config.broadcast_timeout + self._config.leave_propagate_delay
            entry.prune_at = now + wait if leaving else now
        return True

    # --- Time ---------------------------------------------------------------------------------

    def next_prune(self) -> float | None:
        """When the next member that was told to leave for good is erased."""
        moments = [e.prune_at for e in self._entries.values() if e.prune_at is not None]
        return min(moments, default=None)

    def prune(self, *, now: float) -> None:
        """Erase the members whose pruning is due."""
        for name in [
            name
            for name, entry in self._entries.items()
            if entry.prune_at is not None and entry.prune_at <= now
        ]:
            self._erase(name)

    def reap(self, *, now: float) -> None:
        """Forget members that were gone for long, and old intents."""
        for name, entry in list(self._entries.items()):
            timeout = self._gone_timeout(entry.member)
            if timeout is not None and now - entry.gone_at > timeout:
                self._erase(name)
        oldest = now - self._config.recent_intent_timeout
        self._intents = {
            name: intent for name, intent in self._intents.items() if intent.heard_at > oldest
        }

    def pick_failed(self, rng: Random) -> Member | None:
        """A failed member to be tried again now, if chance says so.

        The fewer are alive, the likelier: a whole pool does not run after one dead member.
        """
        failed = self.with_status(MemberStatus.FAILED)
        if not failed:
            return None
        left = len(self.with_status(MemberStatus.LEFT))
        alive = max(1, len(self._entries) - len(failed) - left)
        return rng.choice(failed) if rng.random() <= len(failed) / alive else None

    def _gone_timeout(self, member: Member) -> float | None:
        if member.status is MemberStatus.FAILED:
            default = self._config.reconnect_timeout
        elif member.status is MemberStatus.LEFT:
            default = self._config.tombstone_timeout
        else:
            return None
        chosen = member.tags.get(RECONNECT_TIMEOUT_TAG)
        if chosen is None:
            return default
        try:
            return parse_duration(chosen).seconds
        except ValueError:
            return default

    def _remember(self, name: str, intent: _Intent) -> bool:
        known = self._intents.get(name)
        if known is not None:
            tied = intent.ltime == known.ltime and intent.leaving and known.implied
            if intent.ltime <= known.ltime and not tied:
                return False
        self._intents.pop(name, None)
        self._intents[name] = intent
        if len(self._intents) > RECENT_INTENTS_MAX:
            del self._intents[next(iter(self._intents))]
        return True

    def _put(self, member: Member) -> None:
        self._entries[member.name].member = member
        self._snapshot = None

    def _set_status(self, entry: _Entry, status: MemberStatus) -> Member:
        self._put(replace(entry.member, status=status))
        return entry.member

    def _erase(self, name: str) -> None:
        member = self._entries.pop(name).member
        self._snapshot = None
        self._emit(MemberReaped(member))


def _tolerant(node: NodeState, *, status: MemberStatus, status_ltime: int) -> Member:
    """As `member_of`; tags that can not be read count as none."""
    try:
        return member_of(node, status=status, status_ltime=status_ltime)
    except ProtocolError:
        plain = NodeState(
            name=node.name,
            addr=node.addr,
            port=node.port,
            meta=wire.encode_tags({}),
            incarnation=node.incarnation,
            state=node.state,
            vsn=node.vsn,
        )
        return member_of(plain, status=status, status_ltime=status_ltime)
