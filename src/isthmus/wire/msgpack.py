"""MessagePack as Go's old-spec codec writes it, driven by the records' declared fields.

Structs are maps with all fields present and keys sorted by bytes; strings and bytes share the
raw family (never str8, never bin); integers take their smallest form, unsigned when not
negative; a time is a string of 15 bytes: ``version:u8 | seconds:i64be | nanoseconds:i32be |
offset_minutes:i16be``. Source: protocol/rpc.md §3.
"""

import functools
import struct
import types
import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Final, TypeVar, Union, cast, get_args, get_origin

import msgpack
import msgspec

from isthmus.errors import MalformedPacket
from isthmus.model.record import Record, Uint
from isthmus.model.timestamp import Timestamp
from isthmus.units import Duration

T = TypeVar("T")
Convert = Callable[[Any], Any]

_TIME: Final = struct.Struct(">Bqih")
_TIME_VERSION: Final = 1
_TIME_VERSION_LONG: Final = 2  # Adds a byte with the offset's seconds; accepted, never sent.
_MESSAGE_SIZE_MAX: Final = 64 * 1024 * 1024


def pack(value: object) -> bytes:
    """Pack a plain value; maps keep the order of their keys."""
    return cast(bytes, msgpack.packb(value, use_bin_type=False, unicode_errors="surrogateescape"))


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
    if len(values) != 1:
        raise MalformedPacket(f"expected one MessagePack value, found {len(values)}")
    return from_plain(kind, values[0])


class Unpacker:
    """Plain values out of a stream of bytes; text that is not UTF-8 carries surrogates.

    Raises:
        MalformedPacket: From iteration, when the bytes are no MessagePack.
    """

    def __init__(self, *, size_max: int = _MESSAGE_SIZE_MAX) -> None:
        self._unpacker = msgpack.Unpacker(
            raw=False,
            unicode_errors="surrogateescape",
            strict_map_key=False,
            max_buffer_size=size_max,
        )

    def feed(self, data: bytes) -> None:
        """Add bytes.

        Raises:
            MalformedPacket: More than the size limit is waiting for its end.
        """
        try:
            self._unpacker.feed(data)
        except msgpack.BufferFull as error:
            raise MalformedPacket("message is larger than the limit") from error

    def __iter__(self) -> Iterator[object]:
        """Yield each complete value."""
        while True:
            try:
                value = self._unpacker.unpack()
            except msgpack.OutOfData:
                return
            except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
                raise MalformedPacket(f"not MessagePack: {error}") from error
            yield value

    @property
    def offset(self) -> int:
        """Bytes taken by the values yielded so far."""
        return cast(int, self._unpacker.tell())


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

    Unknown keys are ignored, missing ones take their default, nil is the zero value.

    Raises:
        MalformedPacket: A value has another shape than declared; the text names the field.
    """
    return _decoder(kind)(value)


def bytes_of(text: str) -> bytes:
    """Bytes of a string as `Unpacker` yields it."""
    return text.encode("utf-8", "surrogateescape")


# Encoding -------------------------------------------------------------------------------------


@functools.cache
def _encoder(record: type[Record]) -> Convert:
    rows = sorted(_fields(record), key=lambda row: row[0])
    fields = [(wire, name, _value_encoder(kind)) for wire, name, kind in rows]
    omitted = record.wire_omit_empty

    def encode_record(value: Any) -> dict[str, object]:
        plain: dict[str, object] = {}
        for wire, name, convert in fields:
            item = getattr(value, name)
            if name in omitted and not item:
                continue
            plain[wire] = item if convert is None or item is None else convert(item)
        return plain

    return encode_record


def _value_encoder(kind: Any) -> Convert | None:
    """Conversion for values of a declared type; None when they are plain already."""
    kind = _strip(kind)
    if isinstance(kind, type) and issubclass(kind, Record):
        return _encoder(kind)
    if kind is Timestamp:
        return _time_to_wire
    if kind is Duration:
        return int
    origin = get_origin(kind)
    if origin is tuple:
        item = _value_encoder(get_args(kind)[0])
        return list if item is None else lambda value: [item(entry) for entry in value]
    if origin is dict:
        entry = _value_encoder(get_args(kind)[1])
        if entry is None:
            return None
        return lambda value: {key: entry(item) for key, item in value.items()}
    return None


def _time_to_wire(value: Timestamp) -> bytes:
    return _TIME.pack(_TIME_VERSION, value.seconds, value.nanoseconds, value.offset_minutes)


# Decoding -------------------------------------------------------------------------------------


@functools.cache
def _decoder(kind: Any) -> Convert:
    optional = kind is not _strip(kind)
    kind = _strip(kind)
    if isinstance(kind, type) and issubclass(kind, Record):
        return _or_none(_record_decoder(kind), None if optional else kind)
    if kind is Timestamp:
        return _or_none(_time_from_wire, None if optional else Timestamp)
    if kind is Duration:
        return _or_none(lambda value: Duration(_integer(value)), lambda: Duration(0))
    if kind is Uint or kind is int:
        check = _unsigned if kind is Uint else _integer
        return _or_none(check, None if optional else int)
    if kind is str:
        return _or_none(_text, None if optional else str)
    if kind is bytes:
        return _or_none(_raw, None if optional else bytes)
    if kind is bool:
        return _or_none(_boolean, None if optional else bool)
    if kind is float:
        return _or_none(_float, None if optional else float)
    origin = get_origin(kind)
    if origin is tuple:
        item = _decoder(get_args(kind)[0])
        return _or_none(
            lambda value: tuple(map(item, _sequence(value))), None if optional else tuple
        )
    if origin is dict:
        entry = _decoder(get_args(kind)[1])
        return _or_none(
            lambda value: {_text(key): entry(item) for key, item in _mapping(value).items()},
            None if optional else dict,
        )
    assert kind in {object, Any}, f"no wire form for {kind}"
    return lambda value: value


def _or_none(convert: Convert, zero: Callable[[], object] | None) -> Convert:
    if zero is None:
        return lambda value: None if value is None else convert(value)
    return lambda value: zero() if value is None else convert(value)


def _record_decoder(record: type[Record]) -> Convert:
    fields: dict[str, tuple[str, Convert]] | None = None

    def decode_record(value: object) -> Record:
        nonlocal fields
        if fields is None:  # On first use, since records may refer to each other.
            fields = {wire: (name, _decoder(kind)) for wire, name, kind in _fields(record)}
        found: dict[str, object] = {}
        for wire, item in _mapping(value).items():
            field = fields.get(wire)
            if field is None:
                continue
            try:
                found[field[0]] = field[1](item)
            except MalformedPacket as error:
                raise MalformedPacket(f"{record.__name__}.{wire}: {error}") from None
        return record(**found)

    return decode_record


def _time_from_wire(value: object) -> Timestamp:
    data = _raw(value)
    if len(data) == _TIME.size + 1 and data[0] == _TIME_VERSION_LONG:
        data = bytes([_TIME_VERSION]) + data[1 : _TIME.size]
    if len(data) != _TIME.size or data[0] != _TIME_VERSION:
        raise MalformedPacket(f"time of {len(data)} bytes, expected {_TIME.size}")
    _, seconds, nanoseconds, offset = _TIME.unpack(data)
    return Timestamp(seconds, nanoseconds, offset)


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise MalformedPacket(f"expected an integer, found {type(value).__name__}")
    return value


def _unsigned(value: object) -> int:
    number = _integer(value)
    if number < 0:
        raise MalformedPacket("expected an unsigned integer, found a negative one")
    return number


def _float(value: object) -> float:
    if isinstance(value, float):
        return value
    return float(_integer(value))


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if value in {0, 1}:
        return bool(value)
    raise MalformedPacket(f"expected a boolean, found {type(value).__name__}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise MalformedPacket(f"expected a string, found {type(value).__name__}")
    return value


def _raw(value: object) -> bytes:
    if isinstance(value, str):
        return bytes_of(value)
    if isinstance(value, bytes):
        return value
    try:
        return bytes(_sequence(value))
    except (TypeError, ValueError) as error:
        raise MalformedPacket("expected bytes, found a list of something else") from error


def _sequence(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise MalformedPacket(f"expected a list, found {type(value).__name__}")
    return value


def _mapping(value: object) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise MalformedPacket(f"expected a map, found {type(value).__name__}")
    return value


# Declared fields ------------------------------------------------------------------------------


@functools.cache
def _fields(record: type[Record]) -> tuple[tuple[str, str, Any], ...]:
    """(wire name, Python name, declared type) of each field, in order of declaration."""
    kinds = typing.get_type_hints(record, include_extras=True)
    return tuple(
        (field.encode_name, field.name, kinds[field.name])
        for field in msgspec.structs.fields(record)
    )


def _strip(kind: Any) -> Any:
    """The type without ``| None``; `Uint` stays, other annotations go."""
    if get_origin(kind) in {Union, types.UnionType}:
        (kind,) = (arg for arg in get_args(kind) if arg is not type(None))
    if get_origin(kind) is Annotated and kind is not Uint and kind != Uint:
        kind = get_args(kind)[0]
    return Uint if kind == Uint else kind
