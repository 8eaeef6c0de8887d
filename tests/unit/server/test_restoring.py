"""A snapshot takes the place of all data: at once, on every server, or not at all."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from isthmus.engine.memory import MemoryEngine, MemoryStorage
from isthmus.errors import NoLeader
from isthmus.model.catalog import ServiceRequest
from isthmus.model.kv import KeyRequest
from isthmus.model.query import DatacenterRequest
from isthmus.server.restoring import generation_of
from isthmus.store.engine import Batch, Head, Lead, OutcomeUnknown
from isthmus.store.store import Store
from isthmus.units import Duration
from support.cluster import Cluster
from support.restoring import filled, put, register, restore, saved, started
from support.servers import CLUSTER
from support.virtual_loop import run_virtual


async def test_writes_wait_for_the_restore_and_come_after_it() -> None:
    replica = await started(MemoryEngine())
    await filled(replica)
    snapshot = saved(replica.store)
    async with asyncio.TaskGroup() as group:
        restoring = group.create_task(restore(replica, snapshot))
        await asyncio.sleep(0)
        writing = group.create_task(replica.submit(put("during")))
    assert restoring.result() < replica.store.index
    assert writing.done()
    assert replica.store.kv.get("during").value is not None
    await replica.stop()


async def test_restore_stops_when_the_server_does() -> None:
    replica = await started(MemoryEngine())
    await filled(replica)
    rows = replica.store.copy_rows()
    restoring = asyncio.ensure_future(restore(replica, saved(replica.store)))
    for _ in range(4):
        await asyncio.sleep(0)
    await replica.stop()
    with pytest.raises(NoLeader):
        await restoring
    assert replica.store.copy_rows() == rows
    with pytest.raises(NoLeader):
        await replica.restore(Store(), index=1)


# Several servers ----------------------------------------------------------------------------------


def play(act: Callable[[Cluster], Awaitable[None]]) -> None:
    async def whole() -> None:
        cluster = Cluster(3, chosen=True)
        cluster.elect("s1")
        await cluster.start()
        await cluster.until(lambda: cluster.leaders == ["s1"])
        try:
            await act(cluster)
        finally:
            await cluster.stop()

    run_virtual(whole())


def agree(cluster: Cluster) -> bool:
    tables = [
        (server.store.index, server.store.generation, server.store.copy_rows())
        for server in cluster.servers
    ]
    return all(table == tables[0] for table in tables)


def test_every_server_serves_the_restored_data_and_blocked_readers_wake() -> None:
    async def act(cluster: Cluster) -> None:
        leader = cluster["s1"]
        await leader.call("KVS.Apply", put("k", b"old"))
        snapshot = saved(leader.store)
        await leader.call("KVS.Apply", put("k", b"new"))
        await leader.call("Catalog.Register", register("n1"))
        await cluster.until(lambda: agree(cluster))
        index = leader.store.index
        reads = [
            asyncio.ensure_future(cluster[name].call(method, request))
            for name in ("s1", "s2")
            for method, request in (
                ("KVS.Get", KeyRequest(key="k", min_query_index=index, allow_stale=True)),
                (
                    "Health.ServiceNodes",
                    ServiceRequest(service_name="web", min_query_index=index, allow_stale=True),
                ),
                (
                    "FederationState.List",
                    DatacenterRequest(min_query_index=index, allow_stale=True),
                ),
            )
        ]
        await asyncio.sleep(1)
        assert not any(read.done() for read in reads)
        await restore(leader.replica, snapshot)
        async with asyncio.timeout(1):
            answers = await asyncio.gather(*reads)
        for kv, health, _ in (answers[:3], answers[3:]):
            assert kv.entries[0].value == b"old"
            assert not health.nodes
        await cluster.until(lambda: agree(cluster))
        assert cluster["s3"].store.generation == 1
        assert cluster.leaders == ["s1"]

    play(act)


def test_next_leader_goes_on_from_the_restored_data() -> None:
    async def act(cluster: Cluster) -> None:
        await cluster["s1"].call("KVS.Apply", put("k", b"old"))
        snapshot = saved(cluster["s1"].store)
        await cluster["s1"].call("KVS.Apply", put("k", b"new"))
        await restore(cluster["s1"].replica, snapshot)
        cluster.elect("s2")
        await cluster.until(lambda: cluster.leaders == ["s2"])
        await cluster["s3"].call("KVS.Apply", put("more"))
        await cluster.until(lambda: agree(cluster))
        assert [row.key for row in cluster["s1"].store.kv.list("").value] == ["k", "more"]
        assert cluster["s2"].store.generation == 1

    play(act)


def test_leader_that_is_replaced_during_a_restore_changes_nothing() -> None:
    async def act(cluster: Cluster) -> None:
        leader = cluster["s1"]
        await leader.call("KVS.Apply", put("k", b"old"))
        snapshot = saved(leader.store)
        for number in range(5):
            await leader.call("KVS.Apply", put(f"k{number}"))
        await cluster.until(lambda: agree(cluster))
        rows = leader.store.copy_rows()
        restoring = asyncio.ensure_future(restore(leader.replica, snapshot))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        cluster.elect("s2")
        cluster.storage.leadership(None)  # What its lease running out comes to.
        with pytest.raises(NoLeader):
            await restoring
        await cluster.until(lambda: cluster.leaders == ["s2"])
        await cluster.until(lambda: agree(cluster))
        assert cluster["s3"].store.copy_rows() == rows

        def clean() -> bool:
            return not any(generation_of(key) == 1 for key in cluster.storage.rows)

        await cluster.until(clean)

    play(act)


class Lost(MemoryEngine):
    """An engine that takes a commit and does not say so."""

    lose = False

    async def commit(self, lead: Lead, base: int, batch: Batch) -> Head:
        head = await super().commit(lead, base, batch)
        if self.lose and batch.generation is not None:
            await asyncio.sleep(0.5)  # Meanwhile the others, and we, hear of it.
            raise OutcomeUnknown("no answer", operation="commit")
        return head


def test_restore_whose_answer_is_lost_is_loaded_by_all() -> None:
    async def whole() -> None:
        storage = MemoryStorage(cluster=CLUSTER)
        cluster = Cluster(3, chosen=True, engine=lambda: Lost(storage=storage))
        cluster.elect("s1")
        await cluster.start()
        await cluster.until(lambda: cluster.leaders == ["s1"])
        leader = cluster["s1"]
        await leader.call("KVS.Apply", put("k", b"old"))
        snapshot = saved(leader.store)
        await leader.call("KVS.Apply", put("k", b"new"))
        Lost.lose = True
        try:
            with pytest.raises(Exception, match="no answer"):
                await restore(leader.replica, snapshot)
        finally:
            Lost.lose = False
        await cluster.until(lambda: cluster.leaders == ["s1"])
        await cluster.until(lambda: agree(cluster) and leader.store.generation == 1)
        found = leader.store.kv.get("k").value
        assert found is not None
        assert found.value == b"old"
        await cluster.stop()

    run_virtual(whole())


async def test_catalog_answers_from_the_restored_rows_alone() -> None:
    cluster = Cluster(1)
    await cluster.start()
    server = cluster["s1"]
    await cluster.until(lambda: bool(cluster.leaders))
    await server.call("Catalog.Register", register("n1"))
    snapshot = saved(server.store)
    await server.call("Catalog.Register", register("n2"))
    await restore(server.replica, snapshot)
    reply = await server.call("Health.ServiceNodes", ServiceRequest(service_name="web"))
    assert [one.node.node for one in reply.nodes] == ["n1"]
    assert reply.index <= server.store.index
    blocked = server.call(
        "Health.ServiceNodes",
        ServiceRequest(
            service_name="web", min_query_index=reply.index, max_query_time=Duration(10**10)
        ),
    )
    reading = asyncio.ensure_future(blocked)
    await server.call("Catalog.Register", register("n3"))
    async with asyncio.timeout(5):
        assert len((await reading).nodes) == 2
    await cluster.stop()


def test_keys_that_are_no_table_indexes_belong_to_no_generation() -> None:
    assert generation_of(b"i/00ff/kv") == 255
    assert generation_of(b"i/00ff/") == 255
    assert [generation_of(key) for key in (b"d/0001/kv/k", b"i/zz/kv", b"i/", b"")] == [None] * 4
