"""User events: names with a small payload that Serf spreads through a datacenter.

Source: protocol/rpc.md §6, protocol/http-api.md §6.5.
"""

import msgspec

from isthmus.model.query import QueryMeta, QueryOptions
from isthmus.model.record import Record, Uint


class UserEvent(Record, frozen=True, kw_only=True):
    """An event as agents show it.

    Attributes:
        node_filter, service_filter, tag_filter: Regular expressions; empty matches all.
        version: 1.
        ltime: Lamport time at which Serf spread it; 0 before.
    """

    id: str = ""
    name: str = ""
    payload: bytes | None = None
    node_filter: str = ""
    service_filter: str = ""
    tag_filter: str = ""
    version: int = 0
    ltime: Uint = msgspec.field(default=0, name="LTime")


class EventFireRequest(QueryOptions, frozen=True, kw_only=True):
    """Spread an event in a datacenter.

    `payload` is the event as the agents of that datacenter read it from Serf: opaque here.
    """

    datacenter: str = ""
    name: str = ""
    payload: bytes | None = None


class EventFireResponse(QueryMeta, frozen=True, kw_only=True):
    """Reply of ``Internal.EventFire``."""
