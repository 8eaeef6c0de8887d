"""``/v1/query``: prepared queries. Source: protocol/http-api.md §6.5."""

import re
from functools import partial
from ipaddress import ip_address
from typing import Final

import msgspec

from isthmus.errors import RequestError
from isthmus.http import shapes, translate
from isthmus.http.context import CallFailed, Context
from isthmus.http.decode import decode
from isthmus.http.options import ReadOptions, read_options, read_source
from isthmus.http.request import Request
from isthmus.http.response import JSON, Header, Response, meta_headers
from isthmus.http.routing import Route
from isthmus.model.catalog import CheckServiceNode
from isthmus.model.prepared_query import (
    QUERY_CREATE,
    QUERY_DELETE,
    QUERY_NOT_FOUND,
    QUERY_UPDATE,
    IndexedPreparedQueries,
    PreparedQuery,
    PreparedQueryExecuteRequest,
    PreparedQueryExecuteResponse,
    PreparedQueryExplainResponse,
    PreparedQueryRequest,
    PreparedQuerySpecificRequest,
)
from isthmus.model.query import DatacenterRequest, QueryMeta, QuerySource
from isthmus.model.record import Record
from isthmus.wire import gojson

_EXECUTE: Final = "/execute"
_EXPLAIN: Final = "/explain"
_NO_NODES: Final = b'"Nodes":[]'
"""No text in JSON holds this: its quotes would be escaped."""
_INTEGER: Final = re.compile(r"[+-]?[0-9]+")
_INTEGER_SIZE_MAX: Final = 19
_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})


class _Created(Record, frozen=True, kw_only=True):
    """Answer to the creation of a query."""

    id: str = ""


async def list_queries(context: Context, request: Request) -> Response:
    """All queries."""
    options = read_options(request, context.local.datacenter)
    reply = await context.read(
        request,
        "PreparedQuery.List",
        DatacenterRequest(**options.fields()),  # type: ignore[arg-type]
        IndexedPreparedQueries,
    )
    found = reply.queries
    return context.cached(
        request, found, "queries", lambda: found or (), meta=reply, level=options.level
    )


async def create(context: Context, request: Request) -> Response:
    """Create a query; the answer is its id."""
    query = decode(PreparedQuery, request.body)
    query_id = await _apply(context, request, QUERY_CREATE, query)
    return context.json(request, _Created(id=query_id))


async def get(context: Context, request: Request) -> Response:
    """Read, execute or explain a query."""
    if _ends(request, _EXECUTE):
        return await _execute(context, request)
    if _ends(request, _EXPLAIN):
        return await _explain(context, request)
    options = read_options(request, context.local.datacenter)
    question = PreparedQuerySpecificRequest(
        **options.fields(),  # type: ignore[arg-type]
        query_id=request.argument,
    )
    try:
        reply = await context.read(request, "PreparedQuery.Get", question, IndexedPreparedQueries)
    except CallFailed as error:
        return _not_found(error)
    return _shown(context, request, reply.queries or (), reply, options)


async def update(context: Context, request: Request) -> Response:
    """Put another query in the place of one."""
    if _is_read_only(request):
        return _only_get(request)
    query = decode(PreparedQuery, request.body) if request.body else PreparedQuery()
    query = msgspec.structs.replace(query, id=request.argument)  # Whatever the body says.
    await _apply(context, request, QUERY_UPDATE, query)
    return Response()


async def delete(context: Context, request: Request) -> Response:
    """Delete a query."""
    if _is_read_only(request):
        return _only_get(request)
    await _apply(context, request, QUERY_DELETE, PreparedQuery(id=request.argument))
    return Response()


async def options(context: Context, request: Request) -> Response:
    """Which methods there are; the body is Consul's, whose reason nobody remembers."""
    allowed = "OPTIONS,GET" if _is_read_only(request) else "OPTIONS,GET,PUT,DELETE"
    return Response(200, [JSON, ("Allow", allowed)], context.encode(request, {}))


async def _apply(context: Context, request: Request, operation: str, query: PreparedQuery) -> str:
    command = PreparedQueryRequest(
        datacenter=request.query.first("dc") or context.local.datacenter,
        op=operation,
        query=query,
        token=request.token,
    )
    try:
        return await context.call("PreparedQuery.Apply", command, str)
    except CallFailed as error:  # A write's answer has no headers of a query.
        raise RequestError(str(error), status=error.status) from error


async def _execute(context: Context, request: Request) -> Response:
    options = read_options(request, context.local.datacenter)
    question = _question(context, request, options, _EXECUTE)
    if connect := request.query.first("connect"):
        question = msgspec.structs.replace(question, connect=_boolean(connect))
    try:
        reply = await context.read(
            request, "PreparedQuery.Execute", question, PreparedQueryExecuteResponse
        )
    except CallFailed as error:
        return _not_found(error)
    bare = msgspec.structs.replace(reply, nodes=(), consistency_level=options.level)
    nodes = b",".join(_instances(context, reply))
    body = gojson.encode(bare).replace(_NO_NODES, b'"Nodes":[%b]' % nodes, 1)
    if context.is_pretty(request):
        body = gojson.indent(body)
    return Response(200, _headers(reply, options), body)


def _instances(context: Context, reply: PreparedQueryExecuteResponse) -> list[bytes]:
    """JSON of each instance, encoded once as long as it is the same."""
    # Where they were found counts, not where they were asked for.
    wan = context.translates(reply.datacenter)

    def encoded(found: CheckServiceNode) -> bytes:
        (shown,) = shapes.instances(translate.instances((found,)) if wan else (found,))
        return gojson.encode(shown)

    variant, kept = "wan" if wan else "own", context.instances
    return [kept.get(one, variant, partial(encoded, one)) for one in reply.nodes or ()]


async def _explain(context: Context, request: Request) -> Response:
    options = read_options(request, context.local.datacenter)
    question = _question(context, request, options, _EXPLAIN)
    try:
        reply = await context.read(
            request, "PreparedQuery.Explain", question, PreparedQueryExplainResponse
        )
    except CallFailed as error:
        return _not_found(error)
    view = msgspec.structs.replace(reply, consistency_level=options.level)
    return _shown(context, request, view, reply, options)


def _question(
    context: Context, request: Request, options: ReadOptions, ending: str
) -> PreparedQueryExecuteRequest:
    own = context.local
    source = read_source(request, options.datacenter, own.node_name)
    limit = request.query.first("limit")
    return PreparedQueryExecuteRequest(
        **options.fields(),  # type: ignore[arg-type]
        query_id_or_name=request.argument.removesuffix(ending),
        limit=_integer(limit) if limit else 0,
        source=msgspec.structs.replace(source, ip=source_address(request)),
        agent=QuerySource(datacenter=own.datacenter, node=own.node_name),
    )


def source_address(request: Request) -> str:
    """Address of the client, as a proxy before us tells it, or else as we see it; or empty."""
    forwarded = request.headers.get(b"x-forwarded-for", b"").decode("latin-1")
    for text in (forwarded.partition(",")[0].strip(), request.peer):
        try:
            return str(ip_address(text))
        except ValueError:
            continue
    return ""


def _integer(text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise RequestError(f"Bad limit: {_fault('Atoi', text, 'invalid syntax')}")
    if len(text.lstrip("+-0")) > _INTEGER_SIZE_MAX or not -(2**63) <= int(text) < 2**63:
        raise RequestError(f"Bad limit: {_fault('Atoi', text, 'value out of range')}")
    return int(text)


def _boolean(text: str) -> bool:
    if text not in _TRUE | _FALSE:
        fault = _fault("ParseBool", text, "invalid syntax")
        raise RequestError(f"Error parsing 'connect' value: {fault}")
    return text in _TRUE


def _fault(function: str, text: str, fault: str) -> str:
    """What Go says of a text that it cannot parse."""
    return f"strconv.{function}: parsing {msgspec.json.encode(text).decode()}: {fault}"


def _shown(
    context: Context, request: Request, view: object, meta: QueryMeta, options: ReadOptions
) -> Response:
    return Response(200, _headers(meta, options), context.encode(request, view))


def _headers(meta: QueryMeta, options: ReadOptions) -> list[Header]:
    told = msgspec.structs.replace(meta, consistency_level=meta.consistency_level or options.level)
    return [JSON, *meta_headers(told, consistency=True)]


def _not_found(error: CallFailed) -> Response:
    """The answer to a failed call; without the headers of a query when there is no such query."""
    if QUERY_NOT_FOUND not in str(error):
        raise error
    return Response.text(404, str(error))


def _is_read_only(request: Request) -> bool:
    return _ends(request, _EXECUTE) or _ends(request, _EXPLAIN)


def _ends(request: Request, ending: str) -> bool:
    """Whether a path ends so; a query may be called ``execute``, and is executed then, as well."""
    return f"/{request.argument}".endswith(ending)


def _only_get(request: Request) -> Response:
    response = Response.text(405, f"method {request.method} not allowed")
    response.headers.append(("Allow", "GET"))
    return response


ROUTES: Final = (
    Route("/v1/query", {"GET": list_queries, "POST": create}, tells_state=True),
    Route(
        "/v1/query/",
        {"GET": get, "PUT": update, "DELETE": delete, "OPTIONS": options},
        tells_state=True,
    ),
)
