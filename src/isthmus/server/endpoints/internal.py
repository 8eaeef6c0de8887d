"""What proxies and gateways watch: ``Internal``."""

from collections.abc import Mapping
from typing import Final

from isthmus.model.catalog import CheckServiceNode, IndexedNodesWithGateways, ServiceDumpRequest
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


METHODS: Final[Mapping[str, Handler]] = {"ServiceDump": service_dump}
