"""Network coordinates of two federated agents: over HTTP, by commands, in sorted answers."""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from support.agent_process import AgentProcess
from support.processes import ISTHMUS, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[AgentProcess, AgentProcess]]:
    """dc1 with node one, dc2 with node two, in one WAN pool."""
    folder: Path = tmp_path_factory.mktemp("agents")
    with ExitStack() as stack:
        made = []
        for number, (node, config) in enumerate(
            {"one": {}, "two": {"retry_join_wan": ["127.88.5.1"]}}.items(), start=1
        ):
            agent = AgentProcess(
                folder,
                f"127.88.5.{number}",
                datacenter=f"dc{number}",
                primary_datacenter="dc1",
                node_name=node,
                **config,
            )
            stack.callback(agent.kill)
            made.append(agent)
        for agent in made:
            agent.wait_until_ready()
        yield made[0], made[1]


def isthmus(agent: AgentProcess, *words: str) -> str:
    done = subprocess.run(
        [*ISTHMUS, *words],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={"CONSUL_HTTP_ADDR": f"{agent.host}:8500", "PATH": "/usr/bin:/bin"},
    )
    return done.stdout + done.stderr


def _know_each_other(agent: AgentProcess) -> bool:
    """Whether a server of each datacenter has a coordinate."""
    maps = agent.get("/v1/coordinate/datacenters")
    return [len(one["Coordinates"]) for one in maps] == [1, 1]


def test_servers_know_where_all_servers_lie(agents: tuple[AgentProcess, AgentProcess]) -> None:
    for agent, nearest_first in zip(agents, (["dc1", "dc2"], ["dc2", "dc1"]), strict=True):
        eventually(
            partial(_know_each_other, agent), timeout=30, what="coordinates of both datacenters"
        )
        assert agent.get("/v1/catalog/datacenters") == nearest_first
        maps = agent.get("/v1/coordinate/datacenters")
        assert [(one["Datacenter"], one["AreaID"]) for one in maps] == [
            ("dc1", "wan"),
            ("dc2", "wan"),
        ]
        assert [one["Coordinates"][0]["Node"] for one in maps] == ["one", "two"]
        out = isthmus(agent, "rtt", "-wan", "one.dc1", "two.dc2")
        found = re.fullmatch(
            r"Estimated one\.dc1 <-> two\.dc2 rtt: (\d+\.\d{3}) ms \(using WAN coordinates\)\n", out
        )
        assert found, out
        assert 0 < float(found[1]) < 100  # Loopback.


def test_agent_tells_the_catalog_where_it_lies(agents: tuple[AgentProcess, AgentProcess]) -> None:
    one, _ = agents
    eventually(
        lambda: one.get("/v1/coordinate/nodes"), timeout=30, what="coordinate of its own node"
    )
    (row,) = one.get("/v1/coordinate/node/one")
    assert (row["Node"], row["Segment"], len(row["Coord"]["Vec"])) == ("one", "", 8)
    assert one.get("/v1/agent/self")["Coord"].keys() == row["Coord"].keys()


def test_answers_are_sorted_also_from_another_datacenter(
    agents: tuple[AgentProcess, AgentProcess],
) -> None:
    one, two = agents
    eventually(lambda: two.get("/v1/catalog/nodes?dc=dc1"), timeout=60, what="two reaches dc1")
    for node, distance in (("close", 0.01), ("far", 0.5)):
        body = {"Node": node, "Address": "10.9.9.9"}
        assert one.request("PUT", "/v1/catalog/register", json.dumps(body).encode())[0] == 200
        coord = {"Vec": [distance, *[0] * 7], "Error": 0.1, "Height": 1e-5}
        update = json.dumps({"Node": node, "Coord": coord}).encode()
        # The other agent's words count as well: it forwards them.
        status, answer, _ = two.request("PUT", "/v1/coordinate/update?dc=dc1", update)
        assert (status, answer) == (200, b"")
    eventually(
        lambda: {"close", "far"} <= {row["Node"] for row in one.get("/v1/coordinate/nodes")},
        timeout=30,
        what="stored coordinates",
    )
    for agent, near in ((one, "far"), (two, "far&dc=dc1")):
        names = [node["Node"] for node in agent.get(f"/v1/catalog/nodes?near={near}")]
        assert names.index("far") == 0
        assert names.index("close") == 1
    assert [node["Node"] for node in one.get("/v1/catalog/nodes?near=nobody")] == [
        "close",
        "far",
        "one",
    ]
    status, answer, _ = one.request(
        "PUT", "/v1/coordinate/update", json.dumps({"Node": "far", "Coord": {"Vec": [1]}}).encode()
    )
    assert (status, answer) == (500, b"incompatible coordinate")
    assert one.request("PUT", "/v1/catalog/deregister", b'{"Node": "far"}')[0] == 200
    assert one.request("GET", "/v1/coordinate/node/far")[0] == 404
