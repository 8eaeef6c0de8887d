"""Whole agents, as they ship, in one process on virtual time: each test is a rehearsal."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, TypeVar

import pytest

from isthmus.gossip.roster import MemberStatus
from isthmus.sim.agent_invariants import Invariants
from isthmus.sim.agents import AgentFederation, NotInTime, run_agents
from isthmus.sim.loop import Deadlock
from isthmus.sim.topology import Topology

T = TypeVar("T")
Rehearsal = Callable[[AgentFederation], Coroutine[Any, Any, T]]

SEEDS = range(20)
JOIN_BOUND = 15.0
HEAL_BOUND = 180.0
CALL_BOUND = 10.0


def rehearse(work: "Rehearsal[T]", *, seed: int = 1, datacenters: int = 3, gateways: int = 1) -> T:
    """Run a rehearsal under all invariants, from the moment the federation has joined."""

    async def watched(federation: AgentFederation) -> T:
        invariants = Invariants(federation)
        await federation.joined(within=JOIN_BOUND)
        result = await work(federation)
        assert invariants.look_count >= int(federation.now) - 1
        return result

    topology = Topology(datacenters=datacenters, servers=1, gateways=gateways)
    return run_agents(watched, topology=topology, seed=seed)


async def put_and_get(federation: AgentFederation, source: str, target: str) -> None:
    """Write a key in one datacenter and read it from another.

    A first write may be late: it waits for the same dial as calls from before a way was healed,
    and fails with it.
    """
    key = f"{source}-{target}-{federation.now:.0f}"
    deadline = federation.now + CALL_BOUND
    while True:
        written = await federation.http(source, "PUT", f"/v1/kv/{key}?dc={target}", b"there")
        if written.status == 200 or federation.now > deadline:
            break
        await federation.sleep(0.5)
    assert (written.status, written.text) == (200, "true")
    read = await federation.http(target, "GET", f"/v1/kv/{key}?raw")
    assert (read.status, read.body) == (200, b"there")
    across = await federation.http(source, "GET", f"/v1/kv/{key}?raw&dc={target}")
    assert (across.status, across.body) == (200, b"there")


def test_secondaries_join_through_gateways_only_and_answer_both_ways() -> None:
    async def work(federation: AgentFederation) -> None:
        for source, target in (("dc1", "dc2"), ("dc2", "dc1"), ("dc2", "dc3"), ("dc3", "dc2")):
            await put_and_get(federation, source, target)
        assert await federation.json("dc3", "/v1/catalog/datacenters") == ["dc3", "dc1", "dc2"]
        for name, gateway in federation.gateways.items():
            assert gateway.gateway.forwarded_size > 0, name

    rehearse(work)


def test_gateway_at_a_new_address_is_known_and_used_everywhere() -> None:
    async def work(federation: AgentFederation) -> None:
        address = federation.move_gateway("gateway1.dc2")

        def known() -> bool:
            tables = [federation.gateways[f"gateway1.{dc}"].gateway.routes for dc in ("dc1", "dc3")]
            routes = [table.routes.get("server.dc2.consul") for table in tables]
            return all(
                route is not None and [str(end) for end in route.endpoints] == [address]
                for route in routes
            )

        await federation.eventually(known, within=20, what="routes to the new address")
        await federation.joined(within=20)
        await put_and_get(federation, "dc3", "dc2")
        await put_and_get(federation, "dc2", "dc3")
        await federation.sleep(HEAL_BOUND + 30)

    rehearse(work)


def test_primary_away_for_ten_minutes_comes_back_within_the_bound() -> None:
    async def work(federation: AgentFederation) -> float:
        federation.isolate("dc1")
        await federation.sleep(600)
        for dc in ("dc2", "dc3"):
            member = federation.servers[dc].members()["server1.dc1"]
            assert member is MemberStatus.FAILED
        await put_and_get(federation, "dc2", "dc3")  # Secondaries need no primary to meet.
        federation.rejoin("dc1")
        took = await federation.joined(within=HEAL_BOUND)
        await put_and_get(federation, "dc3", "dc1")
        await federation.sleep(HEAL_BOUND)
        return took

    assert rehearse(work) > 0


def test_one_way_partition_heals_within_the_bound() -> None:
    async def work(federation: AgentFederation) -> None:
        federation.cut("dc1", "dc2", one_way=True)
        await federation.sleep(120)
        await put_and_get(federation, "dc1", "dc3")
        await put_and_get(federation, "dc3", "dc2")
        federation.heal("dc1", "dc2")
        await federation.joined(within=HEAL_BOUND)
        await put_and_get(federation, "dc1", "dc2")
        await federation.sleep(HEAL_BOUND)

    rehearse(work)


def test_paused_agent_wakes_after_minutes_and_is_believed_again() -> None:
    async def work(federation: AgentFederation) -> None:
        federation.pause("server1.dc2")
        await federation.eventually(
            lambda: federation.servers["dc1"].members()["server1.dc2"] is MemberStatus.FAILED,
            within=60,
            what="dc1 to miss server1.dc2",
        )
        await federation.sleep(120)
        federation.resume("server1.dc2")
        await federation.joined(within=60)
        await put_and_get(federation, "dc1", "dc2")

    rehearse(work)


def test_crashed_agent_comes_back_with_what_it_had_committed() -> None:
    async def work(federation: AgentFederation) -> None:
        assert (await federation.http("dc2", "PUT", "/v1/kv/kept", b"yes")).status == 200
        index = federation.servers["dc2"].agent.server.store.index
        federation.crash("server1.dc2")
        await federation.sleep(5)
        federation.restart("server1.dc2")
        await federation.joined(within=60)
        assert federation.servers["dc2"].agent.server.store.index >= index
        read = await federation.http("dc3", "GET", "/v1/kv/kept?raw&dc=dc2")
        assert (read.status, read.body) == (200, b"yes")

    rehearse(work)


def test_one_of_two_gateways_is_enough() -> None:
    async def work(federation: AgentFederation) -> None:
        for dc in ("dc1", "dc2"):
            federation.crash(f"gateway1.{dc}")
        await federation.sleep(30)
        await put_and_get(federation, "dc2", "dc1")
        await put_and_get(federation, "dc1", "dc2")
        for dc in ("dc1", "dc2"):
            federation.restart(f"gateway1.{dc}")
        await federation.sleep(30)
        await federation.joined(within=5)

    rehearse(work, datacenters=2, gateways=2)


def test_clocks_that_drift_disturb_nobody() -> None:
    async def work(federation: AgentFederation) -> None:
        federation.drift("server1.dc2", 1.05)
        federation.drift("server1.dc3", 0.95)
        await federation.sleep(HEAL_BOUND + 60)
        await federation.joined(within=1)

    rehearse(work)


# Failures tell what to look at --------------------------------------------------------------------


def test_deadlock_names_who_waits_for_whom_and_where() -> None:
    async def work(federation: AgentFederation) -> None:
        first, second = asyncio.Lock(), asyncio.Lock()
        met = asyncio.Barrier(2)

        async def take(one: asyncio.Lock, other: asyncio.Lock) -> None:
            async with one:
                await met.wait()
                async with other:
                    raise AssertionError("both locks at once")

        loop = asyncio.get_running_loop()
        tasks = {
            loop.create_task(take(first, second), name="left hand"),
            loop.create_task(take(second, first), name="right hand"),
        }
        for program in federation.programs.values():
            program.kill()  # What lives on has timers for ever.
        await asyncio.wait(tasks)

    with pytest.raises(Deadlock) as caught:
        run_agents(work)
    text = str(caught.value)
    for name in ("left hand", "right hand"):
        assert re.search(rf"operator: {name} waits at \S*test_agents:\d+ in \S*take", text)


def test_what_does_not_happen_in_time_tells_where_every_agent_waits() -> None:
    async def work(federation: AgentFederation) -> None:
        federation.isolate("dc2")
        await federation.joined(within=5)

    with pytest.raises(NotInTime) as caught:
        run_agents(work, seed=7)
    text = str(caught.value)
    assert "server1.dc2 does not see server1.dc1, server1.dc3 alive" in text
    assert re.search(r"server1.dc2: RetryJoin.run #\d+ waits at isthmus\.\w+", text)
    assert any("seed 7" in note for note in caught.value.__notes__)


# The same seed, the same run ----------------------------------------------------------------------

_RUN = """
import asyncio
from isthmus.sim.agents import AgentFederation, run_agents

async def work(federation: AgentFederation) -> str:
    await federation.joined(within=15)
    federation.cut("dc1", "dc2")
    await federation.sleep(40)
    federation.crash("server1.dc3")
    federation.heal("dc1", "dc2")
    await federation.sleep(3)
    federation.restart("server1.dc3")
    await federation.joined(within=180)
    await federation.json("dc2", "/v1/agent/members?wan=1")
    return f"{federation.trace.count} {federation.trace.digest}"

print(run_agents(work, seed=SEED))
"""


def _trace(seed: int, hash_seed: int) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _RUN.replace("SEED", str(seed))],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
    )
    return done.stdout.strip()


def test_same_seed_gives_the_same_trace_whatever_python_hashes_with() -> None:
    first = _trace(5, 1)
    assert int(first.split()[0]) > 500
    assert _trace(5, 2) == first
    assert _trace(6, 1) != first


# Whatever happens ---------------------------------------------------------------------------------


async def _befall(federation: AgentFederation, rng: Random) -> None:
    """One random fault, and its end."""
    dcs = federation.topology.names
    source, target = rng.sample(dcs, 2)
    server, gateway = f"server1.{source}", f"gateway1.{source}"
    lasting = rng.choice((0.5, 3.0, 20.0, 60.0))
    match rng.choice(("cut", "one way", "isolate", "pause", "crash", "gateway", "move", "drift")):
        case "cut":
            federation.cut(source, target)
            await federation.sleep(lasting)
            federation.heal(source, target)
        case "one way":
            federation.cut(source, target, one_way=True)
            await federation.sleep(lasting)
            federation.heal(source, target)
        case "isolate":
            federation.isolate(source)
            await federation.sleep(lasting)
            federation.rejoin(source)
        case "pause":
            federation.pause(server)
            await federation.sleep(lasting)
            federation.resume(server)
        case "crash":
            federation.crash(server)
            await federation.sleep(lasting)
            federation.restart(server)
        case "gateway":
            federation.crash(gateway)
            await federation.sleep(lasting)
            federation.restart(gateway)
        case "move":
            federation.move_gateway(gateway)
        case "drift":
            federation.drift(server, rng.choice((0.9, 1.0, 1.1)))


@pytest.mark.parametrize("seed", SEEDS)
def test_random_faults_break_nothing_and_heal(seed: int) -> None:
    async def work(federation: AgentFederation) -> None:
        rng = Random(f"faults {seed}")
        for _ in range(6):
            await _befall(federation, rng)
            await federation.sleep(rng.choice((0.1, 2.0, 15.0)))
        await federation.joined(within=HEAL_BOUND)
        for dc in federation.topology.names:
            await put_and_get(federation, dc, "dc1" if dc != "dc1" else "dc2")
        await federation.sleep(HEAL_BOUND + 5)

    rehearse(work, seed=seed)
