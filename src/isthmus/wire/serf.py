"""Serf on the wire: what travels inside memberlist's user messages; tags; query filters.

A message is ``type:u8`` and a MessagePack map; a relay is ``9``, a header map and then a whole
message of its own.

Source: protocol/gossip.md §13.1, §13.3, §13.5.
"""

from collections.abc import Mapping
from enum import IntEnum, IntFlag
from typing import Any, Final, TypeAlias

import msgpack
from msgspec import Struct

from isthmus.errors import MalformedPacket, UnknownProtocol
from isthmus.wire.fields import (
    Field,
    Fields,
    boolean,
    mapping,
    octets,
    pack,
    sequence,
    signed,
    text,
    unpack,
    unsigned,
)

TAGS_SIZE_MAX: Final = 512
"""Largest encoded tags that a pool accepts (node meta)."""
ROLE_TAG: Final = "role"

_TAGS_MARK: Final = b"\xff"


class MessageType(IntEnum):
    """First byte of a serf message."""

    LEAVE = 0
    JOIN = 1
    PUSH_PULL = 2
    USER_EVENT = 3
    QUERY = 4
    QUERY_RESPONSE = 5
    CONFLICT_RESPONSE = 6
    KEY_REQUEST = 7
    KEY_RESPONSE = 8
    RELAY = 9


class QueryFlag(IntFlag):
    """Flags of a query and of its responses."""

    ACK = 1
    NO_BROADCAST = 2


class Leave(Struct, frozen=True, kw_only=True):
    """Intent: `node` will leave; `prune` also forgets it."""

    ltime: int = 0
    node: str = ""
    prune: bool = False


class Join(Struct, frozen=True, kw_only=True):
    """Intent: `node` is here to stay."""

    ltime: int = 0
    node: str = ""


class UserEventBody(Struct, frozen=True, kw_only=True):
    """One user event inside a push/pull."""

    name: str = ""
    payload: bytes = b""


class UserEvents(Struct, frozen=True, kw_only=True):
    """The user events of one Lamport time inside a push/pull."""

    ltime: int = 0
    events: tuple[UserEventBody, ...] = ()


class SerfPushPull(Struct, frozen=True, kw_only=True):
    """User state of a memberlist push/pull.

    `events` has a slot per Lamport time modulo its length; unused ones are None.
    """

    ltime: int = 0
    status_ltimes: Mapping[str, int] = {}
    left_members: tuple[str, ...] = ()
    event_ltime: int = 0
    events: tuple[UserEvents | None, ...] = ()
    query_ltime: int = 0


class UserEvent(Struct, frozen=True, kw_only=True):
    """A user event; `cc`: receivers may coalesce."""

    ltime: int = 0
    name: str = ""
    payload: bytes = b""
    cc: bool = False


class Query(Struct, frozen=True, kw_only=True):
    """A question to all; answers go straight to `addr`, `port`, by `source_node`.

    `timeout` is in nanoseconds.
    """

    ltime: int = 0
    id: int = 0
    addr: bytes = b""
    port: int = 0
    source_node: str = ""
    filters: tuple[bytes, ...] = ()
    flags: int = 0
    relay_factor: int = 0
    timeout: int = 0
    name: str = ""
    payload: bytes = b""


class QueryResponse(Struct, frozen=True, kw_only=True):
    """Answer (or with the ACK flag: receipt) of `from_`."""

    ltime: int = 0
    id: int = 0
    from_: str = ""
    flags: int = 0
    payload: bytes = b""


class ConflictResponse(Struct, frozen=True, kw_only=True):
    """A member as the answering node knows it."""

    name: str = ""
    addr: bytes = b""
    port: int = 0
    tags: Mapping[str, str] = {}
    status: int = 0
    protocol_min: int = 0
    protocol_max: int = 0
    protocol_cur: int = 0
    delegate_min: int = 0
    delegate_max: int = 0
    delegate_cur: int = 0


class KeyRequest(Struct, frozen=True, kw_only=True):
    """Payload of the key queries; `key` is empty when listing."""

    key: bytes = b""


class KeyResponse(Struct, frozen=True, kw_only=True):
    """Answer to a key query; keys in base64."""

    result: bool = False
    message: str = ""
    keys: tuple[str, ...] = ()
    primary_key: str = ""


class Relay(Struct, frozen=True, kw_only=True):
    """Pass `message` (type byte first) on to `dest_name` at this address."""

    ip: bytes = b""
    port: int = 0
    zone: str = ""
    dest_name: str = ""
    message: bytes = b""


SerfMessage: TypeAlias = (
    Leave
    | Join
    | SerfPushPull
    | UserEvent
    | Query
    | QueryResponse
    | ConflictResponse
    | KeyRequest
    | KeyResponse
    | Relay
)


class _DestAddr(Struct, frozen=True, kw_only=True):
    ip: bytes = b""
    port: int = 0
    zone: str = ""


class _RelayHeader(Struct, frozen=True, kw_only=True):
    dest_addr: _DestAddr = _DestAddr()
    dest_name: str = ""


_U8, _U16, _U32, _U64 = unsigned(8), unsigned(16), unsigned(32), unsigned(64)
_LTIME: Final = Field("LTime", "ltime", _U64)
_NODE: Final = Field("Node", "node", text)
_ID: Final = Field("ID", "id", _U32)
_FLAGS: Final = Field("Flags", "flags", _U32)
_NAME: Final = Field("Name", "name", text)
_ADDR: Final = Field("Addr", "addr", octets)
_PORT: Final = Field("Port", "port", _U16)
_PAYLOAD: Final = Field("Payload", "payload", octets, nil_empty=True)
_BODY_FIELDS: Final = Fields(UserEventBody, _NAME, _PAYLOAD)
_EVENTS_FIELDS: Final = Fields(
    UserEvents,
    _LTIME,
    Field(
        "Events",
        "events",
        sequence(_BODY_FIELDS.from_map),
        write=lambda events: [_BODY_FIELDS.to_map(event) for event in events],
        nil_empty=True,
    ),
)


def _slot(value: object) -> UserEvents | None:
    return None if value is None else _EVENTS_FIELDS.from_map(value)


_FIELDS: Final[dict[int, Fields[Any]]] = {
    MessageType.LEAVE: Fields(Leave, _LTIME, _NODE, Field("Prune", "prune", boolean)),
    MessageType.JOIN: Fields(Join, _LTIME, _NODE),
    MessageType.PUSH_PULL: Fields(
        SerfPushPull,
        _LTIME,
        Field("StatusLTimes", "status_ltimes", mapping(_U64)),
        Field("LeftMembers", "left_members", sequence(text)),
        Field("EventLTime", "event_ltime", _U64),
        Field(
            "Events",
            "events",
            sequence(_slot),
            write=lambda slots: [slot and _EVENTS_FIELDS.to_map(slot) for slot in slots],
        ),
        Field("QueryLTime", "query_ltime", _U64),
    ),
    MessageType.USER_EVENT: Fields(UserEvent, _LTIME, _NAME, _PAYLOAD, Field("CC", "cc", boolean)),
    MessageType.QUERY: Fields(
        Query,
        _LTIME,
        _ID,
        _ADDR,
        _PORT,
        Field("SourceNode", "source_node", text),
        Field("Filters", "filters", sequence(octets), nil_empty=True),
        _FLAGS,
        Field("RelayFactor", "relay_factor", _U8),
        Field("Timeout", "timeout", signed),
        _NAME,
        _PAYLOAD,
    ),
    MessageType.QUERY_RESPONSE: Fields(
        QueryResponse, _LTIME, _ID, Field("From", "from_", text), _FLAGS, _PAYLOAD
    ),
    MessageType.CONFLICT_RESPONSE: Fields(
        ConflictResponse,
        _NAME,
        _ADDR,
        _PORT,
        Field("Tags", "tags", mapping(text)),
        Field("Status", "status", _U8),
        Field("ProtocolMin", "protocol_min", _U8),
        Field("ProtocolMax", "protocol_max", _U8),
        Field("ProtocolCur", "protocol_cur", _U8),
        Field("DelegateMin", "delegate_min", _U8),
        Field("DelegateMax", "delegate_max", _U8),
        Field("DelegateCur", "delegate_cur", _U8),
    ),
    MessageType.KEY_REQUEST: Fields(KeyRequest, Field("Key", "key", octets)),
    MessageType.KEY_RESPONSE: Fields(
        KeyResponse,
        Field("Result", "result", boolean),
        Field("Message", "message", text),
        Field("Keys", "keys", sequence(text), nil_empty=True),
        Field("PrimaryKey", "primary_key", text),
    ),
}
_DEST_FIELDS: Final = Fields(
    _DestAddr, Field("IP", "ip", octets), _PORT, Field("Zone", "zone", text)
)
_RELAY_FIELDS: Final = Fields(
    _RelayHeader,
    Field("DestAddr", "dest_addr", _DEST_FIELDS.from_map, write=_DEST_FIELDS.to_map),
    Field("DestName", "dest_name", text),
)
_TYPE_OF: Final[dict[type[SerfMessage], MessageType]] = {
    Leave: MessageType.LEAVE,
    Join: MessageType.JOIN,
    SerfPushPull: MessageType.PUSH_PULL,
    UserEvent: MessageType.USER_EVENT,
    Query: MessageType.QUERY,
    QueryResponse: MessageType.QUERY_RESPONSE,
    ConflictResponse: MessageType.CONFLICT_RESPONSE,
    KeyRequest: MessageType.KEY_REQUEST,
    KeyResponse: MessageType.KEY_RESPONSE,
}


def encode_message(message: SerfMessage) -> bytes:
    """One serf message: type byte and body."""
    if isinstance(message, Relay):
        header = _RelayHeader(
            dest_addr=_DestAddr(ip=message.ip, port=message.port, zone=message.zone),
            dest_name=message.dest_name,
        )
        return bytes((MessageType.RELAY,)) + _RELAY_FIELDS.encode(header) + message.message
    kind = _TYPE_OF[type(message)]
    return bytes((kind,)) + _FIELDS[kind].encode(message)


def decode_message(data: bytes) -> SerfMessage:
    """Read one serf message.

    Raises:
        UnknownProtocol: No type of ours.
        MalformedPacket: The body does not follow its format.
    """
    if not data:
        raise MalformedPacket("missing serf message type byte")
    if data[0] == MessageType.RELAY:
        return _decode_relay(data)
    fields = _FIELDS.get(data[0])
    if fields is None:
        raise UnknownProtocol(f"serf message type ({data[0]}) not supported")
    message: SerfMessage = fields.decode(data[1:])
    return message


def _decode_relay(data: bytes) -> Relay:
    unpacker = msgpack.Unpacker(raw=True, max_array_len=64, max_map_len=64)
    try:
        unpacker.feed(data[1:])
        value = unpacker.unpack()
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise MalformedPacket(f"msgpack: {error}") from None
    header = _RELAY_FIELDS.from_map(value)
    return Relay(
        ip=header.dest_addr.ip,
        port=header.dest_addr.port,
        zone=header.dest_addr.zone,
        dest_name=header.dest_name,
        message=data[1 + unpacker.tell() :],
    )


# --- Tags ---------------------------------------------------------------------------------------


def encode_tags(tags: Mapping[str, str]) -> bytes:
    """Node meta for `tags`: ``ff`` and a map. The caller checks `TAGS_SIZE_MAX`."""
    return _TAGS_MARK + pack(dict(sorted(tags.items())))


def decode_tags(meta: bytes) -> dict[str, str]:
    """Read node meta; without the leading ``ff`` all of it is the role.

    Raises:
        MalformedPacket: It starts with ``ff`` and is no map of texts.
    """
    if meta[:1] != _TAGS_MARK:
        return {ROLE_TAG: meta.decode("utf-8", "surrogateescape")}
    return mapping(text)(unpack(meta[1:]))


# --- Query filters ------------------------------------------------------------------------------


class NodeFilter(Struct, frozen=True):
    """Only these nodes answer."""

    nodes: tuple[str, ...] = ()


class TagFilter(Struct, frozen=True, kw_only=True):
    """Only nodes in whose `tag` the regular expression `expr` is found answer."""

    tag: str = ""
    expr: str = ""


_TAG_FILTER_FIELDS: Final = Fields(
    TagFilter, Field("Tag", "tag", text), Field("Expr", "expr", text)
)


def encode_filter(query_filter: NodeFilter | TagFilter) -> bytes:
    """One filter: ``0`` and a list of names, or ``1`` and a map."""
    if isinstance(query_filter, NodeFilter):
        return b"\x00" + pack(list(query_filter.nodes))
    return b"\x01" + _TAG_FILTER_FIELDS.encode(query_filter)


def decode_filter(data: bytes) -> NodeFilter | TagFilter:
    """Read one filter.

    Raises:
        UnknownProtocol: Neither kind.
        MalformedPacket: The body does not follow its format.
    """
    kind = data[:1]
    if kind == b"\x00":
        return NodeFilter(sequence(text)(unpack(data[1:])))
    if kind == b"\x01":
        return _TAG_FILTER_FIELDS.decode(data[1:])
    raise UnknownProtocol(f"query filter {data[:1].hex()} not supported")
