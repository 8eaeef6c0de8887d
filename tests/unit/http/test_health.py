import pytest

from isthmus.errors import NoPathToDatacenter
from isthmus.http.health import only_passing
from isthmus.model.catalog import (
    CheckServiceNode,
    HealthCheck,
    IndexedCheckServiceNodes,
    IndexedHealthChecks,
    Node,
    NodeService,
)
from isthmus.units import Duration
from support.http import FakeRpc, as_json, make_client


def instance(name: str, *statuses: str) -> CheckServiceNode:
    return CheckServiceNode(
        node=Node(node="alpha"),
        service=NodeService(id=name, service="web"),
        checks=tuple(HealthCheck(check_id=f"c{i}", status=s) for i, s in enumerate(statuses)),
    )


REPLY = IndexedCheckServiceNodes(
    index=9,
    known_leader=True,
    last_contact=Duration.of(0.0125),
    nodes=(instance("a", "passing"), instance("b", "passing", "warning")),
)


def make() -> FakeRpc:
    return FakeRpc(
        Health_ServiceNodes=REPLY,
        Health_NodeChecks=IndexedHealthChecks(index=2, health_checks=(HealthCheck(),)),
        Health_ServiceChecks=IndexedHealthChecks(index=2),
        Health_ChecksInState=IndexedHealthChecks(index=2),
    )


async def test_instances_have_lists_instead_of_null_and_metadata_as_it_is() -> None:
    response = await make_client(make()).get("/v1/health/service/web")
    (first, _) = as_json(response)
    assert first["Service"]["Tags"] == []
    assert first["Service"]["Meta"] is None
    assert first["Checks"][0]["ServiceTags"] == []
    assert response.header("X-Consul-Index") == "9"
    assert response.header("X-Consul-Lastcontact") == "12"
    assert response.header("X-Consul-Effective-Consistency") == "leader"


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("", "ab"),
        ("?passing", "a"),
        ("?passing=1", "a"),
        ("?passing=true", "a"),
        ("?passing=0", "ab"),
    ],
)
async def test_passing_leaves_out_instances_with_any_other_check(query: str, ids: str) -> None:
    response = await make_client(make()).get(f"/v1/health/service/web{query}")
    assert "".join(one["Service"]["ID"] for one in as_json(response)) == ids


async def test_other_values_of_passing_are_refused_after_the_query() -> None:
    response = await make_client(make()).get("/v1/health/service/web?passing=zz")
    assert (response.status, response.body) == (400, b"Invalid value for ?passing")
    assert response.header("X-Consul-Index") == "9"


async def test_all_and_passing_are_not_mixed_up_by_the_cache() -> None:
    client = make_client(make())
    bodies = [
        (await client.get(f"/v1/health/service/web{query}")).body
        for query in ("", "?passing", "?pretty", "?passing&pretty") * 2
    ]
    assert bodies[:4] == bodies[4:]
    assert len(set(bodies)) == 4


async def test_parameters_reach_the_call() -> None:
    client = make_client(make())
    await client.get("/v1/health/connect/web?tag=a&tag=b&near=_agent&node-meta=k:v&dc=dc2&index=4")
    asked = client.rpc.last
    assert (asked.service_name, asked.connect, asked.ingress) == ("web", True, False)
    assert (asked.service_tags, asked.tag_filter) == (("a", "b"), True)
    assert (asked.source.node, asked.source.datacenter) == ("alpha", "dc2")
    assert asked.node_meta_filters == {"k": "v"}
    assert (asked.datacenter, asked.min_query_index) == ("dc2", 4)
    await client.get("/v1/health/ingress/web")
    assert client.rpc.last.ingress


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("node/alpha", "Health.NodeChecks"),
        ("checks/web", "Health.ServiceChecks"),
        ("state/any", "Health.ChecksInState"),
    ],
)
async def test_lists_of_checks_are_never_null(path: str, method: str) -> None:
    client = make_client(make())
    response = await client.get(f"/v1/health/{path}")
    assert isinstance(as_json(response), list)
    assert [name for name, _ in client.rpc.calls] == [method]
    assert response.header("X-Consul-Index") == "2"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("service/", "Missing service name"),
        ("checks/", "Missing service name"),
        ("node/", "Missing node name"),
        ("state/", "Missing check state"),
    ],
)
async def test_name_is_needed(path: str, text: str) -> None:
    response = await make_client().get(f"/v1/health/{path}")
    assert (response.status, response.body.decode()) == (400, text)


def test_instance_without_checks_passes() -> None:
    assert only_passing((instance("a"),)) == [instance("a")]
    assert only_passing(None) == []


async def test_answer_to_a_bad_passing_has_the_headers_of_its_query() -> None:
    response = await make_client(make()).get("/v1/health/service/web?passing=zz&stale")
    assert response.status == 400
    assert response.header("X-Consul-Index") == "9"
    assert response.header("X-Consul-Effective-Consistency") == "stale"


@pytest.mark.parametrize(("path", "shown"), [("service", None), ("connect", None), ("node", "1")])
async def test_failed_calls_about_instances_tell_no_index(path: str, shown: str | None) -> None:
    fault = NoPathToDatacenter("dc9")
    rpc = FakeRpc(Health_ServiceNodes=fault, Health_NodeChecks=fault)
    response = await make_client(rpc).get(f"/v1/health/{path}/web?dc=dc9")
    assert response.status == 500
    assert response.header("X-Consul-Index") == shown
