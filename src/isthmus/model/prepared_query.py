"""Prepared queries: stored lookups of a service, with failover to other datacenters.

Source: protocol/rpc.md §6, protocol/http-api.md §6.5.
"""

from typing import Final

from isthmus.model.catalog import CheckServiceNode
from isthmus.model.query import QueryMeta, QueryOptions, QuerySource
from isthmus.model.record import Record, Uint

QUERY_CREATE: Final = "create"
QUERY_UPDATE: Final = "update"
QUERY_DELETE: Final = "delete"
NAME_PREFIX_MATCH: Final = "name_prefix_match"
"""The one type of template that there is."""
REDACTED_TOKEN: Final = "<hidden>"
"""Shown instead of a token to who may not see it."""
QUERY_NOT_FOUND: Final = "Query not found"


class QueryDatacenterOptions(Record, frozen=True, kw_only=True):
    """Where to look when there is no healthy instance: the nearest, then those named."""

    nearest_n: int = 0
    datacenters: tuple[str, ...] | None = None


class ServiceQuery(Record, frozen=True, kw_only=True):
    """Which instances of which service."""

    service: str = ""
    failover: QueryDatacenterOptions = QueryDatacenterOptions()
    only_passing: bool = False
    ignore_check_ids: tuple[str, ...] | None = None
    near: str = ""
    tags: tuple[str, ...] | None = None
    node_meta: dict[str, str] | None = None
    service_meta: dict[str, str] | None = None
    connect: bool = False


class QueryTemplateOptions(Record, frozen=True, kw_only=True):
    """Makes a query answer to all names with its prefix."""

    type: str = ""
    regexp: str = ""
    remove_empty_tags: bool = False


class QueryDNSOptions(Record, frozen=True, kw_only=True):
    """How DNS shows the answer; `ttl` is a duration as text."""

    ttl: str = ""


class PreparedQuery(Record, frozen=True, kw_only=True):
    """A stored query."""

    id: str = ""
    name: str = ""
    session: str = ""
    token: str = ""
    template: QueryTemplateOptions = QueryTemplateOptions()
    service: ServiceQuery = ServiceQuery()
    dns: QueryDNSOptions = QueryDNSOptions()
    create_index: Uint = 0
    modify_index: Uint = 0


class PreparedQueryRequest(Record, frozen=True, kw_only=True):
    """Create, update or delete a query."""

    datacenter: str = ""
    op: str = ""
    query: PreparedQuery | None = None
    token: str = ""


class PreparedQuerySpecificRequest(QueryOptions, frozen=True, kw_only=True):
    """Read of one query."""

    datacenter: str = ""
    query_id: str = ""


class PreparedQueryExecuteRequest(QueryOptions, frozen=True, kw_only=True):
    """Execute a query; `agent` is where the caller asked, `source` whom to be near to."""

    datacenter: str = ""
    query_id_or_name: str = ""
    limit: int = 0
    connect: bool = False
    source: QuerySource = QuerySource()
    agent: QuerySource = QuerySource()


class PreparedQueryExecuteRemoteRequest(QueryOptions, frozen=True, kw_only=True):
    """Execute a query of another datacenter, as part of its failover."""

    datacenter: str = ""
    query: PreparedQuery = PreparedQuery()
    limit: int = 0
    connect: bool = False


class PreparedQueryExecuteResponse(QueryMeta, frozen=True, kw_only=True):
    """Instances found.

    Attributes:
        datacenter: Where they were found.
        failovers: Datacenters tried after the first.
    """

    service: str = ""
    nodes: tuple[CheckServiceNode, ...] | None = None
    dns: QueryDNSOptions = QueryDNSOptions()
    datacenter: str = ""
    failovers: int = 0


class PreparedQueryExplainResponse(QueryMeta, frozen=True, kw_only=True):
    """The query that a name would execute, templates filled in."""

    query: PreparedQuery = PreparedQuery()


class IndexedPreparedQueries(QueryMeta, frozen=True, kw_only=True):
    """Reply of the calls that read queries."""

    queries: tuple[PreparedQuery, ...] | None = None
