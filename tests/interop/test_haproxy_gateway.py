"""HAProxy as the gateway: what it forwards by SNI, ours forwards, and each through the other."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from isthmus.gateway.config import GatewayConfig
from isthmus.mesh.routes import Endpoint, GatewayFacts, LocalServer, RouteTable, route_table
from support.gateway import DEADLINE, Backend, Gateway, client_hello, read_exactly, say_and_echo
from support.haproxy import HaproxyGateway, missing

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(bool(missing()), reason=missing() or "haproxy is there"),
]

TRUST_DOMAIN = "11111111-2222-3333-4444-555555555555.consul"


def free_address() -> tuple[str, int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address: tuple[str, int] = server.getsockname()
        return address


@contextlib.contextmanager
def haproxy(table: RouteTable) -> Iterator[tuple[str, int]]:
    address = free_address()
    gateway = HaproxyGateway(table, [address])
    try:
        gateway.wait_until_it_listens()
        yield address
    finally:
        gateway.close()


@contextlib.contextmanager
def ours(table: RouteTable) -> Iterator[tuple[str, int]]:
    gateway = Gateway(table, GatewayConfig(drain_timeout=0.1))
    try:
        yield gateway.proxy.addresses[0]
    finally:
        gateway.close()


@pytest.fixture
def near() -> Iterator[RouteTable]:
    """Routes of dc1: a server and a service of its own."""
    server, service = Backend(say_and_echo(b"alpha")), Backend(say_and_echo(b"--web"))
    yield route_table(
        GatewayFacts(
            dc="dc1",
            trust_domain=TRUST_DOMAIN,
            exposes_servers=True,
            servers=(LocalServer("alpha", server.endpoint.host, server.endpoint.port),),
            services={"web": (service.endpoint,)},
        )
    )
    server.close()
    service.close()


def far(gateway: tuple[str, int], trust_domain: str | None) -> RouteTable:
    """Routes of dc2, whose only way to dc1 is a gateway."""
    return route_table(
        GatewayFacts(
            dc="dc2",
            trust_domain=trust_domain,
            exposes_servers=True,
            gateways={"dc1": (Endpoint(*gateway),)},
        )
    )


def answer(gateway: tuple[str, int], sni: str) -> bytes:
    with socket.create_connection(gateway, timeout=DEADLINE) as client:
        client.sendall(client_hello(sni))
        return read_exactly(client, 5)


@pytest.mark.parametrize("trust_domain", [TRUST_DOMAIN, None])
@pytest.mark.parametrize(("first", "second"), [(ours, haproxy), (haproxy, ours)])
def test_names_cross_two_gateways_of_different_make(
    first: object, second: object, trust_domain: str | None, near: RouteTable
) -> None:
    assert callable(first)
    assert callable(second)
    with second(near) as behind, first(far(behind, trust_domain)) as front:
        assert answer(front, "alpha.server.dc1.consul") == b"alpha"
        assert answer(front, "server.dc1.consul") == b"alpha"
        assert answer(front, f"web.default.dc1.internal.{TRUST_DOMAIN}") == b"--web"
        with pytest.raises((EOFError, ConnectionResetError)):
            answer(front, "beta.server.dc1.consul")
        with pytest.raises((EOFError, ConnectionResetError)):
            answer(front, "alpha.server.dc9.consul")
