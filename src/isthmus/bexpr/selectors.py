"""What an expression may select of a record, and how.

Derived from the record's declaration: names are those of the wire, which are Go's. Fields that a
record lists in `filter_hidden` cannot be selected, nor can free values (``object``).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias, get_args, get_origin

from isthmus.bexpr.literals import parse_bool, parse_float, parse_int, parse_uint, quote
from isthmus.bexpr.syntax import BadExpression, Operator
from isthmus.model.record import Float32, Record, Uint, fields_of, split_optional
from isthmus.model.timestamp import Timestamp
from isthmus.units import Duration

Parse: TypeAlias = Callable[[str], Any]

_EQUALITY: Final = frozenset({Operator.EQUAL, Operator.NOT_EQUAL})
_MEMBERSHIP: Final = frozenset({Operator.IN, Operator.NOT_IN})
_EMPTINESS: Final = frozenset({Operator.IS_EMPTY, Operator.IS_NOT_EMPTY})
_PATTERNS: Final = frozenset({Operator.MATCHES, Operator.NOT_MATCHES})
_BYTE_BITS: Final = 8
_SINGLE_BITS: Final = 32

_NUMBERS: Final[dict[Any, Parse]] = {
    bool: parse_bool,
    int: parse_int,
    Duration: parse_int,
    Uint: parse_uint,
    float: parse_float,
    Float32: partial(parse_float, bits=_SINGLE_BITS),
}


@dataclass(frozen=True, slots=True)
class Scalar:
    """A text, a number or a bool.

    Attributes:
        parse: Reads what it is compared with; raises ValueError with Go's text.
        operators: What it supports.
    """

    parse: Parse
    operators: frozenset[Operator] = _EQUALITY


@dataclass(frozen=True, slots=True)
class Listing:
    """A list. Names that are selected of it are selected of each of its elements.

    Attributes:
        element: What it is a list of; None for what cannot be selected.
        operators: What it supports as a whole.
        parse: Reads what its elements are compared with.
    """

    element: "Shape | None"
    operators: frozenset[Operator]
    parse: Parse


@dataclass(frozen=True, slots=True)
class Mapping:
    """A map from texts.

    Attributes:
        value: What it maps to; None for what cannot be selected.
    """

    value: "Shape | None"
    operators: frozenset[Operator] = _EMPTINESS | _MEMBERSHIP
    parse: Parse = str


@dataclass(frozen=True, slots=True)
class Structure:
    """A record: only its fields can be compared.

    Attributes:
        fields: Attribute and shape by the name on the wire.
    """

    fields: dict[str, tuple[str, "Shape"]]
    operators: frozenset[Operator] = field(default_factory=frozenset)
    parse: Parse = str


Shape: TypeAlias = Scalar | Listing | Mapping | Structure

TEXT: Final = Scalar(str, _EQUALITY | _MEMBERSHIP | _PATTERNS)


@functools.cache
def shape_of(record: type[Record]) -> Structure:
    """What can be selected of a record."""
    hidden = {name for base in record.__mro__ for name in vars(base).get("filter_hidden", ())}
    fields = dict[str, tuple[str, Shape]]()
    for one in fields_of(record):
        shape = None if one.name in hidden else _shape(one.kind)
        if shape is not None:
            fields[one.wire] = one.name, shape
    return Structure(fields)


def _shape(kind: Any) -> Shape | None:
    kind, _ = split_optional(kind)
    if kind is str:
        return TEXT
    if kind is Timestamp:
        return Structure({})
    parse = _NUMBERS.get(kind)
    if parse is not None:
        return Scalar(parse)
    if kind is bytes:  # To Go a list of numbers.
        byte = partial(parse_uint, bits=_BYTE_BITS)
        return Listing(Scalar(byte), _MEMBERSHIP | _EMPTINESS, byte)
    origin = get_origin(kind)
    if origin is tuple:
        element = _shape(get_args(kind)[0])
        if isinstance(element, Scalar):
            return Listing(element, _MEMBERSHIP | _EMPTINESS, element.parse)
        return Listing(element, _EMPTINESS, str)
    if origin is dict:
        return Mapping(_shape(get_args(kind)[1]))
    if isinstance(kind, type) and issubclass(kind, Record):
        return shape_of(kind)
    return None


def select(record: type[Record], selector: tuple[str, ...]) -> Shape:
    """What a selector leads to.

    Raises:
        BadExpression: Nothing that can be selected.
    """
    shape: Shape | None = shape_of(record)
    for count, name in enumerate(selector, start=1):
        shape = _inside(shape, name)
        if shape is None:
            raise BadExpression(f"Selector {quote('.'.join(selector[:count]))} is not valid")
    assert shape is not None
    return shape


def _inside(shape: Shape | None, name: str) -> Shape | None:
    while isinstance(shape, Listing):
        shape = shape.element
    if isinstance(shape, Mapping):
        return shape.value
    if isinstance(shape, Structure):
        return shape.fields.get(name, ("", None))[1]
    return None
