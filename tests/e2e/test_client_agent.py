"""Client agents: two beside three servers that keep their data in etcd; and in a federation."""

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.agent_process import AgentProcess
from support.etcd import etcd_missing
from support.processes import (
    ISTHMUS,
    Process,
    eventually,
    make_certificates,
    server_config,
    shown_on_failure,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

SERVERS = tuple(f"127.31.1.{number}" for number in (1, 2, 3))
CLIENTS = tuple(f"127.31.1.{number}" for number in (11, 12))
REMOTE = "127.31.1.31"
DETECTION = 15.0
"""Seconds in which a killed member is known to be dead, with a margin for a loaded machine."""


class Datacenter:
    """Three servers and two clients; and the one server of another datacenter."""

    def __init__(self, folder: Path) -> None:
        self.servers = {
            f"s{number}": AgentProcess(
                folder,
                host,
                server=True,
                bootstrap_expect=3,
                node_name=f"s{number}",
                data_dir=str(folder / f"s{number}"),
                retry_join=SERVERS,
                storage={"etcd": {"client_port": 18320 + number}},
            )
            for number, host in enumerate(SERVERS, 1)
        }
        self.clients = [
            AgentProcess(
                folder,
                host,
                server=False,
                node_name=f"c{number}",
                data_dir=str(folder / f"c{number}"),
                retry_join=SERVERS,
            )
            for number, host in enumerate(CLIENTS, 1)
        ]

        self.remote = AgentProcess(
            folder,
            REMOTE,
            server=True,
            bootstrap=True,
            datacenter="dc2",
            primary_datacenter="dc1",
            node_name="r1",
            data_dir=str(folder / "r1"),
            retry_join_wan=SERVERS,
            retry_interval_wan="1s",
        )

    @property
    def agents(self) -> list[AgentProcess]:
        return [*self.servers.values(), *self.clients, self.remote]


@pytest.fixture
def datacenter(tmp_path: Path) -> Iterator[Datacenter]:
    if why := etcd_missing():
        pytest.skip(why)
    made = Datacenter(tmp_path)
    try:
        with shown_on_failure(*(agent.process for agent in made.agents)):
            for agent in made.agents:
                eventually(agent.ready, timeout=60, what=f"agent at {agent.host}")
            yield made
    finally:
        for agent in made.agents:
            agent.kill()


class Calling(threading.Thread):
    """Calls an agent again and again; notes what failed, and the longest call."""

    def __init__(self, agent: AgentProcess, *, writes: bool = False, query: str = "") -> None:
        super().__init__(daemon=True)
        self._agent, self._writes, self._query = agent, writes, query
        self._done = threading.Event()
        self.count, self.longest = 0, 0.0
        self.failures: list[object] = []
        self.acknowledged: list[int] = []

    def run(self) -> None:
        while not self._done.is_set():
            self.count += 1
            began = time.monotonic()
            try:
                if self._writes:
                    status, body, _ = self._agent.request("PUT", f"/v1/kv/w/{self.count}", b"x")
                else:
                    status, body, _ = self._agent.request("GET", f"/v1/kv/known{self._query}")
                if status != 200:
                    self.failures.append((status, body))
                elif self._writes:
                    self.acknowledged.append(self.count)
            except OSError as error:
                self.failures.append(error)
            self.longest = max(self.longest, time.monotonic() - began)
            self._done.wait(0.01)

    def stop(self) -> None:
        self._done.set()
        self.join(30)
        assert not self.is_alive()


def used_server(client: AgentProcess) -> str:
    """Name of the server that a client calls."""
    servers: str = client.get("/v1/agent/self")["Stats"]["isthmus"]["servers"]
    return servers.partition(",")[0]


def register(agent: AgentProcess, name: str) -> None:
    body = json.dumps({"Name": name, "Port": 80}).encode()
    assert agent.request("PUT", "/v1/agent/service/register", body)[0] == 200


def health(agent: AgentProcess, service: str) -> dict[str, str]:
    """State of serfHealth by node, of a service's instances."""
    return {
        found["Node"]["Node"]: next(
            check["Status"] for check in found["Checks"] if check["CheckID"] == "serfHealth"
        )
        for found in agent.get(f"/v1/health/service/{service}")
    }


def has_health(agent: AgentProcess, wanted: dict[str, str]) -> bool:
    return health(agent, "web") == wanted


def test_clients_do_without_the_server_they_talk_to(datacenter: Datacenter) -> None:
    first, second = datacenter.clients
    register(first, "web")
    register(second, "web")
    passing = {"c1": "passing", "c2": "passing"}
    for agent in (*datacenter.servers.values(), *datacenter.clients):
        eventually(partial(has_health, agent, passing), timeout=5, what=agent.host)
    assert first.request("PUT", "/v1/kv/known", b"1")[0] == 200
    info = first.get("/v1/agent/self")
    assert info["Stats"]["consul"] == {"acl": "disabled", "known_servers": "3", "server": "false"}
    assert (info["Config"]["Server"], info["Member"]["Tags"]["role"]) == (False, "node")
    assert first.get("/v1/agent/members?wan=1") is None

    # A blocking read that waits on the server that is killed is answered all the same.
    index = first.request("GET", "/v1/kv/known")[2]["X-Consul-Index"]
    blocked = list[Any]()
    waiting = threading.Thread(
        target=lambda: blocked.append(
            first.request("GET", f"/v1/kv/awaited?index={index}&wait=40s", timeout=60.0)
        ),
        daemon=True,
    )
    waiting.start()
    known = partial(datacenter.remote.get, "/v1/kv/known?dc=dc1")
    eventually(known, timeout=20, what="dc2 reads dc1")
    reader, writer = Calling(first), Calling(first, writes=True)
    far_reader = Calling(datacenter.remote, query="?dc=dc1")
    threads = (reader, writer, far_reader)
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    lost = used_server(first)
    datacenter.servers[lost].kill()
    time.sleep(3.5)
    for thread in threads:
        thread.stop()
    for reading in (reader, far_reader):
        assert not reading.failures, reading.failures[:3]
        assert reading.longest < 7
    # A write that was on its way may have failed: it must not be made twice.
    assert len(writer.failures) <= 1, writer.failures[:3]
    assert min(reader.count, far_reader.count, len(writer.acknowledged)) > 20
    assert used_server(first) != lost
    stored = set(second.get("/v1/kv/w/?keys"))
    assert stored >= {f"w/{number}" for number in writer.acknowledged}
    assert second.request("PUT", "/v1/kv/awaited", b"now")[0] == 200
    waiting.join(10)
    ((status, body, _),) = blocked
    assert (status, json.loads(body)[0]["Key"]) == (200, "awaited")

    # Events and keys, coordinates.
    assert second.request("PUT", "/v1/event/fire/deploy", b"v2")[0] == 200
    eventually(
        lambda: [event["Name"] for event in first.get("/v1/event/list")] == ["deploy"],
        timeout=5,
        what="the event",
    )

    # A client that leaves is deregistered; one that dies is known to be dead.
    assert second.request("PUT", "/v1/agent/leave")[0] == 200
    assert second.process.wait() == 0
    eventually(
        lambda: set(health(first, "web")) == {"c1"}, timeout=DETECTION, what="c2 deregistered"
    )
    remaining = next(server for name, server in datacenter.servers.items() if name != lost)
    first.kill()
    eventually(
        lambda: health(remaining, "web") == {"c1": "critical"},
        timeout=DETECTION,
        what="c1 critical",
    )


class Site:
    """One server with TLS, a client with a client's certificate, a gateway at the client."""

    def __init__(self, folder: Path, number: int) -> None:
        self.dc = f"dc{number}"
        self.host, self.client_host = f"127.31.{number + 1}.1", f"127.31.{number + 1}.2"
        self.gateway_host = f"127.31.{number + 1}.3"
        # Only gateways are reached from the other datacenter: primary_gateways says where.
        more: dict[str, Any] = {} if number == 1 else {"primary_gateways": ["127.31.2.3:8443"]}
        config = server_config(folder, dc=self.dc, node="server", address=self.host, **more)
        self.server = Process(
            [*ISTHMUS, "agent", "-config-file", str(config)], folder / f"{self.dc}-server.log"
        )
        subprocess.run(
            [*ISTHMUS, "tls", "cert", "create", "-client", "-dc", self.dc],
            cwd=folder,
            check=True,
            capture_output=True,
        )
        self.client = AgentProcess(
            folder,
            self.client_host,
            server=False,
            datacenter=self.dc,
            primary_datacenter="dc1",
            node_name="client",
            data_dir=str(folder / f"{self.dc}-client"),
            retry_join=[self.host],
            ca_file=str(folder / "consul-agent-ca.pem"),
            cert_file=str(folder / f"{self.dc}-client-consul-0.pem"),
            key_file=str(folder / f"{self.dc}-client-consul-0-key.pem"),
            verify_outgoing=True,
            verify_server_hostname=True,
        )
        address = f"{self.gateway_host}:8443"
        command = [
            *(*ISTHMUS, "connect", "gateway", "-gateway=mesh", "-register", "-expose-servers"),
            *("-http-addr", f"{self.client_host}:8500"),
            *("-address", address, "-wan-address", address),
        ]
        eventually(self.client.ready, timeout=60, what=f"client of {self.dc}")
        self.gateway = Process(command, folder / f"{self.dc}-gateway.log")

    @property
    def processes(self) -> list[Process]:
        return [self.server, self.client.process, self.gateway]

    def kill(self) -> None:
        for process in self.processes:
            process.stop(signal.SIGKILL)


def test_gateways_registered_with_clients_join_datacenters(tmp_path: Path) -> None:
    make_certificates(tmp_path, {"dc1": "server", "dc2": "server"})
    sites = list[Site]()
    try:
        for number in (1, 2):
            sites.append(Site(tmp_path, number))
        one, two = sites
        with shown_on_failure(*one.processes, *two.processes):
            for site, other in ((one, two), (two, one)):
                read = partial(site.client.get, f"/v1/catalog/nodes?dc={other.dc}")
                eventually(read, timeout=30, what=f"{site.dc} reads {other.dc}")
            put = one.client.request("PUT", "/v1/kv/far?dc=dc2", b"1")
            assert put[:2] == (200, b"true")
            assert two.client.get("/v1/kv/far")[0]["Key"] == "far"
            # The gateway goes on while the servers that told it its routes are away.
            two.server.stop(signal.SIGKILL)
            status, body, _ = two.client.request(
                "GET", "/v1/isthmus/gateway/mesh-gateway/routes?wait=1s"
            )
            assert (status, "*.dc1.internal.*" in json.loads(body)["routes"]) == (200, True)
    finally:
        for site in sites:
            site.kill()
