"""What every record shares: how its Python names become wire names, and its kinds of values.

A record is declared once. From the declaration come Consul's JSON (`wire.gojson`), the
Go-flavoured MessagePack (`wire.msgpack`) and the stored form. Records are frozen: replace,
never mutate. A list is a tuple; ``None`` is Go's nil where the wire tells nil from empty.
"""

from typing import Annotated, ClassVar, Final

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


def wire_name(name: str) -> str:
    """Name on the wire: ``check_id`` → ``CheckID``, ``grpc_use_tls`` → ``GRPCUseTLS``."""
    return "".join(_INITIALISMS.get(part, part.capitalize()) for part in name.split("_"))


class Record(msgspec.Struct, frozen=True, kw_only=True, rename=wire_name):
    """Base of every record on Consul's wires and in the store.

    Fields stand in the order of Go's declaration, which is the order of the JSON object.
    """

    json_omit_empty: ClassVar[frozenset[str]] = frozenset()
    """Python names of fields that JSON leaves out when empty (Go's ``omitempty``)."""
    json_hidden: ClassVar[frozenset[str]] = frozenset()
    """Python names of fields that JSON never shows (Go's ``json:"-"``)."""
    wire_omit_empty: ClassVar[frozenset[str]] = frozenset()
    """Python names of fields that MessagePack leaves out when zero."""
