"""``/v1/coordinate``: where nodes and servers lie. Source: protocol/http-api.md §6.5."""

from collections.abc import Sequence
from typing import Final

import msgspec

from isthmus.http.context import Context
from isthmus.http.decode import decode
from isthmus.http.options import read_options
from isthmus.http.request import Query, Request
from isthmus.http.response import Response, meta_headers
from isthmus.http.routing import Handler, Route
from isthmus.model.catalog import NodeRequest
from isthmus.model.coordinate import (
    Coordinate,
    CoordinateUpdateRequest,
    DatacenterMap,
    IndexedCoordinates,
)
from isthmus.model.query import DatacenterRequest, Empty

_DISABLED: Final = "Coordinate support disabled"


def _where_enabled(handler: Handler) -> Handler:
    """The handler; where no round trips are estimated, Consul's refusal."""

    async def handle(context: Context, request: Request) -> Response:
        if not context.local.coordinates_enabled:
            return Response.text(401, _DISABLED)
        return await handler(context, request)

    return handle


async def datacenters(context: Context, request: Request) -> Response:
    """The servers of every datacenter, by their coordinates in the WAN pool."""
    maps = await context.call("Coordinate.ListDatacenters", Empty(), tuple)
    return context.json(request, [_listed(one) for one in maps or ()])


def _listed(one: DatacenterMap) -> DatacenterMap:
    """The map with a list in any case."""
    return one if one.coordinates else msgspec.structs.replace(one, coordinates=())


async def nodes(context: Context, request: Request) -> Response:
    """All nodes."""
    options = read_options(request, context.local.datacenter)
    reply = await context.call(
        "Coordinate.ListNodes",
        DatacenterRequest(**options.fields()),  # type: ignore[arg-type]
        IndexedCoordinates,
    )
    found = reply.coordinates
    if "segment" in request.query:
        return context.json(request, _of_segment(found, request.query), meta=reply)
    return context.cached(request, found, "coordinates", lambda: found or (), meta=reply)


async def node(context: Context, request: Request) -> Response:
    """One node, in each of its segments; 404 when nothing is known of it."""
    options = read_options(request, context.local.datacenter)
    reply = await context.call(
        "Coordinate.Node",
        NodeRequest(**options.fields(), node=request.argument),  # type: ignore[arg-type]
        IndexedCoordinates,
    )
    found = _of_segment(reply.coordinates, request.query)
    if not found:
        # Consul 1.10 leaves these headers out, and clients stumble over that.
        return Response(404, meta_headers(reply))
    return context.json(request, found, meta=reply)


def _of_segment(found: Sequence[Coordinate] | None, query: Query) -> list[Coordinate]:
    """Those of the segment that is asked for; without one, all."""
    wanted = query.first("segment")
    return [one for one in found or () if "segment" not in query or one.segment == wanted]


async def update(context: Context, request: Request) -> Response:
    """Report where a node lies that no agent runs on."""
    body = decode(CoordinateUpdateRequest, request.body)
    dc = request.query.first("dc") or body.datacenter or context.local.datacenter
    body = msgspec.structs.replace(body, datacenter=dc, token=request.token or body.token)
    await context.call("Coordinate.Update", body, Empty)
    return Response()


ROUTES: Final = (
    Route("/v1/coordinate/datacenters", {"GET": _where_enabled(datacenters)}),
    Route("/v1/coordinate/nodes", {"GET": _where_enabled(nodes)}, tells_state=True),
    Route("/v1/coordinate/node/", {"GET": _where_enabled(node)}, tells_state=True),
    Route("/v1/coordinate/update", {"PUT": _where_enabled(update)}),
)
