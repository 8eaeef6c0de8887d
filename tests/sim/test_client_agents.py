"""Whole client agents on virtual time, each beside the one server of its datacenter."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

from isthmus.sim.agents import AgentFederation, run_agents
from isthmus.sim.topology import Topology

JOIN_BOUND = 15.0
KNOWN_BOUND = 5.0
DEAD_BOUND = 15.0
REJOIN_BOUND = 60.0
FIRST, SECOND = "client1.dc2", "client2.dc2"


def rehearse(work: Callable[[AgentFederation], Coroutine[Any, Any, None]]) -> None:
    """Two datacenters of a server, two clients and a gateway each; the work begins when joined."""

    async def joined(federation: AgentFederation) -> None:
        await federation.joined(within=JOIN_BOUND)
        for client in federation.clients.values():
            await federation.eventually(
                lambda client=client: client.is_up and bool(client.agent.calls.servers),  # type: ignore[misc]
                within=JOIN_BOUND,
                what=f"{client.name} knows its server",
            )
        await work(federation)

    run_agents(joined, topology=Topology(datacenters=2, servers=1, clients=2, gateways=1))


async def register(federation: AgentFederation, client: str, name: str) -> None:
    body = json.dumps({"Name": name, "Port": 80}).encode()
    reply = await federation.http(client, "PUT", "/v1/agent/service/register", body)
    assert reply.status == 200, reply.text


async def health(federation: AgentFederation, at: str, query: str = "") -> dict[str, str]:
    """State of serfHealth by node, of the instances of web."""
    return {
        found["Node"]["Node"]: found["Checks"][0]["Status"]
        for found in await federation.json(at, f"/v1/health/service/web{query}")
    }


async def until_health(
    federation: AgentFederation, at: str, wanted: dict[str, str], *, within: float
) -> None:
    deadline = federation.now + within
    while (found := await health(federation, at)) != wanted:
        assert federation.now < deadline, found
        await federation.sleep(0.1)


BOTH = {"client1": "passing", "client2": "passing"}


def test_services_of_clients_are_found_everywhere() -> None:
    async def work(federation: AgentFederation) -> None:
        for client in (FIRST, SECOND):
            await register(federation, client, "web")
        for at in ("dc2", FIRST, SECOND):
            await until_health(federation, at, BOTH, within=KNOWN_BOUND)
        assert await health(federation, "client1.dc1", "?dc=dc2") == BOTH
        put = await federation.http(FIRST, "PUT", "/v1/kv/far?dc=dc1", b"1")
        assert (put.status, put.text) == (200, "true")
        assert (await federation.json("client2.dc1", "/v1/kv/far"))[0]["Key"] == "far"
        nope = await federation.http(FIRST, "GET", "/v1/kv/far?dc=nope")
        assert (nope.status, nope.text) == (
            500,
            "rpc error making call: No path to datacenter",
        )

    rehearse(work)


def test_client_shows_that_it_is_one() -> None:
    async def work(federation: AgentFederation) -> None:
        info = await federation.json(FIRST, "/v1/agent/self")
        assert info["Config"]["Server"] is False
        assert info["Stats"]["consul"] == {
            "acl": "disabled",
            "known_servers": "1",
            "server": "false",
        }
        assert info["Stats"]["isthmus"] == {"servers": "server1"}
        assert (info["Member"]["Tags"]["role"], "port" in info["Member"]["Tags"]) == ("node", False)
        assert await federation.json(FIRST, "/v1/agent/members?wan=1") is None
        names = [member["Name"] for member in await federation.json(FIRST, "/v1/agent/members")]
        assert names == ["client1", "client2", "server1"]
        for method, path, text in (
            ("PUT", "/v1/agent/join/10.9.9.9?wan=1", "Must be a server to join WAN cluster"),
            ("PUT", "/v1/isthmus/federation/doctor", "client1 is a client agent"),
        ):
            reply = await federation.http(FIRST, method, path)
            assert (reply.status, text in reply.text) == (500, True), reply.text
        figures = {
            figure["Name"]: figure
            for kind in ("Gauges", "Counters")
            for figure in (await federation.json(FIRST, "/v1/agent/metrics"))[kind]
        }
        assert figures["consul.client.rpc"]["Count"] > 0
        assert figures["isthmus.client.servers"]["Value"] == 1

    rehearse(work)


def test_events_and_keys_reach_clients() -> None:
    async def work(federation: AgentFederation) -> None:
        fired = await federation.http(FIRST, "PUT", "/v1/event/fire/deploy", b"v2")
        assert fired.status == 200, fired.text
        await federation.sleep(KNOWN_BOUND)
        for at in ("dc2", FIRST, SECOND):
            events = await federation.json(at, "/v1/event/list")
            assert [event["Name"] for event in events] == ["deploy"]
        assert await federation.json("client1.dc1", "/v1/event/list") == []

    rehearse(work)


def test_reads_are_held_while_the_only_server_starts_anew() -> None:
    async def work(federation: AgentFederation) -> None:
        await federation.http(FIRST, "PUT", "/v1/kv/k", b"1")
        federation.crash("server1.dc2")
        reading = asyncio.ensure_future(federation.json(FIRST, "/v1/kv/k"))
        await federation.sleep(3)
        assert not reading.done()
        federation.restart("server1.dc2")
        assert (await reading)[0]["Key"] == "k"

    rehearse(work)


def test_reads_end_with_an_error_while_there_is_no_server_for_long() -> None:
    async def work(federation: AgentFederation) -> None:
        federation.crash("server1.dc2")
        began = federation.now
        reply = await federation.http(FIRST, "GET", "/v1/kv/k")
        assert reply.status == 500
        assert reply.text.startswith("rpc error getting client: failed to get conn: dial tcp")
        assert 7 <= federation.now - began < 8

    rehearse(work)


def test_client_that_leaves_is_deregistered_and_one_that_dies_is_critical() -> None:
    async def work(federation: AgentFederation) -> None:
        for client in (FIRST, SECOND):
            await register(federation, client, "web")
        await until_health(federation, "dc2", BOTH, within=KNOWN_BOUND)
        federation.leave(FIRST)
        await until_health(federation, "dc2", {"client2": "passing"}, within=KNOWN_BOUND)
        federation.crash(SECOND)
        await until_health(federation, "dc2", {"client2": "critical"}, within=DEAD_BOUND)
        federation.restart(SECOND)
        await federation.eventually(
            lambda: federation.clients[SECOND].is_up, within=JOIN_BOUND, what="it is back"
        )
        wanted = {"client2": "passing"}
        deadline = federation.now + REJOIN_BOUND
        while (await health(federation, "dc2")) not in ({}, wanted):
            assert federation.now < deadline
            await federation.sleep(0.5)

    rehearse(work)
