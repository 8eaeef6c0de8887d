"""Nodes and services: ``Catalog``.

Source: protocol/rpc.md §6, protocol/http-api.md §6.1.
"""

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final

import msgspec

from isthmus.errors import RequestError
from isthmus.model.catalog import (
    DatacentersRequest,
    DeregisterRequest,
    HealthCheck,
    IndexedGatewayServices,
    IndexedNodes,
    IndexedNodeServiceList,
    IndexedNodeServices,
    IndexedServiceList,
    IndexedServiceNodes,
    IndexedServices,
    Node,
    NodeRequest,
    NodeService,
    NodeServiceList,
    NodeServices,
    RegisterRequest,
    ServiceNode,
    ServiceRequest,
)
from isthmus.model.query import DatacenterRequest, Empty
from isthmus.model.registration import validate_kind
from isthmus.server.endpoints.context import Context, Handler
from isthmus.server.endpoints.filtering import row_filter
from isthmus.server.endpoints.near import nearest_first
from isthmus.store.answer import Answer
from isthmus.store.catalog import has_meta

_EMPTY: Final = Empty()
_UUID_SIZE: Final = 36
_HYPHENS: Final = (8, 13, 18, 23)
_HYPHEN: Final = ord("-")
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")


async def register(context: Context, request: RegisterRequest) -> Empty:
    """Put a node, and optionally a service and checks on it, into the catalog.

    Raises:
        RequestError: A field is missing or wrong; the texts are Consul's.
    """
    if not request.node:
        raise RequestError("Must provide node")
    if not request.address and not request.skip_node_update:
        raise RequestError("Must provide address if SkipNodeUpdate is not set")
    if request.id:
        check_node_id(request.id)
    checks = request.checks or ()
    if request.check is not None:
        checks = (*checks, request.check)
    service = None
    if request.service is not None:
        service = complete_service(request.service)
        validate_kind(service)
    await context.commit(
        msgspec.structs.replace(
            request,
            datacenter=context.dc,
            service=service,
            check=None,
            checks=tuple([_complete_check(check, request.node) for check in checks]),
            token="",
        )
    )
    return _EMPTY


async def deregister(context: Context, request: DeregisterRequest) -> Empty:
    """Remove a service, a check, or a node; what is not there is no error."""
    if not request.node:
        raise RequestError("Must provide node")
    await context.commit(msgspec.structs.replace(request, datacenter=context.dc, token=""))
    return _EMPTY


async def list_datacenters(context: Context, request: DatacentersRequest) -> tuple[str, ...]:
    """Known datacenters, nearest first."""
    return context.datacenters()


async def list_nodes(context: Context, request: DatacenterRequest) -> IndexedNodes:
    """All nodes, or those with some metadata, by name."""
    keep = row_filter(request, Node)
    answer = await context.read(request, context.store.catalog.nodes)
    nodes = answer.value
    if request.node_meta_filters:
        wanted = request.node_meta_filters
        nodes = tuple([node for node in nodes if has_meta(node.meta, wanted)])
    nodes = nearest_first(context, request.source, keep(nodes), lambda node: node.node)
    return IndexedNodes(nodes=nodes, index=answer.shown_index, known_leader=True)


async def list_services(context: Context, request: DatacenterRequest) -> IndexedServices:
    """Tags by service name."""
    catalog, wanted = context.store.catalog, request.node_meta_filters
    if wanted:
        answer = await context.read(request, lambda: catalog.services_on(wanted))
    else:
        answer = await context.read(request, catalog.services)
    return IndexedServices(services=answer.value, index=answer.shown_index, known_leader=True)


async def service_list(context: Context, request: DatacenterRequest) -> IndexedServiceList:
    """Names of all services."""
    answer = await context.read(request, context.store.catalog.service_list)
    return IndexedServiceList(services=answer.value, index=answer.shown_index, known_leader=True)


async def service_nodes(context: Context, request: ServiceRequest) -> IndexedServiceNodes:
    """Instances of a service, or at an address, flattened with their nodes."""
    if not request.service_name and not request.service_address:
        raise RequestError("Must provide service name")
    keep = row_filter(request, ServiceNode)
    answer = await context.read(request, lambda: _service_nodes(context, request))
    nodes = answer.value
    tags, meta = wanted_tags(request), request.node_meta_filters
    if tags:
        nodes = tuple([row for row in nodes if has_tags(row.service_tags, tags)])
    if meta:
        nodes = tuple([row for row in nodes if has_meta(row.node_meta, meta)])
    nodes = nearest_first(context, request.source, keep(nodes), lambda row: row.node)
    return IndexedServiceNodes(service_nodes=nodes, index=answer.shown_index, known_leader=True)


def _service_nodes(context: Context, request: ServiceRequest) -> Answer[tuple[ServiceNode, ...]]:
    catalog = context.store.catalog
    if request.service_address:
        return catalog.instances_at(request.service_address)
    if request.connect:
        return catalog.connect_nodes(request.service_name)
    return catalog.service_nodes(request.service_name)


async def node_services(context: Context, request: NodeRequest) -> IndexedNodeServices:
    """A node and its services by id; none when there is no such node."""
    if not request.node:
        raise RequestError("Must provide node")
    keep = row_filter(request, NodeService)
    catalog = context.store.catalog
    answer = await context.read(request, lambda: catalog.node_services(request.node))
    found = None
    if answer.value is not None:
        node, services = answer.value
        found = NodeServices(node=node, services={one.id: one for one in keep(services)})
    return IndexedNodeServices(node_services=found, index=answer.shown_index, known_leader=True)


async def node_service_list(context: Context, request: NodeRequest) -> IndexedNodeServiceList:
    """A node and its services in order."""
    if not request.node:
        raise RequestError("Must provide node")
    keep = row_filter(request, NodeService)
    catalog = context.store.catalog
    answer = await context.read(request, lambda: catalog.node_services(request.node))
    found = NodeServiceList()
    if answer.value is not None:
        found = NodeServiceList(node=answer.value[0], services=keep(answer.value[1]))
    return IndexedNodeServiceList(node_services=found, index=answer.shown_index, known_leader=True)


async def gateway_services(context: Context, request: ServiceRequest) -> IndexedGatewayServices:
    """Services that config entries bind to a gateway."""
    catalog = context.store.catalog
    answer = await context.read(request, lambda: catalog.gateway_services(request.service_name))
    found = answer.value or None
    return IndexedGatewayServices(services=found, index=answer.shown_index, known_leader=True)


def wanted_tags(request: ServiceRequest) -> tuple[str, ...]:
    """Tags that instances must all have, in lower case."""
    if not request.tag_filter:
        return ()
    tags = request.service_tags or ()
    if not tags and request.service_tag:  # How callers before 1.3 name their only tag.
        tags = (request.service_tag,)
    return tuple([tag.lower() for tag in tags])


def has_tags(tags: tuple[str, ...] | None, wanted: tuple[str, ...]) -> bool:
    """Whether an instance has all wanted tags; case does not count."""
    return {tag.lower() for tag in tags or ()}.issuperset(wanted)


def complete_service(service: NodeService) -> NodeService:
    """Fill in the id that a service leaves out.

    Raises:
        RequestError: Its name or address cannot be right.
    """
    if not service.id and service.service:
        service = msgspec.structs.replace(service, id=service.service)
    if service.id and not service.service:
        raise RequestError("Must provide service name with ID")
    try:
        unspecified = ip_address(service.address).is_unspecified
    except ValueError:
        unspecified = False  # A host name, or none.
    if unspecified:
        raise RequestError("Invalid service address")
    return service


def _complete_check(check: HealthCheck, node: str) -> HealthCheck:
    return msgspec.structs.replace(
        check,
        check_id=check.check_id or check.name,
        node=check.node or node,
        type=check.type or check.definition.check_type,
    )


def check_node_id(node_id: str) -> None:
    """Raise RequestError unless the id is a UUID, with the texts of Consul's UUID library."""
    data = node_id.encode("utf-8", "surrogateescape")
    if len(data) != _UUID_SIZE:
        raise RequestError("Bad node ID: uuid string is wrong length")
    if any(data[at] != _HYPHEN for at in _HYPHENS):
        raise RequestError("Bad node ID: uuid is improperly formatted")
    for at, byte in enumerate(data):
        if at not in _HYPHENS and byte not in _HEX:
            shown = f" '{chr(byte)}'" if chr(byte).isprintable() else ""
            raise RequestError(f"Bad node ID: encoding/hex: invalid byte: U+{byte:04X}{shown}")


METHODS: Final[Mapping[str, Handler]] = {
    "Register": register,
    "Deregister": deregister,
    "ListDatacenters": list_datacenters,
    "ListNodes": list_nodes,
    "ListServices": list_services,
    "ServiceList": service_list,
    "ServiceNodes": service_nodes,
    "NodeServices": node_services,
    "NodeServiceList": node_service_list,
    "GatewayServices": gateway_services,
}
