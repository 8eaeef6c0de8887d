"""Which protocol speaks on a new connection: its first byte, or the ALPN name inside TLS.

Source: protocol/rpc.md §1, protocol/federation.md §13.
"""

from enum import Enum, auto
from typing import Final

from isthmus.errors import UnknownProtocol
from isthmus.names import Alpn
from isthmus.wire.tlshello import ClientHello


class Speaks(Enum):
    """What a connection carries."""

    RPC_SINGLE = auto()
    """One net/rpc channel."""
    RPC_MULTI = auto()
    """A yamux session, one net/rpc channel per stream."""
    TLS = auto()
    """A TLS handshake, then another type byte inside it."""
    TLS_INSECURE = auto()
    """TLS without client certificate; client agents' first certificate."""
    NATIVE_TLS = auto()
    """TLS from the first byte on; its ALPN name decides."""
    RAFT = auto()
    SNAPSHOT = auto()
    GRPC = auto()
    WAN_PACKETS = auto()
    """Gossip packets behind their lengths."""
    WAN_STREAM = auto()
    """One gossip stream."""


class TypeByte:
    """First byte of a connection that is not native TLS."""

    RPC_SINGLE: Final = 0
    RAFT: Final = 1
    TLS: Final = 3
    RPC_MULTI: Final = 4
    SNAPSHOT: Final = 5
    TLS_INSECURE: Final = 7
    GRPC: Final = 8


TYPE_BYTE_MAX: Final = 8
"""Greater first bytes are native TLS."""

_BY_TYPE_BYTE: Final = {
    TypeByte.RPC_SINGLE: Speaks.RPC_SINGLE,
    TypeByte.RAFT: Speaks.RAFT,
    TypeByte.TLS: Speaks.TLS,
    TypeByte.RPC_MULTI: Speaks.RPC_MULTI,
    TypeByte.SNAPSHOT: Speaks.SNAPSHOT,
    TypeByte.TLS_INSECURE: Speaks.TLS_INSECURE,
    TypeByte.GRPC: Speaks.GRPC,
}  # 2 is the multiplexer that Consul removed, 6 exists in its commercial edition only.

_BY_ALPN: Final = {
    Alpn.RPC_SINGLE: Speaks.RPC_SINGLE,
    Alpn.RAFT: Speaks.RAFT,
    Alpn.RPC_MULTI: Speaks.RPC_MULTI,
    Alpn.RPC_SNAPSHOT: Speaks.SNAPSHOT,
    Alpn.RPC_GRPC: Speaks.GRPC,
    Alpn.WAN_GOSSIP_PACKET: Speaks.WAN_PACKETS,
    Alpn.WAN_GOSSIP_STREAM: Speaks.WAN_STREAM,
}

_INSIDE_TLS: Final = frozenset(
    {Speaks.RPC_SINGLE, Speaks.RAFT, Speaks.RPC_MULTI, Speaks.SNAPSHOT, Speaks.GRPC}
)


def sniff_byte(first: int, *, native_tls: bool) -> Speaks:
    """Decide by a connection's first byte.

    Args:
        first: The byte.
        native_tls: Whether we have what native TLS needs, a CA and a certificate; without it
            every first byte is a type byte.

    Raises:
        UnknownProtocol: No protocol of ours starts so.
    """
    if first > TYPE_BYTE_MAX and native_tls:
        return Speaks.NATIVE_TLS
    try:
        return _BY_TYPE_BYTE[first]
    except KeyError:
        raise UnknownProtocol(f"unrecognized RPC byte: {first}") from None


def sniff_inner_byte(first: int) -> Speaks:
    """Decide by the first byte inside TLS that a type byte announced.

    Raises:
        UnknownProtocol: No protocol of ours starts so, or it is TLS once more.
    """
    speaks = sniff_byte(first, native_tls=False)
    if speaks not in _INSIDE_TLS:
        raise UnknownProtocol(f"RPC byte {first} inside TLS")
    return speaks


def choose_alpn(hello: ClientHello) -> Alpn | None:
    """The protocol that both sides speak and we like best; None when none was offered.

    Our order decides, not the client's.

    Raises:
        UnknownProtocol: Names were offered, none of them ours.

    Source: RFC 7301 §3.2.
    """
    if not hello.alpn:
        return None
    offered = frozenset(hello.alpn)
    for name in Alpn:
        if name in offered:
            return name
    raise UnknownProtocol(f"no ALPN name of ours among {', '.join(hello.alpn)[:100]}")


def sniff_alpn(name: str) -> Speaks:
    """Decide by the negotiated ALPN name.

    Raises:
        UnknownProtocol: We do not speak it, or none was negotiated.
    """
    try:
        return _BY_ALPN[Alpn(name)]
    except (KeyError, ValueError):
        raise UnknownProtocol(f"ALPN name {name!r} is not served") from None
