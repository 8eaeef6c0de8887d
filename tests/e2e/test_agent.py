"""The agent as a process: starting, stopping, reloading, keeping data; and the command line."""

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from support.processes import ISTHMUS, Process, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]

Start = Callable[..., "Running"]


class Running:
    """A server agent on a loopback address of its own."""

    def __init__(self, folder: Path, host: str, config: dict[str, Any], flags: list[str]) -> None:
        self.host = host
        self.file = folder / f"{host}.json"
        self.configure(config)
        command = [*ISTHMUS, "agent", *flags, "-config-file", str(self.file)]
        self.process = Process(command, folder / f"{host}.log")

    def configure(self, config: dict[str, Any]) -> None:
        """Write the configuration file."""
        self.config = {"bind_addr": self.host, "client_addr": self.host, **config}
        self.file.write_text(json.dumps(self.config))

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Ask over HTTP."""
        connection = HTTPConnection(self.host, 8500, timeout=10)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """GET and decode."""
        status, body = self.request("GET", path)
        assert status == 200, body
        return json.loads(body)

    def ready(self) -> bool:
        """Whether it leads and knows its own node."""
        return bool(self.get("/v1/status/leader")) and bool(self.get("/v1/catalog/nodes"))

    def isthmus(self, *args: str) -> str:
        """Run a command against it; what it printed."""
        return self.run(*args).stdout

    def run(self, *args: str) -> "subprocess.CompletedProcess[str]":
        """Run a command against it."""
        return subprocess.run(
            [*ISTHMUS, *args],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env={"CONSUL_HTTP_ADDR": f"{self.host}:8500", "PATH": "/usr/bin:/bin"},
        )


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def start(host: str, config: dict[str, Any] | None = None, *flags: str) -> Running:
            running = Running(tmp_path, host, config or {}, list(flags))
            stack.callback(running.process.stop, signal.SIGKILL)
            eventually(running.ready, timeout=15, what=f"agent at {host}")
            return running

        yield start


def durable(folder: Path) -> dict[str, Any]:
    return {"server": True, "bootstrap": True, "data_dir": str(folder / "data")}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_the_agent_cleanly(start: Start, number: signal.Signals) -> None:
    agent = start("127.88.1.1", {}, "-dev")
    agent.process.send(number)
    assert agent.process.wait(10) == 0
    assert "Traceback" not in agent.process.output()


def test_acknowledged_writes_survive_sigkill(start: Start, tmp_path: Path) -> None:
    agent = start("127.88.1.2", durable(tmp_path))
    for number in range(20):
        assert agent.request("PUT", f"/v1/kv/k{number}", b"%d" % number) == (200, b"true")
    body = json.dumps({"Name": "web", "Port": 80}).encode()
    assert agent.request("PUT", "/v1/agent/service/register", body)[0] == 200
    before = agent.get("/v1/kv/?recurse")
    agent.process.stop(signal.SIGKILL)
    again = start("127.88.1.2", durable(tmp_path))
    assert again.get("/v1/kv/?recurse") == before
    assert list(again.get("/v1/agent/services")) == ["web"]
    assert again.get("/v1/agent/self")["Config"]["NodeID"]


def test_second_agent_on_the_same_data_is_refused(start: Start, tmp_path: Path) -> None:
    start("127.88.1.3", durable(tmp_path))
    other = Running(tmp_path, "127.88.1.4", durable(tmp_path), [])
    try:
        assert other.process.wait(10) == 1
        assert "cannot start" in other.process.output()
        assert str(tmp_path / "data") in other.process.output()
    finally:
        other.process.stop(signal.SIGKILL)


def test_reload_takes_services_of_the_new_configuration(start: Start, tmp_path: Path) -> None:
    config = durable(tmp_path)
    agent = start("127.88.1.5", {**config, "services": [{"name": "old", "port": 1}]})
    assert set(agent.get("/v1/agent/services")) == {"old"}
    agent.configure({**config, "services": [{"name": "new", "port": 2}], "log_level": "DEBUG"})
    agent.process.send(signal.SIGHUP)
    eventually(
        lambda: set(agent.get("/v1/catalog/services")) == {"consul", "new"},
        timeout=10,
        what="reloaded services",
    )
    agent.file.write_text("{ not json")
    agent.process.send(signal.SIGHUP)
    eventually(
        lambda: "reload refused" in agent.process.output(), timeout=10, what="refused reload"
    )
    assert set(agent.get("/v1/agent/services")) == {"new"}


def test_all_mistakes_of_the_configuration_are_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.hcl"
    path.write_text('server = true\ndatacentre = "dc1"\nretry_interval = "soon"\n')
    done = subprocess.run(
        [*ISTHMUS, "agent", "-config-file", str(path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    for part in ("bad.hcl", "datacentre", "datacenter", "retry_interval", "data_dir"):
        assert part in done.stderr


def test_plain_wan_federation_works_without_gateways(start: Start) -> None:
    primary = start("127.88.2.1", {"datacenter": "dc1", "node_name": "one"}, "-dev")
    secondary = start(
        "127.88.2.2",
        {
            "datacenter": "dc2",
            "primary_datacenter": "dc1",
            "node_name": "two",
            "retry_join_wan": ["127.88.2.1"],
        },
        "-dev",
    )
    eventually(
        lambda: primary.get("/v1/catalog/datacenters") == ["dc1", "dc2"],
        timeout=15,
        what="datacenters",
    )
    assert secondary.request("PUT", "/v1/kv/a?dc=dc1", b"value") == (200, b"true\n")
    assert primary.request("GET", "/v1/kv/a?raw") == (200, b"value")
    entry = b'{"Kind": "service-resolver", "Name": "web", "ConnectTimeout": "5s"}'
    assert secondary.request("PUT", "/v1/config", entry) == (200, b"true\n")
    written = primary.get("/v1/config/service-resolver/web")
    assert written["ConnectTimeout"] == "5s"
    for path in ("/v1/config/?dc=dc1", "/v1/config/service-resolver?dc=dc1"):
        assert secondary.get(path) == [written]
    assert [node["Node"] for node in primary.get("/v1/catalog/nodes?dc=dc2")] == ["two"]
    assert primary.request("GET", "/v1/catalog/nodes?dc=dc9") == (500, b"No path to datacenter")
    eventually(
        lambda: len(secondary.get("/v1/internal/federation-states")) == 2,
        timeout=15,
        what="federation states",
    )
    eventually(
        lambda: [one["Name"] for one in secondary.get("/v1/config/service-resolver")] == ["web"],
        timeout=15,
        what="replicated config entry",
    )

    assert "Graceful leave complete" in secondary.isthmus("leave")
    assert secondary.process.wait(30) == 0

    def status() -> int:
        members = {m["Name"]: m["Status"] for m in primary.get("/v1/agent/members?wan=1")}
        return int(members["two.dc2"])

    assert eventually(lambda: status() == 3, timeout=15, what="left, not failed")
    eventually(
        lambda: [s["Datacenter"] for s in primary.get("/v1/internal/federation-states")] == ["dc1"],
        timeout=15,
        what="pruned federation state",
    )


def test_blocking_query_wakes_for_its_own_key_only(start: Start) -> None:
    agent = start("127.88.1.6", {}, "-dev")
    agent.request("PUT", "/v1/kv/mine", b"1")
    index = agent.get("/v1/kv/mine")[0]["ModifyIndex"]
    with closing(HTTPConnection(agent.host, 8500, timeout=20)) as connection:
        connection.request("GET", f"/v1/kv/mine?index={index}&wait=15s")
        agent.request("PUT", "/v1/kv/other", b"1")
        agent.request("PUT", "/v1/kv/mine", b"2")
        (entry,) = json.loads(connection.getresponse().read())
    assert (entry["Value"], entry["ModifyIndex"]) == ("Mg==", index + 2)


def test_commands_show_what_there_is(start: Start, tmp_path: Path) -> None:
    agent = start("127.88.1.7", {"node_name": "alpha"}, "-dev")
    assert "alpha" in agent.isthmus("members")
    assert "alpha.dc1" in agent.isthmus("members", "-wan")
    assert agent.isthmus("catalog", "datacenters") == "dc1\n"
    assert "consul" in agent.isthmus("catalog", "services")
    assert "alpha" in agent.isthmus("catalog", "nodes")
    assert "Success! Data written to: a/b" in agent.isthmus("kv", "put", "a/b", "c")
    assert agent.isthmus("kv", "get", "a/b") == "c\n"
    assert "Success! Deleted key: a/b" in agent.isthmus("kv", "delete", "a/b")
    missing = agent.run("kv", "get", "a/b")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "No key exists at: a/b" in missing.stderr
    file = tmp_path / "web.hcl"
    file.write_text('Kind = "service-defaults"\nName = "web"\nProtocol = "HTTP"')
    written = "Config entry written: service-defaults/web\n"
    assert agent.isthmus("config", "write", str(file)) == written
    entry = ("-kind=service-defaults", "-name=web")
    assert '"Protocol": "http"' in agent.isthmus("config", "read", *entry)
    assert agent.isthmus("config", "list", "-kind=service-defaults") == "web\n"
    assert (
        agent.isthmus("config", "delete", *entry) == "Config entry deleted: service-defaults/web\n"
    )
    assert "Config entry not found" in agent.run("config", "read", *entry).stderr
    assert "serf_wan:" in agent.isthmus("info")
    eventually(lambda: "dc1" in agent.isthmus("federation", "list"), timeout=10)
    assert "dc1" in agent.isthmus("federation", "get", "dc1")
    assert agent.run("federation", "gateways").returncode == 0
    assert "No node found with name" in agent.run("force-leave", "nobody").stderr
    assert agent.run("join", "127.88.1.99").returncode == 1
    assert agent.run("no-such-command").returncode == 127


def test_failed_member_is_forgotten_once_it_is_pruned(start: Start, tmp_path: Path) -> None:
    server = start("127.88.1.20", {"node_name": "alpha"}, "-dev")
    client = start(
        "127.88.1.21",
        {
            "node_name": "web1",
            "data_dir": str(tmp_path / "client"),
            "retry_join": ["127.88.1.20"],
        },
    )
    eventually(lambda: "web1" in server.isthmus("catalog", "nodes"), timeout=10)
    client.process.stop(signal.SIGKILL)
    eventually(lambda: "web1" in server.isthmus("members", "-status=failed"), timeout=20)
    assert "web1" in server.isthmus("catalog", "nodes")
    assert server.run("force-leave", "-prune", "web1").returncode == 0
    eventually(lambda: "web1" not in server.isthmus("members"), timeout=10)
    eventually(lambda: "web1" not in server.isthmus("catalog", "nodes"), timeout=10)
    assert "alpha" in server.isthmus("members", "-status=alive")
