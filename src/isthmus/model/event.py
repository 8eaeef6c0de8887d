"""User events: names with a small payload that Serf spreads through a datacenter.

Source: protocol/rpc.md §6, protocol/http-api.md §6.5, protocol/gossip.md §14.6.
"""

import uuid
from typing import Final

import msgspec

from isthmus.model.query import QueryMeta, QueryOptions
from isthmus.model.record import Record, Uint

EVENT_VERSION: Final = 1
"""Newest version of a user event that there is."""

_HALF: Final = 2**64 - 1


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


def event_index(event_id: str) -> int:
    """The index that stands for a list of events whose newest has this id: 64 bits, never 0.

    The two halves of the UUID, one laid over the other by exclusive or. It does not grow: two
    such numbers are equal or different, and that is all they say.

    Raises:
        ValueError: The id is no UUID.
    """
    number = uuid.UUID(event_id).int
    return ((number >> 64) ^ (number & _HALF)) or 1


class EventFireRequest(QueryOptions, frozen=True, kw_only=True):
    """Spread an event in a datacenter.

    `payload` is the event as the agents of that datacenter read it from Serf: opaque here.
    """

    datacenter: str = ""
    name: str = ""
    payload: bytes | None = None


class EventFireResponse(QueryMeta, frozen=True, kw_only=True):
    """Reply of ``Internal.EventFire``."""
