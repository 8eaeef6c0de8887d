"""Closed locks: how many, and which ones a server notices that only follows."""

import msgspec

from isthmus.model.kv import KV_LOCK, KVSRequest
from isthmus.store.delays import LockDelays
from isthmus.store.engine import Change
from isthmus.store.store import Store
from isthmus.units import Duration
from support.sessions import DELAY, create, destroy, driven, holder, lock, session_id, unlock
from support.stores import Driven


def test_closed_locks_are_bounded() -> None:
    delays = LockDelays(closed_max=2)
    for key in (b"a", b"b", b"a", b"c"):
        delays.close(key, DELAY)
    assert [key in delays for key in (b"a", b"b", b"c")] == [True, False, True]
    assert len(delays) == 2
    delays.open(b"a")
    delays.open(b"a")
    delays.clear()
    assert len(delays) == 0


def follower_of(store: Driven) -> Store:
    """Another server's store that has what this one has."""
    return store.reloaded()


def follow(follower: Store, store: Driven, *batch: object) -> None:
    """Commit at the leader, and let the follower see the commit."""
    before = dict(store.rows)
    store.execute(*batch)  # type: ignore[arg-type]
    puts = {key: row for key, row in store.rows.items() if before.get(key) != row}
    deletes = set(before) - set(store.rows)
    follower.follow(Change(1, store.store.index, puts, deletes, [], generation=0))


def test_follower_closes_what_the_leader_closes() -> None:
    store = driven(create(1), create(2, behavior="delete"), create(3), lock("a"), lock("b", 2))
    follower = follower_of(store)
    told: list[tuple[bytes, Duration]] = []
    follower.lock_delays.told = lambda key, delay: told.append((key, delay))
    follow(follower, store, lock("c", 3))
    follow(follower, store, destroy(1), destroy(2))
    assert sorted(told) == [(b"a", DELAY), (b"b", DELAY)]
    assert b"c" not in follower.lock_delays
    assert [row.id for row in follower.sessions.list().value] == [session_id(3)]


def test_follower_leaves_open_what_was_given_up_or_has_no_delay() -> None:
    store = driven(create(1), create(2, lock_delay=Duration(0)), lock("a"), lock("b", 2))
    follower = follower_of(store)
    follow(follower, store, unlock("a"))
    follow(follower, store, destroy(1), destroy(2))
    assert len(follower.lock_delays) == 0


def test_follower_may_close_what_was_given_up_in_the_same_commit() -> None:
    """The commit shows rows, not commands: it errs on the side of waiting."""
    store = driven(create(1), lock("a"))
    follower = follower_of(store)
    follow(follower, store, unlock("a"), destroy(1))
    assert b"a" in follower.lock_delays
    assert b"a" not in store.store.lock_delays


def test_restored_data_opens_all_locks_and_a_mere_reload_none() -> None:
    store = driven(create(1), lock("a"), destroy(1))
    again = store.reloaded()
    store.store.adopt(again)
    assert b"a" in store.store.lock_delays
    other = store.reloaded()
    other.generation = 1
    store.store.adopt(other)
    assert len(store.store.lock_delays) == 0


def test_session_is_known_by_its_id_whatever_the_case() -> None:
    shouted = msgspec.structs.replace(lock("a").dir_ent, session=session_id(1).upper())
    store = driven(create(1), KVSRequest(op=KV_LOCK, dir_ent=shouted))
    follower = follower_of(store)
    follow(follower, store, destroy(1))
    assert holder(store, "a") == ""
    assert b"a" in store.store.lock_delays
    assert b"a" in follower.lock_delays
