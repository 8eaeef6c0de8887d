"""Several servers of one datacenter: one leads, the others follow, and nobody can tell which."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from random import Random

import pytest

from isthmus.engine.memory import HISTORY_MAX, MemoryEngine
from isthmus.errors import InvalidRequest, NoLeader
from isthmus.model.catalog import NodeService, RegisterRequest, ServiceRequest
from isthmus.model.kv import KV_CAS, KV_DELETE, KV_SET, DirEntry, KeyRequest, KVSRequest
from isthmus.model.query import DatacenterRequest
from isthmus.server.election import Alone
from isthmus.server.replica import CONFIRMED_MAX
from isthmus.server.server import Server
from isthmus.store.engine import (
    Batch,
    Change,
    EngineUnavailable,
    Head,
    Lead,
    LeaderInfo,
    NoSpace,
    OutcomeUnknown,
)
from isthmus.store.rows import ROW_VERSION
from support.cluster import Cluster
from support.servers import CLUSTER, make_server
from support.virtual_loop import now, run_virtual


def put(key: str, value: bytes = b"", *, op: str = KV_SET, index: int = 0) -> KVSRequest:
    return KVSRequest(op=op, dir_ent=DirEntry(key=key, value=value, modify_index=index))


async def value(server: Server, key: str, *, stale: bool = False) -> bytes | None:
    reply = await server.call("KVS.Get", KeyRequest(key=key, allow_stale=stale))
    return reply.entries[0].value if reply.entries else None


def play(act: Callable[[Cluster], Awaitable[None]], *, chosen: bool = False) -> None:
    async def whole() -> None:
        cluster = Cluster(3, chosen=chosen)
        cluster.elect("s1")
        await cluster.start()
        await cluster.until(lambda: len(cluster.leaders) == 1)
        try:
            await act(cluster)
        finally:
            await cluster.stop()

    run_virtual(whole())


def same_tables(cluster: Cluster) -> bool:
    tables = [
        (
            server.store.index,
            server.store.kv.list("").value,
            server.store.catalog.dump().value,
            server.store.federation.list().value,
        )
        for server in cluster.servers
    ]
    return all(table == tables[0] for table in tables)


def test_one_leads_and_every_server_takes_writes_and_answers_reads() -> None:
    async def act(cluster: Cluster) -> None:
        for number, server in enumerate(cluster.servers):
            await server.call("KVS.Apply", put(f"k{number}", b"v"))
            assert await value(server, f"k{number}") == b"v"
        assert len(cluster.leaders) == 1
        leader = cluster[cluster.leaders[0]]
        for server in cluster.servers:
            status = await server.call("Status.Leader", DatacenterRequest())
            assert status == leader.config.rpc_address
        await cluster.until(lambda: same_tables(cluster))

    play(act)


def test_followers_have_services_and_their_readers_wake() -> None:
    async def act(cluster: Cluster) -> None:
        follower = next(server for server in cluster.servers if not server.is_leader)
        request = ServiceRequest(service_name="web", allow_stale=True)
        reply = await follower.call("Health.ServiceNodes", request)
        waiting = asyncio.ensure_future(
            follower.call(
                "Health.ServiceNodes",
                ServiceRequest(
                    service_name="web", allow_stale=True, min_query_index=max(1, reply.index)
                ),
            )
        )
        await asyncio.sleep(1)
        assert not waiting.done()
        await follower.call(
            "Catalog.Register",
            RegisterRequest(node="n1", address="10.1.1.1", service=NodeService(service="web")),
        )
        woken = await waiting
        assert [node.service.service for node in woken.nodes] == ["web"]
        assert woken.index > reply.index
        leader_reply = await cluster[cluster.leaders[0]].call("Health.ServiceNodes", request)
        assert leader_reply.nodes == woken.nodes
        assert leader_reply.index == woken.index
        await cluster.until(lambda: same_tables(cluster))

    play(act)


def test_stale_reads_of_followers_say_how_old_they_may_be() -> None:
    async def act(cluster: Cluster) -> None:
        follower = next(server for server in cluster.servers if not server.is_leader)
        await follower.call("KVS.Apply", put("k", b"v"))
        await asyncio.sleep(3)
        reply = await follower.call("KVS.Get", KeyRequest(key="k", allow_stale=True))
        assert reply.known_leader
        assert 0 < reply.last_contact.seconds < 1.0
        calls = len(cluster.wires.calls)
        reply = await follower.call("KVS.Get", KeyRequest(key="k"))
        assert reply.last_contact == 0
        assert cluster.wires.calls[calls:] == [(cluster.leaders[0], "KVS.Get")]

    play(act)


def test_leader_that_stops_hands_over_and_no_write_fails() -> None:
    async def act(cluster: Cluster) -> None:
        first = cluster.leaders[0]
        writer = next(server for server in cluster.servers if not server.is_leader)
        await writer.call("KVS.Apply", put("before"))
        stopping = asyncio.ensure_future(cluster[first].stop())
        started = now()
        await writer.call("KVS.Apply", put("after"))
        assert now() - started < 1.0
        await stopping
        del cluster.wires.servers[first]
        assert cluster.leaders
        assert cluster.leaders[0] != first
        await cluster.until(lambda: same_tables(cluster))

    play(act)


def test_leader_that_is_replaced_commits_nothing_and_its_callers_are_served() -> None:
    async def act(cluster: Cluster) -> None:
        old = cluster["s1"]
        assert old.is_leader
        await old.call("KVS.Apply", put("counter", b"0"))
        index = (await old.call("KVS.Get", KeyRequest(key="counter"))).entries[0].modify_index
        cluster.elect("s2")
        done = await old.call("KVS.Apply", put("counter", b"1", op=KV_CAS, index=index))
        assert done
        await cluster.until(lambda: cluster.leaders == ["s2"])
        assert await value(old, "counter") == b"1"
        again = await cluster["s3"].call("KVS.Apply", put("counter", b"2", op=KV_CAS, index=index))
        assert not again
        await cluster.until(lambda: same_tables(cluster))

    play(act, chosen=True)


def test_leadership_that_is_taken_while_its_claim_is_answered_is_not_begun() -> None:
    async def act(cluster: Cluster) -> None:
        slow = cluster["s2"]
        claim = slow.engine.claim

        async def claim_late(info: LeaderInfo, *, preempt: bool = False) -> Lead | None:
            lead = await claim(info, preempt=preempt)
            cluster.elect("s3")
            await cluster.until(lambda: cluster["s3"].is_leader)
            return lead

        slow.engine.claim = claim_late  # type: ignore[method-assign]
        cluster.elect("s2")
        await cluster.until(lambda: cluster["s3"].is_leader)
        await slow.call("KVS.Apply", put("k", b"v"))
        await cluster.until(lambda: cluster.leaders == ["s3"], timeout=0.05)
        assert slow.replica.leader == cluster["s3"].replica.leader

    play(act, chosen=True)


def test_leader_that_is_fenced_knows_who_leads_without_being_told_again() -> None:
    async def act(cluster: Cluster) -> None:
        old = cluster["s1"]
        commit = old.engine.commit

        async def commit_late(lead: Lead, base: int, batch: Batch) -> Head:
            cluster.elect("s2")
            await cluster.until(lambda: cluster["s2"].is_leader)
            await asyncio.sleep(1)  # The change of leadership has come, and waits for us.
            return await commit(lead, base, batch)

        old.engine.commit = commit_late  # type: ignore[method-assign]
        await old.call("KVS.Apply", put("k", b"v"))
        assert old.replica.leader == cluster["s2"].replica.leader
        assert await value(old, "k") == b"v"

    play(act, chosen=True)


def test_leadership_that_moves_again_and_again_loses_nothing() -> None:
    async def act(cluster: Cluster) -> None:
        acknowledged: set[str] = set()

        async def write(name: str) -> None:
            for number in range(60):
                key = f"{name}/{number}"
                await cluster[name].call("KVS.Apply", put(key))
                acknowledged.add(key)
                if number % 3 == 0:
                    await cluster[name].call("KVS.Apply", put(key, op=KV_DELETE))
                    acknowledged.discard(key)
                await asyncio.sleep(0.05)

        async def move() -> None:
            for turn in range(30):
                cluster.elect(f"s{turn % 3 + 1}")
                await asyncio.sleep(0.13)

        await asyncio.gather(move(), *(write(f"s{number}") for number in (1, 2, 3)))
        await cluster.until(lambda: same_tables(cluster))
        keys = {row.key for row in cluster["s1"].store.kv.list("").value}
        assert keys == acknowledged
        indexes = [row.modify_index for row in cluster["s1"].store.kv.list("").value]
        assert len(indexes) == len(set(indexes))
        assert len(cluster.leaders) == 1

    play(act, chosen=True)


def test_without_a_leader_calls_are_held_and_then_refused() -> None:
    async def act(cluster: Cluster) -> None:
        cluster.elect("nobody")
        await cluster["s1"].replica.resign()
        await cluster["s2"].call("KVS.Get", KeyRequest(key="k", allow_stale=True))
        started = now()
        for consistent in (False, True):
            with pytest.raises(NoLeader, match="No cluster leader"):
                await cluster["s2"].call(
                    "KVS.Get", KeyRequest(key="k", require_consistent=consistent)
                )
        assert now() - started == pytest.approx(14.0, abs=0.5)
        assert await cluster["s2"].call("Status.Leader", DatacenterRequest()) == ""
        held = asyncio.ensure_future(cluster["s2"].call("KVS.Apply", put("k")))
        await asyncio.sleep(2)
        cluster.elect("s3")
        await held
        assert cluster.leaders == ["s3"]

    play(act, chosen=True)


def test_server_whose_storage_is_silent_has_the_leader_answer_that_the_others_name() -> None:
    async def act(cluster: Cluster) -> None:
        follower = cluster["s3"]
        follower.replica.leader = None  # It was let in again just now, and has heard nothing.
        await follower.call("KVS.Apply", put("k", b"1"))
        assert await value(follower, "k") == b"1"

        async def silent() -> dict[str, object]:
            raise EngineUnavailable("paused", operation="stats")

        cluster["s2"].engine.stats = silent  # type: ignore[method-assign]
        await asyncio.sleep(CONFIRMED_MAX + 1)
        cluster.wires.calls.clear()
        await cluster["s2"].call("KVS.Apply", put("k", b"2"))  # Who it last heard of may be gone.
        assert ("s1", "Status.Leader") in cluster.wires.calls
        assert await value(follower, "k") == b"2"

    play(act, chosen=True)


def test_server_that_cannot_read_what_a_newer_release_wrote_passes_calls_on_and_never_leads(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def act(cluster: Cluster) -> None:
        newer, old = cluster["s1"], cluster["s2"]
        await newer.call("KVS.Apply", put("k", b"0"))
        await cluster.until(lambda: same_tables(cluster))
        commit = newer.engine.commit

        async def commit_as_newer(lead: Lead, base: int, batch: Batch) -> Head:
            puts = {
                key: bytes([ROW_VERSION + 1]) + data[1:] if key.startswith(b"d/") else data
                for key, data in batch.puts.items()
            }
            return await commit(lead, base, replace(batch, puts=puts))

        newer.engine.commit = commit_as_newer  # type: ignore[method-assign]
        await newer.call("KVS.Apply", put("k", b"1"))
        await cluster.until(lambda: not old.replica.is_loaded)
        assert "newer release" in caplog.text
        for stale in (False, True):
            assert await value(old, "k", stale=stale) == b"1"
        await old.call("KVS.Apply", put("k", b"2"))
        assert await value(newer, "k") == b"2"
        cluster.elect("s2")  # etcd may well choose it.
        await asyncio.sleep(10)
        assert cluster.leaders == ["s1"]

        cluster.elect("s1")
        newer.engine.commit = commit  # type: ignore[method-assign]
        await newer.call("KVS.Apply", put("k", b"3"))  # As rows are after the upgrade.
        await cluster.until(lambda: old.replica.is_loaded)
        await cluster.until(lambda: same_tables(cluster))
        assert await value(old, "k", stale=True) == b"3"

    play(act, chosen=True)


def test_server_that_claims_and_then_hears_of_what_it_cannot_read_leaves_the_leadership_free() -> (
    None
):
    async def act(cluster: Cluster) -> None:
        newer, old = cluster["s1"], cluster["s2"]
        commit, changes = newer.engine.commit, old.engine.changes
        heard = asyncio.Event()

        async def commit_as_newer(lead: Lead, base: int, batch: Batch) -> Head:
            puts = {
                key: bytes([ROW_VERSION + 1]) + data[1:] if key.startswith(b"d/") else data
                for key, data in batch.puts.items()
            }
            return await commit(lead, base, replace(batch, puts=puts))

        async def changes_late(after: int) -> AsyncIterator[Change]:
            await heard.wait()
            async for change in changes(after):
                yield change

        old.engine.changes = changes_late  # type: ignore[method-assign]
        old.replica._turn()
        await asyncio.sleep(0.1)
        newer.engine.commit = commit_as_newer  # type: ignore[method-assign]
        await newer.call("KVS.Apply", put("k", b"1"))
        cluster.elect("s2")
        await cluster.until(lambda: not newer.is_leader)
        holder = await newer.engine.leader()
        assert holder is not None
        assert holder.node == "s2"
        heard.set()
        await cluster.until(lambda: not old.replica.is_loaded)
        await cluster.until(lambda: newer.replica.leader is None)  # Nor does it hold the key.
        assert await newer.engine.leader() is None

    play(act, chosen=True)


def test_claim_that_fails_for_want_of_room_is_made_again() -> None:
    async def act(cluster: Cluster) -> None:
        next_one = cluster["s2"]
        claim, asked = next_one.engine.claim, 0

        async def claim_without_room(info: LeaderInfo, *, preempt: bool = False) -> Lead | None:
            nonlocal asked
            asked += 1
            if asked < 3:
                raise NoSpace("database space exceeded", operation="claim")
            return await claim(info, preempt=preempt)

        next_one.engine.claim = claim_without_room  # type: ignore[method-assign]
        cluster.elect("s2")
        await cluster.until(lambda: cluster.leaders == ["s2"])

    play(act, chosen=True)


def test_leader_that_gives_up_has_its_callers_served_by_who_leads() -> None:
    async def act(cluster: Cluster) -> None:
        old = cluster["s1"]
        engine = old.engine
        answer = asyncio.get_running_loop().create_future()

        async def hang(lead: Lead, base: int, batch: Batch) -> Head:
            await answer
            raise OutcomeUnknown("given up", operation="commit")

        async def deaf(lead: Lead) -> AsyncIterator[None]:
            await asyncio.get_running_loop().create_future()
            yield

        engine.commit, engine.leadership = hang, deaf  # type: ignore[method-assign]
        old.replica._turn()
        in_flight = asyncio.ensure_future(old.call("KVS.Apply", put("a")))
        await asyncio.sleep(0.1)
        queued = asyncio.ensure_future(old.call("KVS.Apply", put("b", b"1")))
        await asyncio.sleep(0.1)
        cluster.elect("s2")
        await cluster.until(lambda: cluster["s2"].is_leader)
        assert cluster.leaders == ["s1", "s2"]
        answer.set_result(None)
        await old.replica.give_up("another server leads")
        assert cluster.leaders == ["s2"]
        with pytest.raises(OutcomeUnknown):
            await in_flight
        await queued
        assert await value(cluster["s3"], "b") == b"1"

    play(act, chosen=True)


def test_server_that_lags_too_far_behind_loads_everything_again() -> None:
    async def act(cluster: Cluster) -> None:
        leader = cluster["s1"]
        await leader.call("KVS.Apply", put("old", b"1"))
        lagging = cluster["s3"].replica
        await cluster.until(lambda: same_tables(cluster))
        storage = cluster.storage
        waiting = asyncio.ensure_future(
            cluster["s3"].call(
                "KVS.Get",
                KeyRequest(key="old", allow_stale=True, min_query_index=lagging.store.index),
            )
        )
        await asyncio.sleep(0.1)
        for _ in range(HISTORY_MAX + 10):  # In one piece, without the others' turns between.
            storage.revision += 1
            storage.history.append(Change(storage.revision, 0, {}, set(), []))
        storage.leadership(storage.leader)
        await asyncio.sleep(1)
        await cluster["s2"].call("KVS.Apply", put("old", b"2"))
        await waiting  # It reads again: what it has seen may be gone.
        await cluster.until(lambda: same_tables(cluster))
        assert await value(cluster["s3"], "old", stale=True) == b"2"

    play(act, chosen=True)


def test_leader_that_cannot_confirm_answers_no_reads_as_leader() -> None:
    async def act(cluster: Cluster) -> None:
        leader = cluster["s1"]
        engine = leader.engine

        async def hang(lead: Lead) -> None:
            await asyncio.get_running_loop().create_future()

        engine.confirm = hang  # type: ignore[method-assign]
        await asyncio.sleep(3)
        assert leader.is_leader
        assert not leader.replica.is_sure()
        with pytest.raises(NoLeader):
            await leader.call("KVS.Get", KeyRequest(key="k"))
        stale = await leader.call("KVS.Get", KeyRequest(key="k", allow_stale=True))
        assert stale.last_contact.seconds > 2.0  # It may have been replaced long ago.
        assert (stale.known_leader, leader.leader_address) == (False, "")
        await leader.call("KVS.Apply", put("k"))  # The commit itself proves it.
        assert await value(leader, "k") is None
        stale = await leader.call("KVS.Get", KeyRequest(key="k", allow_stale=True))
        assert (stale.last_contact, stale.known_leader) == (0, True)
        assert leader.leader_address == "10.0.0.1:8300"

    play(act, chosen=True)


def test_answer_that_waited_while_we_were_paused_confirms_nothing_since() -> None:
    async def act(cluster: Cluster) -> None:
        leader = cluster["s1"]
        confirm = leader.engine.confirm

        async def late(lead: Lead) -> None:
            await confirm(lead)
            await asyncio.sleep(5)

        await asyncio.sleep(1)
        leader.engine.confirm = late  # type: ignore[method-assign]
        await leader.replica.confirm()
        assert not leader.replica.is_sure()

    play(act, chosen=True)


def test_commit_whose_answer_is_lost_still_reaches_the_tables_of_who_sent_it() -> None:
    async def act(cluster: Cluster) -> None:
        leader = cluster["s1"]
        engine, commit = leader.engine, leader.engine.commit

        async def lose(lead: Lead, base: int, batch: Batch) -> Head:
            await commit(lead, base, batch)
            await asyncio.sleep(1)
            raise OutcomeUnknown("no answer", operation="commit")

        engine.commit = lose  # type: ignore[method-assign]
        with pytest.raises(OutcomeUnknown):
            await leader.call("KVS.Apply", put("k", b"v"))
        assert await value(leader, "k") == b"v"
        engine.commit = commit  # type: ignore[method-assign]
        cluster.elect("s2")
        await cluster.until(lambda: cluster.leaders == ["s2"])
        await cluster.until(lambda: same_tables(cluster))
        assert await value(leader, "k") == b"v"

    play(act, chosen=True)


def test_commit_without_an_answer_is_followed_also_when_another_leads_by_then() -> None:
    async def act(cluster: Cluster) -> None:
        old = cluster["s1"]
        commit = old.engine.commit

        async def lose(lead: Lead, base: int, batch: Batch) -> Head:
            await commit(lead, base, batch)
            cluster.elect("s2")
            await cluster.until(lambda: cluster["s2"].is_leader)
            await asyncio.sleep(1)  # The change of leadership has come, and waits for us.
            raise OutcomeUnknown("no answer", operation="commit")

        await old.call("KVS.Apply", put("known", b"v"))
        old.engine.commit = lose  # type: ignore[method-assign]
        with pytest.raises(OutcomeUnknown):
            await old.call("KVS.Apply", put("unknown", b"v"))
        await cluster["s2"].call("KVS.Apply", put("later", b"v"))
        await cluster.until(lambda: same_tables(cluster))
        assert await value(old, "unknown", stale=True) == b"v"

    play(act, chosen=True)


def test_leader_is_not_told_of_its_own_commits_and_follows_again_when_it_is_replaced() -> None:
    async def act(cluster: Cluster) -> None:
        told: list[Change] = []
        engine = cluster["s1"].engine
        changes = engine.changes

        async def record(after: int) -> AsyncIterator[Change]:
            async for change in changes(after):
                told.append(change)
                yield change

        engine.changes = record  # type: ignore[method-assign]
        for number in range(5):
            await cluster["s1"].call("KVS.Apply", put(f"own/{number}"))
        await asyncio.sleep(1)
        assert told == []
        cluster.elect("s2")
        await cluster.until(lambda: cluster.leaders == ["s2"])
        await cluster["s2"].call("KVS.Apply", put("other"))
        await cluster.until(lambda: same_tables(cluster))
        assert [change.index for change in told if change.index] == [cluster["s2"].store.index]

    play(act, chosen=True)


def test_leader_that_hears_nothing_of_its_key_finds_out_by_a_commit_and_follows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def act(cluster: Cluster) -> None:
        old = cluster["s1"]

        async def deaf(lead: Lead) -> AsyncIterator[None]:
            nothing: tuple[None, ...] = ()
            for change in nothing:
                yield change
            raise EngineUnavailable("not now", operation="watch")

        old.engine.leadership = deaf  # type: ignore[method-assign]
        for _ in range(3):
            cluster.elect("s1")
            await cluster.until(lambda: cluster.leaders == ["s1"])
            await asyncio.sleep(1)
            cluster.elect("s2")
            await cluster.until(lambda: cluster["s2"].is_leader)
            await old.call("KVS.Apply", put("k", str(now()).encode()))
            await cluster.until(lambda: same_tables(cluster))

    play(act, chosen=True)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_data_moves_to_an_engine_that_others_share_while_it_is_served() -> None:
    async def whole() -> None:
        cluster = Cluster(2)
        alone = make_server(MemoryEngine(cluster=CLUSTER))
        await alone.start()
        for number in range(50):
            await alone.call("KVS.Apply", put(f"before/{number}", b"v"))
        index = alone.store.index
        waiting = asyncio.ensure_future(
            alone.call("KVS.Get", KeyRequest(key="new", min_query_index=index))
        )
        written: list[str] = []

        async def write(name: str) -> None:
            for number in range(100):
                await alone.call("KVS.Apply", put(f"{name}/{number}"))
                written.append(f"{name}/{number}")
                await asyncio.sleep(0.001)

        writers = [asyncio.ensure_future(write(name)) for name in ("a", "b")]
        await asyncio.sleep(0.05)
        await alone.replica.move(MemoryEngine(storage=cluster.storage), Alone(Random(1)))
        assert alone.is_leader
        assert alone.engine.shared
        await asyncio.gather(*writers)
        await alone.call("KVS.Apply", put("new", b"1"))
        await waiting
        assert alone.store.index > index + 200
        await cluster.start()
        for server in cluster.servers:
            assert not server.is_leader
            assert server.store.kv.list("").value == alone.store.kv.list("").value
            assert server.store.index == alone.store.index
        cluster.wires.servers["alpha"] = alone
        await cluster["s2"].call("KVS.Apply", put("through a follower"))
        await cluster.until(lambda: same_tables(cluster))
        keys = {row.key for row in cluster["s1"].store.kv.list("").value}
        assert set(written) <= keys
        await alone.stop()
        del cluster.wires.servers["alpha"]
        await cluster.until(lambda: bool(cluster.leaders))
        await cluster.stop()

    run_virtual(whole())


def test_data_does_not_move_onto_other_data() -> None:
    async def whole() -> None:
        cluster = Cluster(1)
        await cluster.start()
        await cluster["s1"].call("KVS.Apply", put("theirs"))
        alone = make_server(MemoryEngine(cluster=CLUSTER))
        await alone.start()
        await alone.call("KVS.Apply", put("ours"))
        with pytest.raises(InvalidRequest, match="has data already"):
            await alone.replica.move(MemoryEngine(storage=cluster.storage), Alone(Random(1)))
        await alone.call("KVS.Apply", put("goes on"))
        assert not alone.engine.shared
        assert await value(cluster["s1"], "ours") is None
        await alone.stop()
        await cluster.stop()

    run_virtual(whole())
