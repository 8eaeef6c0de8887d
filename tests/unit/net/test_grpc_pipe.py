"""gRPC on connections that somebody else accepted."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
import pytest

from isthmus.net.grpc_pipe import GrpcServer


class Echo(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types.
    """Sends back what it gets, as often as it says."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method != "/test.Echo/Repeat":
            return None
        return grpc.unary_stream_rpc_method_handler(self._repeat)

    async def _repeat(self, data: bytes, context: Any) -> AsyncIterator[bytes]:
        count, _, word = data.partition(b" ")
        for _ in range(int(count)):
            yield word


@pytest.fixture
async def server() -> AsyncIterator[tuple[GrpcServer, int]]:
    """A server, and the port at which connections are accepted for it."""
    served = GrpcServer([Echo()])
    accepting = await asyncio.get_running_loop().create_server(served.protocol, "127.0.0.1", 0)
    yield served, accepting.sockets[0].getsockname()[1]
    accepting.close()
    await served.close()


async def until(check: Callable[[], bool]) -> None:
    """Let the loop run until something is so."""
    async with asyncio.timeout(20):
        while not check():  # noqa: ASYNC110 - a pipe tells nobody.
            await asyncio.sleep(0)


async def repeat(channel: Any, data: bytes) -> list[bytes]:
    call = channel.unary_stream("/test.Echo/Repeat")
    return [reply async for reply in call(data, timeout=20)]


async def test_calls_pass_the_pipe(server: tuple[GrpcServer, int]) -> None:
    served, port = server
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert await repeat(channel, b"3 hello") == [b"hello"] * 3
        # More than all buffers on the way hold, both ways.
        large = b"x" * 3_000_000
        assert await repeat(channel, b"4 " + large) == [large] * 4
        assert served.connection_count == 1
    await until(lambda: not served.connection_count)


async def test_unknown_methods_are_told_so(server: tuple[GrpcServer, int]) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server[1]}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/test.Echo/Other")(b"", timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_what_is_no_http2_costs_only_its_connection(server: tuple[GrpcServer, int]) -> None:
    served, port = server
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n" * 20_000)
    async with asyncio.timeout(20):
        with suppress(ConnectionError):
            while await reader.read(65536):
                pass
    await until(lambda: not served.connection_count)
    writer.close()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert await repeat(channel, b"1 a") == [b"a"]


async def test_close_ends_connections(server: tuple[GrpcServer, int]) -> None:
    served, port = server
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await until(lambda: served.connection_count == 1)
    async with asyncio.timeout(20):
        await served.close()
        while await reader.read(65536):
            pass
        late, late_writer = await asyncio.open_connection("127.0.0.1", port)
        with suppress(ConnectionError):
            assert await late.read() == b""
    writer.close()
    late_writer.close()
