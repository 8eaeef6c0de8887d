"""Our gateways against what the primary has of us, and which records to prune.

Source: protocol/federation.md §11.
"""

from collections.abc import Collection, Iterable
from datetime import datetime

from isthmus.model.catalog import CheckServiceNode
from isthmus.model.federation import FederationState
from isthmus.model.timestamp import Timestamp


def state_to_announce(
    dc: str,
    gateways: tuple[CheckServiceNode, ...],
    stored: FederationState | None,
    *,
    wall: datetime,
) -> FederationState | None:
    """The record to write to the primary, or None when it has the same already.

    Args:
        dc: Our datacenter.
        gateways: All our services of kind mesh-gateway, healthy or not, in catalog order.
        stored: Our record in our own store, where it came back by replication.
        wall: Now, for `updated_at`.
    """
    state = FederationState(
        datacenter=dc, mesh_gateways=gateways or None, updated_at=Timestamp.of(wall)
    )
    return None if stored is not None and stored.is_same(state) else state


def states_to_prune(
    states: Iterable[FederationState], known_dcs: Collection[str], *, own_dc: str
) -> list[str]:
    """Datacenters whose record may go: no server of theirs is in the WAN pool any more."""
    known = {dc.lower() for dc in known_dcs} | {own_dc.lower()}
    return sorted(state.datacenter for state in states if state.datacenter.lower() not in known)
