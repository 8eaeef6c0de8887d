"""Mesh gateways of all datacenters: ``FederationState``.

Each handler checks the feature first, then the request. A filter is ignored, as in Consul.
Source: protocol/federation.md §8.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from isthmus.errors import (
    FEDERATION_STATES_DISABLED,
    PERMISSION_DENIED,
    PermissionDenied,
    RequestError,
)
from isthmus.model.federation import (
    DatacenterIndexedCheckServiceNodes,
    FederationStateQuery,
    FederationStateRequest,
    FederationStateResponse,
    IndexedFederationStates,
)
from isthmus.model.query import DatacenterRequest
from isthmus.model.timestamp import Timestamp
from isthmus.net.listener import PeerInfo
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


def check_writer(request: FederationStateRequest, peer: PeerInfo, *, dc: str) -> None:
    """Refuse a caller whose certificate proves that the record is not its own to write.

    A datacenter's servers write its own record, and pass each other's writes on. Every server
    that a write comes through asks this before it forwards, since it forwards under its own name.
    A caller without a certificate is let in here: whether there are such is `verify_incoming`'s
    choice.

    Args:
        request: The write.
        peer: Who calls.
        dc: Our own datacenter.

    Raises:
        PermissionDenied: The certificate is a client's, or a server's of another datacenter.
    """
    if peer.is_client:
        names = ", ".join(peer.names) or "nothing"
        raise PermissionDenied(
            f"{PERMISSION_DENIED}: only servers write federation states, and the caller's"
            f" certificate is no server's: it names {names}"
        )
    written = "" if request.state is None else request.state.datacenter
    if peer.dcs and not peer.dcs & {written.lower(), dc.lower()}:
        raise PermissionDenied(
            f"{PERMISSION_DENIED}: the caller's certificate is of a server of"
            f" {', '.join(sorted(peer.dcs))}, which may not write the federation state of"
            f" {written or 'no datacenter'}"
        )


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
