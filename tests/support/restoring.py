"""Replicas with data, snapshots of them, and what is stored afterwards."""

import asyncio
import io
from random import Random

from isthmus.model.catalog import HealthCheck, NodeService, RegisterRequest
from isthmus.model.federation import UPSERT, FederationState, FederationStateRequest
from isthmus.model.kv import KV_SET, DirEntry, KVSRequest
from isthmus.server.election import Alone
from isthmus.server.replica import Replica
from isthmus.store.engine import Engine, LeaderInfo
from isthmus.store.keys import table_index_key
from isthmus.store.snapshot import load_snapshot, take_view, write_snapshot
from isthmus.store.store import Store
from support.servers import CLUSTER


def put(key: str, value: bytes = b"v") -> KVSRequest:
    return KVSRequest(op=KV_SET, dir_ent=DirEntry(key=key, value=value))


def register(node: str) -> RegisterRequest:
    return RegisterRequest(
        datacenter="dc1",
        node=node,
        address="10.0.0.1",
        service=NodeService(id="web", service="web", port=80, tags=("a", "b")),
        check=HealthCheck(node=node, check_id="c", service_id="web", status="passing"),
    )


def make_replica(engine: Engine) -> Replica:
    rng = Random(1)
    return Replica(
        Store(),
        engine,
        info=LeaderInfo("id", "alpha", "127.0.0.1:8300"),
        election=Alone(rng),
        rng=rng,
        changed=lambda: None,
    )


async def started(engine: Engine) -> Replica:
    replica = make_replica(engine)
    await replica.start()
    async with asyncio.timeout(10):
        while not replica.is_leader:
            await replica.leader_changed(1.0)
    return replica


async def filled(replica: Replica) -> None:
    """Some rows of every kind."""
    for node in ("n1", "n2", "n3"):
        await replica.submit(register(node))
    for number in range(30):
        await replica.submit(put(f"k{number}", b"%d" % number * number))
    state = FederationState(datacenter="dc2")
    await replica.submit(FederationStateRequest(op=UPSERT, state=state))


def saved(store: Store) -> io.BytesIO:
    out = io.BytesIO()
    write_snapshot(
        take_view(store), out, io.BytesIO(), dc="dc1", cluster=CLUSTER, created="now", modified=0
    )
    out.seek(0)
    return out


async def restore(replica: Replica, snapshot: io.BytesIO) -> int:
    snapshot.seek(0)
    meta, fresh = load_snapshot(snapshot)
    return await replica.restore(fresh, index=meta.index)


async def stored(engine: Engine, prefix: bytes = b"d/") -> list[tuple[bytes, bytes]]:
    """What is on the disk now."""
    await engine.open() if engine.shared else None
    return [pair async for page in engine.scan(prefix) for pair in page]


async def tidied(replica: Replica, generation: int) -> None:
    """Wait until only the rows of one generation are stored."""
    prefix = table_index_key(generation)
    async with asyncio.timeout(10):
        while any(  # noqa: ASYNC110 (the storage tells nobody)
            not key.startswith(prefix) for key, _ in await stored(replica.engine, b"i/")
        ):
            await asyncio.sleep(0.01)
