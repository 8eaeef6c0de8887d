"""From a request to a response: path rules, method rules, errors, common headers.

Source: protocol/http-api.md §1, §3.
"""

import asyncio
import logging
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from html import escape
from typing import Final

from isthmus.errors import IsthmusError, RequestError
from isthmus.http import (
    acl,
    agent,
    catalog,
    config,
    coordinate,
    events,
    federation,
    gateway,
    health,
    isthmus,
    keyring,
    kv,
    metrics,
    monitor,
    operator,
    prepared_query,
    session,
    snapshot,
    status,
    txn,
    ui,
)
from isthmus.http.access import Access
from isthmus.http.bodies import compress
from isthmus.http.context import CallFailed, Context
from isthmus.http.repeats import NoTables, Repeats, Tables
from isthmus.http.request import NO_QUERY, Query, Request, unescape
from isthmus.http.response import GZIP, GZIP_SIZE_MIN, Header, Response, meta_headers
from isthmus.http.routing import BODY_SIZE_MAX, Route, Routes, clean_path
from isthmus.model.query import QueryMeta
from isthmus.model.timing import Timing

_NO_META: Final = meta_headers(QueryMeta())
_TOO_LARGE: Final = (
    "Request body({size} bytes) too large, max size: {limit} bytes. "
    "See https://www.consul.io/docs/agent/options.html#{key}."
)

_TRANSLATED: Final = ("X-Consul-Translate-Addresses", "true")
_UNREPEATABLE: Final = ("index", "consistent", "cached", "keys", "recurse")
"""Parameters of requests whose answers follow from more than the tables, or from other calls."""

_TOKEN: Final = re.compile(r"(?i)((?:^|&)token=)[^&]*")
"""A secret in a query."""

_logger = logging.getLogger(__name__)

ROUTES: Final[tuple[Route, ...]] = (
    *status.ROUTES,
    *catalog.ROUTES,
    *health.ROUTES,
    *kv.ROUTES,
    *session.ROUTES,
    *txn.ROUTES,
    *coordinate.ROUTES,
    *agent.ROUTES,
    *metrics.ROUTES,
    *monitor.ROUTES,
    *federation.ROUTES,
    *gateway.ROUTES,
    *isthmus.ROUTES,
    *events.ROUTES,
    *acl.ROUTES,
    *keyring.ROUTES,
    *snapshot.ROUTES,
    *operator.ROUTES,
    *prepared_query.ROUTES,
    *config.ROUTES,
    *ui.ROUTES,
)
"""Every endpoint."""


class Door:
    """Answers requests; knows no sockets.

    Args:
        context: What handlers work with.
        response_headers: Configured headers, set on every answer.
        default_policy: ``allow`` or ``deny``: what ACLs do without a rule.
        allow_unprintable: Whether paths may hold unprintable characters.
        tables: What the answers are made from.
        access: What is refused, whoever asks.

    Attributes:
        repeats: Answers that may be given again.
        timings: Of requests, by method and by path of the endpoint.
    """

    def __init__(
        self,
        context: Context,
        *,
        response_headers: Mapping[str, str] | None = None,
        default_policy: str = "allow",
        allow_unprintable: bool = False,
        tables: Tables | None = None,
        access: Access | None = None,
    ) -> None:
        self._access = access or Access()
        self._context, self._allow_unprintable = context, allow_unprintable
        self.repeats: Final = Repeats(tables or NoTables())
        self.timings: Final[dict[tuple[str, str], Timing]] = defaultdict(Timing)
        self._clock: Callable[[], float] | None = None  # The loop's, once it runs.
        self._routes = Routes(ROUTES)
        self._configured: list[Header] = list((response_headers or {}).items())
        self._common: list[Header] = [
            ("Vary", "Accept-Encoding"),
            ("X-Consul-Default-Acl-Policy", default_policy),
            *([_TRANSLATED] if context.translate_wan else ()),
            *self._configured,
        ]

    def streams(self, request: Request) -> bool:
        """Whether a request's body, of which nothing came yet, passes through its handler."""
        try:
            route = self._routes.find(unescape(request.raw_path))
        except ValueError:
            return False
        return route is not None and route.streams and request.method in route.handlers

    def body_limit(self, request: Request) -> int:
        """Largest body in bytes that a request, of which only the head is known, may have."""
        try:
            route = self._routes.find(unescape(request.raw_path))
        except ValueError:
            return 0
        if route is None:
            return 0
        if route.txn_limit:
            return self._context.txn_size_max
        return self._context.kv_value_size_max if route.kv_limit else BODY_SIZE_MAX

    async def handle(self, request: Request) -> Response:
        """Answer a request; only a failed assertion and a cancellation leave as exceptions."""
        try:
            path = unescape(request.raw_path)
        except ValueError:
            return self._finish(Response.text(400, "400 Bad Request"))
        if not (self._allow_unprintable or _is_printable(path)):
            return self._finish(Response(400))
        cleaned = clean_path(path)
        if cleaned != path:
            return self._finish(_moved(request, clean_path(request.raw_path)))
        route = self._routes.find(path)
        if route is None:
            return self._finish(self._unknown(request, path))
        version = self.repeats.version() if _may_repeat(route, request) else None
        clock = self._clock
        if clock is None:
            clock = self._clock = asyncio.get_running_loop().time
        started = clock()
        response = await self._answer(route, request, path)
        if request.method in route.handlers:
            timing = self.timings[request.method, route.path]
            seconds = clock() - started
            timing.add(seconds)
            response.timing = timing
            if _logger.isEnabledFor(logging.DEBUG):
                _log(request, response, seconds)
        if version is not None and self._is_repeatable(request, response):
            response.repeats, response.version = route.repeats, version
        response.headers.extend(request.cache_headers)
        response.headers.extend(self._common)
        if not response.packed and request.accepts_gzip and len(response.body) >= GZIP_SIZE_MIN:
            response.body = compress(response.body)
            response.headers.append(GZIP)
        return response

    async def _answer(self, route: Route, request: Request, path: str) -> Response:
        if self._access and (refusal := self._access.refusal(request, path)) is not None:
            return refusal
        handler = route.handlers.get(request.method)
        if handler is None:
            return _other_method(route, request)
        if request.oversize:
            limit = self.body_limit(request)
            key = "txn_max_req_len" if route.txn_limit else "kv_max_value_size"
            text = _TOO_LARGE.format(size=request.oversize, limit=limit, key=key)
            response = Response.text(413, text)
            response.close = True
            return response
        try:
            request.query = Query.parse(request.raw_query) if request.raw_query else NO_QUERY
        except ValueError:
            return Response(500)
        request.argument = path[len(route.path) :]
        try:
            return await handler(self._context, request)
        except CallFailed as error:
            response = Response.text(error.status, str(error))
            if route.tells_state:
                response.headers.extend(_NO_META)
            return response
        except RequestError as error:
            return Response.text(error.status, str(error))
        except IsthmusError as error:
            return Response.text(500, str(error))
        except AssertionError:
            raise
        except Exception:
            _logger.exception("a request failed", extra={"path": path})
            return Response.text(500, "Internal error")

    def _is_repeatable(self, request: Request, response: Response) -> bool:
        if request.method != "GET" or response.status != 200 or response.close:
            return False
        query = request.query
        if not query:
            return True
        dc = query.first("dc")
        is_ours = not dc or dc == self._context.local.datacenter
        return is_ours and not any(name in query for name in _UNREPEATABLE)

    def _unknown(self, request: Request, path: str) -> Response:
        """Answer a path that is no endpoint."""
        if path == "/":
            return Response.text(200, "Consul Agent")
        if self._routes.find(f"{path}/") is not None:
            return _moved(request, f"{request.raw_path}/")
        return Response(404)

    def _finish(self, response: Response) -> Response:
        response.headers.extend(self._configured)
        return response


def _log(request: Request, response: Response, seconds: float) -> None:
    query = _TOKEN.sub(r"\1<hidden>", request.raw_query)
    _logger.debug(
        "request finished",
        extra={
            "method": request.method,
            "url": f"{request.raw_path}?{query}" if query else request.raw_path,
            "from": request.peer,
            "status": response.status,
            "latency": f"{seconds * 1000:.3f}ms",
        },
    )


def _is_printable(path: str) -> bool:
    if path.isprintable():
        return True
    # Bytes that are not UTF-8 count as replacement characters, which are printable.
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace").isprintable()


def _may_repeat(route: Route, request: Request) -> bool:
    """Whether an answer may be kept; none while each request is logged."""
    return bool(route.repeats and request.whole) and not _logger.isEnabledFor(logging.DEBUG)


def _moved(request: Request, path: str) -> Response:
    target = f"{path}?{request.raw_query}" if request.raw_query else path
    headers = [("Location", target)]
    if request.method not in {"GET", "HEAD"}:
        return Response(301, headers)
    page = f'<a href="{escape(target)}">Moved Permanently</a>.\n\n'
    return Response(301, [("Content-Type", "text/html; charset=utf-8"), *headers], page.encode())


def _other_method(route: Route, request: Request) -> Response:
    if request.method == "OPTIONS":
        return Response(200, [("Allow", route.allow)])
    response = Response.text(405, f"method {request.method} not allowed")
    response.headers.append(("Allow", route.allow))
    return response
