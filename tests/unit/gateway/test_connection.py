"""Connections through the gateway, from their hello to their end, on real sockets."""

import hashlib
import json
import random
import socket
import threading
from pathlib import Path

import pytest

from isthmus.mesh.routes import (
    Route,
    RouteTable,
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

VECTORS = Path(__file__).parents[2] / "vectors" / "federation" / "client_hello.json"
CAPTURED = [
    (hello["sni"], bytes.fromhex(hello["record_hex"]))
    for hello in json.loads(VECTORS.read_text())["hellos"]
]


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize(
    ("sni", "record"), CAPTURED, ids=[f"{n}-{s}" for n, (s, _) in enumerate(CAPTURED)]
)
def test_captured_hello_reaches_the_endpoint_of_its_name_unchanged(
    sni: str, record: bytes, make_backend: BackendMaker, make_gateway: GatewayMaker
) -> None:
    right, wrong = make_backend(b"right"), make_backend(b"wrong")
    table = RouteTable(
        {sni: routes(a=(right.endpoint,)).routes["a.example"], **routes(b=(wrong.endpoint,)).routes}
    )
    with make_gateway(table).connect() as client:
        client.sendall(record)
        assert read_exactly(client, 5 + len(record)) == b"right" + record


def test_hello_in_single_bytes_is_forwarded_whole(
    make_backend: BackendMaker, make_gateway: GatewayMaker
) -> None:
    gateway = make_gateway(routes(web=(make_backend(b"web").endpoint,)))
    hello = client_hello("web.example")
    with gateway.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in hello:
            client.send(bytes([byte]))
        assert read_exactly(client, 3) == b"web"
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client) == hello


def test_unknown_name_is_reset_and_counted(make_gateway: GatewayMaker) -> None:
    gateway = make_gateway(routes())
    with gateway.connect() as client:
        client.sendall(client_hello("nobody.example"))
        assert is_reset(client)
    assert gateway.proxy.counters().unknown_name == 1


@pytest.mark.parametrize(
    ("data", "counter"),
    [
        (client_hello(""), "no_name"),
        (b"GET / HTTP/1.1\r\nHost: web.example\r\n\r\n", "not_tls"),
        (b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", "not_tls"),
        (client_hello("web.example", padding=16_300)[:3] + b"\x41\x00" + bytes(20_000), "not_tls"),
        (b"\x16\x03\x01\x3f\xff\x01\x00\x7f\xff" + bytes(20_000), "hello_too_long"),
    ],
    ids=["no name", "not TLS", "cut-off hello", "oversized record", "oversized hello"],
)
def test_hello_without_a_usable_name_is_reset_at_once(
    data: bytes, counter: str, make_gateway: GatewayMaker
) -> None:
    gateway = make_gateway(routes())
    with gateway.connect() as client:
        client.sendall(data)
        assert is_reset(client)
    assert getattr(gateway.proxy.counters(), counter) == 1


def test_hello_that_fills_the_limit_without_an_end_is_reset(make_gateway: GatewayMaker) -> None:
    gateway = make_gateway(routes(), hello_size_max=1_000)
    with gateway.connect() as client:
        client.sendall(client_hello("web.example", padding=2_000))
        assert is_reset(client)
    assert gateway.proxy.counters().hello_too_long == 1


def test_client_that_does_not_finish_its_hello_is_cut_off(make_gateway: GatewayMaker) -> None:
    gateway = make_gateway(routes(), hello_timeout=0.05)
    with gateway.connect() as client:
        client.sendall(client_hello("web.example")[:20])
        assert is_reset(client)
    assert gateway.proxy.counters().hello_timeout == 1


def test_client_that_leaves_before_its_hello_is_forgotten(make_gateway: GatewayMaker) -> None:
    gateway = make_gateway(routes())
    with gateway.connect() as client:
        client.sendall(b"\x16")
    gateway.until(lambda counters: counters.hello_closed == 1 and counters.open == 0)


def test_half_closed_connection_still_carries_the_other_direction(
    make_backend: BackendMaker, make_gateway: GatewayMaker
) -> None:
    def answer_after_the_end(sock: socket.socket) -> None:
        received = read_to_end(sock)
        sock.sendall(b"%d" % len(received))

    backend = make_backend(answer_after_the_end)
    gateway = make_gateway(routes(web=(backend.endpoint,)))
    hello = client_hello("web.example")
    with gateway.connect() as client:
        client.sendall(hello + b"more")
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client) == b"%d" % (len(hello) + 4)
    gateway.until(lambda counters: counters.open == 0)


def test_server_that_ends_first_still_hears_the_client(
    make_backend: BackendMaker, make_gateway: GatewayMaker
) -> None:
    heard: list[bytes] = []
    done = threading.Event()

    def end_then_listen(sock: socket.socket) -> None:
        hello = sock.recv(1 << 16)
        sock.sendall(b"bye")
        sock.shutdown(socket.SHUT_WR)
        heard.append(hello + read_to_end(sock))
        done.set()

    gateway = make_gateway(routes(web=(make_backend(end_then_listen).endpoint,)))
    hello = client_hello("web.example")
    with gateway.connect() as client:
        client.sendall(hello)
        assert read_to_end(client) == b"bye"
        client.sendall(b"still here")
    assert done.wait(DEADLINE)
    assert heard == [hello + b"still here"]


def test_half_closed_and_silent_connection_is_ended(
    make_backend: BackendMaker, make_gateway: GatewayMaker
) -> None:
    never = threading.Event()

    def hang(sock: socket.socket) -> None:
        sock.recv(1 << 16)
        sock.sendall(b"hi")
        never.wait(DEADLINE)

    gateway = make_gateway(routes(web=(make_backend(hang).endpoint,)), half_closed_timeout=0.05)
    with gateway.connect() as client:
        client.sendall(client_hello("web.example"))
        assert read_exactly(client, 2) == b"hi"
        client.shutdown(socket.SHUT_WR)
        assert is_reset(client)
    never.set()


@pytest.mark.parametrize("pipes", [0, 4], ids=["copied", "spliced"])
def test_large_transfers_both_ways_at_once_arrive_unchanged(
    pipes: int, make_backend: BackendMaker, make_gateway: GatewayMaker
) -> None:
    size = 24_000_000
    upload, download = noise(size, 1), noise(size, 2)
    digests: list[str] = []
    done = threading.Event()

    def exchange(sock: socket.socket) -> None:
        read_exactly(sock, len(hello))
        sender = threading.Thread(target=sock.sendall, args=(download,))
        sender.start()
        digests.append(hashlib.sha256(read_exactly(sock, size)).hexdigest())
        sender.join()
        done.set()

    hello = client_hello("web.example")
    gateway = make_gateway(routes(web=(make_backend(exchange).endpoint,)), pipes_max=pipes)
    with gateway.connect() as client:
        client.sendall(hello)
        sender = threading.Thread(target=client.sendall, args=(upload,))
        sender.start()
        received = read_exactly(client, size)
        sender.join()
    assert done.wait(DEADLINE)
    assert digests == [hashlib.sha256(upload).hexdigest()]
    assert hashlib.sha256(received).digest() == hashlib.sha256(download).digest()
    counters = gateway.until(lambda counters: counters.open == 0).routes["web.example"]
    assert (counters.bytes_up, counters.bytes_down) == (len(hello) + size, size)


def test_upload_to_a_server_that_never_answers_flows(
    make_backend: BackendMaker, make_gateway: GatewayMaker
) -> None:
    sizes: list[int] = []
    done = threading.Event()

    def swallow(sock: socket.socket) -> None:
        sizes.append(len(read_to_end(sock)))
        done.set()

    gateway = make_gateway(routes(web=(make_backend(swallow).endpoint,)))
    hello = client_hello("web.example")
    with gateway.connect() as client:
        client.sendall(hello)
        client.sendall(bytes(5_000_000))
    assert done.wait(DEADLINE)
    assert sizes == [len(hello) + 5_000_000]


def test_slow_reader_holds_back_its_sender(
    make_backend: BackendMaker, make_gateway: GatewayMaker
) -> None:
    sent = [0]
    blocked = threading.Event()

    def flood(sock: socket.socket) -> None:
        sock.recv(1 << 16)
        sock.setblocking(False)
        block = bytes(1 << 16)
        idle = threading.Event()
        waits = 0
        while waits < 10 and sent[0] < 256 << 20:
            try:
                sent[0] += sock.send(block)
                waits = 0
            except BlockingIOError:
                idle.wait(0.02)
                waits += 1
        blocked.set()

    gateway = make_gateway(routes(web=(make_backend(flood).endpoint,)))
    with gateway.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        client.sendall(client_hello("web.example"))
        assert blocked.wait(DEADLINE)
        held = sent[0]
        assert held < 128 << 20  # Kernel buffers and one pipe, however long it goes on.
        client.settimeout(DEADLINE)
        assert len(read_to_end(client)) == held


def test_reset_of_one_side_resets_the_other(
    make_backend: BackendMaker, make_gateway: GatewayMaker
) -> None:
    def crash(sock: socket.socket) -> None:
        sock.recv(1 << 16)
        sock.sendall(b"hi")
        sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    gateway = make_gateway(routes(web=(make_backend(crash).endpoint,)))
    with gateway.connect() as client:
        client.sendall(client_hello("web.example"))
        assert read_exactly(client, 2) == b"hi"
        client.sendall(b"go")
        assert is_reset(client)
    gateway.until(lambda counters: counters.open == 0)


def test_bug_in_one_connection_ends_that_one_alone(
    make_backend: BackendMaker, make_gateway: GatewayMaker
) -> None:
    class Broken(RouteTable, frozen=True):
        def lookup(self, sni: str) -> tuple[str, Route] | None:
            if sni == "broken.example":
                raise KeyError(sni)
            return super().lookup(sni)

    table = Broken(routes(web=(make_backend(b"web").endpoint,)).routes)
    gateway = make_gateway(table)
    with gateway.connect() as first, gateway.connect() as second, gateway.connect() as third:
        first.sendall(client_hello("broken.example"))
        second.sendall(client_hello("broken.example")[:9])
        gateway.until(lambda counters: counters.accepted == 2)
        second.sendall(client_hello("broken.example")[9:])
        third.sendall(client_hello("web.example"))
        assert is_reset(first)
        assert is_reset(second)
        assert read_exactly(third, 3) == b"web"
    gateway.until(lambda counters: counters.open == 0)
