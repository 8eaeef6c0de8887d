"""``/v1/internal/federation-state…``: mesh gateways of every datacenter.

Source: protocol/federation.md §23.
"""

from typing import Final

from isthmus.errors import InvalidRequest
from isthmus.http.context import Context
from isthmus.http.options import read_options
from isthmus.http.request import Request
from isthmus.http.response import Response
from isthmus.http.routing import Route
from isthmus.model.federation import (
    DatacenterIndexedCheckServiceNodes,
    FederationState,
    FederationStateQuery,
    FederationStateResponse,
    IndexedFederationStates,
)
from isthmus.model.query import DatacenterRequest
from isthmus.model.record import Record, Uint


class _StateView(Record, frozen=True, kw_only=True):
    """A state and what the reply says about itself; here the contact's age is nanoseconds."""

    state: FederationState | None = None
    index: Uint = 0
    last_contact: int = 0
    known_leader: bool = False
    consistency_level: str = ""
    not_modified: bool = False
    backend: int = 0


async def state(context: Context, request: Request) -> Response:
    """The state of one datacenter."""
    options = read_options(request, context.local.datacenter)
    if not request.argument:
        raise InvalidRequest("Bad request: Missing datacenter name")
    fields = options.fields()
    fields["target_datacenter"] = fields.pop("datacenter")
    reply = await context.call(
        "FederationState.Get",
        FederationStateQuery(**fields, datacenter=request.argument),  # type: ignore[arg-type]
        FederationStateResponse,
    )
    if reply.state is None:
        return Response(404)
    view = _StateView(
        state=reply.state,
        index=reply.index,
        last_contact=int(reply.last_contact),
        known_leader=reply.known_leader,
        consistency_level=reply.consistency_level,
        not_modified=reply.not_modified,
        backend=reply.backend,
    )
    return context.json(request, view, meta=reply)


async def states(context: Context, request: Request) -> Response:
    """All states, by name of the datacenter."""
    reply = await context.call(
        "FederationState.List", _request(context, request), IndexedFederationStates
    )
    found = reply.states
    return context.cached(request, found, "states", lambda: found or (), meta=reply)


async def mesh_gateways(context: Context, request: Request) -> Response:
    """Mesh gateways by datacenter; those without any are left out."""
    reply = await context.call(
        "FederationState.ListMeshGateways",
        _request(context, request),
        DatacenterIndexedCheckServiceNodes,
    )
    found = reply.datacenter_nodes
    return context.cached(request, found, "gateways", lambda: found or {}, meta=reply)


def _request(context: Context, request: Request) -> DatacenterRequest:
    options = read_options(request, context.local.datacenter)
    options.filter = ""  # Ignored here.
    return DatacenterRequest(**options.fields())  # type: ignore[arg-type]


ROUTES: Final = (
    Route("/v1/internal/federation-state/", {"GET": state}, tells_state=True),
    Route("/v1/internal/federation-states", {"GET": states}, tells_state=True),
    Route("/v1/internal/federation-states/mesh-gateways", {"GET": mesh_gateways}, tells_state=True),
)
