"""Literals and numbers as Go's ``strconv`` reads and shows them, with its error texts.

Text that is not UTF-8 is held as everywhere else: each such byte as a lone surrogate
(``surrogateescape``).
"""

import math
import re
import struct
from typing import Final

_ESCAPES: Final = {
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "\\": "\\",
    '"': '"',
}
_SHOWN: Final = {shown: f"\\{letter}" for letter, shown in _ESCAPES.items()}
_UNQUOTED: Final = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|([0-7]{3})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))|([^\\])", re.DOTALL
)
_BYTE_MAX: Final = 0xFF
_RUNE_MAX: Final = 0x10FFFF
_SURROGATES: Final = range(0xD800, 0xE000)
_ESCAPED_BYTES: Final = range(0xDC80, 0xDD00)
"""Lone surrogates that stand for a byte each."""
_WIDE_FROM: Final = 0x10000

_SYNTAX: Final = "invalid syntax"
_RANGE: Final = "value out of range"
_DIGITS: Final = "0123456789abcdef"
_BASES: Final = {"b": 2, "o": 8, "x": 16}
_DECIMAL: Final = 10
_OCTAL: Final = 8
_SEPARATED: Final = re.compile(r"[0-9a-fA-F]+(_[0-9a-fA-F]+)*")
_FLOAT: Final = re.compile(
    r"""
    [+-]? (?: inf | infinity
      | (?: {d} (?:\.{d}?)? | \.{d} ) (?: e[+-]?{d} )?
      | 0x_? (?: {h} (?:\.{h}?)? | \.{h} ) p[+-]?{d}
    ) | nan
    """.format(d="(?:[0-9]+(?:_[0-9]+)*)", h="(?:[0-9a-f]+(?:_[0-9a-f]+)*)"),
    re.IGNORECASE | re.VERBOSE | re.ASCII,
)
_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})


def quote(text: str) -> str:
    """Text in double quotes as Go shows it: ``strconv.Quote``."""
    return '"' + "".join([_SHOWN.get(one) or _show(one) for one in text]) + '"'


def _show(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    if code in _ESCAPED_BYTES:
        return f"\\x{code & _BYTE_MAX:02x}"
    if character < " " or character == "\x7f":
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < _WIDE_FROM else f"\\U{code:08x}"


def unquote(literal: str) -> str:
    """The text that a literal in double quotes or backquotes means: ``strconv.Unquote``.

    Args:
        literal: With its quotes, of which it has no more inside.

    Raises:
        ValueError: A newline or a wrong escape in double quotes; the text is Go's.
    """
    inside = literal[1:-1]
    if literal[0] == "`":
        return inside.replace("\r", "")
    if "\n" in inside:
        raise ValueError(_SYNTAX)
    if "\\" not in inside:
        return inside
    pieces = list[bytes]()
    at = 0
    while at < len(inside):
        found = _UNQUOTED.match(inside, at)
        if found is None:
            raise ValueError(_SYNTAX)
        pieces.append(_meant(found))
        at = found.end()
    return b"".join(pieces).decode("utf-8", "surrogateescape")


def _meant(found: re.Match[str]) -> bytes:
    """Bytes of one character of a literal, escaped or not."""
    byte, octal, short, wide, letter, plain = found.groups()
    if plain:
        return str(plain).encode("utf-8", "surrogateescape")
    if letter:
        if letter not in _ESCAPES:
            raise ValueError(_SYNTAX)
        return _ESCAPES[letter].encode()
    code = int(octal, 8) if octal else int(byte or short or wide, 16)
    if byte or octal:
        if code > _BYTE_MAX:
            raise ValueError(_SYNTAX)
        return bytes([code])
    if code > _RUNE_MAX or code in _SURROGATES:
        raise ValueError(_SYNTAX)
    return chr(code).encode()


def parse_bool(text: str) -> bool:
    """Parse ``true``, ``T``, ``1`` and the like.

    Raises:
        ValueError: It is none; the text is Go's.
    """
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise _wrong("ParseBool", text, _SYNTAX)


def parse_int(text: str, bits: int = 64) -> int:
    """Parse a signed number, also ``0x1f``, ``0o17``, ``017``, ``0b1`` and ``1_000``.

    Raises:
        ValueError: It is none, or does not fit into `bits`; the text is Go's.
    """
    function = "ParseInt"
    negative = text.startswith("-")
    number = _magnitude(text[1:] if text[:1] in ("-", "+") else text, text, function)
    limit = 1 << (bits - 1)
    if number is None or number > limit or (number == limit and not negative):
        raise _wrong(function, text, _RANGE)
    return -number if negative else number


def parse_uint(text: str, bits: int = 64) -> int:
    """Parse an unsigned number, in the bases of `parse_int`.

    Raises:
        ValueError: It is none, or does not fit into `bits`; the text is Go's.
    """
    function = "ParseUint"
    number = _magnitude(text, text, function)
    if number is None or number >> bits:
        raise _wrong(function, text, _RANGE)
    return number


def _magnitude(digits: str, text: str, function: str) -> int | None:
    """The number without its sign; None when it is over 64 bits, whatever follows then."""
    base = _DECIMAL
    body = digits
    if digits.startswith("0"):
        base, body = _OCTAL, digits[1:]
        if len(digits) > 2 and digits[1].lower() in _BASES:
            base, body = _BASES[digits[1].lower()], digits[2:]
    number = 0
    for digit in body:
        if digit == "_":
            continue
        value = _DIGITS.find(digit.lower()) if digit.isascii() else -1
        if not 0 <= value < base:
            raise _wrong(function, text, _SYNTAX)
        number = number * base + value
        if number >> 64:
            return None
    # A prefix counts as a digit: an underscore may follow it.
    counted = body if base == _DECIMAL else "0" + body
    if not digits or ("_" in digits and not _SEPARATED.fullmatch(counted)):
        raise _wrong(function, text, _SYNTAX)
    return number


def parse_float(text: str, bits: int = 64) -> float:
    """Parse a number with a fraction, also in Go's hexadecimal form.

    Returns:
        The nearest number of 64 or 32 `bits`.

    Raises:
        ValueError: It is none, or too large; the text is Go's.
    """
    function = "ParseFloat"
    if not _FLOAT.fullmatch(text):
        raise _wrong(function, text, _SYNTAX)
    try:
        number = float.fromhex(text.replace("_", "")) if "x" in text.lower() else float(text)
        if bits == 32 and math.isfinite(number):
            number = float(struct.unpack("<f", struct.pack("<f", number))[0])
    except OverflowError:
        raise _wrong(function, text, _RANGE) from None
    if math.isinf(number) and "n" not in text.lower():
        raise _wrong(function, text, _RANGE)
    return number


def _wrong(function: str, text: str, why: str) -> ValueError:
    return ValueError(f"strconv.{function}: parsing {quote(text)}: {why}")
