"""Locks and semaphores against a store, by turns: who holds what, and what is left behind."""

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from isthmus.cli import locking
from isthmus.cli.client import RequestFailed
from isthmus.cli.lock_calls import Held
from isthmus.cli.locking import (
    DELAY_RETRY,
    LOCK_FLAGS,
    SEMAPHORE_FLAGS,
    WAIT,
    Holding,
    Lock,
    LockFailed,
    LockInUse,
    Semaphore,
)
from isthmus.model import kv as ops
from isthmus.model.kv import DirEntry, KVSRequest
from isthmus.units import SECOND
from support.sessions import create, destroy, driven, session_id

DEADLINE = 30.0


class StoreCalls:
    """Implements `LockCalls` over a store. Time stands still but while somebody waits.

    A question that would wait calls `meanwhile` and then takes as long as it may; whoever watches
    what he holds sleeps until something changes.
    """

    def __init__(self) -> None:
        self.store = driven()
        self.time = 0.0
        self.waits: list[float] = []
        self.failures: list[RequestFailed] = []
        self.meanwhile: Callable[[], object] = lambda: None
        self.sessions = 0
        self._changed = threading.Condition(threading.RLock())

    def clock(self) -> float:
        return self.time

    def execute(self, command: Any) -> Any:
        with self._changed:
            result = self.store.execute(command)
            self._changed.notify_all()
            return result

    def fail(self, *failures: RequestFailed) -> None:
        """Let the next questions of who watches fail."""
        with self._changed:
            self.failures = list(failures)
            self._changed.notify_all()

    def end(self, session: str) -> None:
        self.execute(destroy(int(session[-12:])))

    def create_session(self, name: str, ttl: str, *, behavior: str = "") -> str:
        self.sessions += 1
        self.execute(create(self.sessions, name=name, ttl=ttl, behavior=behavior))
        return session_id(self.sessions)

    def destroy_session(self, session: str) -> None:
        self.end(session)

    def renew_session(self, session: str) -> bool:
        return self.store.store.sessions.get(session).value is not None

    def read(
        self,
        key: str,
        *,
        recurse: bool = False,
        index: int = 0,
        wait: int = 0,
        consistent: bool = False,
    ) -> tuple[list[Held], int]:
        if consistent:
            with self._changed:
                self._changed.wait_for(
                    lambda: self.failures or self._found(key, recurse)[1] > index, DEADLINE
                )
                if self.failures:
                    raise self.failures.pop(0)
        elif index and self._found(key, recurse)[1] <= index:
            self.meanwhile()
            self.waits.append(wait / SECOND)
            self.time += wait / SECOND
        return self._found(key, recurse)

    def _found(self, key: str, recurse: bool) -> tuple[list[Held], int]:
        with self._changed:
            if recurse:
                answer = self.store.store.kv.list(key)
                rows: tuple[DirEntry, ...] = answer.value
            else:
                found = self.store.store.kv.get(key)
                rows = () if found.value is None else (found.value,)
                answer = found.of(rows)
        return [
            Held(row.key, row.value or b"", row.flags, row.session, row.modify_index)
            for row in rows
        ], answer.index or 1

    def lock(self, key: str, session: str, *, flags: int) -> bool:
        return self._write(ops.KV_LOCK, key, flags=flags, session=session)

    def unlock(self, key: str, session: str, *, flags: int) -> bool:
        return self._write(ops.KV_UNLOCK, key, flags=flags, session=session)

    def swap(self, key: str, value: bytes, *, flags: int, index: int) -> bool:
        return self._write(ops.KV_CAS, key, value=value, flags=flags, modify_index=index)

    def delete(self, key: str, *, index: int | None = None) -> bool:
        op = ops.KV_DELETE if index is None else ops.KV_DELETE_CAS
        return self._write(op, key, modify_index=index or 0)

    def _write(self, op: str, key: str, **fields: Any) -> bool:
        return bool(self.execute(KVSRequest(op=op, dir_ent=DirEntry(key=key, **fields))))


@pytest.fixture
def calls() -> StoreCalls:
    return StoreCalls()


def make(
    calls: StoreCalls, limit: int = 1, *, timeout: float = 0.0, retries: int = 0, at: str = "job"
) -> Holding:
    options = {"name": "n", "timeout": timeout, "retries": retries, "clock": calls.clock}
    return Lock(calls, at, **options) if limit == 1 else Semaphore(calls, at, limit, **options)


def taken(holding: Holding) -> bool:
    return holding.acquire(threading.Event())


def row(calls: StoreCalls, key: str) -> DirEntry | None:
    return calls.store.store.kv.get(key).value


@pytest.mark.parametrize("limit", [1, 3])
def test_what_is_taken_and_given_up_leaves_nothing_behind(calls: StoreCalls, limit: int) -> None:
    holding = make(calls, limit)
    assert taken(holding)
    assert not holding.lost.is_set()
    holding.release()
    assert holding.lost.wait(DEADLINE)
    holding.clean_up()
    assert calls.store.store.kv.list("").value == ()
    assert calls.store.store.sessions.list().value == ()
    holding.clean_up()


def test_lock_is_a_key_of_consuls_kind(calls: StoreCalls) -> None:
    assert taken(make(calls, at="/deep/job/"))
    entry = row(calls, "deep/job/.lock")
    assert entry is not None
    assert (entry.session, entry.flags) == (session_id(1), LOCK_FLAGS)
    session = calls.store.store.sessions.get(session_id(1)).value
    assert session is not None
    assert (session.ttl, session.behavior) == ("15s", "release")


def test_semaphore_is_keys_of_consuls_kind(calls: StoreCalls) -> None:
    assert taken(make(calls, 2))
    entry, own = row(calls, "job/.lock"), row(calls, f"job/{session_id(1)}")
    assert entry is not None
    assert own is not None
    assert (entry.flags, entry.session) == (SEMAPHORE_FLAGS, "")
    assert json.loads(entry.value or b"") == {"Limit": 2, "Holders": {session_id(1): True}}
    assert (own.session, own.flags) == (session_id(1), SEMAPHORE_FLAGS)
    session = calls.store.store.sessions.get(session_id(1)).value
    assert session is not None
    assert session.behavior == "delete", "a contender's key goes with it"


@pytest.mark.parametrize("limit", [1, 2])
def test_next_gets_it_when_one_of_those_before_gives_it_up(calls: StoreCalls, limit: int) -> None:
    before = [make(calls, limit) for _ in range(limit)]
    assert all(taken(holding) for holding in before)
    calls.meanwhile = before[0].release
    later = make(calls, limit)
    assert taken(later)
    assert calls.waits == [WAIT / SECOND]


@pytest.mark.parametrize("limit", [1, 2])
def test_waiting_ends_with_the_time_given(calls: StoreCalls, limit: int) -> None:
    assert all(taken(make(calls, limit)) for _ in range(limit))
    assert not taken(make(calls, limit, timeout=20.0))
    assert calls.waits == [15.0, pytest.approx(5.0)]
    sessions = calls.store.store.sessions
    assert len(sessions) == limit, "who gave up leaves no session"
    assert row(calls, f"job/{session_id(limit + 1)}") is None


def test_waiting_ends_when_told(calls: StoreCalls) -> None:
    assert taken(make(calls))
    stop = threading.Event()
    calls.meanwhile = stop.set
    assert not make(calls).acquire(stop)
    assert len(calls.waits) == 1


def test_lock_that_was_lost_lately_is_tried_again_later(calls: StoreCalls) -> None:
    first = make(calls)
    assert taken(first)
    calls.end(first.session)
    waited: list[float | None] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waited.append(timeout)
            calls.store.store.lock_delays.open(b"job/.lock")
            return False

    assert make(calls).acquire(Stop())
    assert waited == [DELAY_RETRY]


@pytest.mark.parametrize("limit", [1, 2])
def test_holder_hears_that_its_session_is_gone(calls: StoreCalls, limit: int) -> None:
    holding, lost = make(calls, limit), threading.Event()
    assert holding.acquire(threading.Event(), lost=lost.set)
    calls.end(holding.session)
    assert lost.wait(DEADLINE)
    assert holding.lost.is_set()
    holding.release()


def test_dead_holder_of_a_semaphore_does_not_count(calls: StoreCalls) -> None:
    dead = make(calls, 2)
    assert taken(dead)
    assert taken(make(calls, 2))
    calls.end(dead.session)
    assert taken(make(calls, 2))
    entry = row(calls, "job/.lock")
    assert entry is not None
    assert set(json.loads(entry.value or b"")["Holders"]) == {session_id(2), session_id(3)}


def test_server_errors_are_borne_a_few_times(
    calls: StoreCalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "MONITOR_RETRY", 0.0)
    holding, lost = make(calls, retries=2), threading.Event()
    assert holding.acquire(threading.Event(), lost=lost.set)
    unwell = RequestFailed("no leader", status=500)
    calls.fail(unwell, RequestFailed("not reached"))
    calls.swap("unrelated", b"", flags=0, index=0)
    assert not holding.lost.is_set()
    calls.fail(unwell, unwell, unwell)
    assert lost.wait(DEADLINE)


def test_refusal_means_that_it_is_lost(calls: StoreCalls) -> None:
    holding, lost = make(calls, retries=9), threading.Event()
    assert holding.acquire(threading.Event(), lost=lost.set)
    calls.fail(RequestFailed("denied", status=403))
    assert lost.wait(DEADLINE)


@pytest.mark.parametrize(("limit", "flags"), [(1, SEMAPHORE_FLAGS), (2, LOCK_FLAGS)])
def test_prefix_that_is_used_for_something_else_is_noticed(
    calls: StoreCalls, limit: int, flags: int
) -> None:
    calls.swap("job/.lock", b"", flags=flags, index=0)
    holding = make(calls, limit)
    with pytest.raises(LockFailed, match="is there and is no"):
        taken(holding)
    with pytest.raises(LockFailed, match="is there and is no"):
        holding.clean_up()
    assert len(calls.store.store.sessions) == 0


@pytest.mark.parametrize("value", [b"x", b"[]", b'{"Limit":"x","Holders":{}}', b'{"Limit":2}'])
def test_semaphore_that_cannot_be_read_is_noticed(calls: StoreCalls, value: bytes) -> None:
    calls.swap("job/.lock", value, flags=SEMAPHORE_FLAGS, index=0)
    with pytest.raises(LockFailed, match="lock decoding failed"):
        taken(make(calls, 2))


def test_limit_of_a_semaphore_is_agreed_upon(calls: StoreCalls) -> None:
    assert taken(make(calls, 3))
    with pytest.raises(LockFailed, match=r"semaphore limit conflict \(lock: 3, local: 2\)"):
        taken(make(calls, 2))


@pytest.mark.parametrize("limit", [1, 2])
def test_what_others_use_is_left(calls: StoreCalls, limit: int) -> None:
    holding = make(calls, limit)
    assert taken(holding)
    with pytest.raises(LockInUse):
        make(calls, limit).clean_up()


def test_agent_that_refuses_is_said(calls: StoreCalls) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise RequestFailed("denied", status=403)

    calls.create_session = refuse  # type: ignore[method-assign]
    with pytest.raises(LockFailed, match="failed to create session: denied"):
        taken(make(calls))


def test_abandoned_lock_goes_with_its_session(calls: StoreCalls) -> None:
    holding = make(calls)
    holding.abandon()
    assert taken(holding)
    holding.abandon()
    entry = row(calls, "job/.lock")
    assert entry is not None
    assert entry.session == ""
