"""Every record type of the model, and values of them for property tests."""

import functools
import importlib
import pkgutil
import struct
from typing import Any, Final, get_args, get_origin

from hypothesis import strategies as st

import isthmus.model
from isthmus.model.record import Field, Float32, Record, Uint, fields_of, split_optional
from isthmus.model.timestamp import UTC_OFFSET, Timestamp
from isthmus.units import Duration

INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**63 - 1
UINT_MAX: Final = 2**64 - 1


# JSON has no infinities, and the reader does not see the sign of ``-0``.
_FLOATS: Final = st.floats(allow_nan=False, allow_infinity=False).map(lambda value: value or 0.0)
_SINGLES: Final = _FLOATS.filter(lambda value: abs(value) < 3e38).map(
    lambda value: float(struct.unpack("f", struct.pack("f", value))[0]) or 0.0
)


def record_types() -> list[type[Record]]:
    """All records that the model declares, by name."""
    for module in pkgutil.iter_modules(isthmus.model.__path__, "isthmus.model."):
        importlib.import_module(module.name)
    found: set[type[Record]] = set()
    rest: list[type[Record]] = [Record]
    while rest:
        children = rest.pop().__subclasses__()
        rest += children
        found.update(child for child in children if child.__module__.startswith("isthmus.model."))
    return sorted(found, key=lambda record: record.__name__)


def timestamps() -> st.SearchStrategy[Timestamp]:
    """Moments that RFC 3339 can show."""
    return st.builds(
        Timestamp,
        st.integers(0, 315_537_810_000),  # A day less than the end of the year 9999.
        st.integers(0, 999_999_999),
        st.one_of(st.just(UTC_OFFSET), st.integers(-12 * 60, 14 * 60).filter(lambda m: m != -1)),
    )


def free_values() -> st.SearchStrategy[Any]:
    """Values of any shape, as ``Proxy.Config`` holds them; JSON reads numbers as floats."""
    scalars = (
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | _FLOATS | st.text(max_size=3)
    )
    return st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        ),
        max_leaves=4,
    )


_SCALARS: Final[dict[Any, st.SearchStrategy[Any]]] = {
    str: st.text(max_size=40),
    bool: st.booleans(),
    int: st.integers(INT_MIN, INT_MAX),
    Uint: st.integers(0, UINT_MAX),
    float: _FLOATS,
    Float32: _SINGLES,
    bytes: st.binary(max_size=40),
    Duration: st.integers(INT_MIN, INT_MAX).map(Duration),
    Timestamp: timestamps(),
    object: free_values(),
}


@functools.cache
def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a declared type; fields that the wire hides keep their defaults."""
    kind, optional = split_optional(kind)
    strategy: st.SearchStrategy[Any]
    if get_origin(kind) is tuple:
        strategy = st.lists(values(get_args(kind)[0]), max_size=2).map(tuple)
    elif get_origin(kind) is dict:
        strategy = st.dictionaries(st.text(max_size=8), values(get_args(kind)[1]), max_size=2)
    elif isinstance(kind, type) and issubclass(kind, Record):
        strategy = st.builds(kind, **{field.name: values(field.kind) for field in _shown(kind)})
    else:
        strategy = _SCALARS[kind]
    return st.none() | strategy if optional else strategy


def _shown(record: type[Record]) -> list[Field]:
    return [field for field in fields_of(record) if field.name not in record.wire_hidden]
