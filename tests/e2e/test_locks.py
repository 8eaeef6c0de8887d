"""Locks between processes: whoever dies loses them, in the datacenter and from another one."""

import json
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.agent_process import AgentProcess
from support.processes import ISTHMUS, Process, eventually, shown_on_failure

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

SERVER, CLIENT, REMOTE = "127.87.1.1", "127.87.1.11", "127.87.1.31"
START_TIMEOUT = 60.0
DETECTION = 60.0
"""Seconds in which a killed member is known to be dead, with a margin for a loaded machine."""
LOCK_DELAY = "2s"


class Site:
    """A server that keeps its data and a client of dc1, and the server of dc2."""

    def __init__(self, folder: Path) -> None:
        self.server = AgentProcess(
            folder,
            SERVER,
            server=True,
            bootstrap=True,
            node_name="s1",
            data_dir=str(folder / "s1"),
        )
        self.client = AgentProcess(
            folder,
            CLIENT,
            node_name="c1",
            data_dir=str(folder / "c1"),
            retry_join=[SERVER],
        )
        self.remote = AgentProcess(
            folder,
            REMOTE,
            server=True,
            bootstrap=True,
            datacenter="dc2",
            node_name="r1",
            data_dir=str(folder / "r1"),
            retry_join_wan=[SERVER],
            retry_interval_wan="1s",
        )

    @property
    def agents(self) -> list[AgentProcess]:
        return [self.server, self.client, self.remote]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    try:
        with shown_on_failure(*(agent.process for agent in site.agents)):
            for agent in site.agents:
                eventually(agent.ready, timeout=START_TIMEOUT, what=f"agent at {agent.host}")
            eventually(partial(alive, site), timeout=START_TIMEOUT, what="the client's health")
            eventually(partial(federated, site), timeout=START_TIMEOUT, what="the federation")
            yield site
    finally:
        for agent in site.agents:
            agent.kill()


def alive(site: Site) -> bool:
    checks = site.server.get("/v1/health/node/c1")
    return any(check["Status"] == "passing" for check in checks)


def federated(site: Site) -> bool:
    status, _, _ = site.remote.request("GET", "/v1/kv/?keys&dc=dc1")
    return status == 200


def put(agent: AgentProcess, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    status, answer, _ = agent.request("PUT", path, data)
    assert status == 200, answer
    return json.loads(answer)


def create(agent: AgentProcess, query: str = "", **fields: Any) -> str:
    wanted = {"LockDelay": LOCK_DELAY, **fields}
    return str(put(agent, f"/v1/session/create{query}", wanted)["ID"])


def holder(agent: AgentProcess, query: str = "") -> str:
    (entry,) = agent.get(f"/v1/kv/job{query}")
    return str(entry.get("Session", ""))


def test_lock_of_a_machine_that_died_goes_to_another_datacenters_program(site: Site) -> None:
    held = create(site.client, Name="on the client")
    assert put(site.client, f"/v1/kv/job?acquire={held}", "mine")
    wanted = create(site.remote, "?dc=dc1", Node="s1")
    take = f"/v1/kv/job?acquire={wanted}&dc=dc1"
    assert put(site.remote, take) is False
    assert holder(site.remote, "?dc=dc1") == held
    site.client.kill()
    eventually(
        lambda: not holder(site.remote, "?dc=dc1"), timeout=DETECTION, what="the lock's release"
    )
    assert put(site.remote, take) is False, "its lock delay has just begun"
    eventually(lambda: put(site.remote, take), timeout=DETECTION, what="the lock")
    assert holder(site.server) == wanted
    assert site.server.get(f"/v1/session/info/{held}") == []


def test_sessions_and_locks_survive_their_server(site: Site) -> None:
    """Nobody renews, and nothing ends early: a server that starts gives the whole time again."""
    lasting, fleeting = create(site.server, TTL="24h"), create(site.server, TTL="10s")
    assert put(site.server, f"/v1/kv/job?acquire={lasting}")
    site.server.kill()
    site.server.restart()
    eventually(site.server.ready, timeout=START_TIMEOUT, what="the server")
    assert holder(site.server) == lasting
    sessions = {session["ID"] for session in site.server.get("/v1/session/list")}
    assert sessions == {lasting, fleeting}
    eventually(
        lambda: len(site.server.get("/v1/session/list")) == 1,
        timeout=DETECTION,
        what="the end of the short session",
    )
    assert holder(site.server) == lasting


def test_command_ends_when_the_machine_that_locks_for_it_is_declared_dead(
    site: Site, tmp_path: Path
) -> None:
    """`isthmus lock` holds its lock through an agent; another's turn comes when that dies."""
    started = tmp_path / "started"
    script = f"echo $$ >{started}; exec sleep 120"
    address = f"-http-addr={CLIENT}:8500"
    first = Process([*ISTHMUS, "lock", address, "job", script], tmp_path / "first.log")
    try:
        eventually(started.exists, timeout=START_TIMEOUT, what="the first command")
        site.client.kill()
        first.wait(DETECTION)
        second = subprocess.run(
            [*ISTHMUS, "lock", f"-http-addr={SERVER}:8500", "job", "echo second"],
            capture_output=True,
            text=True,
            timeout=DETECTION,
            check=False,
        )
        assert (second.returncode, second.stdout) == (0, "second\n")
    finally:
        first.stop()
