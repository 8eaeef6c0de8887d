"""Load over HTTP from a process of its own: many writers in one loop over ``epoll``.

``python -m bench.storage_load`` reads a `Load` as JSON from its input and prints a `Result` as
JSON. A writer sends its next write when the last one was answered; every write is a new one.
"""

import json
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count, cycle

from bench.figures import percentile

_SUCCESS = b" 200 "
_ANSWER_SIZE_MAX = 65_536
_LATENCIES_MAX = 200_000
_PATIENCE = 20.0
_VALUE = b"v" * 64


@dataclass(frozen=True, slots=True)
class Load:
    """What to send.

    Attributes:
        hosts: ``host:port`` of the HTTP doors; writers are spread over them, a lone writer takes
            them in turn.
        writers: How many write at once.
        kind: ``keys`` or ``services``.
        tag: Part of every name, so that two runs do not write the same.
        warm: Seconds before measuring.
        seconds: How long to measure; 0 for as long as `writes` take.
        writes: After how many writes to stop; 0 for no such end.
    """

    hosts: tuple[str, ...]
    writers: int
    kind: str = "keys"
    tag: str = ""
    warm: float = 0.5
    seconds: float = 3.0
    writes: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it.

    Attributes:
        rate: Writes per second while measured.
        writes: All that were made, before the measurement too.
        p50_ms, p99_ms: How long one took, in milliseconds.
    """

    rate: float
    writes: int
    p50_ms: float
    p99_ms: float


def run(load: Load) -> Result:
    """Run a load in a process of its own.

    Raises:
        RuntimeError: It failed; the text is its last line.
    """
    process = subprocess.run(
        [sys.executable, "-m", "bench.storage_load"],
        input=json.dumps(asdict(load)),
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise RuntimeError(process.stderr.strip().rpartition("\n")[2])
    return Result(**json.loads(process.stdout))


class _Writer:
    """One writer, with a connection to each door that it uses."""

    __slots__ = ("answer", "requests", "sent_at", "sockets")

    def __init__(self, hosts: Sequence[str], requests: Iterator[bytes]) -> None:
        self.requests = requests
        self.sockets = cycle([_connected(host) for host in hosts])
        self.answer = b""
        self.sent_at = 0.0

    def send(self) -> socket.socket | None:
        """Send the next write; None when there is none."""
        request = next(self.requests, None)
        if request is None:
            return None
        sock = next(self.sockets)
        self.sent_at = time.perf_counter()
        sock.sendall(request)
        return sock

    def receive(self, sock: socket.socket) -> bool:
        """Take what has come; whether the answer is complete.

        Raises:
            RuntimeError: It is a refusal.
        """
        data = sock.recv(_ANSWER_SIZE_MAX)
        if not data:
            raise RuntimeError("the server closed a connection")
        self.answer += data
        if not self.answer.rstrip().endswith(b"true"):
            if _SUCCESS not in self.answer[:16] or self.answer.endswith(b"false"):
                raise RuntimeError(f"refused: {self.answer[-200:]!r}")
            return False
        self.answer = b""
        return True


def generate(load: Load) -> Result:
    """Send it from this process."""
    hosts = cycle(load.hosts)
    numbers = iter(range(load.writes)) if load.writes else count()
    make = _MAKERS[load.kind]
    requests = (make(load.tag, number) for number in numbers)
    writers = []
    for _ in range(load.writers):
        own = load.hosts if load.writers < len(load.hosts) else (next(hosts),)
        writers.append(_Writer(own, requests))
    return _drive(writers, load)


def _drive(writers: list[_Writer], load: Load) -> Result:
    poll = select.epoll()
    waiting: dict[int, tuple[_Writer, socket.socket]] = {}
    known: set[int] = set()

    def send(writer: _Writer) -> None:
        sock = writer.send()
        if sock is not None:
            number = sock.fileno()
            waiting[number] = (writer, sock)
            if number not in known:
                known.add(number)
                poll.register(number, select.EPOLLIN)

    for writer in writers:
        send(writer)
    now = begun = time.perf_counter()
    measure_from = begun + load.warm
    until = measure_from + load.seconds if load.seconds else float("inf")
    done = skipped = 0
    latencies: list[float] = []
    while waiting and now < until:
        ready = poll.poll(_PATIENCE)
        if not ready:
            raise RuntimeError(f"no answer within {_PATIENCE:g} s")
        now = time.perf_counter()
        for number, _ in ready:
            writer, sock = waiting[number]
            if not writer.receive(sock):
                continue
            done += 1
            if now < measure_from:
                skipped += 1
            elif len(latencies) < _LATENCIES_MAX:
                latencies.append((now - writer.sent_at) * 1000)
            del waiting[number]
            send(writer)
    measured = done - skipped
    elapsed = now - (measure_from if skipped else begun)
    return Result(
        measured / elapsed,
        done,
        percentile(latencies or [0.0], 0.5),
        percentile(latencies or [0.0], 0.99),
    )


def _connected(host: str) -> socket.socket:
    address, _, port = host.rpartition(":")
    sock = socket.create_connection((address, int(port)), timeout=_PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _request(path: str, body: bytes) -> bytes:
    head = f"PUT {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _key(tag: str, number: int) -> bytes:
    return _request(f"/v1/kv/bench/{tag}/{number}", _VALUE)


def _service(tag: str, number: int) -> bytes:
    """An instance with one check: 100 on a node, 50 of a service."""
    service = f"{tag}-{number % 2000}"
    service_id = f"{service}-{number}"
    return _request(
        "/v1/catalog/register",
        json.dumps(
            {
                "Node": f"{tag}-node-{number // 100}",
                "Address": f"10.{number // 25600 % 256}.{number // 100 % 256}.1",
                "Service": {
                    "ID": service_id,
                    "Service": service,
                    "Tags": ["primary", "v2"],
                    "Meta": {"version": "2"},
                    "Port": 8080,
                },
                "Check": {
                    "CheckID": f"service:{service_id}",
                    "Name": f"Service '{service}' check",
                    "Status": "passing",
                    "ServiceID": service_id,
                    "Output": "HTTP GET http://10.0.0.1:8080/health: 200 OK Output: ok",
                },
            }
        ).encode(),
    )


_MAKERS: dict[str, Callable[[str, int], bytes]] = {"keys": _key, "services": _service}


def main() -> None:
    """Be the load."""
    words = json.load(sys.stdin)
    load = Load(**{**words, "hosts": tuple(words["hosts"])})
    print(json.dumps(asdict(generate(load))))


if __name__ == "__main__":
    main()
