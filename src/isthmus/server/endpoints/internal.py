"""What proxies and gateways watch: ``Internal``."""

from collections.abc import Mapping
from typing import Final

from isthmus.model.catalog import IndexedNodesWithGateways, ServiceDumpRequest
from isthmus.server.endpoints.context import Context, Handler, refuse_filter


async def service_dump(context: Context, request: ServiceDumpRequest) -> IndexedNodesWithGateways:
    """Instances of all services, or of one kind, with nodes and checks."""
    refuse_filter(request)
    catalog = context.store.catalog
    if request.use_service_kind:
        answer = await context.read(request, lambda: catalog.dump_kind(request.service_kind))
    else:
        answer = await context.read(request, catalog.dump)
    return IndexedNodesWithGateways(nodes=answer.value, index=answer.shown_index, known_leader=True)


METHODS: Final[Mapping[str, Handler]] = {"ServiceDump": service_dump}
