"""``PreparedQuery``: what is refused, what is found, in which order, and where."""

import asyncio
from typing import Any

import pytest

from isthmus.errors import NotFound, RequestError
from isthmus.model.catalog import (
    CheckServiceNode,
    HealthCheck,
    NodeService,
    RegisterRequest,
    ServiceConnect,
)
from isthmus.model.coordinate import Coordinate, CoordinateBatch
from isthmus.model.prepared_query import (
    PreparedQuery,
    PreparedQueryExecuteRemoteRequest,
    PreparedQueryExecuteRequest,
    PreparedQueryExecuteResponse,
    PreparedQueryRequest,
    PreparedQuerySpecificRequest,
    QueryDatacenterOptions,
    QueryDNSOptions,
    QueryTemplateOptions,
    ServiceQuery,
)
from isthmus.model.query import DatacenterRequest, QuerySource
from isthmus.model.session import SESSION_CREATE, SESSION_DESTROY, Session, SessionRequest
from isthmus.server.server import Server
from isthmus.units import Duration
from isthmus.wire import msgpack
from support.coordinates import at
from support.rpc_vectors import load
from support.servers import make_server

UNKNOWN = "a0000000-0000-0000-0000-000000000001"


def make_query(name: str = "q", service: str = "web", **changes: Any) -> PreparedQuery:
    return PreparedQuery(name=name, service=ServiceQuery(service=service, **changes))


async def create(server: Server, query: PreparedQuery | None = None, **changes: Any) -> str:
    request = PreparedQueryRequest(op="create", query=query or make_query(**changes))
    query_id: str = await server.call("PreparedQuery.Apply", request)
    return query_id


async def write(server: Server, op: str, query: PreparedQuery | None) -> Any:
    return await server.call("PreparedQuery.Apply", PreparedQueryRequest(op=op, query=query))


async def register(
    server: Server, node: str, *checks: str, service: str = "web", **changes: Any
) -> None:
    """An instance of a service; checks are named after their status and a number."""
    await server.call(
        "Catalog.Register",
        RegisterRequest(
            node=node,
            address=changes.pop("address", "10.0.0.1"),
            node_meta=changes.pop("node_meta", None),
            service=NodeService(id=service, service=service, **changes),
            checks=tuple(
                HealthCheck(check_id=f"{status}{number}", status=status, service_id=service)
                for number, status in enumerate(checks)
            ),
        ),
    )


async def execute(server: Server, name: str = "q", **request: Any) -> PreparedQueryExecuteResponse:
    reply: PreparedQueryExecuteResponse = await server.call(
        "PreparedQuery.Execute", PreparedQueryExecuteRequest(query_id_or_name=name, **request)
    )
    return reply


def names(reply: PreparedQueryExecuteResponse) -> list[str]:
    return [item.node.node for item in reply.nodes or () if item.node is not None]


# Writing and reading ------------------------------------------------------------------------------


async def test_query_gets_an_id_and_is_read_by_it(server: Server) -> None:
    query_id = await create(server)
    other_id = await create(server, name="other")
    assert query_id != other_id
    for asked in (query_id, query_id.upper()):
        reply = await server.call("PreparedQuery.Get", PreparedQuerySpecificRequest(query_id=asked))
        assert [query.name for query in reply.queries] == ["q"]
        assert (reply.index, reply.known_leader) == (server.store.index, True)
    listed = await server.call("PreparedQuery.List", DatacenterRequest())
    assert [query.id for query in listed.queries] == sorted([query_id, other_id])


async def test_query_is_updated_and_deleted(server: Server) -> None:
    query_id = await create(server)
    changed = PreparedQuery(id=query_id, name="new", service=ServiceQuery(service="db"))
    assert await write(server, "update", changed) == query_id
    reply = await server.call("PreparedQuery.Get", PreparedQuerySpecificRequest(query_id=query_id))
    (query,) = reply.queries
    assert (query.name, query.service.service, query.create_index) == ("new", "db", 2)
    assert await write(server, "delete", PreparedQuery(id=query_id)) == query_id
    assert (await server.call("PreparedQuery.List", DatacenterRequest())).queries == ()


@pytest.mark.parametrize(
    ("query", "text"),
    [
        (None, "Must provide a prepared query"),
        (PreparedQuery(id=UNKNOWN), "ID must be empty when creating a new prepared query"),
        (
            PreparedQuery(service=ServiceQuery(service="web")),
            "Invalid prepared query: Must be bound to a session",
        ),
        (
            PreparedQuery(name="q", token="<hidden>"),
            "Invalid prepared query: Bad Token '<hidden>', it looks like a query definition with a"
            " redacted token was submitted",
        ),
        (
            PreparedQuery(name="q"),
            "Invalid prepared query: Must provide a Service name to query",
        ),
        (
            make_query(failover=QueryDatacenterOptions(nearest_n=-1)),
            "Invalid prepared query: Bad NearestN '-1', must be >= 0",
        ),
        (
            make_query(node_meta={"": "x"}),
            "Invalid prepared query: Couldn't load metadata pair ('', 'x'): Key cannot be blank",
        ),
        (
            PreparedQuery(
                name="q", service=ServiceQuery(service="web"), dns=QueryDNSOptions(ttl="zz")
            ),
            "Invalid prepared query: Bad DNS TTL 'zz': time: invalid duration \"zz\"",
        ),
        (
            PreparedQuery(
                name="q", service=ServiceQuery(service="web"), dns=QueryDNSOptions(ttl="-1s")
            ),
            "Invalid prepared query: DNS TTL '-1000000000', must be >=0",
        ),
        (make_query("Q1"), "raft apply failed: name 'Q1' aliases an existing query name"),
        (
            PreparedQuery(session=UNKNOWN, service=ServiceQuery(service="web")),
            f'raft apply failed: invalid session "{UNKNOWN}"',
        ),
        (
            PreparedQuery(
                template=QueryTemplateOptions(type="x"), service=ServiceQuery(service="web")
            ),
            "raft apply failed: failed compiling template: Bad Template.Type 'x'",
        ),
    ],
)
async def test_bad_query_is_refused(server: Server, query: PreparedQuery | None, text: str) -> None:
    await create(server, name="q1")
    index = server.store.index
    with pytest.raises(RequestError) as caught:
        await write(server, "create", query)
    assert (str(caught.value), caught.value.status) == (text, 500)
    assert server.store.index == index


@pytest.mark.parametrize("op", ["update", "delete", "bogus"])
async def test_only_what_exists_is_changed(server: Server, op: str) -> None:
    with pytest.raises(RequestError, match=r"^Cannot modify non-existent prepared query: 'a0000"):
        await write(server, op, PreparedQuery(id=UNKNOWN))
    with pytest.raises(
        RequestError,
        match=r"^Prepared Query lookup failed: failed prepared query lookup: index error: UUID",
    ):
        await write(server, op, PreparedQuery(id="x"))


async def test_unknown_operation_is_refused(server: Server) -> None:
    query_id = await create(server)
    with pytest.raises(RequestError, match=r"^Unknown prepared query operation: bogus$"):
        await write(server, "bogus", PreparedQuery(id=query_id, name="q"))


async def test_node_metadata_of_ours_may_be_asked_for(server: Server) -> None:
    await create(server, node_meta={"consul-network-segment": ""})


@pytest.mark.parametrize("method", ["Execute", "Explain"])
async def test_unknown_name_is_not_found(server: Server, method: str) -> None:
    with pytest.raises(NotFound, match=r"^Query not found$"):
        await server.call(
            f"PreparedQuery.{method}", PreparedQueryExecuteRequest(query_id_or_name="no")
        )
    with pytest.raises(NotFound, match=r"^Query not found$"):
        await server.call("PreparedQuery.Get", PreparedQuerySpecificRequest(query_id=UNKNOWN))


async def test_reader_of_a_query_wakes_when_it_changes_and_not_before(server: Server) -> None:
    query_id = await create(server)
    index = server.store.index
    request = PreparedQuerySpecificRequest(query_id=query_id, min_query_index=index)
    reading = asyncio.ensure_future(server.call("PreparedQuery.Get", request))
    listing = asyncio.ensure_future(
        server.call("PreparedQuery.List", DatacenterRequest(min_query_index=index))
    )
    await asyncio.sleep(0)
    await create(server, name="other")
    assert len((await listing).queries) == 2
    assert not reading.done()
    await write(server, "delete", PreparedQuery(id=query_id))
    with pytest.raises(NotFound):
        await reading


async def test_reader_of_no_queries_can_block(server: Server) -> None:
    assert (await server.call("PreparedQuery.List", DatacenterRequest())).index == 1


async def test_explanation_fills_in_the_template(server: Server) -> None:
    template = QueryTemplateOptions(type="name_prefix_match", regexp="^geo-(.*)$")
    query = PreparedQuery(
        name="geo-", template=template, service=ServiceQuery(service="${match(1)}")
    )
    await create(server, query)
    reply = await server.call(
        "PreparedQuery.Explain", PreparedQueryExecuteRequest(query_id_or_name="geo-db")
    )
    assert (reply.query.service.service, reply.query.name) == ("db", "geo-")
    assert (reply.index, reply.known_leader) == (1, True)


async def test_query_goes_with_its_session(server: Server) -> None:
    await register(server, "n1")
    created = SessionRequest(op=SESSION_CREATE, session=Session(node="n1", node_checks=()))
    session_id = await server.call("Session.Apply", created)
    bound = PreparedQuery(session=session_id, service=ServiceQuery(service="web"))
    query_id = await create(server, bound)
    assert names(await execute(server, query_id)) == ["n1"]
    request = PreparedQuerySpecificRequest(query_id=query_id, min_query_index=server.store.index)
    reading = asyncio.ensure_future(server.call("PreparedQuery.Get", request))
    await asyncio.sleep(0)
    await server.call(
        "Session.Apply", SessionRequest(op=SESSION_DESTROY, session=Session(id=session_id))
    )
    with pytest.raises(NotFound):
        await reading
    with pytest.raises(NotFound):
        await execute(server, query_id)


# What is found ------------------------------------------------------------------------------------


async def test_reply_says_what_and_where(server: Server) -> None:
    await register(server, "n1")
    query = PreparedQuery(
        name="q", service=ServiceQuery(service="web"), dns=QueryDNSOptions(ttl="7s")
    )
    query_id = await create(server, query)
    for asked in ("q", query_id):
        reply = await execute(server, asked)
        (item,) = reply.nodes or ()
        assert isinstance(item, CheckServiceNode)
        assert (reply.service, reply.datacenter, reply.failovers) == ("web", "dc1", 0)
        assert (reply.dns.ttl, reply.index, reply.known_leader) == ("7s", 1, True)


async def test_only_well_instances_are_found(server: Server) -> None:
    await register(server, "ok", "passing")
    await register(server, "warned", "passing", "warning")
    await register(server, "sick", "critical")
    await register(server, "bare")
    await create(server)
    await create(server, name="strict", only_passing=True)
    await create(server, name="blind", only_passing=True, ignore_check_ids=("critical0",))
    assert sorted(names(await execute(server))) == ["bare", "ok", "warned"]
    assert sorted(names(await execute(server, "strict"))) == ["bare", "ok"]
    assert sorted(names(await execute(server, "blind"))) == ["bare", "ok", "sick"]


async def test_check_of_the_node_counts(server: Server) -> None:
    await register(server, "n1")
    await server.call(
        "Catalog.Register",
        RegisterRequest(
            node="n1",
            address="10.0.0.1",
            check=HealthCheck(check_id="serfHealth", status="critical"),
        ),
    )
    await create(server)
    assert names(await execute(server)) == []


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"tags": ("V1",)}, ["a", "b"]),
        ({"tags": ("v1", "!Old")}, ["a"]),
        ({"tags": ("!v1",)}, ["c"]),
        ({"tags": ("v1", "v2")}, []),
        ({"node_meta": {"rack": "1"}}, ["a"]),
        ({"node_meta": {"rack": "1", "x": "y"}}, []),
        ({"service_meta": {"env": "prod"}}, ["b"]),
        ({"service_meta": {"env": "prod"}, "tags": ("old",)}, ["b"]),
    ],
)
async def test_instances_have_all_that_is_asked_for(
    server: Server, wanted: dict[str, Any], found: list[str]
) -> None:
    await register(server, "a", tags=("v1",), node_meta={"rack": "1"})
    await register(server, "b", tags=("V1", "old"), meta={"env": "prod"})
    await register(server, "c")
    await create(server, **wanted)
    assert sorted(names(await execute(server))) == found


async def test_mesh_instances_are_found_if_the_query_or_its_caller_asks(server: Server) -> None:
    await register(server, "plain")
    await register(server, "native", connect=ServiceConnect(native=True))
    await create(server)
    await create(server, name="mesh", connect=True)
    assert sorted(names(await execute(server))) == ["native", "plain"]
    assert names(await execute(server, connect=True)) == ["native"]
    assert names(await execute(server, "mesh")) == ["native"]


async def test_order_is_random_and_the_stored_one_stays(server: Server) -> None:
    for number in range(6):
        await register(server, f"n{number}")
    await create(server)
    orders = {tuple(names(await execute(server))) for _ in range(20)}
    assert len(orders) > 10
    assert {frozenset(order) for order in orders} == {frozenset(f"n{at}" for at in range(6))}
    stored = server.store.catalog.check_service_nodes("web").value
    assert [item.node.node for item in stored if item.node] == [f"n{at}" for at in range(6)]


async def test_limit_cuts_what_is_left(server: Server) -> None:
    for number in range(3):
        await register(server, f"n{number}")
    await create(server)
    assert len(names(await execute(server, limit=2))) == 2
    assert len(names(await execute(server, limit=9))) == 3
    assert len(names(await execute(server, limit=-1))) == 3


# In which order -----------------------------------------------------------------------------------

OWN = QuerySource(datacenter="dc1", node="c")


@pytest.fixture
async def placed(server: Server) -> Server:
    """Instances on three nodes in a row."""
    for place, node in enumerate("abc"):
        await register(server, node, address=f"10.0.0.{place}")
        update = Coordinate(node=node, coord=at(place / 100))
        await server.apply(CoordinateBatch(updates=(update,)))
    await create(server)
    await create(server, name="near-agent", near="_agent")
    await create(server, name="near-ip", near="_ip")
    await create(server, name="near-a", near="a")
    return server


@pytest.mark.parametrize(
    ("name", "request_", "first"),
    [
        ("q", {"source": QuerySource(datacenter="dc1", node="a")}, "abc"),
        ("q", {"source": QuerySource(datacenter="dc1", node="_agent"), "agent": OWN}, "cba"),
        ("near-a", {"agent": OWN}, "abc"),
        ("near-a", {"agent": OWN, "source": QuerySource(datacenter="dc1", node="c")}, "cba"),
        ("near-agent", {"agent": OWN}, "cba"),
        (
            "near-ip",
            {"agent": OWN, "source": QuerySource(datacenter="dc1", ip="10.0.0.0")},
            "abc",
        ),
    ],
)
async def test_nearest_come_first(
    placed: Server, name: str, request_: dict[str, Any], first: str
) -> None:
    for _ in range(3):
        assert "".join(names(await execute(placed, name, **request_))) == first


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("near-ip", {"agent": OWN, "source": QuerySource(datacenter="dc1", ip="10.9.9.9")}),
        ("near-ip", {"agent": OWN}),
        ("near-a", {"agent": QuerySource(datacenter="dc9", node="c")}),
        ("q", {"source": QuerySource(datacenter="dc1", node="unknown")}),
    ],
)
async def test_order_is_random_without_a_place_to_be_near_to(
    placed: Server, name: str, request_: dict[str, Any]
) -> None:
    orders = {tuple(names(await execute(placed, name, **request_))) for _ in range(30)}
    assert len(orders) > 1


async def test_instance_on_the_node_itself_stands_before_one_just_as_near(server: Server) -> None:
    for node in "abcde":
        await register(server, node)
        await server.apply(CoordinateBatch(updates=(Coordinate(node=node, coord=at(0.0)),)))
    await create(server, near="e")
    for _ in range(5):
        assert names(await execute(server, agent=OWN))[0] == "e"


# Failover -----------------------------------------------------------------------------------------


class Bridge:
    """Carries calls to another server, over the wire's bytes."""

    def __init__(self) -> None:
        self.servers: dict[str, Server] = {}
        self.called: list[str] = []

    async def call(self, dc: str, method: str, request: Any, reply: Any) -> Any:
        self.called.append(f"{dc} {method}")
        decoded = msgpack.decode(type(request), msgpack.encode(request))
        found = await self.servers[dc].call(method, decoded)
        return msgpack.decode(reply, msgpack.encode(found))

    def datacenters(self) -> tuple[str, ...]:
        return tuple(self.servers)


@pytest.fixture
async def two() -> Any:
    """Servers of dc1 and dc2, and what is between them."""
    bridge = Bridge()
    for dc in ("dc1", "dc2"):
        bridge.servers[dc] = make_server(dc=dc, primary=dc, forward=bridge)
        await bridge.servers[dc].start()
    yield bridge
    for server in bridge.servers.values():
        await server.stop()


FAILOVER = QueryDatacenterOptions(datacenters=("dc2",))


async def test_another_datacenter_answers_when_ours_has_none(two: Bridge) -> None:
    here, there = two.servers["dc1"], two.servers["dc2"]
    for number in range(3):
        await register(there, f"n{number}", "passing", service="db")
    await register(there, "sick", "critical", service="db")
    template = QueryTemplateOptions(type="name_prefix_match")
    service = ServiceQuery(service="${name.suffix}", failover=FAILOVER)
    await create(here, PreparedQuery(name="geo-", template=template, service=service))
    reply = await execute(here, "geo-db", limit=2)
    assert (len(names(reply)), reply.datacenter, reply.failovers) == (2, "dc2", 1)
    assert "sick" not in names(await execute(here, "geo-db"))
    await register(here, "own", service="db")
    reply = await execute(here, "geo-db")
    assert (names(reply), reply.datacenter, reply.failovers) == (["own"], "dc1", 0)


async def test_nothing_anywhere(two: Bridge) -> None:
    await create(two.servers["dc1"], failover=FAILOVER)
    reply = await execute(two.servers["dc1"])
    assert (reply.nodes, reply.datacenter, reply.failovers) == ((), "dc1", 1)
    assert (reply.service, reply.index) == ("web", 1)


async def test_failover_goes_no_further_than_one_step(two: Bridge) -> None:
    """The other datacenter executes, and asks nobody itself."""
    both = QueryDatacenterOptions(nearest_n=3, datacenters=("dc1", "dc2"))
    await create(two.servers["dc1"], failover=both)
    await execute(two.servers["dc1"])
    assert two.called == ["dc2 PreparedQuery.ExecuteRemote"]


async def test_queries_of_another_datacenter_are_written_read_and_executed(two: Bridge) -> None:
    here, there = two.servers["dc1"], two.servers["dc2"]
    await register(there, "n1")
    request = PreparedQueryRequest(datacenter="dc2", op="create", query=make_query())
    query_id = await here.call("PreparedQuery.Apply", request)
    listed = await here.call("PreparedQuery.List", DatacenterRequest(datacenter="dc2"))
    assert [query.id for query in listed.queries] == [query_id]
    got = PreparedQuerySpecificRequest(datacenter="dc2", query_id=query_id)
    assert (await here.call("PreparedQuery.Get", got)).queries == listed.queries
    reply = await execute(here, datacenter="dc2")
    assert (names(reply), reply.datacenter) == (["n1"], "dc2")
    asked = PreparedQueryExecuteRequest(datacenter="dc2", query_id_or_name="q")
    assert (await here.call("PreparedQuery.Explain", asked)).query.id == query_id
    assert here.store.queries.list().value == ()


async def test_captured_failover_of_consul_is_executed(server: Server) -> None:
    body = load("preparedquery-executeremote-request").body
    request = msgpack.decode(PreparedQueryExecuteRemoteRequest, body)
    await register(server, "n1", service="nosuch")
    reply = await server.call("PreparedQuery.ExecuteRemote", request)
    assert (names(reply), reply.service, reply.datacenter) == (["n1"], "nosuch", "dc1")
    assert (reply.failovers, reply.known_leader) == (0, True)


async def test_execution_never_blocks(server: Server) -> None:
    await create(server)
    reply = await execute(server, min_query_index=10_000, max_query_time=Duration.of(600))
    assert reply.nodes == ()
