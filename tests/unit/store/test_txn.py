"""Transactions: each verb, all or none, and what is said when it is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.model import kv as verbs
from isthmus.model import txn as model
from isthmus.model.catalog import Weights
from isthmus.model.session import Session
from isthmus.model.txn import (
    TxnOp,
    TxnRequest,
    TxnResponse,
    TxnSessionOp,
)
from isthmus.store import txn
from support.sessions import create, destroy, driven, holder, lock, session_id
from support.stores import Driven, Sleeper
from support.transactions import check, faults, key, node, service


def run(store: Driven, *ops: TxnOp) -> TxnResponse:
    answer = store.execute(TxnRequest(ops=ops))
    assert isinstance(answer, TxnResponse)
    return answer


def keys(answer: TxnResponse) -> list[tuple[str, bytes | None]]:
    assert answer.errors is None
    entries = [result.kv for result in answer.results or ()]
    return [(entry.key, entry.value) for entry in entries if entry is not None]


def test_operations_see_those_before_and_share_an_index() -> None:
    store = driven()
    base = store.store.index
    answer = run(
        store,
        key(verbs.KV_SET, "a", value=b"1", flags=3),
        key(model.KV_GET, "a"),
        key(verbs.KV_CAS, "b", value=b"2"),
        key(model.KV_GET_TREE, ""),
        key(verbs.KV_DELETE, "a"),
        key(model.KV_CHECK_NOT_EXISTS, "a"),
    )
    # What is written is told without its value, what is read with it.
    assert keys(answer) == [("a", None), ("a", b"1"), ("b", None), ("a", b"1"), ("b", b"2")]
    assert store.store.index == base + 1
    row = store.store.kv.get("b").value
    assert row is not None
    assert (row.create_index, row.modify_index) == (base + 1, base + 1)


def test_failed_operation_undoes_all_and_the_others_are_told_too() -> None:
    store = driven()
    sleeper = Sleeper(store.store, store.store.kv.list("").topics)
    base = store.store.index
    answer = run(
        store,
        key(verbs.KV_SET, "a", value=b"1"),
        key(model.KV_GET, "none"),
        key(verbs.KV_SET, "b"),
        key(model.KV_CHECK_INDEX, "a", modify_index=99),
    )
    assert faults(answer) == [
        (1, 'key "none" doesn\'t exist'),
        (3, f'failed index check for key "a", current modify index {base + 1} != 99'),
    ]
    assert (store.store.kv.list("").value, store.store.index) == ((), base)
    assert sleeper.stop() is False


def test_transaction_that_finds_all_as_it_wants_it_takes_no_index() -> None:
    store = driven()
    run(store, key(verbs.KV_SET, "a", value=b"1"))
    base = store.store.index
    answer = run(store, key(verbs.KV_SET, "a", value=b"1"), key(model.KV_GET, "a"))
    assert keys(answer) == [("a", None), ("a", b"1")]
    assert store.store.index == base
    assert run(store).results == ()


@pytest.mark.parametrize(
    ("op", "fault"),
    [
        (key("bogus", "a"), 'unknown KV verb "bogus"'),
        (key(verbs.KV_CAS, "a"), 'failed to set key "a", index is stale'),
        (key(verbs.KV_CAS, "new", modify_index=9), 'failed to set key "new", index is stale'),
        (
            key(verbs.KV_DELETE_CAS, "a", modify_index=1),
            'failed to delete key "a", index is stale',
        ),
        (key(model.KV_GET, "new"), 'key "new" doesn\'t exist'),
        (key(model.KV_CHECK_NOT_EXISTS, "a"), 'key "a" exists'),
        (
            key(model.KV_CHECK_INDEX, "new", modify_index=1),
            'failed to check index, key "new" doesn\'t exist',
        ),
        (key(model.KV_CHECK_SESSION, "new"), 'failed to check session, key "new" doesn\'t exist'),
        (
            key(model.KV_CHECK_SESSION, "a", session=session_id(1)),
            f'failed session check for key "a", current session "" != "{session_id(1)}"',
        ),
        (key(verbs.KV_LOCK, "a"), "missing session"),
        (
            key(verbs.KV_LOCK, "a", session=session_id(9)),
            f'invalid session "{session_id(9)}"',
        ),
        (
            key(verbs.KV_LOCK, "held", session=session_id(2)),
            'failed to lock key "held", lock is already held',
        ),
        (
            key(verbs.KV_UNLOCK, "held", session=session_id(2)),
            'failed to unlock key "held", lock isn\'t held, or is held by another session',
        ),
        (node("bogus", node="x"), 'unknown Node verb "bogus"'),
        (node("get", node="none"), 'node "none" doesn\'t exist'),
        (node("cas", node="x"), 'failed to set node "x", index is stale'),
        (
            node("delete-cas", node="none", modify_index=1),
            'failed to delete node "none", index is stale',
        ),
        (service("bogus", "x", id="w"), 'unknown Service verb "bogus"'),
        (service("get", "x", id="w"), 'service "w" on node "x" doesn\'t exist'),
        (service("set", "none", id="w", service="w"), "Missing node registration"),
        (
            service("cas", "x", id="w", modify_index=5),
            'failed to set service "w" on node "x", index is stale',
        ),
        (
            service("delete-cas", "x", id="w", modify_index=5),
            'failed to delete service "w" on node "x", index is stale',
        ),
        (check("bogus", node="x", check_id="c"), 'unknown Check verb "bogus"'),
        (check("get", node="x", check_id="c"), 'check "c" on node "x" doesn\'t exist'),
        (check("set", node="none", check_id="c"), "Missing node registration"),
        (check("set", node="x", check_id="c", service_id="w"), "Missing service registration"),
        (
            check("cas", node="x", check_id="serfHealth"),
            'failed to set check "serfHealth" on node "x", index is stale',
        ),
        (
            check("delete-cas", node="x", check_id="serfHealth", modify_index=99),
            'failed to delete check "serfHealth" on node "x", index is stale',
        ),
        (
            TxnOp(session=TxnSessionOp(verb="set", session=Session(id=session_id(1)))),
            'unknown Session verb "set"',
        ),
        (
            TxnOp(session=TxnSessionOp(verb="delete", session=Session(id=session_id(9)))),
            "failed to delete session: not found",
        ),
        (TxnOp(), "no operation specified"),
    ],
)
def test_what_fails_is_said_in_consuls_words_and_changes_nothing(op: TxnOp, fault: str) -> None:
    store = driven(create(1), create(2), lock("held", 1))
    run(store, key(verbs.KV_SET, "a", value=b"1"))
    before, rows = store.store.index, dict(store.rows)
    answer = run(store, key(verbs.KV_SET, "other"), op)
    assert faults(answer) == [(1, fault)]
    assert (store.store.index, store.rows) == (before, rows)


def test_locks_are_taken_checked_and_given_up() -> None:
    store = driven(create(1), create(2))
    answer = run(
        store,
        key(verbs.KV_LOCK, "a", session=session_id(1), value=b"1"),
        key(model.KV_CHECK_SESSION, "a", session=session_id(1)),
        key(verbs.KV_UNLOCK, "a", session=session_id(1)),
        key(verbs.KV_LOCK, "a", session=session_id(2)),
    )
    entries = [result.kv for result in answer.results or ()]
    assert [(entry.session, entry.lock_index) for entry in entries if entry] == [
        (session_id(1), 1),
        (session_id(1), 1),
        ("", 1),
        (session_id(2), 2),
    ]
    assert holder(store, "a") == session_id(2)


def test_closed_lock_is_the_only_fault_that_is_told() -> None:
    store = driven(create(1), create(2), lock("a", 1), destroy(1))
    answer = run(store, key(model.KV_GET, "none"), key(verbs.KV_LOCK, "a", session=session_id(2)))
    assert faults(answer) == [(1, 'failed to lock key "a" due to lock delay')]


def test_session_that_is_deleted_gives_its_locks_up() -> None:
    store = driven(create(1), lock("a", 1))
    deletion = TxnOp(session=TxnSessionOp(verb="delete", session=Session(id=session_id(1))))
    assert run(store, deletion).results == ()
    assert holder(store, "a") == ""
    assert b"a" in store.store.lock_delays


def test_lock_that_a_rolled_back_transaction_lost_is_not_closed() -> None:
    store = driven(create(1), lock("a", 1))
    deletion = TxnOp(session=TxnSessionOp(verb="delete", session=Session(id=session_id(1))))
    assert faults(run(store, deletion, key(model.KV_GET, "none")))
    assert holder(store, "a") == session_id(1)
    assert b"a" not in store.store.lock_delays


def test_nodes_services_and_checks_come_change_and_go() -> None:
    store = driven()
    answer = run(
        store,
        node("cas", node="n", address="10.0.0.9"),
        service("cas", "n", id="w", service="web", tags=("t",)),
        check("cas", node="n", check_id="c", service_id="w", status="passing"),
        node("get", node="N"),
        service("get", "n", id="W"),
        check("get", node="n", check_id="C"),
    )
    at = store.store.index
    results = answer.results or ()
    assert len(results) == 6
    nodes = [result.node for result in results if result.node]
    services = [result.service for result in results if result.service]
    checks = [result.check for result in results if result.check]
    assert [(row.node, row.modify_index) for row in nodes] == [("n", at)] * 2
    assert [(row.service, row.modify_index) for row in services] == [("web", at)] * 2
    assert [(row.service_name, row.service_tags, row.status) for row in checks] == [
        ("web", ("t",), "passing")
    ] * 2
    (found,) = store.store.catalog.check_service_nodes("web").value
    assert found.checks == (checks[0],)
    gone = run(
        store,
        check("delete-cas", node="n", check_id="c", modify_index=at),
        service("delete-cas", "n", id="w", modify_index=at),
        node("delete-cas", node="n", modify_index=at),
    )
    assert gone.results == ()
    assert store.store.catalog.node("n").value is None


def test_deleting_what_is_not_there_is_no_fault() -> None:
    store = driven()
    before = store.store.index
    answer = run(
        store,
        key(verbs.KV_DELETE, "none"),
        key(verbs.KV_DELETE_CAS, "none", modify_index=4),
        key(verbs.KV_DELETE_TREE, "none"),
        node("delete", node="none"),
        service("delete", "x", id="none"),
        check("delete", node="x", check_id="none"),
    )
    assert (answer.results, store.store.index) == ((), before)


def test_node_may_be_asked_for_by_its_id() -> None:
    store = driven()
    node_id = "b0000000-0000-0000-0000-000000000001"
    run(store, node("set", node="n", id=node_id, address="10.0.0.9"))
    answer = run(store, node("get", id=node_id.upper()))
    (result,) = answer.results or ()
    assert result.node is not None
    assert result.node.node == "n"


def test_read_only_run_refuses_writes_and_keeps_nothing() -> None:
    store = driven()
    overlay = store.store.overlay()
    answer = txn.run(
        overlay, [key(verbs.KV_SET, "a"), key(model.KV_GET_TREE, "")], 9, read_only=True
    )
    assert faults(answer) == [(0, "cannot insert in read-only transaction")]
    assert overlay.mark() == 0


VERBS = st.sampled_from(
    [
        verbs.KV_SET,
        verbs.KV_CAS,
        verbs.KV_DELETE,
        verbs.KV_DELETE_CAS,
        verbs.KV_DELETE_TREE,
        model.KV_GET,
        model.KV_GET_TREE,
        model.KV_CHECK_INDEX,
        model.KV_CHECK_NOT_EXISTS,
    ]
)
OPS = st.builds(
    lambda verb, name, value, index: key(verb, name, value=value or None, modify_index=index),
    VERBS,
    st.sampled_from(["a", "a/b", "b"]),
    st.sampled_from([b"", b"1", b"2"]),
    st.integers(0, 6),
)


@given(st.lists(st.lists(OPS, max_size=6), max_size=6))
def test_transaction_does_what_its_operations_do_one_by_one_or_nothing(
    transactions: list[list[TxnOp]],
) -> None:
    """Against a dict on which operations run until one fails."""
    store = Driven()
    known: dict[str, tuple[bytes | None, int, int]] = {}
    for ops in transactions:
        at = store.store.index + 1
        expected, failed = _play(known, ops, at)
        answer = run(store, *ops)
        assert bool(answer.errors) == failed
        if not failed:
            known = expected
        rows = store.store.kv.list("").value
        assert {row.key: (row.value, row.create_index, row.modify_index) for row in rows} == known


def _play(
    known: dict[str, tuple[bytes | None, int, int]], ops: list[TxnOp], at: int
) -> tuple[dict[str, tuple[bytes | None, int, int]], bool]:
    state = dict(known)
    for op in ops:
        assert op.kv is not None
        verb, entry = op.kv.verb, op.kv.dir_ent
        old = state.get(entry.key)
        seen = old[2] if old else 0
        fails = {
            verbs.KV_CAS: entry.modify_index != seen,
            verbs.KV_DELETE_CAS: old is not None and entry.modify_index != seen,
            model.KV_GET: old is None,
            model.KV_CHECK_INDEX: old is None or entry.modify_index != seen,
            model.KV_CHECK_NOT_EXISTS: old is not None,
        }
        if fails.get(verb, False):
            return known, True
        if verb in {verbs.KV_SET, verbs.KV_CAS}:
            if old is None or old[0] != entry.value:
                state[entry.key] = (entry.value, old[1] if old else at, at)
        elif verb in {verbs.KV_DELETE, verbs.KV_DELETE_CAS}:
            state.pop(entry.key, None)
        elif verb == verbs.KV_DELETE_TREE:
            state = {name: row for name, row in state.items() if not name.startswith(entry.key)}
    return state, False


@pytest.mark.parametrize(
    ("given_", "kept"),
    [
        (None, Weights(passing=1, warning=1)),
        (Weights(), Weights(passing=1, warning=1)),
        (Weights(passing=0, warning=3), Weights(passing=1, warning=1)),
        (Weights(passing=70_000), Weights(passing=1, warning=1)),
        (Weights(passing=5, warning=-1), Weights(passing=1, warning=1)),
        (Weights(passing=5), Weights(passing=5)),
        (Weights(passing=65_535, warning=65_535), Weights(passing=65_535, warning=65_535)),
    ],
)
def test_weights_that_say_nothing_are_the_default(given_: Weights | None, kept: Weights) -> None:
    """A Consul that passes a transaction on sends zeros for weights that were left out."""
    answer = run(driven(), service("set", "x", id="w", service="w", weights=given_))
    (result,) = answer.results or ()
    assert result.service is not None
    assert result.service.weights == kept
