"""What members of the pools mean for the catalog, the router and the WAN pool."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from isthmus.agent.membership import LanMembership, WanMembership, missing_in_wan
from isthmus.errors import RequestError, Unavailable
from isthmus.federation.router import Router
from isthmus.gossip.roster import (
    Member,
    MemberFailed,
    MemberJoined,
    MemberLeft,
    MemberReaped,
    MemberStatus,
    MemberUpdated,
)
from isthmus.model.catalog import (
    SERF_HEALTH,
    DeregisterRequest,
    HealthCheck,
    Node,
    NodeRequest,
    RegisterRequest,
)
from isthmus.model.record import Record
from isthmus.store.engine import NoSpace
from support.servers import make_server
from support.virtual_loop import now, run_virtual, settle

ALIVE, FAILED, LEFT = MemberStatus.ALIVE, MemberStatus.FAILED, MemberStatus.LEFT


def server(
    name: str, *, status: MemberStatus = ALIVE, address: str = "10.0.0.1", wan_port: int = 8302
) -> Member:
    tags = {"role": "consul", "dc": "dc1", "port": "8300", "vsn": "2", "build": "1.10.11:x"}
    if wan_port:
        tags["wan_join_port"] = str(wan_port)
    return Member(name=name, address=address, port=8301, tags=tags, status=status)


def client_id(name: str) -> str:
    return f"c0000000-0000-4000-8000-{name.encode().hex():0>12}"


def client(name: str, *, status: MemberStatus = ALIVE) -> Member:
    tags = {"role": "node", "dc": "dc1", "id": client_id(name)}
    return Member(name=name, address="10.0.0.7", port=8301, tags=tags, status=status)


class FakePool:
    def __init__(self, *members: Member) -> None:
        self.all = list(members)
        self.joined: list[tuple[float, str]] = []
        self.bad: set[str] = set()
        self.hidden_until = 0.0

    def members(self) -> tuple[Member, ...]:
        return tuple(self.all) if now() >= self.hidden_until else ()

    async def join(self, addresses: Sequence[str]) -> int:
        self.joined += [(now(), address) for address in addresses]
        if self.bad.intersection(addresses):
            raise Unavailable("nobody there")
        return len(addresses)


class Catalog:
    """A server in memory. Records writes; raises what is prepared for a node, once each."""

    def __init__(self) -> None:
        self.server = make_server()
        self.writes: list[tuple[float, str]] = []
        self.registrations: list[RegisterRequest] = []
        self.before: list[RegisterRequest] = []
        self.failures: dict[str, list[Exception]] = {}

    async def start(self) -> None:
        await self.server.start()
        for request in self.before:
            await self.server.call("Catalog.Register", request)

    async def rpc(self, method: str, request: Record) -> object:
        if isinstance(request, RegisterRequest):
            self.registrations.append(request)
            assert method == "Catalog.Register"
            assert request.check is not None
            service = " consul" if request.service is not None else ""
            text = f"{request.node} {request.check.status}{service}"
        elif isinstance(request, DeregisterRequest):
            assert method == "Catalog.Deregister"
            assert (request.service_id, request.check_id) == ("", "")
            text = f"{request.node} gone"
        else:
            return await self.server.call(method, request)
        self.writes.append((now(), text))
        if failures := self.failures.get(text.split()[0]):
            raise failures.pop(0)
        return await self.server.call(method, request)


class World:
    def __init__(self, *lan: Member, wan: Sequence[Member] | None = (), leads: bool = True) -> None:
        self.lan, self.leads = FakePool(*lan), leads
        self.wan = FakePool(*wan) if wan is not None else None
        self.catalog = Catalog()

    def run(
        self,
        duty: Callable[[LanMembership], Coroutine[Any, Any, None]],
        seconds: float,
        *acts: tuple[float, object],
    ) -> None:
        """Run a duty for some time; each event comes at its moment."""

        async def play() -> None:
            await self.catalog.start()
            membership = LanMembership(
                dc="dc1",
                own_name="s1",
                rpc=self.catalog.rpc,
                rng=Random(1),
                leads=lambda: self.leads,
            )
            membership.use(self.lan, self.wan)
            running = asyncio.get_running_loop().create_task(duty(membership))
            for moment, event in acts:
                await asyncio.sleep(moment - now())
                membership.receive(event)
            await asyncio.sleep(seconds - now())
            await settle()
            if running.done():
                running.result()
            running.cancel()
            await asyncio.wait({running})
            await self.catalog.server.stop()

        run_virtual(play())

    def reconcile(self, seconds: float, *acts: tuple[float, object]) -> list[tuple[float, str]]:
        self.run(LanMembership.reconcile, seconds, *acts)
        return self.catalog.writes

    def flood(self, seconds: float, *acts: tuple[float, object]) -> list[tuple[float, str]]:
        self.run(LanMembership.flood, seconds, *acts)
        assert self.wan is not None
        return self.wan.joined


def registered(node: Node, *, check_id: str = SERF_HEALTH) -> RegisterRequest:
    check = HealthCheck(node=node.node, check_id=check_id, name="x", status="passing")
    return RegisterRequest(
        datacenter="dc1",
        id=node.id,
        node=node.node,
        address=node.address,
        tagged_addresses=node.tagged_addresses,
        node_meta=node.meta,
        check=check,
    )


def test_all_members_are_written_at_start_and_then_left_alone() -> None:
    world = World(server("s1"), client("c1"))
    assert world.reconcile(601) == [(0, "s1 passing consul"), (0, "c1 passing")]


def test_what_others_changed_is_repaired_within_a_minute() -> None:
    world = World(server("s1"), client("c1"))

    async def reconcile(membership: LanMembership) -> None:
        async def change() -> None:
            await asyncio.sleep(5)
            for request in (
                DeregisterRequest(datacenter="dc1", node="c1", check_id=SERF_HEALTH),
                DeregisterRequest(datacenter="dc1", node="s1", service_id="consul"),
            ):
                await world.catalog.server.call("Catalog.Deregister", request)

        changing = asyncio.get_running_loop().create_task(change())
        try:
            await membership.reconcile()
        finally:
            changing.cancel()

    world.run(reconcile, 70)
    assert world.catalog.writes[2:] == [(60, "s1 passing consul"), (60, "c1 passing")]


def test_node_that_no_member_stands_for_is_removed_after_two_rounds() -> None:
    world = World(client("c1"), client("late", status=FAILED), client("never", status=FAILED))
    world.catalog.before = [
        registered(Node(node="gone", address="10.0.0.9")),
        registered(Node(node="LATE", address="10.0.0.9")),
        registered(Node(node="external", address="10.0.0.9"), check_id="ping"),
        registered(Node(node="s1", address="10.0.0.1")),
    ]
    writes = world.reconcile(601)
    assert [text for at, text in writes if at == 0] == ["c1 passing", "late critical"]
    assert "never critical" not in [text for _, text in writes]
    assert [(at, text) for at, text in writes if at] == [(60, "gone gone")]


def test_rounds_in_quick_succession_remove_nobody() -> None:
    """Becoming the leader begins a round at once; a pool just joined is still empty."""
    world = World()
    world.catalog.before = [registered(Node(node="c1", address="10.0.0.7"))]

    async def reconcile(membership: LanMembership) -> None:
        loop = asyncio.get_running_loop()
        for moment in (0.1, 1, 5, 20):
            loop.call_later(moment, membership.leadership_changed)
        await membership.reconcile()

    world.run(reconcile, 30)
    assert world.catalog.writes == []


def test_server_that_does_not_lead_removes_nobody() -> None:
    world = World(leads=False)
    world.catalog.before = [registered(Node(node="gone", address="10.0.0.9"))]
    assert world.reconcile(601) == []


def test_refused_removal_of_a_node_stops_nothing() -> None:
    world = World()
    world.catalog.before = [registered(Node(node="gone", address="10.0.0.9"))]
    world.catalog.failures["gone"] = [RequestError("not now")]
    assert world.reconcile(130) == [(60, "gone gone"), (120, "gone gone")]


def test_node_whose_member_came_back_in_time_stays() -> None:
    world = World()
    world.catalog.before = [registered(Node(node="c1", address="10.0.0.7"))]
    world.lan.all.append(client("c1"))
    world.lan.hidden_until = 30
    assert ("c1 gone") not in [text for _, text in world.reconcile(601)]


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (MemberJoined(client("c1")), "c1 passing"),
        (MemberUpdated(client("c1")), "c1 passing"),
        (MemberFailed(client("c1", status=FAILED)), "c1 critical"),
        (MemberFailed(server("s2", status=FAILED)), "s2 critical consul"),
        (MemberLeft(client("c1", status=LEFT)), "c1 gone"),
        (MemberReaped(client("c1", status=LEFT)), "c1 gone"),
        (MemberReaped(client("c1", status=FAILED)), "c1 gone"),
    ],
)
def test_event_is_written_at_once(event: object, text: str) -> None:
    world = World()
    if not text.endswith("passing"):
        world.catalog.before = [registered(Node(node=text[:2], address="10.0.0.7"))]
    assert world.reconcile(10, (5, event)) == [(5, text)]


def test_departure_of_a_member_that_the_catalog_never_had_is_no_write() -> None:
    world = World(client("c1", status=LEFT))
    assert world.reconcile(200, (5, MemberReaped(client("c1", status=LEFT)))) == []


@pytest.mark.parametrize(
    ("node", "status", "moved"),
    [
        (None, ALIVE, False),
        (Node(id=client_id("c1"), node="c1", address="10.0.0.7"), ALIVE, False),
        (Node(id=client_id("c1"), node="c1", address="10.0.0.6"), ALIVE, True),
        (Node(node="c1", address="10.0.0.7"), ALIVE, True),
        (Node(id=client_id("c1"), node="c1", address="10.0.0.6"), FAILED, False),
    ],
)
def test_member_at_another_address_moves_its_node(
    node: Node | None, status: MemberStatus, *, moved: bool
) -> None:
    world = World(client("c1", status=status))
    if node is not None:
        node = replace(node, tagged_addresses={"lan": "10.0.0.6"}, meta={"rack": "7"})
        world.catalog.before = [registered(node)]
    world.reconcile(10)
    (written,) = world.catalog.registrations
    assert (written.address, written.id) == ("10.0.0.7", client_id("c1"))
    assert written.skip_node_update is not moved
    kept = ({"lan": "10.0.0.6"}, {"rack": "7"}) if moved else (None, None)
    assert (written.tagged_addresses, written.node_meta) == kept


def test_client_is_in_the_catalog_from_its_join_to_its_departure() -> None:
    """Against a real store: what an operator sees of a client, event by event."""

    async def play() -> None:
        server = make_server()
        await server.start()
        membership = LanMembership(dc="dc1", own_name="s1", rpc=server.call, rng=Random(1))
        membership.use(FakePool(), None)
        running = asyncio.get_running_loop().create_task(membership.reconcile())

        async def seen(event: object) -> tuple[str, list[tuple[str, str]]]:
            membership.receive(event)
            await asyncio.sleep(1)
            request = NodeRequest(datacenter="dc1", node="c1")
            found = (await server.call("Catalog.NodeServices", request)).node_services
            checks = (await server.call("Health.NodeChecks", request)).health_checks
            address = found.node.address if found is not None else ""
            return address, [(check.check_id, check.status) for check in checks]

        tags = {"role": "node", "dc": "dc1", "id": "c0000000-0000-0000-0000-000000000001"}
        alive = replace(client("c1"), tags=tags)
        failed = MemberFailed(replace(alive, status=FAILED))
        moved = MemberJoined(replace(alive, address="10.0.0.9"))
        left = MemberLeft(replace(alive, status=LEFT))
        assert await seen(MemberJoined(alive)) == ("10.0.0.7", [("serfHealth", "passing")])
        assert await seen(failed) == ("10.0.0.7", [("serfHealth", "critical")])
        assert await seen(moved) == ("10.0.0.9", [("serfHealth", "passing")])
        assert await seen(left) == ("", [])
        running.cancel()
        await asyncio.wait({running})
        await server.stop()

    run_virtual(play())


def test_we_never_deregister_ourselves() -> None:
    assert World(server("s1", status=LEFT)).reconcile(100) == []


def test_plain_serf_member_has_no_place_in_the_catalog() -> None:
    plain = Member(name="x", address="10.0.0.8", port=1, tags={}, status=ALIVE)
    assert World(plain).reconcile(10, (5, MemberLeft(plain)), (6, "other event")) == []


def test_refused_member_stops_no_other() -> None:
    world = World(client("bad"), client("good"))
    world.catalog.failures["bad"] = [RequestError("name is taken")]
    assert world.reconcile(10) == [(0, "bad passing"), (0, "good passing")]


@pytest.mark.parametrize("error", [Unavailable("no leader"), NoSpace("full", operation="commit")])
def test_failure_is_repeated_and_loses_nobody(error: Exception) -> None:
    world = World(client("c1"), client("c2"))
    world.catalog.failures["c1"] = [error, error]
    writes = world.reconcile(10)
    assert [text for _, text in writes] == ["c1 passing"] * 3 + ["c2 passing"]
    assert 0.25 <= writes[1][0] <= 0.3
    assert 0.75 <= writes[2][0] <= 0.9


def test_newest_news_of_a_member_win() -> None:
    world = World()
    world.catalog.before = [registered(Node(node="c1", address="10.0.0.7"))]
    world.catalog.failures["c1"] = [Unavailable("no leader")]
    events = [(1.0, MemberJoined(client("c1"))), (1.1, MemberLeft(client("c1", status=LEFT)))]
    assert [text for _, text in world.reconcile(10, *events)] == ["c1 passing", "c1 gone"]


# Into the WAN pool ------------------------------------------------------------------------------


def test_servers_are_brought_into_the_wan_pool_each_minute() -> None:
    address = "s2.dc1/10.0.0.1:8302"
    world = World(server("s1"), server("s2"), client("c1"))
    assert world.flood(61) == [(0, address), (60, address)]


def test_server_that_joins_is_brought_in_at_once() -> None:
    world = World(server("s1"))
    world.lan.all.append(server("s2"))
    assert world.wan is not None
    world.wan.all.append(server("s2.dc1"))
    late = server("s3", address="fd00::3")
    world.lan.all.append(late)
    assert world.flood(10, (5, MemberJoined(client("c1"))), (6, MemberJoined(late))) == [
        (0, "s3.dc1/[fd00::3]:8302"),
        (6, "s3.dc1/[fd00::3]:8302"),
    ]


def test_server_that_cannot_be_reached_stops_no_other() -> None:
    world = World(server("s2"), server("s3"))
    assert world.wan is not None
    world.wan.bad = {"s2.dc1/10.0.0.1:8302"}
    assert [address for _, address in world.flood(10)] == [
        "s2.dc1/10.0.0.1:8302",
        "s3.dc1/10.0.0.1:8302",
    ]


def test_without_a_wan_pool_nothing_is_brought_in() -> None:
    world = World(server("s2"), wan=None)
    world.run(LanMembership.flood, 100)


def test_missing_are_alive_servers_with_a_wan_port_that_the_wan_pool_has_not_alive() -> None:
    lan = [
        server("s1"),
        server("s2", status=FAILED),
        server("s3", wan_port=0),
        server("s4"),
        server("s5"),
    ]
    wan = [server("s4.dc1"), server("s5.dc1", status=FAILED)]
    assert missing_in_wan(lan, wan, own_name="s1", dc="dc1") == ["s5.dc1/10.0.0.1:8302"]


# The router -------------------------------------------------------------------------------------


def test_router_is_told_of_wan_servers() -> None:
    router, told = Router(), list[str]()
    wan = WanMembership(router, changed=lambda: told.append("changed"), departed=told.append)
    wan.receive(MemberJoined(server("s1.dc1")))
    wan.receive(MemberFailed(server("s1.dc1", status=FAILED)))
    assert [(found.node, found.alive) for found in router.servers("dc1")] == [("s1", False)]
    wan.receive(MemberUpdated(client("c1.dc1")))  # No server: only logged.
    wan.receive("other event")
    wan.receive(MemberLeft(server("s1.dc1", status=LEFT)))
    assert (router.servers("dc1"), told) == ((), ["changed"] * 3 + ["dc1", "changed"])


def test_datacenter_departs_with_its_last_server() -> None:
    router, departed = Router(), list[str]()
    wan = WanMembership(router, changed=lambda: None, departed=departed.append)
    for name in ("s1.dc1", "s2.dc1"):
        wan.receive(MemberJoined(server(name)))
    wan.receive(MemberReaped(server("s1.dc1", status=FAILED)))
    assert departed == []
    wan.receive(MemberReaped(server("s2.dc1", status=FAILED)))
    assert departed == ["dc1"]
