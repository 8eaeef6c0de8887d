"""Services with their checks: ``Health``.

Source: protocol/rpc.md §6, protocol/http-api.md §6.2.
"""

from collections.abc import Callable, Mapping
from typing import Final

from isthmus.errors import RequestError
from isthmus.model.catalog import (
    CheckServiceNode,
    ChecksInStateRequest,
    HealthCheck,
    IndexedCheckServiceNodes,
    IndexedHealthChecks,
    NodeRequest,
    ServiceRequest,
)
from isthmus.model.query import QuerySource
from isthmus.server.endpoints.catalog import has_tags, wanted_tags
from isthmus.server.endpoints.context import Context, Handler
from isthmus.server.endpoints.filtering import row_filter
from isthmus.server.endpoints.near import nearest_first
from isthmus.store.answer import Answer
from isthmus.store.catalog import has_meta

_NOWHERE: Final = QuerySource()


async def service_nodes(context: Context, request: ServiceRequest) -> IndexedCheckServiceNodes:
    """Instances of a service with nodes and checks, healthy or not.

    Without tag or metadata filters, and if the order does not matter, `nodes` is the same object
    until a row in it changes.
    """
    if not request.service_name:
        raise RequestError("Must provide service name")
    keep = row_filter(request, CheckServiceNode) if request.filter else None
    if request.min_query_index or request.require_consistent:
        answer = await context.read(request, lambda: _service_nodes(context, request))
    else:
        answer = _service_nodes(context, request)
    nodes = answer.value
    if request.tag_filter or request.node_meta_filters:
        nodes = _filtered(nodes, request)
    if keep is not None:
        nodes = keep(nodes)
    if request.source.node:
        nodes = nearest_first(context, request.source, nodes, _node_of)
    return IndexedCheckServiceNodes(nodes=nodes, index=answer.shown_index, known_leader=True)


def _service_nodes(
    context: Context, request: ServiceRequest
) -> Answer[tuple[CheckServiceNode, ...]]:
    catalog = context.store.catalog
    if request.connect:
        return catalog.connect_service_nodes(request.service_name)
    answer = catalog.check_service_nodes(request.service_name)
    # Services behind an ingress gateway are named by config entries: without any, none is.
    return answer.of(()) if request.ingress else answer


def _node_of(item: CheckServiceNode) -> str:
    return item.node.node if item.node is not None else ""


def _filtered(
    nodes: tuple[CheckServiceNode, ...], request: ServiceRequest
) -> tuple[CheckServiceNode, ...]:
    tags, meta = wanted_tags(request), request.node_meta_filters or {}
    return tuple(
        [
            item
            for item in nodes
            if item.service is not None
            and has_tags(item.service.tags, tags)
            and has_meta(item.node.meta if item.node else None, meta)
        ]
    )


async def service_checks(context: Context, request: ServiceRequest) -> IndexedHealthChecks:
    """Checks of the instances of a service."""
    keep = row_filter(request, HealthCheck)
    catalog = context.store.catalog
    answer = await context.read(request, lambda: catalog.service_checks(request.service_name))
    return _checks_reply(context, answer, keep, request.node_meta_filters, request.source)


async def node_checks(context: Context, request: NodeRequest) -> IndexedHealthChecks:
    """Checks of a node and of its services."""
    keep = row_filter(request, HealthCheck)
    catalog = context.store.catalog
    answer = await context.read(request, lambda: catalog.node_checks(request.node))
    return _checks_reply(context, answer, keep)


async def checks_in_state(context: Context, request: ChecksInStateRequest) -> IndexedHealthChecks:
    """All checks in a state; ``any`` for all."""
    keep = row_filter(request, HealthCheck)
    catalog = context.store.catalog
    answer = await context.read(request, lambda: catalog.checks_in_state(request.state))
    return _checks_reply(context, answer, keep, request.node_meta_filters, request.source)


def _checks_reply(
    context: Context,
    answer: Answer[tuple[HealthCheck, ...]],
    keep: Callable[[tuple[HealthCheck, ...]], tuple[HealthCheck, ...]],
    node_meta: Mapping[str, str] | None = None,
    source: QuerySource = _NOWHERE,
) -> IndexedHealthChecks:
    checks = answer.value
    if node_meta:
        node_row = context.store.catalog.node_row
        kept = []
        for check in checks:
            node = node_row(check.node)
            if node is not None and has_meta(node.meta, node_meta):
                kept.append(check)
        checks = tuple(kept)
    checks = nearest_first(context, source, keep(checks), lambda check: check.node)
    return IndexedHealthChecks(health_checks=checks, index=answer.shown_index, known_leader=True)


METHODS: Final[Mapping[str, Handler]] = {
    "ServiceNodes": service_nodes,
    "ServiceChecks": service_checks,
    "NodeChecks": node_checks,
    "ChecksInState": checks_in_state,
}
