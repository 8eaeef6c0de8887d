"""The vote about a name."""

import pytest

from isthmus.gossip.conflict import Vote, conflict_answer, count_votes
from isthmus.gossip.queries import QueryResult
from isthmus.gossip.roster import Member, MemberStatus
from isthmus.wire import serf as wire

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
