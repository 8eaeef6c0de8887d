"""``/v1/isthmus/gateway/ID/routes``: the route table of a mesh gateway, for its process.

Our own endpoint; Consul has none. A long poll: answered once the table's hash differs from the
one given, or when the wait is over.
"""

from typing import Final

from isthmus.http.context import Context
from isthmus.http.options import read_blocking
from isthmus.http.request import Request
from isthmus.http.response import JSON, Response
from isthmus.http.routing import Route

WAIT: Final = 300.0
"""Seconds to wait when the request does not say."""
WAIT_MAX: Final = 600.0
"""Longest wait in seconds."""

_SUFFIX: Final = "/routes"


async def routes(context: Context, request: Request) -> Response:
    """The route table; 404 when there is no such gateway."""
    if not request.argument.endswith(_SUFFIX):
        return Response(404)
    service_id = request.argument[: -len(_SUFFIX)]
    wait = wait_seconds(request)
    table = await context.local.gateway_routes(service_id, request.query.first("hash"), wait)
    if table is None:
        return Response.text(404, f"unknown gateway: {service_id}")
    return Response(200, [JSON], table)


def wait_seconds(request: Request) -> float:
    """Longest wait of a hash-blocking request in seconds.

    Raises:
        InvalidRequest: ``wait`` is malformed.
    """
    _, wait = read_blocking(request.query)
    return min(wait.seconds, WAIT_MAX) if wait > 0 else WAIT


ROUTES: Final = (Route("/v1/isthmus/gateway/", {"GET": routes}),)
