import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from isthmus.net.network import DatagramRefused
from isthmus.sim.fabric import BACKLOG, DATAGRAM_BUFFER_SIZE
from support.fabrics import LATENCY, Accept, Lab, Recorder, Site


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    yield made
    made.close()


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.seen: list[tuple[bytes, tuple[Any, ...]]] = []
        self.errors: list[Exception] = []
        self.transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.DatagramTransport)
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self.seen.append((data, addr))

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)


def open_socket(lab: Lab, site: Site, port: int = 7) -> Datagrams:
    protocol = Datagrams()
    lab.run(site, site.network.datagram(lambda: protocol, site.host.addresses[0], port))
    return protocol


def dial(lab: Lab, source: Site, host: str, port: int = 80, *, timeout: float = 5) -> Recorder:
    return lab.run(source, source.network.dial(Recorder, host, port, tls=None, timeout=timeout))


# Connecting ---------------------------------------------------------------------------------------


def test_connecting_takes_a_round_trip(lab: Lab) -> None:
    accept = Accept()
    lab.listen(lab.beta, accept)
    began = lab.timeline.now
    dial(lab, lab.alpha, "10.0.1.2")
    assert lab.timeline.now - began == pytest.approx(2 * LATENCY)
    lab.sleep(0.001)
    assert accept.inbounds[0].peer[0] == "10.0.1.1"


def test_nobody_listening_refuses(lab: Lab) -> None:
    with pytest.raises(ConnectionRefusedError):
        dial(lab, lab.alpha, "10.0.1.2")
    assert lab.timeline.now == pytest.approx(2 * LATENCY)


@pytest.mark.parametrize("host", ["10.9.9.9", "10.0.1.2"])
def test_no_answer_runs_into_the_timeout(lab: Lab, host: str) -> None:
    lab.listen(lab.beta, Accept())
    lab.beta.host.is_down = True
    with pytest.raises(TimeoutError, match=rf"connect to {host}:80 took longer than 2 s"):
        dial(lab, lab.alpha, host, timeout=2)


def test_lost_connect_is_tried_again_after_a_second(lab: Lab) -> None:
    lab.listen(lab.beta, Accept())
    lab.links.cut("dc1", "dc1")
    lab.timeline.call_later(0.5, lab.links.heal, "dc1", "dc1")
    dial(lab, lab.alpha, "10.0.1.2")
    assert lab.timeline.now == pytest.approx(1 + 2 * LATENCY)


def test_names_are_resolved_and_every_address_is_tried(lab: Lab) -> None:
    accept = Accept()
    lab.listen(lab.beta, accept)
    lab.fabric.names["beta.example"] = ("10.0.1.1", "10.0.1.2")
    dial(lab, lab.alpha, "beta.example")
    lab.sleep(0.001)
    assert len(accept.inbounds) == 1
    with pytest.raises(OSError, match="not known"):
        dial(lab, lab.alpha, "nobody.example")

    async def look_up() -> list[str]:
        found = await asyncio.get_running_loop().getaddrinfo("beta.example", 80)
        return [str(entry[4][0]) for entry in found]

    assert lab.run(lab.alpha, look_up()) == ["10.0.1.1", "10.0.1.2"]


def test_loopback_is_each_host_s_own(lab: Lab) -> None:
    accept = Accept()
    lab.run(lab.beta, lab.beta.network.listen("127.0.0.1", 80, accept))
    with pytest.raises(ConnectionRefusedError):
        dial(lab, lab.alpha, "127.0.0.1")
    dial(lab, lab.beta, "127.0.0.1")
    lab.sleep(0.001)
    assert accept.inbounds[0].peer[0] == "127.0.0.1"


def test_port_is_opened_once_closed_and_opened_again(lab: Lab) -> None:
    accept = Accept()
    network = lab.beta.network
    port = lab.run(lab.beta, network.listen("10.0.1.2", 0, accept))
    host, number = port.address
    with pytest.raises(OSError, match="in use"):
        lab.run(lab.beta, network.listen(host, number, accept))
    with pytest.raises(OSError, match="assign"):
        lab.run(lab.beta, network.listen("10.0.1.1", 80, accept))
    lab.run(lab.beta, port.close())
    with pytest.raises(ConnectionRefusedError):
        dial(lab, lab.alpha, host, number)
    lab.run(lab.beta, network.listen("0.0.0.0", number, accept))
    dial(lab, lab.alpha, host, number)


def test_connections_to_a_paused_program_wait_up_to_the_backlog(lab: Lab) -> None:
    accept = Accept()
    lab.listen(lab.beta, accept)
    lab.beta.loop.paused = True

    async def knock() -> int:
        dials = [
            lab.alpha.network.dial(Recorder, "10.0.1.2", 80, tls=None, timeout=0.5)
            for _ in range(BACKLOG + 5)
        ]
        done = await asyncio.gather(*dials, return_exceptions=True)
        return sum(isinstance(one, TimeoutError) for one in done)

    refused = lab.run(lab.alpha, knock())
    assert accept.inbounds == []
    lab.beta.loop.paused = False
    lab.sleep(0.1)
    assert len(accept.inbounds) + refused == BACKLOG + 5
    assert refused <= 5


def test_dial_that_is_given_up_leaves_nothing_open(lab: Lab) -> None:
    accept = Accept()
    lab.listen(lab.beta, accept)

    async def give_up() -> None:
        async with asyncio.timeout(LATENCY * 1.5):
            await lab.alpha.network.dial(Recorder, "10.0.1.2", 80, tls=None, timeout=5)

    with pytest.raises(TimeoutError):
        lab.run(lab.alpha, give_up())
    lab.sleep(5)
    assert lab.alpha.host.connection_count == lab.beta.host.connection_count == 0


def test_moved_host_is_reached_at_its_new_address_only(lab: Lab) -> None:
    accept = Accept()
    lab.run(lab.beta, lab.beta.network.listen("0.0.0.0", 80, accept))
    lab.fabric.readdress(lab.beta.host, ["10.0.1.77"])
    with pytest.raises(TimeoutError):
        dial(lab, lab.alpha, "10.0.1.2", timeout=1)
    dial(lab, lab.alpha, "10.0.1.77")


# The rule of the federation -----------------------------------------------------------------------


def test_gateways_are_the_only_doors_between_datacenters(lab: Lab) -> None:
    for site in (lab.gate, lab.gamma):
        lab.listen(site, Accept())
    dial(lab, lab.alpha, "10.0.2.9")
    dial(lab, lab.gate, "10.0.2.1")
    assert lab.fabric.violations == []
    with pytest.raises(OSError, match="unreachable"):
        dial(lab, lab.alpha, "10.0.2.1")
    assert lab.fabric.violations == [
        "connection from alpha of dc1 to gamma of dc2 past the mesh gateways"
    ]


def test_no_datagram_crosses_not_even_to_a_gateway(lab: Lab) -> None:
    near, far = open_socket(lab, lab.alpha), open_socket(lab, lab.gate)
    near.transport.sendto(b"ping", ("10.0.2.9", 7))
    lab.sleep(1)
    assert far.seen == []
    assert lab.fabric.violations == [
        "datagram from alpha of dc1 to gate of dc2 past the mesh gateways"
    ]
    assert isinstance(near.errors[0], OSError)


# Datagrams ----------------------------------------------------------------------------------------


def test_datagrams_arrive_with_their_sender(lab: Lab) -> None:
    near, far = open_socket(lab, lab.alpha), open_socket(lab, lab.beta)
    near.transport.sendto(b"ping", ("10.0.1.2", 7))
    lab.sleep(LATENCY * 1.1)
    assert far.seen == [(b"ping", ("10.0.1.1", 7))]


def test_refused_datagram_is_told(lab: Lab) -> None:
    near = open_socket(lab, lab.alpha)
    near.transport.sendto(b"ping", ("10.0.1.2", 9))
    near.transport.sendto(b"ping", ("10.9.9.9", 9))
    lab.sleep(1)
    (error,) = near.errors
    assert isinstance(error, DatagramRefused)
    assert error.address == ("10.0.1.2", 9)


def test_paused_program_keeps_as_much_as_its_buffer_holds(lab: Lab) -> None:
    near, far = open_socket(lab, lab.alpha), open_socket(lab, lab.beta)
    lab.beta.loop.paused = True
    for _ in range(DATAGRAM_BUFFER_SIZE // 1000 + 50):
        near.transport.sendto(bytes(1000), ("10.0.1.2", 7))
    lab.sleep(1)
    lab.beta.loop.paused = False
    lab.sleep(0.01)
    assert len(far.seen) == DATAGRAM_BUFFER_SIZE // 1000


def test_closed_socket_takes_nothing(lab: Lab) -> None:
    near, far = open_socket(lab, lab.alpha), open_socket(lab, lab.beta)
    near.transport.sendto(b"ping", ("10.0.1.2", 7))
    far.transport.close()
    assert far.transport.is_closing()
    lab.sleep(1)
    assert far.seen == []
    open_socket(lab, lab.beta)


def test_cut_and_switched_off_hosts_get_nothing(lab: Lab) -> None:
    near, far = open_socket(lab, lab.alpha), open_socket(lab, lab.beta)
    lab.links.cut("alpha", "beta")
    near.transport.sendto(b"cut", ("10.0.1.2", 7))
    lab.links.heal("alpha", "beta")
    near.transport.sendto(b"under way", ("10.0.1.2", 7))
    lab.beta.host.is_down = True
    lab.sleep(1)
    near.transport.sendto(b"off", ("10.0.1.2", 7))
    lab.sleep(1)
    lab.beta.host.is_down = False
    lab.sleep(1)
    assert far.seen == []
