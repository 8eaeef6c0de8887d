"""``/v1/query``: what is asked of whom, and what the answer says."""

from typing import Any

import msgspec
import pytest

from isthmus.errors import NotFound, PermissionDenied, RemoteError, RequestError
from isthmus.model.catalog import CheckServiceNode, HealthCheck, Node, NodeService
from isthmus.model.prepared_query import (
    IndexedPreparedQueries,
    PreparedQuery,
    PreparedQueryExecuteRequest,
    PreparedQueryExecuteResponse,
    PreparedQueryExplainResponse,
    PreparedQueryRequest,
    PreparedQuerySpecificRequest,
    QueryDatacenterOptions,
    QueryDNSOptions,
    QueryTemplateOptions,
    ServiceQuery,
)
from isthmus.model.query import DatacenterRequest, QuerySource
from isthmus.units import Duration
from isthmus.wire import gojson
from support.http import Client, FakeRpc, as_dict, as_json, make_client

ID = "a0000000-0000-0000-0000-000000000001"
QUERY = PreparedQuery(id=ID, name="web", service=ServiceQuery(service="web"), modify_index=7)
SHOWN = {
    "ID": ID,
    "Name": "web",
    "Session": "",
    "Token": "",
    "Template": {"Type": "", "Regexp": "", "RemoveEmptyTags": False},
    "Service": {
        "Service": "web",
        "Failover": {"NearestN": 0, "Datacenters": None},
        "OnlyPassing": False,
        "IgnoreCheckIDs": None,
        "Near": "",
        "Tags": None,
        "NodeMeta": None,
        "ServiceMeta": None,
        "Connect": False,
    },
    "DNS": {"TTL": ""},
    "CreateIndex": 0,
    "ModifyIndex": 7,
}
INSTANCE = CheckServiceNode(
    node=Node(node="n1", address="10.0.0.1"),
    service=NodeService(id="web", service="web", port=80),
    checks=(HealthCheck(node="n1", check_id="c", status="passing"),),
)


def make_rpc() -> FakeRpc:
    return FakeRpc(
        PreparedQuery_List=IndexedPreparedQueries(queries=(QUERY,), index=9, known_leader=True),
        PreparedQuery_Get=IndexedPreparedQueries(queries=(QUERY,), index=9, known_leader=True),
        PreparedQuery_Apply=ID,
        PreparedQuery_Explain=PreparedQueryExplainResponse(query=QUERY, index=1, known_leader=True),
        PreparedQuery_Execute=PreparedQueryExecuteResponse(
            service="web",
            nodes=(INSTANCE,),
            dns=QueryDNSOptions(ttl="10s"),
            datacenter="dc2",
            failovers=1,
            index=1,
            known_leader=True,
        ),
    )


@pytest.fixture
def client() -> Client:
    return make_client(make_rpc())


async def test_queries_are_listed(client: Client) -> None:
    response = await client.get("/v1/query?index=3&wait=2s&dc=dc2")
    assert as_json(response) == [SHOWN]
    assert client.rpc.last == DatacenterRequest(
        datacenter="dc2", min_query_index=3, max_query_time=Duration.of(2)
    )
    headers = as_dict(response)
    assert headers["X-Consul-Index"] == "9"
    assert headers["X-Consul-Effective-Consistency"] == "leader"


async def test_no_queries_are_an_empty_list() -> None:
    response = await make_client(FakeRpc(PreparedQuery_List=IndexedPreparedQueries())).get(
        "/v1/query"
    )
    assert (response.body, as_dict(response)["X-Consul-Index"]) == (b"[]", "1")


async def test_query_is_created(client: Client) -> None:
    body = {
        "name": "geo-",
        "Template": {"Type": "name_prefix_match", "Regexp": "^geo-(.*)$", "RemoveEmptyTags": True},
        "Service": {
            "Service": "${match(1)}",
            "Failover": {"NearestN": 2, "Datacenters": ["dc2"]},
            "OnlyPassing": True,
            "Tags": ["!old"],
        },
        "DNS": {"TTL": "10s"},
        "Token": "own",
    }
    response = await client.request("POST", "/v1/query?dc=dc2&token=t", body)
    assert (response.status, as_json(response)) == (200, {"ID": ID})
    assert client.rpc.last == PreparedQueryRequest(
        datacenter="dc2",
        op="create",
        token="t",
        query=PreparedQuery(
            name="geo-",
            token="own",
            template=QueryTemplateOptions(
                type="name_prefix_match", regexp="^geo-(.*)$", remove_empty_tags=True
            ),
            service=ServiceQuery(
                service="${match(1)}",
                failover=QueryDatacenterOptions(nearest_n=2, datacenters=("dc2",)),
                only_passing=True,
                tags=("!old",),
            ),
            dns=QueryDNSOptions(ttl="10s"),
        ),
    )


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "Request decode failed: EOF"),
        (b'{"Nope": 1}', 'Request decode failed: json: unknown field "Nope"'),
    ],
)
async def test_malformed_query_asks_nobody(client: Client, body: bytes, text: str) -> None:
    response = await client.request("POST", "/v1/query", body)
    assert (response.status, response.body.decode(), client.rpc.calls) == (400, text, [])


async def test_query_is_read(client: Client) -> None:
    response = await client.get(f"/v1/query/{ID}?consistent&index=4")
    assert as_json(response) == [SHOWN]
    assert client.rpc.last == PreparedQuerySpecificRequest(
        datacenter="dc1", query_id=ID, require_consistent=True, min_query_index=4
    )
    headers = as_dict(response)
    assert headers["X-Consul-Index"] == "9"
    assert headers["X-Consul-Effective-Consistency"] == "consistent"


async def test_query_is_updated_under_the_id_of_its_path(client: Client) -> None:
    response = await client.put(f"/v1/query/{ID}", {"ID": "other", "Name": "web"})
    assert (response.status, response.body) == (200, b"")
    assert client.rpc.last == PreparedQueryRequest(
        datacenter="dc1", op="update", query=PreparedQuery(id=ID, name="web")
    )
    await client.put(f"/v1/query/{ID}", b"")
    assert client.rpc.last.query == PreparedQuery(id=ID)


async def test_query_is_deleted(client: Client) -> None:
    response = await client.request("DELETE", f"/v1/query/{ID}?token=t")
    assert (response.status, response.body, as_dict(response).get("Content-Type")) == (
        200,
        b"",
        None,
    )
    assert client.rpc.last == PreparedQueryRequest(
        datacenter="dc1", op="delete", query=PreparedQuery(id=ID), token="t"
    )


async def test_execution_tells_who_asked_and_to_whom_to_be_near(client: Client) -> None:
    target = "/v1/query/geo-db/execute?near=_agent&limit=3&connect=true&stale&dc=dc2"
    await client.get(target, x_forwarded_for="10.9.8.7, 10.0.0.1")
    assert client.rpc.last == PreparedQueryExecuteRequest(
        datacenter="dc2",
        query_id_or_name="geo-db",
        limit=3,
        connect=True,
        allow_stale=True,
        source=QuerySource(datacenter="dc2", node="alpha", ip="10.9.8.7"),
        agent=QuerySource(datacenter="dc1", node="alpha"),
    )


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [("", "127.0.0.1"), ("nonsense", "127.0.0.1"), (" ::1 ,x", "::1"), ("unknown, 1.2.3.4", None)],
)
async def test_address_of_the_caller(client: Client, forwarded: str, address: str | None) -> None:
    await client.get("/v1/query/web/execute?near=_ip", x_forwarded_for=forwarded)
    assert client.rpc.last.source == QuerySource(
        datacenter="dc1", node="_ip", ip=address or "127.0.0.1"
    )


async def test_execution_is_shown_with_what_the_reply_says_of_itself(client: Client) -> None:
    response = await client.get("/v1/query/web/execute")
    body = as_json(response)
    (instance,) = body.pop("Nodes")
    assert (instance["Node"]["Node"], instance["Service"]["Tags"]) == ("n1", [])
    assert body == {
        "Service": "web",
        "DNS": {"TTL": "10s"},
        "Datacenter": "dc2",
        "Failovers": 1,
        "Index": 1,
        "LastContact": 0,
        "KnownLeader": True,
        "ConsistencyLevel": "leader",
        "NotModified": False,
        "Backend": 0,
    }
    headers = as_dict(response)
    assert headers["X-Consul-Effective-Consistency"] == "leader"
    assert headers["X-Consul-Knownleader"] == "true"


async def test_what_is_kept_of_an_instance_is_not_shown_of_another() -> None:
    """Nor of the same one, once it has changed; in whichever order, indented or not."""
    other = CheckServiceNode(node=Node(node='"Nodes":[]'), service=NodeService(service="web"))
    rpc = make_rpc()
    client = make_client(rpc)
    for nodes in ((INSTANCE, other), (other, INSTANCE), (INSTANCE,), (other, other)) * 3:
        rpc.answers["PreparedQuery.Execute"] = PreparedQueryExecuteResponse(
            service='"Nodes":[]', nodes=nodes
        )
        plain = await client.get("/v1/query/web/execute")
        pretty = await client.get("/v1/query/web/execute?pretty")
        assert as_json(plain) == as_json(pretty)
        shown = [item["Node"]["Node"] for item in as_json(plain)["Nodes"]]
        assert shown == [one.node.node for one in nodes if one.node]
        assert pretty.body == gojson.encode(msgspec.Raw(plain.body), pretty=True)
    changed = msgspec.structs.replace(INSTANCE, checks=())
    rpc.answers["PreparedQuery.Execute"] = PreparedQueryExecuteResponse(nodes=(changed,))
    assert as_json(await client.get("/v1/query/web/execute"))["Nodes"][0]["Checks"] == []


async def test_execution_that_finds_nothing_shows_an_empty_list() -> None:
    rpc = FakeRpc(PreparedQuery_Execute=PreparedQueryExecuteResponse(service="web", failovers=2))
    body = as_json(await make_client(rpc).get("/v1/query/web/execute"))
    assert (body["Nodes"], body["Failovers"]) == ([], 2)


@pytest.mark.parametrize(
    ("found_in", "address"), [("dc1", "10.0.0.1"), ("dc2", "203.0.113.1")], ids=["own", "other"]
)
async def test_wan_addresses_are_shown_of_the_datacenter_that_answered(
    found_in: str, address: str
) -> None:
    """Whichever datacenter was asked: failover may have led elsewhere."""
    node = Node(node="n1", address="10.0.0.1", tagged_addresses={"wan": "203.0.113.1"})
    reply = PreparedQueryExecuteResponse(
        nodes=(CheckServiceNode(node=node, service=NodeService(service="web")),),
        datacenter=found_in,
    )
    client = make_client(FakeRpc(PreparedQuery_Execute=reply), translate_wan=True)
    body = as_json(await client.get("/v1/query/web/execute?dc=dc3"))
    assert body["Nodes"][0]["Node"]["Address"] == address


async def test_data_older_than_the_caller_wants_is_asked_of_the_leader() -> None:
    rpc = make_rpc()
    old = IndexedPreparedQueries(queries=(QUERY,), last_contact=Duration.of(5))
    rpc.answers["PreparedQuery.Get"] = old
    await make_client(rpc).get(f"/v1/query/{ID}?max_stale=1s")
    assert [request.allow_stale for _, request in rpc.calls] == [True, False]  # type: ignore[attr-defined]


async def test_explanation_shows_the_query(client: Client) -> None:
    body = as_json(await client.get("/v1/query/web/explain"))
    assert body["Query"] == SHOWN
    assert client.rpc.last.query_id_or_name == "web"


@pytest.mark.parametrize("ending", ["", "/execute", "/explain"])
@pytest.mark.parametrize(
    "error",
    [NotFound("Query not found"), RemoteError("rpc error making call: Query not found")],
)
async def test_unknown_query_is_404(ending: str, error: Any) -> None:
    rpc = make_rpc()
    rpc.answers = dict.fromkeys(rpc.answers, error)
    response = await make_client(rpc).get(f"/v1/query/{ID}{ending}")
    assert (response.status, response.body.decode()) == (404, str(error))
    assert "X-Consul-Index" not in as_dict(response)


@pytest.mark.parametrize(
    ("method", "target", "told"),
    [
        ("GET", "/v1/query", True),
        ("POST", "/v1/query", False),
        ("GET", f"/v1/query/{ID}", True),
        ("PUT", f"/v1/query/{ID}", False),
        ("DELETE", f"/v1/query/{ID}", False),
        ("GET", "/v1/query/web/execute", True),
        ("GET", "/v1/query/web/explain", True),
    ],
)
@pytest.mark.parametrize("error", [RequestError("bad"), PermissionDenied()])
async def test_failed_calls_are_told(
    method: str, target: str, told: bool, error: RequestError
) -> None:
    rpc = make_rpc()
    rpc.answers = dict.fromkeys(rpc.answers, error)
    response = await make_client(rpc).request(method, target, {} if method == "POST" else b"")
    assert (response.status, response.body.decode()) == (error.status, str(error))
    assert ("X-Consul-Index" in as_dict(response)) == told


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ("limit=x", 'Bad limit: strconv.Atoi: parsing "x": invalid syntax'),
        ("limit=1.5", 'Bad limit: strconv.Atoi: parsing "1.5": invalid syntax'),
        (
            "limit=9999999999999999999",
            'Bad limit: strconv.Atoi: parsing "9999999999999999999": value out of range',
        ),
        (
            f"limit={'1' * 5000}",
            f'Bad limit: strconv.Atoi: parsing "{"1" * 5000}": value out of range',
        ),
        (
            "connect=x",
            "Error parsing 'connect' value: strconv.ParseBool: parsing \"x\": invalid syntax",
        ),
    ],
)
async def test_bad_parameters_ask_nobody(client: Client, parameters: str, text: str) -> None:
    response = await client.get(f"/v1/query/web/execute?{parameters}")
    assert (response.status, response.body.decode(), client.rpc.calls) == (500, text, [])


@pytest.mark.parametrize("name", ["execute", "explain"])
async def test_query_may_be_called_like_what_is_done_with_it(client: Client, name: str) -> None:
    await client.get(f"/v1/query/{name}")
    method, request = client.rpc.calls[-1]
    assert method == f"PreparedQuery.{name.capitalize()}"
    assert isinstance(request, PreparedQueryExecuteRequest)
    assert request.query_id_or_name == name


@pytest.mark.parametrize(("text", "limit"), [("-1", -1), ("%2B2", 2), ("0", 0), ("007", 7)])
async def test_limit_is_any_integer(client: Client, text: str, limit: int) -> None:
    await client.get(f"/v1/query/web/execute?limit={text}")
    assert client.rpc.last.limit == limit


@pytest.mark.parametrize(
    ("target", "allowed", "body"),
    [
        ("/v1/query", "OPTIONS,GET,POST", b""),
        (f"/v1/query/{ID}", "OPTIONS,GET,PUT,DELETE", b"{}"),
        ("/v1/query/web/execute", "OPTIONS,GET", b"{}"),
        ("/v1/query/web/explain", "OPTIONS,GET", b"{}"),
    ],
)
async def test_options_answer_an_empty_object_for_one_query(
    client: Client, target: str, allowed: str, body: bytes
) -> None:
    response = await client.request("OPTIONS", target)
    assert (response.status, response.body) == (200, body)
    assert as_dict(response)["Allow"] == allowed


@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [
        ("PUT", "/v1/query", "OPTIONS,GET,POST"),
        ("POST", f"/v1/query/{ID}", "OPTIONS,GET,PUT,DELETE"),
        ("PUT", "/v1/query/web/execute", "GET"),
        ("DELETE", "/v1/query/web/explain", "GET"),
    ],
)
async def test_other_methods_are_refused(
    client: Client, method: str, target: str, allowed: str
) -> None:
    response = await client.request(method, target)
    assert (response.status, response.body.decode()) == (405, f"method {method} not allowed")
    assert (as_dict(response)["Allow"], client.rpc.calls) == (allowed, [])
