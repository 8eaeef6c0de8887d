"""Reads as installed: answers given again, the agent's cache, addresses of another datacenter."""

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from support.agent_process import HTTP_PORT, START_TIMEOUT, AgentProcess
from support.processes import eventually, shown_on_failure

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

SERVER, CLIENT, REMOTE = "127.47.1.1", "127.47.1.11", "127.47.1.21"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AgentProcess]:
    agent = AgentProcess(
        tmp_path, SERVER, server=True, bootstrap=True, node_name="s1", translate_wan_addrs=True
    )
    try:
        agent.wait_until_ready()
        yield agent
    finally:
        agent.kill()


@pytest.fixture
def client(server: AgentProcess, tmp_path: Path) -> Iterator[AgentProcess]:
    agent = AgentProcess(
        tmp_path,
        CLIENT,
        server=False,
        node_name="c1",
        data_dir=str(tmp_path / "c1"),
        retry_join=[SERVER],
    )
    try:
        with shown_on_failure(agent.process, server.process):
            eventually(agent.ready, timeout=START_TIMEOUT, what="the client agent")
            yield agent
    finally:
        agent.kill()


@pytest.fixture
def remote(server: AgentProcess, tmp_path: Path) -> Iterator[AgentProcess]:
    agent = AgentProcess(
        tmp_path,
        REMOTE,
        server=True,
        bootstrap=True,
        datacenter="dc2",
        primary_datacenter="dc1",
        node_name="r1",
        retry_join_wan=[SERVER],
    )
    try:
        agent.wait_until_ready()
        with shown_on_failure(agent.process, server.process):
            eventually(
                lambda: server.get("/v1/catalog/nodes?dc=dc2"),
                timeout=60,
                what="the other datacenter",
            )
            yield agent
    finally:
        agent.kill()


def register(agent: AgentProcess, name: str, **service: Any) -> None:
    body = {
        "Node": "n1",
        "Address": "10.0.0.1",
        "TaggedAddresses": {"wan": "198.18.0.1"},
        "Service": {"Service": name, "Port": 80, **service},
    }
    status, text, _ = agent.request("PUT", "/v1/catalog/register", json.dumps(body).encode())
    assert status == 200, text


def test_every_write_is_seen_by_the_next_read_on_the_same_connection(server: AgentProcess) -> None:
    connection = HTTPConnection(SERVER, HTTP_PORT, timeout=10)
    seen = []
    for number in range(200):
        connection.request("PUT", "/v1/kv/a", str(number))
        assert connection.getresponse().read().strip() == b"true"
        for _ in range(3):
            connection.request("GET", "/v1/kv/a?raw")
            answer = connection.getresponse()
            seen.append((answer.read(), int(answer.headers["X-Consul-Index"])))
    connection.close()
    assert [value for value, _ in seen] == [b"%d" % (at // 3) for at in range(600)]
    indexes = [index for _, index in seen]
    assert indexes == sorted(indexes)
    assert len(set(indexes)) == 200


def test_client_agent_answers_from_its_cache_and_follows_changes(
    server: AgentProcess, client: AgentProcess
) -> None:
    register(server, "web")
    path = "/v1/health/service/web?cached"
    _, _, first = client.request("GET", path)
    _, body, second = client.request("GET", path)
    assert (first["X-Cache"], "Age" in first) == ("MISS", False)
    assert (second["X-Cache"], second["Age"]) == ("HIT", "0")
    assert len(json.loads(body)) == 1
    register(server, "web", ID="web-2")

    def followed() -> bool:
        _, body, headers = client.request("GET", path)
        assert headers["X-Cache"] == "HIT"
        return len(json.loads(body)) == 2

    eventually(followed, timeout=20, every=0.02, what="the second instance")


def test_cache_answers_while_no_server_does_and_tells_its_age(
    server: AgentProcess, client: AgentProcess
) -> None:
    register(server, "web")
    path = "/v1/catalog/service/web?cached"
    client.request("GET", path)
    server.kill()

    def aged() -> bool:
        status, body, headers = client.request("GET", path)
        assert (status, headers["X-Cache"]) == (200, "HIT")
        assert len(json.loads(body)) == 1
        return int(headers["Age"]) > 0

    eventually(aged, timeout=60, what="an age")


def test_answers_about_another_datacenter_show_wan_addresses(
    server: AgentProcess, remote: AgentProcess
) -> None:
    wan = {"wan": {"Address": "198.18.0.2", "Port": 8080}}
    for agent in (server, remote):
        register(agent, "web", Address="10.0.0.2", TaggedAddresses=wan)

    def shown(query: str) -> tuple[str, str, int]:
        (found,) = server.get(f"/v1/health/service/web{query}")
        return found["Node"]["Address"], found["Service"]["Address"], found["Service"]["Port"]

    assert shown("") == shown("?dc=dc1") == ("10.0.0.1", "10.0.0.2", 80)
    assert shown("?dc=dc2") == ("198.18.0.1", "198.18.0.2", 8080)
    _, _, headers = server.request("GET", "/v1/catalog/nodes")
    assert headers["X-Consul-Translate-Addresses"] == "true"
    _, _, headers = remote.request("GET", "/v1/catalog/nodes")
    assert "X-Consul-Translate-Addresses" not in headers
