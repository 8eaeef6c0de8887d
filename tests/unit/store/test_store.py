"""The store as a whole: how its readers can tell that something changed."""

from isthmus.model.kv import KV_SET, DirEntry, KVSRequest
from isthmus.store.engine import Change
from isthmus.store.store import Store
from support.stores import Driven


def write(key: str) -> KVSRequest:
    return KVSRequest(op=KV_SET, dir_ent=DirEntry(key=key, value=b"1"))


def test_version_changes_with_each_batch_and_with_nothing_else() -> None:
    driven = Driven()
    first = driven.store.version
    driven.execute(write("a"))
    second = driven.store.version
    assert second != first
    driven.store.kv.get("a")
    assert driven.store.version == second
    driven.execute(write("b"), write("c"))
    assert driven.store.version not in {first, second}


def test_version_changes_with_each_commit_that_is_followed() -> None:
    leader, follower = Driven(), Store()
    before = follower.version
    leader.execute(write("a"))
    change = Change(
        revision=1, index=leader.store.index, puts=leader.rows, deletes=set(), ranges=[]
    )
    follower.follow(change)
    assert follower.kv.get("a").value is not None
    assert follower.version != before


def test_version_changes_when_all_rows_are_replaced() -> None:
    driven, other = Driven(), Driven()
    driven.execute(write("a"))
    other.execute(write("b"))
    assert driven.store.index == other.store.index
    before = driven.store.version
    driven.store.adopt(other.reloaded())
    assert driven.store.version != before
