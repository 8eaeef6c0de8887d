"""``/v1/agent``: the agent itself, its services and checks. Source: protocol/http-api.md §6.3."""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from isthmus.bexpr import BadExpression, check_syntax, compile_filter
from isthmus.errors import InvalidRequest, NotFound, RequestError
from isthmus.http import shapes
from isthmus.http.context import Context
from isthmus.http.decode import decode
from isthmus.http.gateway import wait_seconds
from isthmus.http.options import refuse_namespace
from isthmus.http.request import Request
from isthmus.http.response import JSON, Header, Response
from isthmus.http.routing import Route
from isthmus.model.agent import (
    AgentService,
    CheckDefinition,
    CheckUpdate,
    ServiceDefinition,
)
from isthmus.model.catalog import CRITICAL, MAINTENANCE, PASSING, WARNING, HealthCheck
from isthmus.model.record import Record

_ANY_SEGMENT: Final = ("", "_all")
_NO_SEGMENTS: Final = "Network segments are not supported in this version of Consul"
_NODE_MAINTENANCE: Final = "_node_maintenance"
_SERVICE_MAINTENANCE: Final = "_service_maintenance:"
_SEVERITY: Final = (PASSING, WARNING, CRITICAL, MAINTENANCE)
_BOOLEANS: Final = dict.fromkeys(("1", "t", "T", "true", "True", "TRUE"), True) | dict.fromkeys(
    ("0", "f", "F", "false", "False", "FALSE"), False
)
"""What Go's strconv.ParseBool takes."""
_TEXT: Final[Header] = ("Content-Type", "text/plain")
_HEALTH_STATUS: Final = {PASSING: 200, WARNING: 429, CRITICAL: 503, MAINTENANCE: 503}


# The agent ------------------------------------------------------------------------------------


async def self_info(context: Context, request: Request) -> Response:
    """What the agent says of itself."""
    return context.json(request, dict(await context.local.self_info()))


async def members(context: Context, request: Request) -> Response:
    """Members of the LAN pool, or with ``wan`` of the WAN pool."""
    if request.query.first("segment") not in _ANY_SEGMENT:
        raise RequestError(_NO_SEGMENTS)
    found = context.local.members(wan=bool(request.query.first("wan")))
    return context.json(request, None if found is None else list(found))


async def join(context: Context, request: Request) -> Response:
    """Join a pool through one of its members."""
    await context.local.join(request.argument, wan=bool(request.query.first("wan")))
    return Response()


async def leave(context: Context, _request: Request) -> Response:
    """Leave the pools and stop."""
    await context.local.leave()
    return Response()


async def force_leave(context: Context, request: Request) -> Response:
    """Declare a failed member as having left."""
    query = request.query
    await context.local.force_leave(request.argument, prune="prune" in query, wan="wan" in query)
    return Response()


# Services -------------------------------------------------------------------------------------


async def services(context: Context, request: Request) -> Response:
    """All services of the agent, or those that ``filter`` holds for."""
    refuse_namespace(request)
    text = request.query.first("filter")
    holds = compile_filter(text, AgentService) if text else None
    found = context.local.services()
    if holds is not None:
        found = {key: one for key, one in found.items() if holds(one)}
    return context.json(request, dict(found))


async def service(context: Context, request: Request) -> Response:
    """One service; with ``hash``, once it has changed."""
    refuse_namespace(request)
    content_hash = request.query.first("hash")
    wait = wait_seconds(request) if content_hash else 0.0
    found = await context.local.service_changed(
        request.argument, content_hash=content_hash, wait=wait
    )
    if found is None:
        raise NotFound(f"unknown service ID: {request.argument}")
    response = context.json(request, found)
    response.headers.append(("X-Consul-Contenthash", found.content_hash))
    return response


async def register_service(context: Context, request: Request) -> Response:
    """Register a service with its checks."""
    refuse_namespace(request)
    definition = decode(ServiceDefinition, request.body, snake_case=True)
    definition = msgspec.structs.replace(definition, token=request.token or definition.token)
    replace = request.query.all("replace-existing-checks")[:1] in ([""], ["true"])
    await context.local.register_service(definition, replace_existing_checks=replace)
    return Response()


async def deregister_service(context: Context, request: Request) -> Response:
    """Remove a service with its checks."""
    if not request.argument:
        raise RequestError("ServiceID missing")
    refuse_namespace(request)
    await context.local.deregister_service(request.argument)
    return Response()


async def service_maintenance(context: Context, request: Request) -> Response:
    """Take a service out of service, or back."""
    if not request.argument:
        raise InvalidRequest("Missing service ID")
    refuse_namespace(request)
    return await _maintain(context, request, request.argument)


async def node_maintenance(context: Context, request: Request) -> Response:
    """Take the node with all its services out of service, or back."""
    return await _maintain(context, request, "")


async def _maintain(context: Context, request: Request, service_id: str) -> Response:
    if "enable" not in request.query:
        raise InvalidRequest("Missing value for enable")
    raw = request.query.first("enable")
    enable = _BOOLEANS.get(raw)
    if enable is None:
        raise InvalidRequest(f'Invalid value for enable: "{raw}"')
    reason = request.query.first("reason")
    await context.local.set_maintenance(
        service_id, enable=enable, reason=reason, token=request.token
    )
    return Response()


# Checks ---------------------------------------------------------------------------------------


async def checks(context: Context, request: Request) -> Response:
    """All checks of the agent, or those that ``filter`` holds for."""
    refuse_namespace(request)
    found = context.local.checks()
    if text := request.query.first("filter"):
        found = _wanted_checks(found, text)
    return context.json(request, dict(zip(found, shapes.checks(found.values()), strict=True)))


def _wanted_checks(found: Mapping[str, HealthCheck], text: str) -> dict[str, HealthCheck]:
    """Keep the checks that an expression holds for.

    As in Consul, whether it fits checks is only looked at where there are any.
    """
    check_syntax(text)
    if not found:
        return {}
    try:
        holds = compile_filter(text, HealthCheck)
    except BadExpression as error:
        raise RequestError(error.reason) from None
    return {key: check for key, check in found.items() if holds(check)}


async def register_check(context: Context, request: Request) -> Response:
    """Register a check of the node or of a service."""
    refuse_namespace(request)
    definition = decode(CheckDefinition, request.body, snake_case=True)
    definition = msgspec.structs.replace(definition, token=request.token or definition.token)
    await context.local.register_check(definition)
    return Response()


async def deregister_check(context: Context, request: Request) -> Response:
    """Remove a check."""
    if not request.argument:
        raise RequestError("CheckID missing")
    refuse_namespace(request)
    await context.local.deregister_check(request.argument)
    return Response()


async def pass_check(context: Context, request: Request) -> Response:
    """Set a TTL check to passing."""
    return await _set(context, request, PASSING)


async def warn_check(context: Context, request: Request) -> Response:
    """Set a TTL check to warning."""
    return await _set(context, request, WARNING)


async def fail_check(context: Context, request: Request) -> Response:
    """Set a TTL check to critical."""
    return await _set(context, request, CRITICAL)


async def _set(context: Context, request: Request, status: str) -> Response:
    refuse_namespace(request)
    note = request.query.first("note")
    await context.local.update_check(request.argument, status=status, output=note)
    return Response()


async def update_check(context: Context, request: Request) -> Response:
    """Set a TTL check to the state in the body."""
    update = decode(CheckUpdate, request.body)
    if update.status not in (PASSING, WARNING, CRITICAL):
        raise InvalidRequest(f"Invalid check status: '{update.status}'")
    refuse_namespace(request)
    await context.local.update_check(request.argument, status=update.status, output=update.output)
    return Response()


# Health of local services ---------------------------------------------------------------------


class _Health(Record, frozen=True, kw_only=True):
    """A service with the worst of its checks."""

    aggregated_status: str = ""
    service: AgentService | None = None
    checks: tuple[HealthCheck, ...] = ()


async def health_by_id(context: Context, request: Request) -> Response:
    """Health of one service; its HTTP status tells, too."""
    refuse_namespace(request)
    if not request.argument:
        raise RequestError("Bad request: Missing serviceID")
    found = context.local.service(request.argument)
    if found is None:
        unknown = {"AggregatedStatus": CRITICAL, "Service": None, "Checks": None}
        return _unknown(context, request, f"ServiceId {request.argument} not found", unknown)
    health = _health(context, found)
    return _tell(context, request, health.aggregated_status, health)


async def health_by_name(context: Context, request: Request) -> Response:
    """Health of all instances of a service on this agent; the worst one counts."""
    refuse_namespace(request)
    if not request.argument:
        raise RequestError("Bad request: Missing service Name")
    found = [_health(context, one) for one in context.local.services_called(request.argument)]
    if not found:
        return _unknown(context, request, f"ServiceName {request.argument} Not Found", [])
    worst = max((one.aggregated_status for one in found), key=_SEVERITY.index)
    return _tell(context, request, worst, found)


def _health(context: Context, service: AgentService) -> _Health:
    found = context.local.checks_of(service.id)
    return _Health(
        aggregated_status=aggregate(found), service=service, checks=tuple(shapes.checks(found))
    )


def aggregate(checks: Iterable[HealthCheck]) -> str:
    """The worst status of some checks; maintenance is worse than critical."""
    worst = PASSING
    for check in checks:
        maintenance = check.check_id == _NODE_MAINTENANCE or check.check_id.startswith(
            _SERVICE_MAINTENANCE
        )
        status = MAINTENANCE if maintenance else check.status
        worst = max(worst, status if status in _SEVERITY else CRITICAL, key=_SEVERITY.index)
    return worst


def _wants_text(request: Request) -> bool:
    accepted = request.headers.get(b"accept", b"")
    return accepted.startswith(b"text/plain") or request.query.first("format") == "text"


def _unknown(context: Context, request: Request, reason: str, body: object) -> Response:
    headers: list[Header] = [("X-Consul-Reason", reason)]
    if _wants_text(request):
        return Response(404, [_TEXT, *headers], reason.encode())
    return Response(404, [JSON, *headers], context.encode(request, body))


def _tell(context: Context, request: Request, status: str, body: object) -> Response:
    headers: list[Header] = [("X-Consul-Reason", status)]
    code = _HEALTH_STATUS[status]
    if _wants_text(request):
        return Response(code, [_TEXT, *headers], status.encode())
    return Response(code, [JSON, *headers], context.encode(request, body))


ROUTES: Final = (
    Route("/v1/agent/self", {"GET": self_info}),
    Route("/v1/agent/members", {"GET": members}),
    Route("/v1/agent/join/", {"PUT": join}),
    Route("/v1/agent/leave", {"PUT": leave}),
    Route("/v1/agent/force-leave/", {"PUT": force_leave}),
    Route("/v1/agent/services", {"GET": services}),
    Route("/v1/agent/service/", {"GET": service}),
    Route("/v1/agent/service/register", {"PUT": register_service}),
    Route("/v1/agent/service/deregister/", {"PUT": deregister_service}),
    Route("/v1/agent/service/maintenance/", {"PUT": service_maintenance}),
    Route("/v1/agent/maintenance", {"PUT": node_maintenance}),
    Route("/v1/agent/checks", {"GET": checks}),
    Route("/v1/agent/check/register", {"PUT": register_check}),
    Route("/v1/agent/check/deregister/", {"PUT": deregister_check}),
    Route("/v1/agent/check/pass/", {"PUT": pass_check}),
    Route("/v1/agent/check/warn/", {"PUT": warn_check}),
    Route("/v1/agent/check/fail/", {"PUT": fail_check}),
    Route("/v1/agent/check/update/", {"PUT": update_check}),
    Route("/v1/agent/health/service/id/", {"GET": health_by_id}),
    Route("/v1/agent/health/service/name/", {"GET": health_by_name}),
)
