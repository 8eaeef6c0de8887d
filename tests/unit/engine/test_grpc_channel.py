"""Calls over real sockets, to a server of the gRPC library."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import grpc.aio
import pytest

from isthmus.engine import grpc_channel
from isthmus.engine.grpc_channel import GrpcChannel, GrpcError, connect
from support.etcd import free_ports

TIMEOUT = 20.0


class Echo(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers with what it was sent, or refuses, or says nothing."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        unary = {"/t/Echo": self._echo, "/t/Refuse": self._refuse, "/t/Silent": self._say_nothing}
        if details.method == "/t/Count":
            return grpc.stream_stream_rpc_method_handler(self._count)
        method = unary.get(details.method)
        return method and grpc.unary_unary_rpc_method_handler(method)

    async def _echo(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        told = dict(context.invocation_metadata() or ())
        token: str = told.get("token", "")
        return request + token.encode()

    async def _refuse(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: é")
        raise AssertionError

    async def _say_nothing(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        await asyncio.Event().wait()
        return b""

    async def _count(
        self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[bytes]:
        async for request in requests:
            for number in range(int(request)):
                yield str(number).encode()
            return


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[grpc.aio.Server, str]]:
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((Echo(),))
    endpoint = f"unix:{tmp_path}/s"
    server.add_insecure_port(endpoint)
    await server.start()
    yield server, endpoint
    await server.stop(None)


@pytest.fixture
async def channel(server: tuple[grpc.aio.Server, str]) -> AsyncIterator[GrpcChannel]:
    channel = await connect(server[1], None, timeout=TIMEOUT)
    yield channel
    channel.close()
    await channel.closed()


@pytest.mark.parametrize("size", [0, 10, 100_000, 3_000_000])
async def test_call_brings_its_answer(channel: GrpcChannel, size: int) -> None:
    assert await channel.call("/t/Echo", bytes(size), timeout=TIMEOUT) == bytes(size)


async def test_calls_go_side_by_side(channel: GrpcChannel) -> None:
    asked = [str(number).encode() * 5000 for number in range(50)]
    told = await asyncio.gather(
        *(
            channel.call("/t/Echo", text, timeout=TIMEOUT, metadata=(("token", "!"),))
            for text in asked
        )
    )
    assert told == [text + b"!" for text in asked]


async def test_refusal_is_told_with_its_text(channel: GrpcChannel) -> None:
    with pytest.raises(GrpcError) as caught:
        await channel.call("/t/Refuse", b"", timeout=TIMEOUT)
    assert (caught.value.status, caught.value.details) == ("NOT_FOUND", "no such thing: é")
    assert caught.value.sent
    with pytest.raises(GrpcError) as caught:
        await channel.call("/t/Unknown", b"", timeout=TIMEOUT)
    assert caught.value.status == "UNIMPLEMENTED"


async def test_call_without_an_answer_ends_in_time(channel: GrpcChannel) -> None:
    with pytest.raises(GrpcError) as caught:
        await channel.call("/t/Silent", b"", timeout=0.05)
    assert caught.value.status == "DEADLINE_EXCEEDED"
    assert await channel.call("/t/Echo", b"still here", timeout=TIMEOUT) == b"still here"


async def test_stream_yields_all_answers_and_ends(channel: GrpcChannel) -> None:
    found = [answer async for answer in channel.stream("/t/Count", b"1000")]
    assert found == [str(number).encode() for number in range(1000)]


async def test_stream_that_is_left_early_leaves_the_others_alone(channel: GrpcChannel) -> None:
    async with aclosing(channel.stream("/t/Count", b"1000")) as answers:
        assert await anext(answers) == b"0"
    assert await channel.call("/t/Echo", b"x", timeout=TIMEOUT) == b"x"


async def test_calls_end_with_their_connection(
    server: tuple[grpc.aio.Server, str], channel: GrpcChannel
) -> None:
    call = asyncio.ensure_future(channel.call("/t/Silent", b"", timeout=TIMEOUT))
    await channel.call("/t/Echo", b"", timeout=TIMEOUT)  # By then the other one is there too.
    await server[0].stop(None)
    with pytest.raises(GrpcError) as caught:
        await call
    assert caught.value.sent
    async with asyncio.timeout(TIMEOUT):
        await channel.closed()
    assert channel.is_lost
    with pytest.raises(GrpcError) as caught:
        await channel.call("/t/Echo", b"", timeout=TIMEOUT)
    assert (caught.value.status, caught.value.sent) == ("UNAVAILABLE", False)


async def test_connection_that_is_given_up_ends_its_calls_first(channel: GrpcChannel) -> None:
    call = asyncio.ensure_future(channel.call("/t/Silent", b"", timeout=TIMEOUT))
    await channel.call("/t/Echo", b"", timeout=TIMEOUT)
    channel.retire()
    assert not channel.is_open
    assert not channel.is_lost
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert channel.is_lost


async def test_server_that_is_away_is_named() -> None:
    (port,) = free_ports(1)
    with pytest.raises(GrpcError, match=rf"127\.0\.0\.1:{port} does not answer") as caught:
        await connect(f"127.0.0.1:{port}", None, timeout=0.1)
    assert not caught.value.sent


async def test_server_that_starts_late_is_waited_for(tmp_path: Path) -> None:
    endpoint = f"unix:{tmp_path}/s"
    connecting = asyncio.ensure_future(connect(endpoint, None, timeout=TIMEOUT))
    await asyncio.sleep(0)
    server = grpc.aio.server()
    server.add_insecure_port(endpoint)
    await server.start()
    channel = await connecting
    channel.close()
    await channel.closed()
    await server.stop(None)


async def test_server_that_says_nothing_for_long_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(grpc_channel, "KEEPALIVE_INTERVAL", 0.05)
    monkeypatch.setattr(grpc_channel, "KEEPALIVE_TIMEOUT", 0.05)
    heard = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")  # Settings, and nothing more.
        while data := await reader.read(1000):
            heard.extend(data)
        writer.close()

    server = await asyncio.start_unix_server(listen, tmp_path / "s")
    channel = await connect(f"unix:{tmp_path}/s", None, timeout=TIMEOUT)
    with pytest.raises(GrpcError, match="the server does not answer"):
        await channel.call("/t/Echo", b"", timeout=TIMEOUT)
    await channel.closed()
    assert heard.endswith(b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + bytes(8))  # Our ping.
    server.close()
    await server.wait_closed()


async def test_server_that_answers_pings_is_kept(
    monkeypatch: pytest.MonkeyPatch, server: tuple[grpc.aio.Server, str]
) -> None:
    monkeypatch.setattr(grpc_channel, "KEEPALIVE_INTERVAL", 0.05)
    channel = await connect(server[1], None, timeout=TIMEOUT)
    with pytest.raises(GrpcError) as caught:
        await channel.call("/t/Silent", b"", timeout=0.5)
    assert caught.value.status == "DEADLINE_EXCEEDED"
    assert channel.is_open
    channel.close()
    await channel.closed()
