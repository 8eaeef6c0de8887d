"""Values that marshal themselves: one raw string on the wire, a sequence of MessagePack inside.

Consul's config entry messages are such strings. Each function here takes or gives the *plain*
form, a string with surrogates as `msgpack.Unpacker` yields it, ready to stand in a message.

=============================  ================================================================
value                          content of the string
=============================  ================================================================
`IndexedGenericConfigEntries`  count, then count × (kind, entry), then the query's meta
`IndexedConfigEntries`         count, kind, map of ``Entries``, ``Kind`` and the query's meta
`ConfigEntryResponse`          kind, entry, the query's meta; without an entry ``""``, meta
`ConfigEntryRequest`           kind, map of the request
`ServiceConfigResponse`        one map
a `ProxyConfigEntry`           one map, so that inside the others it is wrapped twice
=============================  ================================================================

Source: protocol/rpc.md §3.5.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import msgspec

from isthmus.errors import MalformedPacket
from isthmus.model.config_entry import (
    CONFIG_ENTRY_TYPES,
    MESH,
    PROXY_DEFAULTS,
    ConfigEntry,
    ConfigEntryRequest,
    ConfigEntryResponse,
    IndexedConfigEntries,
    IndexedGenericConfigEntries,
    ProxyConfigEntry,
    ServiceConfigResponse,
)
from isthmus.model.record import Record
from isthmus.wire.msgpack import Unpacker, bytes_of, encode, from_plain, pack, to_plain

T = TypeVar("T")
R = TypeVar("R", bound=Record)

Blob = (
    IndexedGenericConfigEntries
    | IndexedConfigEntries
    | ConfigEntryResponse
    | ConfigEntryRequest
    | ServiceConfigResponse
)
"""The messages that are one string on the wire."""


def encode_blob(value: Blob) -> bytes:
    """Encode a message as MessagePack: the string and what is in it."""
    return pack(to_blob(value))


def decode_blob(kind: type[T], data: bytes) -> T:
    """Decode exactly one message from MessagePack.

    Raises:
        MalformedPacket: Not MessagePack, not one string, or of another content.
    """
    unpacker = Unpacker()
    unpacker.feed(data)
    values = list(unpacker)
    if len(values) != 1 or unpacker.offset != len(data):
        raise MalformedPacket(f"expected one MessagePack value, found {len(values)}")
    return from_blob(kind, values[0])


def encode_message(value: object) -> bytes:
    """Encode any argument or reply of a method, as its type goes over the wire."""
    return encode_blob(cast(Blob, value)) if is_blob(type(value)) else encode(value)


def message_from_plain(kind: type[T], value: object) -> T:
    """An argument or reply of a method out of its plain value.

    Raises:
        MalformedPacket: As `from_blob` and `wire.msgpack.from_plain`.
    """
    return from_blob(kind, value) if is_blob(kind) else cast(T, from_plain(kind, value))


def is_blob(kind: object) -> bool:
    """Whether messages of this type are strings on the wire."""
    return kind in _READERS


def to_blob(value: Blob) -> str:
    """The string that stands for a message."""
    match value:
        case IndexedGenericConfigEntries():
            content: list[object] = [len(value.entries)]
            for item in value.entries:
                content += _kind_and_entry(item)
            content.append(to_plain(value))
        case IndexedConfigEntries():
            entries = [_entry_to_plain(entry) for entry in value.entries]
            content = [len(entries), value.kind, _with(value, Entries=entries)]
        case ConfigEntryResponse():
            kind, entry = _kind_and_entry(value.entry)
            content = [kind, *([] if value.entry is None else [entry]), to_plain(value)]
        case ConfigEntryRequest():
            kind, entry = _kind_and_entry(value.entry)
            content = [kind, _with(value, Entry=entry)]
        case ServiceConfigResponse():
            content = [to_plain(value)]
    return _wrap(*content)


def from_blob(kind: type[T], value: object) -> T:
    """Take a message out of its string.

    Raises:
        MalformedPacket: Not a string, or another sequence than the type has; also an entry of
            a kind that we do not know, as in Consul, whose text it carries.
    """
    message: T = _READERS[kind](_unwrap(value))
    return message


# Strings --------------------------------------------------------------------------------------


def _wrap(*content: object) -> str:
    return b"".join(map(pack, content)).decode("utf-8", "surrogateescape")


def _unwrap(value: object) -> list[object]:
    """The sequence in a string."""
    if not isinstance(value, str):
        raise MalformedPacket(f"expected a string of MessagePack, found {type(value).__name__}")
    data = bytes_of(value)
    unpacker = Unpacker(size_max=max(len(data), 1))
    unpacker.feed(data)
    content = list(unpacker)
    if unpacker.offset != len(data):
        raise MalformedPacket("string of MessagePack is cut off", offset=unpacker.offset)
    return content


def _entry_to_plain(entry: ConfigEntry) -> object:
    plain = to_plain(entry)
    return _wrap(plain) if isinstance(entry, ProxyConfigEntry) else plain


def _kind_inside(entry: object) -> object:
    """Kind of an entry in a list of all kinds, which Consul itself sends but cannot read."""
    if isinstance(entry, dict):
        return entry.get("Kind", MESH)
    return PROXY_DEFAULTS


def _kind_and_entry(entry: ConfigEntry | None) -> tuple[str, object]:
    return ("", None) if entry is None else (entry.kind, _entry_to_plain(entry))


def _entry_from_plain(kind: object, value: object) -> ConfigEntry:
    entry_type = CONFIG_ENTRY_TYPES.get(kind) if isinstance(kind, str) else None
    if entry_type is None:
        raise MalformedPacket(f"invalid config entry kind: {kind}")
    if entry_type is ProxyConfigEntry:
        (value,) = _sized(_unwrap(value), 1)
    entry: ConfigEntry = from_plain(entry_type, value)
    return entry


def _sized(content: list[object], count: int) -> list[object]:
    if len(content) != count:
        raise MalformedPacket(f"expected {count} values in the string, found {len(content)}")
    return content


# Messages -------------------------------------------------------------------------------------


def _with(message: Record, **more: object) -> dict[str, object]:
    """The fields of a message and those that only this module can write, sorted."""
    fields = cast(dict[str, object], to_plain(message))
    return dict(sorted((fields | more).items()))


def _replaced(record_type: type[R], plain: object, /, **fields: object) -> R:
    """A record from its map, and the fields that are not in the map as such."""
    record: R = from_plain(record_type, plain)
    return msgspec.structs.replace(record, **fields)


def _read_all(content: list[object]) -> IndexedGenericConfigEntries:
    count = content[0] if content else None
    if type(count) is not int or len(content) != 2 + 2 * count:
        raise MalformedPacket("count of config entries does not match their number")
    entries = [
        _entry_from_plain(kind, value)
        for kind, value in zip(content[1:-1:2], content[2:-1:2], strict=True)
    ]
    return _replaced(IndexedGenericConfigEntries, content[-1], entries=tuple(entries))


def _read_list(content: list[object]) -> IndexedConfigEntries:
    count, kind, fields = _sized(content, 3)
    if not isinstance(fields, dict) or not isinstance(kind, str):
        raise MalformedPacket("expected a kind and a map")
    plain = fields.get("Entries") or []
    if type(count) is not int or not isinstance(plain, list) or len(plain) != count:
        raise MalformedPacket("count of config entries does not match their number")
    entries = tuple(_entry_from_plain(kind or _kind_inside(entry), entry) for entry in plain)
    return _replaced(IndexedConfigEntries, fields, kind=kind, entries=entries)


def _read_response(content: list[object]) -> ConfigEntryResponse:
    if len(content) == 2 and content[0] == "":
        return _replaced(ConfigEntryResponse, content[1])
    kind, entry, meta = _sized(content, 3)
    return _replaced(ConfigEntryResponse, meta, entry=_entry_from_plain(kind, entry))


def _read_request(content: list[object]) -> ConfigEntryRequest:
    kind, fields = _sized(content, 2)
    if not isinstance(fields, dict):
        raise MalformedPacket("expected a map")
    entry = fields.get("Entry")
    if entry is None:
        return _replaced(ConfigEntryRequest, fields)
    return _replaced(ConfigEntryRequest, fields, entry=_entry_from_plain(kind, entry))


def _read_service_config(content: list[object]) -> ServiceConfigResponse:
    (fields,) = _sized(content, 1)
    response: ServiceConfigResponse = from_plain(ServiceConfigResponse, fields)
    return response


_READERS: Final[dict[object, Callable[[list[object]], Any]]] = {
    IndexedGenericConfigEntries: _read_all,
    IndexedConfigEntries: _read_list,
    ConfigEntryResponse: _read_response,
    ConfigEntryRequest: _read_request,
    ServiceConfigResponse: _read_service_config,
}
