"""``/v1/session``: sessions, which hold locks. Source: protocol/http-api.md §6.4."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from isthmus.errors import InvalidRequest, NotFound
from isthmus.http.context import Context
from isthmus.http.decode import decode
from isthmus.http.options import read_options, refuse_namespace
from isthmus.http.request import Request
from isthmus.http.response import Response
from isthmus.http.routing import Route
from isthmus.model.catalog import SERF_HEALTH, NodeRequest
from isthmus.model.record import Record
from isthmus.model.session import (
    BEHAVIOR_RELEASE,
    LOCK_DELAY,
    SESSION_CREATE,
    SESSION_DESTROY,
    IndexedSessions,
    ServiceCheck,
    Session,
    SessionRequest,
    SessionSpecificRequest,
)
from isthmus.units import SECOND, Duration, parse_duration

_MISSING_SESSION: Final = "Missing session"
_DECODE_FAILED: Final = "Request decode failed: "
_SECONDS_BELOW: Final = 1000
"""A lock delay below so many nanoseconds is meant as seconds; Consul's number."""
_DEFAULT_CHECKS: Final = (SERF_HEALTH,)


class _Created(Record, frozen=True, kw_only=True):
    """Answer to a creation."""

    id: str = ""


class _Session(Record, frozen=True, kw_only=True):
    """A session as its creator describes it; None where it says nothing."""

    id: str | None = None
    name: str | None = None
    node: str | None = None
    lock_delay: object = None
    behavior: str | None = None
    ttl: str | None = None
    node_checks: tuple[str, ...] | None = None
    service_checks: tuple[ServiceCheck, ...] | None = None
    checks: tuple[str, ...] | None = None


async def create(context: Context, request: Request) -> Response:
    """Begin a session, without a body one of our own node that lives as long as the node."""
    refuse_namespace(request)
    wanted, named = _Session(), frozenset[str]()
    if request.body:
        wanted = decode(_Session, request.body, ignore_unknown=True)
        plain: Any = msgspec.json.decode(request.body)
        named = frozenset(name.lower() for name in plain) if isinstance(plain, Mapping) else named
    session = _completed(wanted, named, node=context.local.node_name)
    session_id = await context.call(
        "Session.Apply",
        SessionRequest(
            datacenter=request.query.first("dc") or context.local.datacenter,
            op=SESSION_CREATE,
            session=session,
            token=request.token,
        ),
        str,
    )
    return context.json(request, _Created(id=session_id))


def _completed(wanted: _Session, named: frozenset[str], *, node: str) -> Session:
    """Fill in what a creator left out.

    Args:
        wanted: What it said.
        named: Lower-case names of all it said something of, be it null: a list of checks that is
            there and empty means none, one that is missing means the default.
        node: Our own node.
    """
    checks: tuple[str, ...] | None = wanted.checks if "checks" in named else _DEFAULT_CHECKS
    nodes: tuple[str, ...] | None = wanted.node_checks if "nodechecks" in named else _DEFAULT_CHECKS
    # Callers before 1.7 name all checks in one list, which must not add to the default.
    if not checks:
        nodes, checks = (), None
    elif checks == _DEFAULT_CHECKS or not nodes:
        checks = None
    return Session(
        id=wanted.id or "",
        name=wanted.name or "",
        node=node if wanted.node is None else wanted.node,
        lock_delay=_lock_delay(wanted.lock_delay),
        behavior=BEHAVIOR_RELEASE if wanted.behavior is None else wanted.behavior,
        ttl=wanted.ttl or "",
        node_checks=nodes,
        service_checks=wanted.service_checks,
        checks=checks,
    )


def _lock_delay(value: object) -> Duration:
    """Read a lock delay: text as Go has it, or a number of nanoseconds, or of seconds if small.

    Raises:
        InvalidRequest: The text is no duration.
    """
    if value is None:
        return LOCK_DELAY
    delay = Duration(0)
    if isinstance(value, str):
        try:
            delay = parse_duration(value)
        except ValueError as error:
            raise InvalidRequest(f"{_DECODE_FAILED}{error}") from None
    elif isinstance(value, float):
        delay = Duration(int(max(-(2.0**62), min(2.0**62, value))))
    return Duration(delay * SECOND) if -_SECONDS_BELOW < delay < _SECONDS_BELOW else delay


async def destroy(context: Context, request: Request) -> Response:
    """End a session; one that is not there is no error."""
    refuse_namespace(request)
    await context.call(
        "Session.Apply",
        SessionRequest(
            datacenter=request.query.first("dc") or context.local.datacenter,
            op=SESSION_DESTROY,
            session=Session(id=_id(request)),
            token=request.token,
        ),
        str,
    )
    return context.json(request, True)


async def renew(context: Context, request: Request) -> Response:
    """Give a session its whole time to live again."""
    question = _question(context, request)
    reply = await context.call("Session.Renew", question, IndexedSessions)
    if not reply.sessions:
        raise NotFound(f"Session id '{question.session_id}' not found")
    return context.json(request, reply.sessions)


async def info(context: Context, request: Request) -> Response:
    """One session, in a list that is empty without it."""
    question = _question(context, request)
    reply = await context.call("Session.Get", question, IndexedSessions)
    return context.json(request, reply.sessions or (), meta=reply)


async def every(context: Context, request: Request) -> Response:
    """All sessions."""
    options = read_options(request, context.local.datacenter, namespaced=True)
    reply = await context.call(
        "Session.List",
        SessionSpecificRequest(**options.fields()),  # type: ignore[arg-type]
        IndexedSessions,
    )
    return context.json(request, reply.sessions or (), meta=reply)


async def of_node(context: Context, request: Request) -> Response:
    """All sessions of a node."""
    options = read_options(request, context.local.datacenter, namespaced=True)
    if not request.argument:
        raise InvalidRequest("Missing node name")
    reply = await context.call(
        "Session.NodeSessions",
        NodeRequest(**options.fields(), node=request.argument),  # type: ignore[arg-type]
        IndexedSessions,
    )
    return context.json(request, reply.sessions or (), meta=reply)


def _question(context: Context, request: Request) -> SessionSpecificRequest:
    options = read_options(request, context.local.datacenter, namespaced=True)
    session_id = _id(request)
    return SessionSpecificRequest(
        **options.fields(),  # type: ignore[arg-type]
        session_id=session_id,
        session=session_id,
    )


def _id(request: Request) -> str:
    if not request.argument:
        raise InvalidRequest(_MISSING_SESSION)
    return request.argument


ROUTES: Final = (
    Route("/v1/session/create", {"PUT": create}),
    Route("/v1/session/destroy/", {"PUT": destroy}),
    Route("/v1/session/renew/", {"PUT": renew}),
    Route("/v1/session/info/", {"GET": info}, tells_state=True),
    Route("/v1/session/node/", {"GET": of_node}, tells_state=True),
    Route("/v1/session/list", {"GET": every}, tells_state=True),
)
