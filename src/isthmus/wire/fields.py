"""Records of the gossip protocols as MessagePack maps, the way the reference's Go structs do it.

Written: keys in alphabetical order; text and bytes both in the old "raw" family (never str8, never
bin); integers in their shortest unsigned form; what is empty as nil where the field says so.
Read: keys in any order, unknown ones ignored, missing ones zero, all string families.

Source: protocol/gossip.md §1.1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import msgpack

from isthmus.errors import MalformedPacket

T = TypeVar("T")

COUNT_MAX: Final = 1 << 20
"""Most elements of one list or map; the newest memberlist limits node counts to the same."""


def pack(value: object) -> bytes:
    """Encode plain values in the profile above; maps keep the order they come in."""
    packed: bytes = msgpack.packb(value, use_bin_type=False, unicode_errors="surrogateescape")
    return packed


def unpack(data: bytes) -> Any:
    """Decode one value; all text stays bytes, and what follows the value is ignored.

    Raises:
        MalformedPacket: Not MessagePack, or cut off.
    """
    size = min(len(data), COUNT_MAX)
    try:
        return msgpack.unpackb(data, raw=True, max_array_len=size, max_map_len=size)
    except msgpack.ExtraData as more:
        return more.unpacked
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise MalformedPacket(f"msgpack: {error}") from None


def unsigned(bits: int) -> Callable[[object], int]:
    """Converter: an integer from 0 to ``2**bits - 1``, or nil for 0."""
    limit = 1 << bits

    def convert(value: object) -> int:
        if value is None:
            return 0
        if type(value) is not int or not 0 <= value < limit:
            raise MalformedPacket(f"{_short(value)} is not an unsigned integer of {bits} bits")
        return value

    return convert


def signed(value: object) -> int:
    """Converter: a 64-bit signed integer, or nil for 0."""
    if value is None:
        return 0
    if type(value) is not int or not -(1 << 63) <= value < 1 << 63:
        raise MalformedPacket(f"{_short(value)} is not a signed integer of 64 bits")
    return value


def text(value: object) -> str:
    """Converter: text; bytes that are no UTF-8 survive as surrogate escapes."""
    if value is None:
        return ""
    if type(value) is not bytes:
        raise MalformedPacket(f"{_short(value)} is not text")
    return value.decode("utf-8", "surrogateescape")


def octets(value: object) -> bytes:
    """Converter: bytes, nil for none."""
    if value is None:
        return b""
    if type(value) is not bytes:
        raise MalformedPacket(f"{_short(value)} is not a byte string")
    return value


def boolean(value: object) -> bool:
    """Converter: a truth value, nil for false."""
    if value is None or value is False:
        return False
    if value is True:
        return True
    raise MalformedPacket(f"{_short(value)} is not a boolean")


def sequence(convert: Callable[[object], T]) -> Callable[[object], tuple[T, ...]]:
    """Converter: a list whose elements `convert` accepts, nil for an empty one."""

    def convert_all(value: object) -> tuple[T, ...]:
        if value is None:
            return ()
        if type(value) is not list:
            raise MalformedPacket(f"{_short(value)} is not a list")
        return tuple([convert(element) for element in value])

    return convert_all


def mapping(convert: Callable[[object], T]) -> Callable[[object], dict[str, T]]:
    """Converter: a map from text to what `convert` accepts, nil for an empty one."""

    def convert_all(value: object) -> dict[str, T]:
        if value is None:
            return {}
        if type(value) is not dict:
            raise MalformedPacket(f"{_short(value)} is not a map")
        return {text(key): convert(element) for key, element in value.items()}

    return convert_all


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a record.

    Attributes:
        wire: Name on the wire.
        name: Attribute of the record.
        read: Converts the decoded value or raises MalformedPacket.
        write: Converts the attribute to what is packed; None packs it as it is.
        omit_empty: A zero value is left out.
        nil_empty: An empty value is written as nil.
    """

    wire: str
    name: str
    read: Callable[[object], Any]
    write: Callable[[Any], object] | None = None
    omit_empty: bool = False
    nil_empty: bool = False


class Fields(Generic[T]):
    """Codec of one record class.

    Args:
        record: The class; its constructor takes the fields' names as keywords.
        fields: In any order; they are written in the alphabetical order of their wire names.
    """

    def __init__(self, record: type[T], *fields: Field) -> None:
        self._record = record
        self._fields = tuple(sorted(fields, key=lambda field: field.wire))
        self._reads = {field.wire.encode(): (field.name, field.read) for field in fields}

    def to_map(self, message: T) -> dict[str, object]:
        """The map that is packed, its keys in order."""
        packed: dict[str, object] = {}
        for field in self._fields:
            value = getattr(message, field.name)
            if not value:
                if field.omit_empty:
                    continue
                if field.nil_empty:
                    packed[field.wire] = None
                    continue
            packed[field.wire] = value if field.write is None else field.write(value)
        return packed

    def encode(self, message: T) -> bytes:
        """Bytes of one record."""
        return pack(self.to_map(message))

    def decode(self, data: bytes) -> T:
        """Read one record; what follows it is ignored.

        Raises:
            MalformedPacket: Not MessagePack, no map, or a field is of the wrong type or range.
        """
        return self.from_map(unpack(data))

    def from_map(self, value: object) -> T:
        """Read one record from a decoded map.

        Raises:
            MalformedPacket: No map, or a field is of the wrong type or range.
        """
        if type(value) is not dict:
            raise MalformedPacket(f"{_short(value)} is not a map")
        return self._record(**self._values(value))

    def _values(self, value: Mapping[object, object]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, element in value.items():
            known = self._reads.get(key)  # type: ignore[call-overload]
            if known is not None:
                name, read = known
                try:
                    values[name] = read(element)
                except MalformedPacket as error:
                    raise MalformedPacket(f"{self._record.__name__}.{name}: {error}") from None
        return values


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else shown[:37] + "..."
