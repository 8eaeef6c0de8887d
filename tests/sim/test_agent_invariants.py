"""Each invariant of whole agents notices what it is there for."""

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from isthmus.net.network import Network, TlsDial
from isthmus.sim.agent_invariants import InvariantBroken, Invariants
from isthmus.sim.agent_platform import Disk
from isthmus.sim.agents import AgentFederation, run_agents
from isthmus.sim.topology import Topology
from support.fabrics import Recorder

BOUND = 10.0
PAIR = Topology(datacenters=2, servers=1, gateways=1)


def break_it(work: Callable[[AgentFederation], Coroutine[Any, Any, None]]) -> None:
    """Run a federation under invariants, let it join, do something to it, and look for long."""

    async def watched(federation: AgentFederation) -> None:
        Invariants(federation, bound=BOUND)
        await federation.joined(within=15)
        await federation.sleep(2)
        await work(federation)
        await federation.sleep(6 * BOUND)

    run_agents(watched, topology=PAIR)


def test_federation_left_alone_breaks_nothing() -> None:
    async def nothing(federation: AgentFederation) -> None:
        await federation.sleep(60)

    break_it(nothing)


def test_gateway_that_nothing_contains_is_noticed() -> None:
    async def offer(federation: AgentFederation) -> None:
        locator = federation.servers["dc2"].agent.federation.locator
        assert locator is not None
        locator.set_primary_gateways(["192.0.2.9:8443"])

    with pytest.raises(InvariantBroken, match=r"server1.dc2 offers .*: 192\.0\.2\.9:8443"):
        break_it(offer)


def test_index_that_goes_back_is_noticed() -> None:
    async def forget(federation: AgentFederation) -> None:
        federation.crash("server1.dc2")
        federation.servers["dc2"].disk = Disk("00000000-0000-4000-8000-000000000000")
        federation.restart("server1.dc2")

    with pytest.raises(InvariantBroken, match=r"server1.dc2: index of .* after \d+"):
        break_it(forget)


def test_member_held_for_failed_is_noticed() -> None:
    async def cut(federation: AgentFederation) -> None:
        federation.links.cut("dc1", "dc2")  # Nobody is told that this is a disturbance.

    with pytest.raises(InvariantBroken, match=r"holds server1\.dc[12] for failed after"):
        break_it(cut)


def test_state_that_does_not_arrive_is_noticed() -> None:
    async def hide(federation: AgentFederation) -> None:
        server = federation.servers["dc2"]
        assert server.agent._duties_task is not None
        server.agent._duties_task.cancel()  # Nothing is replicated any more.
        federation.move_gateway("gateway1.dc1")

    with pytest.raises(InvariantBroken, match=r"server1\.dc2 has not the newest state of dc1"):
        break_it(hide)


def test_way_past_the_gateways_is_noticed() -> None:
    async def sneak(federation: AgentFederation) -> None:
        network: Network = federation.servers["dc1"].agent._network
        tls = TlsDial("server.dc2.consul")
        with pytest.raises(OSError, match="unreachable"):
            await network.dial(Recorder, "10.0.2.1", 8300, tls=tls, timeout=5)

    with pytest.raises(AssertionError, match=r"from server1.dc1 .* past the mesh gateways"):
        break_it(sneak)


def test_task_that_dies_of_a_defect_is_noticed() -> None:
    async def break_a_task(federation: AgentFederation) -> None:
        server = federation.servers["dc2"]
        assert server.loop is not None

        async def fail() -> None:
            raise ValueError("broken on purpose")

        server.loop.call_soon_threadsafe(lambda: server.agent._spawn(fail()))

    with pytest.raises(AssertionError, match=r"server1\.dc2 ended with exit code 1") as caught:
        break_it(break_a_task)
    assert any("broken on purpose" in note for note in caught.value.__notes__)


def test_callback_that_fails_is_noticed() -> None:
    async def break_a_callback(federation: AgentFederation) -> None:
        loop = federation.servers["dc2"].loop
        assert loop is not None

        def fail() -> None:
            raise ValueError("broken on purpose")

        loop.call_soon_threadsafe(fail)

    with pytest.raises(AssertionError, match=r"server1\.dc2: .*broken on purpose"):
        break_it(break_a_callback)
