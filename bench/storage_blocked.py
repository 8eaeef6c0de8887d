"""10 000 blocking queries over HTTP on one server: their memory, and whom a write wakes.

Half wait for one key, the others for a key each. ``--against=PATH`` measures another
Consul-compatible executable too.
"""

import resource
import select
import socket
import time
from http.client import HTTPConnection

from bench.figures import show
from bench.storage_datacenter import HTTP_PORT, Program, Server, programs, running, show_ratio

QUERIES = 10_000
_QUIET = 1.0
"""Seconds without an answer after which no more are expected."""
_ANSWER = b"HTTP/1.1 200"


def main() -> None:
    """Measure and print."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < QUERIES + 500:
        raise RuntimeError(f"needs {QUERIES + 500} open files, the limit is {hard} (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    figures = [_measure(program) for program in programs()]
    show_ratio("memory of the blocking queries", [memory for memory, _ in figures])
    show_ratio("one write wakes half of them: last one answered", [last for _, last in figures])


def _measure(program: Program) -> tuple[float, float]:
    with running(program, 1) as datacenter:
        (server,) = datacenter.servers
        print(f"-- {datacenter.program.name}", flush=True)
        half = QUERIES // 2
        for key in ("all", *range(half)):
            _put(server, f"blocked/{key}", "1")
        _, body = server.request("GET", "/v1/kv/blocked/all?index=0")
        assert body
        before = server.resident()
        names = ["all"] * half + [str(number) for number in range(half)]
        index = _index(server)
        poll, sockets = select.epoll(), {}
        for name in names:
            sock = socket.create_connection((server.host, HTTP_PORT))
            path = f"/v1/kv/blocked/{name}?index={index}&wait=300s"
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
            poll.register(sock, select.EPOLLIN)
            sockets[sock.fileno()] = (sock, name)
        early = _answered(poll, sockets, until=QUERIES)[0]
        assert not early, f"{len(early)} queries did not block"
        memory = (server.resident() - before) / 2**20
        show(f"memory of {QUERIES} blocking queries", [memory], "MiB", "<= 150")
        _, first = _woken(server, poll, sockets, "blocked/17", {"17"}, 1)
        processor = server.processor_time()
        _, last = _woken(server, poll, sockets, "blocked/all", {"all"}, half)
        processor = (server.processor_time() - processor) / half * 1e6
        show("one write wakes one of them: answered after", [first], "s")
        show("one write wakes half of them: last one answered", [last], "s", "<= 0.5")
        show("   processor time of one of them", [processor], "us")
        woken, _ = _woken(server, poll, sockets, "blocked/nobody", set(), 0)
        assert not woken
        rest = _put_and_wait(server, poll, sockets, half - 1)
        show("a write that wakes nobody: answered after", [rest], "s")
        return memory, last


def _woken(
    server: Server,
    poll: select.epoll,
    sockets: dict[int, tuple[socket.socket, str]],
    key: str,
    expected: set[str],
    count: int,
) -> tuple[list[str], float]:
    """Write a key; who was answered, which must be those expected, and after how many seconds."""
    started = time.perf_counter()
    _put(server, key, "2")
    names, last = _answered(poll, sockets, until=count)
    assert set(names) == expected, sorted(set(names))[:5]
    assert len(names) == count, len(names)
    return names, max(0.0, last - started)


def _put_and_wait(
    server: Server,
    poll: select.epoll,
    sockets: dict[int, tuple[socket.socket, str]],
    left: int,
) -> float:
    """Seconds of a write that concerns nobody; all others must go on waiting."""
    started = time.perf_counter()
    _put(server, "elsewhere", "1")
    elapsed = time.perf_counter() - started
    names, _ = _answered(poll, sockets, until=1)
    assert not names
    assert len(sockets) == left, len(sockets)
    return elapsed


def _answered(
    poll: select.epoll, sockets: dict[int, tuple[socket.socket, str]], *, until: int
) -> tuple[list[str], float]:
    """Names of the queries that are answered, and when the last was.

    Waits for `until` answers, then a quiet time for those that should not come.
    """
    names: list[str] = []
    done: list[socket.socket] = []
    last = 0.0
    while True:
        ready = poll.poll(_QUIET)
        if not ready:
            for sock in done:
                sock.close()
            return names, last
        for number, _ in ready:
            sock, name = sockets.pop(number)
            poll.unregister(number)
            data = sock.recv(4096)
            assert data.startswith(_ANSWER), data[:100]
            names.append(name)
            done.append(sock)  # Closed at the end, so that the server does nothing but answer.
        if len(names) <= until:
            last = time.perf_counter()


def _put(server: Server, key: str, value: str) -> None:
    status, body = server.request("PUT", f"/v1/kv/{key}", value)
    assert status == 200, body


def _index(server: Server) -> int:
    """The index of the store."""
    connection = HTTPConnection(server.host, HTTP_PORT)
    connection.request("GET", "/v1/kv/blocked/?recurse")
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return int(answer.headers["X-Consul-Index"])


if __name__ == "__main__":
    main()
