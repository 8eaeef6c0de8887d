import io
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import ConfigError, MalformedPacket, Unavailable
from isthmus.gateway.agent import (
    Agent,
    AgentAddress,
    Reply,
    agent_address,
    read_reply,
    split_agent_address,
)
from support.gateway import Backend, BackendMaker, read_exactly


def parse(text: bytes) -> Reply:
    return read_reply(io.BytesIO(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8500", ("127.0.0.1", 8500, "", False)),
        ("agent.example", ("agent.example", 8500, "", False)),
        ("http://[::1]:80/", ("::1", 80, "", False)),
        ("[::1]", ("::1", 8500, "", False)),
        ("https://agent.example:8501", ("agent.example", 8501, "", True)),
        (":8500", ("127.0.0.1", 8500, "", False)),
        ("unix:///run/agent.sock", ("", 0, "/run/agent.sock", False)),
    ],
)
def test_agent_address_forms(text: str, expected: tuple[str, int, str, bool]) -> None:
    assert split_agent_address(text) == expected


@pytest.mark.parametrize("text", ["ftp://x:1", "x:port", "x:0", "http://x:80/path", "x:70000"])
def test_bad_agent_address_is_the_operators_mistake(text: str) -> None:
    with pytest.raises(ConfigError, match="bad address"):
        split_agent_address(text)


def test_flags_win_over_the_environment() -> None:
    environ = {
        "CONSUL_HTTP_ADDR": "192.0.2.1:1",
        "CONSUL_HTTP_TOKEN": "from environment",
        "CONSUL_HTTP_SSL": "true",
        "CONSUL_HTTP_SSL_VERIFY": "false",
        "CONSUL_HTTP_AUTH": "user:word",
        "CONSUL_CACERT": "ca.pem",
    }
    assert agent_address({}, environ) == AgentAddress(
        host="192.0.2.1",
        port=1,
        tls=True,
        token="from environment",
        basic_auth="user:word",
        ca_file="ca.pem",
        verify=False,
    )
    flags = {"http-addr": "192.0.2.2:2", "token": "from flag", "ca-file": "other.pem"}
    address = agent_address(flags, environ)
    assert (address.host, address.token, address.ca_file) == ("192.0.2.2", "from flag", "other.pem")


def test_token_file_is_read_and_must_exist(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("secret\n")
    assert agent_address({"token-file": str(file)}, {"CONSUL_HTTP_TOKEN": "x"}).token == "secret"
    assert agent_address({}, {"CONSUL_HTTP_TOKEN_FILE": str(file)}).token == "secret"
    with pytest.raises(ConfigError, match="token-file"):
        agent_address({"token-file": str(tmp_path / "none")}, {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", Reply(200, b"hi")),
        (
            b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: Chunked\r\n\r\n"
            b"2;x=y\r\nhi\r\nA\r\n there now\r\n0\r\n\r\n",
            Reply(404, b"hi there now"),
        ),
        (b"HTTP/1.0 500 Oops\n\nto the end", Reply(500, b"to the end")),
    ],
)
def test_answers_are_read_in_each_framing(text: bytes, expected: Reply) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"h%d: b\r\n" % number for number in range(200)),
        b"HTTP/1.1 200 OK\r\n" + b"a" * 20_000,
    ],
)
def test_what_is_not_http_is_refused(text: bytes) -> None:
    with pytest.raises(MalformedPacket):
        parse(text)


@given(st.binary(max_size=100))
def test_any_bytes_are_an_answer_or_an_error(data: bytes) -> None:
    for text in (data, b"HTTP/1.1 200 OK\r\n" + data):
        try:
            parse(text)
        except (MalformedPacket, ConnectionError):
            continue


def make_agent(backend: Backend, **changes: str) -> Agent:
    host, port = backend.endpoint.host, backend.endpoint.port
    return Agent(AgentAddress(host=host, port=port, **changes))  # type: ignore[arg-type]


def test_request_carries_token_query_and_body(make_backend: BackendMaker) -> None:
    seen: list[bytes] = []

    def answer(sock: socket.socket) -> None:
        data = b""
        while not data.endswith(b"{}"):
            data += read_exactly(sock, 1)
        seen.append(data)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")

    agent = make_agent(make_backend(answer), token="secret", basic_auth="user:word")
    reply = agent.request("PUT", "/v1/x", query={"wait": "60s", "a": "b c"}, body=b"{}", timeout=5)
    assert reply == Reply(200, b"done")
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert head.splitlines()[0] == b"PUT /v1/x?wait=60s&a=b%20c HTTP/1.1"
    assert set(head.splitlines()) >= {
        b"X-Consul-Token: secret",
        b"Authorization: Basic dXNlcjp3b3Jk",
        b"Content-Length: 2",
    }
    assert body == b"{}"


def test_absent_agent_is_unavailable(make_backend: BackendMaker) -> None:
    backend = make_backend(b"")
    agent = make_agent(backend)
    backend.close()
    with pytest.raises(Unavailable, match="refused"):
        agent.request("GET", "/", timeout=5)


def test_agent_that_hangs_up_is_unavailable(make_backend: BackendMaker) -> None:
    agent = make_agent(make_backend(lambda sock: sock.sendall(b"HTTP/1.1 200 OK\r\nConte")))
    with pytest.raises(Unavailable):
        agent.request("GET", "/", timeout=5)
