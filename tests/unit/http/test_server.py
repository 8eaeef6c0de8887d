"""The door on real sockets: what only they can show."""

import asyncio
import dataclasses
import errno
import grp
import os
import socket
import ssl
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from isthmus.http.server import OFF, CannotListen, HttpConfig, HttpServer
from isthmus.http.unix_socket import SocketOwner
from isthmus.names import split_host_port
from isthmus.net.sockets import SocketNetwork
from isthmus.net.tls import TlsConfig, TlsConfigurator
from support.certificates import Authority
from support.http import FakeLocal, FakeRpc

DEADLINE = 10.0
LEADER = b"GET /v1/status/leader HTTP/1.1\r\nHost: x\r\n\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def serving(
    config: HttpConfig, rpc: FakeRpc | None = None, network: SocketNetwork | None = None
) -> AsyncIterator[tuple[HttpServer, list[str]]]:
    rpc = rpc or FakeRpc(Status_Leader="L")
    server = HttpServer(config, rpc, FakeLocal(), network=network or SocketNetwork())
    async with asyncio.timeout(DEADLINE):
        bound = await server.start()
        try:
            yield server, bound
        finally:
            await server.stop()


async def connect(address: str, context: ssl.SSLContext | None = None) -> Streams:
    host, port = split_host_port(address)
    return await asyncio.open_connection(host, port, ssl=context)


async def ask(streams: Streams, request: bytes = LEADER) -> bytes:
    """Send a request, return the body of the answer."""
    reader, writer = streams
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    return await reader.readexactly(int(length.split(b":")[1]))


async def close(*streams: Streams) -> None:
    for _, writer in streams:
        writer.close()
        await writer.wait_closed()


async def eventually(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - the deadline is the server's.
        await asyncio.sleep(0.001)


async def test_connection_is_kept_alive() -> None:
    async with serving(HttpConfig(port=0)) as (server, (address,)):
        streams = await connect(address)
        assert [await ask(streams), await ask(streams)] == [b'"L"', b'"L"']
        assert server.connection_count == 1
        await close(streams)
        await eventually(lambda: server.connection_count == 0)


async def test_client_that_goes_away_frees_its_blocking_query() -> None:
    rpc = FakeRpc()
    rpc.block = True
    async with serving(HttpConfig(port=0), rpc) as (_, (address,)):
        _, writer = await connect(address)
        writer.write(b"GET /v1/kv/a?index=1&wait=10m HTTP/1.1\r\nHost: x\r\n\r\n")
        await rpc.blocked.wait()
        writer.transport.abort()
        await rpc.cancelled.wait()


async def test_client_that_ends_its_sending_side_frees_its_blocking_query_soon() -> None:
    rpc = FakeRpc()
    rpc.block = True
    async with serving(HttpConfig(port=0), rpc) as (_, (address,)):
        reader, writer = await connect(address)
        writer.write(b"GET /v1/kv/a?index=1&wait=10m HTTP/1.1\r\nHost: x\r\n\r\n")
        await rpc.blocked.wait()
        writer.write_eof()
        await rpc.cancelled.wait()
        assert await reader.read() == b""
        writer.close()


async def test_connections_of_one_client_are_limited_and_freed() -> None:
    async with serving(HttpConfig(port=0, max_conns_per_client=2)) as (server, (address,)):
        first, second = await connect(address), await connect(address)
        await ask(first)
        await ask(second)
        refused = await connect(address)
        assert b"too many concurrent connections" in await refused[0].read()
        await close(first, refused)
        await eventually(lambda: server.connection_count == 1)
        fourth = await connect(address)
        assert await ask(fourth) == b'"L"'
        await close(second, fourth)


async def test_limit_of_connections_changes_while_they_are_open() -> None:
    async with serving(HttpConfig(port=0, max_conns_per_client=1)) as (server, (address,)):
        first = await connect(address)
        await ask(first)
        server.reconfigure(HttpConfig(max_conns_per_client=2))
        second = await connect(address)
        assert await ask(second) == b'"L"'
        server.reconfigure(HttpConfig(max_conns_per_client=1))
        assert await ask(second) == b'"L"'
        refused = await connect(address)
        assert b"too many concurrent connections" in await refused[0].read()
        await close(first, second, refused)


async def test_unix_socket_replaces_that_of_an_earlier_run_and_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    old = socket.socket(socket.AF_UNIX)
    old.bind(str(path))
    old.close()
    config = HttpConfig(
        addresses=(f"unix://{path}",), port=OFF, socket_owner=SocketOwner(mode=0o600)
    )
    async with serving(config) as (_, bound):
        assert bound == [f"unix://{path}"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        streams = await asyncio.open_unix_connection(str(path))
        assert await ask(streams) == b'"L"'
        await close(streams)
    assert not path.exists()


async def test_unix_socket_that_is_listened_on_stays(tmp_path: Path) -> None:
    config = HttpConfig(addresses=(f"unix://{tmp_path}/http.sock",), port=OFF)
    async with serving(config):
        second = HttpServer(config, FakeRpc(), FakeLocal(), network=SocketNetwork())
        with pytest.raises(CannotListen, match="another program listens on") as refused:
            await second.start()
        assert refused.value.errno == errno.EADDRINUSE
        streams = await asyncio.open_unix_connection(f"{tmp_path}/http.sock")
        assert await ask(streams) == b'"L"'
        await close(streams)


async def test_socket_of_another_is_not_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    async with serving(HttpConfig(addresses=(f"unix://{path}",), port=OFF)):
        path.unlink()
        path.write_text("another's")
    assert path.read_text() == "another's"


async def test_unix_socket_of_an_unknown_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    owner = SocketOwner(user="nobody-of-that-name")
    config = HttpConfig(addresses=(f"unix://{path}",), port=OFF, socket_owner=owner)
    server = HttpServer(config, FakeRpc(), FakeLocal(), network=SocketNetwork())
    with pytest.raises(CannotListen, match="there is no user 'nobody-of-that-name'"):
        await server.start()
    assert not path.exists()


async def test_unix_socket_belongs_to_whom_the_operator_says(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    owner = SocketOwner(user=str(os.getuid()), group=grp.getgrgid(os.getgid()).gr_name)
    config = HttpConfig(addresses=(f"unix://{path}",), port=OFF, socket_owner=owner)
    async with serving(config):
        assert (path.stat().st_uid, path.stat().st_gid) == (os.getuid(), os.getgid())


async def test_blocked_endpoint_and_foreign_writer_are_refused() -> None:
    config = HttpConfig(
        port=0, block_endpoints=("/v1/status",), write_networks=("192.0.2.0/24",),
        response_headers={"X-From": "here"},
    )  # fmt: skip
    async with serving(config) as (_, (address,)):
        streams = await connect(address)
        assert await ask(streams) == b"Endpoint is blocked by agent configuration"
        put = b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx"
        assert await ask(streams, put) == b"Access is restricted"
        await close(streams)


async def test_file_in_the_way_of_a_unix_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    server = HttpServer(
        HttpConfig(addresses=(f"unix://{path}",), port=OFF),
        FakeRpc(),
        FakeLocal(),
        network=SocketNetwork(),
    )
    with pytest.raises(OSError, match="precious"):
        await server.start()
    assert path.read_text() == "data"


async def test_port_in_use_leaves_nothing_open() -> None:
    async with serving(HttpConfig(port=0)) as (_, (address,)):
        _, port = split_host_port(address)
        config = HttpConfig(addresses=("127.0.0.2", "127.0.0.1"), port=port)
        server = HttpServer(config, FakeRpc(), FakeLocal(), network=SocketNetwork())
        with pytest.raises(OSError, match="in use"):
            await server.start()
        with pytest.raises(ConnectionRefusedError):
            await connect(f"127.0.0.2:{port}")


@pytest.mark.parametrize(
    ("offered", "chosen"), [(["h2", "http/1.1"], "http/1.1"), (["h2"], None), ([], None)]
)
async def test_https_speaks_http_1_whatever_else_is_offered(
    tmp_path: Path, offered: list[str], chosen: str | None
) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("server.dc1.consul", "localhost")
    tls = TlsConfigurator(TlsConfig(cert_file=str(files.cert_file), key_file=str(files.key_file)))
    async with serving(HttpConfig(port=OFF, https_port=0), network=SocketNetwork(tls)) as (
        _,
        (address,),
    ):
        context = authority.issue("operator").context()
        if offered:
            context.set_alpn_protocols(offered)
        streams = await connect(address, context)
        assert streams[1].get_extra_info("ssl_object").selected_alpn_protocol() == chosen
        assert await ask(streams) == b'"L"'
        await close(streams)


async def test_https_uses_the_cipher_suites_that_the_operator_chose(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("server.dc1.consul", "localhost")
    tls = TlsConfigurator(
        TlsConfig(
            cert_file=str(files.cert_file),
            key_file=str(files.key_file),
            cipher_suites=("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",),
        )
    )
    config = HttpConfig(port=OFF, https_port=0)
    async with serving(config, network=SocketNetwork(tls)) as (_, (address,)):
        context = authority.issue("operator").context()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        streams = await connect(address, context)
        cipher, _, _ = streams[1].get_extra_info("ssl_object").cipher()
        assert cipher == "ECDHE-ECDSA-CHACHA20-POLY1305"
        assert await ask(streams) == b'"L"'
        await close(streams)


async def test_https_demands_certificates_from_when_it_is_told_to(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("server.dc1.consul", "localhost")
    tls = TlsConfigurator(
        TlsConfig(
            ca_file=str(files.ca_file),
            cert_file=str(files.cert_file),
            key_file=str(files.key_file),
        )
    )
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname = False
    bare.load_verify_locations(files.ca_file)
    config = HttpConfig(port=OFF, https_port=0)
    async with serving(config, network=SocketNetwork(tls)) as (server, (address,)):
        before = await connect(address, bare)
        assert await ask(before) == b'"L"'
        server.reconfigure(dataclasses.replace(config, https_verify_incoming=True))
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await ask(await connect(address, bare))
        shown = await connect(address, authority.issue("operator").context())
        assert await ask(shown) == await ask(before) == b'"L"'
        await close(before, shown)


@pytest.mark.parametrize("verify", [False, True])
async def test_https_demands_a_client_certificate_if_configured(
    tmp_path: Path, verify: bool
) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("server.dc1.consul", "localhost")
    tls = TlsConfigurator(
        TlsConfig(
            ca_file=str(files.ca_file),
            cert_file=str(files.cert_file),
            key_file=str(files.key_file),
            dc="dc1",
        )
    )
    config = HttpConfig(port=OFF, https_port=0, https_verify_incoming=verify)
    async with serving(config, network=SocketNetwork(tls)) as (_, (address,)):
        streams = await connect(address, authority.issue("operator").context())
        assert await ask(streams) == b'"L"'
        await close(streams)
        bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        bare.check_hostname = False
        bare.load_verify_locations(files.ca_file)
        if not verify:
            streams = await connect(address, bare)
            assert await ask(streams) == b'"L"'
            await close(streams)
            return
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await ask(await connect(address, bare))


async def test_client_that_speaks_no_tls_on_https_is_dropped(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("server.dc1.consul")
    tls = TlsConfigurator(
        TlsConfig(
            ca_file=str(files.ca_file),
            cert_file=str(files.cert_file),
            key_file=str(files.key_file),
            dc="dc1",
        )
    )
    config = HttpConfig(port=OFF, https_port=0, https_handshake_timeout=0.2)
    async with serving(config, network=SocketNetwork(tls)) as (_, (address,)):
        silent, chatty = await connect(address), await connect(address)
        chatty[1].write(LEADER)
        assert b"200 OK" not in await _read_to_end(chatty)
        assert await _read_to_end(silent) == b""
        await close(silent, chatty)


async def _read_to_end(streams: Streams) -> bytes:
    try:
        return await streams[0].read()
    except ConnectionError:
        return b""


async def test_stop_answers_what_is_nearly_done_and_drops_what_blocks() -> None:
    release = asyncio.Event()
    slow = FakeRpc()

    async def rpc(method: str, request: object) -> object:
        if method == "Status.Leader":
            slow.blocked.set()
            await release.wait()
            return "L"
        try:
            await asyncio.Event().wait()
        finally:
            slow.cancelled.set()
        return None

    call: Callable[..., Awaitable[object]] = rpc
    server = HttpServer(HttpConfig(port=0), call, FakeLocal(), network=SocketNetwork())
    async with asyncio.timeout(DEADLINE):
        (address,) = await server.start()
        quick, blocked = await connect(address), await connect(address)
        blocked[1].write(b"GET /v1/kv/a HTTP/1.1\r\nHost: x\r\n\r\n")
        quick[1].write(LEADER)
        await slow.blocked.wait()
        stopping = asyncio.ensure_future(server.stop())
        await asyncio.sleep(0)
        release.set()
        assert (await quick[0].read()).endswith(b'"L"')
        await stopping
        assert slow.cancelled.is_set()
        assert await _read_to_end(blocked) == b""
        with pytest.raises(ConnectionRefusedError):
            await connect(address)
        await close(quick, blocked)
