"""Query parameters that all reads share.

Source: protocol/http-api.md §2.
"""

import re
from dataclasses import dataclass
from typing import Final

from isthmus.errors import InvalidRequest
from isthmus.http.request import Query, Request
from isthmus.model.query import QuerySource
from isthmus.units import Duration, parse_duration

UINT64_MAX: Final = 2**64 - 1
_CONFLICT_STALE: Final = "Cannot specify ?stale with ?consistent, conflicting semantics."
_CONFLICT_CACHED: Final = "Cannot specify ?cached with ?consistent, conflicting semantics."
NO_NAMESPACES: Final = " - Namespaces are a Consul Enterprise feature"
_CONSISTENCIES: Final = ("stale", "consistent", "leader", "cached", "max_stale")
_CACHE_AGES: Final = frozenset({"max-age", "stale-if-error"})
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,18}")
_AGE_MAX: Final = 2**33
"""Seconds; longer durations do not fit the wire."""
_ZERO: Final = Duration(0)


@dataclass(slots=True)
class ReadOptions:
    """What the common parameters ask for; the fields are those of `model.query.QueryOptions`.

    Attributes:
        datacenter: Who shall answer.
    """

    datacenter: str
    token: str = ""
    min_query_index: int = 0
    max_query_time: Duration = _ZERO
    allow_stale: bool = False
    require_consistent: bool = False
    max_stale_duration: Duration = _ZERO
    filter: str = ""
    use_cache: bool = False
    max_age: Duration = _ZERO
    must_revalidate: bool = False
    stale_if_error: Duration = _ZERO

    @property
    def level(self) -> str:
        """The consistency that was asked for, as a header says it."""
        if self.require_consistent:
            return "consistent"
        return "stale" if self.allow_stale else "leader"

    def fields(self) -> dict[str, object]:
        """Keyword arguments of a read request; those that are zero are left out."""
        found: dict[str, object] = {"datacenter": self.datacenter}
        if self.token:
            found["token"] = self.token
        if self.min_query_index:
            found["min_query_index"] = self.min_query_index
        if self.max_query_time:
            found["max_query_time"] = self.max_query_time
        if self.allow_stale:
            found["allow_stale"] = True
        if self.require_consistent:
            found["require_consistent"] = True
        if self.max_stale_duration:
            found["max_stale_duration"] = self.max_stale_duration
        if self.filter:
            found["filter"] = self.filter
        if self.use_cache:
            found.update(self.cache_fields())
        return found

    def cache_fields(self) -> dict[str, object]:
        """Those of the agent's cache; none if it is not asked."""
        if not self.use_cache:
            return {}
        return {
            "use_cache": True,
            "max_age": self.max_age,
            "must_revalidate": self.must_revalidate,
            "stale_if_error": self.stale_if_error,
        }


def read_options(request: Request, own_dc: str, *, namespaced: bool = False) -> ReadOptions:
    """Read the parameters common to all reads.

    Args:
        request: With its query.
        own_dc: Datacenter of a request that names none.
        namespaced: Whether the endpoint refuses namespaces instead of ignoring them.

    Raises:
        InvalidRequest: A value is malformed, or two contradict each other.
    """
    query = request.query
    options = ReadOptions(own_dc, token=request.token)
    if b"cache-control" in request.headers:
        _read_cache_control(request.headers[b"cache-control"].decode("latin-1"), options)
    if namespaced:
        refuse_namespace(request)
    if not query:
        return options
    options.datacenter = query.first("dc") or own_dc
    options.min_query_index, options.max_query_time = read_blocking(query)
    options.allow_stale = "stale" in query
    options.require_consistent = "consistent" in query
    options.use_cache = "cached" in query
    options.filter = query.first("filter")
    if max_stale := query.first("max_stale"):
        try:
            options.max_stale_duration = parse_duration(max_stale)
        except ValueError:
            raise InvalidRequest(f'Invalid max_stale value "{max_stale}"') from None
        if options.max_stale_duration > 0:
            options.allow_stale = True
    if options.allow_stale and options.require_consistent:
        raise InvalidRequest(_CONFLICT_STALE)
    if options.require_consistent and options.use_cache:
        raise InvalidRequest(_CONFLICT_CACHED)
    return options


def names_consistency(query: Query) -> bool:
    """Whether a caller says what consistency it wants."""
    return any(name in query for name in _CONSISTENCIES)


def _read_cache_control(header: str, options: ReadOptions) -> None:
    """Read how old a cached answer may be.

    Raises:
        InvalidRequest: An age in it is no number.
    """
    for directive in header.lower().split(","):
        name, is_set, value = directive.strip().partition("=")
        if name == "must-revalidate" and not is_set:
            options.must_revalidate = True
        elif is_set and name in _CACHE_AGES:
            if not _WHOLE.fullmatch(value):
                raise InvalidRequest("Invalid Cache-Control header.")
            age = min(max(int(value), 0), _AGE_MAX)
            if name == "stale-if-error":
                options.stale_if_error = Duration.of(age)
            else:
                options.max_age = Duration.of(age)
                options.must_revalidate |= age == 0  # Not the same as no limit.


def read_blocking(query: Query) -> tuple[int, Duration]:
    """Read ``index`` and ``wait``.

    Raises:
        InvalidRequest: One is malformed.
    """
    index, wait = 0, _ZERO
    if text := query.first("wait"):
        try:
            wait = parse_duration(text)
        except ValueError:
            raise InvalidRequest("Invalid wait time") from None
    if text := query.first("index"):
        found = parse_uint(text)
        if found is None:
            raise InvalidRequest("Invalid index")
        index = found
    return index, wait


def refuse_namespace(request: Request) -> None:
    """Refuse a request that names a namespace.

    Raises:
        InvalidRequest: It does.
    """
    if request.headers.get(b"x-consul-namespace"):
        where = 'header: "X-Consul-Namespace"'
    elif request.query.first("ns"):
        where = 'query parameter: "ns"'
    else:
        return
    raise InvalidRequest(f"Bad request: Invalid {where}{NO_NAMESPACES}")


def read_source(request: Request, dc: str, own_node: str) -> QuerySource:
    """Where to sort from: ``near``; an empty node when the order does not matter."""
    near = request.query.first("near")
    return QuerySource(datacenter=dc, node=own_node if near == "_agent" else near)


def read_node_meta(request: Request) -> dict[str, str] | None:
    """The pairs of ``node-meta``; None when there are none."""
    pairs = request.query.all("node-meta")
    if not pairs:
        return None
    return {key: value for key, _, value in (pair.partition(":") for pair in pairs)}


def parse_uint(text: str) -> int | None:
    """Parse an unsigned number of 64 bits; None when it is none."""
    if not (text.isascii() and text.isdigit()):
        return None
    number = int(text) if len(text) <= 20 else UINT64_MAX + 1
    return number if number <= UINT64_MAX else None
