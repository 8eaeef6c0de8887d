"""What every read asks for and every answer says about itself; who asks.

Source: protocol/rpc.md §4.
"""

from typing import Any, NamedTuple

import msgspec

from isthmus.model.record import Record, Uint
from isthmus.units import Duration


class QueryOptions(Record, frozen=True, kw_only=True):
    """Fields of every read request (flattened into it).

    Attributes:
        token: ACL secret; empty for the anonymous token.
        min_query_index: Greater than 0 makes the read block until the index passes it.
        max_query_time: Longest block; 0 for the server's default.
        allow_stale: Any server may answer.
        require_consistent: The leader confirms first that it leads.
        use_cache: The agent's cache may answer.
        max_age: Oldest reply that the caller wants of a cache; 0 for any.
        must_revalidate: The reply shall not come from a cache.
        stale_if_error: How old a cached reply may be if a new one cannot be had.
        filter: Filter expression, applied by the answering server.
    """

    token: str = ""
    min_query_index: Uint = 0
    max_query_time: Duration = Duration(0)
    allow_stale: bool = False
    require_consistent: bool = False
    use_cache: bool = False
    max_age: Duration = Duration(0)
    must_revalidate: bool = False
    stale_if_error: Duration = Duration(0)
    max_stale_duration: Duration = Duration(0)
    filter: str = ""
    allow_not_modified_response: bool = False


class WriteRequest(Record, frozen=True, kw_only=True):
    """Field of every write request."""

    token: str = ""


class QueryMeta(Record, frozen=True, kw_only=True):
    """What a reply says about itself (flattened into it).

    Attributes:
        index: Index of the data, never 0 in an answer.
        last_contact: Since the answering server heard its leader; 0 on the leader.
        known_leader: Whether there is a leader.
        backend: 0 for blocking queries.
    """

    json_numbers = frozenset({"last_contact"})

    index: Uint = 0
    last_contact: Duration = Duration(0)
    known_leader: bool = False
    consistency_level: str = ""
    not_modified: bool = False
    backend: int = 0


class CachedReply(NamedTuple):
    """A reply out of the agent's cache; never on the wire.

    Attributes:
        reply: As the method answered it.
        hit: Whether it was there already.
        age: Seconds since it was surely right, if it was there.
    """

    reply: Any
    hit: bool
    age: float


class QuerySource(Record, frozen=True, kw_only=True):
    """Where a query comes from, for sorting by distance."""

    datacenter: str = ""
    segment: str = ""
    node: str = ""
    ip: str = msgspec.field(default="", name="Ip")


class DatacenterRequest(QueryOptions, frozen=True, kw_only=True):
    """Read of a whole datacenter (Go: ``DCSpecificRequest``)."""

    datacenter: str = ""
    node_meta_filters: dict[str, str] | None = None
    source: QuerySource = QuerySource()


class Empty(Record, frozen=True, kw_only=True):
    """No fields: ``{}``."""
