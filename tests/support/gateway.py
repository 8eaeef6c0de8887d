"""Clients, backends and gateways for tests of the built-in mesh gateway, on real sockets."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any, Protocol

from isthmus.gateway.config import GatewayConfig
from isthmus.gateway.counters import Counters
from isthmus.gateway.proxy import Proxy, listen
from isthmus.mesh.routes import Endpoint, Route, RouteKind, RouteTable

DEADLINE = 10.0
"""Seconds after which a test that waits has failed."""

Talk = Callable[[socket.socket], None]


def client_hello(sni: str, *, padding: int = 0) -> bytes:
    """Build the record of a ClientHello; `padding` bytes are added as RFC 7685 has it."""
    extensions = b""
    if sni:
        name = sni.encode()
        entry = struct.pack(">BH", 0, len(name)) + name
        extensions += struct.pack(">HHH", 0, len(entry) + 2, len(entry)) + entry
    if padding:
        extensions += struct.pack(">HH", 21, padding) + bytes(padding)
    body = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
    body += struct.pack(">H", len(extensions)) + extensions
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + struct.pack(">H", len(message)) + message


def read_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise EOFError(f"end after {len(data)} of {size} bytes")
        data += part
    return data


def read_to_end(sock: socket.socket) -> bytes:
    parts = []
    while part := sock.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def is_reset(sock: socket.socket) -> bool:
    """Whether the connection ends in a reset rather than in an orderly end."""
    try:
        while sock.recv(1 << 16):
            pass
    except ConnectionResetError:
        return True
    return False


class Backend:
    """A server on loopback; `talk` has each of its connections in a thread of its own."""

    def __init__(self, talk: Talk) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = Endpoint(*self._listener.getsockname())
        self._talk = talk
        self.accepted = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            sock.settimeout(DEADLINE)
            threading.Thread(target=self._one, args=(sock,), daemon=True).start()

    def _one(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError, EOFError):
            self._talk(sock)

    def close(self) -> None:
        """Refuse connections from now on."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def say_and_echo(name: bytes) -> Talk:
    """On the first bytes say a name; then repeat everything that comes, the first bytes too."""

    def talk(sock: socket.socket) -> None:
        data = sock.recv(1 << 16)
        sock.sendall(name)
        while data:
            sock.sendall(data)
            data = sock.recv(1 << 16)
        sock.shutdown(socket.SHUT_WR)

    return talk


def routes(**by_name: tuple[Endpoint, ...]) -> RouteTable:
    """A table of services in dc1, by short name: ``web`` is served as ``web.example``."""
    return RouteTable(
        {
            f"{name}.example": Route(RouteKind.LOCAL_SERVICE, "dc1", endpoints)
            for name, endpoints in by_name.items()
        }
    )


class Gateway:
    """A proxy that runs in a thread."""

    def __init__(self, table: RouteTable, config: GatewayConfig) -> None:
        self.proxy = Proxy(config, [listen("127.0.0.1", 0)])
        self.proxy.set_routes(table)
        self.thread = threading.Thread(target=self.proxy.run, daemon=True)
        self.thread.start()

    def connect(self) -> socket.socket:
        return socket.create_connection(self.proxy.addresses[0], timeout=DEADLINE)

    def until(self, condition: Callable[[Counters], bool]) -> Counters:
        """Wait until the gateway's counters fulfil a condition; the counters that did."""
        pause = threading.Event()
        for _ in range(int(DEADLINE / 0.01)):
            counters = self.proxy.counters()
            if condition(counters):
                return counters
            pause.wait(0.01)
        raise AssertionError(f"never came true: {counters}")

    def close(self) -> None:
        """Stop it and wait for its end."""
        if self.thread.is_alive():
            self.proxy.stop()
            self.thread.join(DEADLINE)
            assert not self.thread.is_alive()


class BackendMaker(Protocol):
    """Type of the fixture `make_backend`."""

    def __call__(self, talk: bytes | Talk) -> Backend: ...


class GatewayMaker(Protocol):
    """Type of the fixture `make_gateway`."""

    def __call__(self, table: RouteTable, **config: Any) -> Gateway: ...
