"""Room in a member's database, made by its server in a fixed order."""

import logging

import pytest

from isthmus.engine.etcd_api import CallFailed
from isthmus.engine.etcd_members import EtcdCluster, Member, MemberStatus
from isthmus.engine.etcd_room import (
    DEFRAGMENT_SIZE_MIN,
    LAST_TURN,
    PATIENCE,
    QUIET_AFTER_JOIN,
    RETRY_INTERVAL,
    RoomKeeper,
)

QUOTA = 1_000_000
LARGE = 4 * DEFRAGMENT_SIZE_MIN


class FullCluster(EtcdCluster):
    """Members with numbers from 1 on, ours the first; it notes what is done to it."""

    def __init__(self, count: int = 3) -> None:
        self.count = count
        self.alarms: set[int] = set()
        self.size, self.in_use, self.left = 900_000, 500_000, 500_000
        self.leader = 1
        self.done: list[str] = []
        self.has_turn = True
        self.refuses: set[str] = set()

    def _do(self, what: str) -> None:
        if what in self.refuses:
            raise CallFailed("Maintenance", "UNAVAILABLE", "away", sent=True)
        self.done.append(what)

    async def status(self) -> MemberStatus:
        return MemberStatus(
            version="3.4.23",
            number=1,
            leader=self.leader,
            is_learner=False,
            term=1,
            applied=1,
            size=self.size,
            size_in_use=self.in_use,
            alarms=tuple(f"memberID:{number} alarm:NOSPACE " for number in sorted(self.alarms)),
        )

    async def members(self) -> tuple[Member, ...]:
        return tuple(
            Member(number=number, name=f"s{number}", peer_url="", is_learner=False)
            for number in range(1, self.count + 1)
        )

    async def compact(self) -> None:
        self._do("compact")

    async def defragment(self) -> None:
        self._do("defragment")
        self.size = self.left

    async def alarmed(self) -> tuple[int, ...]:
        return tuple(sorted(self.alarms))

    async def disarm(self, number: int) -> None:
        self._do(f"disarm {number}")
        self.alarms.discard(number)

    async def take_turn(self) -> bool:
        return self.has_turn

    async def end_turn(self) -> None:
        self._do("end")

    async def hand_over(self, to: str = "") -> bool:
        self._do("hand over")
        self.leader = 2
        return True


def make_keeper(cluster: FullCluster, *, quota: int = QUOTA) -> RoomKeeper:
    async def hand_over() -> None:
        await cluster.hand_over()

    return RoomKeeper(cluster, quota=quota, hand_over=hand_over)


async def test_full_database_is_compacted_then_defragmented_and_takes_its_own_alarm_back() -> None:
    cluster = FullCluster()
    cluster.alarms, cluster.leader = {1, 2}, 3
    keeper = make_keeper(cluster)
    await keeper.look(now=0.0)
    assert cluster.done == ["compact", "defragment", "disarm 1"]
    cluster.alarms = {1}  # Reached again at once: not every second.
    await keeper.look(now=1.0)
    assert len(cluster.done) == 3
    await keeper.look(now=RETRY_INTERVAL)
    assert cluster.done[3:] == ["compact", "defragment", "disarm 1"]


async def test_leading_member_takes_alarms_back_of_those_who_are_gone_or_do_nothing() -> None:
    cluster = FullCluster()
    cluster.alarms = {2, 9}
    keeper = make_keeper(cluster)
    await keeper.look(now=0.0)
    assert cluster.done == ["compact", "defragment", "disarm 9"]
    for second in range(1, int(PATIENCE)):
        await keeper.look(now=float(second))
    assert cluster.alarms == {2}
    await keeper.look(now=PATIENCE)
    assert not cluster.alarms
    cluster.done.clear()
    await keeper.look(now=PATIENCE + 1)
    assert not cluster.done


async def test_database_that_data_alone_fills_stays_closed_and_says_what_to_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster = FullCluster()
    cluster.alarms, cluster.left = {1, 2, 3}, QUOTA - 1
    keeper = make_keeper(cluster)
    for second in range(70):
        await keeper.look(now=float(second))
    assert cluster.alarms == {1, 2, 3}
    said = [entry.getMessage() for entry in caplog.records if entry.levelno == logging.ERROR]
    assert sum("raise storage.etcd.quota_bytes" in text for text in said) == 2
    keeper = make_keeper(cluster, quota=2 * QUOTA)  # As an operator did, and restarted us.
    await keeper.look(now=100.0)
    assert cluster.alarms == {2, 3}


async def test_attempt_that_fails_is_made_again() -> None:
    cluster = FullCluster()
    cluster.alarms, cluster.refuses = {1}, {"defragment"}
    keeper = make_keeper(cluster)
    with pytest.raises(CallFailed):
        await keeper.look(now=0.0)
    cluster.refuses.clear()
    await keeper.look(now=RETRY_INTERVAL)
    assert not cluster.alarms


async def test_operator_is_warned_before_the_quota_is_reached(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster = FullCluster()
    keeper = make_keeper(cluster)
    await keeper.look(now=0.0)
    assert not caplog.records
    cluster.in_use = 750_000
    for second in range(100):
        await keeper.look(now=float(second))
    (warning,) = caplog.records
    assert "75%" in warning.getMessage()
    assert warning.levelno == logging.WARNING


async def test_space_is_given_back_one_member_at_a_time_and_not_soon_after_a_join() -> None:
    cluster = FullCluster()
    cluster.size, cluster.in_use, cluster.left, cluster.leader = LARGE, LARGE // 4, LARGE // 4, 2
    keeper = make_keeper(cluster, quota=10 * LARGE)
    await keeper.look(now=0.0)
    await keeper.look(now=QUIET_AFTER_JOIN)
    cluster.has_turn = False
    await keeper.look(now=QUIET_AFTER_JOIN + 1)
    assert not cluster.done
    cluster.has_turn = True
    await keeper.look(now=QUIET_AFTER_JOIN + 2)
    assert cluster.done == ["defragment", "end"]
    await keeper.look(now=QUIET_AFTER_JOIN + 3)
    assert cluster.done == ["defragment", "end"]


async def test_leading_member_is_defragmented_last_and_leads_no_more_then() -> None:
    cluster = FullCluster()
    cluster.size, cluster.in_use, cluster.left = LARGE, LARGE // 4, LARGE // 4
    keeper = make_keeper(cluster, quota=10 * LARGE)
    now = 0.0
    while not cluster.done:
        await keeper.look(now=now)
        now += 1
    assert cluster.done == ["hand over"]
    assert now >= QUIET_AFTER_JOIN + LAST_TURN
    await keeper.look(now=now)
    assert cluster.done == ["hand over", "defragment", "end"]


async def test_only_member_is_defragmented_where_it_is() -> None:
    cluster = FullCluster(1)
    cluster.size, cluster.in_use, cluster.left = LARGE, LARGE // 4, LARGE // 4
    keeper = make_keeper(cluster, quota=10 * LARGE)
    await keeper.look(now=0.0)
    cluster.refuses = {"defragment"}
    with pytest.raises(CallFailed):
        await keeper.look(now=QUIET_AFTER_JOIN + 1)
    assert cluster.done == ["end"]
