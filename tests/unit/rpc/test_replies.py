"""Replies that came before: equal bytes, one record; what is kept is bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import MalformedPacket
from isthmus.model.catalog import CheckServiceNode, IndexedCheckServiceNodes, Node
from isthmus.model.federation import FederationStateResponse
from isthmus.model.query import Empty
from isthmus.rpc.replies import (
    ENTRIES_MAX,
    NEWCOMERS_MAX,
    REPLY_SIZE_MAX,
    SIZE_MAX,
    Answers,
    Replies,
)
from isthmus.wire.msgpack import encode, pack


def reply(index: int) -> bytes:
    return encode(FederationStateResponse(index=index))


def test_what_came_twice_is_decoded_no_more() -> None:
    replies = Replies()
    first, second = (replies.decode(FederationStateResponse, reply(7)) for _ in range(2))
    assert first == second == FederationStateResponse(index=7)
    assert replies.decode(FederationStateResponse, reply(7)) is second


def test_what_came_once_is_not_kept() -> None:
    replies = Replies()
    for index in range(10):
        replies.decode(FederationStateResponse, reply(index))
    assert len(replies) == 0


def test_one_changed_byte_makes_another_reply() -> None:
    replies = Replies()
    for _ in range(3):
        replies.decode(FederationStateResponse, reply(7))
    assert replies.decode(FederationStateResponse, reply(8)).index == 8


def test_equal_bytes_of_another_type_are_another_reply() -> None:
    replies = Replies()
    for _ in range(3):
        assert replies.decode(Empty, b"\x80") == Empty()
        assert replies.decode(FederationStateResponse, b"\x80") == FederationStateResponse()


def test_the_oldest_make_room() -> None:
    replies = Replies()
    for index in range(ENTRIES_MAX + 1):
        for _ in range(2):
            replies.decode(FederationStateResponse, reply(index))
    assert len(replies) == ENTRIES_MAX
    again = replies.decode(FederationStateResponse, reply(0))
    assert replies.decode(FederationStateResponse, reply(0)) is not again


def test_kept_bytes_are_bounded() -> None:
    replies = Replies()
    for letter in "abcdefghijkl":
        for _ in range(2):
            replies.decode(str, pack(letter * (REPLY_SIZE_MAX - 10)))
    assert len(replies) == SIZE_MAX // REPLY_SIZE_MAX


def test_large_replies_are_not_kept() -> None:
    replies = Replies()
    for _ in range(3):
        assert len(replies.decode(str, pack("a" * REPLY_SIZE_MAX))) == REPLY_SIZE_MAX
    assert len(replies) == 0


def test_what_comes_again_after_many_others_counts_as_new() -> None:
    replies = Replies()
    replies.decode(str, pack("first"))
    for number in range(NEWCOMERS_MAX):
        replies.decode(str, pack(str(number)))
    replies.decode(str, pack("first"))
    assert len(replies) == 0


@pytest.mark.parametrize("packed", [b"\x81\x80\x01", b"\x80\x80", b"\xa5abc"])
def test_what_cannot_be_built_is_refused_every_time(packed: bytes) -> None:
    replies = Replies()
    for _ in range(3):
        with pytest.raises(MalformedPacket):
            replies.decode(Empty, packed)


# Answers ---------------------------------------------------------------------------------------

NODES = (CheckServiceNode(node=Node(node="alpha")), CheckServiceNode(node=Node(node="beta")))


def test_a_reply_of_the_same_parts_is_encoded_once() -> None:
    answers = Answers()
    answers.encode(IndexedCheckServiceNodes(nodes=NODES, index=7))
    second = answers.encode(IndexedCheckServiceNodes(nodes=NODES, index=7))
    third = answers.encode(IndexedCheckServiceNodes(nodes=NODES, index=7))
    assert second is third
    assert third == encode(IndexedCheckServiceNodes(nodes=NODES, index=7))


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([NODES, NODES[:1], (), None]))))
def test_an_answer_is_always_what_encoding_gives(
    reads: list[tuple[int, tuple[CheckServiceNode, ...] | None]],
) -> None:
    answers = Answers()
    for index, nodes in reads:
        # A copy, so that identities are used again by other lists.
        reply = IndexedCheckServiceNodes(nodes=nodes and (*nodes,), index=index)
        assert answers.encode(reply) == encode(reply)
        again = IndexedCheckServiceNodes(nodes=nodes, index=index)
        assert answers.encode(again) == encode(again)


def test_plain_replies_are_encoded_as_they_are() -> None:
    answers = Answers()
    for _ in range(3):
        assert answers.encode("127.0.0.1:8300") == pack("127.0.0.1:8300")
        assert answers.encode(True) == b"\xc3"
    assert len(answers) == 0


def test_kept_answers_are_bounded() -> None:
    answers = Answers()
    for index in range(3 * ENTRIES_MAX):
        for _ in range(2):
            answers.encode(FederationStateResponse(index=index))
    assert len(answers) == ENTRIES_MAX
