"""Which addresses of catalog records a mesh gateway may dial: gateways, servers, services.

Turns the catalog's records into the endpoints of `mesh.routes`.

Source: protocol/mesh.md §3.2 to §3.4; protocol/federation.md §18.3.
"""

from collections.abc import Iterable, Sequence

from isthmus.mesh.routes import Endpoint
from isthmus.model.address import WAN, lan_address, wan_address
from isthmus.model.catalog import CRITICAL, WARNING, CheckServiceNode
from isthmus.names import MESH_GATEWAY_KIND, WAN_FEDERATION_META

LAN = "lan"


def remote_gateways(
    dump: Sequence[CheckServiceNode],
    federated: Sequence[CheckServiceNode],
    *,
    exposing_only: bool = False,
) -> tuple[Endpoint, ...]:
    """Gateways of another datacenter by their WAN addresses, in a stable order.

    Args:
        dump: What that datacenter itself answered (`Internal.ServiceDump`); empty if it did not.
        federated: The gateways in its federation state.
        exposing_only: Leave out gateways that do not expose the servers.

    Returns:
        Of the two sources the one whose gateways have the highest modify index of a service;
        when equal, the dump. Critical gateways are left out unless all are critical.
    """
    chosen = dump if _newest(dump) >= _newest(federated) else federated
    gateways = [
        instance
        for instance in chosen
        if instance.service is not None
        and instance.service.kind == MESH_GATEWAY_KIND
        and (not exposing_only or (instance.service.meta or {}).get(WAN_FEDERATION_META) == "1")
    ]
    return endpoints(gateways, WAN)


def endpoints(instances: Iterable[CheckServiceNode], network: str) -> tuple[Endpoint, ...]:
    """Addresses of service instances, sorted by node and service id.

    Critical instances are left out, unless all are critical: then a report that is wrong is the
    likelier fault, and a refused connection costs no more than an unknown name.

    Args:
        instances: Of one service.
        network: `LAN` or `WAN`: which address to take.
    """
    ordered = sorted(instances, key=_place)
    healthy = [instance for instance in ordered if not _has(instance, CRITICAL)]
    address = wan_address if network == WAN else lan_address
    return tuple(
        Endpoint(*address(instance), weight=_weight(instance)) for instance in healthy or ordered
    )


def _newest(instances: Iterable[CheckServiceNode]) -> int:
    return max((i.service.modify_index for i in instances if i.service is not None), default=0)


def _place(instance: CheckServiceNode) -> tuple[str, str]:
    node = instance.node.node if instance.node is not None else ""
    return node, instance.service.id if instance.service is not None else ""


def _has(instance: CheckServiceNode, status: str) -> bool:
    return any(check.status == status for check in instance.checks or ())


def _weight(instance: CheckServiceNode) -> int:
    weights = instance.service.weights if instance.service is not None else None
    if weights is None:
        return 1
    return max(weights.warning if _has(instance, WARNING) else weights.passing, 1)
