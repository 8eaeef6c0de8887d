"""``/v1/health``: services with their checks. Source: protocol/http-api.md §6.2."""

from collections.abc import Iterable
from typing import Final

from isthmus.errors import InvalidRequest
from isthmus.http import shapes, translate
from isthmus.http.context import Context
from isthmus.http.options import ReadOptions, read_node_meta, read_source
from isthmus.http.request import Query, Request
from isthmus.http.response import Response, consistency_header, meta_headers
from isthmus.http.routing import Route
from isthmus.model.catalog import (
    PASSING,
    CheckServiceNode,
    ChecksInStateRequest,
    IndexedCheckServiceNodes,
    IndexedHealthChecks,
    NodeRequest,
    ServiceRequest,
)

_TRUE: Final = frozenset({"", "1", "t", "T", "true", "TRUE", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})


async def service(context: Context, request: Request) -> Response:
    """Instances of a service with their checks."""
    return await _instances(context, request)


async def connect(context: Context, request: Request) -> Response:
    """Instances that speak the mesh's TLS for a service."""
    return await _instances(context, request, connect=True)


async def ingress(context: Context, request: Request) -> Response:
    """Ingress gateways of a service."""
    return await _instances(context, request, ingress=True)


async def _instances(
    context: Context, request: Request, *, connect: bool = False, ingress: bool = False
) -> Response:
    options = context.discovery_options(request)
    query = request.query
    tags = query.all("tag")
    reply = await context.read(
        request,
        "Health.ServiceNodes",
        ServiceRequest(
            **options.fields(),  # type: ignore[arg-type]
            service_name=_name(request),
            service_tags=tuple(tags) if tags else None,
            tag_filter=bool(tags),
            connect=connect,
            ingress=ingress,
            source=read_source(request, options.datacenter, context.local.node_name),
            node_meta_filters=read_node_meta(request),
        ),
        IndexedCheckServiceNodes,
    )
    found = reply.nodes
    passing = _wants_passing(query)
    if passing is None:
        # The query was made before this is found out, so its headers are there.
        response = Response.text(400, "Invalid value for ?passing")
        response.headers.extend(meta_headers(reply))
        response.headers.append(consistency_header(reply, options.level))
        return response
    wan = context.translates(options.datacenter)

    def view() -> object:
        shown: Iterable[CheckServiceNode] | None = only_passing(found) if passing else found
        return shapes.instances(translate.instances(shown) if wan else shown)

    variant = ("passing" if passing else "health") + ("+wan" if wan else "")
    return context.cached(request, found, variant, view, meta=reply, level=options.level)


def only_passing(found: Iterable[CheckServiceNode] | None) -> list[CheckServiceNode]:
    """Instances of which every check passes, those of the node included."""
    return [
        one for one in found or () if all(check.status == PASSING for check in one.checks or ())
    ]


def _wants_passing(query: Query) -> bool | None:
    """Whether ``passing`` is asked for; None when its value is neither true nor false."""
    if "passing" not in query:
        return False
    value = query.first("passing")
    if value in _TRUE:
        return True
    return False if value in _FALSE else None


async def node(context: Context, request: Request) -> Response:
    """Checks of a node and its services."""
    options = context.discovery_options(request)
    if not request.argument:
        raise InvalidRequest("Missing node name")
    reply = await context.read(
        request,
        "Health.NodeChecks",
        NodeRequest(**options.fields(), node=request.argument),  # type: ignore[arg-type]
        IndexedHealthChecks,
    )
    return _checks(context, request, reply, options)


async def checks(context: Context, request: Request) -> Response:
    """Checks of a service."""
    options = context.discovery_options(request)
    reply = await context.read(
        request,
        "Health.ServiceChecks",
        ServiceRequest(
            **options.fields(),  # type: ignore[arg-type]
            service_name=_name(request),
            source=read_source(request, options.datacenter, context.local.node_name),
            node_meta_filters=read_node_meta(request),
        ),
        IndexedHealthChecks,
    )
    return _checks(context, request, reply, options)


async def state(context: Context, request: Request) -> Response:
    """Checks in a state."""
    options = context.discovery_options(request)
    if not request.argument:
        raise InvalidRequest("Missing check state")
    reply = await context.read(
        request,
        "Health.ChecksInState",
        ChecksInStateRequest(
            **options.fields(),  # type: ignore[arg-type]
            state=request.argument,
            source=read_source(request, options.datacenter, context.local.node_name),
            node_meta_filters=read_node_meta(request),
        ),
        IndexedHealthChecks,
    )
    return _checks(context, request, reply, options)


def _name(request: Request) -> str:
    if not request.argument:
        raise InvalidRequest("Missing service name")
    return request.argument


def _checks(
    context: Context, request: Request, reply: IndexedHealthChecks, options: ReadOptions
) -> Response:
    found = reply.health_checks
    return context.cached(
        request, found, "checks", lambda: shapes.checks(found), meta=reply, level=options.level
    )


ROUTES: Final = (
    Route("/v1/health/service/", {"GET": service}, repeats="Health.ServiceNodes"),
    Route("/v1/health/connect/", {"GET": connect}, repeats="Health.ServiceNodes"),
    Route("/v1/health/ingress/", {"GET": ingress}, repeats="Health.ServiceNodes"),
    Route("/v1/health/node/", {"GET": node}, tells_state=True, repeats="Health.NodeChecks"),
    Route("/v1/health/checks/", {"GET": checks}, tells_state=True, repeats="Health.ServiceChecks"),
    Route("/v1/health/state/", {"GET": state}, tells_state=True, repeats="Health.ChecksInState"),
)
