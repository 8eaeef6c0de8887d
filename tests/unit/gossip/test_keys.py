"""Key queries: what they do to our keyring, what we answer, how answers are counted."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import InvalidRequest
from isthmus.gossip.keyring import Keyring
from isthmus.gossip.keys import (
    EMPTY_KEYRING,
    KEY_CHANGES_PENDING_MAX,
    NO_KEYRING,
    KeyKeeper,
    KeyOperation,
    KeyResult,
    StoreKeyring,
    count_answers,
    key_request,
)
from isthmus.gossip.queries import QueryResult
from isthmus.wire import serf as wire

A, B, C = bytes(16), bytes(range(16)), bytes(range(32))
LIMIT = 1024


def text(key: bytes) -> str:
    return base64.b64encode(key).decode()


class Keeper:
    """A keyring and what was answered."""

    def __init__(self, *keys: bytes, limit: int = LIMIT) -> None:
        self.ring = Keyring(keys)
        self.stores: list[StoreKeyring] = []
        self.answers: list[wire.KeyResponse] = []
        self._limit = limit
        self.keeper = KeyKeeper(self.ring, store=self.stores.append, respond=self._respond)

    def _respond(self, query: wire.Query, payload: bytes, now: float) -> None:
        response = wire.QueryResponse(ltime=query.ltime, id=query.id, from_="me", payload=payload)
        if len(wire.encode_message(response)) > self._limit:
            raise InvalidRequest("response exceeds limit")
        answer = wire.decode_message(payload)
        assert isinstance(answer, wire.KeyResponse)
        self.answers.append(answer)

    def ask(self, operation: KeyOperation, payload: bytes) -> list[wire.KeyResponse]:
        """Receive a query whose change is stored at once; the answers until now."""
        self.keeper.receive(operation, wire.Query(payload=payload), now=0.0)
        for store in self.stores:
            self.keeper.stored(store.id, "", now=0.0)
        self.stores.clear()
        return self.answers


def test_names_of_the_queries() -> None:
    """protocol/gossip.md §13.5."""
    assert {operation.query for operation in KeyOperation} == {
        "_serf_install-key", "_serf_use-key", "_serf_remove-key", "_serf_list-keys",
    }  # fmt: skip


def test_change_counts_at_once_and_is_answered_when_it_is_stored() -> None:
    keeper = Keeper(A)
    ciphers = keeper.ring.ciphers
    query = wire.Query(payload=key_request(B))
    keeper.keeper.receive(KeyOperation.INSTALL, query, now=0.0)
    assert keeper.ring.keys == (A, B)
    assert len(ciphers) == 2  # Whoever held them before sees the new one.
    assert keeper.stores == [StoreKeyring(1, (A, B))]
    assert keeper.answers == []
    keeper.keeper.stored(1, "", now=0.0)
    assert keeper.answers == [wire.KeyResponse(result=True)]


def test_change_that_can_not_be_stored_is_a_failure() -> None:
    keeper = Keeper(A)
    keeper.keeper.receive(KeyOperation.INSTALL, wire.Query(payload=key_request(B)), now=0.0)
    keeper.keeper.stored(1, "disk full", now=0.0)
    assert keeper.answers == [wire.KeyResponse(message="disk full")]


def test_keys_are_rotated() -> None:
    keeper = Keeper(A)
    keeper.ask(KeyOperation.INSTALL, key_request(B))
    keeper.ask(KeyOperation.USE, key_request(B))
    assert keeper.ring.keys == (B, A)
    assert keeper.ask(KeyOperation.REMOVE, key_request(A)) == [wire.KeyResponse(result=True)] * 3
    assert list(keeper.ring.keys) == [B]


@pytest.mark.parametrize(
    ("operation", "key", "why"),
    [
        (KeyOperation.INSTALL, b"short", "key size must be 16, 24 or 32 bytes"),
        (KeyOperation.USE, C, "Requested key is not in the keyring"),
        (KeyOperation.REMOVE, A, "Removing the primary key is not allowed"),
    ],
)
def test_refusal_is_worded_as_memberlist_does(
    operation: KeyOperation, key: bytes, why: str
) -> None:
    """protocol/gossip.md §1.6."""
    keeper = Keeper(A, B)
    assert keeper.ask(operation, key_request(key)) == [wire.KeyResponse(message=why)]
    assert keeper.ring.keys == (A, B)


@pytest.mark.parametrize("operation", list(KeyOperation))
def test_pool_without_encryption_has_no_keyring(operation: KeyOperation) -> None:
    keeper = Keeper()
    why = EMPTY_KEYRING if operation is KeyOperation.LIST else NO_KEYRING
    assert keeper.ask(operation, key_request(A)) == [wire.KeyResponse(message=why)]
    assert not keeper.ring


def test_list_holds_all_keys_and_the_primary_one() -> None:
    keeper = Keeper(B, A)
    assert keeper.ask(KeyOperation.LIST, key_request(b"")) == [
        wire.KeyResponse(result=True, keys=(text(B), text(A)), primary_key=text(B))
    ]


def test_list_that_is_too_long_is_cut_and_says_so() -> None:
    """protocol/gossip.md §13.5: a list answer is cut to fit 1024 bytes."""
    keys = [bytes((number,)) * 32 for number in range(40)]
    (answer,) = Keeper(*keys).ask(KeyOperation.LIST, key_request(b""))
    count = len(answer.keys)
    assert answer.keys == tuple(text(key) for key in keys[:count])
    assert answer.message == f"truncated key list response, showing first {count} of 40 keys"
    assert answer.result
    size = len(wire.encode_message(answer))
    assert LIMIT - 100 < size < LIMIT


@given(st.sampled_from(list(KeyOperation)), st.binary(max_size=40))
def test_any_payload_is_answered(operation: KeyOperation, payload: bytes) -> None:
    keeper = Keeper(A)
    (answer,) = keeper.ask(operation, payload)
    assert answer.result or answer.message
    assert keeper.ring.keys[0] == A


def test_changes_that_wait_for_the_disk_are_bounded() -> None:
    keeper = Keeper(A)
    for _ in range(KEY_CHANGES_PENDING_MAX + 1):
        keeper.keeper.receive(KeyOperation.INSTALL, wire.Query(payload=key_request(B)), now=0.0)
    (answer,) = keeper.answers
    assert "64 changes of the keyring wait to be stored" in answer.message


# --- Counting -------------------------------------------------------------------------------------


def result_of(**answers: wire.SerfMessage | bytes) -> QueryResult:
    payloads = {
        name: answer if isinstance(answer, bytes) else wire.encode_message(answer)
        for name, answer in answers.items()
    }
    return QueryResult((), payloads, timed_out=False)


def test_answers_to_a_list_are_counted_by_key() -> None:
    one = wire.KeyResponse(result=True, keys=("k1", "k2"), primary_key="k1")
    two = wire.KeyResponse(result=True, message="truncated", keys=("k2",), primary_key="k2")
    counted = count_answers(result_of(a=one, b=two), member_count=2)
    assert counted == KeyResult(2, 2, 0, {"b": "truncated"}, {"k1": 1, "k2": 2}, {"k1": 1, "k2": 1})
    assert counted.error == ""


def test_failures_come_before_silence() -> None:
    fine, bad = wire.KeyResponse(result=True), wire.KeyResponse(message="no")
    counted = count_answers(result_of(a=fine, b=bad), member_count=3)
    assert counted.error == "1/3 nodes reported failure"
    assert counted.messages == {"b": "no"}
    silent = count_answers(result_of(a=fine), member_count=3)
    assert silent.error == "1/3 nodes reported success"


@pytest.mark.parametrize("payload", [b"", b"\x08", b"\x63abc", wire.encode_message(wire.Join())])
def test_answer_that_is_none_counts_as_a_failure(payload: bytes) -> None:
    counted = count_answers(result_of(a=payload), member_count=1)
    assert counted.error == "1/1 nodes reported failure"
    assert counted.messages["a"].startswith("malformed answer to a key query: ")
