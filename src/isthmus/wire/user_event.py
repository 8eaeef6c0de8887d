"""A user event as Consul's agents send it to each other, inside Serf's own user event.

Layout: a MessagePack map by the newer specification, text as ``str``, the payload as ``bin``:
``ID`` UUID, ``n`` name, ``p`` payload, ``nf`` ``sf`` ``tf`` the filters for node, service and tag,
``v`` version. What is empty is left out, unless it is the ID, the name or the version; keys are
sorted by bytes. Serf's own name of the event is `PREFIX` and the name.

Source: protocol/gossip.md §14.6.
"""

from typing import Final

import msgspec

from isthmus.errors import MalformedPacket
from isthmus.model.event import UserEvent

PREFIX: Final = "consul:event:"
"""Stands before the name of an event in Serf."""
NEW_LEADER: Final = "consul:new-leader"
"""Serf's name of the event that tells a datacenter of its new leader; its payload is a node."""


class _Body(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The map, its keys in the order of its bytes."""

    id: str = msgspec.field(name="ID")
    n: str
    nf: str = ""
    p: bytes = b""
    sf: str = ""
    tf: str = ""
    v: int


_DECODER: Final = msgspec.msgpack.Decoder(_Body)


def encode_user_event(event: UserEvent) -> bytes:
    """Encode an event; its Lamport time is Serf's business and stays out."""
    return msgspec.msgpack.encode(
        _Body(
            id=event.id,
            n=event.name,
            nf=event.node_filter,
            p=event.payload or b"",
            sf=event.service_filter,
            tf=event.tag_filter,
            v=event.version,
        )
    )


def decode_user_event(data: bytes, *, ltime: int = 0) -> UserEvent:
    """Decode an event that Serf spread at a Lamport time.

    Raises:
        MalformedPacket: The bytes are no such map.
    """
    try:
        body = _DECODER.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MalformedPacket(f"not a user event: {error}") from error
    return UserEvent(
        id=body.id,
        name=body.n,
        payload=body.p or None,
        node_filter=body.nf,
        service_filter=body.sf,
        tag_filter=body.tf,
        version=body.v,
        ltime=ltime,
    )
