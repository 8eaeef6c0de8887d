"""Room in the database of a member of etcd: its history forgotten, its file made small again.

Every server does this for its own member, whoever leads the datacenter: while a member complains
that its quota is reached, etcd takes no write at all, so that nobody could claim the leadership or
even open the storage. Source: design of storage, §10 "Upkeep".
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from isthmus.engine.etcd_members import EtcdCluster, MemberStatus
from isthmus.model.reminders import Reminders

logger = logging.getLogger(__name__)

DEFRAGMENT_SIZE_MIN: Final = 512 * 1024 * 1024
DEFRAGMENT_RATIO: Final = 2.0
QUIET_AFTER_JOIN: Final = 600.0
"""Seconds after a member joined in which nothing is defragmented: old releases then corrupt."""
LAST_TURN: Final = 120.0
"""Seconds that the leader's member gives the others to be defragmented before itself."""
FULL_SHARE: Final = 0.95
"""Share of the quota above which a member stays closed to writes: data alone has filled it."""
WARNING_SHARE: Final = 0.7
WARNING_INTERVAL: Final = 3600.0
FULL_INTERVAL: Final = 60.0
"""Seconds between two lines of the log that say that the quota must be raised."""
RETRY_INTERVAL: Final = 5.0
"""Seconds between two attempts to make room: members forget their history in the background."""
PATIENCE: Final = 15.0
"""Seconds after which the leading member takes the alarm of one back that does nothing itself."""


class RoomKeeper:
    """Keeps room in our member's database.

    Args:
        cluster: Our member.
        quota: Bytes that its database may have.
        hand_over: Has another member lead; called before ours is defragmented.
    """

    def __init__(
        self, cluster: EtcdCluster, *, quota: int, hand_over: Callable[[], Awaitable[None]]
    ) -> None:
        self._cluster, self._quota, self._hand_over = cluster, quota, hand_over
        self._full_since: float | None = None
        self._retry_at = self._due_since = self._joined_at = 0.0
        self._full, self._filling = Reminders(FULL_INTERVAL), Reminders(WARNING_INTERVAL)
        self._count = 0

    async def look(self, *, now: float) -> None:
        """One round; errors are for the next one.

        Args:
            now: Seconds on the loop's clock.

        Raises:
            CallFailed: Our member does not answer, or refuses.
        """
        status = await self._cluster.status()
        count = len(await self._cluster.members())
        if count != self._count:
            self._count, self._joined_at = count, now
        if any("NOSPACE" in alarm for alarm in status.alarms):
            await self._make_room(status, now=now)
            return
        if self._full_since is not None:
            logger.warning("the storage takes writes again")
            self._full_since = None
        share = status.size_in_use / self._quota
        if share > WARNING_SHARE and self._filling.due(now=now):
            logger.warning(
                "the storage fills %.0f%% of its quota (%d bytes): raise storage.etcd.quota_bytes "
                "on all servers",
                100 * share,
                self._quota,
            )
        await self._defragment_if_due(status, now=now)

    async def _make_room(self, status: MemberStatus, *, now: float) -> None:
        """Somebody has reached the quota: nothing can be written until all alarms are gone."""
        if self._full_since is None:
            self._full_since, self._retry_at = now, now
            logger.error(
                "the storage has reached its quota (storage.etcd.quota_bytes) and takes no "
                "writes: making room"
            )
        if now < self._retry_at:
            return
        self._retry_at = now + RETRY_INTERVAL
        await self._cluster.compact()
        await self._cluster.defragment()
        left = await self._cluster.status()
        logger.info("the storage has %d bytes, it had %d", left.size, status.size)
        if left.size > FULL_SHARE * self._quota:
            if self._full.due(now=now):
                logger.error(
                    "the data alone fills the storage: %d of %d bytes; raise "
                    "storage.etcd.quota_bytes on all servers and restart them one after the "
                    "other; until then nothing can be written",
                    left.size,
                    self._quota,
                )
            return
        known = {member.number for member in await self._cluster.members()}
        for number in await self._cluster.alarmed():
            waited = self._full_since is not None and now - self._full_since >= PATIENCE
            if number == left.number or (left.leads and (waited or number not in known)):
                await self._cluster.disarm(number)

    async def _defragment_if_due(self, status: MemberStatus, *, now: float) -> None:
        """Give space back that much was deleted from: one member at a time, the leader last."""
        if (
            status.size <= DEFRAGMENT_SIZE_MIN
            or status.size <= DEFRAGMENT_RATIO * status.size_in_use
            or now - self._joined_at <= QUIET_AFTER_JOIN
        ):
            self._due_since = now
            return
        if status.leads and self._count > 1:
            if now - self._due_since >= LAST_TURN:
                self._due_since = now
                await self._hand_over()
            return
        if not await self._cluster.take_turn():
            return
        try:
            logger.info(
                "defragmenting the storage: %d of %d bytes are in use",
                status.size_in_use,
                status.size,
            )
            await self._cluster.defragment()
        finally:
            await self._cluster.end_turn()
