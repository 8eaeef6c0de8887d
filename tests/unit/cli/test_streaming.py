"""An answer without an end, on a real connection."""

import socket
import threading
from collections.abc import Iterator

import pytest

from isthmus.cli.client import AgentClient, RequestFailed, parse_address

DEADLINE = 10.0
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(DEADLINE)
        yield made


def client(listener: socket.socket) -> AgentClient:
    host, port = listener.getsockname()
    return AgentClient(parse_address(f"{host}:{port}"))


def answer(listener: socket.socket, data: bytes, release: threading.Event) -> threading.Thread:
    """Answer one request, then say no more until released."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(DEADLINE)
            connection.recv(65536)
            connection.sendall(data)
            release.wait(DEADLINE)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_lines_come_while_the_answer_goes_on(listener: socket.socket) -> None:
    release = threading.Event()
    thread = answer(listener, HEAD + b"8\r\none\ntwo\n\r\n4\r\nthr", release)
    lines = iter(client(listener).stream("/v1/agent/monitor"))
    assert [next(lines), next(lines)] == [b"one", b"two"]
    release.set()
    assert b"".join(lines) in (b"", b"thr")  # It broke off in the middle of a line.
    thread.join()


def test_who_waits_for_a_line_waits_no_more_when_it_is_closed(listener: socket.socket) -> None:
    release = threading.Event()
    thread = answer(listener, HEAD + b"4\r\none\n\r\n", release)
    stream = client(listener).stream("/v1/agent/monitor")
    lines = iter(stream)
    assert next(lines) == b"one"
    closing = threading.Thread(target=stream.close)
    closing.start()
    assert list(lines) == []
    closing.join()
    release.set()
    thread.join()


def test_refusal_is_an_error_with_its_text(listener: socket.socket) -> None:
    release = threading.Event()
    release.set()
    data = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"
    thread = answer(listener, data, release)
    with pytest.raises(RequestFailed, match=r"403 \(no\)"):
        client(listener).stream("/v1/agent/monitor")
    thread.join()
