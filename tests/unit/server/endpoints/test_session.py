"""``Session``: what it refuses, what it fills in, and whom it waits for."""

import asyncio

import pytest

from isthmus.errors import RequestError
from isthmus.model.catalog import HealthCheck, NodeRequest, RegisterRequest
from isthmus.model.session import (
    SESSION_CREATE,
    SESSION_DESTROY,
    ServiceCheck,
    Session,
    SessionRequest,
    SessionSpecificRequest,
)
from isthmus.server.server import Server
from isthmus.units import Duration


@pytest.fixture(autouse=True)
async def node(server: Server) -> None:
    """The server knows the node ``x`` with a check that passes and one that fails."""
    await server.call(
        "Catalog.Register",
        RegisterRequest(
            node="x",
            address="10.0.0.1",
            checks=(
                HealthCheck(node="x", check_id="good", status="passing"),
                HealthCheck(node="x", check_id="bad", status="critical"),
            ),
        ),
    )


async def create(server: Server, **fields: object) -> str:
    session = Session(**{"node": "x", **fields})  # type: ignore[arg-type]
    reply = await server.call("Session.Apply", SessionRequest(op=SESSION_CREATE, session=session))
    assert isinstance(reply, str)
    return reply


async def get(server: Server, session_id: str) -> Session | None:
    reply = await server.call("Session.Get", SessionSpecificRequest(session_id=session_id))
    return reply.sessions[0] if reply.sessions else None


async def test_session_gets_an_id_of_its_own_and_a_behavior(server: Server) -> None:
    mine = await create(server, id="aaaaaaaa-0000-4000-8000-000000000001", name="n")
    assert mine != "aaaaaaaa-0000-4000-8000-000000000001"
    session = await get(server, mine)
    assert session is not None
    assert (session.id, session.name, session.behavior) == (mine, "n", "release")
    assert await create(server) != mine


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (SessionRequest(op=SESSION_DESTROY), "Must provide ID"),
        (SessionRequest(op=SESSION_CREATE), "Must provide Node"),
        (SessionRequest(op="renew"), 'Invalid session operation "renew"'),
        (
            SessionRequest(op=SESSION_DESTROY, session=Session(id="x")),
            "apply failed: failed session lookup: index error: UUID must be 36 characters",
        ),
    ],
)
async def test_request_that_is_wrong_is_refused(
    server: Server, request_: SessionRequest, text: str
) -> None:
    with pytest.raises(RequestError) as caught:
        await server.call("Session.Apply", request_)
    assert (str(caught.value), caught.value.status) == (text, 500)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"behavior": "x"}, "Invalid Behavior setting 'x'"),
        ({"ttl": "zz"}, "Session TTL 'zz' invalid: time: invalid duration \"zz\""),
        (
            {"ttl": "5s"},
            "Invalid Session TTL '5000000000', must be between [10s=24h0m0s]",
        ),
        (
            {"ttl": "25h"},
            "Invalid Session TTL '90000000000000', must be between [10s=24h0m0s]",
        ),
        ({"node": "none"}, "apply failed: Missing node registration"),
        ({"node_checks": ("none",)}, "apply failed: Missing check 'none' registration"),
        (
            {"service_checks": (ServiceCheck(id="bad"),)},
            "apply failed: Check 'bad' is in critical state",
        ),
    ],
)
async def test_session_that_cannot_be_is_refused_in_consuls_words(
    server: Server, fields: dict[str, object], text: str
) -> None:
    with pytest.raises(RequestError) as caught:
        await create(server, **fields)
    assert str(caught.value) == text


@pytest.mark.parametrize("ttl", ["", "0s", "10s", "24h"])
async def test_time_to_live_within_bounds_is_kept_as_text(server: Server, ttl: str) -> None:
    session = await get(server, await create(server, ttl=ttl))
    assert session is not None
    assert session.ttl == ttl


async def test_missing_sessions_are_none_in_every_read(server: Server) -> None:
    unknown = "aaaaaaaa-0000-4000-8000-000000000001"
    for method in ("Session.Get", "Session.Renew", "Session.List"):
        reply = await server.call(method, SessionSpecificRequest(session_id=unknown))
        assert (reply.sessions, reply.index, reply.known_leader) == (None, 1, True)
    reply = await server.call("Session.NodeSessions", NodeRequest(node="x"))
    assert reply.sessions is None
    request = SessionRequest(op=SESSION_DESTROY, session=Session(id=unknown))
    assert await server.call("Session.Apply", request) == ""


@pytest.mark.parametrize("method", ["Session.Get", "Session.Renew"])
async def test_what_is_no_id_is_refused(server: Server, method: str) -> None:
    with pytest.raises(RequestError) as caught:
        await server.call(method, SessionSpecificRequest(session_id="x"))
    assert str(caught.value) == "failed session lookup: index error: UUID must be 36 characters"


async def test_id_may_stand_where_old_callers_put_it(server: Server) -> None:
    mine = await create(server)
    for method in ("Session.Get", "Session.Renew"):
        reply = await server.call(method, SessionSpecificRequest(session=mine))
        assert [session.id for session in reply.sessions] == [mine]


async def test_sessions_are_listed_whole_and_by_node(server: Server) -> None:
    mine = await create(server)
    for method, request in (
        ("Session.List", SessionSpecificRequest()),
        ("Session.NodeSessions", NodeRequest(node="X")),
    ):
        reply = await server.call(method, request)
        assert [session.id for session in reply.sessions] == [mine]
        assert reply.index == server.store.index


async def test_blocked_reader_hears_of_the_end(server: Server) -> None:
    mine, other = await create(server), await create(server)
    index = server.store.index
    request = SessionSpecificRequest(
        session_id=mine, min_query_index=index, max_query_time=Duration.of(60)
    )
    waiting = asyncio.ensure_future(server.call("Session.Get", request))
    for session in (other, mine):
        await server.call(
            "Session.Apply", SessionRequest(op=SESSION_DESTROY, session=Session(id=session))
        )
    reply = await waiting
    assert (reply.sessions, reply.index) == (None, index + 2)


async def test_renewal_answers_the_session(server: Server) -> None:
    mine = await create(server, ttl="10s")
    reply = await server.call("Session.Renew", SessionSpecificRequest(session_id=mine))
    assert [(session.id, session.ttl) for session in reply.sessions] == [(mine, "10s")]
