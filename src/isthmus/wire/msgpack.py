"""MessagePack as Go's old-spec codec writes it, driven by the records' declared fields.

Structs are maps with all fields present and keys sorted by bytes; strings and bytes share the
raw family (never str8, never bin); integers take their smallest form, unsigned when not
negative; a time is a string of 15 bytes: ``version:u8 | seconds:i64be | nanoseconds:i32be |
offset_minutes:i16be``. Source: protocol/rpc.md §3.

Each record type gets one function per direction, generated from its declaration at first use:
straight-line code of what one would write by hand, three times as fast as walking the
declaration for every value (`bench/wire.py`).
"""

import functools
import struct
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar, cast, get_args, get_origin

import msgpack

from isthmus.errors import MalformedPacket
from isthmus.model.record import Float32, Record, Uint, fields_of, split_optional
from isthmus.model.timestamp import Timestamp
from isthmus.units import Duration
from isthmus.wire.source import Source

T = TypeVar("T")
Convert = Callable[[Any], Any]

MESSAGE_SIZE_MAX: Final = 64 * 1024 * 1024
"""Most bytes that wait for the end of one value."""
NESTING_MAX: Final = 100
"""Deepest nesting of a free value (``Proxy.Config``), so that every encoder can follow it."""

_BUFFER_SIZE: Final = 4096  # To begin with, instead of the library's 1 MiB.
_TIME: Final = struct.Struct(">Bqih")
_TIME_VERSION: Final = 1
_TIME_VERSION_LONG: Final = 2  # Adds a byte with the offset's seconds; accepted, never sent.
_SINGLE: Final = struct.Struct(">Bf")
_SINGLE_BYTE: Final = 0xCA
_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**63 - 1
_VARIABLES: Final = "xyzuvw"


class _Single:
    """A float that is to be packed in single precision, as `to_plain` marks it."""

    __slots__ = ("packed",)

    def __init__(self, value: float) -> None:
        self.packed = _SINGLE.pack(_SINGLE_BYTE, value)


class _SingleFoundError(Exception):
    """The fast packer met a `_Single`."""


def pack(value: object) -> bytes:
    """Pack a plain value; maps keep the order of their keys."""
    try:
        return _pack(value)
    except _SingleFoundError:
        return b"".join(_pack_parts(value, msgpack.Packer()))


def encode(value: object) -> bytes:
    """Encode a record, or a tuple, dict or scalar with records inside."""
    return pack(to_plain(value))


def decode(kind: type[T], data: bytes) -> T:
    """Decode exactly one value.

    Raises:
        MalformedPacket: Not MessagePack, more or less than one value, or of another shape.
    """
    unpacker = Unpacker()
    unpacker.feed(data)
    values = list(unpacker)
    if len(values) != 1 or unpacker.offset != len(data):
        raise MalformedPacket(
            f"expected one MessagePack value, found {len(values)} in the first "
            f"{unpacker.offset} of {len(data)} bytes"
        )
    return cast(T, from_plain(kind, values[0]))


def unpack(packed: bytes, *, offset: int = 0) -> object:
    """Plain value of one complete MessagePack value, as `Unpacker.take` returns it.

    Args:
        packed: The value.
        offset: Where it began in its stream, for the error.

    Raises:
        MalformedPacket: It cannot be built, or is more or less than one value.
    """
    try:
        return msgpack.unpackb(
            packed, raw=False, unicode_errors="surrogateescape", strict_map_key=False
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise MalformedPacket(f"not MessagePack: {error}", offset=offset) from error


class Unpacker:
    """Plain values out of a stream of bytes; text that is not UTF-8 carries surrogates.

    Nothing is built before all bytes of a value are there, so a declared length costs memory
    only when its content was sent too.
    """

    def __init__(self, *, size_max: int = MESSAGE_SIZE_MAX) -> None:
        self._scanner = msgpack.Unpacker(
            raw=True, max_buffer_size=size_max, read_size=min(size_max, _BUFFER_SIZE)
        )
        self._buffer = bytearray()
        self._offset = 0

    def feed(self, data: bytes) -> None:
        """Add bytes.

        Raises:
            MalformedPacket: More than the size limit is waiting for its end.
        """
        self._buffer += data
        try:
            self._scanner.feed(data)
        except msgpack.BufferFull as error:
            raise MalformedPacket("message is larger than the limit") from error

    def __iter__(self) -> Iterator[object]:
        """Yield each complete value.

        Raises:
            MalformedPacket: The bytes are no MessagePack; the stream is of no use any more.
        """
        while (packed := self.take()) is not None:
            yield unpack(packed, offset=self._offset - len(packed))

    def take(self) -> bytes | None:
        """Remove the next complete value and return it as it came; None when there is none.

        Raises:
            MalformedPacket: The bytes are no MessagePack; the stream is of no use any more.
        """
        if not self._buffer:
            return None
        try:
            self._scanner.skip()
        except msgpack.OutOfData:
            return None
        except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
            raise MalformedPacket(f"not MessagePack: {error}", offset=self._offset) from error
        end = self._scanner.tell()
        size = end - self._offset
        packed = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._offset = end
        return packed

    @property
    def offset(self) -> int:
        """Bytes taken by the values yielded so far."""
        return self._offset


def to_plain(value: object) -> object:
    """Turn records into plain values, ready for `pack`."""
    if isinstance(value, Record):
        return _encoder(type(value))(value)
    if isinstance(value, Timestamp):
        return _time_to_wire(value)
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    return value


def from_plain(kind: Any, value: object) -> Any:
    """Turn a plain value into `kind`: a record type, or an annotation of the kinds we use.

    Unknown keys are ignored, missing ones and nil are the zero value.

    Raises:
        MalformedPacket: A value has another shape than declared; the text names the field.
    """
    return _decoder(kind)(value)


def bytes_of(text: str) -> bytes:
    """Bytes of a string as `Unpacker` yields it."""
    return text.encode("utf-8", "surrogateescape")


# Packing --------------------------------------------------------------------------------------


def _refuse(value: object) -> object:
    if isinstance(value, _Single):
        raise _SingleFoundError
    raise TypeError(f"no MessagePack form for {type(value).__name__}")


def _pack(value: object) -> bytes:
    packed = msgpack.packb(
        value, use_bin_type=False, unicode_errors="surrogateescape", default=_refuse
    )
    return cast(bytes, packed)


def _pack_parts(value: object, packer: Any) -> Iterator[bytes]:
    """As `_pack`, but able to write single precision, which the library cannot mix in."""
    if isinstance(value, _Single):
        yield value.packed
    elif isinstance(value, dict):
        yield packer.pack_map_header(len(value))
        for key, item in value.items():
            yield _pack(key)
            yield from _pack_parts(item, packer)
    elif isinstance(value, list | tuple):
        yield packer.pack_array_header(len(value))
        for item in value:
            yield from _pack_parts(item, packer)
    else:
        yield _pack(value)


# Generated functions --------------------------------------------------------------------------


@functools.cache
def _encoder(record: type[Record]) -> Convert:
    """Function from a record to the dict of its fields, in order of their wire names."""
    source, entries = Source(), []
    for field in sorted(fields_of(record), key=lambda field: field.wire):
        if field.name in record.wire_hidden:
            continue
        value = f"record.{field.name}"
        entry = f"{field.wire!r}: {_encoding(source, field.kind, value, depth=0) or value},"
        if field.name in record.wire_omit_empty:
            entry = f"**({{{entry}}} if {value} else {{}}),"
        entries.append(f"    {entry}")
    return source.function("record", ["return {", *entries, "}"])


def _encoding(source: Source, kind: Any, value: str, *, depth: int) -> str | None:
    """Expression that makes `value` plain; None when it is plain already."""
    kind, optional = split_optional(kind)
    item = _VARIABLES[depth]
    origin = get_origin(kind)
    inner = None
    if origin is tuple or origin is dict:
        inner = _encoding(source, get_args(kind)[origin is dict], item, depth=depth + 1)
    text = None
    if isinstance(kind, type) and issubclass(kind, Record):
        text = f"{source.bind(_encoder(kind))}({value})"
    elif kind is Timestamp:
        text = f"{source.bind(_time_to_wire)}({value})"
    elif kind == Float32:
        text = f"{source.bind(_Single)}({value})"
    elif inner and origin is tuple:
        text = f"[{inner} for {item} in {value}]"
    elif inner:
        text = f"{{key: {inner} for key, {item} in {value}.items()}}"
    return f"None if {value} is None else {text}" if text and optional else text


def _time_to_wire(value: Timestamp) -> bytes:
    return _TIME.pack(_TIME_VERSION, value.seconds, value.nanoseconds, value.offset_minutes)


@functools.cache
def _decoder(kind: Any) -> Convert:
    """Function from a plain value to a value of `kind`; for a record, nil gives its zero value."""
    source = Source()
    if not (isinstance(kind, type) and issubclass(kind, Record)):
        return source.function("x", [f"return {_decoding(source, kind, 'value', depth=0)}"])
    body = [
        f"if x is None: return {source.bind(kind())}",
        f"get = {source.bind(_mapping)}(x, {kind.__name__!r}).get",
    ]
    arguments = []
    for field in fields_of(kind):
        if field.name in kind.wire_hidden:
            continue
        text = _decoding(source, field.kind, f"{kind.__name__}.{field.wire}", depth=0)
        body += [f"x = get({field.wire!r})", f"f_{field.name} = {text}"]
        arguments.append(f"    {field.name}=f_{field.name},")
    body += [f"return {source.bind(kind)}(", *arguments, ")"]
    return source.function("x", body)


def _decoding(source: Source, kind: Any, where: str, *, depth: int) -> str:
    """Expression that turns a plain value, in the variable of this depth, into `kind`."""
    kind, optional = split_optional(kind)
    value, item = _VARIABLES[depth], _VARIABLES[depth + 1]
    origin = get_origin(kind)
    if isinstance(kind, type) and issubclass(kind, Record):
        text = f"{source.bind(_decoder(kind))}({value})"
    elif origin is tuple:
        inner = _decoding(source, get_args(kind)[0], where, depth=depth + 1)
        items = f"{source.bind(_sequence)}({value}, {where!r})"
        text = f"tuple([{inner} for {item} in {items}])"
    elif origin is dict:
        inner = _decoding(source, get_args(kind)[1], where, depth=depth + 1)
        key = f"key if type(key) is str else {source.bind(_text)}(key, {where!r})"
        items = f"{source.bind(_mapping)}({value}, {where!r}).items()"
        text = f"{{{key}: {inner} for key, {item} in {items}}}"
    else:
        expected, check = _SCALARS[kind]
        text = f"{source.bind(check)}({value}, {where!r})"
        if expected:
            text = f"{value} if {expected.format(value)} else {text}"
    return f"(None if {value} is None else {text})" if optional else f"({text})"


def _mapping(value: object, where: str) -> dict[Any, Any]:
    if type(value) is dict:
        return value
    if value is None:
        return {}
    raise _mismatch(where, "a map", value)


def _sequence(value: object, where: str) -> list[Any] | tuple[Any, ...]:
    if type(value) is list or type(value) is tuple:
        return value
    if value is None:
        return []
    raise _mismatch(where, "a list", value)


def _text(value: object, where: str) -> str:
    if value is None:
        return ""
    raise _mismatch(where, "a string", value)


def _boolean(value: object, where: str) -> bool:
    if value is None:
        return False
    if type(value) is int and value in {0, 1}:
        return bool(value)
    raise _mismatch(where, "a boolean", value)


def _integer(value: object, where: str) -> int:
    if value is None:
        return 0
    if type(value) is int and _INT_MIN <= value <= _INT_MAX:
        return value
    raise _mismatch(where, "an integer of 64 bits", value)


def _unsigned(value: object, where: str) -> int:
    if value is None:
        return 0
    raise _mismatch(where, "an unsigned integer", value)


def _float(value: object, where: str) -> float:
    if value is None:
        return 0.0
    if type(value) is int:
        return float(value)
    raise _mismatch(where, "a number", value)


def _single(value: object, where: str) -> float:
    """A float rounded to single precision; one that is too large is refused, as in Go."""
    number = value if type(value) is float else _float(value, where)
    try:
        return cast(float, _SINGLE.unpack(_SINGLE.pack(_SINGLE_BYTE, number))[1])
    except OverflowError:
        raise MalformedPacket(f"{where}: {number} overflows single precision") from None


def _duration(value: object, where: str) -> Duration:
    return Duration(_integer(value, where)) if value else Duration(0)


def _raw(value: object, where: str) -> bytes:
    if value is None:
        return b""
    if type(value) is str:
        return bytes_of(value)
    if type(value) is bytes:
        return value
    if type(value) is list and all(type(item) is int and 0 <= item < 256 for item in value):
        return bytes(value)
    raise _mismatch(where, "bytes", value)


def _time(value: object, where: str) -> Timestamp:
    if value is None:
        return Timestamp()
    if type(value) is not str and type(value) is not bytes:
        raise _mismatch(where, "a time", value)
    data = _raw(value, where)
    if len(data) == _TIME.size + 1 and data[0] == _TIME_VERSION_LONG:
        data = bytes([_TIME_VERSION]) + data[1 : _TIME.size]
    if len(data) != _TIME.size or data[0] != _TIME_VERSION:
        raise MalformedPacket(f"{where}: time of {len(data)} bytes, expected {_TIME.size}")
    _, seconds, nanoseconds, offset = _TIME.unpack(data)
    time = Timestamp(seconds, nanoseconds, offset)
    if not time.is_valid:
        raise MalformedPacket(f"{where}: {time!r} is no date")
    return time


def _free(value: object, where: str) -> object:
    """A value of any shape that JSON has too, at most `NESTING_MAX` deep."""
    if type(value) is dict or type(value) is list:
        _check_free(value, where, 1)
    elif type(value) not in _FREE_SCALARS:
        raise _mismatch(where, "a value that JSON has", value)
    return value


def _check_free(value: dict[Any, Any] | list[Any], where: str, depth: int) -> None:
    if depth > NESTING_MAX:
        raise MalformedPacket(f"{where}: nested deeper than {NESTING_MAX}")
    if type(value) is dict and not all(type(key) is str for key in value):
        raise MalformedPacket(f"{where}: a key is not a string")
    for item in value.values() if type(value) is dict else value:
        if type(item) is dict or type(item) is list:
            _check_free(item, where, depth + 1)
        elif type(item) not in _FREE_SCALARS:
            raise _mismatch(where, "a value that JSON has", item)


def _mismatch(where: str, expected: str, value: object) -> MalformedPacket:
    return MalformedPacket(f"{where}: expected {expected}, found {type(value).__name__}")


_FREE_SCALARS: Final = frozenset({str, int, float, bool, bytes, type(None)})

_SCALARS: Final[dict[Any, tuple[str, Callable[[object, str], object]]]] = {
    str: ("type({0}) is str", _text),
    bool: ("{0} is False or {0} is True", _boolean),
    int: (f"type({{0}}) is int and {_INT_MIN} <= {{0}} <= {_INT_MAX}", _integer),
    Uint: ("type({0}) is int and {0} >= 0", _unsigned),
    float: ("type({0}) is float", _float),
    Float32: ("", _single),
    Duration: ("", _duration),
    bytes: ("", _raw),
    Timestamp: ("", _time),
    object: ("", _free),
}
"""By declared type: when a plain value is right as it is, and what judges it otherwise."""
