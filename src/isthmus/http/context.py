"""What handlers work with: the one callable to the data, the local agent, the way to answer."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Protocol, TypeVar, cast

from msgspec.structs import replace

from isthmus.errors import (
    ACL_NOT_FOUND,
    PERMISSION_DENIED,
    RPC_RATE_EXCEEDED,
    EngineError,
    ProtocolError,
    RequestError,
    Unavailable,
)
from isthmus.http.bodies import Bodies, compress
from isthmus.http.local_agent import LocalAgent
from isthmus.http.options import ReadOptions, names_consistency, read_options
from isthmus.http.request import Request
from isthmus.http.response import (
    GZIP,
    GZIP_SIZE_MIN,
    JSON,
    Response,
    consistency_header,
    meta_headers,
)
from isthmus.model.query import CachedReply, QueryMeta, QueryOptions
from isthmus.model.record import Record
from isthmus.units import Duration
from isthmus.wire import gojson

INSTANCES_MAX: Final = 2048
"""Service instances whose JSON is kept, for answers that show them in another order each time."""

R = TypeVar("R")
Q = TypeVar("Q", bound=QueryOptions)

Rpc = Callable[[str, Record], Awaitable[object]]
"""Carries out a method of `model.methods.METHODS`, wherever the datacenter in the request is."""


class ReadCache(Protocol):
    """Keeps replies to reads."""

    def keeps(self, method: str) -> bool:
        """Whether it keeps the replies of a method."""

    async def get(self, method: str, request: QueryOptions) -> CachedReply:
        """A reply, kept or new; raises as an `Rpc` does."""


class CallFailed(RequestError):
    """An `rpc` call failed. Only the text tells what clients may know: 403 or 500.

    A call that our own agent did not make, because it makes too many, is answered 429.
    """

    def __init__(self, text: str) -> None:
        denied = PERMISSION_DENIED in text or ACL_NOT_FOUND in text
        limited = text == RPC_RATE_EXCEEDED
        super().__init__("" if limited else text, status=429 if limited else 403 if denied else 500)


class Context:
    """Injected into every handler.

    Args:
        rpc: The way to the data.
        local: The agent whose door this is.
        pretty: Whether JSON is indented without being asked.
        kv_value_size_max: Largest body of a key's write, in bytes.
        txn_size_max: Largest body of a transaction, in bytes.
        cache: Keeps replies for callers who ask for that; None for no cache.
        translate_wan: Whether answers about other datacenters show WAN addresses.
        discovery_max_stale: Seconds that data may be old that catalog and health reads show which
            name no consistency; 0: it is the leader's.
    """

    def __init__(
        self,
        rpc: Rpc,
        local: LocalAgent,
        *,
        pretty: bool = False,
        kv_value_size_max: int,
        txn_size_max: int = 512 * 1024,  # Consul's default.
        cache: ReadCache | None = None,
        translate_wan: bool = False,
        discovery_max_stale: float = 0.0,
    ) -> None:
        self._rpc, self.local, self._pretty = rpc, local, pretty
        self.kv_value_size_max, self.txn_size_max = kv_value_size_max, txn_size_max
        self._cache, self.translate_wan = cache, translate_wan
        self._discovery_max_stale = Duration.of(discovery_max_stale)
        self._bodies = Bodies()
        self.instances = Bodies(entries_max=INSTANCES_MAX, newcomers_max=INSTANCES_MAX)

    async def call(self, method: str, request: Record, reply: type[R]) -> R:
        """Call a method.

        Args:
            method: Name in `model.methods.METHODS`.
            request: Its argument.
            reply: Type of its reply, for the type checker.

        Raises:
            CallFailed: Whatever the reason.
        """
        try:
            return cast(R, await self._rpc(method, request))
        except (RequestError, Unavailable, EngineError, ProtocolError) as error:
            raise CallFailed(str(error)) from error

    async def read(self, request: Request, method: str, question: Q, reply: type[R]) -> R:
        """Call a method, or the agent's cache if the caller wants that and it keeps such replies.

        A call that limits how old the data may be, and gets older from a server that need not lead,
        has the leader answer.

        Args:
            request: Which is answered; its answer will say what came of the cache.
            method: Name in `model.methods.METHODS`.
            question: Its argument.
            reply: Type of its reply, for the type checker.

        Raises:
            CallFailed: Whatever the reason.
        """
        if question.use_cache and self._cache is not None and self._cache.keeps(method):
            try:
                found, hit, age = await self._cache.get(method, question)
            except (RequestError, Unavailable, EngineError, ProtocolError) as error:
                raise CallFailed(str(error)) from error
            told = (("X-Cache", "HIT"), ("Age", f"{age:.0f}")) if hit else (("X-Cache", "MISS"),)
            request.cache_headers = told
            return cast(R, found)
        answer = await self.call(method, question, reply)
        if (
            question.allow_stale
            and isinstance(answer, QueryMeta)
            and 0 < question.max_stale_duration < answer.last_contact
        ):
            fresh = replace(question, allow_stale=False, max_stale_duration=Duration(0))
            return await self.call(method, fresh, reply)
        return answer

    def discovery_options(self, request: Request, *, namespaced: bool = True) -> ReadOptions:
        """The common parameters of a catalog or health read.

        Args:
            request: With its query.
            namespaced: Whether the endpoint refuses namespaces instead of ignoring them.

        Raises:
            InvalidRequest: As `read_options`.
        """
        options = read_options(request, self.local.datacenter, namespaced=namespaced)
        if self._discovery_max_stale and not names_consistency(request.query):
            options.allow_stale = True
            options.max_stale_duration = self._discovery_max_stale
        return options

    def translates(self, dc: str) -> bool:
        """Whether an answer about a datacenter shows WAN addresses."""
        return self.translate_wan and dc != self.local.datacenter

    def encode(self, request: Request, value: object) -> bytes:
        """JSON of a value, indented if the request asks for it."""
        return gojson.encode(value, pretty=self.is_pretty(request))

    def is_pretty(self, request: Request) -> bool:
        """Whether JSON is indented."""
        return self._pretty or "pretty" in request.query

    def json(self, request: Request, value: object, *, meta: QueryMeta | None = None) -> Response:
        """Answer a value."""
        headers = [JSON] if meta is None else [JSON, *meta_headers(meta)]
        return Response(200, headers, self.encode(request, value))

    def cached(
        self,
        request: Request,
        source: object,
        variant: str,
        view: Callable[[], object],
        *,
        meta: QueryMeta,
        level: str = "",
    ) -> Response:
        """Answer a view of a part of a reply, encoded once as long as that part is the same.

        Args:
            request: Which is answered.
            source: The part of the reply: an immutable object.
            variant: Names the view.
            view: Makes it.
            meta: The reply.
            level: Consistency that was asked for; empty for endpoints that do not tell.
        """
        pretty = self.is_pretty(request)
        if pretty:
            variant += "+pretty"

        def encode() -> bytes:
            return gojson.encode(view(), pretty=pretty)

        # What is empty may be the one empty tuple that all share.
        body = self._bodies.get(source, variant, encode) if source else encode()
        response = Response(200, [JSON, *meta_headers(meta)], body)
        if level:
            response.headers.append(consistency_header(meta, level))
        if source and len(body) >= GZIP_SIZE_MIN and request.accepts_gzip:
            packed = partial(compress, body)
            response.body = self._bodies.get(source, f"{variant}+gzip", packed)
            response.headers.append(GZIP)
            response.packed = True
        return response
