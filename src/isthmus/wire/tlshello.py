"""SNI and ALPN out of a TLS ClientHello, without doing TLS.

The server port looks at the hello before it decides which thread does the handshake; the mesh
gateway looks at it and never does a handshake at all.
"""

import struct
from dataclasses import dataclass
from typing import Final

from isthmus.errors import MalformedPacket

HELLO_SIZE_MAX: Final = 16 * 1024
"""Largest ClientHello that is looked at; Go's own limit for handshake messages is 64 KiB."""

RECORD_HANDSHAKE: Final = 0x16
"""First byte of a TLS connection: record type "handshake"."""

_RECORD_HEADER_SIZE: Final = 5
_RECORD_SIZE_MAX: Final = 16 * 1024
_MESSAGE_HEADER_SIZE: Final = 4
_CLIENT_HELLO: Final = 1
_SESSION_ID_AT: Final = 2 + 32  # After the legacy version and the random.
_SESSION_ID_SIZE_MAX: Final = 32
_SERVER_NAME: Final = 0  # Extension types.
_ALPN: Final = 16

_u16 = struct.Struct(">H").unpack_from
_u16_pair = struct.Struct(">HH").unpack_from


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What a TLS client says before anything is encrypted.

    Attributes:
        server_name: SNI in lower case, empty when the client sent none.
        alpn: Protocols offered, in the client's order.
        size: Bytes of the records that carry the hello, record headers included.
    """

    server_name: str
    alpn: tuple[str, ...]
    size: int


def parse_client_hello(data: bytes) -> ClientHello | None:
    """Parse the ClientHello that `data` starts with; what follows it is ignored.

    Layout: records ``22:u8 | version:u16 | length:u16 | fragment``; the fragments joined are
    ``1:u8 | length:u24 | version:u16 | random:32 | session id:u8… | cipher suites:u16… |
    compression methods:u8… | extensions:u16…``.

    Args:
        data: All bytes received so far, from the connection's first one.

    Returns:
        The hello, or None when its end has not arrived yet.

    Raises:
        MalformedPacket: It is not a ClientHello, does not follow the format, or is larger than
            `HELLO_SIZE_MAX`. Bytes that can no longer become a hello are refused at once.

    Source: RFC 8446 §4.1.2, §5.1; RFC 6066 §3; RFC 7301 §3.1.
    """
    if len(data) >= _RECORD_HEADER_SIZE + _MESSAGE_HEADER_SIZE and data[0] == RECORD_HANDSHAKE:
        (fragment_size,) = _u16(data, 3)
        message_size = int.from_bytes(data[6:9], "big")
        if (
            data[1] == 3
            and data[5] == _CLIENT_HELLO
            and message_size + _MESSAGE_HEADER_SIZE <= fragment_size <= _RECORD_SIZE_MAX
        ):
            # Nearly always the hello is in one record: no copy, no loop.
            end = _RECORD_HEADER_SIZE + fragment_size
            if len(data) < end:
                return None
            start = _RECORD_HEADER_SIZE + _MESSAGE_HEADER_SIZE
            return _parse_body(data, start, start + message_size, end)
    return _parse_fragments(data)


def _parse_fragments(data: bytes) -> ClientHello | None:
    """Join the records of the hello, refusing a bad one at its first bad byte."""
    message = bytearray()
    offset = 0
    while True:
        header = data[offset : offset + _RECORD_HEADER_SIZE]
        if header[:1] not in {b"", b"\x16"} or header[1:2] not in {b"", b"\x03"}:
            raise MalformedPacket("not a TLS handshake record", offset=offset)
        if len(header) < _RECORD_HEADER_SIZE:
            return None
        (size,) = _u16(header, 3)
        if not 0 < size <= _RECORD_SIZE_MAX:
            raise MalformedPacket(f"TLS record of {size} bytes", offset=offset + 3)
        start = offset + _RECORD_HEADER_SIZE
        message += data[start : start + size]
        offset = start + size
        if message and message[0] != _CLIENT_HELLO:
            raise MalformedPacket(f"TLS handshake message {message[0]}, not ClientHello")
        if len(message) < _MESSAGE_HEADER_SIZE:
            if len(data) < offset:
                return None
            continue
        message_size = int.from_bytes(message[1:4], "big")
        if message_size > HELLO_SIZE_MAX:
            raise MalformedPacket(f"ClientHello of {message_size} bytes, limit {HELLO_SIZE_MAX}")
        if len(data) < offset:
            return None
        if len(message) >= _MESSAGE_HEADER_SIZE + message_size:
            end = _MESSAGE_HEADER_SIZE + message_size
            return _parse_body(bytes(message), _MESSAGE_HEADER_SIZE, end, offset)


def _parse_body(data: bytes, start: int, end: int, size: int) -> ClientHello:
    """Parse the hello's body ``data[start:end]``; `size` is for the result only."""
    try:
        at = start + _SESSION_ID_AT
        session_id_size = data[at]
        if session_id_size > _SESSION_ID_SIZE_MAX:
            raise MalformedPacket(f"TLS session id of {session_id_size} bytes", offset=at)
        at += 1 + session_id_size
        (ciphers_size,) = _u16(data, at)
        if ciphers_size < 2 or ciphers_size % 2:
            raise MalformedPacket(f"TLS cipher suites of {ciphers_size} bytes", offset=at)
        at += 2 + ciphers_size
        compressions_size = data[at]
        if compressions_size == 0:
            raise MalformedPacket("no TLS compression method", offset=at)
        at += 1 + compressions_size
        if at == end:
            return ClientHello("", (), size)
        (extensions_size,) = _u16(data, at)
        at += 2
        if at + extensions_size != end:
            raise MalformedPacket("TLS extensions do not end with the hello", offset=at)
        server_name: str | None = None
        alpn: tuple[str, ...] | None = None
        while at < end:
            kind, length = _u16_pair(data, at)
            at += 4
            if kind == _SERVER_NAME:
                if server_name is not None:
                    raise MalformedPacket("two server name extensions", offset=at)
                server_name = _parse_server_name(data, at, at + length)
            elif kind == _ALPN:
                if alpn is not None:
                    raise MalformedPacket("two ALPN extensions", offset=at)
                alpn = _parse_alpn(data, at, at + length)
            at += length
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise MalformedPacket(f"ClientHello is cut off or garbled: {error}") from None
    if at != end:
        raise MalformedPacket("ClientHello is cut off", offset=at)
    return ClientHello(server_name or "", alpn or (), size)


def _parse_server_name(data: bytes, start: int, end: int) -> str:
    """Layout: ``list:u16 | (type:u8 | name:u16…) …``; type 0, exactly once, is a host name."""
    (list_size,) = _u16(data, start)
    kind, name_size = data[start + 2], _u16(data, start + 3)[0]
    if start + 2 + list_size != end or kind != 0 or name_size == 0 or name_size + 3 != list_size:
        raise MalformedPacket("bad server name extension", offset=start)
    name = data[start + 5 : end].decode("ascii").lower()
    if "\0" in name:
        raise MalformedPacket("bad server name extension", offset=start)
    return name


def _parse_alpn(data: bytes, start: int, end: int) -> tuple[str, ...]:
    """Layout: ``list:u16 | (name:u8…) …``, at least one name, none empty."""
    (list_size,) = _u16(data, start)
    at = start + 2
    if at + list_size != end or list_size == 0:
        raise MalformedPacket("bad ALPN extension", offset=start)
    names = []
    while at < end:
        size = data[at]
        at += 1
        if size == 0 or at + size > end:
            raise MalformedPacket("bad ALPN extension", offset=at)
        names.append(data[at : at + size].decode("latin-1"))
        at += size
    return tuple(names)
