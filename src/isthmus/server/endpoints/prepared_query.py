"""Stored look-ups of services: ``PreparedQuery``.

Source: protocol/http-api.md §6.5, protocol/rpc.md §6.
"""

import uuid
from collections.abc import Mapping
from typing import Final

import msgspec

from isthmus.errors import RequestError
from isthmus.model.catalog import CRITICAL, PASSING, CheckServiceNode
from isthmus.model.prepared_query import (
    QUERY_CREATE,
    QUERY_DELETE,
    QUERY_UPDATE,
    REDACTED_TOKEN,
    IndexedPreparedQueries,
    PreparedQuery,
    PreparedQueryExecuteRemoteRequest,
    PreparedQueryExecuteRequest,
    PreparedQueryExecuteResponse,
    PreparedQueryExplainResponse,
    PreparedQueryRequest,
    PreparedQuerySpecificRequest,
    ServiceQuery,
)
from isthmus.model.query import DatacenterRequest, QuerySource
from isthmus.model.registration import meta_fault
from isthmus.server.endpoints.catalog import has_tags
from isthmus.server.endpoints.context import Context, Handler
from isthmus.server.endpoints.near import nearest_first
from isthmus.store.catalog import has_meta
from isthmus.units import parse_duration

_APPLY_PREFIX: Final = "raft apply failed: "  # Consul's, which clients match.
_NEAR_AGENT: Final = "_agent"
_NEAR_IP: Final = "_ip"
_NEAR_DEPTH: Final = 10
"""Among so many of the nearest instances the one of the node itself is brought to the front."""
_INDEX: Final = 1
"""Executions show no index: nobody can block on them."""

Instances = tuple[CheckServiceNode, ...]


async def apply(context: Context, request: PreparedQueryRequest) -> str:
    """Create, update or delete a query; its id.

    Raises:
        RequestError: It is malformed, its name is taken, or there is none of this id; the texts
            are Consul's.
    """
    query = request.query
    if query is None:
        raise RequestError("Must provide a prepared query")
    if request.op == QUERY_CREATE:
        if query.id:
            raise RequestError("ID must be empty when creating a new prepared query")
        query = msgspec.structs.replace(query, id=_new_id(context))
    else:
        _check_exists(context, query.id)
    if request.op in {QUERY_CREATE, QUERY_UPDATE}:
        if fault := fault_of(query):
            raise RequestError(f"Invalid prepared query: {fault}")
    elif request.op != QUERY_DELETE:
        raise RequestError(f"Unknown prepared query operation: {request.op}")
    command = PreparedQueryRequest(datacenter=context.dc, op=request.op, query=query)
    try:
        await context.commit(command)
    except RequestError as error:
        raise RequestError(f"{_APPLY_PREFIX}{error}", status=error.status) from error
    return query.id


def _new_id(context: Context) -> str:
    """An id that no query has."""
    while True:
        found = str(uuid.UUID(int=context.rng.getrandbits(128), version=4))
        if context.store.queries.row(found) is None:
            return found


def _check_exists(context: Context, query_id: str) -> None:
    try:
        row = context.store.queries.row(query_id)
    except RequestError as error:
        raise RequestError(f"Prepared Query lookup failed: {error}") from None
    if row is None:
        raise RequestError(f"Cannot modify non-existent prepared query: '{query_id}'")


def fault_of(query: PreparedQuery) -> str:
    """What is wrong with a query, in Consul's words; empty when nothing is.

    Its name, its session and its template are checked when it is written.
    """
    service = query.service
    if not (query.name or query.template.type or query.session):
        return "Must be bound to a session"
    if query.token == REDACTED_TOKEN:
        return (
            f"Bad Token '{query.token}', it looks like a query definition with a redacted token "
            "was submitted"
        )
    if not service.service:
        return "Must provide a Service name to query"
    if service.failover.nearest_n < 0:
        return f"Bad NearestN '{service.failover.nearest_n}', must be >= 0"
    return meta_fault(service.node_meta or {}, reserved=True) or _ttl_fault(query.dns.ttl)


def _ttl_fault(text: str) -> str:
    if not text:
        return ""
    try:
        ttl = parse_duration(text)
    except ValueError as error:
        return f"Bad DNS TTL '{text}': {error}"
    return f"DNS TTL '{int(ttl)}', must be >=0" if ttl < 0 else ""


async def get(context: Context, request: PreparedQuerySpecificRequest) -> IndexedPreparedQueries:
    """One query by its id.

    Raises:
        NotFound: There is none.
    """
    queries = context.store.queries
    answer = await context.read(request, lambda: queries.get(request.query_id))
    return IndexedPreparedQueries(queries=answer.value, index=answer.shown_index, known_leader=True)


async def list_queries(context: Context, request: DatacenterRequest) -> IndexedPreparedQueries:
    """All queries by id."""
    answer = await context.read(request, context.store.queries.list)
    return IndexedPreparedQueries(queries=answer.value, index=answer.shown_index, known_leader=True)


async def explain(
    context: Context, request: PreparedQueryExecuteRequest
) -> PreparedQueryExplainResponse:
    """The query that an id or a name stands for, its template filled in.

    Raises:
        NotFound: It stands for none.
    """
    query = await _resolved(context, request)
    return PreparedQueryExplainResponse(query=query, index=_INDEX, known_leader=True)


async def execute(
    context: Context, request: PreparedQueryExecuteRequest
) -> PreparedQueryExecuteResponse:
    """Instances that a query finds here, or else in other datacenters.

    They are in random order, or the nearest first if the request or the query says near to whom.

    Raises:
        NotFound: The id or name stands for no query.
    """
    query = await _resolved(context, request)
    nodes = _shuffled(context, _matching(context, query.service, connect=request.connect))
    nodes = _near(context, _source(context, query, request), nodes)
    if request.limit > 0:
        nodes = nodes[: request.limit]
    found = _reply(context, query, nodes)
    return found if nodes else await context.failover.ask(query, request, found)


async def execute_remote(
    context: Context, request: PreparedQueryExecuteRemoteRequest
) -> PreparedQueryExecuteResponse:
    """Instances that a query of another datacenter finds here. Failover is that one's business."""
    if request.require_consistent:
        await context.confirm()
    query = request.query
    nodes = _shuffled(context, _matching(context, query.service, connect=request.connect))
    if request.limit > 0:
        nodes = nodes[: request.limit]
    return _reply(context, query, nodes)


async def _resolved(context: Context, request: PreparedQueryExecuteRequest) -> PreparedQuery:
    if request.require_consistent:
        await context.confirm()
    return context.store.queries.resolve(request.query_id_or_name, segment=request.agent.segment)


def _reply(
    context: Context, query: PreparedQuery, nodes: Instances
) -> PreparedQueryExecuteResponse:
    return PreparedQueryExecuteResponse(
        service=query.service.service,
        nodes=nodes,
        dns=query.dns,
        datacenter=context.dc,
        index=_INDEX,
        known_leader=True,
    )


# What a query finds -------------------------------------------------------------------------------


def _matching(context: Context, query: ServiceQuery, *, connect: bool) -> list[CheckServiceNode]:
    """Instances in our datacenter that are well and have all that is asked for."""
    catalog = context.store.catalog
    if connect or query.connect:
        found = catalog.connect_service_nodes(query.service).value
    else:
        found = catalog.check_service_nodes(query.service).value
    return [item for item in found if _is_well(item, query) and _has_all(item, query)]


def _is_well(item: CheckServiceNode, query: ServiceQuery) -> bool:
    ignored = query.ignore_check_ids or ()
    return all(
        check.check_id in ignored
        or check.status == PASSING
        or not (query.only_passing or check.status == CRITICAL)
        for check in item.checks or ()
    )


def _has_all(item: CheckServiceNode, query: ServiceQuery) -> bool:
    service = item.service
    assert service is not None, "rows are joined from services"
    if query.node_meta and not has_meta(item.node.meta if item.node else None, query.node_meta):
        return False
    if query.service_meta and not has_meta(service.meta, query.service_meta):
        return False
    tags = [tag.lower() for tag in query.tags or ()]
    if not has_tags(service.tags, tuple([tag for tag in tags if not tag.startswith("!")])):
        return False
    forbidden = {tag[1:] for tag in tags if tag.startswith("!")}
    return forbidden.isdisjoint(tag.lower() for tag in service.tags or ())


def _shuffled(context: Context, nodes: list[CheckServiceNode]) -> Instances:
    context.rng.shuffle(nodes)
    return tuple(nodes)


# Which order --------------------------------------------------------------------------------------


def _source(
    context: Context, query: PreparedQuery, request: PreparedQueryExecuteRequest
) -> QuerySource:
    """To whom the instances shall be near: what the caller says, or else the query."""
    source = request.source
    dc = source.datacenter or request.agent.datacenter
    node = source.node or query.service.near
    if node == _NEAR_AGENT:
        node = request.agent.node
    elif node == _NEAR_IP:
        at = context.store.catalog.node_at(source.ip) if source.ip else None
        node = "" if at is None else at.node
    return QuerySource(datacenter=dc, node=node)


def _near(context: Context, source: QuerySource, nodes: Instances) -> Instances:
    """The nearest first; before all an instance on the node itself."""
    nodes = nearest_first(context, source, nodes, _node_of)
    if source.node and source.datacenter == context.dc:
        for at, item in enumerate(nodes[:_NEAR_DEPTH]):
            if _node_of(item) == source.node:
                return (item, *nodes[:at], *nodes[at + 1 :])
    return nodes


def _node_of(item: CheckServiceNode) -> str:
    return item.node.node if item.node is not None else ""


METHODS: Final[Mapping[str, Handler]] = {
    "Apply": apply,
    "Get": get,
    "List": list_queries,
    "Explain": explain,
    "Execute": execute,
    "ExecuteRemote": execute_remote,
}
