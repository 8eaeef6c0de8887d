"""Equal values kept once: names, tags and metadata repeat in thousands of rows.

Rows are immutable, so sharing is never seen, except in memory. Source: design of storage, §9.
"""

from typing import Any, Final, TypeVar

import msgspec

from isthmus.model.record import Record

R = TypeVar("R", bound=Record)

_TEXT_SIZE_MAX: Final = 64
"""Longer texts are outputs and notes, which do not repeat."""
_VALUES_MAX: Final = 500_000


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
        for name in row.__struct_fields__:
            value = getattr(row, name)
            shared = self._share(value)
            if shared is not value:
                changed[name] = shared
        return msgspec.structs.replace(row, **changed) if changed else row

    def _share(self, value: Any) -> Any:
        kind = type(value)
        if kind is str:
            return self._pool.setdefault(value, value) if len(value) <= _TEXT_SIZE_MAX else value
        if kind is dict:
            return self._share_dict(value)
        if kind is tuple:
            value = tuple([self._share(item) for item in value])
        elif isinstance(value, Record):
            value = self.row(value)
        else:
            return value
        try:
            return self._pool.setdefault(value, value)
        except TypeError:  # Something inside cannot be hashed, so it cannot be looked up.
            return value

    def _share_dict(self, value: dict[str, Any]) -> dict[str, Any]:
        shared = {self._share(key): self._share(item) for key, item in value.items()}
        if not all(isinstance(item, str | Record) for item in shared.values()):
            return shared  # Free values: 1, 1.0 and true are equal, but not the same.
        try:
            found: dict[str, Any] = self._pool.setdefault((dict, tuple(shared.items())), shared)
        except TypeError:
            return shared
        return found
