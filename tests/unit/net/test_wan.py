"""Dialling through gateways that work, are dead, hang or know no route; gossip on top."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from isthmus.errors import DialFailed, InvalidNodeName, Unavailable
from isthmus.model.query import DatacenterRequest
from isthmus.names import Alpn
from isthmus.net.client import ServerTarget
from isthmus.net.direct import DirectDialer
from isthmus.net.listener import ListenerConfig, ServerListener
from isthmus.net.network import Inbound, TlsAccept
from isthmus.net.pool import RpcPool
from isthmus.net.sockets import SocketNetwork
from isthmus.net.tls import TlsConfig, TlsConfigurator
from isthmus.net.wan import (
    CarrierConfig,
    FederatedDialer,
    GatewayDialer,
    GatewayOutcome,
    GossipCarrier,
)
from isthmus.rpc.packets import PacketReader
from support.certificates import Certificate
from support.rpc_server import SteeredDispatcher

DEADLINE = 10.0
BETA = "beta.server.dc2.consul"
NATIVE = TlsAccept(require_client=True, alpn=True)


def network_of(certificate: Certificate) -> SocketNetwork:
    return SocketNetwork(
        TlsConfigurator(
            TlsConfig(
                ca_file=str(certificate.ca_file),
                cert_file=str(certificate.cert_file),
                key_file=str(certificate.key_file),
            )
        )
    )


class Pipe(asyncio.Protocol):
    """One end of a relayed connection."""

    def __init__(self) -> None:
        self.other: asyncio.Transport | None = None
        self.early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self.early += data
        else:
            self.other.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None:
            self.other.abort()


class Relay:
    """A mesh gateway: forwards by server name, without decrypting."""

    def __init__(self, routes: dict[str, int]) -> None:
        self.routes = routes
        self.hangs = False
        self.accepted_count = 0
        self._open: list[Any] = []

    async def accept(self, inbound: Inbound) -> None:
        self.accepted_count += 1
        if self.hangs:
            self._open.append(inbound)
            return
        hello = await inbound.hello()
        if hello is None or hello.server_name not in self.routes:
            inbound.close()
            return
        network, port = SocketNetwork(), self.routes[hello.server_name]
        far = await network.dial(Pipe, "127.0.0.1", port, tls=None, timeout=DEADLINE)
        near = await inbound.start(Pipe(), tls=None)
        near.other, far.other = far.transport, near.transport
        far.transport.write(near.early)
        near.transport.write(far.early)
        self._open += [near, far]

    def cut(self) -> None:
        """Drop every connection."""
        for held in self._open:
            if isinstance(held, Pipe):
                held.transport.abort()
            else:
                held.close()
        self._open.clear()


@asynccontextmanager
async def relaying(routes: dict[str, int]) -> AsyncIterator[tuple[Relay, tuple[str, int]]]:
    relay = Relay(routes)
    listening = await SocketNetwork().listen("127.0.0.1", 0, relay.accept)
    try:
        yield relay, listening.address
    finally:
        await listening.close()
        relay.cut()


class Receiver(asyncio.Protocol):
    """Gossip's receiving end, for packets and streams."""

    def __init__(self, far: "FarServer", *, stream: bool) -> None:
        self._far, self._stream = far, stream
        self._reader = PacketReader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._far.connections.append(transport)

    def data_received(self, data: bytes) -> None:
        if self._stream:
            self._far.connections[-1].write(data[::-1])
            return
        self._reader.receive_data(data)
        for packet in self._reader.take_packets():
            self._far.packets.put_nowait(packet)


@dataclass
class FarServer:
    """Server ``beta`` of dc2."""

    dispatcher: SteeredDispatcher
    port: int = 0
    packets: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    connections: list[asyncio.Transport] = field(default_factory=list)

    async def packet(self) -> bytes:
        async with asyncio.timeout(DEADLINE):
            return await self.packets.get()


@pytest.fixture
async def far(certificates: Any) -> AsyncIterator[FarServer]:
    server = FarServer(SteeredDispatcher())
    network = network_of(certificates.beta)
    tasks: set[asyncio.Task[Any]] = set()

    def take(*, stream: bool) -> Any:
        def taken(inbound: Inbound) -> None:
            work = inbound.start(Receiver(server, stream=stream), tls=NATIVE)
            tasks.add(asyncio.get_running_loop().create_task(work))

        return taken

    listener = ServerListener(
        network,
        ListenerConfig(native_tls=True),
        server.dispatcher,
        on_gossip_packets=take(stream=False),
        on_gossip_stream=take(stream=True),
    )
    await listener.start("127.0.0.1", 0)
    server.port = listener.address[1]
    yield server
    await asyncio.gather(*tasks, return_exceptions=True)
    for transport in server.connections:
        transport.abort()
    await listener.close()


@dataclass
class Near:
    """Our side: server ``alpha`` of dc1, and the gateways it is told of."""

    network: SocketNetwork
    gateways: list[tuple[str, int]] = field(default_factory=list)
    outcomes: list[GatewayOutcome] = field(default_factory=list)

    def dialer(self, **others: Any) -> GatewayDialer:
        return GatewayDialer(self.network, lambda dc: self.gateways, self.outcomes.append, **others)


@pytest.fixture
def near(certificates: Any) -> Near:
    return Near(network_of(certificates.alpha))


class Quiet(asyncio.Protocol):
    """A protocol that keeps what it sees."""

    def __init__(self) -> None:
        self.data = b""
        self.arrived = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.arrived.set()


async def dial(dialer: GatewayDialer, **others: Any) -> Quiet:
    arguments = {"dc": "dc2", "node": "beta", "alpn": Alpn.WAN_GOSSIP_STREAM, **others}
    arguments.setdefault("timeout", DEADLINE)
    return await dialer.dial(Quiet, **arguments)


@pytest.fixture
def dead() -> Any:
    """An address that refuses connections."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    with sock:
        yield sock.getsockname()


# One dial ----------------------------------------------------------------------------------------


async def test_a_server_is_reached_through_a_gateway(far: FarServer, near: Near) -> None:
    async with relaying({BETA: far.port}) as (_, address):
        near.gateways.append(address)
        protocol = await dial(near.dialer())
        protocol.transport.write(b"abc")
        async with asyncio.timeout(DEADLINE):
            await protocol.arrived.wait()
        assert protocol.data == b"cba"
        (outcome,) = near.outcomes
        assert (outcome.host, outcome.port, outcome.ok, outcome.step) == (*address, True, "")
        assert (outcome.dc, outcome.node, outcome.alpn) == ("dc2", "beta", protocol_name())
        assert 0 < outcome.seconds < DEADLINE
        protocol.transport.abort()


def protocol_name() -> str:
    return str(Alpn.WAN_GOSSIP_STREAM)


async def test_any_server_is_asked_for_by_the_datacenters_name(far: FarServer, near: Near) -> None:
    async with relaying({"server.dc2.consul": far.port}) as (_, address):
        near.gateways.append(address)
        protocol = await dial(near.dialer(domain="consul."), node="*")
        protocol.transport.abort()


async def test_without_gateways_consuls_text_comes_first(near: Near) -> None:
    with pytest.raises(DialFailed) as caught:
        await dial(near.dialer())
    assert str(caught.value) == (
        "Remote DC has no server currently reachable: no mesh gateway is known that leads there"
        " (datacenter dc2, server beta, step: no gateway known)"
    )
    error = caught.value
    assert (error.dc, error.node, error.gateway, error.step) == (
        "dc2", "beta", "", "no gateway known",
    )  # fmt: skip


async def test_a_dead_gateway_costs_nothing(far: FarServer, near: Near, dead: Any) -> None:
    async with relaying({BETA: far.port}) as (_, address):
        near.gateways += [dead, address]
        protocol = await dial(near.dialer(stagger=DEADLINE))
        assert [outcome.ok for outcome in near.outcomes] == [False, True]
        assert near.outcomes[0].step == "connect"
        assert "connection refused" in near.outcomes[0].text
        protocol.transport.abort()


async def test_a_hanging_gateway_costs_a_stagger(far: FarServer, near: Near) -> None:
    async with relaying({}) as (hanging, first), relaying({BETA: far.port}) as (_, second):
        hanging.hangs = True
        near.gateways += [first, second]
        loop = asyncio.get_running_loop()
        started = loop.time()
        protocol = await dial(near.dialer(stagger=0.02))
        assert 0.02 <= loop.time() - started < 5
        assert hanging.accepted_count == 1
        assert [outcome.port for outcome in near.outcomes] == [second[1]]
        protocol.transport.abort()


async def test_a_gateway_that_hangs_alone_is_given_up_in_time(near: Near) -> None:
    async with relaying({}) as (hanging, address):
        hanging.hangs = True
        near.gateways.append(address)
        with pytest.raises(DialFailed, match="TLS handshake with") as caught:
            await dial(near.dialer(), timeout=0.05)
        assert (caught.value.step, caught.value.gateway) == (
            "deadline", f"127.0.0.1:{address[1]}",
        )  # fmt: skip
        assert [outcome.step for outcome in near.outcomes] == ["deadline"]


async def test_a_gateway_without_route_is_named(near: Near) -> None:
    async with relaying({}) as (_, address):
        near.gateways.append(address)
        with pytest.raises(DialFailed, match="ended the connection in the handshake") as caught:
            await dial(near.dialer())
        assert caught.value.step == "route"


async def test_the_answering_server_must_be_the_one_asked_for(far: FarServer, near: Near) -> None:
    async with relaying({"gamma.server.dc2.consul": far.port}) as (_, address):
        near.gateways.append(address)
        with pytest.raises(DialFailed, match=r"not valid for 'gamma\.server\.dc2\.consul'"):
            await dial(near.dialer(), node="gamma")


async def test_every_gateway_that_failed_is_named(near: Near, dead: Any) -> None:
    async with relaying({}) as (_, address):
        near.gateways += [dead, address, dead]
        with pytest.raises(DialFailed) as caught:
            await dial(near.dialer())
        text = str(caught.value)
        gateways = f"127.0.0.1:{dead[1]}, 127.0.0.1:{address[1]}"
        assert f"(datacenter dc2, server beta, gateways {gateways}, step: connect)" in text
        assert len(near.outcomes) == 2


async def test_losers_of_the_race_are_closed(far: FarServer, near: Near) -> None:
    """Two gateways that both work, the first one slow to start: one connection remains."""
    async with relaying({BETA: far.port}) as (_, first), relaying({BETA: far.port}) as (_, second):
        near.gateways += [first, second]
        protocol = await dial(near.dialer(stagger=0.0001))
        protocol.transport.write(b"ab")
        async with asyncio.timeout(DEADLINE):
            await protocol.arrived.wait()
            while sum(not t.is_closing() for t in far.connections) != 1:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        assert protocol.data == b"ba"
        protocol.transport.abort()


async def test_a_dial_that_is_given_up_leaves_nothing_open(near: Near) -> None:
    async with relaying({}) as (hanging, address):
        hanging.hangs = True
        near.gateways.append(address)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await dial(near.dialer())
        assert near.outcomes == []


# RPC ---------------------------------------------------------------------------------------------


async def test_calls_to_other_datacenters_go_through_gateways(
    far: FarServer, near: Near, certificates: Any
) -> None:
    own = SteeredDispatcher(leader="own")
    listener = ServerListener(SocketNetwork(), ListenerConfig(), own)
    await listener.start("127.0.0.1", 0)
    async with relaying({BETA: far.port}) as (relay, address):
        near.gateways.append(address)
        dialer = FederatedDialer(DirectDialer(near.network), near.dialer(), "DC1")
        pool = RpcPool(dialer)

        async def leader(target: ServerTarget) -> Any:
            return await pool.call(
                target, "Status.Leader", DatacenterRequest(), str, timeout=DEADLINE
            )

        assert await leader(ServerTarget("dc1", "alpha", *listener.address)) == "own"
        assert relay.accepted_count == 0
        # The address of a server elsewhere is nowhere near: only the gateway can lead to it.
        assert await leader(ServerTarget("dc2", "beta", "192.0.2.2", 1)) == "127.0.0.1:8300"
        assert relay.accepted_count == 1
        assert far.dispatcher.peers[0].alpn == Alpn.RPC_MULTI
        assert far.dispatcher.peers[0].dcs == {"dc1"}
        await pool.close()
    await listener.close()


async def test_without_gateways_other_datacenters_are_dialled_directly(near: Near) -> None:
    dispatcher = SteeredDispatcher()
    listener = ServerListener(SocketNetwork(), ListenerConfig(), dispatcher)
    await listener.start("127.0.0.1", 0)
    pool = RpcPool(FederatedDialer(DirectDialer(near.network), None, "dc1"))
    target = ServerTarget("dc2", "beta", *listener.address)
    assert await pool.call(target, "Status.Leader", DatacenterRequest(), str, timeout=DEADLINE)
    await pool.close()
    await listener.close()


# Gossip ------------------------------------------------------------------------------------------


@dataclass
class Carrying:
    carrier: GossipCarrier
    relay: Relay


@asynccontextmanager
async def carrying(far: FarServer, near: Near, **limits: Any) -> AsyncIterator[Carrying]:
    async with relaying({BETA: far.port, "server.dc2.consul": far.port}) as (relay, address):
        near.gateways[:] = [address]
        carrier = GossipCarrier(near.dialer(), "dc1", CarrierConfig(**limits))
        yield Carrying(carrier, relay)
        await carrier.close()


async def test_only_other_datacenters_are_carried(near: Near) -> None:
    carrier = GossipCarrier(near.dialer(), "dc1")
    assert carrier.carries("beta.dc2")
    assert not carrier.carries("alpha.dc1")
    assert not carrier.carries("alpha.DC1")
    for name in ("alpha", "a.b.dc2", "alpha."):
        with pytest.raises(InvalidNodeName):
            carrier.carries(name)
    await carrier.close()


async def test_packets_share_one_connection(far: FarServer, near: Near) -> None:
    async with carrying(far, near) as it:
        for number in range(20):
            await it.carrier.send_packet("beta.dc2", b"packet %d" % number)
        for number in range(20):
            assert await far.packet() == b"packet %d" % number
        assert it.relay.accepted_count == it.carrier.connection_count == 1


async def test_packets_that_come_during_the_dial_share_it(far: FarServer, near: Near) -> None:
    async with carrying(far, near) as it:
        packets = [b"packet %d" % number for number in range(20)]
        await asyncio.gather(*(it.carrier.send_packet("beta.dc2", packet) for packet in packets))
        assert [await far.packet() for _ in packets] == packets
        assert it.relay.accepted_count == 1


async def test_each_node_has_its_own_connection(far: FarServer, near: Near) -> None:
    async with carrying(far, near) as it:
        await it.carrier.send_packet("beta.dc2", b"x")
        await it.carrier.send_packet("*.dc2", b"y")
        assert {await far.packet(), await far.packet()} == {b"x", b"y"}
        assert it.relay.accepted_count == 2


async def test_a_connection_closed_by_its_peer_is_noticed_and_replaced(
    far: FarServer, near: Near
) -> None:
    async with carrying(far, near) as it:
        await it.carrier.send_packet("beta.dc2", b"first")
        assert await far.packet() == b"first"
        far.connections[0].close()
        async with asyncio.timeout(DEADLINE):
            while it.carrier.connection_count:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        await it.carrier.send_packet("beta.dc2", b"second")
        assert await far.packet() == b"second"
        assert it.relay.accepted_count == 2


async def test_a_packet_lost_with_an_old_connection_is_sent_again(
    far: FarServer, near: Near
) -> None:
    async with carrying(far, near, resend_window=0.05) as it:
        await it.carrier.send_packet("beta.dc2", b"first")
        assert await far.packet() == b"first"
        far.connections[0].pause_reading()
        await asyncio.sleep(0.1)  # Twice the window: the connection counts as an old one.
        await it.carrier.send_packet("beta.dc2", b"second")
        it.relay.cut()
        assert await far.packet() == b"second"
        assert it.relay.accepted_count == 2
        assert it.carrier.lost_count == 0


async def test_a_packet_that_cannot_be_sent_is_an_error(near: Near, dead: Any) -> None:
    near.gateways.append(dead)
    carrier = GossipCarrier(near.dialer(), "dc1")
    with pytest.raises(Unavailable, match=f"127.0.0.1:{dead[1]}"):
        await carrier.send_packet("beta.dc2", b"x")
    assert carrier.connection_count == 0
    await carrier.close()


async def test_a_hanging_gateway_fails_packets_within_the_dial_timeout(
    far: FarServer, near: Near
) -> None:
    async with carrying(far, near, dial_timeout=0.05) as it:
        it.relay.hangs = True
        with pytest.raises(Unavailable, match="longer than"):
            await it.carrier.send_packet("beta.dc2", b"x")


async def test_no_more_packets_wait_than_the_limit(far: FarServer, near: Near) -> None:
    async with carrying(far, near, waiting_max=2) as it:
        loop = asyncio.get_running_loop()
        tasks = [
            loop.create_task(it.carrier.send_packet("beta.dc2", b"%d" % number))
            for number in range(3)
        ]
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert errors[:2] == [None, None]
        assert "too many packets wait" in str(errors[2])


async def test_packets_for_a_peer_that_does_not_read_are_lost_not_kept(
    far: FarServer, near: Near
) -> None:
    async with carrying(far, near, buffer_size_max=100_000) as it:
        await it.carrier.send_packet("beta.dc2", b"x")
        await far.packet()
        far.connections[0].pause_reading()

        async def flood() -> None:
            for _ in range(10_000):
                await it.carrier.send_packet("beta.dc2", bytes(60_000))

        with pytest.raises(Unavailable, match="backed up"):
            await flood()


async def test_idle_connections_are_closed(far: FarServer, near: Near) -> None:
    async with carrying(far, near, idle_timeout=0.05, resend_window=0.01) as it:
        await it.carrier.send_packet("beta.dc2", b"x")
        await far.packet()
        async with asyncio.timeout(DEADLINE):
            while it.carrier.connection_count:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        await it.carrier.send_packet("beta.dc2", b"y")
        assert await far.packet() == b"y"


async def test_the_connection_unused_for_longest_makes_room(far: FarServer, near: Near) -> None:
    async with carrying(far, near, connections_max=1) as it:
        await it.carrier.send_packet("beta.dc2", b"x")
        await it.carrier.send_packet("*.dc2", b"y")
        assert {await far.packet(), await far.packet()} == {b"x", b"y"}
        assert it.carrier.connection_count == 1


async def test_a_peer_that_answers_on_a_packet_connection_is_left(
    far: FarServer, near: Near
) -> None:
    async with carrying(far, near) as it:
        await it.carrier.send_packet("beta.dc2", b"x")
        await far.packet()
        far.connections[0].write(b"answer")
        async with asyncio.timeout(DEADLINE):
            while it.carrier.connection_count:  # noqa: ASYNC110
                await asyncio.sleep(0.001)


async def test_streams_are_opened_to_nodes(far: FarServer, near: Near) -> None:
    async with carrying(far, near) as it:
        stream = await it.carrier.open_stream("beta.dc2", Quiet, timeout=DEADLINE)
        stream.transport.write(b"state")
        async with asyncio.timeout(DEADLINE):
            await stream.arrived.wait()
        assert stream.data == b"etats"
        stream.transport.abort()
        with pytest.raises(Unavailable):
            await it.carrier.open_stream("gamma.dc2", Quiet, timeout=DEADLINE)


async def test_a_carrier_made_on_one_thread_works_on_anothers_loop(
    far: FarServer, near: Near
) -> None:
    """The agent makes it, the gossip thread uses it."""
    async with carrying(far, near) as it:

        async def elsewhere() -> None:
            await it.carrier.send_packet("beta.dc2", b"x")
            await it.carrier.close()

        await asyncio.get_running_loop().run_in_executor(None, asyncio.run, elsewhere())
        assert await far.packet() == b"x"
