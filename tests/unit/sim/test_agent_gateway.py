import asyncio
from collections.abc import Iterator, Sequence
from random import Random

import pytest

from isthmus.errors import MalformedPacket, Unavailable
from isthmus.gateway.config import GatewayConfig
from isthmus.gateway.registration import GatewayService
from isthmus.mesh.routes import Endpoint, Route, RouteKind, RouteTable
from isthmus.net.network import Inbound, TlsAccept, TlsDial
from isthmus.net.tls import HandshakeEnded
from isthmus.sim.agent_gateway import ForwardingGateway, request
from support.fabrics import LATENCY, Accept, Lab, Recorder, Site

NAME = "gamma.server.dc2.consul"
DIAL = TlsDial(NAME)
TLS = TlsAccept(require_client=True, alpn=False)
AGENT = ("10.0.2.1", 8500)


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    yield made
    made.close()


class Agent:
    """An agent's HTTP door: knows the gateway once it has registered, and a route table."""

    def __init__(self, lab: Lab) -> None:
        self.requests: list[str] = []
        self.is_registered = False
        self.table = RouteTable()
        self._changed = asyncio.Event()
        door = Accept()
        door.on_accept = self._accept
        lab.listen(lab.gamma, door, AGENT[1])

    def show(self, *endpoints: tuple[str, int]) -> None:
        """Let the gateway's name lead to these endpoints."""
        ends = tuple(Endpoint(host, port) for host, port in endpoints)
        route = Route(RouteKind.LOCAL_SERVER, "dc2", ends)
        self.table = RouteTable({NAME: route}, hash=f"{len(self.requests):016x}")
        self._changed.set()

    def forget(self) -> None:
        """Know the gateway no more, as after a restart."""
        self.is_registered = False
        self._changed.set()

    async def _accept(self, inbound: Inbound) -> None:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        await inbound.start(protocol, tls=None)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line = head.partition("\r\n")[0]
        self.requests.append(line.removesuffix(" HTTP/1.1"))
        status, body = await self._answer(line)
        writer = asyncio.StreamWriter(
            protocol._transport,  # type: ignore[attr-defined]
            protocol,
            reader,
            asyncio.get_running_loop(),
        )
        writer.write(f"HTTP/1.1 {status} So\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        writer.close()

    async def _answer(self, line: str) -> tuple[int, bytes]:
        if "/service/register" in line:
            self.is_registered = True
            return 200, b""
        if f"hash={self.table.hash}&" in line:
            self._changed.clear()
            await self._changed.wait()
        return (200, self.table.to_json()) if self.is_registered else (404, b"unknown service")


class Street:
    """A gateway with its agent, and servers behind it."""

    def __init__(self, lab: Lab, config: GatewayConfig | None = None) -> None:
        self.lab, self.agent = lab, Agent(lab)
        service = GatewayService(lan=("10.0.2.9", 8443), wan=None, exposes_servers=True)
        self.gateway = ForwardingGateway(
            lab.gate.network, service, agent=AGENT, rng=Random(1), config=config
        )
        self.running = lab.gate.loop.create_task(self.gateway.run())
        lab.sleep(0.5)

    def server(self, port: int, accept: Accept | None = None) -> Accept:
        accept = accept or Accept(TLS)
        self.lab.listen(self.lab.gamma, accept, port)
        return accept

    def dial(self, tls: TlsDial = DIAL, *, timeout: float = 10.0) -> Recorder:
        network = self.lab.alpha.network
        work = network.dial(Recorder, "10.0.2.9", 8443, tls=tls, timeout=timeout)
        made = self.lab.run(self.lab.alpha, work)
        self.lab.sleep(LATENCY * 5)
        return made

    def show(self, *ports: int, hosts: Sequence[Site] = ()) -> None:
        """Let the gateway know endpoints: ports of gamma, then hosts' port 80."""
        ends = [("10.0.2.1", port) for port in ports]
        ends += [(site.host.addresses[0], 80) for site in hosts]
        self.agent.show(*ends)
        self.lab.sleep(0.5)


def test_gateway_registers_once_and_follows_the_routes(lab: Lab) -> None:
    street = Street(lab)
    assert street.agent.requests[0] == "PUT /v1/agent/service/register"
    assert street.agent.requests[1].startswith("GET /v1/isthmus/gateway/mesh-gateway/routes?hash=&")
    street.show(8300)
    assert street.gateway.routes == street.agent.table
    street.agent.forget()
    lab.sleep(2)
    assert street.agent.requests.count("PUT /v1/agent/service/register") == 2


def test_gateway_keeps_its_routes_while_the_agent_is_away(lab: Lab) -> None:
    street = Street(lab)
    street.show(8300)
    known = street.gateway.routes
    lab.gamma.host.kill()
    lab.sleep(120)
    assert street.gateway.routes == known
    assert not street.running.done()


def test_bytes_go_both_ways_to_the_server_that_the_name_means(lab: Lab) -> None:
    street = Street(lab)
    server = street.server(8300)
    street.show(8300)
    near = street.dial()
    (far,) = server.made
    near.transport.write(b"question " * 5000)
    far.transport.write(b"answer")
    lab.sleep(1)
    assert (far.data, near.data) == (b"question " * 5000, b"answer")
    assert far.transport.get_extra_info("peername")[0] == "10.0.2.9"
    assert street.gateway.forwarded_size > 45_000
    assert street.gateway.connection_count == 2
    near.transport.close()
    lab.sleep(1)
    assert far.lost == [None]
    assert street.gateway.connection_count == 0


def test_reset_is_passed_on(lab: Lab) -> None:
    street = Street(lab)
    server = street.server(8300)
    street.show(8300)
    near = street.dial()
    server.made[0].transport.abort()
    lab.sleep(1)
    assert isinstance(near.lost[0], ConnectionResetError)


@pytest.mark.parametrize("name", ["beta.server.dc9.consul", ""])
def test_unknown_name_is_refused(lab: Lab, name: str) -> None:
    street = Street(lab)
    street.show(8300)
    with pytest.raises(HandshakeEnded):
        street.dial(TlsDial(name))
    assert street.gateway.connection_count == 0


def test_client_that_speaks_no_tls_or_nothing_is_closed(lab: Lab) -> None:
    street = Street(lab, GatewayConfig(hello_timeout=3.0))
    street.show(8300)

    async def knock(data: bytes) -> Recorder:
        made = await lab.alpha.network.dial(Recorder, "10.0.2.9", 8443, tls=None, timeout=5)
        if data:
            made.transport.write(data)
        return made

    for data in (b"GET / HTTP/1.1\r\n\r\n", b""):
        near = lab.run(lab.alpha, knock(data))
        lab.sleep(4)
        assert near.lost == [None]


def test_endpoint_that_refuses_is_passed_over(lab: Lab) -> None:
    street = Street(lab)
    server = street.server(8300)
    street.show(8301, 8300, 8302)
    for _ in range(3):
        street.dial()
    assert len(server.made) == 3


def test_endpoint_that_accepts_and_says_nothing_is_overtaken(lab: Lab) -> None:
    street = Street(lab)
    silent = Accept()

    async def say_nothing(inbound: Inbound) -> None:
        await inbound.start(Recorder(), tls=None)

    silent.on_accept = say_nothing
    street.server(8301, silent)
    server = street.server(8300)
    street.show(8301, 8300)
    began = lab.timeline.now
    for _ in range(2):
        street.dial()
    assert len(server.made) == 2
    assert lab.timeline.now - began < 2


def test_client_is_let_go_when_no_endpoint_is_left(lab: Lab) -> None:
    street = Street(lab)
    street.show(8301, 8302)
    with pytest.raises(HandshakeEnded):
        street.dial()
    assert street.gateway.connection_count == 0


def test_client_that_gives_up_takes_the_attempts_along(lab: Lab) -> None:
    street = Street(lab)
    silent = Accept()
    silent.on_accept = lambda inbound: asyncio.sleep(1000)
    street.server(8301, silent)
    street.show(8301)
    with pytest.raises(TimeoutError):
        street.dial(timeout=1.0)
    lab.sleep(1)
    assert street.gateway.connection_count == 0


def test_gateway_that_ends_closes_its_ports(lab: Lab) -> None:
    street = Street(lab)
    street.running.cancel()
    lab.sleep(0.1)
    assert lab.gate.host.listeners == {}


def test_request_without_an_agent_is_unavailable(lab: Lab) -> None:
    work = request(lab.beta.network, ("10.0.1.1", 8500), "GET", "/v1/status/leader", timeout=1)
    with pytest.raises(Unavailable, match=r"10\.0\.1\.1:8500: .*refused"):
        lab.run(lab.beta, work)


def test_request_to_something_else_is_malformed(lab: Lab) -> None:
    accept = Accept()

    async def answer(inbound: Inbound) -> None:
        made = await inbound.start(Recorder(), tls=None)
        made.transport.write(b"SSH-2.0-OpenSSH\r\n")
        made.transport.close()

    accept.on_accept = answer
    lab.listen(lab.beta, accept)
    with pytest.raises(MalformedPacket):
        lab.run(lab.alpha, request(lab.alpha.network, ("10.0.1.2", 80), "GET", "/", timeout=5))
