"""Services and checks of a client agent: into the catalog, through a crash, a reload and out."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.agent_process import AgentProcess
from support.processes import eventually, shown_on_failure

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

SERVER, CLIENT = "127.41.1.1", "127.41.1.2"
PATIENCE = 30.0


class World:
    """A server, and a client agent beside it that may run programs."""

    def __init__(self, folder: Path) -> None:
        self.server = AgentProcess(
            folder, SERVER, server=True, bootstrap=True, node_name="s1", data_dir=str(folder / "s1")
        )
        self.settings = {
            "bind_addr": CLIENT,
            "client_addr": CLIENT,
            "server": False,
            "node_name": "c1",
            "data_dir": str(folder / "c1"),
            "retry_join": [SERVER],
            "retry_interval": "1s",
            "enable_script_checks": True,
        }
        self.client = AgentProcess(folder, CLIENT, **self.settings)

    def put(self, path: str, body: object = None) -> None:
        data = None if body is None else json.dumps(body).encode()
        status, answer, _ = self.client.request("PUT", f"/v1/agent/{path}", data)
        assert (status, answer) == (200, b"")

    def services(self) -> set[str]:
        """Ids of the client's services in the catalog."""
        found = self.server.get("/v1/catalog/node/c1")
        return set(found["Services"]) if found is not None else set()

    def checks(self) -> dict[str, Any]:
        """The client's checks in the catalog: status by id."""
        return {one["CheckID"]: one["Status"] for one in self.server.get("/v1/health/node/c1")}

    def shows(self, **statuses: str) -> bool:
        """Whether the catalog shows checks so."""
        found = self.checks()
        return all(found.get(name) == status for name, status in statuses.items())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    try:
        with shown_on_failure(world.server.process, world.client.process):
            for agent in (world.server, world.client):
                eventually(agent.ready, timeout=PATIENCE, every=0.05, what=agent.host)
            yield world
    finally:
        world.client.kill()
        world.server.kill()


def until(condition: Any, what: str) -> None:
    eventually(condition, timeout=PATIENCE, every=0.1, what=what)


def test_services_of_a_client_agent(world: World) -> None:
    world.put(
        "service/register",
        {
            "Name": "web",
            "Port": 80,
            "Checks": [
                {"CheckID": "ttl", "TTL": "1h"},
                {
                    "CheckID": "http",
                    "HTTP": f"http://{SERVER}:8500/v1/status/leader",
                    "Interval": "1s",
                },
                {"CheckID": "tcp", "TCP": f"{SERVER}:1", "Interval": "1s"},
            ],
            "Connect": {"SidecarService": {}},
        },
    )
    script = {"CheckID": "script", "Name": "s", "Args": ["sh", "-c", "exit 1"], "Interval": "1s"}
    world.put("check/register", script)
    assert world.services() == {"web", "web-sidecar-proxy"}  # At once, no waiting.
    world.put("check/pass/ttl?note=fine")
    assert world.checks()["ttl"] == "passing"
    until(lambda: world.shows(http="passing", tcp="critical", script="warning"), "checks ran")

    world.client.kill()
    until(lambda: world.shows(serfHealth="critical"), "the crash is seen")
    world.client.restart()
    until(lambda: world.shows(serfHealth="passing"), "it is back")
    until(lambda: world.shows(ttl="passing", http="passing", tcp="critical"), "all is kept")
    local = world.client.get("/v1/agent/checks")
    assert (local["ttl"]["Status"], local["ttl"]["Output"]) == ("passing", "fine")
    assert world.services() == {"web", "web-sidecar-proxy"}

    settings = {**world.settings, "services": [{"name": "from-file", "port": 81}]}
    world.client.file.write_text(json.dumps(settings))
    world.client.process.send(signal.SIGHUP)
    until(lambda: "from-file" in world.services(), "the reload")
    assert {"web", "web-sidecar-proxy"} <= world.services()

    world.put("maintenance?enable=true&reason=moving")
    assert world.checks()["_node_maintenance"] == "critical"
    assert world.client.request("GET", "/v1/agent/health/service/id/web?format=text")[0] == 503
    world.put("maintenance?enable=false")
    world.put("service/deregister/web")
    until(lambda: world.services() == {"from-file"}, "the sidecar goes along")
