"""Where JSON has an empty list or object and records have None.

Lists of an answer and tags of services are never null; the metadata of a service is null in node
and health views and ``{}`` as ``ServiceMeta``. Source: protocol/http-api.md §7.
"""

from collections.abc import Iterable

import msgspec

from isthmus.model.catalog import CheckServiceNode, HealthCheck, NodeService, ServiceNode

_replace = msgspec.structs.replace


def checks(found: Iterable[HealthCheck] | None) -> list[HealthCheck]:
    """Checks with a list of tags."""
    return [
        check if check.service_tags is not None else _replace(check, service_tags=())
        for check in found or ()
    ]


def service(found: NodeService) -> NodeService:
    """A service with a list of tags."""
    return found if found.tags is not None else _replace(found, tags=())


def instances(found: Iterable[CheckServiceNode] | None) -> list[CheckServiceNode]:
    """Service instances with lists of checks and tags."""
    return [
        CheckServiceNode(
            node=one.node,
            service=None if one.service is None else service(one.service),
            checks=tuple(checks(one.checks)),
        )
        for one in found or ()
    ]


def service_nodes(found: Iterable[ServiceNode] | None) -> list[ServiceNode]:
    """Flattened instances with a list of tags and an object of metadata."""
    return [
        one
        if one.service_tags is not None and one.service_meta is not None
        else _replace(one, service_tags=one.service_tags or (), service_meta=one.service_meta or {})
        for one in found or ()
    ]
