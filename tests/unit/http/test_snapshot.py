"""``/v1/snapshot``: one body in, one body out, neither of them in memory."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from isthmus.errors import RequestError
from isthmus.http.connection import Connection
from isthmus.http.connections import Connections
from isthmus.http.context import Context
from isthmus.http.door import Door
from isthmus.http.request import Request
from isthmus.model.kv import KV_SET, DirEntry, KVSRequest
from isthmus.model.record import Record
from isthmus.model.snapshot import PIECE_SIZE, READ, SnapshotPiece, SnapshotReadRequest
from isthmus.net.tasks import TaskScope
from isthmus.server.server import Server
from isthmus.store.snapshot import load_snapshot
from support.consul_snapshot import archive_of, state_of
from support.http import FakeLocal, FakeRpc, FakeTransport, make_client
from support.servers import make_server


class Play:
    """A connection to the door of a real server."""

    def __init__(self, server: Server) -> None:
        self.calls: list[tuple[str, Any]] = []

        async def rpc(method: str, request: Record) -> object:
            self.calls.append((method, request))
            return await server.call(method, request)

        self.server = server
        self.tasks = TaskScope()
        table = Connections(per_client_max=8, clock=lambda: "D", tasks=self.tasks)
        door = Door(Context(rpc, FakeLocal(), kv_value_size_max=1024))
        self.transport = FakeTransport()
        self.connection = Connection(door, table, "10.0.0.1")
        self.connection.connection_made(self.transport)

    async def answer(self, *parts: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send a request in parts; status, headers and body of the answer."""
        for part in parts:
            self.connection.data_received(part)
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            while len(self.tasks) or not self.transport.written:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        head, _, body = bytes(self.transport.written).partition(b"\r\n\r\n")
        self.transport.written.clear()
        first, *lines = head.decode().split("\r\n")
        return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body

    async def put(self, path: str, body: bytes, *, piece: int = 60_000) -> tuple[int, bytes]:
        head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        parts = [body[start : start + piece] for start in range(0, len(body), piece)]
        status, _, answer = await self.answer(head, *parts)
        return status, answer


GET = b"GET /v1/snapshot HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
async def play() -> AsyncIterator[Play]:
    server = make_server()
    await server.start()
    yield Play(server)
    await server.stop()


async def set_key(play: Play, key: str, value: bytes = b"v") -> None:
    await play.server.apply(KVSRequest(op=KV_SET, dir_ent=DirEntry(key=key, value=value)))


async def test_snapshot_is_one_file_with_the_headers_of_a_read(play: Play) -> None:
    await set_key(play, "k", bytes(range(256)) * 4 * 1024)
    status, headers, body = await play.answer(GET)
    assert status == 200
    assert headers["Content-Type"] == "application/x-gzip"
    assert headers["X-Consul-Index"] == str(play.server.store.index)
    assert headers["X-Consul-Knownleader"] == "true"
    assert headers["X-Consul-Lastcontact"] == "0"
    assert int(headers["Content-Length"]) == len(body)
    assert "Content-Encoding" not in headers
    _, store = load_snapshot(io.BytesIO(body))
    assert store.copy_rows() == play.server.store.copy_rows()
    assert len(play.server.snapshots) == 0
    assert (await play.answer(GET))[0] == 200  # The connection goes on.


async def test_snapshot_is_restored_from_a_body_in_parts(play: Play) -> None:
    await set_key(play, "k", bytes(1024 * 1024))
    _, _, body = await play.answer(GET)
    await set_key(play, "later")
    assert await play.put("/v1/snapshot", body) == (200, b"")
    assert [row.key for row in play.server.store.kv.list("").value] == ["k"]
    assert (await play.answer(GET))[0] == 200


async def test_body_without_a_length_is_taken_too(play: Play) -> None:
    await set_key(play, "k")
    _, _, body = await play.answer(GET)
    await set_key(play, "later")
    head = (
        b"PUT /v1/snapshot HTTP/1.1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
    )
    chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    status, headers, _ = await play.answer(head, chunk)
    assert (status, headers) == (100, {})
    assert [row.key for row in play.server.store.kv.list("").value] == ["k"]


async def test_damaged_body_is_answered_as_consul_does(play: Play) -> None:
    await set_key(play, "k")
    _, _, body = await play.answer(GET)
    index = play.server.store.index
    status, text = await play.put("/v1/snapshot", body[:-10])
    assert (status, text) == (500, b"failed to decompress snapshot: unexpected EOF")
    assert (await play.put("/v1/snapshot", b""))[0] == 500
    assert play.server.store.index == index


async def test_stale_and_datacenter_travel_with_every_piece(play: Play) -> None:
    request = b"GET /v1/snapshot?stale&dc=dc1&token=t HTTP/1.1\r\n\r\n"
    assert (await play.answer(request))[0] == 200
    asked = [request for _, request in play.calls]
    assert len(asked) == 3
    assert all((one.datacenter, one.allow_stale, one.token) == ("dc1", True, "t") for one in asked)
    status, _, text = await play.answer(b"GET /v1/snapshot?dc=dc9 HTTP/1.1\r\n\r\n")
    assert (status, text) == (500, b"No path to datacenter")


async def test_consul_snapshot_is_imported_and_reported(play: Play) -> None:
    await set_key(play, "k", b"ours")
    body = archive_of(state_of([(2, DirEntry(key="k", value=b"theirs"))]))
    status, answer = await play.put("/v1/isthmus/snapshot/import?keep", body)
    assert status == 200
    (kind,) = json.loads(answer)["Kinds"]
    assert (kind["Kind"], kind["Found"], kind["Kept"], kind["Names"]) == ("KVS", 1, 1, ["k"])
    status, answer = await play.put("/v1/isthmus/snapshot/import", body)
    shown = json.loads(answer)
    assert shown["Index"] == play.server.store.index
    assert (shown["Kinds"][0]["Imported"], shown["Kinds"][0]["Kept"]) == (1, 0)


async def test_client_that_goes_away_leaves_no_file_behind(play: Play) -> None:
    play.connection.data_received(b"PUT /v1/snapshot HTTP/1.1\r\nContent-Length: 900000\r\n\r\n")
    play.connection.data_received(bytes(PIECE_SIZE + 1))
    async with asyncio.timeout(5):
        while not any(getattr(request, "data", None) for _, request in play.calls):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    play.connection.connection_lost(None)
    async with asyncio.timeout(5):
        while len(play.tasks):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert len(play.server.snapshots) == 0


async def test_answer_waits_for_a_slow_client_and_is_aborted_when_it_breaks_off() -> None:
    answers = iter(
        [
            SnapshotPiece(id="x", done=True, size=10),
            SnapshotPiece(data=b"12345"),
            RequestError("the leader has changed"),
            SnapshotPiece(),
        ]
    )

    async def rpc(method: str, request: SnapshotReadRequest) -> object:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    server = make_server()
    play = Play(server)
    door = Door(Context(rpc, FakeLocal(), kv_value_size_max=1024))  # type: ignore[arg-type]
    play.connection = Connection(
        door, Connections(per_client_max=8, clock=lambda: "D", tasks=play.tasks), "10.0.0.1"
    )
    play.connection.connection_made(play.transport)
    play.connection.pause_writing()
    play.connection.data_received(GET)
    for _ in range(50):
        await asyncio.sleep(0)
    assert b"12345" not in play.transport.written  # Its request is not even begun.
    play.connection.resume_writing()
    for _ in range(50):
        await asyncio.sleep(0)
    assert play.transport.written.endswith(b"Content-Length: 10\r\n\r\n12345")
    assert play.transport.aborted


async def test_handler_that_fails_early_ends_the_connection_after_its_answer() -> None:
    server = make_server()  # Not started: it has no leader, and is asked in vain.
    play = Play(server)
    refusing = FakeRpc(Isthmus_SnapshotWrite=RequestError("no"))
    door = Door(Context(refusing, FakeLocal(), kv_value_size_max=1024))
    play.connection = Connection(
        door, Connections(per_client_max=8, clock=lambda: "D", tasks=play.tasks), "10.0.0.1"
    )
    play.connection.connection_made(play.transport)
    head = b"PUT /v1/snapshot HTTP/1.1\r\nContent-Length: 1000\r\n\r\n"
    status, headers, text = await play.answer(head, b"some of it")
    assert (status, headers["Connection"], text) == (500, "close", b"no")
    assert play.transport.closed


async def test_other_methods_are_refused() -> None:
    client = make_client(FakeRpc())
    answer = await client.door.handle(Request("POST", "/v1/snapshot"))
    assert (answer.status, answer.header("Allow")) == (405, "OPTIONS,GET,PUT")


async def test_pieces_are_asked_for_as_fast_as_the_client_takes_them() -> None:
    play = Play(make_server())
    asked: list[int] = []

    async def rpc(method: str, request: SnapshotReadRequest) -> object:
        if request.operation == READ:
            asked.append(request.offset)
            play.connection.pause_writing()
            return SnapshotPiece(data=b"12345")
        return SnapshotPiece(id="x", done=True, size=10)

    door = Door(Context(rpc, FakeLocal(), kv_value_size_max=1024))  # type: ignore[arg-type]
    table = Connections(per_client_max=8, clock=lambda: "D", tasks=play.tasks)
    play.connection = Connection(door, table, "10.0.0.1")
    play.connection.connection_made(play.transport)
    play.connection.data_received(GET)
    for expected in ([0], [0, 5]):
        for _ in range(50):
            await asyncio.sleep(0)
        assert asked == expected
        assert len(play.tasks) == 1
        play.connection.resume_writing()
    for _ in range(50):
        await asyncio.sleep(0)
    assert play.transport.written.endswith(b"\r\n\r\n1234512345")
    assert len(play.tasks) == 0
    assert not play.transport.closed
