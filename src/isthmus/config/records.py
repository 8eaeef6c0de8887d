"""Changing fields of records within records."""

from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from typing import Any, TypeVar

T = TypeVar("T")


def placed(record: T, fields: Mapping[str, Any]) -> T:
    """Replace fields of nested records, given by dotted path."""
    changes: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for path, value in fields.items():
        name, dot, rest = path.partition(".")
        if dot:
            nested.setdefault(name, {})[rest] = value
        else:
            changes[name] = value
    for name, below in nested.items():
        changes[name] = placed(getattr(record, name), below)
    assert is_dataclass(record)
    assert not isinstance(record, type)
    return replace(record, **changes)
