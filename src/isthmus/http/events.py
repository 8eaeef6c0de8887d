"""``/v1/event``: user events of a datacenter. Source: protocol/http-api.md §6.5."""

from typing import Final

from isthmus.errors import InvalidRequest
from isthmus.http.context import Context
from isthmus.http.options import read_blocking
from isthmus.http.request import Request
from isthmus.http.response import JSON, Response
from isthmus.http.routing import Route
from isthmus.model.event import UserEvent


async def fire(context: Context, request: Request) -> Response:
    """Fire an event; the answer has its id."""
    if not request.argument:
        raise InvalidRequest("Missing name")
    query = request.query
    event = UserEvent(
        name=request.argument,
        payload=request.body or None,
        node_filter=query.first("node"),
        service_filter=query.first("service"),
        tag_filter=query.first("tag"),
    )
    dc = query.first("dc") or context.local.datacenter
    fired = await context.local.fire_event(event, dc=dc, token=request.token)
    return context.json(request, fired)


async def list_events(context: Context, request: Request) -> Response:
    """The newest events that this agent took; with ``index``, once there is another."""
    query = request.query
    index, wait = read_blocking(query)
    index, events = await context.local.events(
        name=query.first("name"),
        node=query.first("node"),
        service=query.first("service"),
        tag=query.first("tag"),
        index=index,
        wait=wait.seconds,
    )
    headers = [JSON, ("X-Consul-Index", str(index))]
    return Response(200, headers, context.encode(request, list(events)))


ROUTES: Final = (
    Route("/v1/event/fire/", {"PUT": fire}),
    Route("/v1/event/list", {"GET": list_events}),
)
