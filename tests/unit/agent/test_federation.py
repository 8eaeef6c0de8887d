"""Ways to other datacenters: what is dialled, what is noted, what is said, on virtual time."""

import asyncio
import errno
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, TypeVar

import pytest

from isthmus.agent.federation import Federation
from isthmus.config.model import AgentConfig, ConnectConfig, TlsConfig
from isthmus.errors import DialFailed, Unavailable
from isthmus.federation.outcomes import Trouble
from isthmus.federation.router import ServerInfo
from isthmus.model.catalog import CheckServiceNode, HealthCheck, NodeService, ServiceAddress
from isthmus.model.federation import FederationState
from isthmus.model.query import DatacenterRequest
from isthmus.net.network import Inbound, TlsDial
from support.memory_network import MemoryNetwork
from support.virtual_loop import now, run_virtual, settle

T = TypeVar("T")
P = TypeVar("P", bound=asyncio.BaseProtocol)

FIRST, SECOND = "10.2.0.1:8443", "10.2.0.2:8443"
REFUSED = OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
REFUSED_TEXT = (
    f"dial tcp {FIRST}: connect: connection refused"
    f" (datacenter dc3, server beta, gateway {FIRST}, step: connect)"
)
REMEDY = f"nothing listens at {FIRST}: start the gateway there, or correct that address"
BETA = ServerInfo(name="beta.dc3", node="beta", dc="dc3", host="10.3.0.7", port=8300)


@dataclass(frozen=True)
class Dial:
    """One dial of the network."""

    address: str
    tls: TlsDial | None


class FakeNetwork(MemoryNetwork):
    """Everybody who was told to listens and never says a word; writes down who is dialled."""

    def __init__(self) -> None:
        super().__init__()
        self.dials: list[Dial] = []

    async def dial(
        self, factory: Callable[[], P], host: str, port: int, *, tls: TlsDial | None, **rest: Any
    ) -> P:
        self.dials.append(Dial(f"{host}:{port}", tls))
        if (host, port) not in self.listeners:
            raise REFUSED
        return await super().dial(factory, host, port, tls=tls, **rest)

    def open(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.listeners[host, int(port)] = _take


async def _take(inbound: Inbound) -> None:
    await inbound.start(asyncio.Protocol(), tls=None)


class World:
    """The federation part of a server of dc2, whose primary is dc1."""

    def __init__(self, *, gateways: bool = True, **config: Any) -> None:
        self.network = FakeNetwork()
        self.changes = self.populations = 0
        self.federation = Federation(
            AgentConfig(
                datacenter="dc2",
                primary_datacenter="dc1",
                connect=ConnectConfig(mesh_gateway_wan_federation=gateways),
                **config,
            ),
            self.network,
            rng=Random(1),
            changed=self._changed,
            populated=self._populated,
        )

    def _changed(self) -> None:
        self.changes += 1

    def _populated(self) -> None:
        self.populations += 1

    def tell(self, *states: FederationState) -> None:
        """The store's federation states."""
        assert self.federation.locator is not None
        self.federation.locator.set_states(states)
        self.federation.locator_told()

    def candidates(self, dc: str = "dc3") -> tuple[str, ...]:
        assert self.federation.locator is not None
        return self.federation.locator.candidates(dc)

    async def gossip(self, name: str = "beta.dc3") -> None:
        """Open a gossip stream through a gateway."""
        carrier = self.federation.gossip_carrier()
        try:
            await carrier.open_stream(name, asyncio.Protocol, timeout=5.0)
        finally:
            await settle()  # What it reports comes through the main loop's queue.

    async def ask(self) -> object:
        """Call dc3 over RPC."""
        request = DatacenterRequest(datacenter="dc3")
        return await self.federation.forwarder.call("dc3", "Status.Leader", request, str)

    def trouble(self, dc: str = "dc3") -> Trouble | None:
        return self.federation.outcomes.trouble(dc)


def play(act: Callable[[World], Awaitable[T]], **options: Any) -> T:
    async def run() -> T:
        world = World(**options)
        try:
            return await act(world)
        finally:
            await world.federation.close()

    return run_virtual(run())


def state(dc: str, *gateways: str, wan: Sequence[str] = ()) -> FederationState:
    """Gateways at these LAN addresses, and at the WAN addresses beside them."""
    return FederationState(
        datacenter=dc,
        mesh_gateways=tuple(
            CheckServiceNode(
                service=NodeService(
                    kind="mesh-gateway",
                    service="mesh-gateway",
                    address=lan.rpartition(":")[0],
                    port=int(lan.rpartition(":")[2]),
                    meta={"consul-wan-federation": "1"},
                    tagged_addresses={"wan": ServiceAddress(address=host)} if host else None,
                ),
                checks=(HealthCheck(status="passing"),),
            )
            for lan, host in zip(gateways, [*wan, *[""] * len(gateways)], strict=False)
        ),
    )


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was logged since it was asked last."""
    caplog.set_level(logging.INFO, "isthmus.agent.federation")

    def take() -> list[str]:
        texts = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return texts

    return take


# Whom it dials --------------------------------------------------------------------------------


def test_other_datacenters_are_dialled_through_our_gateway_by_name() -> None:
    async def act(world: World) -> list[Dial]:
        world.tell(state("dc2", FIRST))
        world.network.open(FIRST)
        await world.gossip()
        return [*world.network.dials]

    tls = TlsDial("beta.server.dc3.consul", "consul/wan-gossip/stream")
    assert play(act) == [Dial(FIRST, tls)]


def test_domain_of_the_federation_is_in_the_names() -> None:
    async def act(world: World) -> str:
        world.tell(state("dc2", FIRST))
        world.network.open(FIRST)
        await world.gossip("beta.dc1")
        (dial,) = world.network.dials
        assert dial.tls is not None
        return dial.tls.server_name

    assert play(act, domain="example.net") == "beta.server.dc1.example.net"


def test_without_gateways_servers_are_dialled_directly() -> None:
    async def act(world: World) -> tuple[list[Dial], str]:
        assert world.federation.locator is None
        world.federation.router.put(BETA)
        with pytest.raises(Unavailable) as caught:
            await world.ask()
        return list(dict.fromkeys(world.network.dials)), str(caught.value)

    dials, text = play(act, gateways=False)
    assert dials == [Dial("10.3.0.7:8300", None)]
    assert "dial tcp 10.3.0.7:8300: connect: connection refused" in text


def test_with_tls_a_server_is_dialled_by_the_name_of_its_datacenter() -> None:
    async def act(world: World) -> set[str]:
        world.federation.router.put(BETA)
        with pytest.raises(Unavailable):
            await world.ask()
        return {dial.tls.server_name for dial in world.network.dials if dial.tls is not None}

    tls = TlsConfig(verify_outgoing=True, verify_server_hostname=True)
    assert play(act, gateways=False, tls=tls) == {"server.dc3.consul"}


def test_without_gateways_what_the_locator_would_be_told_is_dropped() -> None:
    async def act(world: World) -> int:
        world.federation.refresh_primary_gateway_fallback_addresses(["gw.example.com:443"])
        world.federation.locator_told()
        return world.changes + world.populations

    assert play(act, gateways=False) == 0


# What it is told ------------------------------------------------------------------------------


def test_every_news_of_gateways_is_passed_on_and_said(said: Callable[[], list[str]]) -> None:
    async def act(world: World) -> None:
        world.tell(state("dc2", FIRST), state("dc1", "10.1.0.1:443", wan=["198.51.100.1"]))
        assert (world.populations, world.changes) == (1, 2)
        assert said() == [
            f"gateways changed: local {FIRST}, primary 198.51.100.1:443, configured none,"
            " heard of none",
            "gateway locator is populated",
        ]
        world.tell(state("dc2", FIRST), state("dc1", "10.1.0.1:443", wan=["198.51.100.1"]))
        assert (world.populations, world.changes, said()) == (1, 2, [])
        world.federation.refresh_primary_gateway_fallback_addresses(["b:443", "a:443"])
        assert (world.populations, world.changes) == (1, 3)
        assert said() == [
            f"gateways changed: local {FIRST}, primary 198.51.100.1:443,"
            " configured a:443, b:443, heard of none"
        ]

    play(act)


def test_way_to_the_primary_is_said_when_it_changes(said: Callable[[], list[str]]) -> None:
    async def act(world: World) -> None:
        locator = world.federation.locator
        assert locator is not None
        world.tell(state("dc2", FIRST))
        locator.replication_started()
        said()
        for _ in range(3):
            locator.replication_failed()
            world.federation.locator_told()
        assert said() == ["will dial the primary datacenter through its gateways"]
        locator.replication_succeeded()
        world.federation.locator_told()
        assert said() == ["will dial the primary datacenter through our own gateways"]

    play(act)


def test_who_waits_for_a_gateway_goes_on_when_one_is_known() -> None:
    async def act(world: World) -> float:
        loop = asyncio.get_running_loop()
        loop.call_later(3.0, world.tell)  # Populated, and nobody there.
        loop.call_later(7.0, world.tell, state("dc2", FIRST))
        await world.federation.gateway_known("dc3")
        return now()

    assert play(act) == 7.0


def test_configured_gateways_lead_to_the_primary_only() -> None:
    async def act(world: World) -> tuple[float, bool]:
        loop = asyncio.get_running_loop()
        configured = world.federation.refresh_primary_gateway_fallback_addresses
        loop.call_later(3.0, world.tell)
        loop.call_later(5.0, configured, ["198.51.100.1:443"])
        third = loop.create_task(world.federation.gateway_known("dc3"))
        await world.federation.gateway_known("dc1")
        since = now()
        await settle()
        waits = not third.done()
        third.cancel()
        return since, waits

    assert play(act) == (5.0, True)


# What it notes --------------------------------------------------------------------------------


def test_failing_gateway_is_tried_last_until_it_works() -> None:
    async def act(world: World) -> None:
        world.tell(state("dc2", FIRST, SECOND))
        world.network.open(SECOND)
        while FIRST not in [dial.address for dial in world.network.dials]:
            await world.gossip()  # Until chance has picked it first.
        assert {world.candidates() for _ in range(20)} == {(SECOND, FIRST)}
        world.network.open(FIRST)
        del world.network.listeners["10.2.0.2", 8443]
        await world.gossip()
        assert {world.candidates() for _ in range(20)} == {(FIRST, SECOND)}

    play(act)


def test_dials_are_counted_by_gateway() -> None:
    async def act(world: World) -> Any:
        world.tell(state("dc2", FIRST))
        with pytest.raises(DialFailed):
            await world.gossip()
        await asyncio.sleep(10)
        world.network.open(FIRST)
        await world.gossip("gamma.dc4")
        (record,) = world.federation.outcomes.gateways()
        return record

    record = play(act)
    assert (record.address, record.dcs) == (FIRST, {"dc3", "dc4"})
    assert (record.attempts, record.failures, record.failing_since) == (2, 1, None)
    assert (record.error_at, record.used_at) == (0.0, 10.0)
    assert record.error == f"dial tcp {FIRST}: connect: connection refused"


def test_trouble_is_said_once_with_its_remedy_and_so_is_its_end(
    said: Callable[[], list[str]],
) -> None:
    async def act(world: World) -> None:
        world.tell(state("dc2", FIRST))
        said()
        for _ in range(3):
            with pytest.raises(DialFailed):
                await world.gossip()
            await asyncio.sleep(2)
        assert said() == [f"cannot reach datacenter dc3: {REFUSED_TEXT}: remedy: {REMEDY}"]
        world.network.open(FIRST)
        await world.gossip()
        assert said() == ["datacenter dc3 is reached again after 6.0 s"]
        assert world.trouble() is None

    play(act)


def test_trouble_with_another_step_is_said_again(said: Callable[[], list[str]]) -> None:
    async def act(world: World) -> None:
        world.tell(state("dc2"))
        for _ in range(2):
            with pytest.raises(DialFailed):
                await world.gossip()
        world.tell(state("dc2", FIRST))
        with pytest.raises(DialFailed):
            await world.gossip()

    play(act)
    _, none, _, refused = said()
    assert none.startswith("cannot reach datacenter dc3: Remote DC has no server currently")
    assert "remedy: start a mesh gateway in dc2" in none
    assert refused == f"cannot reach datacenter dc3: {REFUSED_TEXT}: remedy: {REMEDY}"


def test_rpc_and_gossip_share_what_is_known_of_a_trouble() -> None:
    """The call says since when the datacenter fails, which gossip noticed first."""

    async def act(world: World) -> tuple[str, Trouble | None]:
        world.tell(state("dc2", FIRST))
        world.federation.router.put(BETA)
        with pytest.raises(DialFailed):
            await world.gossip()
        await asyncio.sleep(30)
        with pytest.raises(Unavailable) as caught:
            await world.ask()
        return str(caught.value), world.trouble()

    text, trouble = play(act)
    assert "30.0 s" in text
    assert trouble is not None
    assert (trouble.since, trouble.by_call, trouble.step) == (0.0, False, "connect")


def test_failed_dial_of_a_call_counts_once() -> None:
    """The dialler has noted it already when the call's end is told."""

    async def act(world: World) -> tuple[float, int]:
        world.tell(state("dc2", FIRST))
        with pytest.raises(DialFailed):
            await world.gossip()
        await asyncio.sleep(5)
        seconds = world.federation.call_failed(
            "dc3", node="beta", gateway=FIRST, step="connect", text="refused", dialled=False
        )
        trouble = world.trouble()
        assert trouble is not None
        return seconds, trouble.count

    assert play(act) == (5.0, 1)


@pytest.mark.parametrize("gateways", [True, False])
def test_call_that_failed_after_its_dial_is_over_only_with_an_answer(gateways: bool) -> None:
    async def act(world: World) -> None:
        fail = world.federation.call_failed
        told: dict[str, Any] = {"node": "beta", "gateway": FIRST, "text": "connection lost"}
        assert fail("dc3", **told, step="remote server", dialled=True) == 0.0
        await asyncio.sleep(4)
        assert fail("dc3", **told, step="remote server", dialled=True) == 4.0
        if gateways:
            world.tell(state("dc2", FIRST))
            world.network.open(FIRST)
            await world.gossip()
        trouble = world.trouble()
        assert trouble is not None
        assert (trouble.by_call, trouble.count) == (True, 2)
        world.federation.call_answered("dc3", "beta")
        assert world.trouble() is None

    play(act, gateways=gateways)


def test_without_gateways_failed_dials_of_calls_are_noted_too(
    said: Callable[[], list[str]],
) -> None:
    async def act(world: World) -> None:
        world.federation.router.put(BETA)
        with pytest.raises(Unavailable):
            await world.ask()
        trouble = world.trouble()
        assert trouble is not None
        assert (trouble.step, trouble.node, trouble.gateway) == ("connect", "beta", "")

    play(act, gateways=False)
    (line,) = said()
    assert line.startswith("cannot reach datacenter dc3: dial tcp 10.3.0.7:8300: connect: ")


def test_answer_of_a_datacenter_without_trouble_says_nothing(
    said: Callable[[], list[str]],
) -> None:
    async def act(world: World) -> None:
        world.federation.call_answered("dc3", "beta")

    play(act)
    assert said() == []


def test_refusals_last_until_a_call_is_allowed() -> None:
    async def act(world: World) -> list[float]:
        refused = world.federation.call_refused
        seconds = [refused("dc3", "beta")]
        await asyncio.sleep(2)
        seconds.append(refused("dc3", "beta"))
        world.federation.call_answered("dc3", "beta")
        seconds.append(refused("dc3", "beta"))
        return seconds

    assert play(act) == [0.0, 2.0, 0.0]


def test_why_a_datacenter_is_unknown_is_said_with_its_age() -> None:
    async def act(world: World) -> str:
        assert world.federation.why("dc3") == ""
        world.tell(state("dc2", FIRST))
        with pytest.raises(DialFailed):
            await world.gossip()
        await asyncio.sleep(12.5)
        return world.federation.why("dc3")

    assert play(act) == (
        "no server of it is in the WAN pool yet, and it cannot be joined:"
        f" {REFUSED_TEXT}, for 12.5 s now"
    )


def test_gateway_of_a_silent_connection_is_tried_last(said: Callable[[], list[str]]) -> None:
    async def act(world: World) -> None:
        world.tell(state("dc2", FIRST, SECOND))
        world.federation.router.put(BETA)
        world.network.open(FIRST)
        world.network.open(SECOND)
        said()
        call = asyncio.get_running_loop().create_task(world.ask())
        await asyncio.sleep(1)
        silent, lines = world.network.dials[0].address, said()
        assert lines == [f"connection through gateway {silent} shows no sign of life"]
        assert {world.candidates()[-1] for _ in range(20)} == {silent}
        call.cancel()
        await asyncio.wait({call})

    play(act)


def test_another_server_stands_in_for_one_whose_connection_is_silent() -> None:
    gamma = replace(BETA, name="gamma.dc3", node="gamma")

    async def act(world: World) -> None:
        world.tell(state("dc2", FIRST))
        for server in (BETA, gamma):
            world.federation.router.put(server)
        world.network.open(FIRST)
        call = asyncio.get_running_loop().create_task(world.ask())
        await asyncio.sleep(1)
        assert [dial.tls and dial.tls.server_name for dial in world.network.dials] == [
            "beta.server.dc3.consul",
            "gamma.server.dc3.consul",
        ]
        assert [server.node for server in world.federation.router.servers("dc3")] == [
            "gamma",
            "beta",
        ]
        call.cancel()
        await asyncio.wait({call})

    play(act)


def test_call_in_flight_fails_when_all_is_closed() -> None:
    """It is a read, and would be repeated on a new connection otherwise."""

    async def act(world: World) -> None:
        world.tell(state("dc2", FIRST))
        world.federation.router.put(BETA)
        world.network.open(FIRST)
        call = asyncio.get_running_loop().create_task(world.ask())
        await settle()
        await world.federation.close()
        with pytest.raises(Unavailable, match="this agent is stopping"):
            await call
        assert len(world.network.dials) == 1

    play(act)


async def test_dials_of_the_gossip_thread_are_noted_on_the_main_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    world.tell(state("dc2", FIRST))
    caplog.clear()
    caplog.set_level(logging.INFO, "isthmus.agent.federation")

    def fail() -> None:
        with pytest.raises(DialFailed):
            asyncio.run(world.gossip())

    await asyncio.to_thread(fail)
    world.network.open(FIRST)
    await asyncio.to_thread(lambda: asyncio.run(world.gossip()))
    began, ended = (record for record in caplog.records if record.name.startswith("isthmus."))
    assert began.getMessage().startswith("cannot reach datacenter dc3: ")
    assert ended.getMessage().startswith("datacenter dc3 is reached again after ")
    assert {began.thread, ended.thread} == {threading.get_ident()}
    (gateway,) = world.federation.outcomes.gateways()
    assert (gateway.attempts, gateway.failures) == (2, 1)
    await world.federation.close()
