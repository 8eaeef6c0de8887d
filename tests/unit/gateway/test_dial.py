"""Dialling: dead, hanging and resetting endpoints cost the client nothing while one works."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from isthmus.mesh.routes import Endpoint
from support.gateway import (
    DEADLINE,
    BackendMaker,
    GatewayMaker,
    Talk,
    client_hello,
    read_exactly,
    read_to_end,
    routes,
)

HELLO = client_hello("web.example")


def refused() -> Endpoint:
    """An address of a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return Endpoint(*server.getsockname())


def unreachable(held: list[socket.socket]) -> Endpoint:
    """An address whose connections stay unanswered: a listener with a full queue."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(0)
    held.append(server)
    for _ in range(3):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(server.getsockname())
        held.append(filler)
    return Endpoint(*server.getsockname())


@pytest.fixture
def held() -> Iterator[list[socket.socket]]:
    """Sockets to keep open during the test."""
    socks: list[socket.socket] = []
    yield socks
    for sock in socks:
        sock.close()


def ask(gateway_client: socket.socket) -> tuple[bytes, float]:
    """Send a hello; the three bytes of the answer, and the seconds it took."""
    began = time.monotonic()
    with gateway_client as client:
        client.sendall(HELLO)
        answer = read_exactly(client, 3)
        return answer, time.monotonic() - began


def reset(sock: socket.socket) -> None:
    """Accept, read the hello, and reset."""
    sock.recv(1 << 16)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def close_unanswered(sock: socket.socket) -> None:
    """Accept, read the hello, and close."""
    sock.recv(1 << 16)


def test_endpoints_take_turns(make_backend: BackendMaker, make_gateway: GatewayMaker) -> None:
    endpoints = tuple(make_backend(name).endpoint for name in (b"one", b"two"))
    gateway = make_gateway(routes(web=endpoints))
    answers = [ask(gateway.connect())[0] for _ in range(4)]
    assert sorted(answers) == [b"one", b"one", b"two", b"two"]


def test_refused_endpoint_costs_no_request(
    make_backend: BackendMaker, make_gateway: GatewayMaker
) -> None:
    endpoints = (refused(), make_backend(b"two").endpoint)
    gateway = make_gateway(routes(web=endpoints), stagger=5.0)
    for _ in range(20):
        answer, took = ask(gateway.connect())
        assert answer == b"two"
        assert took < 1.0
    counters = gateway.proxy.counters()
    assert counters.attempts_failed == 5  # Then it was ejected.
    assert counters.routes["web.example"].failures == 0


def test_unreachable_endpoint_costs_one_stagger(
    make_backend: BackendMaker, make_gateway: GatewayMaker, held: list[socket.socket]
) -> None:
    endpoints = (unreachable(held), make_backend(b"two").endpoint)
    gateway = make_gateway(routes(web=endpoints), stagger=0.05)
    for _ in range(4):
        answer, took = ask(gateway.connect())
        assert answer == b"two"
        assert took < 2.0


@pytest.mark.parametrize("talk", [reset, close_unanswered])
def test_endpoint_that_ends_before_it_answers_is_replaced(
    talk: object, make_backend: BackendMaker, make_gateway: GatewayMaker
) -> None:
    assert callable(talk)
    endpoints = (make_backend(talk).endpoint, make_backend(b"two").endpoint)
    gateway = make_gateway(routes(web=endpoints), stagger=5.0, answer_patience=5.0)
    assert [ask(gateway.connect())[0] for _ in range(10)] == [b"two"] * 10
    assert gateway.proxy.counters().attempts_failed == 5  # Every other turn: it is never ejected.


def test_hanging_endpoint_is_overtaken(
    make_backend: BackendMaker, make_gateway: GatewayMaker
) -> None:
    """A gateway that is stopped still accepts: its kernel does."""
    hanging = socket.create_server(("127.0.0.1", 0))
    endpoints = (Endpoint(*hanging.getsockname()), make_backend(b"two").endpoint)
    gateway = make_gateway(routes(web=endpoints), answer_patience=0.05)
    for _ in range(4):
        answer, took = ask(gateway.connect())
        assert answer == b"two"
        assert took < 2.0
    hanging.close()


def test_endpoint_known_to_be_slow_is_given_its_time(
    make_backend: BackendMaker, make_gateway: GatewayMaker
) -> None:
    def hesitate(sock: socket.socket) -> None:
        sock.recv(1 << 16)
        threading.Event().wait(0.15)
        sock.sendall(b"one")

    slow, other = make_backend(hesitate).endpoint, make_backend(b"two").endpoint
    gateway = make_gateway(routes(web=(slow,)), answer_patience=0.05)
    assert ask(gateway.connect())[0] == b"one"
    gateway.proxy.set_routes(routes(web=(slow, other)))
    assert {ask(gateway.connect())[0] for _ in range(4)} == {b"one", b"two"}
    assert gateway.proxy.counters().attempts == 5  # Nobody was joined by another.


def test_slow_answer_is_waited_for(make_backend: BackendMaker, make_gateway: GatewayMaker) -> None:
    asked = threading.Event()
    may_answer = threading.Event()

    def hesitate(sock: socket.socket) -> None:
        sock.recv(1 << 16)
        asked.set()
        may_answer.wait(DEADLINE)
        sock.sendall(b"two")

    gateway = make_gateway(
        routes(web=(make_backend(hesitate).endpoint,)),
        answer_patience=0.01,
        stagger=0.01,
        connect_timeout=0.05,
    )
    with gateway.connect() as client:
        client.sendall(HELLO)
        assert asked.wait(DEADLINE)
        threading.Event().wait(0.1)  # Beyond the connect timeout, which is not meant here.
        may_answer.set()
        assert read_to_end(client) == b"two"


def test_client_that_speaks_on_is_not_kept_waiting_for_an_answer(
    make_backend: BackendMaker, make_gateway: GatewayMaker
) -> None:
    def answer_to_more(sock: socket.socket) -> None:
        read_exactly(sock, len(HELLO) + 4)
        sock.sendall(b"two")

    gateway = make_gateway(routes(web=(make_backend(answer_to_more).endpoint,)))
    with gateway.connect() as client:
        client.sendall(HELLO)
        client.sendall(b"more")
        assert read_exactly(client, 3) == b"two"


def test_name_that_nobody_serves_now_is_reset_and_counted(make_gateway: GatewayMaker) -> None:
    gateway = make_gateway(routes(web=()))
    with gateway.connect() as client:
        client.sendall(HELLO)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    counters = gateway.proxy.counters().routes["web.example"]
    assert (counters.connections, counters.failures, counters.open) == (1, 1, 0)


@pytest.mark.parametrize("count", [1, 2])
def test_client_is_reset_when_all_endpoints_refuse(count: int, make_gateway: GatewayMaker) -> None:
    gateway = make_gateway(routes(web=tuple(refused() for _ in range(count))))
    with gateway.connect() as client:
        client.sendall(HELLO)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    counters = gateway.proxy.counters()
    assert (counters.attempts, counters.routes["web.example"].failures) == (count, 1)


def test_client_is_reset_when_no_endpoint_is_reached_in_time(
    make_gateway: GatewayMaker, held: list[socket.socket]
) -> None:
    gateway = make_gateway(
        routes(web=(unreachable(held), unreachable(held))), stagger=0.01, connect_timeout=0.1
    )
    with gateway.connect() as client:
        client.sendall(HELLO)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert gateway.proxy.counters().attempts_failed == 2


def test_two_lost_answers_end_a_dial(
    make_backend: BackendMaker, make_gateway: GatewayMaker
) -> None:
    """A name that remote gateways refuse must not be tried at every one of them."""
    gateway = make_gateway(routes(web=tuple(make_backend(reset).endpoint for _ in range(5))))
    with gateway.connect() as client:
        client.sendall(HELLO)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert gateway.proxy.counters().attempts == 2


def test_endpoint_by_host_name_is_dialled(
    make_backend: BackendMaker, make_gateway: GatewayMaker
) -> None:
    endpoint = Endpoint("localhost", make_backend(b"two").endpoint.port)
    gateway = make_gateway(routes(web=(endpoint,)))
    assert [ask(gateway.connect())[0] for _ in range(2)] == [b"two", b"two"]


def test_host_name_that_does_not_resolve_is_passed_over(
    make_backend: BackendMaker, make_gateway: GatewayMaker
) -> None:
    endpoints = (Endpoint("no-such-name.invalid", 1), make_backend(b"two").endpoint)
    gateway = make_gateway(routes(web=endpoints))
    assert [ask(gateway.connect())[0] for _ in range(2)] == [b"two", b"two"]


@pytest.mark.parametrize("size", [1, 16 * 1024, 16 * 1024 + 100, 200_000])
def test_answer_that_ends_at_once_arrives_whole_with_its_end(
    size: int, make_backend: BackendMaker, make_gateway: GatewayMaker
) -> None:
    def answer(sock: socket.socket) -> None:
        sock.recv(1 << 16)
        sock.sendall(bytes(size))

    gateway = make_gateway(routes(web=(make_backend(answer).endpoint,)))
    for _ in range(5):
        with gateway.connect() as client:
            client.sendall(HELLO)
            client.shutdown(socket.SHUT_WR)
            assert len(read_to_end(client)) == size


@pytest.mark.parametrize("talk", [b"two", lambda sock: sock.sendall(read_to_end(sock))])
def test_client_that_said_all_before_anyone_was_reached_is_heard_to_the_end(
    talk: bytes | Talk,
    make_backend: BackendMaker,
    make_gateway: GatewayMaker,
    held: list[socket.socket],
) -> None:
    endpoints = (unreachable(held), make_backend(talk).endpoint)
    gateway = make_gateway(routes(web=endpoints), stagger=0.02)
    for _ in range(4):
        with gateway.connect() as client:
            client.sendall(HELLO[:10])
            gateway.until(lambda counters: counters.open == 1)
            client.sendall(HELLO[10:])
            client.sendall(b"more")
            client.shutdown(socket.SHUT_WR)
            assert read_to_end(client).endswith(HELLO + b"more")
        gateway.until(lambda counters: counters.open == 0)
