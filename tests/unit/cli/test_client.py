"""Reaching an agent: addresses, tokens, TLS, and what is said when it does not work."""

import socketserver
import ssl
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from isthmus.cli.certificates import Role, create_ca, create_certificate
from isthmus.cli.client import AgentClient, Endpoint, RequestFailed, parse_address
from isthmus.cli.flags import UsageError
from support.cli import Cli, FakeAgent, handler_of, serving


@pytest.mark.parametrize(
    ("text", "tls", "endpoint"),
    [
        ("127.0.0.1:8500", False, Endpoint("http", "127.0.0.1", 8500)),
        ("127.0.0.1:8501", True, Endpoint("https", "127.0.0.1", 8501)),
        ("http://a:1", False, Endpoint("http", "a", 1)),
        ("http://a:1", True, Endpoint("https", "a", 1)),
        ("https://a", False, Endpoint("https", "a", 443)),
        ("[::1]:8500", False, Endpoint("http", "::1", 8500)),
        ("http://a:1/consul/", False, Endpoint("http", "a", 1, "/consul")),
        ("unix:///run/x.sock", False, Endpoint("unix", "/run/x.sock", 0)),
    ],
)
def test_address_is_understood(text: str, tls: bool, endpoint: Endpoint) -> None:
    assert parse_address(text, tls=tls) == endpoint


@pytest.mark.parametrize("text", ["ftp://a", "http://", "a:port"])
def test_bad_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="bad agent address"):
        parse_address(text)


def test_endpoint_is_shown_as_it_is_written() -> None:
    for text in ("http://127.0.0.1:8500", "https://[::1]:8501", "unix:///run/x.sock"):
        assert str(parse_address(text)) == text


def test_agent_that_is_not_there_is_named_with_what_to_do(cli: Cli) -> None:
    result = cli("members", "-http-addr=127.0.0.1:1")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "Error retrieving members: no agent answers at http://127.0.0.1:1: connection refused\n"
        "Start one with: isthmus agent -dev\n"
        "or say where it is with -http-addr or CONSUL_HTTP_ADDR.\n"
    )


def test_error_answer_is_shown_as_consul_shows_it(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/agent/members", b"No cluster leader", status=500)
    result = cli("members")
    assert result.code == 1
    assert result.err == (
        "Error retrieving members: Unexpected response code: 500 (No cluster leader)\n"
    )


def test_answer_that_is_not_json_is_an_error(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/agent/members", b"<html>")
    assert "did not answer with JSON" in cli("members").err


def test_answer_of_another_kind_is_an_error(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/agent/members", {"hello": 1})
    result = cli("members")
    assert result.code == 1
    assert "is no agent: it answered /v1/agent/members with a dict" in result.err


def test_null_is_an_empty_answer(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/catalog/services", None)
    assert cli("catalog", "services").err.startswith("No services match")


def test_answer_without_end_is_refused(agent: FakeAgent) -> None:
    agent.answer("/v1/kv/a", b"x" * 11)
    endpoint = parse_address(agent.address)
    assert AgentClient(endpoint, body_size_max=11).request("GET", "/v1/kv/a")[0] == 200
    with pytest.raises(RequestFailed, match="longer than 10 bytes"):
        AgentClient(endpoint, body_size_max=10).request("GET", "/v1/kv/a")


def test_token_and_datacenter_are_sent(
    cli: Cli, agent: FakeAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.answer("/v1/catalog/services", {})
    cli("catalog", "services", "-token=t1", "-datacenter=dc2", "-stale")
    assert agent.headers[-1]["X-Consul-Token"] == "t1"
    assert agent.last[2] == {"dc": ["dc2"], "stale": [""]}
    (tmp_path / "token").write_text("t2\n")
    monkeypatch.setenv("CONSUL_HTTP_TOKEN_FILE", str(tmp_path / "token"))
    cli("catalog", "services")
    assert agent.headers[-1]["X-Consul-Token"] == "t2"
    monkeypatch.setenv("CONSUL_HTTP_AUTH", "user:pass")
    cli("catalog", "services")
    assert agent.headers[-1]["Authorization"] == "Basic dXNlcjpwYXNz"


def test_unix_socket_is_spoken_to(cli: Cli, tmp_path: Path) -> None:
    fake = FakeAgent("")
    fake.answer("/v1/catalog/datacenters", ["dc1"])
    path = str(tmp_path / "s")
    handler = handler_of(fake)
    handler.address_string = lambda self: "unix"  # type: ignore[method-assign]
    server = socketserver.ThreadingUnixStreamServer(path, handler)
    for _ in serving(server):
        result = cli("catalog", "datacenters", f"-http-addr=unix://{path}")
    assert (result.code, result.out) == (0, "dc1\n")


@pytest.fixture
def https_agent(tmp_path: Path) -> Iterator[tuple[FakeAgent, Path]]:
    """An agent that demands a client certificate, and the folder with all of them."""
    ca, ca_key = create_ca(tmp_path)
    for role in (Role.SERVER, Role.CLI):
        create_certificate(tmp_path, ca=ca, ca_key=ca_key, role=role, dc="dc1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(
        tmp_path / "dc1-server-consul-0.pem", tmp_path / "dc1-server-consul-0-key.pem"
    )
    fake = FakeAgent("")
    fake.answer("/v1/catalog/datacenters", ["dc1"])
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(fake))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    fake.address = f"https://127.0.0.1:{server.server_address[1]}"
    for _ in serving(server):
        yield fake, tmp_path


def test_https_with_client_certificate(
    cli: Cli, https_agent: tuple[FakeAgent, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, folder = https_agent
    args = ("catalog", "datacenters", f"-http-addr={agent.address}")
    certificate = (
        f"-client-cert={folder}/dc1-cli-consul-0.pem",
        f"-client-key={folder}/dc1-cli-consul-0-key.pem",
    )
    ca = f"-ca-file={folder}/consul-agent-ca.pem"
    assert cli(*args, ca, *certificate).out == "dc1\n"
    named = "-tls-server-name=server.dc1.consul"
    assert cli(*args, ca, named, *certificate).out == "dc1\n"
    monkeypatch.setenv("CONSUL_HTTP_SSL_VERIFY", "false")
    assert cli(*args, *certificate).out == "dc1\n"


def test_unknown_ca_is_said_with_the_remedy(cli: Cli, https_agent: tuple[FakeAgent, Path]) -> None:
    result = cli("catalog", "datacenters", f"-http-addr={https_agent[0].address}")
    assert result.code == 1
    assert "does not speak TLS with us" in result.err
    assert "-ca-file" in result.err


def test_the_other_scheme_is_proposed(
    cli: Cli, agent: FakeAgent, https_agent: tuple[FakeAgent, Path]
) -> None:
    plain = cli("members", f"-http-addr=https://{agent.address.removeprefix('http://')}")
    assert plain.err.endswith(
        "\nIf that is its port without TLS, write http:// in place of https://.\n"
    )
    secure = cli("members", f"-http-addr={https_agent[0].address.replace('https://', 'http://')}")
    assert secure.err.endswith(
        "\nIf that is its port for HTTPS, write https:// in place of http://.\n"
    )
    assert (plain.code, secure.code) == (1, 1)


def test_missing_ca_file_is_named(cli: Cli) -> None:
    result = cli("members", "-http-addr=https://127.0.0.1:1", "-ca-file=/none.pem")
    assert result.code == 1
    assert result.err.startswith("cannot use /none.pem: No such file or directory\n")
