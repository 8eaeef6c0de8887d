"""Snapshots in pieces: taken by any server, restored by the leader, dropped when nobody cares."""

import asyncio
import gzip
import io
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from isthmus.engine.memory import MemoryEngine
from isthmus.errors import InvalidRequest, IsthmusError, RequestError, Unavailable
from isthmus.model.kv import KV_SET, DirEntry, KeyRequest, KVSRequest
from isthmus.model.methods import METHODS
from isthmus.model.snapshot import (
    BEGIN,
    CLOSE,
    IMPORT,
    PIECE_SIZE,
    READ,
    RESTORE,
    SAVE,
    WRITE,
    SnapshotPiece,
    SnapshotReadRequest,
    SnapshotWriteReply,
    SnapshotWriteRequest,
)
from isthmus.server.replica import Replica
from isthmus.server.server import Server
from isthmus.server.snapshot import FILES_MAX, IDLE_MAX, SnapshotConfig, Snapshots
from isthmus.store.snapshot import load_snapshot, take_view, write_snapshot
from isthmus.wire.msgpack import decode, encode
from support.cluster import Cluster
from support.consul_snapshot import archive_of, state_of
from support.restoring import put, saved, started
from support.servers import WALL, make_server
from support.virtual_loop import run_virtual

Call = Callable[[str, Any], Any]


async def inline(work: Callable[[], Any]) -> Any:
    return work()


def make_desk(replica: Replica, **config: Any) -> Snapshots:
    return Snapshots(
        SnapshotConfig(**config),
        replica,
        commit=replica.submit,
        dc="dc1",
        primary="dc1",
        rng=Random(1),
        wall=lambda: WALL,
        offload=inline,
    )


async def fetch(read: Callable[[SnapshotReadRequest], Any], **options: Any) -> bytes:
    """A whole snapshot, as a door fetches it."""
    piece = SnapshotPiece()
    while not piece.done:
        piece = await read(SnapshotReadRequest(operation=SAVE, id=piece.id, **options))
    data = b""
    while len(data) < piece.size:
        request = SnapshotReadRequest(operation=READ, id=piece.id, offset=len(data), **options)
        data += (await read(request)).data
    await read(SnapshotReadRequest(operation=CLOSE, id=piece.id, **options))
    assert len(data) == piece.size
    return data


async def send(
    write: Callable[[SnapshotWriteRequest], Any],
    data: bytes,
    operation: str = RESTORE,
    *,
    piece: int = PIECE_SIZE,
    **options: Any,
) -> SnapshotWriteReply:
    """Send a file and have something done with it, as a door does."""
    sent: SnapshotWriteReply = await write(SnapshotWriteRequest(operation=BEGIN))
    for start in range(0, len(data), piece):
        sent = await write(
            SnapshotWriteRequest(
                operation=WRITE, id=sent.id, offset=start, data=data[start : start + piece]
            )
        )
    while not sent.done:
        sent = await write(SnapshotWriteRequest(operation=operation, id=sent.id, **options))
    return sent


def over(cluster: Cluster, name: str) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Both calls to one server."""
    server = cluster[name]
    return (
        lambda request: server.call("Isthmus.SnapshotRead", request),
        lambda request: server.call("Isthmus.SnapshotWrite", request),
    )


async def test_followers_save_their_own_data_or_the_leaders_and_have_it_restore() -> None:
    cluster = Cluster(3, chosen=True)
    cluster.elect("s1")
    await cluster.start()
    await cluster.until(lambda: cluster.leaders == ["s1"])
    read, write = over(cluster, "s2")
    await write_key(cluster, b"old" * PIECE_SIZE)
    leaders = await fetch(read)
    assert ("s1", "Isthmus.SnapshotRead") in cluster.wires.calls
    await cluster.until(lambda: cluster["s2"].store.index == cluster["s1"].store.index)
    cluster.wires.calls.clear()
    assert await fetch(read, allow_stale=True) == leaders
    assert cluster.wires.calls == []
    await write_key(cluster, b"new")
    reply = await send(write, leaders)
    assert reply.index == cluster["s1"].store.index
    found = await cluster["s3"].call("KVS.Get", KeyRequest(key="k"))
    assert found.entries[0].value == b"old" * PIECE_SIZE
    assert [len(server.snapshots) for server in cluster.servers] == [0, 0, 0]
    await cluster.stop()


async def write_key(cluster: Cluster, value: bytes) -> None:
    command = KVSRequest(op=KV_SET, dir_ent=DirEntry(key="k", value=value))
    await cluster["s3"].call("KVS.Apply", command)


async def test_stale_snapshot_says_how_old_it_may_be() -> None:
    cluster = Cluster(2, chosen=True)
    cluster.elect("s1")
    await cluster.start()
    await cluster.until(lambda: cluster.leaders == ["s1"])
    read, _ = over(cluster, "s2")
    piece = await read(SnapshotReadRequest(allow_stale=True))
    assert piece.known_leader
    assert piece.last_contact > 0
    assert piece.index == cluster["s2"].store.index
    own = await over(cluster, "s1")[0](SnapshotReadRequest())
    assert (own.known_leader, own.last_contact) == (True, 0)
    await cluster.stop()


async def test_snapshot_is_of_the_moment_at_which_it_was_asked_for() -> None:
    replica = await started(MemoryEngine())
    await replica.submit(put("a"))
    desk = make_desk(replica)
    asked = asyncio.ensure_future(desk.read(SnapshotReadRequest()))
    await asyncio.sleep(0)
    await replica.submit(put("b"))
    piece = await asked
    data = (await desk.read(SnapshotReadRequest(operation=READ, id=piece.id))).data
    meta, store = load_snapshot(io.BytesIO(data or b""))
    assert meta.index == piece.index == replica.store.index - 1
    assert (meta.created, meta.dc) == ("2026-01-02T03:04:05+00:00", "dc1")
    assert [row.key for row in store.kv.list("").value] == ["a"]
    await desk.close()
    await replica.stop()


@pytest.mark.parametrize("operation", [RESTORE, IMPORT])
async def test_file_that_cannot_be_read_changes_nothing(operation: str) -> None:
    replica = await started(MemoryEngine())
    await replica.submit(put("k"))
    rows, index = replica.store.copy_rows(), replica.store.index
    desk = make_desk(replica)
    good = saved(replica.store).getvalue()
    consul = archive_of(state_of([]))
    for data in (b"", b"nonsense", good[:-9], consul[:-9], gzip.compress(b"x" * 2000)):
        with pytest.raises(RequestError, match="snapshot"):
            await send(desk.write, data, operation)
    other = consul if operation == RESTORE else good
    with pytest.raises(RequestError, match="isthmus snapshot"):
        await send(desk.write, other, operation)
    assert (replica.store.copy_rows(), replica.store.index, len(desk)) == (rows, index, 0)
    await replica.stop()


async def test_snapshot_of_another_datacenter_is_refused() -> None:
    replica = await started(MemoryEngine())
    out = io.BytesIO()
    view = take_view(replica.store)
    write_snapshot(view, out, io.BytesIO(), dc="dc2", cluster="", created="", modified=0)
    with pytest.raises(RequestError, match="of datacenter 'dc2', this is 'dc1'"):
        await send(make_desk(replica).write, out.getvalue())
    await replica.stop()


async def test_file_larger_than_allowed_is_refused_while_it_comes() -> None:
    replica = await started(MemoryEngine())
    desk = make_desk(replica, size_max=100)
    with pytest.raises(RequestError, match="larger than 100 bytes; raise storage"):
        await send(desk.write, bytes(101), piece=60)
    assert len(desk) == 0
    await replica.stop()


async def test_import_tells_what_became_of_it(tmp_path: Path) -> None:
    replica = await started(MemoryEngine())
    desk = make_desk(replica, directory=tmp_path / "files")
    data = archive_of(state_of([(2, DirEntry(key="k", value=b"v"))]))
    reply = await send(desk.write, data, IMPORT, piece=10)
    assert reply.index == replica.store.index == 2
    assert [(kind.kind, kind.imported) for kind in reply.kinds or ()] == [("KVS", 1)]
    reply = await send(desk.write, data, IMPORT, keep=True)
    assert [(kind.kind, kind.kept) for kind in reply.kinds or ()] == [("KVS", 1)]
    assert list((tmp_path / "files").iterdir()) == []
    await replica.stop()


async def test_calls_that_make_no_sense_are_refused() -> None:
    replica = await started(MemoryEngine())
    desk = make_desk(replica)

    async def refused(call: Any, text: str) -> None:
        with pytest.raises(IsthmusError, match=text):
            await call

    await refused(desk.read(SnapshotReadRequest(operation=READ, id="x")), "no such snapshot")
    await refused(desk.write(SnapshotWriteRequest(operation=WRITE, id="x")), "no such snapshot")
    name = (await desk.write(SnapshotWriteRequest())).id
    await refused(desk.read(SnapshotReadRequest(operation=READ, id=name)), "not there yet")
    await refused(desk.read(SnapshotReadRequest(operation=SAVE, id=name)), "being restored")
    await refused(desk.read(SnapshotReadRequest(operation="x", id=name)), "unknown snapshot op")
    await refused(desk.write(SnapshotWriteRequest(operation="x", id=name)), "unknown snapshot op")
    late = SnapshotWriteRequest(operation=WRITE, id=name, offset=1, data=b"x")
    await refused(desk.write(late), "a piece for byte 1 of a snapshot of which 0 are there")
    for _ in range(FILES_MAX - 1):
        await desk.write(SnapshotWriteRequest())
    with pytest.raises(Unavailable, match="are on their way"):
        await desk.write(SnapshotWriteRequest())
    await desk.write(SnapshotWriteRequest(operation=CLOSE, id=name))
    await desk.write(SnapshotWriteRequest())
    await desk.close()
    assert len(desk) == 0
    await refused(desk.write(SnapshotWriteRequest()), "the server stops")
    await refused(desk.read(SnapshotReadRequest(id=name)), "the server stops")
    await replica.stop()


def test_file_that_nobody_asks_for_any_more_is_dropped() -> None:
    async def play() -> None:
        replica = await started(MemoryEngine())
        desk = make_desk(replica)
        kept = await desk.read(SnapshotReadRequest())
        await desk.write(SnapshotWriteRequest())
        await asyncio.sleep(IDLE_MAX - 1)
        await desk.read(SnapshotReadRequest(operation=READ, id=kept.id))
        await asyncio.sleep(2)
        assert len(desk) == 1
        await asyncio.sleep(IDLE_MAX)
        assert len(desk) == 0
        await replica.stop()

    run_virtual(play())


def test_long_work_is_waited_for_in_several_calls() -> None:
    async def slow(work: Callable[[], Any]) -> Any:
        await asyncio.sleep(100)
        return work()

    async def play() -> None:
        replica = await started(MemoryEngine())
        await replica.submit(put("k"))
        desk = make_desk(replica)
        data = await fetch(desk.read)
        desk._offload = slow
        first = await desk.read(SnapshotReadRequest())
        assert not first.done
        assert await fetch(desk.read) == data
        sent = await desk.write(SnapshotWriteRequest())
        sent = await desk.write(SnapshotWriteRequest(operation=WRITE, id=sent.id, data=data))
        begun = await desk.write(SnapshotWriteRequest(operation=RESTORE, id=sent.id))
        assert not begun.done
        with pytest.raises(InvalidRequest, match="is used for restore already"):
            await desk.write(SnapshotWriteRequest(operation=IMPORT, id=sent.id))
        while not sent.done:
            sent = await desk.write(SnapshotWriteRequest(operation=RESTORE, id=sent.id))
        assert sent.index == replica.store.index
        await desk.write(SnapshotWriteRequest())
        await desk.close()
        await replica.stop()

    run_virtual(play())


async def test_disk_that_takes_no_file_is_told(tmp_path: Path) -> None:
    replica = await started(MemoryEngine())
    (tmp_path / "file").touch()
    desk = make_desk(replica, directory=tmp_path / "file" / "below")
    with pytest.raises(IsthmusError, match="cannot keep a snapshot"):
        await desk.read(SnapshotReadRequest())
    await replica.stop()


class Bridge:
    """The way to another datacenter: everything crosses it as bytes."""

    def __init__(self) -> None:
        self.server: Server | None = None

    def datacenters(self) -> tuple[str, ...]:
        return ("dc1", "dc2")

    async def call(self, dc: str, method: str, request: Any, reply: Any) -> Any:
        assert self.server is not None
        assert dc == "dc2"
        arrived: Any = decode(METHODS[method].request, encode(request))
        return decode(reply, encode(await self.server.call(method, arrived)))


async def test_another_datacenter_is_saved_and_restored_from_here() -> None:
    bridge = Bridge()
    here, there = make_server(forward=bridge), make_server(dc="dc2", primary="dc2")
    bridge.server = there
    await here.start()
    await there.start()
    await there.apply(put("theirs", bytes(range(256)) * 2000))
    data = await fetch(lambda request: here.call("Isthmus.SnapshotRead", request), datacenter="dc2")
    assert load_snapshot(io.BytesIO(data))[0].dc == "dc2"
    rows = there.store.copy_rows()
    await there.apply(put("later"))

    async def write(request: SnapshotWriteRequest) -> Any:
        asked = msgspec.structs.replace(request, datacenter="dc2")
        return await here.call("Isthmus.SnapshotWrite", asked)

    reply = await send(write, data)
    assert reply.index == there.store.index
    assert there.store.copy_rows() == rows
    assert sum(here.store.row_counts().values()) == 0
    imported = await send(write, archive_of(state_of([(3, {"ID": "s"})])), IMPORT)
    assert [(kind.kind, kind.names) for kind in imported.kinds or ()] == [("Session", ("s",))]
    await here.stop()
    await there.stop()
