"""The proxy as a whole: routes, limits, stopping; on real sockets."""

import socket
import threading

import pytest

from isthmus.errors import ConfigError
from isthmus.gateway.config import GatewayConfig
from isthmus.gateway.proxy import Proxy, fit_to_descriptors, listen
from isthmus.mesh.routes import (
    Endpoint,
    GatewayFacts,
    LocalServer,
    route_table,
)
from support.gateway import (
    DEADLINE,
    BackendMaker,
    GatewayMaker,
    client_hello,
    is_reset,
    read_exactly,
    read_to_end,
    routes,
)


def test_new_routes_serve_new_connections_and_leave_the_open_ones(
    make_backend: BackendMaker, make_gateway: GatewayMaker
) -> None:
    old, new = make_backend(b"old"), make_backend(b"new")
    gateway = make_gateway(routes(web=(old.endpoint,)))
    hello = client_hello("web.example")
    with gateway.connect() as first, gateway.connect() as second:
        first.sendall(hello)
        assert read_exactly(first, 3) == b"old"
        gateway.proxy.set_routes(routes(web=(new.endpoint,)))
        second.sendall(hello)
        assert read_exactly(second, 3) == b"new"
        gateway.proxy.set_routes(routes())
        first.shutdown(socket.SHUT_WR)
        assert read_to_end(first) == hello
    gateway.until(lambda counters: counters.open == 0)
    gateway.proxy.set_routes(routes())
    assert gateway.until(lambda counters: not counters.routes).accepted == 2


def test_connections_beyond_the_cap_are_reset_and_counted(
    make_backend: BackendMaker, make_gateway: GatewayMaker
) -> None:
    gateway = make_gateway(
        routes(web=(make_backend(b"web").endpoint,)), connections_max=2, hellos_max=1
    )
    hello = client_hello("web.example")
    with gateway.connect() as first, gateway.connect() as second, gateway.connect() as third:
        for client in (first, second):
            client.sendall(hello)
            assert read_exactly(client, 3) == b"web"
        third.sendall(hello)
        assert is_reset(third)
        counters = gateway.proxy.counters()
    assert (counters.connections_max, counters.open) == (1, 2)


def test_silent_clients_make_room_for_those_who_speak(
    make_backend: BackendMaker, make_gateway: GatewayMaker
) -> None:
    gateway = make_gateway(
        routes(web=(make_backend(b"web").endpoint,)), connections_max=2, hellos_max=2
    )
    with gateway.connect() as first, gateway.connect() as second, gateway.connect() as third:
        for silent, count in ((first, 1), (second, 2)):
            silent.sendall(b"\x16")
            gateway.until(lambda counters, count=count: counters.open == count)  # type: ignore[misc]
        third.sendall(client_hello("web.example"))
        assert read_exactly(third, 3) == b"web"
        assert is_reset(first)
        assert gateway.proxy.counters().hello_evicted == 1


def test_stop_lets_open_connections_end(
    make_backend: BackendMaker, make_gateway: GatewayMaker
) -> None:
    gateway = make_gateway(routes(web=(make_backend(b"web").endpoint,)), drain_timeout=DEADLINE)
    hello = client_hello("web.example")
    with gateway.connect() as client:
        client.sendall(hello)
        assert read_exactly(client, 3) == b"web"
        gateway.proxy.stop()
        gateway.proxy.counters()  # The stop has been handled.
        with pytest.raises(ConnectionRefusedError):
            gateway.connect()
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client) == hello
    gateway.thread.join(DEADLINE)
    assert not gateway.thread.is_alive()


def test_stop_cuts_off_what_outlasts_the_drain(
    make_backend: BackendMaker, make_gateway: GatewayMaker
) -> None:
    gateway = make_gateway(routes(web=(make_backend(b"web").endpoint,)), drain_timeout=0.05)
    with gateway.connect() as client:
        client.sendall(client_hello("web.example"))
        assert read_exactly(client, 3) == b"web"
        gateway.proxy.stop()
        assert is_reset(client)
    gateway.thread.join(DEADLINE)
    assert not gateway.thread.is_alive()


def test_counters_of_a_stopped_proxy_are_refused(make_gateway: GatewayMaker) -> None:
    gateway = make_gateway(routes())
    gateway.close()
    with pytest.raises(TimeoutError):
        gateway.proxy.counters(timeout=0.01)


def test_address_in_use_is_the_operators_mistake() -> None:
    taken = listen("127.0.0.1", 0)
    with pytest.raises(ConfigError, match=r"cannot listen on 127\.0\.0\.1:"):
        listen(*taken.getsockname())
    taken.close()


def test_two_gateways_in_a_row_carry_a_server_name(
    make_backend: BackendMaker, make_gateway: GatewayMaker
) -> None:
    server = make_backend(b"alpha").endpoint
    far = make_gateway(
        route_table(
            GatewayFacts(
                dc="dc1",
                exposes_servers=True,
                servers=(LocalServer("alpha", server.host, server.port),),
            )
        )
    )
    near = make_gateway(
        route_table(
            GatewayFacts(
                dc="dc2",
                exposes_servers=True,
                gateways={"dc1": (Endpoint(*far.proxy.addresses[0]),)},
            )
        )
    )
    for name in ("alpha.server.dc1.consul", "ALPHA.Server.dc1.consul", "server.dc1.consul"):
        with near.connect() as client:
            client.sendall(client_hello(name))
            assert read_exactly(client, 5) == b"alpha"
    with near.connect() as client:
        client.sendall(client_hello("beta.server.dc1.consul"))
        assert is_reset(client)
    assert far.proxy.counters().unknown_name == 1


def test_cap_fits_the_limit_of_open_files() -> None:
    config = fit_to_descriptors(GatewayConfig(connections_max=10**9, hellos_max=10**9))
    assert config.hellos_max == config.connections_max < 10**9
    assert fit_to_descriptors(GatewayConfig(connections_max=10, hellos_max=10)) == GatewayConfig(
        connections_max=10, hellos_max=10
    )


def test_gateway_of_ipv6_addresses_reaches_an_endpoint_of_one() -> None:
    try:
        server = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    proxy = Proxy(GatewayConfig(drain_timeout=0.0), [listen("::1", 0), listen("127.0.0.1", 0)])
    proxy.set_routes(routes(web=(Endpoint(*server.getsockname()[:2]),)))
    thread = threading.Thread(target=proxy.run)
    thread.start()
    hello = client_hello("web.example")
    for address in proxy.addresses:
        with socket.create_connection(address, timeout=DEADLINE) as client:
            client.sendall(hello)
            peer, _ = server.accept()
            with peer:
                assert read_exactly(peer, len(hello)) == hello
    server.close()
    proxy.stop()
    thread.join(DEADLINE)
    assert not thread.is_alive()
