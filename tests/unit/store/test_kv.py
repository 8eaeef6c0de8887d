"""Keys and values: against a plain dict, and rule by rule."""

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from isthmus.errors import InvalidRequest, RequestError
from isthmus.model import kv as ops
from isthmus.model.kv import DirEntry, KVSRequest
from isthmus.store.kv import KeyValues
from support import sessions
from support.stores import Driven, Sleeper

KEYS = st.sampled_from(["a", "a/b", "a/b/c", "a/x", "b", "b/", "é/ü"])
PREFIXES = st.sampled_from(["", "a", "a/", "a/b", "b", "c", "é"])


def request(
    op: str, key: str, value: bytes | None = None, *, flags: int = 0, index: int = 0
) -> KVSRequest:
    return KVSRequest(
        op=op, dir_ent=DirEntry(key=key, value=value, flags=flags, modify_index=index)
    )


def set_key(key: str, value: bytes = b"v") -> KVSRequest:
    return request(ops.KV_SET, key, value)


@dataclass
class Known:
    value: bytes
    flags: int
    created: int
    modified: int


class KeyValueMachine(RuleBasedStateMachine):
    """A key-value table against a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.driven = Driven()
        self.model: dict[str, Known] = {}
        self.index = self.driven.store.index
        self.seen: dict[str, int] = {}

    def write(self, command: KVSRequest, concerned: set[str]) -> bool:
        """Execute; check that exactly readers of `concerned` keys and prefixes wake."""
        kv = self.driven.store.kv
        keys = {key: Sleeper(self.driven.store, kv.get(key).topics) for key in SLEEPERS}
        prefixes = {key: Sleeper(self.driven.store, kv.list(key).topics) for key in SLEEPERS}
        self.index += bool(concerned)
        result: bool = self.driven.execute(command)
        for key, sleeper in keys.items():
            assert sleeper.stop() == (key in concerned)
        for prefix, sleeper in prefixes.items():
            assert sleeper.stop() == any(key.startswith(prefix) for key in concerned)
        return result

    @rule(key=KEYS, value=st.sampled_from([b"", b"1", b"2"]), flags=st.integers(0, 1))
    def set(self, key: str, value: bytes, flags: int) -> None:
        old = self.model.get(key)
        same = old is not None and (old.value, old.flags) == (value, flags)
        result = self.write(request(ops.KV_SET, key, value, flags=flags), set() if same else {key})
        assert result is False
        if not same:
            self.model[key] = Known(value, flags, old.created if old else self.index, self.index)

    @rule(key=KEYS, fresh=st.booleans())
    def cas(self, key: str, fresh: bool) -> None:
        old = self.model.get(key)
        index = (old.modified if old else 0) + (not fresh)
        value = b"cas%d" % self.index
        won = self.write(request(ops.KV_CAS, key, value, index=index), {key} if fresh else set())
        assert won == fresh
        if fresh:
            self.model[key] = Known(value, 0, old.created if old else self.index, self.index)

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        known = {key} if key in self.model else set[str]()
        assert self.write(request(ops.KV_DELETE, key), known) is False
        self.model.pop(key, None)

    @rule(key=KEYS, fresh=st.booleans())
    def delete_cas(self, key: str, fresh: bool) -> None:
        old = self.model.get(key)
        index = (old.modified if old else 0) + (not fresh)
        known = {key} if old and fresh else set[str]()
        won = self.write(request(ops.KV_DELETE_CAS, key, index=index), known)
        assert won == (fresh or old is None)
        if known:
            del self.model[key]

    @precondition(lambda self: self.model)
    @rule(prefix=PREFIXES)
    def delete_tree(self, prefix: str) -> None:
        known = {key for key in self.model if key.startswith(prefix)}
        assert self.write(request(ops.KV_DELETE_TREE, prefix), known) is False
        for key in known:
            del self.model[key]

    @invariant()
    def reads_agree(self) -> None:
        kv = self.driven.store.kv
        assert self.driven.store.index == self.index
        for prefix in SLEEPERS:
            found = kv.list(prefix)
            wanted = sorted((key for key in self.model if key.startswith(prefix)), key=str.encode)
            assert [row.key for row in found.value] == wanted
            self.never_back("list " + prefix, found.index)
        for key in SLEEPERS:
            answer, known = kv.get(key), self.model.get(key)
            self.never_back("get " + key, answer.index)
            if known is None:
                assert answer.value is None
            else:
                row = answer.value
                assert row is not None
                assert (row.value or b"", row.flags) == (known.value, known.flags)
                assert (row.create_index, row.modify_index) == (known.created, known.modified)
                assert answer.index == answer.changed == known.modified

    def never_back(self, what: str, index: int) -> None:
        assert index >= self.seen.get(what, 0)
        self.seen[what] = index

    def teardown(self) -> None:
        again = self.driven.reloaded()
        ours = self.driven.store
        assert again.kv.list("").value == ours.kv.list("").value
        assert again.kv.list("").index == ours.kv.list("").index
        for prefix in SLEEPERS:
            assert again.kv.list(prefix).index >= ours.kv.list(prefix).index


SLEEPERS = ["", "a", "a/", "a/b", "a/b/c", "b", "b/", "c", "é/ü"]
TestKeyValueMachine = KeyValueMachine.TestCase
TestKeyValueMachine.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


def test_missing_key_blocks_at_the_index_it_answered() -> None:
    driven = Driven()
    driven.execute(set_key("other"))
    missing = driven.store.kv.get("gone")
    assert missing.index == driven.store.index
    driven.execute(set_key("other", b"2"))
    assert driven.store.kv.get("gone").changed <= missing.index
    driven.execute(set_key("gone"))
    assert driven.store.kv.get("gone").changed > missing.index


def test_deleting_the_last_key_of_a_prefix_raises_its_index() -> None:
    driven = Driven()
    driven.execute(set_key("a/b"))
    before = driven.store.kv.list("a/").index
    driven.execute(request(ops.KV_DELETE, "a/b"))
    assert driven.store.kv.list("a/").index == before + 1
    assert driven.store.kv.list("a/").value == ()


def test_empty_prefix_answers_the_index_of_the_table() -> None:
    driven = Driven()
    driven.execute(set_key("a"))
    assert driven.store.kv.list("nothing/").index == driven.store.kv.list("").index == 2


def test_key_that_came_and_went_in_one_batch_moves_its_prefix() -> None:
    """Consul's index moves, though nobody has seen the key."""
    driven = Driven()
    driven.execute(set_key("a/b"))
    driven.execute(set_key("a/c"), request(ops.KV_DELETE, "a/c"))
    assert driven.store.kv.list("a/").index == 4
    assert driven.store.kv.get("a/c").changed == 4
    assert driven.store.kv.get("a/b").changed == 2


def test_forgotten_tombstones_raise_the_floor() -> None:
    driven = Driven()
    driven.store.kv = KeyValues(driven.store._tables["kv"], graves_max=2)
    for key in ("a", "b", "c"):
        driven.execute(set_key(key))
        driven.execute(request(ops.KV_DELETE, key))
    assert driven.store.kv.floor == 3
    assert driven.store.kv.get("a").changed == 3
    assert driven.store.kv.list("c").changed == 7


@pytest.mark.parametrize(
    ("prefix", "separator", "wanted"),
    [
        ("", "", ("a/b/c", "a/b/d", "a/e", "f")),
        ("", "/", ("a/", "f")),
        ("a/", "/", ("a/b/", "a/e")),
        ("a", "/", ("a/",)),
        ("", "b/", ("a/b/", "a/e", "f")),
        ("x", "/", ()),
    ],
)
def test_keys_fold_at_the_separator(prefix: str, separator: str, wanted: tuple[str, ...]) -> None:
    driven = Driven()
    driven.execute(*[set_key(key) for key in ("a/b/c", "a/b/d", "a/e", "f")])
    assert driven.store.kv.keys(prefix, separator).value == wanted


def test_value_of_no_bytes_is_none() -> None:
    driven = Driven()
    driven.execute(set_key("a", b""))
    row = driven.store.kv.get("a").value
    assert row is not None
    assert row.value is None


@pytest.mark.parametrize("op", [ops.KV_LOCK, ops.KV_UNLOCK])
def test_lock_needs_a_session(op: str) -> None:
    with pytest.raises(RequestError, match=r"\Amissing session\Z"):
        Driven().execute(request(op, "a"))


def test_unknown_operation_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="Invalid KVS operation 'bogus'"):
        Driven().execute(request("bogus", "a"))


# Locks --------------------------------------------------------------------------------------------


def row_of(driven: Driven, key: str) -> DirEntry:
    row = driven.store.kv.get(key).value
    assert row is not None
    return row


def test_lock_writes_the_entry_and_counts() -> None:
    store = sessions.driven(sessions.create(1), sessions.create(2))
    assert store.execute(sessions.lock("a", 1, b"one", flags=7)) is True
    row = row_of(store, "a")
    assert (row.session, row.value, row.flags, row.lock_index) == (
        sessions.session_id(1),
        b"one",
        7,
        1,
    )
    assert store.execute(sessions.unlock("a", 1, b"free")) is True
    assert (row_of(store, "a").session, row_of(store, "a").value) == ("", b"free")
    assert store.execute(sessions.lock("a", 2)) is True
    assert row_of(store, "a").lock_index == 2


def test_own_lock_may_be_taken_again_and_counts_once() -> None:
    store = sessions.driven(sessions.create(1), sessions.lock("a", 1, b"x"))
    before = store.store.index
    assert store.execute(sessions.lock("a", 1, b"x")) is True
    assert store.store.index == before, "nothing changed"
    assert store.execute(sessions.lock("a", 1, b"y")) is True
    row = row_of(store, "a")
    assert (row.value, row.lock_index, row.modify_index) == (b"y", 1, before + 1)


def test_lock_of_another_is_neither_taken_nor_given_up() -> None:
    store = sessions.driven(sessions.create(1), sessions.create(2), sessions.lock("a", 1))
    before = store.store.index
    assert store.execute(sessions.lock("a", 2)) is False
    assert store.execute(sessions.unlock("a", 2)) is False
    assert store.execute(sessions.unlock("none", 2)) is False
    assert (store.store.index, sessions.holder(store, "a")) == (before, sessions.session_id(1))


@pytest.mark.parametrize(
    ("session", "text"),
    [
        (sessions.session_id(9), f'invalid session "{sessions.session_id(9)}"'),
        ("short", "failed session lookup: index error: UUID must be 36 characters"),
    ],
)
def test_lock_for_no_session_is_refused(session: str, text: str) -> None:
    store = sessions.driven()
    with pytest.raises(RequestError) as caught:
        store.execute(KVSRequest(op=ops.KV_LOCK, dir_ent=DirEntry(key="a", session=session)))
    assert str(caught.value) == text
    assert store.store.kv.get("a").value is None


def test_lock_binds_lockers_only() -> None:
    """Whoever does not lock writes and deletes as before, and leaves the lock where it is."""
    store = sessions.driven(sessions.create(1), sessions.lock("a", 1))
    index = row_of(store, "a").modify_index
    assert store.execute(request(ops.KV_CAS, "a", b"swapped", index=index)) is True
    row = row_of(store, "a")
    assert (row.session, row.value) == (sessions.session_id(1), b"swapped")
    store.execute(set_key("a", b"set"))
    assert row_of(store, "a").session == sessions.session_id(1)
    store.execute(request(ops.KV_DELETE, "a"))
    assert store.store.kv.get("a").value is None
    store.execute(sessions.destroy(1))
    assert b"a" not in store.store.lock_delays


def test_plain_write_counts_the_locks_anew() -> None:
    """As Consul 1.10.11 does: the count of a key that is set is what its writer says, so 0."""
    store = sessions.driven(sessions.create(1), sessions.lock("a", 1))
    store.execute(set_key("a"))
    assert row_of(store, "a").lock_index == 0


def test_session_of_a_plain_write_is_ignored() -> None:
    store = sessions.driven(sessions.create(1))
    entry = DirEntry(key="a", value=b"v", session=sessions.session_id(1))
    store.execute(KVSRequest(op=ops.KV_SET, dir_ent=entry))
    assert row_of(store, "a").session == ""
