"""How sessions end: what ends them, and what becomes of their keys, locks and queries."""

import pytest

from isthmus.errors import RequestError
from isthmus.model.catalog import (
    CRITICAL,
    PASSING,
    WARNING,
    DeregisterRequest,
    HealthCheck,
    RegisterRequest,
)
from isthmus.model.prepared_query import (
    QUERY_CREATE,
    PreparedQuery,
    PreparedQueryRequest,
    ServiceQuery,
)
from isthmus.model.session import ServiceCheck, Session, SessionRequest
from isthmus.store import commands
from isthmus.units import SECOND, Duration
from support.sessions import (
    DELAY,
    create,
    destroy,
    driven,
    holder,
    lock,
    node,
    session_id,
    unlock,
)
from support.stores import Driven, Sleeper


def check(status: str, check_id: str = "c") -> RegisterRequest:
    """Report a check of the node ``x``."""
    return RegisterRequest(
        node="x",
        skip_node_update=True,
        checks=(HealthCheck(node="x", check_id=check_id, status=status),),
    )


def lives(store: Driven, number: int = 1) -> bool:
    return store.store.sessions.get(session_id(number)).value is not None


def test_released_keys_stay_with_a_new_index_and_wake_their_readers() -> None:
    store = driven(create(1), lock("a"), lock("b", value=b"w"))
    sleeper = Sleeper(store.store, store.store.kv.get("a").topics)
    prefix = Sleeper(store.store, store.store.kv.list("").topics)
    store.execute(destroy(1))
    row = store.store.kv.get("a").value
    assert row is not None
    assert (row.session, row.value, row.lock_index, row.modify_index) == ("", b"v", 1, 6)
    assert (sleeper.stop(), prefix.stop()) == (True, True)
    assert store.store.kv.list("").index == 6


def test_keys_are_deleted_if_the_session_was_created_so() -> None:
    store = driven(create(1, behavior="delete"), lock("a"), create(2), lock("b", 2))
    store.execute(destroy(1))
    assert (holder(store, "a"), holder(store, "b")) == (None, session_id(2))
    assert store.store.kv.list("a").index == store.store.index


def test_ending_a_session_that_is_not_there_changes_nothing() -> None:
    store = driven()
    before = store.store.index
    assert store.execute(destroy(9)) == ""
    assert store.store.index == before
    with pytest.raises(RequestError, match="UUID must be 36 characters"):
        store.execute(SessionRequest(op="destroy", session=Session(id="x")))


def test_unknown_operation_is_refused() -> None:
    with pytest.raises(RequestError, match="Invalid Session operation 'renew'"):
        driven().execute(SessionRequest(op="renew"))


@pytest.mark.parametrize(
    "fields",
    [
        {"node_checks": ("C",)},  # Case does not count.
        {"checks": ("c",)},
        {"service_checks": (ServiceCheck(id="c"),)},
    ],
)
def test_critical_check_ends_the_session(fields: dict[str, object]) -> None:
    store = driven(node("x", "c"), create(1, **fields), create(2), lock("a"))
    store.execute(check(WARNING))
    assert lives(store)
    store.execute(check(CRITICAL))
    assert (lives(store), lives(store, 2), holder(store, "a")) == (False, True, "")


def test_check_that_comes_without_a_status_is_critical() -> None:
    store = driven(node("x", "c"), create(1, node_checks=("c",)))
    store.execute(check(""))
    assert not lives(store)


@pytest.mark.parametrize(
    "end",
    [
        DeregisterRequest(node="X"),
        DeregisterRequest(node="x", check_id="c"),
        DeregisterRequest(node="x", service_id="web"),
    ],
)
def test_session_ends_with_what_it_depends_on(end: DeregisterRequest) -> None:
    store = driven(node("x", "c", service="web"), create(1, node_checks=("c",)), lock("a"))
    store.execute(end)
    assert (lives(store), holder(store, "a")) == (False, "")


def test_session_without_checks_lives_until_its_node_goes() -> None:
    store = driven(node("x", "c"), create(1))
    store.execute(check(CRITICAL))
    store.execute(check(CRITICAL, "serfHealth"))
    assert lives(store)
    store.execute(DeregisterRequest(node="x"))
    assert not lives(store)


def test_renamed_node_takes_its_sessions_down() -> None:
    node_id = "b0000000-0000-0000-0000-000000000001"
    store = driven(
        RegisterRequest(node="old", address="10.0.0.2", id=node_id), create(1, node="old")
    )
    store.execute(RegisterRequest(node="new", address="10.0.0.2", id=node_id))
    assert not lives(store)


def test_end_of_a_session_takes_its_prepared_queries_along() -> None:
    query = PreparedQuery(
        id=session_id(7), session=session_id(1), service=ServiceQuery(service="web")
    )
    store = driven(create(1), PreparedQueryRequest(op=QUERY_CREATE, query=query))
    assert len(store.store.queries.list().value) == 1
    store.execute(destroy(1))
    assert store.store.queries.list().value == ()


# Lock delay --------------------------------------------------------------------------------------


def test_lost_lock_is_closed_to_all_until_it_is_opened() -> None:
    store = driven(create(1), create(2), lock("a"), destroy(1))
    assert store.execute(lock("a", 2)) is False
    assert holder(store, "a") == ""
    store.store.lock_delays.open(b"a")
    assert store.execute(lock("a", 2)) is True


def test_closed_lock_does_not_keep_anyone_from_writing() -> None:
    store = driven(create(1, behavior="delete"), create(2), lock("a"), destroy(1))
    assert store.execute(lock("a", 2)) is False
    assert store.store.kv.get("a").value is None
    store.execute(unlock("a", 2))


def test_lock_lost_in_a_batch_is_closed_within_it() -> None:
    store = driven(create(1), create(2), lock("a"))
    assert store.execute(destroy(1), lock("a", 2)) is False
    assert holder(store, "a") == ""


def test_given_up_lock_is_free_at_once() -> None:
    store = driven(create(1), create(2), lock("a"), unlock("a"), destroy(1))
    assert store.execute(lock("a", 2)) is True


def test_delay_of_zero_closes_nothing_and_a_long_one_is_cut() -> None:
    told: list[tuple[bytes, Duration]] = []
    store = driven(create(1, lock_delay=Duration(0)), create(2, lock_delay=Duration(3600 * SECOND)))
    store.store.lock_delays.told = lambda key, delay: told.append((key, delay))
    store.execute(lock("a", 1))
    store.execute(lock("b", 2))
    store.execute(destroy(1), destroy(2))
    assert told == [(b"b", Duration(60 * SECOND))]
    assert b"a" not in store.store.lock_delays


def test_refused_command_closes_no_lock() -> None:
    """What a command did before it failed is undone, its closed locks too."""
    store = driven(create(3, node_checks=("serfHealth",)), lock("b", 3))
    bad = RegisterRequest(
        node="x",
        checks=(
            HealthCheck(node="x", check_id="serfHealth", status=CRITICAL),
            HealthCheck(node="x", check_id="other", service_id="none", status=PASSING),
        ),
    )
    overlay = store.store.overlay()
    with pytest.raises(RequestError):
        commands.apply(overlay, bad, 99)
    assert overlay.lost_locks == {}
    assert not overlay.is_lock_closed(b"b")


def test_delay_that_was_replaced_comes_back_when_its_command_is_undone() -> None:
    overlay = Driven().store.overlay()
    overlay.lose_lock(b"a", DELAY)
    mark = overlay.mark()
    overlay.lose_lock(b"a", Duration(1))
    overlay.rollback(mark)
    assert overlay.lost_locks == {b"a": DELAY}
