"""Mesh gateways of all datacenters: ``FederationState``.

Each handler checks the feature first, then the request. A filter is ignored, as in Consul.
Source: protocol/federation.md §8.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from isthmus.errors import FEDERATION_STATES_DISABLED, RequestError
from isthmus.model.federation import (
    DatacenterIndexedCheckServiceNodes,
    FederationStateQuery,
    FederationStateRequest,
    FederationStateResponse,
    IndexedFederationStates,
)
from isthmus.model.query import DatacenterRequest
from isthmus.model.timestamp import Timestamp
from isthmus.server.endpoints.context import Context, Handler


async def apply(context: Context, request: FederationStateRequest) -> bool:
    """Write a state; runs in the primary only. True for an upsert, False for a delete.

    Raises:
        RequestError: The feature is off, no datacenter is named, or the operation is unknown.
    """
    _check_enabled(context)
    state = request.state
    if state is not None and state.updated_at.is_zero:
        state = msgspec.structs.replace(state, updated_at=Timestamp.of(context.wall()))
    done = await context.commit(
        msgspec.structs.replace(request, datacenter=context.dc, state=state, token="")
    )
    return bool(done)


async def get(context: Context, request: FederationStateQuery) -> FederationStateResponse:
    """One state; None when there is none."""
    _check_enabled(context)
    states = context.store.federation
    answer = await context.read(request, lambda: states.get(request.datacenter))
    return FederationStateResponse(state=answer.value, index=answer.shown_index, known_leader=True)


async def list_states(context: Context, request: DatacenterRequest) -> IndexedFederationStates:
    """All states by datacenter; never None."""
    _check_enabled(context)
    answer = await context.read(request, context.store.federation.list)
    return IndexedFederationStates(states=answer.value, index=answer.shown_index, known_leader=True)


async def list_mesh_gateways(
    context: Context, request: DatacenterRequest
) -> DatacenterIndexedCheckServiceNodes:
    """Gateways by datacenter; datacenters without any are left out."""
    _check_enabled(context)
    answer = await context.read(request, context.store.federation.gateways)
    return DatacenterIndexedCheckServiceNodes(
        datacenter_nodes=answer.value, index=answer.shown_index, known_leader=True
    )


def _check_enabled(context: Context) -> None:
    if not context.federation_states_enabled():
        raise RequestError(FEDERATION_STATES_DISABLED)


METHODS: Final[Mapping[str, Handler]] = {
    "Apply": apply,
    "Get": get,
    "List": list_states,
    "ListMeshGateways": list_mesh_gateways,
}
