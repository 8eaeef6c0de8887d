"""Network coordinates of nodes, and of the servers of all datacenters: ``Coordinate``.

Source: protocol/rpc.md §6, protocol/http-api.md §6.5.
"""

from collections.abc import Mapping
from typing import Final

from isthmus.errors import NoLeader, RequestError
from isthmus.model.catalog import NodeRequest
from isthmus.model.coordinate import (
    Coordinate,
    CoordinateUpdateRequest,
    DatacenterMap,
    IndexedCoordinates,
)
from isthmus.model.query import DatacenterRequest, Empty
from isthmus.server.endpoints.context import Context, Handler

_EMPTY: Final = Empty()
_INCOMPATIBLE: Final = "incompatible coordinate"


async def update(context: Context, request: CoordinateUpdateRequest) -> Empty:
    """Note where a node lies; it is stored some seconds later, together with others.

    Raises:
        RequestError: The coordinate is not of our space.
    """
    if request.coord is None or not request.coord.is_compatible():
        raise RequestError(_INCOMPATIBLE)
    if not context.leader():
        raise NoLeader
    context.note_coordinate(
        Coordinate(node=request.node, segment=request.segment, coord=request.coord)
    )
    return _EMPTY


async def list_datacenters(context: Context, request: Empty) -> tuple[DatacenterMap, ...]:
    """Where the servers of each datacenter lie, as our WAN pool knows it at this moment."""
    return context.datacenter_maps()


async def list_nodes(context: Context, request: DatacenterRequest) -> IndexedCoordinates:
    """Coordinates of all nodes, by name."""
    answer = await context.read(request, context.store.coordinates.list)
    return IndexedCoordinates(coordinates=answer.value, index=answer.shown_index, known_leader=True)


async def node(context: Context, request: NodeRequest) -> IndexedCoordinates:
    """Coordinates of one node, one for each segment that it is in."""
    coordinates = context.store.coordinates
    answer = await context.read(request, lambda: coordinates.node(request.node))
    return IndexedCoordinates(coordinates=answer.value, index=answer.shown_index, known_leader=True)


METHODS: Final[Mapping[str, Handler]] = {
    "ListDatacenters": list_datacenters,
    "ListNodes": list_nodes,
    "Node": node,
    "Update": update,
}
