"""Resource records, encoded once and written into many answers.

Everything but the owner is encoded here; `dns.message` writes the owner, as a pointer where it
can. Layout of a record (RFC 1035 §4.1.3)::

    owner | type u16 | class u16 | TTL u32 | size u16 | data
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

A: Final = 1
NS: Final = 2
CNAME: Final = 5
SOA: Final = 6
PTR: Final = 12
TXT: Final = 16
AAAA: Final = 28
SRV: Final = 33
OPT: Final = 41
IXFR: Final = 251
AXFR: Final = 252
ANY: Final = 255
IN: Final = 1

LABEL_SIZE_MAX: Final = 63
NAME_SIZE_MAX: Final = 255
SRV_PRIORITY: Final = 1
TXT_STRING_SIZE_MAX: Final = 255
TXT_SIZE_MAX: Final = 4096
"""Bytes of a text; what is longer is left out."""

_FIXED: Final = struct.Struct(">HHIH")
_SRV: Final = struct.Struct(">HHH")
_SOA: Final = struct.Struct(">IIIII")
_U16_MAX: Final = 0xFFFF


@dataclass(frozen=True, slots=True)
class Record:
    """An encoded record.

    Attributes:
        owner: Encoded name; empty for the name that was asked for.
        type: One of the numbers above.
        body: All that follows the owner.
        target: Encoded name that ends the data, to which other owners may point; else empty.
    """

    owner: bytes
    type: int
    body: bytes
    target: bytes = b""


@lru_cache(maxsize=4096)
def encode_name(text: str) -> bytes | None:
    """A name's bytes, uncompressed; None when it cannot be a name.

    Bytes of labels are UTF-8: nodes may be named so.
    """
    parts: list[bytes] = []
    for label in text.rstrip(".").split("."):
        encoded = label.encode(errors="replace")
        if not 0 < len(encoded) <= LABEL_SIZE_MAX:
            return None
        parts += (bytes([len(encoded)]), encoded)
    name = b"".join(parts) + b"\0"
    return name if len(name) <= NAME_SIZE_MAX else None


def _record(owner: bytes, kind: int, ttl: int, data: bytes, target: bytes = b"") -> Record:
    return Record(owner, kind, _FIXED.pack(kind, IN, ttl, len(data)) + data, target)


def address(owner: bytes, packed: bytes, ttl: int) -> Record:
    """An A record of 4 bytes, or an AAAA record of 16."""
    return _record(owner, A if len(packed) == 4 else AAAA, ttl, packed)


def srv(owner: bytes, *, weight: int, port: int, target: bytes, ttl: int) -> Record:
    """Where a service is; the target is not compressed (RFC 2782)."""
    data = _SRV.pack(SRV_PRIORITY, weight & _U16_MAX, port & _U16_MAX) + target
    return _record(owner, SRV, ttl, data, target)


def cname(owner: bytes, target: bytes, ttl: int) -> Record:
    """Another name of the same."""
    return _record(owner, CNAME, ttl, target, target)


def ns(owner: bytes, target: bytes, ttl: int) -> Record:
    """A name server of the domain."""
    return _record(owner, NS, ttl, target, target)


def ptr(owner: bytes, target: bytes, ttl: int) -> Record:
    """The name that belongs to an address."""
    return _record(owner, PTR, ttl, target, target)


def txt(owner: bytes, text: bytes, ttl: int) -> Record:
    """A text, in strings of at most 255 bytes."""
    step = TXT_STRING_SIZE_MAX
    strings = [text[at : at + step] for at in range(0, len(text), step)] or [b""]
    return _record(owner, TXT, ttl, b"".join([bytes([len(one)]) + one for one in strings]))


def soa(domain: str, *, serial: int, times: Iterable[int], ttl: int) -> Record:
    """The start of a domain.

    Args:
        domain: Without the dot at its end.
        serial: Version of the domain's data.
        times: Refresh, retry, expire and the TTL of negative answers, in seconds.
        ttl: In seconds.
    """
    owner, first, mail = map(encode_name, (domain, f"ns.{domain}", f"hostmaster.{domain}"))
    assert owner is not None
    assert first is not None
    assert mail is not None
    return _record(owner, SOA, ttl, first + mail + _SOA.pack(serial & 0xFFFFFFFF, *times))


def foreign(owner: bytes, kind: int, ttl: int, data: bytes, target: bytes = b"") -> Record:
    """A record that another server gave, its data without compression."""
    return _record(owner, kind, ttl, data, target)


def with_ttl_of(record: Record, other: Record) -> Record:
    """A record with the TTL of another."""
    body = record.body[:4] + other.body[4:8] + record.body[8:]
    return Record(record.owner, record.type, body, record.target)


def node_texts(owner: bytes, meta: Iterable[tuple[str, str]], ttl: int) -> list[Record]:
    """A node's metadata: ``key=value`` (RFC 1464), of keys that begin ``rfc1035-`` the value."""
    texts = [
        value.encode()
        if key.lower().startswith("rfc1035-")
        else f"{_attribute(key)}={value.replace('`', '``')}".encode()
        for key, value in meta
    ]
    return [txt(owner, text, ttl) for text in texts if len(text) <= TXT_SIZE_MAX]


def _attribute(key: str) -> str:
    """An attribute's name as RFC 1464 quotes it."""
    key = key.replace("`", "``").replace("=", "`=")
    inner = key.strip(" ")
    before = len(key) - len(key.lstrip(" ")) if inner else len(key)
    after = len(key) - before - len(inner)
    return "` " * before + inner + "` " * after
