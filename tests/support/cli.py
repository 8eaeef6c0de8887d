"""An agent that answers as it is told."""

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass
class FakeAgent:
    """Answers by method and path; remembers what it was asked."""

    address: str
    answers: dict[tuple[str, str], tuple[int, bytes]] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, list[str]], bytes]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def answer(self, path: str, body: Any, *, status: int = 200, method: str = "GET") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answers[method, path] = (status, data)

    @property
    def last(self) -> tuple[str, str, dict[str, list[str]], bytes]:
        return self.requests[-1]


def handler_of(agent: FakeAgent) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            query = parse_qs(parts.query, keep_blank_values=True)
            agent.requests.append((self.command, parts.path, query, body))
            agent.headers.append(dict(self.headers.items()))
            status, data = agent.answers.get((self.command, parts.path), (404, b""))
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Keep quiet."""

    return Handler


def serving(server: socketserver.BaseServer) -> Iterator[None]:
    """Serve in a thread until the test is over."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Result:
    code: int
    out: str
    err: str
    raw: bytes


Cli = Callable[..., Result]
