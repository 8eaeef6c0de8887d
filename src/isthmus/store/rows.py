"""Stored form of a row: a version byte, then the row in MessagePack.

===========  ===================================================================================
version 2    a map of the fields that differ from their defaults, under their names on the wire;
             a record inside is a map too
version 1    an array of all field values in order of declaration; a record inside is an array
             too, or nil where it equals the field's default. For rows whose text is not UTF-8,
             which the library that is so fast at version 2 does not read.
===========  ===================================================================================

Durations are nanoseconds. A field added to a record needs nothing: rows without it take the
default. Any other change of a stored record needs a new version.
Source: design of storage, §4.
"""

import functools
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar, cast, get_args, get_origin

import msgpack
import msgspec

from isthmus.model.record import Record, fields_of, split_optional
from isthmus.model.timestamp import Timestamp
from isthmus.store.engine import Corrupt
from isthmus.units import Duration

R = TypeVar("R", bound=Record)
Convert = Callable[[Any], Any]

ROW_VERSION: Final = 2
_VERSION: Final = bytes([ROW_VERSION])
_ARRAY_VERSION: Final = b"\x01"
_ARRAY: Final = b"\xdd"
_COUNT: Final = struct.Struct(">I")
"""A list in MessagePack is this byte, this number, and then the values one behind the other."""


def encode_row(row: Record) -> bytes:
    """Encode a row."""
    try:
        return _VERSION + _ENCODER.encode(row)
    except UnicodeEncodeError:
        return _encode_array(row)


def _encode_array(row: Record) -> bytes:
    values = _record_encoder(type(row))(row)
    return _ARRAY_VERSION + cast(
        bytes, msgpack.packb(values, use_bin_type=True, unicode_errors="surrogateescape")
    )


def decode_row(kind: type[R], data: bytes) -> R:
    """Decode a row of a table that holds records of type `kind`.

    Raises:
        Corrupt: Not a row of this kind, or of a version that is not known: of a newer release.
    """
    version = data[:1]
    try:
        if version == _VERSION:
            return cast(R, _map_decoder(kind)(memoryview(data)[1:]))
        if version == _ARRAY_VERSION:
            return _decode_array(kind, data)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise Corrupt(f"{kind.__name__}: unreadable row: {error}", operation="load") from error
    text = f"{kind.__name__}: unknown row version {version.hex()}"
    if version > _VERSION:
        text += ": a newer release wrote it; upgrade this server too"
    raise Corrupt(text, operation="load")


def decode_rows(kind: type[R], rows: Sequence[bytes]) -> list[R]:
    """As `decode_row` for many rows of one kind, all in one go.

    Raises:
        Corrupt: One of them is not a row of this kind.
    """
    if all(data[:1] == _VERSION for data in rows):
        together = b"".join([_ARRAY, _COUNT.pack(len(rows)), *[data[1:] for data in rows]])
        try:
            return cast(list[R], _list_decoder(kind)(together))
        except (ValueError, RecursionError):
            pass  # Which of them it is comes out below.
    return [decode_row(kind, data) for data in rows]


def _plain(value: object) -> int:
    """What the encoder does not know: durations."""
    if isinstance(value, Duration):
        return int(value)
    raise TypeError(f"a row cannot hold {type(value).__name__}")


def _of_plain(kind: type, value: Any) -> object:
    """What the decoder does not know: durations, and free values, which are as they come."""
    if kind is Duration and type(value) is int:
        return Duration(value)
    if kind is object:
        return value
    raise ValueError(f"{value!r} is no {kind.__name__}")


_ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=_plain)


@functools.cache
def _map_decoder(kind: type[Record]) -> Callable[[bytes | memoryview], Record]:
    return msgspec.msgpack.Decoder(kind, dec_hook=_of_plain).decode


@functools.cache
def _list_decoder(kind: type[Record]) -> Callable[[bytes], list[Record]]:
    return msgspec.msgpack.Decoder(list[kind], dec_hook=_of_plain).decode  # type: ignore[valid-type]


def _decode_array(kind: type[R], data: bytes) -> R:
    values = msgpack.unpackb(
        memoryview(data)[1:],
        raw=False,
        strict_map_key=False,
        unicode_errors="surrogateescape",
    )
    return cast(R, _record_decoder(kind)(values))


@functools.cache
def _fields(record: type[Record]) -> tuple[tuple[str, Any, object], ...]:
    """(name, declared type, default) of each field; the default only where it is a record."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(record)}
    return tuple(
        (field.name, field.kind, default if isinstance(default, Record) else None)
        for field in fields_of(record)
        for default in (defaults[field.name],)
    )


@functools.cache
def _record_encoder(record: type[Record]) -> Convert:
    fields = [(name, _encoder(kind), default) for name, kind, default in _fields(record)]

    def encode(row: Any) -> list[object]:
        values: list[object] = []
        for name, convert, default in fields:
            value = getattr(row, name)
            if convert is not None and value is not None:
                value = None if default is not None and value == default else convert(value)
            values.append(value)
        return values

    return encode


def _encoder(kind: Any) -> Convert | None:
    """Conversion of one field's values; None when they are plain already."""
    kind, _ = split_optional(kind)
    if isinstance(kind, type) and issubclass(kind, Record):
        return lambda value: _record_encoder(kind)(value)
    if kind is Timestamp:
        return lambda value: [value.seconds, value.nanoseconds, value.offset_minutes]
    if kind is Duration:
        return int
    origin = get_origin(kind)
    if origin is tuple:
        item = _encoder(get_args(kind)[0])
        return list if item is None else lambda value: [item(entry) for entry in value]
    if origin is dict:
        entry = _encoder(get_args(kind)[1])
        if entry is None:
            return None
        return lambda value: {key: entry(item) for key, item in value.items()}
    return None


@functools.cache
def _record_decoder(record: type[Record]) -> Convert:
    fields = _fields(record)
    names = [name for name, _, _ in fields]
    special = [
        (position, name, convert, default)
        for position, (name, kind, default) in enumerate(fields)
        for convert in (_decoder(kind),)
        if convert is not None
    ]

    def decode(values: Any) -> Any:
        if not isinstance(values, list) or len(values) > len(names):
            raise ValueError(f"expected at most {len(names)} values of {record.__name__}")
        found = dict(zip(names, values, strict=False))
        for position, name, convert, default in special:
            if position >= len(values):
                break
            value = values[position]
            found[name] = default if value is None else convert(value)
        return record(**found)

    return decode


def _decoder(kind: Any) -> Convert | None:
    kind, _ = split_optional(kind)
    if isinstance(kind, type) and issubclass(kind, Record):
        return lambda value: _record_decoder(kind)(value)
    if kind is Timestamp:
        return lambda value: Timestamp(*value)
    if kind is Duration:
        return Duration
    origin = get_origin(kind)
    if origin is tuple:
        item = _decoder(get_args(kind)[0])
        return tuple if item is None else lambda value: tuple([item(entry) for entry in value])
    if origin is dict:
        entry = _decoder(get_args(kind)[1])
        if entry is None:
            return None
        return lambda value: {key: entry(item) for key, item in value.items()}
    return None
