"""The server port on loopback: Consul's recorded behaviour case by case, and RPC itself."""

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from isthmus.errors import MalformedPacket, NoLeader, RequestError
from isthmus.model.query import DatacenterRequest
from isthmus.names import Alpn
from isthmus.net.listener import REASONS_TOLD_MAX, ListenerConfig, PeerInfo, ServerListener
from isthmus.net.network import Inbound, TlsAccept
from isthmus.net.sockets import SocketNetwork
from isthmus.net.tls import TlsConfig, TlsConfigurator
from isthmus.rpc.packets import PACKET_SIZE_MAX, PacketReader, frame_packet
from isthmus.rpc.yamux import SessionConfig
from isthmus.wire.msgpack import Unpacker, encode, pack
from isthmus.wire.netrpc import RequestHeader, encode_request
from isthmus.wire.yamux import Flag, FrameType, Header, decode_header, encode_header
from support.certificates import Certificate
from support.rpc_server import SteeredDispatcher
from support.snapshot_stream import stream_caller

VECTORS = Path(__file__).parents[2] / "vectors"
CASES: list[dict[str, Any]] = json.loads(
    (VECTORS / "federation" / "port_behaviour.json").read_text()
)["cases"]
DEADLINE = 10.0
QUICK = 0.2  # The handshake timeout of these tests.
LEADER_CALL = encode_request(
    RequestHeader(7, "Status.Leader"), encode(DatacenterRequest(datacenter="dc1"))
)
SYN, ACK, FIN, RST = Flag


class GossipReceiver(asyncio.Protocol):
    """What the gossip thread would run on a handed-over connection."""

    def __init__(self, packets: asyncio.Queue[bytes], *, stream: bool) -> None:
        self._packets, self._stream = packets, stream
        self._reader = PacketReader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._stream:
            self._transport.close()  # The unknown type byte of the recorded case.
            return
        try:
            self._reader.receive_data(data)
        except MalformedPacket:
            self._transport.close()
        for packet in self._reader.take_packets():
            self._packets.put_nowait(packet)


@dataclass
class Port:
    """A listener with what it hands on."""

    listener: ServerListener
    dispatcher: SteeredDispatcher
    packets: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    handed: asyncio.Queue[tuple[str, int]] = field(default_factory=asyncio.Queue)

    @property
    def number(self) -> int:
        return self.listener.address[1]


@asynccontextmanager
async def open_port(
    certificate: Certificate | None = None, *, gateway: bool = False, **limits: Any
) -> AsyncIterator[Port]:
    """Open a server port of dc1; with a certificate, as with ``verify_incoming_rpc``."""
    tls = None
    if certificate is not None:
        tls = TlsConfigurator(
            TlsConfig(
                ca_file=str(certificate.ca_file),
                cert_file=str(certificate.cert_file),
                key_file=str(certificate.key_file),
            )
        )
        limits = {"native_tls": True, "demand_tls": True, "demand_certificate": True, **limits}
    limits.setdefault("handshake_timeout", QUICK)
    config = ListenerConfig(**limits)
    dispatcher = SteeredDispatcher()
    opened: list[Port] = []
    tasks: set[asyncio.Task[Any]] = set()

    def take(*, stream: bool) -> Callable[[Inbound], None]:
        def taken(inbound: Inbound) -> None:
            async def start() -> None:
                opened[0].handed.put_nowait(inbound.peer)
                receiver = GossipReceiver(opened[0].packets, stream=stream)
                try:
                    await inbound.start(receiver, tls=TlsAccept(require_client=True, alpn=True))
                except OSError:
                    return

            tasks.add(asyncio.get_running_loop().create_task(start()))

        return taken

    listener = ServerListener(
        SocketNetwork(tls),
        config,
        dispatcher,
        on_gossip_packets=take(stream=False),
        on_gossip_stream=take(stream=True),
        is_gateway=lambda host: gateway,
    )
    opened.append(Port(listener, dispatcher))
    await listener.start("127.0.0.1", 0)
    try:
        yield opened[0]
    finally:
        await listener.close()
        await asyncio.gather(*tasks)


@dataclass
class Client:
    """A raw connection to the port."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def alpn(self) -> str | None:
        engine = self.writer.get_extra_info("ssl_object")
        assert engine is not None
        name: str | None = engine.selected_alpn_protocol()
        return name

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self, size: int) -> bytes:
        async with asyncio.timeout(DEADLINE):
            return await self.reader.readexactly(size)

    async def ended(self) -> bytes:
        """What is left until the server ends the connection, which it must."""
        async with asyncio.timeout(DEADLINE):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""

    async def frame(self) -> tuple[Header, bytes]:
        header = decode_header(await self.receive(12))
        return header, await self.receive(header.length) if header.kind == 0 else b""


@asynccontextmanager
async def connected(
    port: Port, context: ssl.SSLContext | None = None, *, sni: str = "server.dc1.consul"
) -> AsyncIterator[Client]:
    async with asyncio.timeout(DEADLINE):
        name = sni if context else None
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port.number, ssl=context, server_hostname=name
        )
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


@pytest.fixture
async def port(certificates: Any) -> AsyncIterator[Port]:
    """A port as the recorded one: certificates demanded, gossip taken."""
    async with open_port(certificates.alpha) as port:
        yield port


async def assert_multi_open(client: Client) -> None:
    await client.send(encode_header(FrameType.PING, SYN, 0, 5))
    assert await client.frame() == (Header(FrameType.PING, ACK, 0, 5), b"")


async def assert_single_open(client: Client) -> None:
    await client.send(LEADER_CALL)
    await assert_leader_answer(client)


async def assert_leader_answer(client: Client) -> None:
    unpacker, values = Unpacker(), list[object]()
    while len(values) < 2:
        unpacker.feed(await client.receive(1))
        values += list(unpacker)
    assert values == [
        {"Error": "", "Seq": 7, "ServiceMethod": "Status.Leader"},
        "127.0.0.1:8300",
    ]


async def assert_packets_open(client: Client, port: Port, *before: bytes) -> None:
    """The connection takes packets: those sent before, and another one."""
    await client.send(frame_packet(b"proof"))
    async with asyncio.timeout(DEADLINE):
        for packet in (*before, b"proof"):
            assert await port.packets.get() == packet


# Consul's recorded behaviour ---------------------------------------------------------------------

Case = Callable[[Port, Any], Awaitable[None]]
BEHAVIOUR: dict[str, Case] = {}


def case(name: str) -> Callable[[Case], Case]:
    """Register the check of one recorded case."""

    def register(check: Case) -> Case:
        BEHAVIOUR[name] = check
        return check

    return register


def alpn_case(name: str, *offered: str, chosen: str, sni: str = "server.dc1.consul") -> None:
    async def check(port: Port, certificates: Any) -> None:
        async with connected(port, certificates.beta.context(*offered), sni=sni) as client:
            assert client.alpn == chosen
            if chosen == Alpn.RPC_SINGLE:
                await assert_single_open(client)
            elif chosen == Alpn.RPC_MULTI:
                await assert_multi_open(client)
            elif chosen == Alpn.WAN_GOSSIP_PACKET:
                await assert_packets_open(client, port)
            elif chosen == Alpn.WAN_GOSSIP_STREAM:
                async with asyncio.timeout(DEADLINE):
                    assert await port.handed.get()
            else:
                assert await client.ended() == b""

    BEHAVIOUR[name] = check


for _name in Alpn:
    alpn_case(f"ALPN {_name}", _name, chosen=_name)
# Consul keeps raft, snapshot and gRPC open: nothing of ours serves them yet, so they are closed.
_PACKET, _STREAM = Alpn.WAN_GOSSIP_PACKET, Alpn.WAN_GOSSIP_STREAM
alpn_case("two ALPN offered: foo + packet", "foo", _PACKET, chosen=_PACKET)
alpn_case("two ALPN offered: stream + packet (client order)", _STREAM, _PACKET, chosen=_PACKET)
alpn_case("SNI unrelated", _PACKET, chosen=_PACKET, sni="unrelated.example")
alpn_case("SNI of another DC", _PACKET, chosen=_PACKET, sni="server.dc9.consul")
alpn_case("server certificate of another DC, packet", _PACKET, chosen=_PACKET)
alpn_case("server certificate of another DC, raft", Alpn.RAFT, chosen=Alpn.RAFT)


@case("unknown ALPN foo")
async def unknown_alpn(port: Port, certificates: Any) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        async with connected(port, certificates.beta.context("foo")):
            pass


@case("no ALPN")
async def no_alpn(port: Port, certificates: Any) -> None:
    async with connected(port, certificates.beta.context()) as client:
        assert client.alpn is None
        assert await client.ended() == b""


async def assert_refused(port: Port, context: ssl.SSLContext, alert: str) -> None:
    """With TLS 1.3 the client's handshake is over before the server judges its certificate."""
    async with connected(port, context) as client:
        with pytest.raises(ssl.SSLError, match=alert):
            await client.ended()
    assert port.packets.empty()


@case("no client certificate, packet")
async def no_certificate(port: Port, certificates: Any) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(certificates.alpha.ca_file)
    context.set_alpn_protocols([_PACKET])
    await assert_refused(port, context, "(?i)certificate.required")  # Go says: bad certificate.


@case("self-signed client certificate, packet")
async def stranger(port: Port, certificates: Any) -> None:
    context = certificates.stranger.context(_PACKET, verify=False)
    await assert_refused(port, context, "(?i)unknown.ca")  # Go says: bad certificate.


@case("client-role certificate of the same CA (client.dc1.consul), packet")
async def client_role(port: Port, certificates: Any) -> None:
    """Stricter than Consul, which accepts it: a client's certificate cannot act as a server."""
    async with connected(port, certificates.client.context(_PACKET)) as client:
        assert await client.ended() == b""
    assert port.packets.empty()


@case("TLS 1.2 only")
async def tls12(port: Port, certificates: Any) -> None:
    context = certificates.beta.context(_PACKET)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with connected(port, context) as client:
        assert client.writer.get_extra_info("ssl_object").version() == "TLSv1.2"
        await assert_packets_open(client, port)


@case("TCP connect, send nothing")
async def nothing(port: Port, certificates: Any) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    async with connected(port) as client:
        assert await client.ended() == b""
    assert QUICK <= loop.time() - started < QUICK + 5


@case("half a ClientHello then silence")
async def half_a_hello(port: Port, certificates: Any) -> None:
    hellos = json.loads((VECTORS / "federation" / "client_hello.json").read_text())["hellos"]
    hello = bytes.fromhex(hellos[0]["record_hex"])
    async with connected(port) as client:
        await client.send(hello[: len(hello) // 2])
        assert await client.ended() == b""


def first_byte_case(first: int, answer: bytes = b"") -> None:
    async def check(port: Port, certificates: Any) -> None:
        async with connected(port) as client:
            await client.send(bytes([first]) + bytes(50))
            assert await client.ended() == answer

    BEHAVIOUR[f"first byte {first:#x}"] = check


for _first in (0x08, 0x09, 0x13, 0x14, 0x17, 0x47, 0xFF):
    first_byte_case(_first)
first_byte_case(0x15, b"\x15\x03\x01\x00\x02\x02\x0a")
first_byte_case(0x16, b"\x15\x03\x01\x00\x02\x02\x0a")


def frames_case(name: str, *writes: bytes, packets: tuple[bytes, ...] = (), ends: bool) -> None:
    async def check(port: Port, certificates: Any) -> None:
        async with connected(port, certificates.beta.context(_PACKET)) as client:
            for write in writes:
                await client.send(write)
            if ends:
                assert await client.ended() == b""
            else:
                await assert_packets_open(client, port, *packets)

    BEHAVIOUR[f"packet: {name}"] = check


_LARGEST = b"\xff" * PACKET_SIZE_MAX
_FE, _FD = b"\xfe", b"\xfd" * 20
frames_case("length 0", bytes(4), ends=True)
frames_case("length 4 MiB + 1", struct.pack(">I", PACKET_SIZE_MAX + 1), ends=True)
frames_case(
    "length 4 MiB exactly, body sent", frame_packet(_LARGEST), packets=(_LARGEST,), ends=False
)
frames_case("body of one unknown type byte 0xfe", frame_packet(_FE), packets=(_FE,), ends=False)
frames_case(
    "garbage body then a second frame",
    frame_packet(_FE),
    frame_packet(_FD),
    packets=(_FE, _FD),
    ends=False,
)
frames_case(
    "two frames in one write",
    frame_packet(_FE) + frame_packet(_FD),
    packets=(_FE, _FD),
    ends=False,
)
frames_case(
    "length split in two TLS records", b"\x00\x00", b"\x00\x01\xfe", packets=(_FE,), ends=False
)


@case("packet: truncated body then client closes")
async def truncated(port: Port, certificates: Any) -> None:
    async with connected(port, certificates.beta.context(_PACKET)) as client:
        await client.send(b"\x00\x00\x00\x10half")
        client.writer.close()
        assert await client.ended() == b""
    assert port.packets.empty()


async def silent(port: Port, certificates: Any, sent: bytes, *, then: bytes = b"") -> None:
    """The port sets no limit once a connection speaks: the gossip thread has its own."""
    async with connected(port, certificates.beta.context(_PACKET)) as client:
        await client.send(sent)
        await nothing(port, certificates)  # Meanwhile a whole handshake timeout passes.
        await client.send(then)
        await assert_packets_open(client, port, *([_FE] if then else []))


@case("packet: body promised but silent 15 s")
async def silent_body(port: Port, certificates: Any) -> None:
    await silent(port, certificates, b"\x00\x00\x00\x01", then=_FE)


@case("packet: idle connection")
async def idle_packets(port: Port, certificates: Any) -> None:
    await silent(port, certificates, b"")


@case("stream: unknown type byte")
async def stream_garbage(port: Port, certificates: Any) -> None:
    async with connected(port, certificates.beta.context(_STREAM)) as client:
        await client.send(b"\xfe")
        assert await client.ended() == b""


@case("stream: silence (memberlist TCP timeout)")
async def stream_silence(port: Port, certificates: Any) -> None:
    async with connected(port, certificates.beta.context(_STREAM)) as client:
        await nothing(port, certificates)
        await client.send(b"\xfe")
        assert await client.ended() == b""


def test_every_recorded_case_is_checked() -> None:
    assert {case["case"] for case in CASES} == set(BEHAVIOUR)
    assert len(CASES) == 43


@pytest.mark.parametrize("recorded", CASES, ids=lambda recorded: recorded["case"])
async def test_the_port_behaves_as_recorded_from_consul(
    recorded: dict[str, Any], port: Port, certificates: Any
) -> None:
    await BEHAVIOUR[recorded["case"]](port, certificates)


# Calls in clear ----------------------------------------------------------------------------------


def call(sequence: int, method: str, body: bytes = b"\x80") -> bytes:
    return encode_request(RequestHeader(sequence, method), body)


async def open_stream(client: Client, stream: int, data: bytes, *, flags: int = 0) -> None:
    await client.send(encode_header(FrameType.DATA, SYN | flags, stream, len(data)) + data)
    assert await client.frame() == (Header(FrameType.WINDOW_UPDATE, ACK, stream, 0), b"")


async def answer(client: Client, stream: int) -> list[Any]:
    """The next whole answer, which must be on `stream`."""
    unpacker, values = Unpacker(), list[Any]()
    while len(values) < 2:
        header, data = await client.frame()
        assert (header.kind, header.stream) == (FrameType.DATA, stream)
        unpacker.feed(data)
        values += list(unpacker)
    return values


def fin(stream: int) -> tuple[Header, bytes]:
    return Header(FrameType.WINDOW_UPDATE, FIN, stream, 0), b""


@asynccontextmanager
async def multi(port: Port) -> AsyncIterator[Client]:
    """A yamux connection in clear."""
    async with connected(port) as client:
        await client.send(b"\x04")
        yield client


@pytest.fixture
async def clear() -> AsyncIterator[Port]:
    """A port without TLS."""
    async with open_port() as port:
        yield port


async def test_calls_on_streams_are_answered(clear: Port) -> None:
    async with multi(clear) as client:
        await open_stream(client, 1, call(7, "Status.Leader"))
        assert await answer(client, 1) == [
            {"Error": "", "Seq": 7, "ServiceMethod": "Status.Leader"},
            "127.0.0.1:8300",
        ]
    assert clear.dispatcher.calls == [("Status.Leader", DatacenterRequest())]
    assert clear.dispatcher.peers[0].dcs == frozenset()


async def test_a_captured_consul_connection_is_answered(clear: Port) -> None:
    """The method is not served yet: its caller is told so, and the stream is ended."""
    vector = json.loads((VECTORS / "rpc" / "conn-plain-multiplex-open.json").read_text())
    async with connected(clear) as client:
        await client.send(bytes.fromhex(vector["hex"]))
        assert await client.frame() == (Header(FrameType.WINDOW_UPDATE, ACK, 1, 0), b"")
        error = "rpc: can't find method ACL.RoleList"
        expected = {"Error": error, "Seq": 1, "ServiceMethod": "ACL.RoleList"}
        assert await answer(client, 1) == [expected, {}]
        assert await client.frame() == fin(1)


async def test_a_slow_call_holds_up_no_other_stream(clear: Port) -> None:
    async with multi(clear) as client:
        await open_stream(client, 1, call(1, "Status.Peers"))
        await open_stream(client, 3, call(2, "Status.Ping"))
        assert (await answer(client, 3))[0]["Seq"] == 2
        clear.dispatcher.release.set()
        assert (await answer(client, 1))[0]["Seq"] == 1


async def test_calls_on_one_stream_are_answered_in_order(clear: Port) -> None:
    async with multi(clear) as client:
        await open_stream(client, 1, call(1, "Status.Peers") + call(2, "Status.Ping"))
        async with asyncio.timeout(DEADLINE):
            await clear.dispatcher.held.wait()
        assert [method for method, _ in clear.dispatcher.calls] == ["Status.Peers"]
        clear.dispatcher.release.set()
        assert (await answer(client, 1))[0]["Seq"] == 1
        assert (await answer(client, 1))[0]["Seq"] == 2


async def test_a_call_is_answered_after_its_callers_fin(clear: Port) -> None:
    async with multi(clear) as client:
        await open_stream(client, 1, call(1, "Status.Peers"), flags=FIN)
        clear.dispatcher.release.set()
        assert (await answer(client, 1))[0]["Seq"] == 1
        assert await client.frame() == fin(1)


async def test_an_empty_stream_ends_alone(clear: Port) -> None:
    async with multi(clear) as client:
        await client.send(encode_header(FrameType.WINDOW_UPDATE, SYN | FIN, 1, 0))
        assert await client.frame() == (Header(FrameType.WINDOW_UPDATE, ACK, 1, 0), b"")
        assert await client.frame() == fin(1)
        await open_stream(client, 3, call(1, "Status.Ping"))
        assert (await answer(client, 3))[0]["Seq"] == 1


@pytest.mark.parametrize(
    "failure", [NoLeader(), RequestError("Permission denied"), RequestError("")]
)
async def test_an_error_of_a_call_leaves_its_stream_open(clear: Port, failure: Exception) -> None:
    clear.dispatcher.failure = failure
    async with multi(clear) as client:
        await open_stream(client, 1, call(1, "Status.Leader"))
        header, body = await answer(client, 1)
        assert (header["Error"], body) == (str(failure) or "RequestError", {})
        clear.dispatcher.failure = None
        data = call(2, "Status.Ping")
        await client.send(encode_header(FrameType.DATA, 0, 1, len(data)) + data)
        assert (await answer(client, 1))[0] == {
            "Error": "",
            "Seq": 2,
            "ServiceMethod": "Status.Ping",
        }


async def test_a_bug_in_a_call_is_told_without_its_details(
    clear: Port, caplog: pytest.LogCaptureFixture
) -> None:
    clear.dispatcher.failure = KeyError("secret")
    async with multi(clear) as client:
        await open_stream(client, 1, call(1, "Status.Leader"))
        assert (await answer(client, 1))[0]["Error"] == "internal error"
    assert "a call failed" in caplog.text


@pytest.mark.parametrize(
    ("body", "error"),
    [(pack({"Datacenter": 1}), "Datacenter"), (b"\xc1", "codec.decoder"), (b"\x01", "a map")],
)
async def test_an_argument_of_another_shape_ends_the_stream(
    clear: Port, body: bytes, error: str
) -> None:
    async with multi(clear) as client:
        await open_stream(client, 1, call(1, "Status.Leader", body))
        header, _ = await answer(client, 1)
        assert header["Error"].startswith("codec.decoder: ")
        assert error in header["Error"]
        assert await client.frame() == fin(1)
        await open_stream(client, 3, call(2, "Status.Ping"))
        assert (await answer(client, 3))[0]["Seq"] == 2


async def test_a_reset_cancels_its_call(clear: Port) -> None:
    async with multi(clear) as client:
        await open_stream(client, 1, call(1, "Status.Peers"))
        async with asyncio.timeout(DEADLINE):
            await clear.dispatcher.held.wait()
            await client.send(encode_header(FrameType.WINDOW_UPDATE, RST, 1, 0))
            await clear.dispatcher.cancelled.wait()


@pytest.mark.parametrize("first", [b"\x04", b"\x00"])
async def test_the_end_of_a_connection_cancels_its_calls(clear: Port, first: bytes) -> None:
    async with connected(clear) as client:
        data = call(1, "Status.Peers")
        if first == b"\x04":
            data = encode_header(FrameType.DATA, SYN, 1, len(data)) + data
        await client.send(first + data)
        async with asyncio.timeout(DEADLINE):
            await clear.dispatcher.held.wait()
        # Without yamux a mere end could be half a close, after which an answer is still wanted.
        sock = client.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    async with asyncio.timeout(DEADLINE):
        await clear.dispatcher.cancelled.wait()


async def test_an_answer_above_the_window_waits_for_its_reader(clear: Port) -> None:
    clear.dispatcher.leader = "x" * 1_000_000
    async with multi(clear) as client:
        await open_stream(client, 1, call(1, "Status.Leader") + call(2, "Status.Ping"))
        received = b""
        while len(received) < 262_144:
            received += (await client.frame())[1]
        assert len(received) == 262_144
        assert len(clear.dispatcher.calls) == 1  # The next call waits too.
        await client.send(encode_header(FrameType.WINDOW_UPDATE, 0, 1, 900_000))
        unpacker = Unpacker()
        unpacker.feed(received)
        values = list(unpacker)
        while len(values) < 4:
            unpacker.feed((await client.frame())[1])
            values += list(unpacker)
        assert values[1] == "x" * 1_000_000
        assert len(clear.dispatcher.calls) == 2


async def test_streams_above_the_limit_are_reset() -> None:
    async with open_port(session=SessionConfig(streams_max=1)) as port, multi(port) as client:
        await open_stream(client, 1, call(1, "Status.Peers"))
        data = call(2, "Status.Ping")
        await client.send(encode_header(FrameType.DATA, SYN, 3, len(data)) + data)
        assert await client.frame() == (Header(FrameType.WINDOW_UPDATE, RST, 3, 0), b"")


async def test_a_broken_session_ends_its_connection(clear: Port) -> None:
    async with multi(clear) as client:
        await client.send(b"\xff" * 12)
        assert await client.ended() == encode_header(FrameType.GO_AWAY, 0, 0, 1)


async def test_a_single_channel_is_served_until_its_callers_end(clear: Port) -> None:
    async with connected(clear) as client:
        await client.send(b"\x00" + call(1, "Status.Peers") + LEADER_CALL)
        client.writer.write_eof()
        clear.dispatcher.release.set()
        values = Unpacker()
        values.feed(await client.ended())
        headers = [value for value in values if isinstance(value, dict)]
        assert [header["Seq"] for header in headers] == [1, 7]


async def test_a_single_channel_ends_with_what_it_cannot_read(clear: Port) -> None:
    async with connected(clear) as client:
        await client.send(b"\x00" + call(1, "Status.Leader", b"\xc1"))
        assert b"codec.decoder" in await client.ended()


@pytest.mark.parametrize("first", [1, 2, 3, 5, 6, 7, 8, 9, 0x16, 0xFF])
async def test_what_is_not_served_is_closed(clear: Port, first: int) -> None:
    async with connected(clear) as client:
        await client.send(bytes([first]) + b"hello")
        assert await client.ended() == b""


# TLS behind the type byte ------------------------------------------------------------------------


@asynccontextmanager
async def announced_tls(port: Port, context: ssl.SSLContext) -> AsyncIterator[Client]:
    """Type byte 3, then TLS."""
    async with connected(port) as client:
        await client.send(b"\x03")
        async with asyncio.timeout(DEADLINE):
            await client.writer.start_tls(context, server_hostname="server.dc1.consul")
        yield client


@pytest.mark.parametrize("first", [b"\x04", b"\x00"])
async def test_a_second_type_byte_is_served_inside_tls(
    port: Port, certificates: Any, first: bytes
) -> None:
    async with announced_tls(port, certificates.client.context()) as client:
        await client.send(first)
        if first == b"\x04":
            await assert_multi_open(client)
        else:
            await assert_single_open(client)


async def test_nothing_behind_the_second_type_byte_is_lost(port: Port, certificates: Any) -> None:
    async with announced_tls(port, certificates.client.context()) as client:
        await client.send(b"\x00" + LEADER_CALL)
        await assert_leader_answer(client)


@pytest.mark.parametrize("first", [b"\x03", b"\x07", b"\x05", b"\x16"])
async def test_other_second_bytes_are_refused(port: Port, certificates: Any, first: bytes) -> None:
    async with announced_tls(port, certificates.alpha.context()) as client:
        await client.send(first)
        assert await client.ended() == b""


async def test_a_missing_second_byte_is_not_waited_for(port: Port, certificates: Any) -> None:
    async with announced_tls(port, certificates.alpha.context()) as client:
        assert await client.ended() == b""


async def test_end_inside_tls_before_the_inner_byte_is_a_refusal(
    port: Port, certificates: Any
) -> None:
    context = certificates.alpha.context()
    async with stream_caller(port.number, context=context, preamble=b"") as caller:
        await caller.end()
        with pytest.raises(ConnectionResetError):
            await caller.answer()
    assert port.listener.connection_count == 0


@pytest.mark.parametrize("preamble", [b"\x00", b"\x04"])
async def test_end_inside_tls_ends_a_connection_that_is_no_snapshots(
    port: Port, certificates: Any, preamble: bytes
) -> None:
    """The peer ends TLS and leaves TCP open: asyncio closes, unless `outlive_end` is asked to."""
    context = certificates.alpha.context()
    async with stream_caller(port.number, context=context, preamble=preamble) as caller:
        await caller.end()
        assert await caller.answer() == b""


async def test_announced_tls_demands_a_certificate_of_the_ca(port: Port, certificates: Any) -> None:
    async with announced_tls(port, certificates.stranger.context(verify=False)) as client:
        with pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca"):
            await client.ended()


async def test_callers_are_known_by_their_certificate(port: Port, certificates: Any) -> None:
    async with connected(port, certificates.beta.context(Alpn.RPC_SINGLE)) as client:
        await assert_single_open(client)
        host, number = client.writer.get_extra_info("sockname")
    assert port.dispatcher.peers == [
        PeerInfo(
            host,
            number,
            ("beta.server.dc2.consul", "server.dc2.consul", "localhost"),
            frozenset({"dc2"}),
            Alpn.RPC_SINGLE,
        )
    ]


@pytest.mark.parametrize("allowed", [False, True])
async def test_a_client_is_known_by_its_certificate_behind_the_type_byte(
    certificates: Any, allowed: bool
) -> None:
    """Native TLS does not let it in; announced TLS does, for client agents use it."""
    async with (
        open_port(certificates.alpha, allow_client_certificates=allowed) as port,
        announced_tls(port, certificates.client.context()) as client,
    ):
        await client.send(b"\x00")
        await assert_single_open(client)
    (peer,) = port.dispatcher.peers
    assert (peer.names, peer.dcs) == (("client.dc1.consul", "localhost"), frozenset())
    assert peer.is_client is not allowed


# Limits ------------------------------------------------------------------------------------------


async def test_limit_changes_while_connections_are_open() -> None:
    async with (
        open_port(connections_per_client=1, handshake_timeout=DEADLINE) as port,
        connected(port) as first,
    ):
        await first.send(b"\x04")
        await assert_multi_open(first)
        port.listener.reconfigure(ListenerConfig(connections_per_client=2))
        async with connected(port) as second:
            await second.send(b"\x04")
            await assert_multi_open(second)
            async with connected(port) as third:
                assert await third.ended() == b""


async def test_connections_of_one_address_are_limited_and_given_back() -> None:
    async with open_port(connections_per_client=2, handshake_timeout=DEADLINE) as port:
        async with connected(port) as first, connected(port) as second:
            await first.send(b"\x04")
            await assert_multi_open(first)
            await second.send(b"\x04")
            await assert_multi_open(second)
            async with connected(port) as third:
                assert await third.ended() == b""
            assert port.listener.refused_count == 1
            first.writer.close()
            await first.ended()
        async with connected(port) as fourth:
            await fourth.send(b"\x04")
            await assert_multi_open(fourth)
            assert port.listener.connection_count == 1


async def test_a_gateways_address_has_a_limit_of_its_own() -> None:
    async with (
        open_port(
            connections_per_client=1,
            connections_per_gateway=3,
            gateway=True,
            handshake_timeout=DEADLINE,
        ) as port,
        AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(connected(port)) for _ in range(3)]
        for client in clients:
            await client.send(b"\x04")
            await assert_multi_open(client)
        async with connected(port) as fourth:
            assert await fourth.ended() == b""
        assert port.listener.refused_count == 1


async def test_crowds_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async with open_port(connections_per_client=1, handshake_timeout=DEADLINE) as port:
        async with connected(port) as first:
            await first.send(b"\x04")
            await assert_multi_open(first)
            for _ in range(5):
                async with connected(port) as other:
                    assert await other.ended() == b""
        assert port.listener.refused_count == 5
    assert caplog.text.count("too many connections of one address") == 1


async def test_callers_that_take_no_answers_share_one_bound() -> None:
    """Two of 1 MB fit; the third caller's makes the one with most give way."""
    async with open_port(unsent_total_max=2_500_000, handshake_timeout=DEADLINE) as port:
        port.dispatcher.leader = "x" * 1_000_000
        async with multi(port) as greedy, multi(port) as modest:
            for stream in (1, 3):
                await open_stream(greedy, stream, call(1, "Status.Leader"))
                received = 0
                while received < 262_144:  # The window; the rest waits.
                    received += len((await greedy.frame())[1])
            await open_stream(modest, 1, call(1, "Status.Leader"))
            assert (await modest.frame())[1]
            await greedy.ended()
            assert port.listener.connection_count == 1
            await assert_multi_open_behind(modest)


async def test_incomplete_requests_share_one_bound() -> None:
    """Who holds most gives way, also when another brings the last byte."""
    async with open_port(incomplete_total_max=200_000, handshake_timeout=DEADLINE) as port:
        begun = call(1, "Status.Leader", b"\xc6" + struct.pack(">I", 300_000))
        async with multi(port) as large, multi(port) as small:
            await open_stream(large, 1, begun + bytes(150_000))
            await open_stream(small, 1, begun + bytes(60_000))
            await large.ended()
            await assert_multi_open_behind(small)


async def assert_multi_open_behind(client: Client) -> None:
    """The session answers a ping behind the answers that are on their way."""
    await client.send(encode_header(FrameType.PING, SYN, 0, 5))
    while (await client.frame())[0] != Header(FrameType.PING, ACK, 0, 5):
        pass


async def test_reasons_of_refusals_do_not_fill_the_log(
    clear: Port, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "isthmus.net.listener")
    for _ in range(REASONS_TOLD_MAX + 5):
        async with connected(clear) as client:
            await client.send(b"\x02")
            assert await client.ended() == b""
    async with connected(clear) as client:
        await client.send(b"\x05")
        assert await client.ended() == b""
    assert caplog.text.count("unrecognized RPC byte: 2") == REASONS_TOLD_MAX
    assert caplog.text.count("further refusals of this kind") == 1
    assert caplog.text.count("snapshot is not served") == 1


async def test_garbage_hides_no_other_reason(port: Port, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "isthmus.net.listener")
    for first in (*range(0x20, 0x50), *range(0x80, 0x100)):
        async with connected(port) as client:
            await client.send(bytes([first]))
            await client.ended()
    async with connected(port) as client:
        await client.send(b"\x00")
        await client.ended()
    assert caplog.text.count("neither a type byte nor TLS") == REASONS_TOLD_MAX
    assert caplog.text.count("Non-TLS connection attempted") == 1


async def test_handed_over_connections_count_until_they_are_lost(certificates: Any) -> None:
    async with open_port(certificates.alpha, connections_per_client=1) as port:
        context = certificates.beta.context(_PACKET)
        async with connected(port, context) as client:
            await assert_packets_open(client, port)
            async with connected(port) as second:
                assert await second.ended() == b""
            await client.send(bytes(4))
            assert await client.ended() == b""
        async with asyncio.timeout(DEADLINE):
            while port.listener.connection_count:  # noqa: ASYNC110
                await asyncio.sleep(0)  # Its end passes through both loops.
        async with connected(port, context) as client:
            await assert_packets_open(client, port)


async def test_closing_cancels_calls_and_closes_connections(clear: Port) -> None:
    async with multi(clear) as client:
        await open_stream(client, 1, call(1, "Status.Peers"))
        async with asyncio.timeout(DEADLINE):
            await clear.dispatcher.held.wait()
            await clear.listener.close()
            assert clear.dispatcher.cancelled.is_set()
        assert await client.ended() == b""
        assert clear.listener.connection_count == 0
        with pytest.raises(ConnectionRefusedError):
            async with connected(clear):
                pass


@pytest.mark.parametrize("first", [b"\x00", b"\x04", b"\x03", b"\x16"])
async def test_random_bytes_cost_their_sender_its_connection_only(
    port: Port, clear: Port, certificates: Any, first: bytes
) -> None:
    rng = Random(first[0])
    for each in (port, clear):
        for _ in range(10):
            async with connected(each) as client:
                await client.send(first + rng.randbytes(rng.randrange(1, 2000)))
                client.writer.write_eof()
                await client.ended()
    async with connected(port, certificates.beta.context(Alpn.RPC_MULTI)) as client:
        await assert_multi_open(client)
    async with multi(clear) as client:
        await assert_multi_open(client)
