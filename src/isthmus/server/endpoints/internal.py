"""What proxies, gateways and operators' tools watch: ``Internal``."""

from collections.abc import Mapping
from typing import Final

from isthmus.model.catalog import (
    CheckServiceNode,
    IndexedNodeDump,
    IndexedNodesWithGateways,
    NodeInfo,
    NodeRequest,
    ServiceDumpRequest,
)
from isthmus.model.query import DatacenterRequest
from isthmus.server.endpoints.context import Context, Handler
from isthmus.server.endpoints.filtering import row_filter


async def service_dump(context: Context, request: ServiceDumpRequest) -> IndexedNodesWithGateways:
    """Instances of all services, or of one kind, with nodes and checks."""
    keep = row_filter(request, CheckServiceNode)
    catalog = context.store.catalog
    if request.use_service_kind:
        answer = await context.read(request, lambda: catalog.dump_kind(request.service_kind))
    else:
        answer = await context.read(request, catalog.dump)
    nodes = keep(answer.value)
    return IndexedNodesWithGateways(nodes=nodes, index=answer.shown_index, known_leader=True)


async def node_info(context: Context, request: NodeRequest) -> IndexedNodeDump:
    """One node with its services and checks; an empty list when it is not there."""
    answer = await context.read(request, lambda: context.store.catalog.node_info(request.node))
    return IndexedNodeDump(dump=answer.value, index=answer.shown_index, known_leader=True)


async def node_dump(context: Context, request: DatacenterRequest) -> IndexedNodeDump:
    """All nodes with their services and checks."""
    keep = row_filter(request, NodeInfo)
    answer = await context.read(request, context.store.catalog.node_dump)
    dump = keep(answer.value)
    return IndexedNodeDump(dump=dump, index=answer.shown_index, known_leader=True)


METHODS: Final[Mapping[str, Handler]] = {
    "NodeInfo": node_info,
    "NodeDump": node_dump,
    "ServiceDump": service_dump,
}
