"""A managed cluster of etcd, seen from one of its members: who leads, who belongs.

Source: design of storage, §7 "managed etcd", §10 "Later".
"""

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from isthmus.engine.etcd import EtcdEngine
from isthmus.engine.etcd_access import EtcdAccess
from isthmus.engine.etcd_api import (
    ALARM_DISARM,
    ALARM_GET,
    ALARM_NOSPACE,
    MESSAGES,
    CallFailed,
    EtcdClient,
    compare_revision,
    put,
)
from isthmus.store.engine import Lead, LeaderInfo

logger = logging.getLogger(__name__)

STATUS_INTERVAL: Final = 0.05
"""Seconds between two looks at our member: what a new leader takes to notice that it is one."""
STATUS_INTERVAL_MAX: Final = 0.5
"""Seconds between them while commits show that etcd's leader is where it was."""
STATUS_TIMEOUT: Final = 1.0
BACKSTOP_MIN: Final = 1.0
BACKSTOP_MAX: Final = 2.0
"""A leadership that is free for so many seconds may be claimed by any voter."""
DEFRAGMENT_TIMEOUT: Final = 120.0
UNSTARTED_TIME: Final = 60.0
"""Seconds that a server may take from being let in to its first start."""
_TURN_KEY: Final = b"m/defragment"
"""Exists while a member is being defragmented."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A member of the cluster.

    Attributes:
        number: etcd's own id.
        name: The server's id; empty while it was never started.
    """

    number: int
    name: str
    peer_url: str
    is_learner: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberStatus:
    """What our member says of itself.

    Attributes:
        leads: Whether it is the cluster's leader.
        leader: Number of the leader; 0 without one.
        term, applied: Of etcd's log.
        size, size_in_use: Bytes of its database.
        alarms: What it complains of.
    """

    version: str
    number: int
    leader: int
    is_learner: bool
    term: int
    applied: int
    size: int
    size_in_use: int
    alarms: tuple[str, ...]

    @property
    def leads(self) -> bool:
        """Whether our member is the leader."""
        return self.leader == self.number


class EtcdCluster:
    """Calls about the cluster, through our member."""

    def __init__(self, access: EtcdAccess) -> None:
        self._client = EtcdClient(access)
        self._turn = 0

    async def status(self) -> MemberStatus:
        """How our member is.

        Raises:
            CallFailed: It does not answer.
        """
        found = await self._client.call(
            "Status", MESSAGES["StatusRequest"](), timeout=STATUS_TIMEOUT
        )
        return MemberStatus(
            version=found.version,
            number=found.header.member_id,
            leader=found.leader,
            is_learner=found.isLearner,
            term=found.raftTerm,
            applied=found.raftAppliedIndex,
            size=found.dbSize,
            size_in_use=found.dbSizeInUse,
            alarms=tuple(found.errors),
        )

    async def members(self) -> tuple[Member, ...]:
        """Everyone. Raises as `status`."""
        found = await self._client.call("MemberList", MESSAGES["MemberListRequest"]())
        return tuple(
            Member(
                number=member.ID,
                name=member.name,
                peer_url=member.peerURLs[0] if member.peerURLs else "",
                is_learner=member.isLearner,
            )
            for member in found.members
        )

    async def promote(self, number: int) -> None:
        """Let a learner vote. Raises as `status`, also while it has not caught up."""
        await self._client.call("MemberPromote", MESSAGES["MemberPromoteRequest"](ID=number))

    async def remove(self, number: int) -> None:
        """Remove a member. Raises as `status`, also where the majority would be in danger."""
        await self._client.call("MemberRemove", MESSAGES["MemberRemoveRequest"](ID=number))

    async def move_leader(self, number: int) -> None:
        """Hand etcd's own leadership over; only its leader can. Raises as `status`."""
        await self._client.call("MoveLeader", MESSAGES["MoveLeaderRequest"](targetID=number))

    async def defragment(self) -> None:
        """Give the space of our member's database back; it does nothing else meanwhile."""
        await self._client.call(
            "Defragment", MESSAGES["DefragmentRequest"](), timeout=DEFRAGMENT_TIMEOUT
        )

    async def hand_over(self, to: str = "") -> bool:
        """Have another voter lead etcd: the one of that name, or any; whether one does.

        Raises:
            CallFailed: Our member does not answer.
        """
        status = await self.status()
        if not status.leads:
            return False
        for member in await self.members():
            if (
                member.number == status.number
                or member.is_learner
                or not member.name
                or to not in {"", member.name}
            ):
                continue
            try:
                await self.move_leader(member.number)
            except CallFailed as error:
                logger.debug("%s does not take etcd's leadership: %s", member.name, error)
            else:
                return True
        return False

    async def take_turn(self) -> bool:
        """Whether it is our member's turn to be defragmented: nobody else's is now."""
        lease = await self._client.call(
            "LeaseGrant", MESSAGES["LeaseGrantRequest"](TTL=math.ceil(DEFRAGMENT_TIMEOUT))
        )
        answer = await self._client.call(
            "Txn",
            MESSAGES["TxnRequest"](
                compare=[compare_revision(_TURN_KEY, 0)],
                success=[put(_TURN_KEY, b"", lease=lease.ID)],
            ),
        )
        self._turn = lease.ID
        if not answer.succeeded:
            await self.end_turn()
        return bool(answer.succeeded)

    async def end_turn(self) -> None:
        """Let the next member have its turn. Raises as `status`."""
        await self._client.call("LeaseRevoke", MESSAGES["LeaseRevokeRequest"](ID=self._turn))

    async def compact(self) -> None:
        """Forget all history up to now; not an error if another server did."""
        status = await self._client.call("Status", MESSAGES["StatusRequest"]())
        try:
            await self._client.call(
                "Compact",
                MESSAGES["CompactionRequest"](revision=status.header.revision, physical=True),
                timeout=DEFRAGMENT_TIMEOUT,
            )
        except CallFailed as error:
            if "has been compacted" not in error.details:
                raise

    async def alarmed(self) -> tuple[int, ...]:
        """Numbers of the members whose space had run out. Raises as `status`."""
        found = await self._client.call("Alarm", MESSAGES["AlarmRequest"](action=ALARM_GET))
        return tuple(alarm.memberID for alarm in found.alarms if alarm.alarm == ALARM_NOSPACE)

    async def disarm(self, number: int) -> None:
        """Take back a member's alarm that space had run out. Raises as `status`."""
        await self._client.call(
            "Alarm",
            MESSAGES["AlarmRequest"](action=ALARM_DISARM, alarm=ALARM_NOSPACE, memberID=number),
        )

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()


class MemberElection:
    """Who leads is who etcd's leader belongs to. Implements `server.election.Election`.

    Writes are then one network trip shorter, and etcd's election is the only one there is.

    Args:
        cluster: Our member.
        rng: Source of jitter for the case that nobody claims.
    """

    def __init__(self, cluster: EtcdCluster, *, rng: Random) -> None:
        self._cluster, self._rng = cluster, rng
        self._free_at: float | None = None
        self.status: MemberStatus | None = None
        """Our member's last answer; None while it gives none."""
        self._is_old = False
        """Whether that answer is older than a look at our member would make it."""

    def may_claim(self, leader: LeaderInfo | None, *, now: float) -> bool:
        """Whether our member leads, or nobody has claimed for long."""
        if leader is not None:
            self._free_at = None
            return False
        status = self.status
        if status is None or status.is_learner or not status.leader:
            self._free_at = None  # Who leads, if anybody, we would not hear of.
            return False
        if status.leads:
            return True
        if self._free_at is None:
            self._free_at = now + self._rng.uniform(BACKSTOP_MIN, BACKSTOP_MAX)
        return now >= self._free_at

    def may_preempt(self, leader: LeaderInfo) -> bool:
        """Whether our member leads: then who holds the key is late."""
        status = self.status
        return status is not None and status.leads and not status.is_learner and not self._is_old

    @property
    def answers(self) -> bool:
        """Whether our member answered when we last looked."""
        return self.status is not None

    async def watch(
        self, changed: Callable[[], None], *, heard: Callable[[], float] = lambda: -math.inf
    ) -> None:
        """Look at our member again and again, until cancelled.

        Args:
            changed: Called when our member began or ceased to lead, or has another leader.
            heard: When a commit was last seen, on the loop's clock: etcd had a leader then, and
                there is no hurry to find out whether it is another.
        """
        clock, asked = asyncio.get_running_loop(), -math.inf
        while True:
            now = clock.time()
            self._is_old = now - heard() < STATUS_INTERVAL and now - asked < STATUS_INTERVAL_MAX
            if self._is_old:
                await asyncio.sleep(STATUS_INTERVAL)
                continue
            asked, before = now, self.status
            try:
                self.status = await self._cluster.status()
            except CallFailed:
                self.status = None
            if (before and before.leader) != (self.status and self.status.leader):
                changed()
            await asyncio.sleep(STATUS_INTERVAL)


class Successors:
    """Has other members lead etcd while our server is not fit to lead the datacenter.

    Args:
        cluster: Our member.
    """

    def __init__(self, cluster: EtcdCluster) -> None:
        self._cluster, self._tried = cluster, 0

    async def look(self, leader: str) -> str:
        """If our member leads, have another do so.

        Args:
            leader: Who leads the datacenter, if anybody: the first choice. Else each in turn,
                since nobody knows who is fit.

        Returns:
            Who leads etcd instead of us; empty if nothing was changed.

        Raises:
            CallFailed: Our member does not answer.
        """
        status = await self._cluster.status()
        if not status.leads:
            return ""
        others = sorted(
            member.name
            for member in await self._cluster.members()
            if member.name and not member.is_learner and member.number != status.number
        )
        if not others:
            return ""
        wanted = leader
        if leader not in others:
            wanted, self._tried = others[self._tried % len(others)], self._tried + 1
        return wanted if await self._cluster.hand_over(wanted) else ""


class ManagedEtcdEngine(EtcdEngine):
    """The engine on a cluster of our own: leadership is handed over with etcd's.

    Args:
        member: Our member.
        options: As for `EtcdEngine`.
    """

    def __init__(self, member: EtcdCluster, access: EtcdAccess, **options: Any) -> None:
        super().__init__(access, **options)
        self._member = member

    async def resign(self, lead: Lead, to: str = "") -> None:
        """Hand over to a server, or to any other voter; best effort."""
        try:
            await self._member.hand_over(to)
        except CallFailed as error:
            logger.debug("could not hand etcd's leadership over: %s", error)
        await super().resign(lead, to)


class ClusterKeeper:
    """The leader's care for the members: promote, remove.

    Args:
        cluster: Our member, which must lead.
        presence: Which servers of the datacenter the LAN pool knows, by server id: True alive,
            False failed. One that is missing may be on its way: we may have begun just now
            ourselves. It counts as failed.
        left: Servers that said that they go for good, or that an operator made leave.
        dead_after: Seconds that a failed server stays a member.
        cleanup: Whether dead servers are removed at all.
        quorum_min: None is removed below so many.
        stable_after: Seconds that a server which joined must be alive before it votes.
    """

    def __init__(
        self,
        cluster: EtcdCluster,
        *,
        presence: Callable[[], Mapping[str, bool]],
        left: Callable[[], Collection[str]],
        dead_after: Callable[[], float],
        cleanup: Callable[[], bool],
        quorum_min: Callable[[], int] = lambda: 0,
        stable_after: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._cluster, self._presence, self._left = cluster, presence, left
        self._dead_after, self._cleanup, self._quorum_min = dead_after, cleanup, quorum_min
        self._stable_after = stable_after
        self._dead_since: dict[str, float] = {}
        self._alive_since: dict[int, float] = {}
        """Learners that run, and since when we have known them alive without a break."""
        self._unstarted_since: dict[int, float] = {}

    async def look(self, *, now: float) -> None:
        """One round of care; errors are for the next round.

        Raises:
            CallFailed: Our member does not answer.
        """
        members = await self._cluster.members()
        presence = self._presence()
        learners = [member for member in members if member.is_learner and presence.get(member.name)]
        self._alive_since = {
            member.number: self._alive_since.get(member.number, now) for member in learners
        }
        for member in learners:
            if now - self._alive_since[member.number] >= self._stable_after():
                await self._promote(member)
        await self._remove_unstarted(members, now=now)
        await self._remove_dead(members, now=now)

    async def _promote(self, member: Member) -> None:
        try:
            await self._cluster.promote(member.number)
        except CallFailed as error:
            logger.debug("storage member %s cannot vote yet: %s", member.name, error)
        else:
            logger.info("storage member %s votes from now on", member.name)

    async def _remove_unstarted(self, members: tuple[Member, ...], *, now: float) -> None:
        """Remove learners that never came: while there is one, nobody else can join."""
        self._unstarted_since = {
            member.number: self._unstarted_since.get(member.number, now)
            for member in members
            if member.is_learner and not member.name
        }
        for number, since in self._unstarted_since.items():
            if now - since > UNSTARTED_TIME:
                logger.warning("removing a storage member that was to join and never started")
                await self._cluster.remove(number)

    async def _remove_dead(self, members: tuple[Member, ...], *, now: float) -> None:
        """Remove one server that is gone, if those that remain keep their majority."""
        presence, left = self._presence(), self._left()
        alive = {name for name, is_alive in presence.items() if is_alive}
        self._dead_since = {
            member.name: self._dead_since.get(member.name, now)
            for member in members
            if member.name and member.name not in alive
        }
        voters = [member for member in members if not member.is_learner]
        living = [member for member in voters if member.name in alive]
        for member in members:
            since = self._dead_since.get(member.name)
            if since is None:
                continue
            has_left = member.name in left
            waited = now - since > (_LEFT_TIME if has_left else self._dead_after())
            if not waited or not (has_left or self._cleanup()):
                continue
            if 2 * len(living) <= len(voters) or len(voters) - 1 < self._quorum_min():
                logger.debug("storage member %s stays: the majority would be lost", member.name)
                continue
            logger.warning(
                "removing storage member %s: its server %s",
                member.name,
                "left" if has_left else f"has failed for {now - since:.0f} s",
            )
            await self._cluster.remove(member.number)
            return


_LEFT_TIME: Final = 3.0
"""Seconds that a server that left stays a member: it may just be restarted."""
