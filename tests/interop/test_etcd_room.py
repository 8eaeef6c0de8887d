"""A real etcd whose database reaches its quota, and takes writes again."""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from isthmus.engine.etcd_access import EtcdAccess
from isthmus.engine.etcd_api import CallFailed
from isthmus.engine.etcd_members import EtcdCluster
from isthmus.engine.etcd_room import RETRY_INTERVAL, RoomKeeper
from isthmus.store.engine import Batch, Head, Lead, LeaderInfo, NoSpace
from support.etcd import etcd_missing, make_etcd, running_etcd

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(bool(etcd_missing()), reason=etcd_missing() or "-"),
]
QUOTA = 8 * 1024 * 1024
OWN = LeaderInfo("id-a", "a", "10.0.0.1:8300", 0)


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    with running_etcd(tmp_path, f"--quota-backend-bytes={QUOTA}") as found:
        yield found


async def test_database_that_reached_its_quota_takes_writes_again(endpoint: str) -> None:
    """Also after its server was started anew; and no commit is in that was said not to be."""
    rng = Random(1)
    cluster = EtcdCluster(EtcdAccess(endpoints=(endpoint,)))
    engine = make_etcd(endpoint, "/room/")

    async def commit(lead: Lead, head: Head) -> Head:
        puts = {b"d/0000/kv/k": rng.randbytes(300_000)}
        batch = Batch(puts, set(), index=head.index + 1, id=rng.randbytes(16), commands=1)
        return await engine.commit(lead, head.index, batch)

    async def no_leader_to_move() -> None:
        pytest.fail("there is one member only")

    keeper = RoomKeeper(cluster, quota=QUOTA, hand_over=no_leader_to_move)
    try:
        head = await engine.open()
        for number in range(2):
            lead = await engine.claim(OWN)
            assert lead is not None
            for _ in range(1000):
                try:
                    head = await commit(lead, head)
                except NoSpace:
                    break
            assert await cluster.alarmed()
            await engine.close()
            assert (await engine.open()).index == head.index  # As a server that starts now.
            with pytest.raises(NoSpace):
                await engine.claim(OWN)
            await keeper.look(now=number * RETRY_INTERVAL)
            assert not await cluster.alarmed()
            assert (await cluster.status()).size < QUOTA / 2
    finally:
        await engine.close()
        await cluster.close()


async def test_members_take_turns(endpoint: str) -> None:
    one, two = (EtcdCluster(EtcdAccess(endpoints=(endpoint,))) for _ in range(2))
    try:
        assert await one.take_turn()
        assert not await two.take_turn()
        await one.end_turn()
        assert await two.take_turn()
        await two.end_turn()
    finally:
        await one.close()
        await two.close()


@pytest.mark.parametrize("made", [True, False])
async def test_refusal_for_want_of_room_is_not_believed(endpoint: str, made: bool) -> None:
    """It is said also of the last write for which there was room, and which it has made."""
    engine = make_etcd(endpoint, "/room/")
    call = engine.client.call

    async def refuse(method: str, request: Any, **options: Any) -> Any:
        if method != "Txn":
            return await call(method, request, **options)
        if made:
            await call(method, request, **options)
        text = "etcdserver: mvcc: database space exceeded"
        raise CallFailed(method, "RESOURCE_EXHAUSTED", text, sent=True)

    try:
        head = await engine.open()
        lead = await engine.claim(OWN)
        assert lead is not None
        engine.client.call = refuse  # type: ignore[method-assign]
        batch = Batch({b"d/0000/kv/k": b"1"}, set(), index=head.index + 1, id=b"1" * 16, commands=1)
        if made:
            assert (await engine.commit(lead, head.index, batch)).index == batch.index
        else:
            with pytest.raises(NoSpace):
                await engine.commit(lead, head.index, batch)
        engine.client.call = call  # type: ignore[method-assign]
        head = await engine.open()
        assert (head.index == batch.index) is made
        batch = Batch({b"d/0000/kv/k": b"2"}, set(), index=head.index + 1, id=b"2" * 16, commands=1)
        assert (await engine.commit(lead, head.index, batch)).index == batch.index
    finally:
        await engine.close()
