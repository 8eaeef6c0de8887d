"""Serf's half of a push/pull: everyone's status, the clocks, the remembered events.

It is encoded once per change: in a quiet pool every exchange carries the same.

Source: protocol/gossip.md §13.5.
"""

from collections.abc import Sequence

from isthmus.gossip.recent import RecentEvents
from isthmus.gossip.roster import Member, MemberStatus
from isthmus.wire import serf as wire


class UserState:
    """What we tell, as bytes."""

    def __init__(self) -> None:
        self._members: Sequence[Member] | None = None
        self._counts: tuple[int, ...] = ()
        self._data = b""
        self._left = False

    def encode(
        self,
        members: Sequence[Member],
        events: RecentEvents,
        *,
        ltime: int,
        event_ltime: int,
        query_ltime: int,
    ) -> bytes:
        """The state as it is now; the same object until something changes.

        Args:
            members: All of them; another object when any of them changed.
            events: The remembered ones.
            ltime: Time of the member clock.
            event_ltime: Of the event clock.
            query_ltime: Of the query clock.
        """
        counts = (ltime, event_ltime, query_ltime, events.changes)
        if self._members is not members or self._counts != counts:
            self._members, self._counts = members, counts
            ordered = sorted(members, key=lambda member: member.name)
            left = [member.name for member in ordered if member.status is MemberStatus.LEFT]
            state = wire.SerfPushPull(
                ltime=ltime,
                status_ltimes={member.name: _told_ltime(member) for member in ordered},
                left_members=tuple(left),
                event_ltime=event_ltime,
                events=events.slots(),
                query_ltime=query_ltime,
            )
            self._left = bool(left)
            data = wire.encode_message(state)
            self._data = self._data if data == self._data else data
        return self._data

    def tells_nothing(self, data: bytes) -> bool:
        """Whether a peer's state is the one that `encode` gave last, and teaches us nothing.

        One with members that left does: whoever hears of it notes a later time than it was told.
        """
        if self._left or data != self._data:
            return False
        self._data = data  # Members of one process that agree come to share it.
        return True

    def copy_from(self, other: "UserState", members: Sequence[Member]) -> None:
        """Tell what `other` tells, of members that are the same; for a pool that starts warm."""
        self._members, self._counts = members, other._counts
        self._data, self._left = other._data, other._left


def _told_ltime(member: Member) -> int:
    """Time of a member's status as a push/pull may tell it.

    A peer takes it for that of an intent to stay. The time of a leave that has not reached that
    peer yet must not come first, or it takes the leave for old and the member for failed.
    """
    leaving = member.status is MemberStatus.LEAVING
    return max(0, member.status_ltime - 1) if leaving else member.status_ltime
