"""Real sockets on loopback: looking without taking, TLS both ways, every failure in words."""

import asyncio
import json
import socket
import struct
import threading
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from isthmus.errors import ProtocolError
from isthmus.names import Alpn
from isthmus.net.network import Inbound, TlsAccept, TlsDial
from isthmus.net.sockets import SocketNetwork
from isthmus.net.tls import AlpnRefused, HandshakeFailed, TlsConfig, TlsConfigurator, TlsDisabled
from isthmus.wire.tlshello import ClientHello
from support.certificates import Certificate

VECTORS = Path(__file__).parents[2] / "vectors" / "federation"
DEADLINE = 10.0
NATIVE = TlsAccept(require_client=True, alpn=True)


class Recorder(asyncio.Protocol):
    """Keeps what comes in."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.data = bytearray()
        self.made = threading.Event()
        self.lost: asyncio.Future[Exception | None] = self.loop.create_future()
        self._arrived = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.made.set()

    def data_received(self, data: bytes) -> None:
        self.data += data
        self._arrived.set()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(error)

    async def received(self, size: int) -> bytes:
        async with asyncio.timeout(DEADLINE):
            while len(self.data) < size:
                self._arrived.clear()
                await self._arrived.wait()
        return bytes(self.data)


def network_of(certificate: Certificate, **others: Any) -> SocketNetwork:
    return SocketNetwork(
        TlsConfigurator(
            TlsConfig(
                ca_file=str(certificate.ca_file),
                cert_file=str(certificate.cert_file),
                key_file=str(certificate.key_file),
                **others,
            )
        )
    )


@asynccontextmanager
async def listening(
    network: SocketNetwork, accept: Callable[[Inbound], Awaitable[None]]
) -> AsyncIterator[int]:
    port = await network.listen("127.0.0.1", 0, accept)
    try:
        yield port.address[1]
    finally:
        await port.close()


@asynccontextmanager
async def accepted(network: SocketNetwork) -> AsyncIterator[tuple[socket.socket, Inbound]]:
    """A plain client's socket and our end of it, untouched."""
    queue: asyncio.Queue[Inbound] = asyncio.Queue()
    client = socket.socket()
    client.setblocking(False)
    async with listening(network, queue.put) as port, asyncio.timeout(DEADLINE):
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
        inbound = await queue.get()
        with client:
            yield client, inbound
        inbound.close()


# Looking ---------------------------------------------------------------------------------------


async def test_looking_takes_nothing() -> None:
    async with accepted(SocketNetwork()) as (client, inbound):
        client.send(b"\x04rest")
        assert await inbound.first_byte() == 4
        assert await inbound.first_byte() == 4
        assert await inbound.hello() is None
        recorder = await inbound.start(Recorder(), tls=None, skip=1)
        assert await recorder.received(4) == b"rest"
        recorder.transport.close()


async def test_the_first_byte_is_waited_for() -> None:
    async with accepted(SocketNetwork()) as (client, inbound):
        async with asyncio.TaskGroup() as group:
            first = group.create_task(inbound.first_byte())
            await asyncio.sleep(0)
            client.send(b"\x16")
        assert first.result() == 0x16


async def test_a_connection_that_ends_at_once_has_no_first_byte() -> None:
    async with accepted(SocketNetwork()) as (client, inbound):
        client.close()
        assert await inbound.first_byte() is None


async def test_a_connection_that_is_reset_has_no_first_byte() -> None:
    async with accepted(SocketNetwork()) as (client, inbound):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert await inbound.first_byte() is None


def captured_hello() -> bytes:
    hellos = json.loads((VECTORS / "client_hello.json").read_text())["hellos"]
    return bytes.fromhex(hellos[0]["record_hex"])


@pytest.mark.parametrize("step", [1, 100, 10_000])
async def test_a_hello_in_pieces_is_waited_for(step: int) -> None:
    """Waiting costs no time: the loop is woken for new bytes only."""
    data = captured_hello()
    async with accepted(SocketNetwork()) as (client, inbound):
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(inbound.hello())
            for start in range(0, len(data), step):
                client.send(data[start : start + step])
                await asyncio.sleep(0)
        hello = waiting.result()
        assert hello == ClientHello("server.dc1.consul", ("consul/wan-gossip/stream",), len(data))
        recorder = await inbound.start(Recorder(), tls=None)
        assert await recorder.received(len(data)) == data
        recorder.transport.close()


async def test_an_unfinished_hello_does_not_spin_the_loop() -> None:
    async with accepted(SocketNetwork()) as (client, inbound):
        client.send(captured_hello()[:100])
        assert await inbound.first_byte() == 0x16
        turns = 0

        def turn() -> None:
            nonlocal turns
            turns += 1
            if turns < 1000:
                asyncio.get_running_loop().call_later(0.0005, turn)

        turn()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await inbound.hello()
        assert turns < 200


async def test_a_hello_that_ends_early_is_an_error() -> None:
    async with accepted(SocketNetwork()) as (client, inbound):
        client.send(captured_hello()[:100])
        client.shutdown(socket.SHUT_WR)
        with pytest.raises(ProtocolError, match="ended within"):
            await inbound.hello()


async def test_a_malformed_hello_is_an_error() -> None:
    async with accepted(SocketNetwork()) as (client, inbound):
        client.send(b"\x16garbage that is no hello")
        with pytest.raises(ProtocolError):
            await inbound.hello()


async def test_looking_can_be_given_up_and_taken_up_again() -> None:
    async with accepted(SocketNetwork()) as (client, inbound):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await inbound.first_byte()
        client.send(b"x")
        assert await inbound.first_byte() == ord("x")


async def test_a_connection_can_be_started_on_another_threads_loop() -> None:
    async with accepted(SocketNetwork()) as (client, inbound):
        client.send(b"\x04rest")
        assert await inbound.first_byte() == 4
        done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        own = asyncio.get_running_loop()

        async def elsewhere() -> None:
            recorder = await inbound.start(Recorder(), tls=None, skip=1)
            data = await recorder.received(4)
            recorder.transport.close()
            own.call_soon_threadsafe(done.set_result, data)

        thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
        thread.start()
        assert await done == b"rest"
        await own.run_in_executor(None, thread.join)


# Dialling --------------------------------------------------------------------------------------


@asynccontextmanager
async def tls_echo(
    network: SocketNetwork, accept: TlsAccept = NATIVE, *, skip: int = 0
) -> AsyncIterator[tuple[int, asyncio.Queue[Recorder | Exception]]]:
    """Accepts TLS; a queue of what became of each connection."""
    made: asyncio.Queue[Recorder | Exception] = asyncio.Queue()

    async def start(inbound: Inbound) -> None:
        try:
            recorder = await inbound.start(Recorder(), tls=accept, skip=skip)
        except OSError as error:
            made.put_nowait(error)
        else:
            made.put_nowait(recorder)

    async with listening(network, start) as port:
        yield port, made


def dial_of(name: str = "alpha.server.dc1.consul", alpn: str = Alpn.RPC_MULTI) -> TlsDial:
    return TlsDial(name, alpn)


async def dial(network: SocketNetwork, port: int, tls: TlsDial | None, **others: Any) -> Recorder:
    return await network.dial(
        Recorder, "127.0.0.1", port, tls=tls, timeout=others.pop("timeout", DEADLINE), **others
    )


async def test_an_idle_tls_connection_holds_little_memory(certificates: Any) -> None:
    """Both ends of it are ours here."""
    client, server = network_of(certificates.beta), network_of(certificates.alpha)
    count = 8
    async with tls_echo(server) as (port, made):
        ends = [await dial(client, port, dial_of()), await made.get()]
        tracemalloc.start()
        try:
            for _ in range(count):
                ends += [await dial(client, port, dial_of()), await made.get()]
            taken, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert taken / (2 * count) < 64 * 1024
        for end in ends:
            assert isinstance(end, Recorder)
            end.transport.abort()


async def test_tls_carries_what_is_larger_than_its_buffers(certificates: Any) -> None:
    data = bytes(range(256)) * 4096
    async with tls_echo(network_of(certificates.alpha)) as (port, made):
        client = await dial(network_of(certificates.beta), port, dial_of())
        server = await made.get()
        assert isinstance(server, Recorder)
        client.transport.write(data)
        assert await server.received(len(data)) == data
        client.transport.close()


async def test_tls_carries_bytes_and_the_protocols_name(certificates: Any) -> None:
    async with tls_echo(network_of(certificates.alpha)) as (port, made):
        client = await dial(network_of(certificates.beta), port, dial_of())
        server = await made.get()
        assert isinstance(server, Recorder)
        client.transport.write(b"over")
        server.transport.write(b"back")
        assert await server.received(4) == b"over"
        assert await client.received(4) == b"back"
        engine = client.transport.get_extra_info("ssl_object")
        assert engine.selected_alpn_protocol() == Alpn.RPC_MULTI
        client.transport.close()
        assert await server.lost is None
        assert await client.lost is None


async def test_a_preamble_goes_in_clear_before_tls(certificates: Any) -> None:
    accept = TlsAccept(require_client=True, alpn=False)
    async with tls_echo(network_of(certificates.alpha), accept, skip=1) as (port, made):
        tls = TlsDial("server.dc1.consul")
        client = await dial(network_of(certificates.client), port, tls, preamble=b"\x03")
        server = await made.get()
        assert isinstance(server, Recorder)
        client.transport.write(b"x")
        assert await server.received(1) == b"x"
        client.transport.close()
        await server.lost


async def test_without_server_name_only_the_chain_is_checked(certificates: Any) -> None:
    accept = TlsAccept(require_client=False, alpn=False)
    async with tls_echo(network_of(certificates.alpha), accept) as (port, made):
        client = await dial(network_of(certificates.beta), port, TlsDial(""))
        client.transport.abort()
        await made.get()
    async with tls_echo(network_of(certificates.stranger), accept) as (port, made):
        with pytest.raises(HandshakeFailed, match="certificate is refused"):
            await dial(network_of(certificates.beta), port, TlsDial(""))
        assert "unknown ca" in str(await made.get())


async def test_a_server_of_another_name_is_refused_and_told_so(certificates: Any) -> None:
    async with tls_echo(network_of(certificates.alpha)) as (port, made):
        with pytest.raises(HandshakeFailed, match=r"not valid for 'gamma\.server\.dc1\.consul'"):
            await dial(network_of(certificates.beta), port, dial_of("gamma.server.dc1.consul"))
        assert "the peer refused our certificate: bad certificate" in str(await made.get())


async def test_a_server_without_our_protocol_is_refused(certificates: Any) -> None:
    accept = TlsAccept(require_client=True, alpn=False)
    async with tls_echo(network_of(certificates.alpha), accept) as (port, made):
        with pytest.raises(AlpnRefused, match="consul/rpc-multi"):
            await dial(network_of(certificates.beta), port, dial_of())
        await made.get()


async def test_a_clients_certificate_is_refused_before_its_bytes_are_read(
    certificates: Any,
) -> None:
    async with tls_echo(network_of(certificates.alpha)) as (port, made):
        client = await dial(network_of(certificates.client), port, dial_of())
        client.transport.write(b"command")
        assert "not a server's" in str(await made.get())
        async with asyncio.timeout(DEADLINE):
            await client.lost


async def test_a_clients_certificate_may_be_allowed(certificates: Any) -> None:
    network = network_of(certificates.alpha, allow_client_certificates=True)
    async with tls_echo(network) as (port, made):
        client = await dial(network_of(certificates.client), port, dial_of())
        assert isinstance(await made.get(), Recorder)
        client.transport.abort()


async def test_a_peer_that_hangs_up_in_the_handshake_is_a_failed_handshake(
    certificates: Any,
) -> None:
    """So a gateway answers that knows no route for the name."""

    async def hang_up(inbound: Inbound) -> None:
        await inbound.first_byte()
        inbound.close()

    async with listening(SocketNetwork(), hang_up) as port:
        with pytest.raises(HandshakeFailed, match="ended the connection"):
            await dial(network_of(certificates.beta), port, dial_of())


async def test_a_peer_that_hangs_is_given_up_and_the_step_named(certificates: Any) -> None:
    waiting: asyncio.Queue[Inbound] = asyncio.Queue()
    async with listening(SocketNetwork(), waiting.put) as port:
        with pytest.raises(TimeoutError, match=f"TLS handshake with 127.0.0.1:{port}"):
            await dial(network_of(certificates.beta), port, dial_of(), timeout=0.05)
        inbound = await waiting.get()
        inbound.close()


async def test_a_closed_port_refuses() -> None:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    with sock, pytest.raises(ConnectionRefusedError):
        await dial(SocketNetwork(), sock.getsockname()[1], None)


async def test_tls_without_certificates_is_disabled() -> None:
    with pytest.raises(TlsDisabled):
        await dial(SocketNetwork(), 1, dial_of())


async def test_names_are_looked_up() -> None:
    queue: asyncio.Queue[Inbound] = asyncio.Queue()
    async with listening(SocketNetwork(), queue.put) as port:
        client = await SocketNetwork().dial(Recorder, "localhost", port, tls=None, timeout=DEADLINE)
        client.transport.abort()
        (await queue.get()).close()
    with pytest.raises(OSError, match=r"(?i)name|resolution"):
        await SocketNetwork().dial(Recorder, "name.invalid", 1, tls=None, timeout=DEADLINE)


async def test_the_source_address_can_be_chosen() -> None:
    queue: asyncio.Queue[Inbound] = asyncio.Queue()
    async with listening(SocketNetwork(), queue.put) as port:
        client = await dial(SocketNetwork(), port, None, source_host="127.0.0.9")
        inbound = await queue.get()
        assert inbound.peer[0] == "127.0.0.9"
        client.transport.abort()
        inbound.close()


# Listening, datagrams ----------------------------------------------------------------------------


async def test_accepted_connections_outlive_their_port() -> None:
    queue: asyncio.Queue[Inbound] = asyncio.Queue()
    async with listening(SocketNetwork(), queue.put) as port:
        client = await dial(SocketNetwork(), port, None)
        inbound = await queue.get()
    server = await inbound.start(Recorder(), tls=None)
    client.transport.write(b"still")
    assert await server.received(5) == b"still"
    client.transport.close()
    server.transport.close()


async def test_a_failure_to_serve_one_connection_spares_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    queue: asyncio.Queue[Inbound] = asyncio.Queue()
    failures = [ValueError("bug"), None]

    async def serve(inbound: Inbound) -> None:
        failure = failures.pop(0)
        if failure is not None:
            raise failure
        queue.put_nowait(inbound)

    async with listening(SocketNetwork(), serve) as port:
        first = await dial(SocketNetwork(), port, None)
        async with asyncio.timeout(DEADLINE):
            await first.lost
        second = await dial(SocketNetwork(), port, None)
        (await queue.get()).close()
        second.transport.abort()
    assert "accepting a connection failed" in caplog.text


async def test_datagrams_cross() -> None:
    arrived: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    class Receiver(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, address: Any) -> None:
            arrived.set_result(data)

    network = SocketNetwork()
    receiver = await network.datagram(Receiver, "127.0.0.1", 0)
    sender = await network.datagram(asyncio.DatagramProtocol, "127.0.0.1", 0)
    sender.sendto(b"packet", receiver.get_extra_info("sockname"))
    async with asyncio.timeout(DEADLINE):
        assert await arrived == b"packet"
    receiver.close()
    sender.close()
