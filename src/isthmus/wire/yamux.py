"""Frames of yamux, the stream multiplexer.

Header, 12 bytes, big-endian: ``version:u8 | type:u8 | flags:u16 | stream:u32 | length:u32``.
Only data frames have a payload, of `length` bytes. Source: protocol/rpc.md §2.
"""

import struct
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

from isthmus.errors import MalformedPacket

HEADER_SIZE: Final = 12
WINDOW_SIZE: Final = 256 * 1024
"""Bytes each side of a stream may send before the other has read any: initial and maximum."""

_VERSION: Final = 0
_HEADER: Final = struct.Struct(">BBHII")


class FrameType(IntEnum):
    """What `length` means, in brackets."""

    DATA = 0
    """Payload follows (its bytes)."""
    WINDOW_UPDATE = 1
    """The receiver of the frame may send more (how many bytes more)."""
    PING = 2
    """Request with SYN, answer with ACK; stream 0 (opaque value, echoed)."""
    GO_AWAY = 3
    """No more streams from you; stream 0 (a `GoAway` reason)."""


class Flag(IntFlag):
    """Flags of a frame."""

    SYN = 1
    """First frame of a stream; ping request."""
    ACK = 2
    """First frame back on a stream; ping answer."""
    FIN = 4
    """The sender sends no more on this stream."""
    RST = 8
    """The stream is aborted."""


class GoAway(IntEnum):
    """Why a session ends."""

    NORMAL = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


class Header(NamedTuple):
    """One frame's header."""

    kind: int
    """A `FrameType`; plain, since it is on the path of every byte."""
    flags: int
    """A set of `Flag`."""
    stream: int
    length: int


def encode_header(kind: int, flags: int, stream: int, length: int) -> bytes:
    """Encode a header."""
    return _HEADER.pack(_VERSION, kind, flags, stream, length)


def decode_header(data: bytes | bytearray, offset: int = 0) -> Header:
    """Decode the header at `offset`; at least `HEADER_SIZE` bytes must be there.

    Unknown flag bits are kept: receivers ignore them.

    Raises:
        MalformedPacket: Another version or an unknown type.
    """
    version, kind, flags, stream, length = _HEADER.unpack_from(data, offset)
    if version != _VERSION:
        raise MalformedPacket(f"yamux version {version}", offset=offset)
    if kind > FrameType.GO_AWAY:
        raise MalformedPacket(f"yamux frame type {kind}", offset=offset)
    return Header(kind, flags, stream, length)
