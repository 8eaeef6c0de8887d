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
from isthmus.wire.memberlist import NodeState, NodeStatus

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
        self._members: dict[str, Member] = {}
        self._gone_at: dict[str, float] = {}
        self.prune_at: dict[str, float] = {}
        """When members that were told to leave for good are erased."""
        self._implied: set[str] = set()
        """Members whose status' time was only implied by a push/pull."""
        self._intents: dict[str, _Intent] = {}
        self._snapshot: tuple[Member, ...] | None = None
        self._shared = False
        """Whether other rosters look at `_members`, too: then it is copied before it is changed."""

    def __len__(self) -> int:
        return len(self._members)

    def members(self) -> tuple[Member, ...]:
        """All of them; the same object until something changes."""
        if self._snapshot is None:
            self._snapshot = tuple(self._members.values())
        return self._snapshot

    def copy_from(self, other: "Roster") -> None:
        """Know what another member's roster knows; for a pool that starts warm."""
        self._members, self._shared, other._shared = other._members, True, True
        self._gone_at, self.prune_at = other._gone_at.copy(), other.prune_at.copy()
        self._implied, self._intents = other._implied.copy(), other._intents.copy()
        self._snapshot = other.members()

    def get(self, name: str) -> Member | None:
        """One of them."""
        return self._members.get(name)

    def with_status(self, *statuses: MemberStatus) -> list[Member]:
        """Those with one of these statuses."""
        return [member for member in self.members() if member.status in statuses]

    # --- What memberlist says ---------------------------------------------------------------

    def node_joined(self, node: NodeState) -> None:
        """A node came to life."""
        known = self._members.get(node.name)
        if known is None:
            intent = self._intents.pop(node.name, None)
            status = MemberStatus.LEAVING if intent and intent.leaving else MemberStatus.ALIVE
            ltime = intent.ltime if intent else 0
            member = _tolerant(node, status=status, status_ltime=ltime)
            if intent is not None and intent.implied:
                self._implied.add(node.name)
        else:
            member = _tolerant(node, status=MemberStatus.ALIVE, status_ltime=known.status_ltime)
            self.prune_at.pop(node.name, None)
        self._gone_at.pop(node.name, None)
        self._put(member)
        self._emit(MemberJoined(member))

    def node_updated(self, node: NodeState) -> None:
        """A node changed its meta."""
        old = self._members.get(node.name)
        if old is None:
            return
        member = _tolerant(node, status=old.status, status_ltime=old.status_ltime)
        self._put(member)
        self._emit(MemberUpdated(member))

    def node_left(self, node: NodeState, *, now: float) -> None:
        """A node died, or declared itself gone: then it left, and so it did if it meant to.

        The reference has it failed when its intent did not reach us before, and finds out at the
        next exchange of state. But nobody declares itself gone who does not leave.
        """
        known = self._members.get(node.name)
        if known is None:
            return
        alive = known.status is MemberStatus.ALIVE
        if known.status is MemberStatus.LEAVING or (alive and node.state is NodeStatus.LEFT):
            self._gone_at[node.name] = now
            self._emit(MemberLeft(self._set_status(known, MemberStatus.LEFT)))
        elif alive:
            self._gone_at[node.name] = now
            self._emit(MemberFailed(self._set_status(known, MemberStatus.FAILED)))

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
        known = self._members.get(join.node)
        if known is None:
            return self._remember(join.node, _Intent(join.ltime, False, now, implied))
        if join.ltime <= known.status_ltime:
            return False
        self._note_implied(join.node, implied)
        known = self._put(replace(known, status_ltime=join.ltime))
        if known.status is MemberStatus.LEAVING:
            self._set_status(known, MemberStatus.ALIVE)
            self.prune_at.pop(join.node, None)
        return True

    def receive_leave(self, leave: wire.Leave, *, now: float) -> bool:
        """Take in an intent to leave; return whether it was news."""
        known = self._members.get(leave.node)
        if known is None:
            return self._remember(leave.node, _Intent(leave.ltime, True, now))
        if leave.ltime < known.status_ltime + (0 if leave.node in self._implied else 1):
            return False
        self._note_implied(leave.node, False)
        known = self._put(replace(known, status_ltime=leave.ltime))
        if known.status is MemberStatus.ALIVE:
            known = self._set_status(known, MemberStatus.LEAVING)
        elif known.status is MemberStatus.FAILED:
            known = self._set_status(known, MemberStatus.LEFT)
            self._emit(MemberLeft(known))
        if leave.prune:
            leaving = known.status is MemberStatus.LEAVING
            wait = self._config.broadcast_timeout + self._config.leave_propagate_delay
            self.prune_at[leave.node] = now + wait if leaving else now
        return True

    # --- Time ---------------------------------------------------------------------------------

    def next_prune(self) -> float | None:
        """When the next member that was told to leave for good is erased."""
        return min(self.prune_at.values()) if self.prune_at else None

    def prune(self, *, now: float) -> None:
        """Erase the members whose pruning is due."""
        for name in [name for name, due in self.prune_at.items() if due <= now]:
            self._erase(name)

    def reap(self, *, now: float) -> None:
        """Forget members that were gone for long, and old intents."""
        for name, gone_at in list(self._gone_at.items()):
            timeout = self._gone_timeout(self._members[name])
            if timeout is not None and now - gone_at > timeout:
                self._erase(name)
        oldest = now - self._config.recent_intent_timeout
        self._intents = {
            name: intent for name, intent in self._intents.items() if intent.heard_at > oldest
        }

    def pick_failed(self, rng: Random) -> Member | None:
        """A failed member to be tried again now, if chance says so.

        The fewer are alive, the likelier: a whole pool does not run after one dead member.
        """
        if not self._gone_at:
            return None
        failed = self.with_status(MemberStatus.FAILED)
        if not failed:
            return None
        left = len(self.with_status(MemberStatus.LEFT))
        alive = max(1, len(self._members) - len(failed) - left)
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

    def _note_implied(self, name: str, implied: bool) -> None:
        if implied:
            self._implied.add(name)
        else:
            self._implied.discard(name)

    def _own(self) -> None:
        """Be about to change `_members`."""
        self._snapshot = None
        if self._shared:
            self._members, self._shared = self._members.copy(), False

    def _put(self, member: Member) -> Member:
        self._own()
        self._members[member.name] = member
        return member

    def _set_status(self, member: Member, status: MemberStatus) -> Member:
        return self._put(replace(member, status=status))

    def _erase(self, name: str) -> None:
        self._own()
        member = self._members.pop(name)
        self._gone_at.pop(name, None)
        self.prune_at.pop(name, None)
        self._implied.discard(name)
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
