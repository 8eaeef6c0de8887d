"""``/v1/session``: what is asked of servers, and what is answered. Shapes: Consul 1.10.11."""

from typing import Any

import pytest

from isthmus.errors import NoPathToDatacenter, RequestError
from isthmus.model.session import IndexedSessions, ServiceCheck, Session
from isthmus.units import SECOND, Duration
from support.http import FakeRpc, as_dict, as_json, make_client

ID = "aaaaaaaa-0000-4000-8000-000000000001"
SESSION = Session(
    id=ID,
    name="n",
    node="alpha",
    lock_delay=Duration(15 * SECOND),
    behavior="release",
    ttl="10s",
    node_checks=("serfHealth",),
    create_index=7,
    modify_index=7,
)
SHOWN = (
    b'[{"ID":"aaaaaaaa-0000-4000-8000-000000000001","Name":"n","Node":"alpha",'
    b'"LockDelay":15000000000,"Behavior":"release","TTL":"10s","NodeChecks":["serfHealth"],'
    b'"ServiceChecks":null,"CreateIndex":7,"ModifyIndex":7}]'
)


def found(*sessions: Session) -> IndexedSessions:
    return IndexedSessions(index=7, known_leader=True, sessions=sessions or None)


async def created(body: bytes | object = b"", query: str = "") -> Session:
    """What servers are asked to create."""
    client = make_client(FakeRpc(Session_Apply=ID))
    response = await client.put(f"/v1/session/create{query}", body)
    assert (response.status, as_json(response)) == (200, {"ID": ID})
    assert client.rpc.last.op == "create"
    session = client.rpc.last.session
    assert isinstance(session, Session)
    return session


async def test_session_without_a_body_is_one_of_our_node() -> None:
    assert await created() == Session(
        node="alpha",
        lock_delay=Duration(15 * SECOND),
        behavior="release",
        node_checks=("serfHealth",),
    )


async def test_body_says_what_it_is_to_be() -> None:
    body = {
        "node": "beta",
        "Name": "n",
        "LockDelay": "3s",
        "Behavior": "delete",
        "TTL": "30s",
        "NodeChecks": ["c"],
        "ServiceChecks": [{"ID": "s", "Namespace": ""}],
        "Unknown": 1,
    }
    assert await created(body) == Session(
        node="beta",
        name="n",
        lock_delay=Duration(3 * SECOND),
        behavior="delete",
        ttl="30s",
        node_checks=("c",),
        service_checks=(ServiceCheck(id="s"),),
    )


@pytest.mark.parametrize(
    ("wanted", "nodes", "checks"),
    [
        ({}, ("serfHealth",), None),
        ({"Checks": []}, (), None),
        ({"Checks": None}, (), None),
        ({"NodeChecks": []}, (), None),
        ({"NodeChecks": None}, None, None),
        ({"Checks": ["serfHealth"]}, ("serfHealth",), None),
        ({"Checks": ["c"]}, ("serfHealth",), ("c",)),
        ({"Checks": ["c"], "NodeChecks": []}, (), None),
        ({"Checks": [], "NodeChecks": ["c"]}, (), None),
        ({"checks": ["serfHealth", "c"], "nodechecks": ["d"]}, ("d",), ("serfHealth", "c")),
    ],
)
async def test_checks_of_either_form_are_understood_as_consul_does(
    wanted: dict[str, Any], nodes: tuple[str, ...] | None, checks: tuple[str, ...] | None
) -> None:
    session = await created(wanted)
    assert (session.node_checks, session.checks) == (nodes, checks)


@pytest.mark.parametrize(
    ("delay", "nanoseconds"),
    [
        (None, 15 * SECOND),
        ("0s", 0),
        ("500ns", 500 * SECOND),
        (3, 3 * SECOND),
        (999, 999 * SECOND),
        (1000, 1000),
        (20_000_000_000, 20 * SECOND),
        (1.5, SECOND),
        (True, 0),
        (1e300, 2**62),
    ],
)
async def test_lock_delay_is_text_or_nanoseconds_or_if_small_seconds(
    delay: object, nanoseconds: int
) -> None:
    assert (await created({"LockDelay": delay})).lock_delay == nanoseconds


@pytest.mark.parametrize("body", [b"null", b'{"TTL":null,"Name":null,"Behavior":null}'])
async def test_null_says_nothing(body: bytes) -> None:
    assert await created(body) == await created()


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"x", "Request decode failed: invalid character 'x' looking for beginning of value"),
        (b"{", "Request decode failed: unexpected EOF"),
        (b'{"LockDelay":"zz"}', 'Request decode failed: time: invalid duration "zz"'),
    ],
)
async def test_body_that_cannot_be_read_is_refused(body: bytes, text: str) -> None:
    response = await make_client().put("/v1/session/create", body)
    assert (response.status, response.body.decode()) == (400, text)


async def test_servers_words_are_passed_on() -> None:
    fault = RequestError("apply failed: Missing node registration")
    response = await make_client(FakeRpc(Session_Apply=fault)).put("/v1/session/create")
    assert (response.status, response.body) == (500, b"apply failed: Missing node registration")


async def test_end_and_renewal_go_where_they_are_sent() -> None:
    client = make_client(FakeRpc(Session_Apply="", Session_Renew=found(SESSION)))
    response = await client.put(f"/v1/session/destroy/{ID}?dc=dc2&token=t")
    assert (response.status, response.body) == (200, b"true")
    request = client.rpc.last
    assert (request.op, request.session.id, request.datacenter, request.token) == (
        "destroy",
        ID,
        "dc2",
        "t",
    )
    response = await client.put(f"/v1/session/renew/{ID}?dc=dc2")
    assert (response.status, response.body) == (200, SHOWN)
    assert "X-Consul-Index" not in as_dict(response)
    request = client.rpc.last
    assert (request.session_id, request.session, request.datacenter) == (ID, ID, "dc2")


async def test_renewal_of_what_is_not_there_is_404() -> None:
    response = await make_client(FakeRpc(Session_Renew=found())).put(f"/v1/session/renew/{ID}")
    assert (response.status, response.body.decode()) == (404, f"Session id '{ID}' not found")


@pytest.mark.parametrize(
    ("path", "method"),
    [
        (f"info/{ID}", "Session_Get"),
        ("list", "Session_List"),
        ("node/alpha", "Session_NodeSessions"),
    ],
)
async def test_sessions_are_read_with_their_index(path: str, method: str) -> None:
    client = make_client(FakeRpc(**{method: found(SESSION)}))
    response = await client.get(f"/v1/session/{path}?index=5&wait=3s&stale&dc=dc2")
    assert (response.status, response.body) == (200, SHOWN)
    assert as_dict(response)["X-Consul-Index"] == "7"
    request = client.rpc.last
    assert (request.min_query_index, request.allow_stale, request.datacenter) == (5, True, "dc2")
    client = make_client(FakeRpc(**{method: found()}))
    response = await client.get(f"/v1/session/{path}")
    assert (response.status, response.body) == (200, b"[]")
    client = make_client(FakeRpc(**{method: NoPathToDatacenter("dc9")}))
    response = await client.get(f"/v1/session/{path}?dc=dc9")
    assert (response.status, response.body) == (500, b"No path to datacenter")


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "info/", 400, "Missing session"),
        ("PUT", "destroy/", 400, "Missing session"),
        ("PUT", "renew/", 400, "Missing session"),
        ("GET", "node/", 400, "Missing node name"),
        ("GET", "create", 405, "method GET not allowed"),
        ("PUT", "list", 405, "method PUT not allowed"),
        ("GET", "list?index=x", 400, "Invalid index"),
    ],
)
async def test_what_is_asked_wrongly_is_refused(
    method: str, path: str, status: int, text: str
) -> None:
    response = await make_client().request(method, f"/v1/session/{path}")
    assert (response.status, response.body.decode()) == (status, text)


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "create"), ("PUT", f"destroy/{ID}"), ("GET", "list")]
)
async def test_namespaces_are_refused(method: str, path: str) -> None:
    response = await make_client().request(method, f"/v1/session/{path}?ns=x")
    assert response.status == 400
    assert b"Namespaces are a Consul Enterprise feature" in response.body
