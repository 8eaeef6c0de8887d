"""The vote about a name."""

import pytest

from isthmus.gossip.conflict import (
    CONFLICTS_MAX,
    ConflictLost,
    Conflicts,
    Vote,
    conflict_answer,
    count_votes,
)
from isthmus.gossip.outputs import Warned
from isthmus.gossip.queries import QueryResult
from isthmus.gossip.roster import Member, MemberStatus
from isthmus.wire import serf as wire
from isthmus.wire.memberlist import NodeState

ME = Member(
    name="me",
    address="10.0.0.1",
    port=7946,
    tags={"role": "web"},
    status=MemberStatus.ALIVE,
    protocol_min=1,
    protocol_max=5,
    protocol_cur=2,
    delegate_min=2,
    delegate_max=5,
    delegate_cur=4,
)


def votes(*payloads: bytes) -> Vote:
    responses = {f"n{number}": payload for number, payload in enumerate(payloads)}
    return count_votes(QueryResult((), responses, timed_out=True), ME)


def test_answer_is_the_member_as_we_know_it() -> None:
    assert wire.decode_message(conflict_answer(ME)) == wire.ConflictResponse(
        name="me", addr=b"\x0a\x00\x00\x01", port=7946, tags={"role": "web"}, status=1,
        protocol_min=1, protocol_max=5, protocol_cur=2,
        delegate_min=2, delegate_max=5, delegate_cur=4,
    )  # fmt: skip


def test_address_and_port_have_to_be_ours() -> None:
    mapped = wire.ConflictResponse(addr=bytes(10) + b"\xff\xff\x0a\x00\x00\x01", port=7946)
    others = (
        wire.ConflictResponse(name="me", addr=b"\x0a\x00\x00\x02", port=7946),
        wire.ConflictResponse(name="me", addr=b"\x0a\x00\x00\x01", port=7947),
    )
    encoded = [wire.encode_message(answer) for answer in (mapped, *others)]
    assert votes(conflict_answer(ME), *encoded) == Vote(matching=2, answers=4)


def test_what_can_not_be_read_is_no_vote_but_not_to_know_us_is_one() -> None:
    rubbish = (b"", b"\x06\xc0", wire.encode_message(wire.Join()))
    assert votes(*rubbish) == Vote(0, 0)
    assert votes(conflict_answer(None)) == Vote(matching=0, answers=1)


@pytest.mark.parametrize(
    ("matching", "answers", "lost"),
    [(0, 1, True), (1, 1, False), (1, 2, True), (2, 3, False), (2, 4, True), (3, 4, False)],
)
def test_majority_is_half_and_one_more(matching: int, answers: int, lost: bool) -> None:
    """protocol/gossip.md §13.7."""
    assert Vote(matching, answers).lost is lost


def test_without_an_answer_nothing_is_decided() -> None:
    assert not votes().lost


class Noted:
    """Conflicts and what came of them."""

    def __init__(self) -> None:
        self.told: list[Warned | ConflictLost] = []
        self.conflicts = Conflicts("me", emit=self.told.append)

    def note(self, name: str = "me", *, port: int = 7946, now: float = 0.0) -> None:
        known, claimed = (
            NodeState(name=name, addr=bytes((10, 0, 0, last)), port=port) for last in (1, 2)
        )
        self.conflicts.note(known, claimed, now=now)


def test_claim_is_warned_of_once_and_remembered() -> None:
    noted = Noted()
    noted.note("x")
    noted.note("x", now=5.0)
    (warning,) = noted.told
    assert isinstance(warning, Warned)
    assert warning.text.startswith(
        "Name conflict for 'x' both 10.0.0.1:7946 and 10.0.0.2:7946 are claiming"
    )
    assert noted.conflicts.claims == {"x": ("10.0.0.2:7946", 5.0)}
    noted.note("x", port=7, now=6.0)
    assert len(noted.told) == 2
    assert not noted.conflicts.is_vote_due


def test_remembered_claims_are_bounded() -> None:
    noted = Noted()
    for number in range(CONFLICTS_MAX + 1):
        noted.note(f"x{number}")
    assert len(noted.conflicts.claims) == CONFLICTS_MAX


def test_our_own_name_is_put_to_the_vote_every_30_s_at_most() -> None:
    noted = Noted()
    votes = []
    for now in (7.0, 7.1, 36.9, 37.0):
        noted.note(now=now)
        if noted.conflicts.is_vote_due:
            votes.append(now)
            noted.conflicts.is_vote_due = False
    assert votes == [7.0, 37.0]


def test_lost_vote_is_told_as_serf_words_it() -> None:
    """protocol/gossip.md §13.7."""
    noted = Noted()
    result = QueryResult((), dict.fromkeys("ab", conflict_answer(None)), timed_out=True)
    assert noted.conflicts.finish_vote(result, ME)
    assert noted.told == [
        Warned("minority in name conflict resolution, quitting [0 / 2]"),
        ConflictLost("me", 0, 2),
    ]


def test_won_vote_changes_nothing() -> None:
    noted = Noted()
    result = QueryResult((), {"a": conflict_answer(ME)}, timed_out=True)
    assert not noted.conflicts.finish_vote(result, ME)
    assert noted.told == [Warned("name conflict resolution: we keep our name [1 / 1]")]
