"""What every record shares: how its Python names become wire names, and its kinds of values.

A record is declared once. From the declaration come Consul's JSON (`wire.gojson`), the
Go-flavoured MessagePack (`wire.msgpack`) and the stored form. Records are frozen: replace,
never mutate. A list is a tuple; ``None`` is Go's nil where the wire tells nil from empty.
"""

import functools
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

import msgspec

_INITIALISMS: Final = {
    "acl": "ACL",
    "ca": "CA",
    "dns": "DNS",
    "grpc": "GRPC",
    "h2ping": "H2PING",
    "http": "HTTP",
    "id": "ID",
    "ids": "IDs",
    "json": "JSON",
    "kv": "KV",
    "sni": "SNI",
    "tcp": "TCP",
    "tls": "TLS",
    "ttl": "TTL",
    "wan": "WAN",
}

Uint = Annotated[int, msgspec.Meta(ge=0)]
"""An unsigned integer of Go: the wire refuses negative values."""

Float32 = Annotated[float, "float32"]
"""A float of single precision: MessagePack and JSON show no more digits than it has."""


def wire_name(name: str) -> str:
    """Name on the wire: ``check_id`` → ``CheckID``, ``grpc_use_tls`` → ``GRPCUseTLS``."""
    return "".join(_INITIALISMS.get(part, part.capitalize()) for part in name.split("_"))


class Record(msgspec.Struct, frozen=True, kw_only=True, rename=wire_name, omit_defaults=True):
    """Base of every record on Consul's wires and in the store.

    Fields stand in the order of Go's declaration, which is the order of the JSON object.
    A record may hold others, but not, at any depth, one of its own type.
    """

    json_omit_empty: ClassVar[frozenset[str]] = frozenset()
    """Python names of fields that JSON leaves out when empty, zero or None; of those that may be
    None, a scalar or record only then (Go's ``omitempty`` on a pointer)."""
    json_numbers: ClassVar[frozenset[str]] = frozenset()
    """Python names of durations that JSON shows as a number of nanoseconds, not as text."""
    json_first: ClassVar[frozenset[str]] = frozenset()
    """Python names of fields that JSON shows before all others (Go's embedding of an alias)."""
    json_hidden: ClassVar[frozenset[str]] = frozenset()
    """Python names of fields that JSON never shows (Go's ``json:"-"``)."""
    wire_hidden: ClassVar[frozenset[str]] = frozenset()
    """Python names of fields that MessagePack never shows: only JSON has them."""
    wire_omit_empty: ClassVar[frozenset[str]] = frozenset()
    """Python names of fields that MessagePack leaves out when zero."""
    filter_hidden: ClassVar[frozenset[str]] = frozenset({"create_index", "modify_index"})
    """Python names of fields that filter expressions cannot select, besides those of the base."""


@dataclass(frozen=True, slots=True)
class Field:
    """One declared field of a record.

    Attributes:
        name: Its name in Python.
        wire: Its name on the wires.
        kind: Its declared type: scalars, `Uint`, `Float32`, `Duration`, `Timestamp`, ``bytes``,
            records, ``tuple[X, ...]``, ``dict[str, X]``, ``object``; each perhaps ``| None``.
    """

    name: str
    wire: str
    kind: Any


@functools.cache
def fields_of(record: type[Record]) -> tuple[Field, ...]:
    """The fields of a record in order of declaration, its own before those of its base."""
    kinds = typing.get_type_hints(record, include_extras=True)
    wire = {field.name: field.encode_name for field in msgspec.structs.fields(record)}
    # Of a group of fields that several records share, Go embeds the struct behind their own.
    names = dict.fromkeys(name for base in record.__mro__ for name in _own_names(base))
    return tuple(Field(name, wire[name], kinds[name]) for name in names if name in wire)


def _own_names(base: type) -> list[str]:
    """Names that a class annotates itself."""
    return list(vars(base).get("__annotations__", ()))


def split_optional(kind: Any) -> tuple[Any, bool]:
    """Take ``X | None`` apart: the type X, and whether nil was allowed."""
    if typing.get_origin(kind) in {typing.Union, types.UnionType}:
        (inner,) = (arg for arg in typing.get_args(kind) if arg is not types.NoneType)
        return inner, True
    return kind, False
