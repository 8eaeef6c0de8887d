"""Hostile peers at every port of a running agent and gateway, over real sockets and real TLS.

Each test attacks one agent from one loopback address, while a client at another address is served
as ever; memory stays within the bound that the test states; afterwards the agent is what it was.
"""

import json
import re
import signal
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from isthmus.model.federation import UPSERT, FederationState, FederationStateRequest
from isthmus.model.query import DatacenterRequest
from isthmus.names import Alpn
from isthmus.wire import memberlist
from isthmus.wire.msgpack import pack
from support.agent_process import AgentProcess
from support.certificates import Authority, Certificate
from support.gateway import client_hello
from support.hostile import (
    HealthyClient,
    RpcClient,
    bounded_memory,
    close_all,
    connect,
    crowd,
    is_open,
    raise_descriptor_limit,
)
from support.processes import ISTHMUS, Process, eventually

HOST, GATEWAY_HOST, ATTACKER = "127.88.10.1", "127.88.10.2", "127.88.10.66"
RPC = (HOST, 8300)
SERF_LAN, SERF_WAN = (HOST, 8301), (HOST, 8302)
HTTP = (HOST, 8500)
GATEWAY = (GATEWAY_HOST, 8443)
TCP_PORTS = {"rpc": RPC, "lan": SERF_LAN, "wan": SERF_WAN, "http": HTTP, "gateway": GATEWAY}
PER_CLIENT = 100
"""`limits.rpc_max_conns_per_client`, its default."""
MIB = 1 << 20
CROWD = 10_000
LATENCY_MAX = 2.0
"""Of the slowest request of a healthy client during an attack; two cores do everything here."""

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


@dataclass(frozen=True)
class Site:
    """An agent of dc1 with its gateway, and certificates of all sorts."""

    agent: AgentProcess
    gateway: Process
    dc1: Certificate
    dc2: Certificate
    client: Certificate

    def pid(self, port: str) -> int:
        """Process behind a port."""
        return (self.gateway if port == "gateway" else self.agent.process).pid

    def gateway_counters(self) -> dict[str, Any]:
        """What the gateway counts, as it logs on SIGUSR1."""
        seen = len(re.findall(r"counters \{", self.gateway.output()))
        self.gateway.send(signal.SIGUSR1)
        eventually(
            lambda: len(re.findall(r"counters \{", self.gateway.output())) > seen,
            timeout=5,
            what="counters",
        )
        found: dict[str, Any] = json.loads(
            re.findall(r"counters (\{.*\})", self.gateway.output())[-1]
        )
        return found

    def assert_well(self) -> None:
        """Assert that the agent has forgotten what happened to it."""
        assert self.agent.process.running()
        assert self.gateway.running()
        for process in (self.agent.process, self.gateway):
            assert "Traceback" not in process.output(), process.output()[-4000:]
        assert self.agent.ready()
        rpc = RpcClient(GATEWAY, self.dc1.context(Alpn.RPC_SINGLE), source=HOST)
        try:
            assert rpc.call("Status.Leader", DatacenterRequest()) == ("", f"{HOST}:8300")
        finally:
            rpc.close()
        members = self.agent.get("/v1/agent/members")
        assert [member["Status"] for member in members] == [1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One agent and one gateway for all tests: whatever befalls them, they go on."""
    folder = tmp_path_factory.mktemp("hostile")
    authority = Authority(folder / "ca")
    dc1 = authority.issue("alpha.server.dc1.consul", "server.dc1.consul", "localhost")
    dc2 = authority.issue("beta.server.dc2.consul", "server.dc2.consul", "localhost")
    client = authority.issue("client.dc1.consul", "localhost")
    with ExitStack() as stack:
        agent = AgentProcess(
            folder,
            HOST,
            server=True,
            bootstrap=True,
            data_dir=str(folder / "data"),
            node_name="alpha",
            datacenter="dc1",
            primary_datacenter="dc1",
            ca_file=str(dc1.ca_file),
            cert_file=str(dc1.cert_file),
            key_file=str(dc1.key_file),
            verify_incoming_rpc=True,
            verify_outgoing=True,
            verify_server_hostname=True,
            connect={"enabled": True, "enable_mesh_gateway_wan_federation": True},
        )
        stack.callback(agent.kill)
        agent.wait_until_ready()
        address = f"{GATEWAY_HOST}:{GATEWAY[1]}"
        command = [*ISTHMUS, "connect", "gateway", "-mesh-gateway", "-register", "-expose-servers"]
        command += ["-http-addr", f"{HOST}:8500", "-address", address, "-wan-address", address]
        gateway = Process(command, folder / "gateway.log")
        stack.callback(gateway.stop, signal.SIGKILL)
        site = Site(agent, gateway, dc1, dc2, client)

        def gateway_known() -> bool:
            return "dc1" in agent.get("/v1/internal/federation-states/mesh-gateways")

        eventually(gateway_known, timeout=20, what="gateway registered")

        def forwards() -> bool:
            site.assert_well()
            return True

        eventually(forwards, timeout=10, what="gateway forwards")
        yield site


# Random bytes --------------------------------------------------------------------------------


def random_beginnings(rng: Random) -> list[bytes]:
    """Bytes that look like something at first."""
    hello = client_hello("server.dc1.consul")
    firsts = [bytes([first]) for first in range(9)] + [b"\x16\x03\x01", hello, b"\x80", b"\xf4"]
    firsts += [b"GET / HTTP/1.1\r\n", b"PUT /v1/kv/a HTTP/1.1\r\nContent-Length: 9\r\n\r\n", b""]
    return [first + rng.randbytes(rng.choice((0, 3, 40, 3000, 70_000))) for first in firsts]


@pytest.mark.parametrize("port", TCP_PORTS)
def test_random_bytes_on_a_stream_port_cost_nothing_but_their_connection(
    site: Site, port: str
) -> None:
    rng = Random(port)
    with (
        bounded_memory(site.pid(port), f"random bytes, {port}", growth_max=32 * MIB),
        HealthyClient(site.agent) as healthy,
    ):
        for _ in range(40):
            socks = []
            for data in random_beginnings(rng):
                sock = connect(TCP_PORTS[port], ATTACKER)
                socks.append(sock)
                try:
                    sock.sendall(data)
                    if rng.random() < 0.5:
                        sock.shutdown(socket.SHUT_WR)
                except OSError:
                    continue  # It has hung up already.
            close_all(socks)
    healthy.assert_served(f"random bytes, {port}", latency_max=LATENCY_MAX)
    site.assert_well()


def hostile_datagrams(rng: Random) -> Iterator[bytes]:
    """Random bytes, and true packets with damage."""
    ping = memberlist.encode_message(memberlist.Ping(seq_no=1, node="alpha"))
    whole = [ping, memberlist.join_compound([ping] * 9)]
    for _ in range(5_000):
        yield bytes([rng.choice((*range(15), 244, 245))]) + rng.randbytes(rng.randrange(1_400))
        damaged = bytearray(rng.choice(whole))
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        yield bytes(damaged)


@pytest.mark.parametrize("address", [SERF_LAN, SERF_WAN])
def test_random_datagrams_cost_nothing(site: Site, address: tuple[str, int]) -> None:
    with (
        bounded_memory(site.agent.process.pid, "random datagrams", growth_max=32 * MIB),
        HealthyClient(site.agent) as healthy,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        sock.bind((ATTACKER, 0))
        for datagram in hostile_datagrams(Random(address[1])):
            sock.sendto(datagram, address)
    healthy.assert_served("random datagrams", latency_max=LATENCY_MAX)
    site.assert_well()


# Oversized lengths -------------------------------------------------------------------------------

HUGE = 0xFFFF_FFFF
YAMUX_HUGE = struct.pack(">BBHII", 0, 0, 1, 1, HUGE)
OVERSIZED: dict[str, tuple[str, bytes]] = {
    "content length": ("http", b"PUT /v1/kv/a HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % HUGE),
    "endless header": ("http", b"GET / HTTP/1.1\r\nA: " + b"a" * (4 * MIB)),
    "endless target": ("http", b"GET /" + b"a" * (4 * MIB)),
    "endless chunk": (
        "http",
        b"PUT /v1/kv/a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFF\r\n" + b"a" * 4 * MIB,
    ),
    "encrypted stream": ("lan", b"\x0a" + struct.pack(">I", HUGE) + bytes(MIB)),
    "push/pull of too many": (
        "wan",
        b"\x06" + pack({"Nodes": HUGE, "UserStateLen": 0, "Join": False}) + bytes(MIB),
    ),
    "push/pull of too much": (
        "lan",
        b"\x06" + pack({"Nodes": 0, "UserStateLen": HUGE, "Join": False}) + bytes(MIB),
    ),
    "user message": ("wan", b"\x08" + pack({"UserMsgLen": HUGE}) + bytes(MIB)),
    "hello": ("gateway", b"\x16\x03\x01\xff\xff\x01\xff\xff\xff" + bytes(70_000)),
    "hello at the server": ("rpc", b"\x16\x03\x01\xff\xff\x01\xff\xff\xff" + bytes(70_000)),
}  # fmt: skip


@pytest.mark.parametrize("what", OVERSIZED)
def test_oversized_lengths_are_not_believed(site: Site, what: str) -> None:
    port, data = OVERSIZED[what]
    with (
        bounded_memory(site.pid(port), f"oversized {what}", growth_max=64 * MIB),
        HealthyClient(site.agent) as healthy,
    ):
        socks = [connect(TCP_PORTS[port], ATTACKER) for _ in range(8)]
        for sock in socks:
            try:
                sock.sendall(data)
            except OSError:
                continue
        for sock in socks:
            sock.settimeout(8)  # The handshake timeout is 5 s.
            try:
                while sock.recv(1 << 16):
                    pass
            except ConnectionError:
                continue
        close_all(socks)
    healthy.assert_served(f"oversized {what}", latency_max=LATENCY_MAX)
    site.assert_well()


@pytest.mark.parametrize(
    ("alpn", "data"),
    [
        (Alpn.RPC_MULTI, YAMUX_HUGE + bytes(MIB)),
        (Alpn.RPC_SINGLE, b"\xdf" + struct.pack(">I", HUGE)),
        (Alpn.RPC_SINGLE, b"\x82\xa3Seq\x01\xadServiceMethod\xdb" + struct.pack(">I", HUGE)),
        (Alpn.WAN_GOSSIP_PACKET, struct.pack(">I", HUGE) + bytes(MIB)),
        (Alpn.WAN_GOSSIP_STREAM, b"\x0a" + struct.pack(">I", HUGE) + bytes(MIB)),
    ],
    ids=["yamux frame", "map", "text", "gossip packet", "gossip stream"],
)
def test_oversized_lengths_within_tls_are_not_believed(site: Site, alpn: Alpn, data: bytes) -> None:
    """A server of another datacenter went mad; its certificate is good."""
    with (
        bounded_memory(site.agent.process.pid, f"oversized in {alpn}", growth_max=64 * MIB),
        HealthyClient(site.agent) as healthy,
    ):
        socks = []
        for _ in range(8):
            sock = self_proved(site.dc2, alpn)
            socks.append(sock)
            try:
                sock.sendall(data)
            except OSError:
                continue
        close_all(list(socks))
    healthy.assert_served(f"oversized in {alpn}", latency_max=LATENCY_MAX)
    site.assert_well()


def self_proved(certificate: Certificate, alpn: str, source: str = ATTACKER) -> ssl.SSLSocket:
    """A connection to the server port over native TLS."""
    sock = connect(RPC, source)
    return certificate.context(alpn).wrap_socket(sock, server_hostname="server.dc1.consul")


# Crowds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", TCP_PORTS)
def test_ten_thousand_silent_connections_of_one_address_do_no_harm(site: Site, port: str) -> None:
    count = raise_descriptor_limit(CROWD)
    descriptors = site.agent.descriptors()
    with (
        bounded_memory(site.pid(port), f"{count} connections, {port}", growth_max=64 * MIB),
        HealthyClient(site.agent) as healthy,
    ):
        socks = crowd(TCP_PORTS[port], ATTACKER, count)
        try:
            assert len(socks) > count * 0.9
        finally:
            close_all(socks)
    healthy.assert_served(f"{count} connections, {port}", latency_max=LATENCY_MAX)
    site.assert_well()
    eventually(
        lambda: site.agent.descriptors() <= descriptors + 10, timeout=20, what="descriptors freed"
    )


@pytest.mark.parametrize("port", ["lan", "wan"])
def test_streams_held_open_by_one_address_leave_room_for_members(site: Site, port: str) -> None:
    """Half-open gossip streams of one address do not keep a member from its exchange."""
    socks = crowd(TCP_PORTS[port], ATTACKER, 400)
    try:
        for _ in range(5):
            with connect(TCP_PORTS[port], "127.88.10.7") as sock:
                sock.sendall(memberlist.encode_message(memberlist.Ping(seq_no=9, node="")))
                assert sock.recv(100), "no answer to a ping"
    finally:
        close_all(socks)
    site.assert_well()


def test_the_server_port_gives_each_address_its_share(site: Site) -> None:
    """All traffic of one gateway comes from one address: its limit is another, and there is one."""
    context = site.dc2.context(Alpn.RPC_SINGLE)
    with ExitStack() as stack:
        strangers = crowd(RPC, ATTACKER, PER_CLIENT + 20)
        stack.callback(close_all, strangers)
        for _ in range(150):
            rpc = RpcClient(RPC, context, source=GATEWAY_HOST)
            stack.callback(rpc.close)
            assert rpc.call("Status.Leader", DatacenterRequest()) == ("", f"{HOST}:8300")
        eventually(lambda: sum(map(is_open, strangers)) <= PER_CLIENT, timeout=4, what="the limit")
    assert "too many connections of one address" in site.agent.process.output()
    site.assert_well()


def test_many_addresses_at_once_do_not_use_up_the_descriptors(site: Site) -> None:
    """2000 connections, each address within its limit, are more than the usual 1024 files."""
    with ExitStack() as stack, HealthyClient(site.agent) as healthy:
        for number in range(20):
            socks = crowd(RPC if number % 2 else HTTP, f"127.88.11.{number + 1}", PER_CLIENT)
            stack.callback(close_all, socks)
            assert len(socks) == PER_CLIENT
        eventually(lambda: len(healthy.latencies) > 20, timeout=10, what="healthy requests")
    healthy.assert_served("many addresses", latency_max=LATENCY_MAX)
    site.assert_well()


# Slow ones ---------------------------------------------------------------------------------------


def drip(site: Site, address: tuple[str, int], data: bytes, count: int) -> None:
    """Many connections send a request byte by byte and never come to its end."""
    socks = crowd(address, ATTACKER, count)
    try:
        for sock in socks:
            sock.sendall(data[:-40])
        for byte in data[-40:]:
            for sock in socks:
                try:
                    sock.send(bytes([byte]))
                except OSError:
                    continue
            time.sleep(0.02)
    finally:
        close_all(socks)


@pytest.mark.parametrize(
    ("port", "data"),
    [
        ("http", b"PUT /v1/kv/slow HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + b"a" * 20),
        ("gateway", client_hello("server.dc1.consul")[:-1]),
        ("rpc", client_hello("server.dc1.consul")[:-1]),
        ("lan", b"\x06" + pack({"Nodes": 1, "UserStateLen": 0, "Join": False})),
        ("wan", b"\x06" + pack({"Nodes": 1, "UserStateLen": 0, "Join": False})),
    ],
    ids=["http", "gateway", "rpc", "lan", "wan"],
)
def test_slow_writers_hold_up_nobody(site: Site, port: str, data: bytes) -> None:
    with (
        bounded_memory(site.pid(port), f"slow writers, {port}", growth_max=32 * MIB),
        HealthyClient(site.agent) as healthy,
    ):
        drip(site, TCP_PORTS[port], data, 90)
    healthy.assert_served(f"slow writers, {port}", latency_max=LATENCY_MAX)
    site.assert_well()


def assert_given_back(site: Site, before: int) -> None:
    """Assert that the memory of an attack goes back to the system."""
    eventually(
        lambda: site.agent.resident() < before + 64 * MIB, timeout=10, what="memory given back"
    )


def test_slow_readers_of_http_hold_up_nobody_and_little_memory(site: Site) -> None:
    """190 clients ask for 13 MiB each and read nothing: 2.5 GiB if all were kept."""
    for number in range(20):
        status, _, _ = site.agent.request("PUT", f"/v1/kv/big/{number}", bytes(500 * 1024))
        assert status == 200
    before = site.agent.resident()
    request = b"GET /v1/kv/big/?recurse HTTP/1.1\r\nHost: a\r\n\r\n"
    with (
        bounded_memory(site.agent.process.pid, "slow readers", growth_max=384 * MIB),
        HealthyClient(site.agent) as healthy,
    ):
        socks = crowd(HTTP, ATTACKER, 190)
        for sock in socks:
            sock.sendall(request)
        bound = before + 200 * MIB
        eventually(lambda: site.agent.resident() > bound, timeout=30, what="bound reached")
        for _ in range(20):
            status, _, _ = site.agent.request("PUT", "/v1/kv/small", b"x")
            assert status == 200
        close_all(socks)
    healthy.assert_served("slow readers", latency_max=LATENCY_MAX)
    assert_given_back(site, before)
    assert site.agent.request("DELETE", "/v1/kv/big/?recurse")[0] == 200
    site.assert_well()


def test_incomplete_requests_of_many_connections_share_one_bound(site: Site) -> None:
    """90 connections of a mad server each begin a request of 31 MiB: 2.7 GiB if all were kept."""
    body = b"\x82\xa3Seq\x01\xadServiceMethod\xa9KVS.Apply\x81\xa5Value\xdb" + struct.pack(
        ">I", 31 * MIB
    )
    piece, before = bytes(8 * MIB), site.agent.resident()
    with (
        bounded_memory(site.agent.process.pid, "incomplete requests", growth_max=384 * MIB),
        HealthyClient(site.agent) as healthy,
    ):
        socks = []
        for _ in range(90):
            sock = self_proved(site.dc2, Alpn.RPC_SINGLE)
            socks.append(sock)
            try:
                sock.sendall(body + piece)
            except OSError:
                continue
        close_all(list(socks))
    healthy.assert_served("incomplete requests", latency_max=LATENCY_MAX)
    assert_given_back(site, before)
    site.assert_well()


# Who may do what ---------------------------------------------------------------------------------


def test_a_clients_certificate_is_no_servers_at_the_server_port(site: Site) -> None:
    for alpn in (Alpn.RPC_SINGLE, Alpn.RPC_MULTI, Alpn.WAN_GOSSIP_PACKET, Alpn.WAN_GOSSIP_STREAM):
        sock = self_proved(site.client, alpn)
        try:
            assert sock.recv(1) == b""
        except OSError:
            pass  # A reset says the same.
        finally:
            sock.close()
    assert "client certificate is not a server's" in site.agent.process.output()
    assert "client.dc1.consul" in site.agent.process.output()
    site.assert_well()


def apply_as(
    site: Site, certificate: Certificate, dc: str, *, announced: bool = False
) -> tuple[str, Any]:
    """Write a federation state through native TLS, or behind the type byte; error and reply."""
    context = certificate.context(*() if announced else (Alpn.RPC_SINGLE,))
    rpc = RpcClient(RPC, context, source=ATTACKER, announced=announced)
    try:
        return rpc.call(
            "FederationState.Apply",
            FederationStateRequest(
                datacenter="dc1", op=UPSERT, state=FederationState(datacenter=dc)
            ),
        )
    finally:
        rpc.close()


@pytest.mark.parametrize("announced", [False, True])
def test_only_its_own_servers_write_a_datacenters_federation_state(
    site: Site, announced: bool
) -> None:
    assert apply_as(site, site.dc2, "dc2", announced=announced) == ("", True)
    assert apply_as(site, site.dc1, "dc2", announced=announced) == ("", True)
    for dc in ("dc3", "dc1"):
        error, _ = apply_as(site, site.dc2, dc, announced=announced)
        assert error == (
            "Permission denied: the caller's certificate is of a server of dc2, which may not"
            f" write the federation state of {dc}"
        )
    known = {state["Datacenter"] for state in site.agent.get("/v1/internal/federation-states")}
    assert "dc3" not in known


def test_a_client_writes_no_federation_state(site: Site) -> None:
    error, _ = apply_as(site, site.client, "dc1", announced=True)
    assert error.startswith("Permission denied: only servers write federation states")
    assert "client.dc1.consul" in error


def test_the_switch_lets_clients_act_as_servers(site: Site, tmp_path: Path) -> None:
    host = "127.88.10.3"
    agent = AgentProcess(
        tmp_path,
        host,
        ca_file=str(site.dc1.ca_file),
        cert_file=str(site.dc1.cert_file),
        key_file=str(site.dc1.key_file),
        verify_incoming_rpc=True,
        tls={"internal_rpc": {"allow_client_certificates": True}},
    )
    try:
        agent.wait_until_ready()
        rpc = RpcClient((host, 8300), site.client.context(Alpn.RPC_SINGLE), source=ATTACKER)
        try:
            assert rpc.call("Status.Leader", DatacenterRequest()) == ("", f"{host}:8300")
        finally:
            rpc.close()
    finally:
        agent.kill()


def test_a_gateway_refuses_unknown_names_and_counts_them(site: Site) -> None:
    before = site.gateway_counters()
    for name in ("server.dc9.consul", "elsewhere.example", "alpha.server.dc1.consul.evil"):
        with connect(GATEWAY, ATTACKER) as sock:
            sock.sendall(client_hello(name))
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
    with connect(GATEWAY, ATTACKER) as sock:
        sock.sendall(client_hello(""))
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    after = site.gateway_counters()
    assert after["unknown_name"] - before["unknown_name"] == 3
    assert after["no_name"] - before["no_name"] == 1
    assert after["attempts"] == before["attempts"], "nobody was dialled for them"
