"""Equal values kept once: names, tags and metadata repeat in thousands of rows.

Rows are immutable, so sharing is never seen, except in memory. Source: design of storage, §9.
"""

import functools
from collections import deque
from collections.abc import Sequence
from itertools import repeat
from operator import attrgetter
from typing import Any, Final, TypeVar, get_args, get_origin

import msgspec
from msgspec.structs import force_setattr

from isthmus.model.record import Record, fields_of, split_optional

R = TypeVar("R", bound=Record)

_TEXT_SIZE_MAX: Final = 64
"""Longer texts are outputs and notes, which do not repeat."""
_VALUES_MAX: Final = 500_000
_UNIQUE: Final = frozenset({"id", "check_id", "service_id", "output", "notes"})
"""Fields whose values rarely repeat: a place in the pool would cost more than it saves."""


class Sharing:
    """A pool of values already seen; forgets all of them when it grows past its bound."""

    def __init__(self, *, values_max: int = _VALUES_MAX) -> None:
        self._values_max = values_max
        self._pool: dict[Any, Any] = {}

    def __len__(self) -> int:
        """How many values the pool holds."""
        return len(self._pool)

    def row(self, row: R) -> R:
        """The same row with its field values shared."""
        if len(self._pool) >= self._values_max:
            self._pool.clear()
        changed = {}
        for name, default in _shared_fields(type(row)):
            value = getattr(row, name)
            if value is not None and value is not default:
                shared = self._share(value)
                if shared is not value:
                    changed[name] = shared
        return msgspec.structs.replace(row, **changed) if changed else row

    def take(self, rows: Sequence[Record]) -> None:
        """As `row` for many rows of one kind that nobody else holds yet: they change in place.

        It goes through them field by field, which is several times faster than row by row.
        """
        if not rows:
            return
        if len(self._pool) >= self._values_max:
            self._pool.clear()
        for name, kind, default in _taken_fields(type(rows[0])):
            values = list(map(attrgetter(name), rows))
            if not any(values):
                continue
            if _is_record(kind) and not _is_hashable(kind):
                self.take([value for value in values if value is not None and value is not default])
                continue
            shared = self._taken(kind, values, default)
            deque(map(force_setattr, rows, repeat(name), shared), maxlen=0)

    def _taken(self, kind: Any, values: list[Any], default: object) -> list[Any]:
        """Known values in the place of those of one field; a default is shared anyway."""
        known, share = self._pool.get, self._share
        if kind is str and max(map(len, values)) <= _TEXT_SIZE_MAX:
            return list(map(self._pool.setdefault, values, values))
        if kind is not str and _is_hashable(kind):
            return [
                value if value is default or value is None else known(value) or share(value)
                for value in values
            ]
        return [value if value is default or value is None else share(value) for value in values]

    def _share(self, value: Any) -> Any:
        kind = type(value)
        if kind is str:
            return self._pool.setdefault(value, value) if len(value) <= _TEXT_SIZE_MAX else value
        if kind is dict:
            return self._share_dict(value)
        try:
            known = self._pool.get(value)
        except TypeError:  # Something inside cannot be hashed, so it cannot be looked up.
            return self._share_inside(value)
        if known is None:
            known = self._share_inside(value)
            self._pool[known] = known
        return known

    def _share_inside(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple([self._share(item) for item in value])
        return self.row(value) if isinstance(value, Record) else value

    def _share_dict(self, value: dict[str, Any]) -> dict[str, Any]:
        try:
            key = (dict, *value.items())
            known: dict[str, Any] | None = self._pool.get(key)
        except TypeError:
            return value
        if known is None:
            known = {self._share(name): self._share(item) for name, item in value.items()}
            self._pool[(dict, *known.items())] = known
        return known


@functools.cache
def _shared_fields(record: type[Record]) -> tuple[tuple[str, object], ...]:
    """Names and defaults of the fields whose values are worth sharing."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(record)}
    return tuple(
        (field.name, defaults[field.name])
        for field in fields_of(record)
        for kind in (split_optional(field.kind)[0],)
        if _is_shared(kind) and field.name not in _UNIQUE
    )


@functools.cache
def _taken_fields(record: type[Record]) -> tuple[tuple[str, Any, object], ...]:
    """As `_shared_fields`, with the declared types."""
    kinds = {field.name: split_optional(field.kind)[0] for field in fields_of(record)}
    return tuple((name, kinds[name], default) for name, default in _shared_fields(record))


def _is_record(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Record)


@functools.cache
def _is_hashable(kind: Any) -> bool:
    """Whether values of a declared type can always be looked up."""
    kind, _ = split_optional(kind)
    if isinstance(kind, type) and issubclass(kind, Record):
        return all(_is_hashable(field.kind) for field in fields_of(kind))
    if get_origin(kind) is tuple:
        return _is_hashable(get_args(kind)[0])
    return get_origin(kind) is not dict and kind is not object


def _is_shared(kind: Any) -> bool:
    """Whether values of a declared type may be replaced by equal ones, and repeat.

    Free values may not: 1, 1.0 and true are equal, but not the same.
    """
    if get_origin(kind) is dict:
        return _is_shared(split_optional(get_args(kind)[1])[0])
    if get_origin(kind) is tuple or kind is str:
        return True
    return isinstance(kind, type) and issubclass(kind, Record)
