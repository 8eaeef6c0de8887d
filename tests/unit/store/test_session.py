"""Sessions begin only where what they depend on is well; who reads them wakes for them alone."""

from typing import Any

import pytest

from isthmus.errors import RequestError
from isthmus.model.catalog import CRITICAL
from isthmus.model.session import ServiceCheck, Session
from isthmus.store.session import check_ids, session_key
from support.sessions import DELAY, create, destroy, driven, node, session_id
from support.stores import Sleeper


def test_session_is_stored_as_it_was_asked_for() -> None:
    store = driven(create(name="n", ttl="10s", node_checks=("serfHealth",)))
    assert store.store.sessions.get(session_id(1)).value == Session(
        id=session_id(1),
        name="n",
        node="x",
        lock_delay=DELAY,
        behavior="release",
        ttl="10s",
        node_checks=("serfHealth",),
        create_index=3,
        modify_index=3,
    )


def test_id_is_found_in_either_case() -> None:
    store = driven(create())
    assert store.store.sessions.get(session_id(1).upper()).value is not None


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"node": "none"}, "Missing node registration"),
        ({"node_checks": ("none",)}, "Missing check 'none' registration"),
        ({"checks": ("none",)}, "Missing check 'none' registration"),
        ({"service_checks": (ServiceCheck(id="none"),)}, "Missing check 'none' registration"),
        ({"node_checks": ("bad",)}, "Check 'bad' is in critical state"),
        ({"behavior": "keep"}, "Invalid session behavior: keep"),
    ],
)
def test_session_that_cannot_live_is_refused(fields: dict[str, Any], text: str) -> None:
    store = driven(node("x", "bad", status=CRITICAL))
    with pytest.raises(RequestError) as caught:
        store.execute(create(**fields))
    assert str(caught.value) == text
    assert len(store.store.sessions) == 0


def test_session_needs_an_id_of_its_caller() -> None:
    store = driven()
    request = create()
    with pytest.raises(RequestError, match="Missing session ID"):
        store.execute(type(request)(op=request.op, session=Session(node="x")))


def test_checks_of_all_forms_count() -> None:
    session = Session(checks=("a",), node_checks=("b",), service_checks=(ServiceCheck(id="c"),))
    assert check_ids(session) == ("a", "b", "c")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "UUID must be 36 characters"),
        ("x" * 36, "Invalid UUID: encoding/hex: invalid byte: U+0078 'x'"),
        ("-" * 36, 'UUID should have maximum of 4 "-"; got 36'),
    ],
)
def test_what_is_no_id_is_said(text: str, fault: str) -> None:
    with pytest.raises(RequestError) as caught:
        session_key(text)
    assert str(caught.value) == f"failed session lookup: index error: {fault}"


def test_sessions_are_listed_by_id_and_by_node() -> None:
    store = driven(node("y"), create(2), create(1, node="y"), create(3))
    found = store.store.sessions
    assert [row.id for row in found.list().value] == [session_id(n) for n in (1, 2, 3)]
    assert [row.id for row in found.of_node("X").value] == [session_id(n) for n in (2, 3)]
    assert found.of_node("none").value == ()


def test_reader_wakes_for_its_own_session_or_node() -> None:
    store = driven(node("y"), create(1), create(2, node="y"))
    sessions = store.store.sessions
    one, other = (Sleeper(store.store, sessions.get(session_id(n)).topics) for n in (1, 2))
    node_x, node_y = (Sleeper(store.store, sessions.of_node(n).topics) for n in ("x", "y"))
    every = Sleeper(store.store, sessions.list().topics)
    store.execute(destroy(1))
    woken = [sleeper.stop() for sleeper in (one, other, node_x, node_y, every)]
    assert woken == [True, False, True, False, True]


def test_index_is_the_tables_and_rises_with_each_end() -> None:
    store = driven(create(1), create(2))
    assert store.store.sessions.get(session_id(1)).index == 4
    store.execute(destroy(2))
    assert store.store.sessions.get(session_id(2)).index == 5
    assert store.store.sessions.list().index == 5


def test_session_that_ends_in_its_own_batch_wakes_nobody() -> None:
    store = driven()
    told: list[tuple[object, object]] = []
    store.store.sessions.changed = lambda old, new: told.append((old, new))
    sleeper = Sleeper(store.store, store.store.sessions.get(session_id(1)).topics)
    store.execute(create(1), destroy(1))
    assert (sleeper.stop(), told) == (False, [(None, None)])


def test_sessions_survive_a_restart_with_what_they_depend_on() -> None:
    store = driven(create(1, node_checks=("serfHealth",), ttl="20s"))
    loaded = store.reloaded().sessions
    assert loaded.list().value == store.store.sessions.list().value
    assert [row.id for row in loaded.of_node("x").value] == [session_id(1)]


def test_whoever_counts_sessions_is_told_of_each_change_and_of_a_load() -> None:
    store = driven()
    told: list[tuple[str | None, str | None]] = []
    loads: list[int] = []
    sessions = store.store.sessions
    sessions.changed = lambda old, new: told.append(
        (old.id if old else None, new.id if new else None)
    )
    sessions.loaded = lambda: loads.append(1)
    store.execute(create(1))
    store.execute(destroy(1))
    assert told == [(None, session_id(1)), (session_id(1), None)]
    store.store.adopt(store.reloaded())
    assert loads == [1]
