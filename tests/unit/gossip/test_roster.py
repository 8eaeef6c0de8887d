"""Intents and deaths together say who left and who failed (protocol/gossip.md §13.4, §13.6)."""

from dataclasses import replace
from random import Random

import pytest
from msgspec import structs

from isthmus.gossip.config import GossipConfig
from isthmus.gossip.members import OUR_VSN
from isthmus.gossip.roster import (
    RECENT_INTENTS_MAX,
    MemberEvent,
    MemberFailed,
    MemberJoined,
    MemberLeft,
    MemberReaped,
    MemberStatus,
    MemberUpdated,
    Roster,
)
from isthmus.wire.memberlist import NodeState, NodeStatus
from isthmus.wire.serf import Join, Leave, encode_tags

ALIVE, LEAVING, LEFT, FAILED = list(MemberStatus)[1:]


def node(name: str = "x", **tags: str) -> NodeState:
    return NodeState(
        name=name,
        addr=b"\x0a\x00\x00\x02",
        port=7946,
        meta=encode_tags(tags),
        incarnation=1,
        state=NodeStatus.ALIVE,
        vsn=OUR_VSN,
    )


class Fixture:
    def __init__(self, config: GossipConfig | None = None) -> None:
        self.events: list[MemberEvent] = []
        self.roster = Roster(config or GossipConfig.lan(), emit=self.events.append)

    def kinds(self) -> list[type]:
        kinds = [type(event) for event in self.events]
        self.events.clear()
        return kinds

    def state(self, name: str = "x") -> tuple[MemberStatus, int]:
        member = self.roster.get(name)
        assert member is not None
        return member.status, member.status_ltime


def joined(*, config: GossipConfig | None = None, **tags: str) -> Fixture:
    fixture = Fixture(config)
    fixture.roster.node_joined(node(**tags))
    fixture.kinds()
    return fixture


def test_death_without_intent_is_a_failure() -> None:
    fixture = joined()
    fixture.roster.node_left(node(), now=1.0)
    assert fixture.state() == (FAILED, 0)
    assert fixture.kinds() == [MemberFailed]


def test_death_after_the_intent_is_a_departure() -> None:
    fixture = joined()
    assert fixture.roster.receive_leave(Leave(ltime=3, node="x"), now=0.0)
    assert fixture.state() == (LEAVING, 3)
    fixture.roster.node_left(node(), now=1.0)
    assert fixture.state() == (LEFT, 3)
    assert fixture.kinds() == [MemberLeft]


def test_who_declares_itself_gone_left_even_if_its_intent_did_not_reach_us() -> None:
    fixture = joined()
    fixture.roster.node_left(structs.replace(node(), state=NodeStatus.LEFT), now=1.0)
    assert fixture.state() == (LEFT, 0)
    assert fixture.kinds() == [MemberLeft]
    fixture.roster.receive_leave(Leave(ltime=3, node="x"), now=2.0)
    assert fixture.state() == (LEFT, 3)
    assert fixture.kinds() == []


def test_intent_after_the_death_makes_it_a_departure() -> None:
    fixture = joined()
    fixture.roster.node_left(node(), now=1.0)
    assert fixture.roster.receive_leave(Leave(ltime=3, node="x"), now=2.0)
    assert fixture.state() == (LEFT, 3)
    assert fixture.kinds() == [MemberFailed, MemberLeft]


def test_old_intents_are_ignored() -> None:
    fixture = joined()
    fixture.roster.receive_join(Join(ltime=5, node="x"), now=0.0)
    assert not fixture.roster.receive_join(Join(ltime=5, node="x"), now=0.0)
    assert not fixture.roster.receive_leave(Leave(ltime=5, node="x"), now=0.0)
    assert fixture.state() == (ALIVE, 5)


def test_newer_join_calls_the_leave_off() -> None:
    fixture = joined()
    fixture.roster.receive_leave(Leave(ltime=3, node="x", prune=True), now=0.0)
    assert fixture.roster.receive_join(Join(ltime=4, node="x"), now=0.0)
    assert fixture.state() == (ALIVE, 4)
    assert fixture.roster.next_prune() is None


def test_failed_or_gone_member_comes_back() -> None:
    fixture = joined()
    fixture.roster.node_left(node(), now=1.0)
    fixture.roster.node_joined(node(role="new"))
    assert fixture.state() == (ALIVE, 0)
    assert fixture.kinds() == [MemberFailed, MemberJoined]
    member = fixture.roster.get("x")
    assert member is not None
    assert member.tags == {"role": "new"}


def test_intent_may_arrive_before_its_member() -> None:
    fixture = Fixture()
    assert fixture.roster.receive_leave(Leave(ltime=7, node="x"), now=0.0)
    assert not fixture.roster.receive_leave(Leave(ltime=7, node="x"), now=0.0)
    assert not fixture.roster.receive_join(Join(ltime=6, node="x"), now=0.0)
    fixture.roster.node_joined(node())
    assert fixture.state() == (LEAVING, 7)


def test_intent_about_nobody_is_forgotten_after_five_minutes() -> None:
    fixture = Fixture()
    fixture.roster.receive_leave(Leave(ltime=7, node="x"), now=0.0)
    fixture.roster.reap(now=300.0)
    fixture.roster.node_joined(node())
    assert fixture.state() == (ALIVE, 0)


def test_intents_about_unknown_members_are_bounded() -> None:
    fixture = Fixture()
    for number in range(RECENT_INTENTS_MAX + 1):
        fixture.roster.receive_leave(Leave(ltime=7, node=str(number)), now=0.0)
    fixture.roster.node_joined(node("0"))
    assert fixture.state("0") == (ALIVE, 0)


@pytest.mark.parametrize("known", [True, False])
def test_push_pull_that_overtakes_a_leave_does_not_hide_it(known: bool) -> None:
    """Its status' time is already that of the leave; the leave itself comes a moment later."""
    fixture = joined() if known else Fixture()
    fixture.roster.receive_join(Join(ltime=3, node="x"), now=0.0, implied=True)
    if not known:
        fixture.roster.receive_leave(Leave(ltime=3, node="x"), now=0.0)
        fixture.roster.node_joined(node())
    else:
        assert fixture.roster.receive_leave(Leave(ltime=3, node="x"), now=0.0)
    assert fixture.state() == (LEAVING, 3)
    assert not fixture.roster.receive_leave(Leave(ltime=3, node="x"), now=0.0)


def test_departure_overtaken_by_a_push_pull_is_set_right() -> None:
    fixture = joined()
    fixture.roster.receive_join(Join(ltime=3, node="x"), now=0.0, implied=True)
    fixture.roster.node_left(node(), now=1.0)
    assert fixture.state() == (FAILED, 3)
    fixture.roster.receive_leave(Leave(ltime=3, node="x"), now=1.0)
    assert fixture.state() == (LEFT, 3)


def test_update_keeps_the_status() -> None:
    fixture = joined()
    fixture.roster.receive_leave(Leave(ltime=3, node="x"), now=0.0)
    fixture.roster.node_updated(node(role="new"))
    assert fixture.state() == (LEAVING, 3)
    assert fixture.kinds() == [MemberUpdated]


def test_prune_erases_the_gone_at_once_and_the_leaving_after_a_while() -> None:
    fixture = joined()
    fixture.roster.node_left(node(), now=1.0)
    fixture.roster.receive_leave(Leave(ltime=3, node="x", prune=True), now=2.0)
    fixture.roster.prune(now=2.0)
    assert fixture.roster.get("x") is None
    assert fixture.kinds() == [MemberFailed, MemberLeft, MemberReaped]

    fixture = joined()
    fixture.roster.receive_leave(Leave(ltime=3, node="x", prune=True), now=2.0)
    fixture.roster.prune(now=2.0)
    assert fixture.state() == (LEAVING, 3)
    assert fixture.roster.next_prune() == 10.0  # 5 s to broadcast, 3 s to propagate.
    fixture.roster.prune(now=10.0)
    assert fixture.roster.get("x") is None


@pytest.mark.parametrize(
    ("intends", "tags", "kept", "gone"),
    [
        (False, {}, 100.0, 101.1),
        (True, {}, 50.0, 51.1),
        (False, {"rc_tm": "10s"}, 10.0, 11.1),
        (True, {"rc_tm": "10s"}, 10.0, 11.1),
        (False, {"rc_tm": "nonsense"}, 100.0, 101.1),
    ],
)
def test_gone_members_are_reaped(
    intends: bool, tags: dict[str, str], kept: float, gone: float
) -> None:
    config = replace(GossipConfig.lan(), reconnect_timeout=100.0, tombstone_timeout=50.0)
    fixture = joined(config=config, **tags)
    if intends:
        fixture.roster.receive_leave(Leave(ltime=3, node="x"), now=0.0)
    fixture.roster.node_left(node(**tags), now=1.0)
    fixture.kinds()
    fixture.roster.reap(now=kept)
    assert fixture.kinds() == []
    fixture.roster.reap(now=gone)
    assert fixture.kinds() == [MemberReaped]
    assert len(fixture.roster) == 0


def test_few_failed_of_many_are_tried_rarely() -> None:
    fixture = Fixture()
    for number in range(20):
        fixture.roster.node_joined(node(str(number)))
    assert fixture.roster.pick_failed(Random(1)) is None
    fixture.roster.node_left(node("7"), now=0.0)
    rng = Random(1)
    picks = [fixture.roster.pick_failed(rng) for _ in range(2000)]
    tried = [member.name for member in picks if member is not None]
    assert set(tried) == {"7"}
    assert 60 <= len(tried) <= 150  # One in nineteen.


def test_last_one_alive_always_tries() -> None:
    fixture = joined()
    fixture.roster.node_joined(node("y"))
    fixture.roster.node_left(node(), now=0.0)
    assert fixture.roster.pick_failed(Random(1)) is not None


def test_unreadable_tags_are_none() -> None:
    fixture = Fixture()
    broken = NodeState(name="x", addr=bytes(4), port=1, meta=b"\xff\xc1", vsn=OUR_VSN)
    fixture.roster.node_joined(broken)
    member = fixture.roster.get("x")
    assert member is not None
    assert member.tags == {}


def test_snapshot_is_the_same_object_until_something_changes() -> None:
    fixture = joined()
    first = fixture.roster.members()
    assert fixture.roster.members() is first
    fixture.roster.receive_join(Join(ltime=5, node="x"), now=0.0)
    assert fixture.roster.members() is not first
