"""Sessions end by the leader's clock, locks open by everyone's; all on virtual time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from isthmus.errors import NoLeader
from isthmus.model.catalog import RegisterRequest
from isthmus.model.kv import KV_LOCK, DirEntry, KeyRequest, KVSRequest
from isthmus.model.session import (
    SESSION_CREATE,
    SESSION_DESTROY,
    IndexedSessions,
    Session,
    SessionRequest,
    SessionSpecificRequest,
)
from isthmus.server.server import Server
from isthmus.server.sessions import ENDING_MAX, RETRY, SessionTimers, time_to_live
from isthmus.store.commands import Command
from isthmus.units import SECOND, Duration
from support.cluster import Cluster
from support.servers import make_server
from support.sessions import create, destroy, driven, lock, session_id
from support.virtual_loop import now, run_virtual

TTL = Duration(10 * SECOND)


async def begin(server: Server, *, ttl: str = "10s", lock_delay: float = 15.0) -> str:
    """Begin a session; return its id."""
    session = Session(node="x", ttl=ttl, lock_delay=Duration.of(lock_delay))
    request = SessionRequest(op=SESSION_CREATE, session=session)
    return str(await server.call("Session.Apply", request))


async def renew(server: Server, session: str, *, stale: bool = False) -> bool:
    """Renew a session; whether it is there."""
    request = SessionSpecificRequest(session_id=session, allow_stale=stale)
    reply = await server.call("Session.Renew", request)
    assert isinstance(reply, IndexedSessions)
    return bool(reply.sessions)


async def take(server: Server, key: str, session: str) -> bool:
    """Take a lock."""
    request = KVSRequest(op=KV_LOCK, dir_ent=DirEntry(key=key, session=session))
    return bool(await server.call("KVS.Apply", request))


async def ended(server: Server, session: str) -> float:
    """Wait until a session has ended; return when that was."""
    sessions = server.store.sessions
    answer = sessions.get(session)
    while answer.value is not None:
        answer = await server.blocking.wait_past(lambda: sessions.get(session), answer.changed)
    return now()


def play(act: Callable[[Server], Awaitable[None]]) -> None:
    """Let something happen at a server with the node ``x``."""

    async def whole() -> None:
        server = make_server()
        await server.start()
        await server.call("Catalog.Register", RegisterRequest(node="x", address="10.0.0.1"))
        try:
            await act(server)
        finally:
            await server.stop()

    run_virtual(whole())


def play_cluster(act: Callable[[Cluster], Awaitable[None]]) -> None:
    """Let something happen at three servers, of which ``s1`` leads first."""

    async def whole() -> None:
        cluster = Cluster(3, chosen=True)
        cluster.elect("s1")
        await cluster.start()
        await cluster.until(lambda: cluster.leaders == ["s1"])
        await cluster["s1"].call("Catalog.Register", RegisterRequest(node="x", address="10.0.0.1"))
        try:
            await act(cluster)
        finally:
            await cluster.stop()

    run_virtual(whole())


def test_session_that_is_not_renewed_ends_after_twice_its_time() -> None:
    async def act(server: Server) -> None:
        session = await begin(server)
        began = now()
        assert server.sessions.active_count == 1
        assert await ended(server, session) - began == pytest.approx(20.0, abs=0.1)
        assert server.sessions.active_count == 0
        await asyncio.sleep(0.1)
        assert server.sessions.endings.count == 1

    play(act)


def test_renewal_gives_the_whole_time_again() -> None:
    async def act(server: Server) -> None:
        session = await begin(server)
        for _ in range(10):
            await asyncio.sleep(19)
            assert await renew(server, session)
        renewed = now()
        assert await ended(server, session) - renewed == pytest.approx(20.0, abs=0.1)
        assert not await renew(server, session)

    play(act)


@pytest.mark.parametrize("ttl", ["", "0s"])
def test_session_without_a_time_to_live_stays(ttl: str) -> None:
    async def act(server: Server) -> None:
        session = await begin(server, ttl=ttl)
        await asyncio.sleep(3_600)
        assert await renew(server, session)
        assert server.sessions.active_count == 0

    play(act)


def test_session_that_was_destroyed_is_watched_no_more() -> None:
    async def act(server: Server) -> None:
        session = await begin(server)
        request = SessionRequest(op=SESSION_DESTROY, session=Session(id=session))
        await server.call("Session.Apply", request)
        assert server.sessions.active_count == 0

    play(act)


def test_many_sessions_end_at_once() -> None:
    async def act(server: Server) -> None:
        ids = [await begin(server) for _ in range(ENDING_MAX + 10)]
        for session in ids:
            await ended(server, session)
        assert now() < 21.0

    play(act)


def test_lock_of_an_expired_session_opens_after_its_delay() -> None:
    async def act(server: Server) -> None:
        first, second = await begin(server, lock_delay=5.0), await begin(server, ttl="")
        assert await take(server, "a", first)
        lost = await ended(server, first)
        assert not await take(server, "a", second)
        await asyncio.sleep(4.9)
        assert not await take(server, "a", second)
        await asyncio.sleep(0.2)
        assert await take(server, "a", second)
        assert now() - lost == pytest.approx(5.1, abs=0.1)

    play(act)


def test_reader_of_a_key_hears_at_once_that_its_holder_expired() -> None:
    async def act(server: Server) -> None:
        session = await begin(server)
        await take(server, "a", session)
        (entry,) = (await server.call("KVS.Get", KeyRequest(key="a"))).entries
        reply = await server.call(
            "KVS.Get", KeyRequest(key="a", min_query_index=entry.modify_index)
        )
        assert reply.entries[0].session == ""
        assert now() == pytest.approx(20.0, abs=0.1)

    play(act)


# Several servers ----------------------------------------------------------------------------------


def test_new_leader_gives_every_session_its_whole_time_again() -> None:
    async def act(cluster: Cluster) -> None:
        session = await begin(cluster["s1"])
        await asyncio.sleep(18)
        cluster.elect("s2")
        await cluster.until(lambda: cluster.leaders == ["s2"])
        led = now()
        assert cluster["s1"].sessions.active_count == 0
        assert cluster["s2"].sessions.active_count == 1
        assert await ended(cluster["s3"], session) - led == pytest.approx(20.0, abs=0.5)

    play_cluster(act)


def test_renewal_at_any_server_reaches_the_leaders_clock() -> None:
    """Even that of a caller who takes stale answers: a follower's clock ends nothing."""

    async def act(cluster: Cluster) -> None:
        session = await begin(cluster["s2"])
        for name in ("s1", "s2", "s3", "s2"):
            await asyncio.sleep(18)
            assert await renew(cluster[name], session, stale=True)
        assert cluster["s2"].sessions.active_count == 0

    play_cluster(act)


def test_session_survives_leaders_that_come_and_go_while_it_is_renewed() -> None:
    async def act(cluster: Cluster) -> None:
        session = await begin(cluster["s1"])
        for name in ("s2", "s3", "s1", "s2"):
            await asyncio.sleep(12)
            cluster.elect(name)
            await cluster.until(lambda name=name: cluster.leaders == [name])  # type: ignore[misc]
            assert await renew(cluster["s1"], session)

    play_cluster(act)


def test_new_leader_keeps_the_locks_closed_that_the_old_one_closed() -> None:
    async def act(cluster: Cluster) -> None:
        first = await begin(cluster["s1"], ttl="", lock_delay=30.0)
        second = await begin(cluster["s1"], ttl="")
        assert await take(cluster["s1"], "a", first)
        request = SessionRequest(op=SESSION_DESTROY, session=Session(id=first))
        await cluster["s1"].call("Session.Apply", request)
        lost = now()
        cluster.elect("s2")
        await cluster.until(lambda: cluster.leaders == ["s2"])
        assert not await take(cluster["s3"], "a", second)
        await asyncio.sleep(31.0 - (now() - lost))
        assert await take(cluster["s3"], "a", second)

    play_cluster(act)


# The timers alone ---------------------------------------------------------------------------------


class Refusing:
    """Commits into a store, or refuses as often as told."""

    def __init__(self, store: Any) -> None:
        self.store, self.refusals, self.calls = store, 0, 0
        self.gate: asyncio.Event | None = None

    async def __call__(self, command: Command) -> object:
        self.calls += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.refusals:
            self.refusals -= 1
            raise NoLeader
        return self.store.execute(command)


def timing(act: Callable[[SessionTimers, Any, Refusing], Awaitable[None]]) -> None:
    """Let something happen to timers over a bare store."""

    async def whole() -> None:
        store = driven()
        commits = Refusing(store)
        timers = SessionTimers(
            store.store.sessions, store.store.lock_delays, commit=commits, dc="dc1"
        )
        task = asyncio.get_running_loop().create_task(timers.run())
        await act(timers, store, commits)
        task.cancel()

    run_virtual(whole())


def test_session_that_could_not_be_ended_is_tried_again() -> None:
    async def act(timers: SessionTimers, store: Any, commits: Refusing) -> None:
        timers.lead(True)
        store.execute(create(1, ttl="10s"))
        commits.refusals = 3
        await asyncio.sleep(20 + 3 * RETRY - 0.1)
        assert len(store.store.sessions) == 1
        await asyncio.sleep(0.2)
        assert (len(store.store.sessions), commits.calls) == (0, 4)

    timing(act)


def test_who_does_not_lead_ends_nothing_and_opens_locks() -> None:
    async def act(timers: SessionTimers, store: Any, commits: Refusing) -> None:
        store.execute(create(1, ttl="10s"))
        store.execute(create(2))
        store.execute(lock("a", 2))
        store.execute(destroy(2))
        await asyncio.sleep(14.9)
        assert b"a" in store.store.lock_delays
        await asyncio.sleep(0.2)
        assert b"a" not in store.store.lock_delays
        await asyncio.sleep(60)
        assert commits.calls == 0
        timers.lead(True)
        await asyncio.sleep(19.9)
        assert commits.calls == 0
        timers.lead(False)
        await asyncio.sleep(60)
        assert commits.calls == 0

    timing(act)


def test_lock_that_is_lost_again_is_closed_from_then_on() -> None:
    async def act(timers: SessionTimers, store: Any, commits: Refusing) -> None:
        store.execute(create(1))
        store.execute(lock("a", 1))
        store.execute(destroy(1))
        await asyncio.sleep(10)
        store.store.lock_delays.open(b"a")
        store.execute(create(2))
        store.execute(lock("a", 2))
        store.execute(destroy(2))
        await asyncio.sleep(10)
        assert b"a" in store.store.lock_delays
        await asyncio.sleep(6)
        assert b"a" not in store.store.lock_delays

    timing(act)


def test_session_that_is_being_ended_cannot_be_renewed() -> None:
    async def act(timers: SessionTimers, store: Any, commits: Refusing) -> None:
        timers.lead(True)
        store.execute(create(1, ttl="10s"))
        session = store.store.sessions.get(session_id(1)).value
        commits.gate = asyncio.Event()
        await asyncio.sleep(20.1)
        assert commits.calls == 1
        assert timers.renew(session) is False
        commits.gate.set()
        await asyncio.sleep(0.1)
        assert len(store.store.sessions) == 0

    timing(act)


def test_sessions_of_other_data_get_their_time() -> None:
    async def act(timers: SessionTimers, store: Any, commits: Refusing) -> None:
        timers.lead(True)
        store.execute(create(1, ttl="10s"))
        other = driven(create(2, ttl="30s"), create(3))
        store.store.adopt(other.reloaded())
        assert timers.active_count == 1
        await asyncio.sleep(59.9)
        assert commits.calls == 0
        await asyncio.sleep(0.2)
        assert commits.calls == 1

    timing(act)


def test_time_to_live_of_a_foreign_session_that_cannot_be_read_is_none() -> None:
    assert time_to_live(Session(ttl="10s")) == TTL
    assert time_to_live(Session(ttl="soon")) == 0
    assert time_to_live(Session()) == 0


def test_session_that_could_not_be_ended_gets_its_whole_time_from_a_new_leader() -> None:
    """Even if that is the old one, which led no more for a moment."""

    async def act(timers: SessionTimers, store: Any, commits: Refusing) -> None:
        timers.lead(True)
        store.execute(create(1, ttl="10s"))
        commits.gate, commits.refusals = asyncio.Event(), 1
        await asyncio.sleep(20.1)
        timers.lead(False)
        timers.lead(True)
        led = now()
        commits.gate.set()
        await asyncio.sleep(19.9)
        assert (len(store.store.sessions), commits.calls) == (1, 1)
        await asyncio.sleep(0.2)
        assert (len(store.store.sessions), commits.calls) == (0, 2)
        assert now() - led == pytest.approx(20.1)

    timing(act)
