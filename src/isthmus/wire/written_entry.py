"""Config entries as people and tools write them, in JSON or HCL, read as leniently as Consul does.

Names match without regard to case, or in snake_case. ``"50"`` stands for 50 where a number is
wanted and 5 for ``"5"`` where a text is, one object for a list of it and a list of one object for
that object; a duration is text or nanoseconds. Names that are not declared are refused, all of
them at once. Source: protocol/http-api.md §6.6; Consul 1.10, lib/decode.
"""

import contextlib
import functools
import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final, TypeVar, cast, get_args, get_origin

from isthmus.errors import MalformedPacket
from isthmus.model.config_entry import CONFIG_ENTRY_TYPES, ConfigEntry
from isthmus.model.record import Float32, Record, Uint, fields_of, split_optional
from isthmus.model.registration import join_faults
from isthmus.model.timestamp import Timestamp
from isthmus.units import Duration, parse_duration, quote

T = TypeVar("T")

NESTING_MAX: Final = 100
"""Deepest nesting of what a proxy's free configuration holds."""

_NO_KIND: Final = "Payload does not contain a kind/Kind key at the top level"
_INDEXES: Final = frozenset({"CreateIndex", "ModifyIndex"})
"""Found in what was read before; an entry that is written has none."""
_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE: Final = frozenset({"", "0", "f", "F", "false", "FALSE", "False"})
_INTEGER: Final = re.compile(r"[+-]?(0|[1-9][0-9]*)")
_INTEGER_SIZE_MAX: Final = 20
_NUMBER: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_INT_RANGE: Final = (-(2**63), 2**63 - 1)
_UINT_RANGE: Final = (0, 2**64 - 1)
_SINGLE: Final = struct.Struct(">f")
_TYPE_NAMES: Final[dict[type, str]] = {
    str: "string",
    bool: "bool",
    int: "int",
    float: "float64",
    list: "[]interface {}",
    dict: "map[string]interface {}",
    type(None): "invalid",
}
_KIND_NAMES: Final[dict[type, str]] = {**_TYPE_NAMES, list: "slice", dict: "map"}
_PLAIN_EXPONENTS: Final = range(-4, 6)


class _Faults(Exception):
    """What is wrong with a value, and with others beside it."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts
        super().__init__(*texts)


def read_entry(written: Mapping[str, object]) -> ConfigEntry:
    """Read an entry of the kind that it says it is.

    Args:
        written: As a JSON or HCL reader gave it: text, numbers, booleans, None, lists, dicts.

    Raises:
        MalformedPacket: It is none; in Consul's words.
    """
    kind = written.get("Kind", written.get("kind")) if _has_kind(written) else None
    if not isinstance(kind, str):
        raise MalformedPacket(
            "Kind value in payload is not a string" if _has_kind(written) else _NO_KIND
        )
    record = CONFIG_ENTRY_TYPES.get(kind)
    if record is None:
        raise MalformedPacket(f"invalid config entry kind: {kind}")
    reader = _Reader()
    plain = {name: value for name, value in written.items() if name not in {"kind", "Kind"}}
    try:
        entry = reader.record(record, plain, "")
    except _Faults as faults:
        points = "\n".join(sorted(f"* {text}" for text in faults.texts))
        raise MalformedPacket(f"{len(faults.texts)} error(s) decoding:\n\n{points}") from None
    if unknown := [name for name in reader.unknown if name not in _INDEXES]:
        raise MalformedPacket(join_faults([_unknown(name) for name in unknown]))
    return cast(ConfigEntry, entry)


def _has_kind(written: Mapping[str, object]) -> bool:
    return "Kind" in written or "kind" in written


def _unknown(name: str) -> str:
    fault = f"invalid config key {quote(name)}"
    if name.lower().endswith("namespace"):
        fault += ", namespaces are a consul enterprise feature"
    return fault


class _Reader:
    """Reads values of declared kinds; remembers names that are not declared."""

    def __init__(self) -> None:
        self.unknown: list[str] = []

    def value(self, kind: Any, value: object, place: str) -> object:
        """A value of a kind of `model.record.Field`."""
        kind, optional = split_optional(kind)
        origin = get_origin(kind)
        if value is not None and origin is tuple:
            return self._list(get_args(kind)[0], value, place)
        if kind is object:
            return _free(value, place)
        value = _only(value)
        if value is None:
            return None if optional else _zero(kind)
        if origin is dict:
            return self._map(get_args(kind)[1], value, place)
        if isinstance(kind, type) and issubclass(kind, Record):
            return self.record(kind, value, place)
        return _SCALARS[kind](value, place)

    def _list(self, kind: Any, value: object, place: str) -> tuple[object, ...]:
        if value == {}:
            return ()
        found, faults = [], list[str]()
        for number, item in enumerate(value if isinstance(value, list) else [value]):
            with _gathered(faults):
                found.append(self.value(kind, item, f"{place}[{number}]"))
        return _whole(tuple(found), faults)

    def _map(self, kind: Any, value: object, place: str) -> dict[str, object]:
        if isinstance(value, list):  # Blocks of the same name add up.
            merged: dict[str, object] = {}
            for number, item in enumerate(value):
                merged.update(self._map(kind, _only(item), f"{place}[{number}]"))
            return merged
        found, faults = dict[str, object](), list[str]()
        for key, item in _as_dict(value, place).items():
            with _gathered(faults):
                found[key] = self.value(kind, item, f"{place}[{key}]")
        return _whole(found, faults)

    def record(self, kind: type[Record], value: object, place: str) -> Record:
        """A record; at the top its place is empty."""
        fields = _fields(kind)
        found, faults = dict[str, Any](), list[str]()
        # Of two spellings of a name the wire's own counts, wherever it stands.
        for key, item in sorted(_as_dict(_only(value), place).items(), key=_is_exact(fields)):
            field = fields.get(key) or fields.get(key.lower())
            if field is None:
                self.unknown.append(_join(place, key))
            elif item is not None:
                name, wire, field_kind = field
                with _gathered(faults):
                    found[name] = self.value(field_kind, item, _join(place, wire))
        return _whole(kind(**found), faults)


_FieldInfo = tuple[str, str, Any]


@functools.cache
def _fields(record: type[Record]) -> dict[str, _FieldInfo]:
    """Name in Python, name on the wire and kind, by spelling."""
    found: dict[str, _FieldInfo] = {}
    for field in fields_of(record):
        if field.name in record.json_hidden or field.wire in _INDEXES or field.wire == "Kind":
            continue
        info = (field.name, field.wire, field.kind)
        found |= {field.wire: info, field.wire.lower(): info, field.name: info}
    return found


def _is_exact(fields: dict[str, _FieldInfo]) -> Callable[[tuple[str, object]], bool]:
    return lambda pair: pair[0] in fields and fields[pair[0]][1] == pair[0]


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


@contextlib.contextmanager
def _gathered(faults: list[str]) -> Iterator[None]:
    """Go on after a fault, so that all are told at once."""
    try:
        yield
    except _Faults as more:
        faults.extend(more.texts)


def _whole(found: T, faults: list[str]) -> T:
    if faults:
        raise _Faults(*faults)
    return found


def _only(value: object) -> object:
    """What a list of one holds: HCL has lists where there may be several blocks."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _as_dict(value: object, place: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _Faults(f"'{place}' expected a map, got '{_KIND_NAMES[type(value)]}'")
    return value


def _zero(kind: Any) -> object:
    if kind in {Uint, Float32}:
        return 0
    return (get_origin(kind) or kind)()


# Free values -----------------------------------------------------------------------------------


def _free(value: object, place: str) -> object:
    _check_depth(value, place, 0)
    if isinstance(value, list) and len(value) == 1:
        return _without_lists(value[0])
    return value


def _check_depth(value: object, place: str, depth: int) -> None:
    if depth > NESTING_MAX:
        raise _Faults(f"'{place}' is nested deeper than {NESTING_MAX}")
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, place, depth + 1)


def _without_lists(value: object) -> object:
    """An object that stood in a list of one, and so do those in it."""
    if isinstance(value, dict):
        return {key: _without_lists(_only(item)) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_lists(item) for item in value]
    return value


# Scalars ---------------------------------------------------------------------------------------


def _refused(value: object, kind: str, place: str) -> _Faults:
    return _Faults(
        f"'{place}' expected type '{kind}', got unconvertible type "
        f"'{_TYPE_NAMES[type(value)]}', value: '{_shown(value)}'"
    )


def _shown(value: object) -> str:
    """A value as Go's ``%v`` has it."""
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{_shown(value[key])}' for key in sorted(value))}]"
    if isinstance(value, list):
        return f"[{' '.join(map(_shown, value))}]"
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if Decimal(value).adjusted() in _PLAIN_EXPONENTS or not value:
            return _digits(value)
        mantissa, _, exponent = f"{Decimal(repr(value)).normalize():e}".partition("e")
        return f"{mantissa}e{exponent[0]}{exponent[1:]:0>2}"
    return str(value)


def _digits(value: float) -> str:
    """A number without an exponent."""
    text = f"{Decimal(repr(value)):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _text(value: object, place: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, int | float):
        return _digits(value)
    raise _refused(value, "string", place)


def _boolean(value: object, place: str) -> bool:
    if isinstance(value, bool | int | float):
        return bool(value)
    if not isinstance(value, str):
        raise _refused(value, "bool", place)
    if value in _TRUE or value in _FALSE:
        return value in _TRUE
    raise _Faults(
        f"cannot parse '{place}' as bool: strconv.ParseBool: parsing {quote(value)}: invalid syntax"
    )


def _integer(value: object, place: str) -> int:
    return _whole_number(value, place, "int", "ParseInt", _INT_RANGE)


def _unsigned(value: object, place: str) -> int:
    return _whole_number(value, place, "uint", "ParseUint", _UINT_RANGE)


def _whole_number(
    value: object, place: str, kind: str, function: str, bounds: tuple[int, int]
) -> int:
    lowest, highest = bounds
    if isinstance(value, str):
        number = _parse_integer(value, signed=lowest < 0)
        fault = "invalid syntax" if number is None else "value out of range"
        fault = f"strconv.{function}: parsing {quote(value)}: {fault}"
    elif isinstance(value, int | float):
        number = int(value) if math.isfinite(value) else None
        fault = f"{_shown(value)} is out of range"
    else:
        raise _refused(value, kind, place)
    if number is None or not lowest <= number <= highest:
        raise _Faults(f"cannot parse '{place}' as {kind}: {fault}")
    return number


def _parse_integer(text: str, *, signed: bool) -> int | None:
    if not text:
        return 0
    if not _INTEGER.fullmatch(text) or (not signed and text[0] in "+-"):
        return None
    # A longer one is out of range, whichever it is.
    return int(text[: _INTEGER_SIZE_MAX + 1])


def _float(value: object, place: str) -> float:
    if isinstance(value, str):
        if value and not _NUMBER.fullmatch(value):
            raise _Faults(
                f"cannot parse '{place}' as float: strconv.ParseFloat: parsing {quote(value)}: "
                "invalid syntax"
            )
        value = float(value or "0")
    elif not isinstance(value, int | float):
        raise _refused(value, "float32", place)
    try:
        number = _SINGLE.unpack(_SINGLE.pack(value))[0]
    except (OverflowError, struct.error):
        number = math.inf
    if not math.isfinite(number):
        raise _Faults(f"cannot parse '{place}' as float: {_shown(value)} is out of range")
    return float(number)


def _duration(value: object, place: str) -> Duration:
    if not isinstance(value, str):
        return Duration(_integer(value, place))
    try:
        return parse_duration(value)
    except ValueError as error:
        raise _Faults(f"error decoding '{place}': {error}") from None


def _time(value: object, place: str) -> Timestamp:
    if not isinstance(value, str):
        raise _Faults(f"'{place}' expected a map, got '{_KIND_NAMES[type(value)]}'")
    try:
        return Timestamp.parse(value)
    except ValueError as error:
        raise _Faults(f"error decoding '{place}': {error}") from None


_SCALARS: Final[dict[Any, Callable[[object, str], object]]] = {
    str: _text,
    bool: _boolean,
    int: _integer,
    Uint: _unsigned,
    Float32: _float,
    Duration: _duration,
    Timestamp: _time,
}
