"""Federation states: one datacenter's record of its mesh gateways.

Owned by the primary, replicated to all. Source: protocol/federation.md §7, protocol/rpc.md §5.1.
"""

import msgspec

from isthmus.model.catalog import CheckServiceNode, HealthCheck, Node, NodeService
from isthmus.model.query import QueryMeta, QueryOptions
from isthmus.model.record import Record, Uint
from isthmus.model.timestamp import Timestamp

UPSERT = "upsert"
DELETE = "delete"


class FederationState(Record, frozen=True, kw_only=True):
    """A snapshot of all mesh gateways of a datacenter, healthy or not.

    Attributes:
        datacenter: Key; lookups ignore case.
        mesh_gateways: None when there is none.
        updated_at: When the writer made it.
        primary_modify_index: Modify index of the record in the primary.
        create_index, modify_index: Indexes of the store that holds this copy.
    """

    json_omit_empty = frozenset({"mesh_gateways"})

    datacenter: str = ""
    mesh_gateways: tuple[CheckServiceNode, ...] | None = None
    updated_at: Timestamp = Timestamp()
    primary_modify_index: Uint = 0
    create_index: Uint = 0
    modify_index: Uint = 0

    def is_same(self, other: "FederationState") -> bool:
        """Whether both say the same of the gateways; times and indexes do not count.

        Source: protocol/federation.md §7, "IsSame": position by position, without sorting.
        """
        ours, theirs = self.mesh_gateways or (), other.mesh_gateways or ()
        return (
            self.datacenter == other.datacenter
            and len(ours) == len(theirs)
            and (
                ours is theirs
                or all(_same_instance(a, b) for a, b in zip(ours, theirs, strict=True))
            )
        )


def _same_instance(ours: CheckServiceNode, theirs: CheckServiceNode) -> bool:
    return (
        _node_key(ours.node) == _node_key(theirs.node)
        and _service_key(ours.service) == _service_key(theirs.service)
        and [_check_key(check) for check in ours.checks or ()]
        == [_check_key(check) for check in theirs.checks or ()]
    )


def _node_key(node: Node | None) -> Node | None:
    if node is None:
        return None
    return msgspec.structs.replace(
        node,
        tagged_addresses=node.tagged_addresses or None,
        meta=node.meta or None,
        create_index=0,
        modify_index=0,
    )


def _service_key(service: NodeService | None) -> NodeService | None:
    if service is None:
        return None
    return msgspec.structs.replace(
        service,
        tags=service.tags or None,
        meta=service.meta or None,
        tagged_addresses=service.tagged_addresses or None,
        create_index=0,
        modify_index=0,
    )


def _check_key(check: HealthCheck) -> HealthCheck:
    return msgspec.structs.replace(
        check,
        service_tags=check.service_tags or None,
        type="",
        interval="",
        timeout="",
        exposed_port=0,
        create_index=0,
        modify_index=0,
    )


class FederationStateRequest(Record, frozen=True, kw_only=True):
    """Write of a federation state, executed by the primary's leader.

    `datacenter` is overwritten with the primary's name at every hop.
    """

    datacenter: str = ""
    op: str = ""
    state: FederationState | None = None
    token: str = ""


class FederationStateQuery(QueryOptions, frozen=True, kw_only=True):
    """Read of one state. `datacenter` is the record wanted, `target_datacenter` who answers."""

    datacenter: str = ""
    target_datacenter: str = ""


class FederationStateResponse(QueryMeta, frozen=True, kw_only=True):
    """Reply of ``FederationState.Get``; the state is None when there is none."""

    state: FederationState | None = None


class IndexedFederationStates(QueryMeta, frozen=True, kw_only=True):
    """Reply of ``FederationState.List``."""

    states: tuple[FederationState, ...] | None = ()


class DatacenterIndexedCheckServiceNodes(QueryMeta, frozen=True, kw_only=True):
    """Reply of ``FederationState.ListMeshGateways``: gateways by datacenter."""

    datacenter_nodes: dict[str, tuple[CheckServiceNode, ...]] | None = None
