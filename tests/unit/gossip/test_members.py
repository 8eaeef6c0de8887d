"""Which claim about a member wins (protocol/gossip.md §4)."""

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from isthmus.gossip.awareness import Awareness
from isthmus.gossip.broadcast import BroadcastQueue
from isthmus.gossip.config import GossipConfig
from isthmus.gossip.members import (
    OUR_VSN,
    MemberTable,
    normalise_addr,
    pack_addr,
)
from isthmus.gossip.outputs import NodeConflict, NodeJoined, NodeLeft, NodeUpdated, Warned
from isthmus.wire.memberlist import (
    Alive,
    Dead,
    NodeState,
    NodeStatus,
    Suspect,
    decode_message,
)

ALIVE, SUSPECT, DEAD, LEFT = NodeStatus


def alive(node: str = "x", incarnation: int = 1, **fields: Any) -> Alive:
    base: dict[str, Any] = {"addr": b"\x0a\x00\x00\x02", "port": 7946, "meta": b"", "vsn": OUR_VSN}
    return Alive(incarnation=incarnation, node=node, **(base | fields))


class Table:
    """A member table with its surroundings in view."""

    def __init__(self, *, refuse: str | None = None) -> None:
        self.events: list[Any] = []
        self.rumours = BroadcastQueue(4)
        self.awareness = Awareness(8)
        self.refuse = refuse
        self.now = 0.0
        self.table = MemberTable(
            alive("me", addr=b"\x0a\x00\x00\x01"),
            config=GossipConfig.lan(),
            check=lambda node: self.refuse,
            rumours=self.rumours,
            awareness=self.awareness,
            emit=self.events.append,
            rng=Random(1),
            now=0.0,
        )
        self.heard()

    def receive(self, *claims: Alive | Suspect | Dead) -> None:
        for claim in claims:
            match claim:
                case Alive():
                    self.table.receive_alive(claim, now=self.now)
                case Suspect():
                    self.table.receive_suspect(claim, now=self.now)
                case Dead():
                    self.table.receive_dead(claim, now=self.now)

    def heard(self) -> list[Any]:
        """New rumours, decoded; they are sent out."""
        found = []
        for _ in range(4):
            taken = self.rumours.take(10_000, overhead=2, member_count=1)
            found += [decode_message(b.data) for b in taken if b.transmissions == 1]
        return found

    def kinds(self) -> list[type]:
        """Kinds of the new events."""
        kinds = [type(event) for event in self.events]
        self.events.clear()
        return kinds

    def state(self, name: str) -> tuple[NodeStatus, int]:
        node = self.table.nodes[name]
        return node.status, node.incarnation


def accuse(node: str = "x", incarnation: int = 1, from_: str = "y") -> Suspect:
    return Suspect(incarnation=incarnation, node=node, from_=from_)


def bury(node: str = "x", incarnation: int = 1, from_: str = "y") -> Dead:
    return Dead(incarnation=incarnation, node=node, from_=from_)


def test_we_announce_ourselves() -> None:
    table = Table()
    assert table.state("me") == (ALIVE, 1)


def test_unknown_member_joins_and_the_news_is_passed_on() -> None:
    table = Table()
    table.receive(alive())
    assert table.state("x") == (ALIVE, 1)
    assert table.kinds() == [NodeJoined]
    assert table.heard() == [alive()]


@pytest.mark.parametrize(
    ("known", "claim", "status", "incarnation"),
    [
        ([alive()], alive(incarnation=1, meta=b"new"), ALIVE, 1),
        ([alive(incarnation=5)], alive(incarnation=4, meta=b"new"), ALIVE, 5),
        ([alive()], alive(incarnation=2), ALIVE, 2),
        ([alive(), accuse()], alive(incarnation=1), SUSPECT, 1),
        ([alive(), accuse()], alive(incarnation=2), ALIVE, 2),
        ([alive(), bury()], alive(incarnation=1), DEAD, 1),
        ([alive(), bury()], alive(incarnation=2), ALIVE, 2),
        ([alive()], accuse(), SUSPECT, 1),
        ([alive(incarnation=2)], accuse(), ALIVE, 2),
        ([alive()], accuse(incarnation=3), SUSPECT, 3),
        ([alive(), bury()], accuse(incarnation=3), DEAD, 1),
        ([alive()], bury(), DEAD, 1),
        ([alive(incarnation=2)], bury(), ALIVE, 2),
        ([alive(), accuse()], bury(), DEAD, 1),
        ([alive(), bury()], bury(incarnation=3), DEAD, 1),
        ([alive()], bury(from_="x"), LEFT, 1),
        ([alive(), bury()], bury(from_="x"), DEAD, 1),
    ],
)
def test_higher_incarnation_wins_and_equal_ones_only_get_worse(
    known: list[Alive | Suspect | Dead],
    claim: Alive | Suspect | Dead,
    status: NodeStatus,
    incarnation: int,
) -> None:
    table = Table()
    table.receive(*known)
    table.receive(claim)
    assert table.state("x") == (status, incarnation)


def test_ignored_claims_are_not_passed_on() -> None:
    table = Table()
    table.receive(alive(incarnation=5))
    table.heard()
    table.kinds()
    table.receive(alive(incarnation=5), accuse(incarnation=4), bury(incarnation=4))
    table.receive(accuse("nobody"), bury("nobody"))
    assert (table.heard(), table.kinds()) == ([], [])


def test_changed_meta_is_an_update() -> None:
    table = Table()
    table.receive(alive())
    table.kinds()
    table.receive(alive(incarnation=2, meta=b"new"))
    assert table.kinds() == [NodeUpdated]
    table.receive(alive(incarnation=3, meta=b"new"))
    assert table.kinds() == []


def test_death_and_departure_are_told_with_their_difference() -> None:
    table = Table()
    table.receive(alive("x"), alive("z", addr=b"\x0a\x00\x00\x03"))
    table.kinds()
    table.receive(bury("x"), bury("z", from_="z"))
    assert [event.node.state for event in table.events] == [DEAD, LEFT]
    assert table.kinds() == [NodeLeft, NodeLeft]


def test_suspect_that_does_not_refute_dies() -> None:
    table = Table()
    table.receive(alive(), accuse())
    due = table.table.next_timer()
    assert due == 4.0
    table.table.handle_timer(now=3.9)
    assert table.state("x") == (SUSPECT, 1)
    table.heard()
    table.table.handle_timer(now=4.0)
    assert table.state("x") == (DEAD, 1)
    assert table.heard() == [bury(from_="me")]
    assert table.table.next_timer() is None


def test_suspect_gets_its_time_back_once_when_we_stood_still() -> None:
    table = Table()
    table.receive(alive(), accuse())
    table.table.handle_timer(now=600.0)
    assert table.state("x") == (SUSPECT, 1)
    assert table.table.next_timer() == 604.0
    table.table.handle_timer(now=900.0)  # Whoever is always late still finds the dead.
    assert table.state("x") == (DEAD, 1)


def test_refuting_suspect_lives() -> None:
    table = Table()
    table.receive(alive(), accuse(), alive(incarnation=2))
    table.table.handle_timer(now=100.0)
    assert table.state("x") == (ALIVE, 2)


@pytest.mark.parametrize("claim", [accuse, bury])
@pytest.mark.parametrize(("accused_with", "refuted_with"), [(10, 11), (20, 21), (1, 2)])
def test_accused_ourselves_we_outbid(claim: Any, accused_with: int, refuted_with: int) -> None:
    table = Table()
    table.receive(claim("me", accused_with))
    assert table.state("me") == (ALIVE, refuted_with)
    (refutation,) = table.heard()
    assert refutation == alive("me", refuted_with, addr=b"\x0a\x00\x00\x01")
    assert table.awareness.score == 1


def test_old_accusation_of_ourselves_is_ignored() -> None:
    table = Table()
    table.receive(accuse("me", 10))
    table.heard()
    table.receive(accuse("me", 10), bury("me", 9))
    assert table.state("me") == (ALIVE, 11)
    assert table.heard() == []


def test_departure_that_others_claim_for_us_is_refuted() -> None:
    table = Table()
    table.receive(bury("me", 1, from_="me"))
    assert table.state("me") == (ALIVE, 2)


def test_claim_that_we_are_someone_else_is_refuted_and_our_own_echo_ignored() -> None:
    table = Table()
    ours = alive("me", addr=b"\x0a\x00\x00\x01")
    table.receive(ours)
    assert table.state("me") == (ALIVE, 1)
    table.receive(alive("me", addr=b"\x0a\x00\x00\x01", meta=b"other"))
    assert table.state("me") == (ALIVE, 2)
    table.receive(ours)
    assert table.state("me") == (ALIVE, 2)


def test_leaving_we_let_the_claim_stand() -> None:
    table = Table()
    table.table.leave(now=0.0)
    assert table.state("me") == (LEFT, 1)
    assert table.heard() == [bury("me", from_="me")]
    table.receive(alive("me", 9, addr=b"\x0a\x00\x00\x01"), bury("me", 9))
    assert table.state("me") == (LEFT, 1)


@pytest.mark.parametrize("size", [0, 1, 3, 5, 7])
def test_malformed_version_is_neither_kept_nor_passed_on(size: int) -> None:
    """Versions of 1 to 5 bytes crash members of the field (protocol/gossip.md §3)."""
    table = Table()
    table.receive(alive(vsn=bytes((1,)) * size))
    assert "x" not in table.table.nodes
    assert table.heard() == []
    assert table.kinds() == [Warned]


@pytest.mark.parametrize("vsn", [bytes((0, 5, 2, 2, 5, 4)), bytes((6, 5, 2, 2, 5, 4))])
def test_impossible_version_is_ignored(vsn: bytes) -> None:
    table = Table()
    table.receive(alive(vsn=vsn))
    assert "x" not in table.table.nodes


def test_malformed_address_is_ignored() -> None:
    table = Table()
    table.receive(alive(addr=b"\x0a\x00\x01"))
    assert "x" not in table.table.nodes
    assert "3 bytes is not either 4 or 16" in table.events[0].text


def test_refused_member_is_ignored_with_its_reason() -> None:
    table = Table(refuse="Member 'x' is not a server")
    table.receive(alive())
    assert "x" not in table.table.nodes
    (warning,) = table.events
    assert warning.text == "ignoring alive message for 'x': Member 'x' is not a server"


def test_mapped_address_is_the_same_address() -> None:
    mapped = bytes(10) + b"\xff\xff\x0a\x00\x00\x02"
    table = Table()
    table.receive(alive())
    table.kinds()
    table.receive(alive(incarnation=2, addr=mapped))
    assert table.state("x") == (ALIVE, 2)
    assert table.kinds() == []
    assert normalise_addr(mapped) == pack_addr("10.0.0.2") == pack_addr("::ffff:10.0.0.2")


def test_port_zero_is_our_own_port() -> None:
    table = Table()
    table.receive(alive(port=0))
    assert table.table.nodes["x"].port == 7946


ELSEWHERE = b"\x0a\x00\x00\x09"


def test_second_address_of_a_living_name_is_a_conflict() -> None:
    table = Table()
    table.receive(alive())
    table.kinds()
    table.receive(alive(incarnation=9, addr=ELSEWHERE))
    assert table.kinds() == [NodeConflict]
    assert table.state("x") == (ALIVE, 1)


def test_name_of_a_member_that_left_is_free_at_once() -> None:
    table = Table()
    table.receive(alive(incarnation=7), bury(incarnation=7, from_="x"))
    table.receive(alive(incarnation=1, addr=ELSEWHERE))
    assert table.state("x") == (ALIVE, 1)


def test_name_of_a_dead_member_is_free_after_the_reclaim_time() -> None:
    table = Table()
    table.receive(alive(incarnation=7), bury(incarnation=7))
    table.now = 30.0
    table.receive(alive(incarnation=1, addr=ELSEWHERE))
    assert table.state("x") == (DEAD, 7)
    table.now = 30.1
    table.receive(alive(incarnation=1, addr=ELSEWHERE))
    assert table.state("x") == (ALIVE, 1)


@pytest.mark.parametrize(
    ("reported", "becomes"), [(ALIVE, ALIVE), (SUSPECT, SUSPECT), (DEAD, SUSPECT), (LEFT, LEFT)]
)
def test_dead_of_a_push_pull_are_only_suspected(reported: NodeStatus, becomes: NodeStatus) -> None:
    table = Table()
    table.receive(alive())
    state = NodeState(
        name="x", addr=b"\x0a\x00\x00\x02", port=7946, incarnation=1, state=reported, vsn=OUR_VSN
    )
    table.table.receive_state(state, now=0.0)
    assert table.state("x") == (becomes, 1)


def test_long_gone_are_forgotten_when_the_round_ends() -> None:
    table = Table()
    table.receive(alive(), bury())
    table.table.reset_ring(now=30.0)
    assert "x" in table.table.nodes
    table.table.reset_ring(now=30.1)
    assert set(table.table.nodes) == {"me"}
    assert table.table.ring == ["me"]


def test_only_what_differs_or_is_suspected_is_news() -> None:
    """A push/pull between members that agree costs a look at each entry, and changes nothing."""
    table = Table()
    table.receive(alive("x"), alive("y", addr=b"\x0a\x00\x00\x03"))
    known = table.table.states()
    assert table.table.states() is known
    assert table.table.news(known) == []
    assert table.table.news([replace(state) for state in known]) == []
    newer = replace(known[1], incarnation=2)
    unknown = replace(known[1], name="z")
    assert table.table.news([known[0], newer, unknown]) == [newer, unknown]
    table.receive(Suspect(incarnation=1, node="y", from_="x"))
    suspected = table.table.states()
    assert suspected is not known
    assert table.table.news(suspected) == [suspected[2]]


def test_copy_knows_what_the_other_knows_and_goes_its_own_way() -> None:
    first, second = Table(), Table()
    first.receive(alive("x"))
    second.table.copy_from(first.table)
    assert second.table.states() == first.table.states()
    second.receive(alive("y", addr=b"\x0a\x00\x00\x04"), bury("x"))
    assert {name: node.status for name, node in second.table.nodes.items()} == {
        "me": ALIVE,
        "x": DEAD,
        "y": ALIVE,
    }
    assert [node.status for node in first.table.nodes.values()] == [ALIVE, ALIVE]
    first.receive(alive("z", addr=b"\x0a\x00\x00\x05"))
    assert set(second.table.nodes) == {"me", "x", "y"}
    assert sorted(second.table.ring) == ["me", "x", "y"]


@pytest.mark.parametrize("size", [5, 100])
def test_random_members_are_distinct_and_never_ourselves(size: int) -> None:
    table = Table()
    for number in range(size):
        table.receive(alive(f"x{number}", addr=bytes((10, 0, 1, number))))
    for _ in range(20):
        chosen = table.table.random_nodes(3, lambda node: node.name != "x0")
        names = [node.name for node in chosen]
        assert len(set(names)) == 3
        assert not {"me", "x0"} & set(names)


claims = st.one_of(
    st.builds(
        alive,
        st.sampled_from(["me", "x", "y"]),
        st.integers(0, 5),
        addr=st.sampled_from([b"\x0a\x00\x00\x02", ELSEWHERE, b"bad"]),
        vsn=st.sampled_from([OUR_VSN, b"\x01\x02"]),
        meta=st.sampled_from([b"", b"m"]),
    ),
    st.builds(accuse, st.sampled_from(["me", "x", "y"]), st.integers(0, 5), st.just("z")),
    st.builds(
        bury, st.sampled_from(["me", "x", "y"]), st.integers(0, 5), st.sampled_from(["x", "z"])
    ),
)


@given(st.lists(claims, max_size=30))
def test_no_claims_make_us_dead_or_an_incarnation_fall(history: list[Any]) -> None:
    table = Table()
    highest: dict[str, int] = {}
    for claim in history:
        table.receive(claim)
        assert table.table.me.status is ALIVE
        for name, node in table.table.nodes.items():
            assert len(node.vsn) == 6
            same_place = node.addr == b"\x0a\x00\x00\x02"
            if same_place and node.status is not LEFT:
                assert node.incarnation >= highest.get(name, 0)
                highest[name] = node.incarnation
            else:
                highest.pop(name, None)
