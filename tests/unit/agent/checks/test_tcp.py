"""TCP checks against sockets on loopback."""

import asyncio

import pytest

from isthmus.agent.checks.result import Result
from isthmus.agent.checks.tcp import probe_tcp

TIMEOUT = 20.0


async def test_connection_passes_and_is_closed() -> None:
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        closed.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        address = f"{host}:{port}"
        assert await probe_tcp(address, timeout=TIMEOUT) == Result(
            "passing", f"TCP connect {address}: Success"
        )
        async with asyncio.timeout(TIMEOUT):
            await closed.wait()


async def test_refused_connection_is_critical() -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    server.close()
    await server.wait_closed()
    status, output, _ = await probe_tcp(f"{host}:{port}", timeout=TIMEOUT)
    assert status == "critical"
    assert output == f"dial tcp {host}:{port}: connect: connection refused"


@pytest.mark.parametrize("address", ["nonsense", "h:70000", "h\x00:1", "a..b:1"])
async def test_address_that_cannot_be_used_is_critical(address: str) -> None:
    assert (await probe_tcp(address, timeout=TIMEOUT)).status == "critical"
