"""JSON as Go's ``encoding/json`` writes and reads it, driven by the records' declared fields.

Written: fields in order of declaration under their wire names; those that a record lists in
`json_omit_empty` are left out when empty, those in `json_hidden` always. A duration is Go text
(``"10s"``), a time RFC 3339, bytes are base64, the keys of a map are sorted, a float has the
digits it needs (``7``, ``1e-7``), ``<``, ``>``, ``&`` and U+2028/9 are escaped.
Read: names without regard to case, durations also as nanoseconds, numbers in free values as
floats. Source: protocol/http-api.md §1.
"""

import base64
import binascii
import contextlib
import functools
import math
import re
import struct
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final, TypeVar, cast, get_args, get_origin

import msgspec

from isthmus.errors import MalformedPacket
from isthmus.model.record import Float32, Record, Uint, fields_of, split_optional
from isthmus.model.timestamp import Timestamp
from isthmus.units import Duration, parse_duration
from isthmus.wire.source import Source

T = TypeVar("T")
Convert = Callable[[Any], Any]

NESTING_MAX: Final = 100
"""Deepest nesting of a free value that is read."""

_ENCODER: Final = msgspec.json.Encoder()
_ESCAPES: Final = (
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
    ("\u2028".encode(), b"\\u2028"),
    ("\u2029".encode(), b"\\u2029"),
)
_ESCAPED: Final = re.compile(rb"\\.")
_LONG_ESCAPES: Final = {b"\\b": b"\\u0008", b"\\f": b"\\u000c"}
_INDENT: Final = 4
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_EXPONENT_BELOW: Final = 1e-6  # Go's, which are ECMAScript's.
_EXPONENT_FROM: Final = 1e21
_PLAIN_FROM: Final = 1e-5  # From here the encoder writes no exponents either.
_WHOLE_MAX: Final = 2.0**53
_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**63 - 1
_UINT_MAX: Final = 2**64 - 1
_SINGLE: Final = struct.Struct(">f")
_SINGLE_DIGITS: Final = range(6, 10)
_VARIABLES: Final = "xyzuvw"


def encode(value: object, *, pretty: bool = False) -> bytes:
    """Encode a record, or tuples, dicts and scalars with records inside.

    Args:
        value: What to encode. Each byte of text that was not UTF-8 becomes U+FFFD, as in Go.
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
    if b"\\b" in text or b"\\f" in text:
        text = _ESCAPED.sub(_long_escape, text)
    return indent(text) if pretty else text


def indent(text: bytes) -> bytes:
    """JSON that was encoded without spaces, indented as `encode` does if it is asked to."""
    return msgspec.json.format(text, indent=_INDENT) + b"\n"


def decode(kind: type[T], data: bytes, *, ignore_unknown: bool = False) -> T:
    """Decode a record, or a tuple or dict of them.

    Missing fields and nulls are zero values. Of a name that occurs twice the last one counts.

    Args:
        kind: A record type, or an annotation of the kinds that records use.
        data: JSON text.
        ignore_unknown: Skip fields that the records do not declare instead of refusing them.

    Raises:
        MalformedPacket: Not JSON, or of another shape; the text is worded as Go words it.
    """
    if not data.strip():
        raise MalformedPacket("EOF")
    try:
        plain = msgspec.json.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MalformedPacket(f"invalid JSON: {error}") from error
    return cast(
        T, _reader(cast(Any, kind), ignore_unknown)(plain, getattr(kind, "__name__", "value"))
    )


def to_plain(value: object) -> object:
    """Turn records into dicts and values that any JSON encoder takes."""
    convert = _CONVERT.get(type(value))
    if convert is not None:
        return convert(value)
    if isinstance(value, Record):
        return _encoder(type(value))(value)
    if isinstance(value, bytearray | memoryview):
        return _base64(value)
    return value


def _long_escape(match: re.Match[bytes]) -> bytes:
    """Go has no short escapes for backspace and form feed."""
    return _LONG_ESCAPES.get(match[0], match[0])


# Writing --------------------------------------------------------------------------------------


@functools.cache
def _encoder(record: type[Record]) -> Convert:
    """Function from a record to the dict of what JSON shows of it."""
    source, body = Source(), ["plain = {}"]
    for field in sorted(fields_of(record), key=lambda field: field.name not in record.json_first):
        if field.name in record.json_hidden:
            continue
        body.append(f"x = record.{field.name}")
        text = _encoding(source, field.kind, depth=0) or "x"
        if field.name in record.json_numbers:
            text = "int(x)"
        line = f"plain[{field.wire!r}] = {text}"
        if field.name in record.json_omit_empty:
            line = f"if {_presence(source, field.kind)}: {line}"
        body.append(line)
    return source.function("record", [*body, "return plain"])


def _presence(source: Source, kind: Any) -> str:
    """Condition for the variable ``x`` that a field is not empty."""
    kind, optional = split_optional(kind)
    is_record = isinstance(kind, type) and issubclass(kind, Record)
    if optional and (is_record or not (kind is bytes or get_origin(kind))):
        return "x is not None"
    return f"x != {source.bind(kind())}" if is_record else "x"


def _encoding(source: Source, kind: Any, *, depth: int) -> str | None:
    """Expression for the variable of this depth as a plain value; None when it is plain."""
    kind, optional = split_optional(kind)
    value, item = _VARIABLES[depth], _VARIABLES[depth + 1]
    origin = get_origin(kind)
    if origin is tuple:
        inner = _encoding(source, get_args(kind)[0], depth=depth + 1)
        text = f"[{inner} for {item} in {value}]" if inner else None
    elif origin is dict:
        inner = _encoding(source, get_args(kind)[1], depth=depth + 1) or item
        text = f"{{key: {inner} for key, {item} in sorted({value}.items())}}"
    elif isinstance(kind, type) and issubclass(kind, Record):
        # A base, such as that of the config entries, stands for whichever record it is.
        text = f"{source.bind(to_plain if kind.__subclasses__() else _encoder(kind))}({value})"
    else:
        convert = _CONVERT_KIND.get(kind)
        text = f"{source.bind(convert)}({value})" if convert else None
    return f"None if {value} is None else {text}" if text and optional else text


def _same(value: Any) -> Any:
    return value


def _sequence(value: Any) -> list[object]:
    return [to_plain(item) for item in value]


def _mapping(value: Any) -> dict[str, object]:
    """Go sorts the keys of a map."""
    return {key: to_plain(value[key]) for key in sorted(value)}


def _base64(value: bytes | bytearray | memoryview) -> str:
    return base64.b64encode(value).decode("ascii")


def _number(value: float) -> float | int | msgspec.Raw:
    """A float so that the encoder shows it as Go does: whole ones without a fraction."""
    if not math.isfinite(value):
        return value  # Shown as null; Go refuses to encode it.
    size = abs(value)
    if _PLAIN_FROM <= size < _WHOLE_MAX:
        whole = int(value)
        return whole if whole == value else value
    return msgspec.Raw(_digits(repr(value), size).encode("ascii"))


def _single(value: float) -> float | msgspec.Raw:
    """A float of single precision, with the fewest digits that tell it from its neighbours."""
    if not math.isfinite(value):
        return value
    near = _SINGLE.pack(value)
    text = next(
        (
            text
            for text in (f"{value:.{digits}g}" for digits in _SINGLE_DIGITS)
            if _SINGLE.pack(float(text)) == near
        ),
        repr(value),
    )
    return msgspec.Raw(_digits(text, abs(value)).encode("ascii"))


def _digits(text: str, size: float) -> str:
    """Python's shortest digits in Go's notation."""
    if size == 0 or _EXPONENT_BELOW <= size < _EXPONENT_FROM:
        text = f"{Decimal(text):f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa, _, exponent = f"{Decimal(text).normalize():e}".partition("e")
    sign = "-" if exponent[0] == "-" else "+"
    return f"{mantissa}e{sign}{exponent[1:]}"


_CONVERT: Final[dict[type, Convert]] = {
    str: _same,
    int: _same,
    bool: _same,
    float: _number,
    bytes: _base64,
    type(None): _same,
    msgspec.Raw: _same,
    Duration: str,
    Timestamp: str,
    tuple: _sequence,
    list: _sequence,
    dict: _mapping,
}

_CONVERT_KIND: Final[dict[Any, Convert]] = {
    float: _number,
    Float32: _single,
    bytes: _base64,
    Duration: str,
    Timestamp: str,
    object: to_plain,
}
"""By declared type; those that are not here are plain already."""


def _printable(value: object) -> object:
    """The same with replacement characters where text was not UTF-8."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list | tuple):
        return [_printable(item) for item in value]
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    return value


# Reading --------------------------------------------------------------------------------------

Reader = Callable[[Any, str], Any]
"""Takes a plain value and where it stands, gives the declared one."""


@functools.cache
def _reader(kind: Any, ignore_unknown: bool) -> Reader:
    kind, optional = split_optional(kind)
    origin = get_origin(kind)
    if origin is tuple:
        read = _tuple_reader(_reader(get_args(kind)[0], ignore_unknown), _go_type(kind))
    elif origin is dict:
        read = _dict_reader(_reader(get_args(kind)[1], ignore_unknown), _go_type(kind))
    elif isinstance(kind, type) and issubclass(kind, Record):
        read = _record_reader(kind, ignore_unknown)
    else:
        read = _READERS[kind]
    if kind is object:
        return read
    zero = None if optional else _zero(kind)
    return lambda value, where: zero if value is None else read(value, where)


def _go_type(kind: Any) -> str:
    """What Go calls a type in its errors."""
    kind, _ = split_optional(kind)
    origin = get_origin(kind)
    if origin is tuple:
        return f"[]{_go_type(get_args(kind)[0])}"
    if origin is dict:
        return f"map[string]{_go_type(get_args(kind)[1])}"
    return _GO_TYPES.get(kind) or f"structs.{kind.__name__.lstrip('_')}"


def _zero(kind: Any) -> object:
    if kind in {Uint, Float32}:
        return 0
    return (get_origin(kind) or kind)()


def _tuple_reader(read: Reader, go_type: str) -> Reader:
    def read_tuple(value: object, where: str) -> object:
        if not isinstance(value, list):
            raise _refused(value, where, go_type)
        return tuple([read(item, where) for item in value])

    return read_tuple


def _dict_reader(read: Reader, go_type: str) -> Reader:
    def read_dict(value: object, where: str) -> object:
        if not isinstance(value, dict):
            raise _refused(value, where, go_type)
        return {key: read(item, where) for key, item in value.items()}

    return read_dict


def _record_reader(record: type[Record], ignore_unknown: bool) -> Reader:
    name = record.__name__.lstrip("_")
    fields = {
        field.wire.lower(): (field.name, f"{name}.{field.wire}", field.kind)
        for field in fields_of(record)
        if field.name not in record.json_hidden
    }
    readers = {name: _reader(kind, ignore_unknown) for name, _, kind in fields.values()}

    def read_record(value: object, where: str) -> object:
        if not isinstance(value, dict):
            raise _refused(value, where, f"structs.{name}")
        found: dict[str, object] = {}
        for wire, item in value.items():
            field = fields.get(wire.lower())
            if field is not None:
                found[field[0]] = readers[field[0]](item, field[1])
            elif not ignore_unknown:
                raise MalformedPacket(f'json: unknown field "{wire}"')
        return record(**found)

    return read_record


def _read_text(value: object, where: str) -> str:
    if isinstance(value, str):
        return value
    raise _refused(value, where, "string")


def _read_boolean(value: object, where: str) -> bool:
    if isinstance(value, bool):
        return value
    raise _refused(value, where, "bool")


def _read_integer(value: object, where: str) -> int:
    if type(value) is int and _INT_MIN <= value <= _INT_MAX:
        return value
    raise _refused(value, where, "int")


def _read_unsigned(value: object, where: str) -> int:
    if type(value) is int and 0 <= value <= _UINT_MAX:
        return value
    raise _refused(value, where, "uint64")


def _read_float(value: object, where: str) -> float:
    with contextlib.suppress(OverflowError):
        if type(value) is int or type(value) is float:
            return float(value)
    raise _refused(value, where, "float64")


def _read_single(value: object, where: str) -> float:
    """A number, rounded to single precision as Go does on reading."""
    try:
        return cast(float, _SINGLE.unpack(_SINGLE.pack(_read_float(value, where)))[0])
    except OverflowError:
        raise _refused(value, where, "float32") from None


def _read_bytes(value: object, where: str) -> bytes:
    try:
        return base64.b64decode(_read_text(value, where).encode(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedPacket(f"{where}: illegal base64 data: {error}") from None


def _read_duration(value: object, where: str) -> Duration:
    if not isinstance(value, str):
        return Duration(_read_integer(value, where))
    try:
        return parse_duration(value) if value else Duration(0)
    except ValueError as error:
        raise MalformedPacket(f"{where}: {error}") from None


def _read_time(value: object, where: str) -> Timestamp:
    try:
        return Timestamp.parse(_read_text(value, where))
    except ValueError as error:
        raise MalformedPacket(f"{where}: {error}") from None


def _read_free(value: object, where: str) -> object:
    return _free(value, where, 0)


def _free(value: object, where: str, depth: int) -> object:
    if depth > NESTING_MAX:
        raise MalformedPacket(f"{where}: nested deeper than {NESTING_MAX}")
    if isinstance(value, dict):
        return {key: _free(item, where, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_free(item, where, depth + 1) for item in value]
    return _read_float(value, where) if type(value) is int else value


def _refused(value: object, where: str, kind: str) -> MalformedPacket:
    found = _JSON_NAMES.get(type(value), "number")
    if "." not in where:  # The whole text, or one of the list that it is.
        return MalformedPacket(f"json: cannot unmarshal {found} into Go value of type {kind}")
    return MalformedPacket(
        f"json: cannot unmarshal {found} into Go struct field {where} of type {kind}"
    )


_JSON_NAMES: Final[dict[type, str]] = {
    str: "string",
    bool: "bool",
    list: "array",
    dict: "object",
    type(None): "null",
}

_GO_TYPES: Final[dict[Any, str]] = {
    str: "string",
    bool: "bool",
    int: "int",
    Uint: "uint64",
    float: "float64",
    Float32: "float32",
    bytes: "[]uint8",
    Duration: "time.Duration",
    Timestamp: "time.Time",
    object: "interface {}",
}

_READERS: Final[dict[Any, Reader]] = {
    str: _read_text,
    bool: _read_boolean,
    int: _read_integer,
    Uint: _read_unsigned,
    float: _read_float,
    Float32: _read_single,
    bytes: _read_bytes,
    Duration: _read_duration,
    Timestamp: _read_time,
    object: _read_free,
}
