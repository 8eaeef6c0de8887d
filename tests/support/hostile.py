"""What attacks an agent in tests, and the healthy client that it must go on serving."""

import contextlib
import resource
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

from isthmus.model.record import Record
from isthmus.wire.msgpack import Unpacker, encode
from isthmus.wire.netrpc import RequestHeader, encode_request
from support.agent_process import AgentProcess, resident_size

DEADLINE = 10.0
_SPARE_DESCRIPTORS = 200


def raise_descriptor_limit(wanted: int) -> int:
    """Raise our limit of open files; how many connections it allows, at most `wanted`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = wanted + _SPARE_DESCRIPTORS
    if soft < need:
        soft = need if hard == resource.RLIM_INFINITY else min(need, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(wanted, soft - _SPARE_DESCRIPTORS)


def connect(address: tuple[str, int], source: str) -> socket.socket:
    """Connect from an address of one's choice."""
    return socket.create_connection(address, timeout=DEADLINE, source_address=(source, 0))


def crowd(address: tuple[str, int], source: str, count: int) -> list[socket.socket]:
    """Open many connections; those that are refused at once are left out."""
    opened: list[socket.socket] = []
    for _ in range(count):
        with contextlib.suppress(OSError):
            opened.append(connect(address, source))
    return opened


def is_open(sock: socket.socket) -> bool:
    """Whether a connection on which nothing was received was not ended by the other side."""
    sock.setblocking(False)
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False


def close_all(socks: list[socket.socket]) -> None:
    """Close connections."""
    for sock in socks:
        sock.close()


class RpcClient:
    """One RPC channel over native TLS, or behind type bytes."""

    def __init__(
        self,
        address: tuple[str, int],
        context: ssl.SSLContext,
        *,
        source: str,
        announced: bool = False,
        server_name: str = "server.dc1.consul",
    ) -> None:
        sock = connect(address, source)
        try:
            if announced:
                sock.sendall(b"\x03")
            self.sock = context.wrap_socket(sock, server_hostname=server_name)
            if announced:
                self.sock.sendall(b"\x00")
        except BaseException:
            sock.close()
            raise
        self._sequence = 0

    def call(self, method: str, request: Record) -> tuple[str, Any]:
        """Call; the error's text and the plain reply."""
        self._sequence += 1
        header = RequestHeader(self._sequence, method)
        self.sock.sendall(encode_request(header, encode(request)))
        unpacker, values = Unpacker(), list[Any]()
        while len(values) < 2:
            data = self.sock.recv(1 << 16)
            if not data:
                raise EOFError("the server ended the connection")
            unpacker.feed(data)
            values += list(unpacker)
        return values[0]["Error"], values[1]

    def close(self) -> None:
        """Hang up."""
        self.sock.close()


class HealthyClient:
    """Asks an agent over HTTP again and again, in a thread, and measures how long it takes."""

    def __init__(self, agent: AgentProcess, *, every: float = 0.02) -> None:
        self._agent, self._every = agent, every
        self.latencies: list[float] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                self._agent.get("/v1/catalog/nodes", timeout=DEADLINE)
            except (AssertionError, OSError) as error:
                self.failures.append(repr(error))
            self.latencies.append(time.monotonic() - started)
            self._stop.wait(self._every)

    def __enter__(self) -> "HealthyClient":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join(2 * DEADLINE)

    def assert_served(self, what: str, *, latency_max: float) -> None:
        """Assert that every request was answered, the slowest within `latency_max` seconds."""
        latencies = sorted(self.latencies)
        assert latencies, what
        assert not self.failures, (what, self.failures[:3])
        middle, worst = latencies[len(latencies) // 2], latencies[-1]
        print(
            f"{what}: {len(latencies)} requests, p50 {middle * 1e3:.1f} ms,"
            f" max {worst * 1e3:.0f} ms"
        )
        assert worst < latency_max, (what, worst)


@contextlib.contextmanager
def bounded_memory(pid: int, what: str, *, growth_max: int) -> Iterator[None]:
    """Assert that a process's resident memory grows by at most so many bytes meanwhile."""
    before = resident_size(pid)
    peak = before
    stop = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.02):
            peak = max(peak, resident_size(pid))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
    after = resident_size(pid)
    peak = max(peak, after)
    mib = 1 << 20
    print(f"{what}: {before / mib:.0f} MiB before, peak {peak / mib:.0f}, after {after / mib:.0f}")
    assert peak - before <= growth_max, (what, before, peak)
