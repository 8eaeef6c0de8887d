"""Snapshots on connections of their own, as Consul's agents ask for them, on loopback."""

import asyncio
import io
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import pytest

from isthmus.errors import RequestError
from isthmus.model.kv import KV_SET, DirEntry, KVSRequest
from isthmus.model.snapshot import (
    STREAM_RESTORE,
    STREAM_SAVE,
    SnapshotPiece,
    SnapshotReadRequest,
    StreamReply,
    StreamRequest,
)
from isthmus.names import Alpn
from isthmus.net.listener import ListenerConfig, ServerListener
from isthmus.net.sockets import SocketNetwork
from isthmus.net.tls import TlsConfig, TlsConfigurator
from isthmus.rpc.sniff import Speaks
from isthmus.server.server import Server
from isthmus.server.snapshot_stream import REQUEST_SIZE_MAX, STREAMS_MAX, SnapshotStreams
from isthmus.store.snapshot import load_snapshot
from isthmus.wire.msgpack import encode, pack
from support.certificates import Authority
from support.servers import make_server
from support.snapshot_stream import DEADLINE, StreamCaller, split, stream_caller

Dial = Callable[[], AbstractAsyncContextManager[StreamCaller]]
SAVING = StreamRequest(datacenter="dc1", op=STREAM_SAVE)
RESTORING = StreamRequest(datacenter="dc1", op=STREAM_RESTORE)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[TlsConfigurator, ssl.SSLContext]:
    """What the port has, and a client."""
    authority = Authority(tmp_path_factory.mktemp("ca"))
    own = authority.issue("alpha.server.dc1.consul", "server.dc1.consul")
    config = TlsConfig(
        ca_file=str(own.ca_file), cert_file=str(own.cert_file), key_file=str(own.key_file)
    )
    return TlsConfigurator(config), authority.issue("client.dc1.consul").context()


@asynccontextmanager
async def served(
    streams: SnapshotStreams, tls: TlsConfigurator | None = None
) -> AsyncIterator[int]:
    """A server port with snapshot connections; its number."""

    class NoCalls:
        def request_type(self, method: str) -> Any:
            raise RequestError(method)

        async def call(self, method: str, request: Any, peer: object) -> object:
            raise RequestError(method)

    listener = ServerListener(
        SocketNetwork(tls),
        ListenerConfig(native_tls=tls is not None),
        NoCalls(),
        handlers={Speaks.SNAPSHOT: streams.protocol},
    )
    await listener.start("127.0.0.1", 0)
    try:
        yield listener.address[1]
    finally:
        await listener.close()
        await streams.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = make_server()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture(params=["clear", "tls12", "tls13"])
async def dial(
    request: pytest.FixtureRequest, server: Server, tls: tuple[TlsConfigurator, ssl.SSLContext]
) -> AsyncIterator[Dial]:
    """Connects to the port of `server`, in clear or with TLS behind the type byte."""
    configurator, context = tls
    version = ssl.TLSVersion.TLSv1_2 if request.param == "tls12" else ssl.TLSVersion.TLSv1_3
    context.maximum_version = version
    async with served(SnapshotStreams(server.call), configurator) as port:
        yield partial(stream_caller, port, context=None if request.param == "clear" else context)


async def put(server: Server, key: str, value: bytes) -> None:
    await server.apply(KVSRequest(op=KV_SET, dir_ent=DirEntry(key=key, value=value)))


def value_of(server: Server, key: str) -> bytes | None:
    row = server.store.kv.get(key).value
    return None if row is None else row.value


async def saved(dial: Dial) -> bytes:
    async with dial() as caller:
        reply, file = await caller.ask(SAVING)
    assert not reply.error
    return file


async def test_snapshot_is_saved_and_restored(server: Server, dial: Dial) -> None:
    for number in range(40):
        await put(server, f"k{number}", bytes(range(256)) * 64)
    async with dial() as caller:
        reply, file = await caller.ask(SAVING)
    assert (reply.error, reply.index, reply.known_leader) == ("", server.store.index, True)
    assert load_snapshot(io.BytesIO(file))[0].index == reply.index
    await put(server, "k0", b"changed")
    async with dial() as caller:
        reply, rest = await caller.ask(RESTORING, file)
    assert (reply.error, rest) == ("", b"")
    assert reply.index == server.store.index
    assert value_of(server, "k0") == bytes(range(256)) * 64


async def test_request_that_comes_byte_by_byte_is_read(server: Server, dial: Dial) -> None:
    async with dial() as caller:
        for byte in encode(SAVING):
            await caller.send(bytes([byte]))
        await caller.end()
        reply, file = split(await caller.answer())
    assert not reply.error
    assert load_snapshot(io.BytesIO(file))[0].index == server.store.index


async def test_caller_need_not_end_to_have_its_snapshot(server: Server, dial: Dial) -> None:
    async with dial() as caller:
        await caller.send(encode(SAVING))
        assert not split(await caller.answer())[0].error


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (StreamRequest(datacenter="dc1", op=7), "unrecognized snapshot op 7"),
        (StreamRequest(op=STREAM_RESTORE, allow_stale=True), "stale not allowed for restore"),
        (StreamRequest(datacenter="dc9"), "No path to datacenter"),
    ],
)
async def test_request_that_makes_no_sense_is_answered(
    dial: Dial, request_: StreamRequest, text: str
) -> None:
    async with dial() as caller:
        reply, rest = await caller.ask(request_, b"x" * 100_000)
    assert text in reply.error
    assert rest == b""


async def test_damaged_file_is_refused_and_changes_nothing(server: Server, dial: Dial) -> None:
    await put(server, "k", b"old")
    file = await saved(dial)
    await put(server, "k", b"new")
    for damaged in (file[:-20], b"no archive", b"", file[:60] + b"\xff" + file[61:]):
        async with dial() as caller:
            reply, _ = await caller.ask(RESTORING, damaged)
        assert reply.error
    assert value_of(server, "k") == b"new"
    assert len(server.snapshots) == 0


@pytest.mark.parametrize("sent", [b"\xc1", pack([1]), pack({"Op": "x"})])
async def test_what_is_no_request_is_answered(dial: Dial, sent: bytes) -> None:
    async with dial() as caller:
        await caller.send(sent)
        await caller.end()
        reply, _ = split(await caller.answer())
    assert reply.error.startswith("failed to decode request: ")


async def test_request_is_bounded(dial: Dial) -> None:
    async with dial() as caller:
        await caller.send(b"\xdb\x7f\xff\xff\xff" + b"x" * 2 * REQUEST_SIZE_MAX)
        await caller.end()
        reply, _ = split(await caller.answer())
    assert reply.error == "failed to decode request: message is larger than the limit"


async def test_caller_that_goes_away_leaves_nothing(server: Server, dial: Dial) -> None:
    async with asyncio.timeout(DEADLINE):
        async with dial() as caller:
            await caller.send(encode(RESTORING) + b"x" * 1000)
            while len(server.snapshots) == 0:  # noqa: ASYNC110 (nobody is told)
                await asyncio.sleep(0.001)
        while len(server.snapshots):  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_native_tls_leads_here_too(
    server: Server, tls: tuple[TlsConfigurator, ssl.SSLContext], tmp_path: Any
) -> None:
    configurator, _ = tls
    config = configurator.config
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(config.ca_file)
    context.load_cert_chain(config.cert_file, config.key_file)
    context.set_alpn_protocols([Alpn.RPC_SNAPSHOT])
    async with served(SnapshotStreams(server.call), configurator) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        caller = StreamCaller(reader, writer)
        await caller.start_tls(context)
        reply, file = await caller.ask(SAVING)
        writer.close()
    assert (reply.error, bool(file)) == ("", True)


class Steered:
    """Answers calls as the test says."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.started = asyncio.Queue[str]()
        self.broken = False

    async def call(self, method: str, request: SnapshotReadRequest) -> SnapshotPiece:
        self.started.put_nowait(request.operation)
        await self.release.wait()
        if request.operation == "read" and self.broken:
            raise RequestError("gone")
        return SnapshotPiece(id="a", done=True, size=4, data=b"file", index=9, known_leader=True)


async def test_snapshot_that_breaks_off_ends_early() -> None:
    steered = Steered()
    steered.broken = True
    steered.release.set()
    async with served(SnapshotStreams(steered.call)) as port, stream_caller(port) as caller:
        assert await caller.ask(SAVING) == (StreamReply(index=9, known_leader=True), b"")


async def test_connections_are_bounded() -> None:
    steered = Steered()
    streams = SnapshotStreams(steered.call)
    async with served(streams) as port:
        tasks = []
        for _ in range(STREAMS_MAX):
            tasks.append(asyncio.ensure_future(one_call(port)))
            await steered.started.get()
        assert len(streams) == STREAMS_MAX
        reply, _ = await one_call(port)
        assert reply.error == f"{STREAMS_MAX} snapshots are on their way; try later"
        steered.release.set()
        assert {reply.error for reply, _ in await asyncio.gather(*tasks)} == {""}


async def one_call(port: int) -> Any:
    async with stream_caller(port) as caller:
        return await caller.ask(SAVING)


async def test_silent_caller_is_dropped() -> None:
    streams = SnapshotStreams(Steered().call, idle_max=0.05)
    async with served(streams) as port, stream_caller(port) as caller:
        assert await caller.answer() == b""


async def test_running_connections_end_with_the_server() -> None:
    steered = Steered()
    async with served(SnapshotStreams(steered.call)) as port:
        task = asyncio.ensure_future(one_call(port))
        await steered.started.get()
    with pytest.raises((ConnectionResetError, AssertionError)):
        await task
