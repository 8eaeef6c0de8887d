"""The RPC pool against a real server port, and against servers that break every promise."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest

from isthmus.errors import (
    ConnectionLost,
    DialFailed,
    NoLeader,
    ProtocolError,
    RemoteError,
    Unavailable,
)
from isthmus.model.query import DatacenterRequest, Empty
from isthmus.net.client import PoolConfig, ServerDialer, ServerTarget
from isthmus.net.direct import DirectDialer
from isthmus.net.listener import ListenerConfig, ServerListener
from isthmus.net.multiplex import MultiplexProtocol
from isthmus.net.network import Inbound
from isthmus.net.pool import RpcPool
from isthmus.net.sockets import SocketNetwork
from isthmus.net.tls import TlsConfig, TlsConfigurator
from isthmus.rpc.calls import CallReceived, ServerChannel
from isthmus.rpc.yamux import (
    DataReceived,
    Output,
    Role,
    SessionClosed,
    SessionConfig,
    StreamEnded,
    StreamOpened,
)
from support.certificates import Certificate
from support.rpc_server import SteeredDispatcher

M = TypeVar("M", bound=MultiplexProtocol)
DEADLINE = 10.0
QUESTION = DatacenterRequest(datacenter="dc1")


def tls_of(certificate: Certificate) -> TlsConfigurator:
    return TlsConfigurator(
        TlsConfig(
            ca_file=str(certificate.ca_file),
            cert_file=str(certificate.cert_file),
            key_file=str(certificate.key_file),
            verify_incoming=True,
        )
    )


@asynccontextmanager
async def serving(
    tls: TlsConfigurator | None = None,
) -> AsyncIterator[tuple[SteeredDispatcher, ServerTarget, ServerListener]]:
    """A server port and how to reach it."""
    config = ListenerConfig() if tls is None else ListenerConfig.of_tls(tls)
    dispatcher = SteeredDispatcher()
    listener = ServerListener(SocketNetwork(tls), config, dispatcher)
    await listener.start("127.0.0.1", 0)
    try:
        yield dispatcher, ServerTarget("dc1", "alpha", *listener.address), listener
    finally:
        await listener.close()


class CountingDialer:
    """Dials directly, counts, and can hold the dials."""

    def __init__(self, inner: ServerDialer | None = None) -> None:
        self._inner = inner or DirectDialer(SocketNetwork())
        self.count = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = asyncio.Event()
        self.failure: Unavailable | None = None

    async def dial_server(
        self, factory: Callable[[], M], target: ServerTarget, *, timeout: float
    ) -> M:
        self.count += 1
        self.waiting.set()
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return await self._inner.dial_server(factory, target, timeout=timeout)


@asynccontextmanager
async def pooled(
    dialer: ServerDialer | None = None, **limits: Any
) -> AsyncIterator[tuple[RpcPool, CountingDialer]]:
    counting = CountingDialer(dialer)
    pool = RpcPool(counting, PoolConfig(**limits))
    try:
        yield pool, counting
    finally:
        await pool.close()


async def leader(pool: RpcPool, target: ServerTarget, *, timeout: float = DEADLINE) -> Any:
    return await pool.call(target, "Status.Leader", QUESTION, str, timeout=timeout)


async def peers(pool: RpcPool, target: ServerTarget, *, timeout: float = DEADLINE) -> Any:
    return await pool.call(target, "Status.Peers", QUESTION, tuple[str, ...], timeout=timeout)


async def until_held(dispatcher: SteeredDispatcher) -> None:
    async with asyncio.timeout(DEADLINE):
        await dispatcher.held.wait()


async def test_a_call_brings_its_reply() -> None:
    async with serving() as (dispatcher, target, _), pooled() as (pool, _):
        assert await leader(pool, target) == "127.0.0.1:8300"
        assert dispatcher.calls == [("Status.Leader", QUESTION)]
        assert await pool.call(target, "Status.Ping", Empty(), Empty, timeout=5) == Empty()


async def test_many_calls_share_one_connection() -> None:
    async with serving() as (_, target, listener), pooled() as (pool, dialer):
        replies = await asyncio.gather(*(leader(pool, target) for _ in range(500)))
        assert set(replies) == {"127.0.0.1:8300"}
        assert dialer.count == listener.connection_count == pool.connection_count == 1
        assert pool.call_count == 0


async def test_each_server_has_its_own_connection() -> None:
    """Two datacenters may use the same names and addresses."""
    async with serving() as (_, target, listener), pooled() as (pool, _):
        other = ServerTarget("dc2", target.node, target.host, target.port)
        await leader(pool, target)
        await leader(pool, other)
        assert listener.connection_count == 2


async def test_an_error_answer_is_the_servers_own_text() -> None:
    async with serving() as (dispatcher, target, _), pooled() as (pool, dialer):
        dispatcher.failure = NoLeader()
        with pytest.raises(RemoteError, match=r"^No cluster leader$"):
            await leader(pool, target)
        dispatcher.failure = None
        with pytest.raises(RemoteError, match=r"^rpc: can't find method Status\.Nope$"):
            await pool.call(target, "Status.Nope", Empty(), Empty, timeout=DEADLINE)
        assert await leader(pool, target)
        assert dialer.count == 1


async def test_a_reply_of_another_shape_is_a_protocol_error() -> None:
    async with serving() as (dispatcher, target, _), pooled() as (pool, _):
        dispatcher.leader = 5
        with pytest.raises(ProtocolError, match="expected a string"):
            await leader(pool, target)


async def test_big_values_cross_in_both_directions() -> None:
    async with serving() as (dispatcher, target, _), pooled() as (pool, _):
        dispatcher.leader = "x" * 3_000_000
        request = DatacenterRequest(datacenter="y" * 2_000_000)
        reply = await pool.call(target, "Status.Leader", request, str, timeout=DEADLINE)
        assert reply == dispatcher.leader
        assert dispatcher.calls == [("Status.Leader", request)]


async def test_no_answer_in_time_is_told_and_cancels_the_call() -> None:
    async with serving() as (dispatcher, target, _), pooled() as (pool, dialer):
        with pytest.raises(ConnectionLost, match=r"no answer to Status.Peers .* within 0\.05 s"):
            await peers(pool, target, timeout=0.05)
        async with asyncio.timeout(DEADLINE):
            await dispatcher.cancelled.wait()
        assert await leader(pool, target)
        assert dialer.count == 1


async def test_a_cancelled_caller_cancels_the_call() -> None:
    async with serving() as (dispatcher, target, _), pooled() as (pool, _):
        task = asyncio.get_running_loop().create_task(peers(pool, target))
        await until_held(dispatcher)
        task.cancel()
        async with asyncio.timeout(DEADLINE):
            await dispatcher.cancelled.wait()
        assert pool.call_count == 0


# Dialling --------------------------------------------------------------------------------------


async def test_one_dials_and_the_others_wait_each_for_its_own_time() -> None:
    async with serving() as (_, target, _), pooled() as (pool, dialer):
        dialer.gate.clear()
        patient = asyncio.get_running_loop().create_task(leader(pool, target))
        with pytest.raises(DialFailed, match=r"took longer than 0\.05 s") as caught:
            await leader(pool, target, timeout=0.05)
        assert caught.value.step == "deadline"
        assert not patient.done()
        dialer.gate.set()
        assert await patient
        assert dialer.count == 1


async def test_the_dial_goes_on_when_its_first_caller_gives_up() -> None:
    async with serving() as (_, target, _), pooled() as (pool, dialer):
        dialer.gate.clear()
        with pytest.raises(DialFailed):
            await leader(pool, target, timeout=0.01)
        second = asyncio.get_running_loop().create_task(leader(pool, target))
        dialer.gate.set()
        assert await second
        assert dialer.count == 1


async def test_a_failed_dial_fails_all_waiters_at_once_and_is_not_remembered() -> None:
    failure = DialFailed("dial: why", dc="dc1", node="alpha", gateway="gw:1", step="tls")
    async with serving() as (_, target, _), pooled() as (pool, dialer):
        dialer.gate.clear()
        dialer.failure = failure
        tasks = [asyncio.get_running_loop().create_task(leader(pool, target)) for _ in range(5)]
        await dialer.waiting.wait()
        dialer.gate.set()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert dialer.count == 1
        for error in errors:
            assert isinstance(error, DialFailed)
            assert (str(error), error.gateway, error.step) == ("dial: why", "gw:1", "tls")
        assert len(set(map(id, errors))) == 5
        dialer.failure = None
        assert await leader(pool, target)


async def test_a_refused_connection_names_server_and_step() -> None:
    async with serving() as (_, target, _):
        pass
    async with pooled() as (pool, _):
        with pytest.raises(DialFailed) as caught:
            await leader(pool, target)
        assert caught.value.step == "connect"
        assert str(caught.value) == (
            f"dial tcp 127.0.0.1:{target.port}: connect: connection refused"
            " (datacenter dc1, server alpha, step: connect)"
        )


async def test_tls_behind_the_type_byte(certificates: Any) -> None:
    async with serving(tls_of(certificates.alpha)) as (dispatcher, target, _):
        dialer = DirectDialer(
            SocketNetwork(tls_of(certificates.beta)), tls=True, check_name=True, domain="consul."
        )
        async with pooled(dialer) as (pool, _):
            assert await leader(pool, target)
            assert dispatcher.peers[0].dcs == {"dc2"}
            wrong = ServerTarget("dc7", "alpha", target.host, target.port)
            with pytest.raises(DialFailed, match=r"server\.dc7\.consul") as caught:
                await leader(pool, wrong)
            assert caught.value.step == "tls"


async def test_a_certificate_that_the_server_refuses_is_named(certificates: Any) -> None:
    """With TLS 1.3 the refusal comes after our handshake, so it shows on the call."""
    async with serving(tls_of(certificates.alpha)) as (_, target, _):
        config = TlsConfig(
            ca_file=str(certificates.alpha.ca_file),
            cert_file=str(certificates.stranger.cert_file),
            key_file=str(certificates.stranger.key_file),
        )
        dialer = DirectDialer(SocketNetwork(TlsConfigurator(config)), tls=True)
        async with pooled(dialer) as (pool, _):
            with pytest.raises(ConnectionLost, match="refused our certificate: unknown ca"):
                await leader(pool, target)


# Connections that end ----------------------------------------------------------------------------


async def test_a_lost_connection_fails_its_calls_and_the_next_call_dials() -> None:
    async with serving() as (dispatcher, target, listener), pooled() as (pool, dialer):
        task = asyncio.get_running_loop().create_task(peers(pool, target))
        await until_held(dispatcher)
        for connection in list(listener._open._open):
            connection.abort()
        with pytest.raises(ConnectionLost, match=r"server alpha of datacenter dc1: .*EOF$"):
            await task
        assert await leader(pool, target)
        assert dialer.count == 2


async def test_an_idle_connection_is_closed() -> None:
    async with serving() as (_, target, listener), pooled(idle_timeout=0.05) as (pool, dialer):
        await leader(pool, target)
        async with asyncio.timeout(DEADLINE):
            while listener.connection_count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # The only sign is that it is gone.
        assert pool.connection_count == 0
        assert await leader(pool, target)
        assert dialer.count == 2


async def test_a_connection_with_a_running_call_is_not_idle() -> None:
    async with serving() as (dispatcher, target, _), pooled(idle_timeout=0.02) as (pool, dialer):
        task = asyncio.get_running_loop().create_task(peers(pool, target))
        await until_held(dispatcher)
        with pytest.raises(ConnectionLost):
            await peers(pool, target, timeout=0.1)  # Five times the idle timeout.
        dispatcher.release.set()
        assert await task == ("127.0.0.1:8300",)
        assert dialer.count == 1


async def test_a_forgotten_server_is_dialled_anew_and_its_calls_finish() -> None:
    async with serving() as (dispatcher, target, listener), pooled() as (pool, dialer):
        task = asyncio.get_running_loop().create_task(peers(pool, target))
        await until_held(dispatcher)
        pool.forget(target)
        await leader(pool, target)
        assert (dialer.count, listener.connection_count) == (2, 2)
        dispatcher.release.set()
        assert await task


async def test_closing_the_pool_fails_its_calls() -> None:
    async with serving() as (dispatcher, target, _), pooled() as (pool, _):
        task = asyncio.get_running_loop().create_task(peers(pool, target))
        await until_held(dispatcher)
        await pool.close()
        with pytest.raises(ConnectionLost):
            await task


# Limits ------------------------------------------------------------------------------------------


async def test_calls_above_the_limit_are_refused_at_once() -> None:
    async with serving() as (dispatcher, target, _), pooled(calls_max=1) as (pool, _):
        task = asyncio.get_running_loop().create_task(peers(pool, target))
        await until_held(dispatcher)
        with pytest.raises(Unavailable, match="1 RPC calls in flight"):
            await leader(pool, target)
        dispatcher.release.set()
        assert await task


async def test_connections_above_the_limit_are_refused_at_once() -> None:
    async with serving() as (_, target, _), pooled(connections_max=1) as (pool, _):
        await leader(pool, target)
        with pytest.raises(Unavailable, match="1 RPC connections"):
            await leader(pool, ServerTarget("dc2", "beta", "127.0.0.1", 1))
        assert await leader(pool, target)


async def test_no_more_streams_are_opened_than_the_peer_acknowledges() -> None:
    session = SessionConfig(opening_max=2, streams_max=0)
    async with serving() as (_, target, _), pooled(session=session) as (pool, dialer):
        replies = await asyncio.gather(*(leader(pool, target) for _ in range(50)))
        assert len(replies) == 50
        assert dialer.count == 1


# Servers that break their promises ---------------------------------------------------------------


class OddServer(MultiplexProtocol):
    """Answers each request with bytes of the test's choice."""

    def __init__(self, behave: Callable[["OddServer", int], None]) -> None:
        super().__init__(Role.ACCEPTOR, SessionConfig())
        self._behave = behave
        self.ended: set[int] = set()
        self._channels: dict[int, ServerChannel] = {}

    def on_event(self, event: Output) -> None:
        match event:
            case StreamOpened(stream):
                self._channels[stream] = ServerChannel()
            case DataReceived(stream, data):
                channel = self._channels[stream]
                channel.receive_data(data)
                for call in channel.take_events():
                    assert isinstance(call, CallReceived)
                    self._behave(self, stream)
            case StreamEnded(stream):
                self.ended.add(stream)
            case SessionClosed():
                self._channels.clear()
            case _:
                pass


@asynccontextmanager
async def odd_server(behave: Callable[[OddServer, int], None]) -> AsyncIterator[ServerTarget]:
    async def accept(inbound: Inbound) -> None:
        assert await inbound.first_byte() == 4
        await inbound.start(OddServer(behave), tls=None, skip=1)

    listening = await SocketNetwork().listen("127.0.0.1", 0, accept)
    try:
        yield ServerTarget("dc1", "odd", *listening.address)
    finally:
        await listening.close()


ODD = {
    "ends the stream": lambda server, stream: server.session.end(stream, now=0.0),
    "resets the stream": lambda server, stream: server.session.reset(stream),
    "sends garbage": lambda server, stream: server.session.send(stream, b"\xc1"),
    "answers another call": lambda server, stream: server.session.send(
        stream, b"\x83\xa5Error\xa0\xa3Seq\x7f\xadServiceMethod\xa0\x80"
    ),
    "ends the session": lambda server, stream: server.session.close(),
    "drops the connection": lambda server, stream: server.transport.abort(),
    "breaks yamux": lambda server, stream: server.transport.write(b"\xff" * 12),
}


@pytest.mark.parametrize("behaviour", ODD)
async def test_a_server_that_breaks_its_promise_loses_only_the_call(behaviour: str) -> None:
    async with odd_server(ODD[behaviour]) as target, pooled() as (pool, _):
        for _ in range(2):
            with pytest.raises(ConnectionLost, match="server odd of datacenter dc1"):
                await leader(pool, target)
        assert pool.call_count == 0


async def test_after_a_go_away_the_next_call_dials() -> None:
    def go_away(server: OddServer, stream: int) -> None:
        server.session.go_away()
        server.session.end(stream, now=0.0)

    async with odd_server(go_away) as target, pooled() as (pool, dialer):
        for _ in range(2):
            with pytest.raises(ConnectionLost):
                await leader(pool, target)
        assert dialer.count == 2


async def test_a_server_that_ends_an_idle_stream_is_called_on_another() -> None:
    def answer_and_end(server: OddServer, stream: int) -> None:
        channel = server._channels[stream]
        server.session.send(stream, channel.answer(b"\xa1x"))
        server.session.end(stream, now=0.0)

    async with odd_server(answer_and_end) as target, pooled() as (pool, dialer):
        for _ in range(3):
            assert await leader(pool, target) == "x"
        assert dialer.count == 1


async def test_more_idle_streams_than_the_limit_are_ended() -> None:
    servers: set[OddServer] = set()
    asked: list[int] = []

    def answer_all_at_last(server: OddServer, stream: int) -> None:
        servers.add(server)
        asked.append(stream)
        if len(asked) >= 10:
            for each in asked if len(asked) == 10 else [stream]:
                server.session.send(each, server._channels[each].answer(b"\xa1x"))

    async with odd_server(answer_all_at_last) as target, pooled(idle_streams_max=1) as (pool, _):
        await asyncio.gather(*(leader(pool, target) for _ in range(10)))
        assert await leader(pool, target) == "x"
        (server,) = servers
        assert len(server.ended) == 9
        assert asked[-1] not in server.ended


async def test_a_connection_silent_for_a_whole_call_is_given_up() -> None:
    """So hangs a gateway that was stopped: its kernel still takes what we send."""
    asked: list[OddServer] = []

    def answer_unless_first(server: OddServer, stream: int) -> None:
        asked.append(server)
        if server is not asked[0] or len(asked) == 1:
            server.session.send(stream, server._channels[stream].answer(b"\xa1x"))

    async with odd_server(answer_unless_first) as target, pooled() as (pool, dialer):
        await leader(pool, target)
        with pytest.raises(ConnectionLost, match="no answer"):
            await leader(pool, target, timeout=0.05)
        assert await leader(pool, target) == "x"
        assert dialer.count == 2


async def test_a_slow_call_does_not_cost_a_lively_connection() -> None:
    async with serving() as (_, target, _), pooled() as (pool, dialer):

        async def chat() -> None:
            while True:
                await leader(pool, target)

        async with asyncio.TaskGroup() as group:
            chatting = group.create_task(chat())
            with pytest.raises(ConnectionLost, match="no answer"):
                await peers(pool, target, timeout=0.05)
            chatting.cancel()
        assert dialer.count == pool.connection_count == 1
