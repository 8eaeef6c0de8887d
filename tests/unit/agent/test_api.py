"""What the agent says of itself, and does when it is told to, on virtual time."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from random import Random
from typing import Any, TypeVar, cast

import pytest

from isthmus.agent.api import AgentApi, server_figures
from isthmus.agent.local import LocalState, NodeFacts
from isthmus.agent.log_stream import WATCHERS_MAX, LogStreams
from isthmus.config.model import (
    OFF,
    AgentConfig,
    ConnectConfig,
    GossipConfig,
    PortConfig,
)
from isthmus.errors import InvalidRequest, RequestError
from isthmus.gossip.roster import Member, MemberStatus
from isthmus.model import agent
from isthmus.model.catalog import HealthCheck, NodeService
from isthmus.model.coordinate import Coord
from isthmus.model.diagnosis import DoctorReport
from isthmus.wire import gojson
from support.servers import make_server
from support.virtual_loop import now, run_virtual

T = TypeVar("T")

FACTS = NodeFacts(dc="dc1", node="n1", node_id="", address="10.0.0.1", tagged_addresses={}, meta={})
FEDERATED = ConnectConfig(mesh_gateway_wan_federation=True)


def member(
    name: str,
    status: MemberStatus = MemberStatus.ALIVE,
    *,
    address: str = "10.0.0.1",
    **tags: str,
) -> Member:
    return Member(
        name=name,
        address=address,
        port=8301,
        tags=tags,
        status=status,
        protocol_min=1,
        protocol_max=5,
        protocol_cur=2,
        delegate_min=2,
        delegate_max=5,
        delegate_cur=4,
    )


COORD = Coord(vec=(0.001,) * 8, error=0.5, adjustment=0.0001, height=0.0002)


class FakePool:
    """Members as given; writes down what it is told."""

    def __init__(self, *members: Member) -> None:
        self._members = members
        self.told: list[tuple[object, ...]] = []

    def members(self) -> tuple[Member, ...]:
        return self._members

    def coordinate(self) -> Coord:
        return COORD

    def local_member(self) -> Member:
        return self._members[0]

    async def join(self, addresses: Sequence[str]) -> int:
        self.told.append(("join", *addresses))
        return 1

    async def force_leave(self, name: str, prune: bool = False) -> None:
        self.told.append(("force_leave", name, prune))

    async def stats(self) -> dict[str, str]:
        return {"members": str(len(self._members))}


class FakeServices:
    """Services with checks that run."""

    def runner_count(self, kind: str = "") -> int:
        return {"ttl": 2, "script": 1}[kind]


class FakeParts:
    """An agent without services in a LAN pool of its own; the other parts are never used."""

    metrics = intervals = routes = events = cast(Any, None)

    def __init__(
        self,
        *,
        lan: FakePool | None = None,
        wan: FakePool | None = None,
        **config: Any,
    ) -> None:
        self.config = AgentConfig(node_name="n1", **{"server": True, **config})
        self.node_id = "b0000000-0000-0000-0000-000000000001"
        self.server = make_server()
        self.local = LocalState(facts=FACTS, rng=Random(1))
        self.lan: Any = lan
        self.wan: Any = wan
        self.stops: list[bool] = []
        self.reloads = 0
        self.services: Any = FakeServices()
        self.log_streams = LogStreams()

    def wall(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def reload_files(self) -> None:
        self.reloads += 1

    def figures(self) -> Mapping[str, Mapping[str, str]]:
        return server_figures(self.server, bootstrap=True, peer_count=0)

    async def diagnose(self, dc: str) -> DoctorReport:
        raise AssertionError(dc)

    async def move_storage(self) -> None:
        raise AssertionError

    def stop(self, *, leave: bool) -> None:
        self.stops.append(leave)


def make_api(lan: FakePool | None = None, wan: FakePool | None = None, **config: Any) -> AgentApi:
    return AgentApi(FakeParts(lan=lan, wan=wan, **config))


# Looking inside -------------------------------------------------------------------------------


async def test_log_is_watched_at_the_level_asked_for() -> None:
    parts = FakeParts()
    lines = AgentApi(parts).watch_log("debug", as_json=False)
    first = asyncio.ensure_future(anext(lines))
    await asyncio.sleep(0)
    logging.getLogger("isthmus.some").debug("seen")
    assert (await first).endswith(b"[DEBUG] some: seen\n")
    await lines.aclose()
    assert len(parts.log_streams) == 0


async def test_log_of_an_unknown_level_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(InvalidRequest, match="Bad request: Unknown log level: loud"):
        make_api().watch_log("loud", as_json=False)


async def test_too_many_watchers_are_refused() -> None:
    parts = FakeParts()
    watching = [AgentApi(parts).watch_log("err", as_json=False) for _ in range(WATCHERS_MAX)]
    waiting = [asyncio.ensure_future(anext(lines)) for lines in watching]
    await asyncio.sleep(0)
    with pytest.raises(RequestError, match="too many clients") as refused:
        AgentApi(parts).watch_log("err", as_json=False)
    assert refused.value.status == 429
    parts.log_streams.close()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_reload_is_the_agents_business() -> None:
    parts = FakeParts()
    await AgentApi(parts).reload()
    assert parts.reloads == 1


def test_host_is_told_with_the_moment() -> None:
    assert make_api().host()["CollectionTime"] == 1_767_225_600_000_000_000


@pytest.mark.parametrize("enabled", [False, True])
def test_debug_is_as_the_operator_wants_it(enabled: bool) -> None:
    assert make_api(enable_debug=enabled).debug_enabled is enabled


# /v1/agent/self -------------------------------------------------------------------------------


async def test_agent_says_who_it_is() -> None:
    api = make_api(
        FakePool(member("n1", role="consul", dc="dc2")),
        FakePool(member("n1.dc2"), member("a.dc1")),
        datacenter="dc2",
        primary_datacenter="dc1",
        server=True,
        node_meta={"rack": "7"},
    )
    info: Any = await api.self_info()
    config = info["Config"]
    assert {name: config[name] for name in config if name not in {"Revision", "Version"}} == {
        "Datacenter": "dc2",
        "PrimaryDatacenter": "dc1",
        "NodeName": "n1",
        "NodeID": "b0000000-0000-0000-0000-000000000001",
        "Server": True,
    }
    assert info["Meta"] == {"consul-network-segment": "", "rack": "7"}
    assert info["Member"].name == "n1"
    assert info["Coord"] == COORD
    assert api.coordinates_enabled
    assert info["Stats"]["serf_lan"] == {"members": "1"}
    assert info["Stats"]["serf_wan"] == {"members": "2"}
    assert gojson.encode(info).startswith(b'{"Config":{')


async def test_agent_without_coordinates_shows_none() -> None:
    api = make_api(FakePool(member("n1")), gossip=GossipConfig(disable_coordinates=True))
    info: Any = await api.self_info()
    assert (info["Coord"], api.coordinates_enabled) == (None, False)


async def test_agent_says_whether_it_leads() -> None:
    parts = FakeParts()
    api = AgentApi(parts)

    async def leading() -> tuple[object, ...]:
        stats: Any = (await api.self_info())["Stats"]
        consul, raft = stats["consul"], stats["raft"]
        return consul["leader"], consul["leader_addr"], raft["state"]

    assert await leading() == ("false", "", "Follower")
    await parts.server.start()
    assert await leading() == ("true", "127.0.0.1:8300", "Leader")
    await parts.server.stop()


async def test_agent_without_pools_has_no_member_and_no_figures_of_them() -> None:
    info: Any = await make_api().self_info()
    assert info["Member"] is None
    assert sorted(info["Stats"]) == ["agent", "build", "consul", "raft", "runtime"]


async def test_figures_count_what_runs_here() -> None:
    parts = FakeParts()
    for name in ("web", "db"):
        parts.local.put_service(NodeService(id=name, service=name))
    stats: Any = (await AgentApi(parts).self_info())["Stats"]
    assert stats["agent"] == {
        "services": "2", "checks": "0", "check_monitors": "1", "check_ttls": "2",
    }  # fmt: skip
    assert stats["runtime"]["os"] == "linux"
    assert int(stats["runtime"]["goroutines"]) > 0


# Members --------------------------------------------------------------------------------------


def test_members_are_sorted_and_shown_as_consul_shows_them() -> None:
    wan = FakePool(
        member("b.dc2", MemberStatus.FAILED, address="fd00::1", vsn="2", build="1.18"),
        member("a.dc1"),
    )
    shown = make_api(FakePool(), wan).members(wan=True)
    assert shown is not None
    first, second = shown
    assert first.name == "a.dc1"
    assert second == agent.Member(
        name="b.dc2",
        addr="fd00::1",
        port=8301,
        tags={"build": "1.18", "vsn": "2"},
        status=4,
        protocol_min=1,
        protocol_max=5,
        protocol_cur=2,
        delegate_min=2,
        delegate_max=5,
        delegate_cur=4,
    )
    assert list(second.tags or {}) == ["build", "vsn"]


def test_each_pool_has_its_members() -> None:
    api = make_api(FakePool(member("n1")), FakePool(member("n1.dc1")))
    names = [[one.name for one in api.members(wan=wan) or ()] for wan in (False, True)]
    assert names == [["n1"], ["n1.dc1"]]


def test_agent_that_is_in_no_wan_pool_says_so() -> None:
    assert make_api(FakePool(), ports=PortConfig(serf_wan=OFF)).members(wan=True) is None


@pytest.mark.parametrize("wan", [True, False])
def test_pool_that_is_not_open_yet_is_empty(wan: bool) -> None:
    assert make_api().members(wan=wan) == ()


# Join and leave -------------------------------------------------------------------------------


@pytest.mark.parametrize("wan", [True, False])
async def test_address_is_joined_in_the_pool_asked_for(wan: bool) -> None:
    pools = FakePool(), FakePool()
    await make_api(*pools).join("10.0.0.9:8301", wan=wan)
    assert pools[wan].told == [("join", "10.0.0.9:8301")]
    assert pools[not wan].told == []


async def test_wan_join_by_address_is_refused_where_gateways_are_the_only_way() -> None:
    lan, wan = FakePool(), FakePool()
    api = make_api(lan, wan, connect=FEDERATED)
    with pytest.raises(RequestError, match="WAN join is disabled when wan federation via mesh"):
        await api.join("10.0.0.9:8302", wan=True)
    await api.join("10.0.0.9:8301", wan=False)
    assert (lan.told, wan.told) == ([("join", "10.0.0.9:8301")], [])


async def test_join_without_a_wan_pool_is_refused() -> None:
    with pytest.raises(RequestError, match="no WAN pool"):
        await make_api(FakePool(), ports=PortConfig(serf_wan=OFF)).join("10.0.0.9", wan=True)


async def test_leave_stops_the_agent_for_good() -> None:
    parts = FakeParts()
    await AgentApi(parts).leave()
    assert parts.stops == [True]


FAILED = MemberStatus.FAILED


@pytest.mark.parametrize(
    ("node", "wan", "lan_told", "wan_told"),
    [
        ("beta", False, ["beta"], ["beta.dc1"]),
        ("beta", True, [], ["beta.dc1"]),
        ("beta.dc1", False, [], ["beta.dc1"]),
        ("gamma.dc2", True, [], ["gamma.dc2"]),
        ("delta", False, ["delta"], []),
    ],
)
async def test_failed_member_leaves_every_pool_that_has_it(
    node: str, wan: bool, lan_told: list[str], wan_told: list[str]
) -> None:
    """A server is ``node`` in the LAN pool and ``node.dc`` in the WAN pool."""
    pools = (
        FakePool(member("n1"), member("beta", FAILED), member("delta", FAILED)),
        FakePool(member("n1.dc1"), member("beta.dc1", FAILED), member("gamma.dc2", FAILED)),
    )
    await make_api(*pools).force_leave(node, prune=True, wan=wan)
    assert [pool.told for pool in pools] == [
        [("force_leave", name, True) for name in told] for told in (lan_told, wan_told)
    ]


async def test_member_is_remembered_unless_it_is_pruned() -> None:
    lan = FakePool(member("beta", FAILED))
    await make_api(lan).force_leave("beta", prune=False, wan=False)
    assert lan.told == [("force_leave", "beta", False)]


@pytest.mark.parametrize(("node", "wan"), [("nobody", False), ("gamma", True), ("delta", True)])
async def test_member_that_nobody_knows_cannot_leave(node: str, wan: bool) -> None:
    api = make_api(FakePool(member("delta")), FakePool(member("gamma.dc2")))
    with pytest.raises(RequestError, match=f"agent: No node found with name '{node}'"):
        await api.force_leave(node, prune=False, wan=wan)


# Services -------------------------------------------------------------------------------------


def web(port: int = 80, **fields: Any) -> NodeService:
    return NodeService(id="web1", service="web", port=port, **fields)


def play(act: Callable[[AgentApi, LocalState], Coroutine[Any, Any, T]]) -> T:
    async def run() -> T:
        parts = FakeParts()
        parts.local.put_service(web())
        return await act(AgentApi(parts), parts.local)

    return run_virtual(run())


async def watch(
    api: AgentApi, content_hash: str = "", *, wait: float = 60.0
) -> tuple[float, agent.AgentService | None]:
    """When the answer came, and the answer."""
    found = await api.service_changed("web1", content_hash=content_hash, wait=wait)
    return now(), found


async def known_hash(api: AgentApi) -> str:
    _, found = await watch(api)
    assert found is not None
    return found.content_hash


def later(seconds: float, change: Callable[[], object]) -> None:
    asyncio.get_running_loop().call_later(seconds, change)


def test_services_are_sorted_and_say_where_they_are() -> None:
    async def act(api: AgentApi, local: LocalState) -> list[tuple[str, str, str]]:
        local.put_service(NodeService(id="db", service="db"))
        return [(key, one.service, one.datacenter) for key, one in api.services().items()]

    assert play(act) == [("db", "db", "dc1"), ("web1", "web", "dc1")]


def test_service_is_answered_at_once_with_its_hash() -> None:
    async def act(api: AgentApi, local: LocalState) -> tuple[float, agent.AgentService | None]:
        return await watch(api)

    moment, found = play(act)
    assert moment == 0.0
    assert found is not None
    assert (found.id, found.port, found.datacenter) == ("web1", 80, "dc1")
    assert 0 < len(found.content_hash) <= 16
    int(found.content_hash, 16)


def test_equal_services_have_equal_hashes_and_others_have_others() -> None:
    async def act(api: AgentApi, local: LocalState) -> list[str]:
        hashes = []
        for service in (web(), web(81), web(meta={"a": "b"}), web(tags=("t",)), web()):
            local.put_service(service)
            hashes.append(await known_hash(api))
        return hashes

    first, *others, last = play(act)
    assert last == first
    assert len({first, *others}) == 4


def test_unchanged_service_is_answered_when_the_wait_is_over() -> None:
    async def act(api: AgentApi, local: LocalState) -> tuple[float, bool]:
        content_hash = await known_hash(api)
        moment, found = await watch(api, content_hash, wait=7.0)
        assert found is not None
        return moment, found.content_hash == content_hash

    assert play(act) == (7.0, True)


def test_change_is_answered_as_it_happens() -> None:
    async def act(api: AgentApi, local: LocalState) -> tuple[float, int]:
        content_hash = await known_hash(api)
        later(3.0, lambda: local.put_service(web(81)))
        moment, found = await watch(api, content_hash)
        assert found is not None
        return moment, found.port

    assert play(act) == (3.0, 81)


@pytest.mark.parametrize("other", [web(), NodeService(id="db", service="db")])
def test_registration_that_changes_nothing_of_it_wakes_nobody(other: NodeService) -> None:
    async def act(api: AgentApi, local: LocalState) -> float:
        content_hash = await known_hash(api)
        for moment in (1.0, 2.0, 3.0):
            later(moment, lambda: local.put_service(other))
        moment, _ = await watch(api, content_hash, wait=9.0)
        return moment

    assert play(act) == 9.0


def test_removal_ends_the_wait() -> None:
    async def act(api: AgentApi, local: LocalState) -> tuple[float, agent.AgentService | None]:
        content_hash = await known_hash(api)
        later(3.0, lambda: local.remove_service("web1"))
        return await watch(api, content_hash)

    assert play(act) == (3.0, None)


def test_unknown_service_is_not_waited_for() -> None:
    async def act(api: AgentApi, local: LocalState) -> tuple[float, object]:
        found = await api.service_changed("nobody", content_hash="x", wait=60.0)
        return now(), found

    assert play(act) == (0.0, None)


def test_health_is_made_of_one_service_and_what_concerns_it() -> None:
    parts = FakeParts()
    for name in ("web-1", "web-2", "db"):
        service = NodeService(id=name, service=name.partition("-")[0])
        check = HealthCheck(check_id=f"{name} alive", name="alive", service_id=name)
        parts.local.put_service(service, [check])
    parts.local.put_check(HealthCheck(check_id="disk", name="disk"))
    api = AgentApi(parts)
    assert [one.id for one in api.services_called("web")] == ["web-1", "web-2"]
    assert api.services_called("web-1") == []
    found = api.service("db")
    assert found is not None
    assert (found.service, found.datacenter) == ("db", "dc1")
    assert api.service("none") is None
    assert [check.check_id for check in api.checks_of("db")] == ["db alive", "disk"]
