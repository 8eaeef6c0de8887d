"""User events: ``Internal.EventFire``."""

from collections.abc import Mapping
from typing import Final

from isthmus.model.event import EventFireRequest, EventFireResponse
from isthmus.server.endpoints.context import Context, Handler
from isthmus.wire.user_event import PREFIX


async def event_fire(context: Context, request: EventFireRequest) -> EventFireResponse:
    """Spread an event among the agents of our datacenter.

    The WAN pool carries no events: one for several datacenters is fired in each.
    """
    await context.gossip.fire(PREFIX + request.name, request.payload or b"")
    return EventFireResponse(index=context.store.index or 1, known_leader=bool(context.leader()))


METHODS: Final[Mapping[str, Handler]] = {"EventFire": event_fire}
