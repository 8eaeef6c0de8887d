"""JSON as Go's ``encoding/json`` writes it, driven by the records' declared fields.

Fields stand in order of declaration under their wire names; fields that a record lists in
`json_omit_empty` are left out when empty, those in `json_hidden` always. A duration is Go text
(``"10s"``), a time RFC 3339, bytes are base64, ``<``, ``>``, ``&`` and U+2028/9 are escaped.
Source: protocol/http-api.md §1.
"""

import base64
import functools
from collections.abc import Callable
from typing import Any

import msgspec

from isthmus.model.record import Record
from isthmus.model.timestamp import Timestamp
from isthmus.units import Duration

_ENCODER = msgspec.json.Encoder()
_ESCAPES = (
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
    ("\u2028".encode(), b"\\u2028"),
    ("\u2029".encode(), b"\\u2029"),
)
_INDENT = 4


def encode(value: object, *, pretty: bool = False) -> bytes:
    """Encode a record, or tuples, dicts and scalars with records inside.

    Args:
        value: What to encode; text with surrogates gets replacement characters, as in Go.
        pretty: Indent by four spaces and end with a newline.
    """
    plain = to_plain(value)
    try:
        text = _ENCODER.encode(plain)
    except UnicodeEncodeError:
        text = _ENCODER.encode(_printable(plain))
    for character, escape in _ESCAPES:
        if character in text:
            text = text.replace(character, escape)
    return msgspec.json.format(text, indent=_INDENT) + b"\n" if pretty else text


def to_plain(value: object) -> object:
    """Turn records into dicts and values that any JSON encoder takes."""
    convert = _CONVERT.get(type(value))
    if convert is not None:
        return convert(value)
    if isinstance(value, Record):
        return _encoder(type(value))(value)
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode("ascii")
    return value


@functools.cache
def _encoder(record: type[Record]) -> Callable[[Any], dict[str, object]]:
    fields = [
        (field.encode_name, field.name, field.name in record.json_omit_empty)
        for field in msgspec.structs.fields(record)
        if field.name not in record.json_hidden
    ]

    def encode_record(value: Any) -> dict[str, object]:
        plain: dict[str, object] = {}
        for wire, name, omit in fields:
            item = getattr(value, name)
            if omit and not isinstance(item, Record) and not item:
                continue
            plain[wire] = to_plain(item)
        return plain

    return encode_record


def _same(value: Any) -> Any:
    return value


def _sequence(value: Any) -> list[object]:
    return [to_plain(item) for item in value]


def _mapping(value: Any) -> dict[str, object]:
    """Go sorts the keys of a map."""
    return {key: to_plain(value[key]) for key in sorted(value)}


_CONVERT: dict[type, Callable[[Any], Any]] = {
    str: _same,
    int: _same,
    bool: _same,
    float: _same,
    type(None): _same,
    msgspec.Raw: _same,
    Duration: str,
    Timestamp: str,
    tuple: _sequence,
    list: _sequence,
    dict: _mapping,
}


def _printable(value: object) -> object:
    """The same with replacement characters where text was not UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if isinstance(value, list):
        return [_printable(item) for item in value]
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    return value
