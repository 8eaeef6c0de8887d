"""Who leads and who belongs, decided from what a member of etcd says."""

import asyncio
import math
from dataclasses import replace
from random import Random

import pytest

from isthmus.engine.etcd_api import CallFailed
from isthmus.engine.etcd_members import (
    BACKSTOP_MAX,
    BACKSTOP_MIN,
    STATUS_INTERVAL,
    STATUS_INTERVAL_MAX,
    ClusterKeeper,
    EtcdCluster,
    Member,
    MemberElection,
    MemberStatus,
    Successors,
)
from isthmus.store.engine import LeaderInfo
from support.virtual_loop import now, run_virtual

OTHER = LeaderInfo("id-b", "b", "10.0.0.2:8300", 3)


def status(*, leads: bool, learner: bool = False, alarms: tuple[str, ...] = ()) -> MemberStatus:
    return MemberStatus(
        version="3.4.23",
        number=1,
        leader=1 if leads else 2,
        is_learner=learner,
        term=1,
        applied=1,
        size=1000,
        size_in_use=1000,
        alarms=alarms,
    )


class FakeCluster(EtcdCluster):
    """A cluster that does what it is told, and notes it."""

    def __init__(self, *names: str) -> None:
        self.found = [
            Member(number=number, name=name, peer_url=f"https://{name}", is_learner=False)
            for number, name in enumerate(names, 1)
        ]
        self.now = status(leads=True)
        self.done: list[str] = []
        self.refuses: set[str] = set()

    def _do(self, what: str) -> None:
        if what in self.refuses:
            raise CallFailed("Cluster", "UNAVAILABLE", "unhealthy cluster", sent=True)
        self.done.append(what)

    async def status(self) -> MemberStatus:
        return self.now

    async def members(self) -> tuple[Member, ...]:
        return tuple(self.found)

    async def promote(self, number: int) -> None:
        self._do(f"promote {number}")

    async def remove(self, number: int) -> None:
        self._do(f"remove {number}")
        self.found = [member for member in self.found if member.number != number]

    async def move_leader(self, number: int) -> None:
        self._do(f"move to {number}")
        self.now = replace(self.now, leader=number)


class Care:
    """The leader's care on a clock of our own."""

    def __init__(self, *names: str) -> None:
        self.cluster = FakeCluster(*names)
        self.present: dict[str, bool] = dict.fromkeys(names, True)
        self.left: set[str] = set()
        self.cleanup = True
        self.stable_after = 0.0
        self.keeper = ClusterKeeper(
            self.cluster,
            presence=lambda: self.present,
            left=lambda: self.left,
            dead_after=lambda: 30.0,
            cleanup=lambda: self.cleanup,
            stable_after=lambda: self.stable_after,
        )

    async def until(self, end: float) -> list[str]:
        """Look once a second; what was done by then."""
        for second in range(int(end) + 1):
            await self.keeper.look(now=float(second))
        return self.cluster.done


async def test_failed_server_is_removed_when_it_stays_away() -> None:
    care = Care("a", "b", "c")
    care.present["c"] = False
    assert await care.until(30) == []
    assert await care.until(31) == ["remove 3"]


async def test_server_that_comes_back_in_time_stays() -> None:
    care = Care("a", "b", "c")
    care.present["c"] = False
    await care.until(29)
    care.present["c"] = True
    await care.keeper.look(now=30.0)
    care.present["c"] = False
    for second in range(31, 60):
        await care.keeper.look(now=float(second))
    assert care.cluster.done == []


async def test_server_that_left_is_removed_at_once_also_without_cleanup() -> None:
    care = Care("a", "b", "c", "d", "e")
    care.cleanup = False
    care.present["b"] = False
    del care.present["c"]
    care.left.add("c")
    assert await care.until(4) == ["remove 3"]
    assert await care.until(60) == ["remove 3"]


async def test_server_that_nobody_has_heard_of_yet_is_given_the_time_of_a_failed_one() -> None:
    care = Care("a", "b", "c")
    del care.present["c"]
    assert await care.until(30) == []
    assert await care.until(31) == ["remove 3"]


async def test_learner_that_never_starts_makes_room_for_others() -> None:
    care = Care("a", "b")
    care.cluster.found.append(Member(number=3, name="", peer_url="https://c", is_learner=True))
    assert await care.until(60) == []
    assert await care.until(61) == ["remove 3"]


@pytest.mark.parametrize(
    ("names", "dead"), [(("a", "b"), "b"), (("a", "b", "c"), "bc"), (("a", "b", "c", "d"), "cd")]
)
async def test_nobody_is_removed_while_the_majority_would_be_in_danger(
    names: tuple[str, ...], dead: str
) -> None:
    care = Care(*names)
    for name in dead:
        care.present[name] = False
    assert await care.until(100) == []


async def test_two_dead_of_five_are_removed_one_after_the_other() -> None:
    care = Care("a", "b", "c", "d", "e")
    care.present["d"] = care.present["e"] = False
    assert await care.until(40) == ["remove 4", "remove 5"]


async def test_learner_that_runs_is_promoted_and_asked_again_until_it_has_caught_up() -> None:
    care = Care("a", "b")
    care.cluster.found += [
        Member(number=8, name="", peer_url="https://x", is_learner=True),
        Member(number=9, name="c", peer_url="https://c", is_learner=True),
    ]
    care.present["c"] = True
    care.cluster.refuses = {"promote 9"}
    await care.keeper.look(now=0.0)
    care.cluster.refuses = set()
    await care.keeper.look(now=1.0)
    assert care.cluster.done == ["promote 9"]


async def test_learner_votes_when_it_has_been_alive_for_long_enough_without_a_break() -> None:
    care = Care("a", "b", "c")
    care.stable_after = 10.0
    care.cluster.found[2] = replace(care.cluster.found[2], is_learner=True)
    for second in range(40):
        care.present["c"] = not 5 <= second < 8  # From second 8 on it counts.
        await care.keeper.look(now=float(second))
        assert ("promote 3" in care.cluster.done) is (second >= 18), second


async def test_server_that_is_not_fit_has_who_leads_the_datacenter_lead_etcd_or_each_in_turn() -> (
    None
):
    cluster = FakeCluster("a", "b", "c", "d")
    cluster.found[3] = replace(cluster.found[3], is_learner=True)
    successors = Successors(cluster)
    done = []
    for leader in ("c", "", "a", "d", "c"):
        cluster.now = status(leads=True)
        done.append(await successors.look(leader))
        assert not cluster.now.leads
    assert done == ["c", "b", "c", "b", "c"]
    assert await successors.look("") == ""  # Our member does not lead.
    cluster.now, cluster.refuses = status(leads=True), {"move to 2", "move to 3"}
    assert await successors.look("c") == ""
    alone = FakeCluster("a")
    assert await Successors(alone).look("") == ""


def make_election(found: MemberStatus | None) -> MemberElection:
    election = MemberElection(FakeCluster("a"), rng=Random(1))
    election.status = found
    return election


def test_server_of_the_leading_member_claims_and_takes_over() -> None:
    election = make_election(status(leads=True))
    assert election.may_claim(None, now=0.0)
    assert election.may_preempt(OTHER)


def test_server_of_another_member_waits_for_the_backstop() -> None:
    election = make_election(status(leads=False))
    assert not election.may_preempt(OTHER)
    assert not election.may_claim(None, now=0.0)
    assert not election.may_claim(None, now=BACKSTOP_MIN - 0.01)
    assert election.may_claim(None, now=BACKSTOP_MAX)
    assert not election.may_claim(OTHER, now=BACKSTOP_MAX)
    assert not election.may_claim(None, now=BACKSTOP_MAX)  # The wait begins anew.


@pytest.mark.parametrize("found", [None, status(leads=False, learner=True)])
def test_server_whose_member_is_away_or_learns_claims_nothing(
    found: MemberStatus | None,
) -> None:
    election = make_election(found)
    assert not election.may_preempt(OTHER)
    assert not election.may_claim(None, now=0.0)
    assert not election.may_claim(None, now=100.0)


def test_backstop_counts_only_while_a_member_could_tell_who_leads() -> None:
    """A member that was away, or let in again as a learner, has not heard of the leader yet."""
    election = make_election(status(leads=False))
    assert not election.may_claim(None, now=0.0)
    election.status = status(leads=False, learner=True)
    assert not election.may_claim(None, now=50.0)
    election.status = status(leads=False)
    assert not election.may_claim(None, now=100.0)
    assert election.may_claim(None, now=100.0 + BACKSTOP_MAX)


class CountingCluster(FakeCluster):
    """A member that counts how often it is looked at."""

    looks = 0

    async def status(self) -> MemberStatus:
        self.looks += 1
        return await super().status()


def test_member_is_looked_at_seldom_while_commits_are_seen_and_often_when_they_cease() -> None:
    async def whole() -> None:
        cluster = CountingCluster("a")
        election = MemberElection(cluster, rng=Random(1))
        writing = False
        moved: list[float] = []
        watching = asyncio.ensure_future(
            election.watch(
                lambda: moved.append(now()), heard=lambda: now() if writing else -math.inf
            )
        )
        await asyncio.sleep(10)
        assert cluster.looks == pytest.approx(10 / STATUS_INTERVAL, abs=2)
        assert election.may_preempt(OTHER)
        writing, cluster.looks = True, 0
        await asyncio.sleep(10)
        assert cluster.looks == pytest.approx(10 / STATUS_INTERVAL_MAX, abs=2)
        await asyncio.sleep(STATUS_INTERVAL_MAX / 2)
        assert not election.may_preempt(OTHER)  # What we know of our member is old.
        cluster.now = status(leads=False)
        moved.clear()
        begun = now()
        writing = False
        await asyncio.sleep(STATUS_INTERVAL_MAX)
        assert moved
        assert moved[0] - begun <= 2 * STATUS_INTERVAL
        watching.cancel()

    run_virtual(whole())
