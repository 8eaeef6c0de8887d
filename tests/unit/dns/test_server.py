"""The ports: what only real sockets can show."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from random import Random
from typing import Any

import dns.asyncquery
import dns.message
import dns.rcode
import pytest

from isthmus.dns import server as server_module
from isthmus.dns.config import OFF, DnsConfig
from isthmus.dns.server import CONNECTIONS_PER_CLIENT_MAX, DnsServer
from isthmus.names import split_host_port
from isthmus.net.sockets import SocketNetwork
from support.dns import catalog, instance, instances, rows

DEADLINE = 20.0
QUERY = dns.message.make_query("web.service.consul", "A", id=7)


def make(rpc: Any = None, *, here: bool = True, **settings: Any) -> DnsServer:
    settings = {"addresses": ("127.0.0.1",), "port": 0, **settings}
    return DnsServer(
        DnsConfig(datacenter="dc1", node_name="own", **settings),
        rpc or catalog(instance()),
        is_here=lambda stale: here,
        network=SocketNetwork(),
        rng=Random(0),
        wall=lambda: datetime(2026, 1, 1, tzinfo=UTC),
    )


@asynccontextmanager
async def serving(server: DnsServer) -> AsyncIterator[tuple[str, int]]:
    async with asyncio.timeout(DEADLINE):
        (bound,) = await server.start()
        try:
            yield split_host_port(bound)
        finally:
            await server.stop()


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize("kind", ["A", "SRV"])
async def test_udp_and_tcp_answer_on_the_same_port(here: bool, kind: str) -> None:
    query = dns.message.make_query("web.service.consul", kind)
    async with serving(make(catalog(*instances(10)), here=here)) as (host, port):
        for _ in range(3):
            assert len(rows((await dns.asyncquery.udp(query, host, port=port)).answer)) == 3
            assert len(rows((await dns.asyncquery.tcp(query, host, port=port)).answer)) == 10


async def test_requests_of_one_connection_are_all_answered() -> None:
    framed = b"".join(
        len(data).to_bytes(2, "big") + data
        for number in range(200)
        for data in [dns.message.make_query("web.service.consul", "A", id=number).to_wire()]
    )
    async with serving(make()) as (host, port):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(framed)
        idents = set()
        for _ in range(200):
            size = int.from_bytes(await reader.readexactly(2), "big")
            message = dns.message.from_wire(await reader.readexactly(size))
            assert rows(message.answer) == ["web.service.consul. 0 A 10.0.0.1"]
            idents.add(message.id)
        assert idents == set(range(200))
        writer.close()


async def test_on_all_addresses_the_one_that_was_asked_answers() -> None:
    async with serving(make(addresses=("0.0.0.0",))) as (_, port):
        for host in ("127.0.0.1", "127.86.3.5"):
            message = await dns.asyncquery.udp(QUERY, host, port=port)
            assert len(rows(message.answer)) == 1
            message = await dns.asyncquery.tcp(QUERY, host, port=port)
            assert len(rows(message.answer)) == 1


async def test_taken_port_is_told_and_nothing_stays_open() -> None:
    taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    taken.bind(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    with taken, pytest.raises(OSError, match="in use"):
        await make(port=port).start()
    async with serving(make(port=port)) as (_, again):
        assert again == port


async def test_nothing_is_opened_when_it_is_off() -> None:
    server = make(port=OFF)
    assert await server.start() == []
    await server.stop()


async def test_slow_and_silent_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "IDLE_TIMEOUT", 0.2)
    monkeypatch.setattr(server_module, "_SWEEP_INTERVAL", 0.1)
    async with serving(make()) as (host, port):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"\0")
        assert await _ended(reader)
        writer.close()


async def test_only_so_many_connections_are_accepted() -> None:
    async with serving(make()) as (host, port):
        query = QUERY.to_wire()
        framed = len(query).to_bytes(2, "big") + query
        streams = []
        for _ in range(CONNECTIONS_PER_CLIENT_MAX):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(framed)
            await reader.readexactly(2)  # So it has been accepted.
            streams.append(writer)
        reader, writer = await asyncio.open_connection(host, port)
        assert await _ended(reader)
        writer.close()
        await dns.asyncquery.udp(QUERY, host, port=port)
        streams.pop().close()
        for one in streams:
            one.close()


async def test_too_many_pending_requests_are_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "PENDING_MAX", 0)
    async with serving(make(here=False)) as (host, port):
        for ask in (dns.asyncquery.udp, dns.asyncquery.tcp):
            message = await ask(QUERY, host, port=port)
            assert message.rcode() == dns.rcode.SERVFAIL


async def test_junk_is_survived() -> None:
    rng = Random(1)
    async with serving(make()) as (host, port):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock:
            for _ in range(200):
                sock.sendto(rng.randbytes(rng.randrange(600)), (host, port))
                await asyncio.sleep(0)  # The socket's buffer does not hold them all.
            sock.sendto(b"", (host, port))
        _, writer = await asyncio.open_connection(host, port)
        writer.write(rng.randbytes(5000))
        message = await dns.asyncquery.udp(QUERY, host, port=port)
        assert len(rows(message.answer)) == 1
        writer.close()


async def test_new_configuration_is_taken_and_a_wrong_one_is_not() -> None:
    server = make()
    async with serving(server) as (host, port):
        fresh = DnsConfig(datacenter="dc1", node_name="own", service_ttl={"*": 9.0})
        server.reconfigure(fresh)
        message = await dns.asyncquery.udp(QUERY, host, port=port)
        assert rows(message.answer) == ["web.service.consul. 9 A 10.0.0.1"]
        with pytest.raises(ValueError, match="not an IP address"):
            server.reconfigure(DnsConfig(datacenter="dc1", node_name="own", recursors=("x",)))
        message = await dns.asyncquery.udp(QUERY, host, port=port)
        assert rows(message.answer) == ["web.service.consul. 9 A 10.0.0.1"]


async def _ended(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True
