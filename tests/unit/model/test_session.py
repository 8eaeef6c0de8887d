"""Sessions on both wires."""

from isthmus.model.session import (
    SESSION_CREATE,
    SESSION_DESTROY,
    IndexedSessions,
    ServiceCheck,
    Session,
    SessionRequest,
    SessionSpecificRequest,
)
from isthmus.units import Duration
from isthmus.wire import gojson, msgpack
from support.rpc_vectors import load


def test_lock_delay_is_a_number_on_both_wires() -> None:
    session = Session(id="s", lock_delay=Duration.of(15))
    assert b"\xa9LockDelay\xcf\x00\x00\x00\x03\x7e\x11\xd6\x00" in msgpack.encode(session)
    assert b'"LockDelay":15000000000,' in gojson.encode(session)


def test_old_checks_are_shown_only_when_given() -> None:
    assert b'"Checks"' not in gojson.encode(Session())
    assert b'"Checks":["c"]' in gojson.encode(Session(checks=("c",)))


def test_id_of_a_read_stands_twice() -> None:
    plain = msgpack.to_plain(SessionSpecificRequest(session_id="s", session="s"))
    assert isinstance(plain, dict)
    assert (plain["SessionID"], plain["Session"]) == ("s", "s")


def test_captured_requests_name_what_a_session_is_to_be() -> None:
    created = msgpack.decode(SessionRequest, load("session-apply-request").body)
    assert (created.op, created.datacenter) == (SESSION_CREATE, "dc2")
    assert created.session == Session(
        name="n",
        node="beta",
        lock_delay=Duration.of(3),
        behavior="release",
        ttl="10s",
        node_checks=("serfHealth",),
    )
    checked = msgpack.decode(SessionRequest, load("session-apply-checks-request").body).session
    assert (checked.checks, checked.node_checks, checked.service_checks) == (
        ("serfHealth", "serfHealth"),
        ("serfHealth",),
        (ServiceCheck(id="serfHealth"),),
    )
    ended = msgpack.decode(SessionRequest, load("session-apply-destroy-request").body)
    assert (ended.op, ended.session) == (SESSION_DESTROY, Session(id=ended.session.id))
    for name in ("session-get-request", "session-renew-request"):
        asked = msgpack.decode(SessionSpecificRequest, load(name).body)
        assert asked.session_id == asked.session == ended.session.id


def test_captured_reply_is_the_session_that_was_asked_for() -> None:
    session_id = msgpack.decode(str, load("session-apply-response").body)
    reply = msgpack.decode(IndexedSessions, load("session-get-response").body)
    assert reply.sessions is not None
    (session,) = reply.sessions
    assert (session.id, session.name, session.create_index) == (session_id, "vector", reply.index)
