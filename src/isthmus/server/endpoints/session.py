"""Sessions: ``Session``. Source: protocol/rpc.md §6, protocol/http-api.md §6.4."""

from collections.abc import Mapping
from typing import Final
from uuid import UUID

import msgspec

from isthmus.errors import RequestError
from isthmus.model.catalog import NodeRequest
from isthmus.model.session import (
    BEHAVIOR_DELETE,
    BEHAVIOR_RELEASE,
    SESSION_CREATE,
    SESSION_DESTROY,
    TTL_MAX,
    IndexedSessions,
    Session,
    SessionRequest,
    SessionSpecificRequest,
)
from isthmus.server.endpoints.context import Context, Handler
from isthmus.units import Duration, parse_duration

_APPLY_PREFIX: Final = "apply failed: "  # Consul's, which clients match.
_ID_SIZE: Final = 16


async def apply(context: Context, request: SessionRequest) -> str:
    """Create or destroy a session; return the id of one that was created.

    Raises:
        RequestError: A field is missing or wrong; the texts are Consul's.
    """
    session = request.session
    if request.op == SESSION_DESTROY and not session.id:
        raise RequestError("Must provide ID")
    if request.op == SESSION_CREATE and not session.node:
        raise RequestError("Must provide Node")
    if request.op not in {SESSION_CREATE, SESSION_DESTROY}:
        raise RequestError(f'Invalid session operation "{request.op}"')
    behavior = session.behavior or BEHAVIOR_RELEASE
    if behavior not in {BEHAVIOR_RELEASE, BEHAVIOR_DELETE}:
        raise RequestError(f"Invalid Behavior setting '{behavior}'")
    _check_ttl(session.ttl, context.session_ttl_min)
    if request.op == SESSION_CREATE:
        session = msgspec.structs.replace(session, id=_new_id(context), behavior=behavior)
    command = msgspec.structs.replace(request, datacenter=context.dc, session=session, token="")
    try:
        return str(await context.commit(command))
    except RequestError as error:
        raise RequestError(f"{_APPLY_PREFIX}{error}", status=error.status) from error


def _check_ttl(text: str, ttl_min: Duration) -> None:
    if not text:
        return
    try:
        ttl = parse_duration(text)
    except ValueError as error:
        raise RequestError(f"Session TTL '{text}' invalid: {error}") from None
    if ttl != 0 and not ttl_min <= ttl <= TTL_MAX:
        raise RequestError(
            f"Invalid Session TTL '{int(ttl)}', must be between [{ttl_min}={TTL_MAX}]"
        )


def _new_id(context: Context) -> str:
    """An id that no session has."""
    while True:
        session_id = str(UUID(bytes=context.rng.randbytes(_ID_SIZE), version=4))
        if context.store.sessions.get(session_id).value is None:
            return session_id


async def get(context: Context, request: SessionSpecificRequest) -> IndexedSessions:
    """One session; none when it does not exist."""
    sessions, session_id = context.store.sessions, _id_of(request)
    answer = await context.read(request, lambda: sessions.get(session_id))
    return _reply(answer.shown_index, () if answer.value is None else (answer.value,))


async def list_sessions(context: Context, request: SessionSpecificRequest) -> IndexedSessions:
    """All sessions."""
    answer = await context.read(request, context.store.sessions.list)
    return _reply(answer.shown_index, answer.value)


async def node_sessions(context: Context, request: NodeRequest) -> IndexedSessions:
    """All sessions of a node."""
    sessions = context.store.sessions
    answer = await context.read(request, lambda: sessions.of_node(request.node))
    return _reply(answer.shown_index, answer.value)


async def renew(context: Context, request: SessionSpecificRequest) -> IndexedSessions:
    """Give a session its whole time again; none when it does not exist, or is being ended."""
    answer = context.store.sessions.get(_id_of(request))
    session = answer.value
    if session is None or not context.renew_session(session):
        return _reply(answer.shown_index, ())
    return _reply(answer.shown_index, (session,))


def _id_of(request: SessionSpecificRequest) -> str:
    return request.session_id or request.session


def _reply(index: int, sessions: tuple[Session, ...]) -> IndexedSessions:
    return IndexedSessions(sessions=sessions or None, index=index, known_leader=True)


METHODS: Final[Mapping[str, Handler]] = {
    "Apply": apply,
    "Get": get,
    "List": list_sessions,
    "NodeSessions": node_sessions,
    "Renew": renew,
}
