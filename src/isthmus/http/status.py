"""``/v1/status``: who leads, who are the servers. Source: protocol/http-api.md §6.1."""

from typing import Final

from isthmus.http.context import Context
from isthmus.http.request import Request
from isthmus.http.response import Response
from isthmus.http.routing import Route
from isthmus.model.query import DatacenterRequest


async def leader(context: Context, request: Request) -> Response:
    """Address of the leader; empty when there is none."""
    found = await context.call("Status.Leader", _request(context, request), str)
    return context.json(request, found)


async def peers(context: Context, request: Request) -> Response:
    """Addresses of the servers."""
    found = await context.call("Status.Peers", _request(context, request), tuple)
    return context.json(request, found or ())


def _request(context: Context, request: Request) -> DatacenterRequest:
    dc = request.query.first("dc") or context.local.datacenter
    return DatacenterRequest(
        datacenter=dc, token=request.token, allow_stale="stale" in request.query
    )


ROUTES: Final = (
    Route("/v1/status/leader", {"GET": leader}),
    Route("/v1/status/peers", {"GET": peers}),
)
