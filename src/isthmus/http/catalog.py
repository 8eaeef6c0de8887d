"""``/v1/catalog``: nodes and services as registered. Source: protocol/http-api.md §6.1."""

from typing import Final

import msgspec

from isthmus.errors import InvalidRequest
from isthmus.http import shapes, translate
from isthmus.http.context import Context
from isthmus.http.decode import decode
from isthmus.http.options import read_node_meta, read_source, refuse_namespace
from isthmus.http.request import Request
from isthmus.http.response import Response
from isthmus.http.routing import Route
from isthmus.model.catalog import (
    DatacentersRequest,
    DeregisterRequest,
    IndexedGatewayServices,
    IndexedNodes,
    IndexedNodeServiceList,
    IndexedNodeServices,
    IndexedServiceNodes,
    IndexedServices,
    NodeRequest,
    NodeServiceList,
    NodeServices,
    RegisterRequest,
    ServiceRequest,
)
from isthmus.model.query import DatacenterRequest, Empty
from isthmus.model.record import Record


class _DeregisterBody(Record, frozen=True, kw_only=True):
    """Body of a deregistration; the address is accepted and ignored."""

    datacenter: str = ""
    node: str = ""
    address: str = ""
    service_id: str = ""
    check_id: str = ""
    token: str = ""


async def register(context: Context, request: Request) -> Response:
    """Put a node, a service, checks into the catalog."""
    refuse_namespace(request)
    body = decode(RegisterRequest, request.body, snake_case=True)
    body = msgspec.structs.replace(
        body,
        datacenter=_datacenter(context, request, body.datacenter),
        token=request.token or body.token,
    )
    await context.call("Catalog.Register", body, Empty)
    return context.json(request, True)


def _datacenter(context: Context, request: Request, named: str) -> str:
    """Where to write: as the body says, else as the query says, which Consul does not look at."""
    return named or request.query.first("dc") or context.local.datacenter


async def deregister(context: Context, request: Request) -> Response:
    """Take a node, a service or a check out of the catalog."""
    refuse_namespace(request)
    body = decode(_DeregisterBody, request.body, snake_case=True)
    deregistration = DeregisterRequest(
        datacenter=_datacenter(context, request, body.datacenter),
        node=body.node,
        service_id=body.service_id,
        check_id=body.check_id,
        token=request.token or body.token,
    )
    await context.call("Catalog.Deregister", deregistration, Empty)
    return context.json(request, True)


async def datacenters(context: Context, request: Request) -> Response:
    """Names of the known datacenters, nearest first."""
    options = context.discovery_options(request, namespaced=False)
    question = DatacentersRequest(**options.cache_fields())  # type: ignore[arg-type]
    found = await context.read(request, "Catalog.ListDatacenters", question, tuple)
    return context.json(request, found or ())


async def nodes(context: Context, request: Request) -> Response:
    """All nodes."""
    options = context.discovery_options(request, namespaced=False)
    reply = await context.read(
        request,
        "Catalog.ListNodes",
        DatacenterRequest(
            **options.fields(),  # type: ignore[arg-type]
            source=read_source(request, options.datacenter, context.local.node_name),
            node_meta_filters=read_node_meta(request),
        ),
        IndexedNodes,
    )
    found, level = reply.nodes, options.level
    if context.translates(options.datacenter):
        return context.cached(
            request, found, "nodes+wan", lambda: translate.nodes(found), meta=reply, level=level
        )
    return context.cached(request, found, "nodes", lambda: found or (), meta=reply, level=level)


async def services(context: Context, request: Request) -> Response:
    """Names of all services with the tags of their instances."""
    options = context.discovery_options(request)
    reply = await context.read(
        request,
        "Catalog.ListServices",
        DatacenterRequest(
            **options.fields(),  # type: ignore[arg-type]
            node_meta_filters=read_node_meta(request),
        ),
        IndexedServices,
    )
    found = reply.services

    def view() -> object:
        return {name: tags or () for name, tags in (found or {}).items()}

    return context.cached(request, found, "services", view, meta=reply, level=options.level)


async def service(context: Context, request: Request) -> Response:
    """Instances of a service."""
    return await _service_nodes(context, request, connect=False)


async def connect(context: Context, request: Request) -> Response:
    """Instances that speak the mesh's TLS for a service."""
    return await _service_nodes(context, request, connect=True)


async def _service_nodes(context: Context, request: Request, *, connect: bool) -> Response:
    options = context.discovery_options(request)
    if not request.argument:
        raise InvalidRequest("Missing service name")
    tags = request.query.all("tag")
    reply = await context.read(
        request,
        "Catalog.ServiceNodes",
        ServiceRequest(
            **options.fields(),  # type: ignore[arg-type]
            service_name=request.argument,
            service_tags=tuple(tags) if tags else None,
            tag_filter=bool(tags),
            connect=connect,
            source=read_source(request, options.datacenter, context.local.node_name),
            node_meta_filters=read_node_meta(request),
        ),
        IndexedServiceNodes,
    )
    found = reply.service_nodes
    wan = context.translates(options.datacenter)

    def view() -> object:
        return shapes.service_nodes(translate.service_nodes(found) if wan else found)

    variant = "service+wan" if wan else "service"
    return context.cached(request, found, variant, view, meta=reply, level=options.level)


async def node(context: Context, request: Request) -> Response:
    """A node with its services by id."""
    options = context.discovery_options(request)
    reply = await context.read(
        request,
        "Catalog.NodeServices",
        _node_request(request, options.fields()),
        IndexedNodeServices,
    )
    found = reply.node_services
    wan = context.translates(options.datacenter)

    def view() -> object:
        if found is None or found.node is None:
            return None
        services = found.services or {}
        by_id = {key: shapes.service(one) for key, one in services.items()}
        if wan:
            by_id = {key: translate.service(one) for key, one in by_id.items()}
        return NodeServices(node=translate.node(found.node) if wan else found.node, services=by_id)

    variant = "node+wan" if wan else "node"
    return context.cached(request, found, variant, view, meta=reply, level=options.level)


async def node_services(context: Context, request: Request) -> Response:
    """A node with its services as a list."""
    options = context.discovery_options(request)
    reply = await context.read(
        request,
        "Catalog.NodeServiceList",
        _node_request(request, options.fields()),
        IndexedNodeServiceList,
    )
    found = reply.node_services
    wan = context.translates(options.datacenter)

    def view() -> object:
        if found.node is None or found.services is None:
            return found
        listed = [shapes.service(one) for one in found.services]
        if wan:
            listed = [translate.service(one) for one in listed]
        node = translate.node(found.node) if wan else found.node
        return NodeServiceList(node=node, services=tuple(listed))

    variant = "list+wan" if wan else "list"
    return context.cached(request, found, variant, view, meta=reply, level=options.level)


async def gateway_services(context: Context, request: Request) -> Response:
    """Services that config entries bind to a gateway; null when none does."""
    options = context.discovery_options(request)
    if not request.argument:
        raise InvalidRequest("Missing gateway name")
    reply = await context.read(
        request,
        "Catalog.GatewayServices",
        ServiceRequest(**options.fields(), service_name=request.argument),  # type: ignore[arg-type]
        IndexedGatewayServices,
    )
    found = reply.services
    return context.cached(request, found, "gateway", lambda: found, meta=reply, level=options.level)


def _node_request(request: Request, fields: dict[str, object]) -> NodeRequest:
    if not request.argument:
        raise InvalidRequest("Missing node name")
    return NodeRequest(**fields, node=request.argument)  # type: ignore[arg-type]


ROUTES: Final = (
    Route("/v1/catalog/register", {"PUT": register}),
    Route("/v1/catalog/deregister", {"PUT": deregister}),
    Route("/v1/catalog/datacenters", {"GET": datacenters}),
    Route("/v1/catalog/nodes", {"GET": nodes}, tells_state=True, repeats="Catalog.ListNodes"),
    Route(
        "/v1/catalog/services", {"GET": services}, tells_state=True, repeats="Catalog.ListServices"
    ),
    Route(
        "/v1/catalog/service/", {"GET": service}, tells_state=True, repeats="Catalog.ServiceNodes"
    ),
    Route(
        "/v1/catalog/connect/", {"GET": connect}, tells_state=True, repeats="Catalog.ServiceNodes"
    ),
    Route("/v1/catalog/node/", {"GET": node}, tells_state=True, repeats="Catalog.NodeServices"),
    Route(
        "/v1/catalog/node-services/",
        {"GET": node_services},
        tells_state=True,
        repeats="Catalog.NodeServiceList",
    ),
    Route(
        "/v1/catalog/gateway-services/",
        {"GET": gateway_services},
        tells_state=True,
        repeats="Catalog.GatewayServices",
    ),
)
