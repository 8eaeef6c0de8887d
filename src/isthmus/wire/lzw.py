"""LZW as gossip compresses with it: least significant bit first, literals of 8 bits.

Codes: 0-255 literals, 256 clear, 257 end, from 258 on the table. Codes are 9 bits wide and grow to
12 when the next free index reaches a power of two (no early change).

Source: protocol/gossip.md §1.5; the GIF variant of LZW.
"""

from typing import Final

from isthmus.errors import MalformedPacket

DECOMPRESSED_SIZE_MAX: Final = 40 * 1024 * 1024
"""Largest result of `decompress`, as the newest memberlist has it."""

_CLEAR: Final = 256
_END: Final = 257
_FIRST_WIDTH: Final = 9
_LAST_WIDTH: Final = 12
_TABLE_SIZE_MAX: Final = 1 << _LAST_WIDTH
_CODE_MAX: Final = _TABLE_SIZE_MAX - 1
_LITERALS: Final = [bytes((value,)) for value in range(256)] + [b"", b""]


def compress(data: bytes) -> bytes:
    """Compress; byte for byte what current builds of the reference emit (a clear code first)."""
    out = bytearray()
    bits, count = _CLEAR, _FIRST_WIDTH  # Codes not yet written out, and how many bits they are.
    width, high, grow_at = _FIRST_WIDTH, _END, 1 << _FIRST_WIDTH
    table: dict[int, int] = {}
    code = -1
    for literal in data:
        if code < 0:
            code = literal
            continue
        key = code << 8 | literal
        known = table.get(key)
        if known is not None:
            code = known
            continue
        bits |= code << count
        count += width
        while count >= 8:
            out.append(bits & 0xFF)
            bits >>= 8
            count -= 8
        code = literal
        high += 1
        if high == grow_at:
            width += 1
            grow_at <<= 1
        if high == _CODE_MAX:
            bits |= _CLEAR << count
            count += width
            width, high, grow_at = _FIRST_WIDTH, _END, 1 << _FIRST_WIDTH
            table.clear()
        else:
            table[key] = high
    if code >= 0:
        bits |= code << count
        count += width
        high += 1
        if high == grow_at:
            width += 1
        if high == _CODE_MAX:
            bits |= _CLEAR << count
            count += width
            width = _FIRST_WIDTH
    bits |= _END << count
    count += width
    out += bits.to_bytes((count + 7) // 8, "little")
    return bytes(out)


def decompress(data: bytes, *, size_max: int = DECOMPRESSED_SIZE_MAX) -> bytes:
    """Decompress; a leading clear code may be missing, as older toolchains leave it out.

    Args:
        data: Codes up to and including the end code; what follows it is ignored.
        size_max: Largest result allowed, in bytes.

    Raises:
        MalformedPacket: A code is not in the table, the end code is missing, or the result
            would be larger than `size_max`.
    """
    parts: list[bytes] = []
    size = 0
    table = _LITERALS.copy()
    bits = count = 0
    width, previous = _FIRST_WIDTH, b""
    for offset, byte in enumerate(data):
        bits |= byte << count
        count += 8
        if count < width:
            continue
        code = bits & (1 << width) - 1
        bits >>= width
        count -= width
        if code == _CLEAR:
            table = _LITERALS.copy()
            width, previous = _FIRST_WIDTH, b""
            continue
        if code == _END:
            return b"".join(parts)
        if code < len(table):
            entry = table[code]
        elif code == len(table) and previous and code < _TABLE_SIZE_MAX:
            entry = previous + previous[:1]
        else:
            raise MalformedPacket(f"lzw: invalid code {code}", offset=offset)
        size += len(entry)
        if size > size_max:
            raise MalformedPacket(f"decompressed data is larger than limit ({size_max})")
        parts.append(entry)
        if previous and len(table) < _TABLE_SIZE_MAX:
            table.append(previous + entry[:1])
            if len(table) == 1 << width and width < _LAST_WIDTH:
                width += 1
        previous = entry
    raise MalformedPacket("lzw: data ends without an end code", offset=len(data))
