"""Kinds of configuration values: how each is read from a file or a flag, and how it is merged."""

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from isthmus.units import parse_duration


class Merge(Enum):
    """What a key that is set in several places comes to."""

    LAST = "the last one wins"
    APPEND = "all are appended"
    UPDATE = "entries are added, the last one wins for each"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of value.

    Attributes:
        name: As the reference page calls it.
        read: From what a file says; raises ValueError with the rest of a sentence that starts
            with the key.
        parse: From a flag's text; raises the same.
        merge: What several settings of one key come to.
        takes_value: False for flags that stand alone.
    """

    name: str
    read: Callable[[object], object]
    parse: Callable[[str], object]
    merge: Merge = Merge.LAST
    takes_value: bool = True


class DurationError(ValueError):
    """A length of time that cannot be read; worded as Consul words it."""


def _shown(value: object) -> str:
    names = {dict: "an object", list: "a list", bool: str(value).lower()}
    return names.get(type(value)) or repr(value)


def _only(value: object) -> object:
    """Take a list of one thing for the thing, as HCL users and Consul do."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _read_text(value: object) -> str:
    value = _only(value)
    if not isinstance(value, str):
        raise ValueError(f"must be a text in quotes, not {_shown(value)}")
    return value


def _read_secret(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a text in quotes")  # Without the value: messages are logged.
    return value


def _read_bool(value: object) -> bool:
    value = _only(value)
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {_shown(value)}")
    return value


def _parse_bool(text: str) -> bool:
    if text in {"1", "t", "T", "true", "TRUE", "True"}:
        return True
    if text in {"0", "f", "F", "false", "FALSE", "False"}:
        return False
    raise ValueError(f"must be true or false, not {text!r}")


def _read_int(value: object) -> int:
    value = _only(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"must be a whole number, not {_shown(value)}")
    return value


def _parse_int(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise ValueError(f"must be a whole number, not {text!r}") from None


def _read_float(value: object) -> float:
    value = _only(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a number, not {_shown(value)}")
    return float(value)


def _parse_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"must be a number, not {text!r}") from None


def read_duration(value: object) -> float:
    """Read a Go duration as seconds.

    Raises:
        DurationError: It is none.
        ValueError: It is no text.
    """
    text = _read_text(value)
    try:
        return parse_duration(text).seconds
    except ValueError as error:
        raise DurationError(f'invalid duration: "{text}": {error}') from None


def _read_texts(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f'must be a list of texts like ["a", "b"], not {_shown(value)}')
    return list(value)


def _read_text_map(value: object) -> dict[str, str]:
    value = _only(value)
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ValueError(f"must be an object of texts {{ … }}, not {_shown(value)}")
    return dict(value)


def _parse_pair(text: str) -> dict[str, str]:
    key, _, value = text.partition(":")
    return {key: value}


def _read_duration_map(value: object) -> dict[str, float]:
    value = _only(value)
    if not isinstance(value, dict):
        raise ValueError(f'must be an object like {{ key = "10s" }}, not {_shown(value)}')
    return {str(key): read_duration(item) for key, item in value.items()}


def _read_object(value: object) -> dict[str, object]:
    value = _only(value)
    if not isinstance(value, dict):
        raise ValueError("must be an object { … }")  # Without the value: it may hold secrets.
    return dict(value)


def _read_objects(value: object) -> list[dict[str, object]]:
    if isinstance(value, dict):
        return [dict(value)]
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError(f"must be a list of objects, not {_shown(value)}")
    return [dict(item) for item in value]


def _read_cidrs(value: object) -> list[str]:
    texts = _read_texts(value)
    for text in texts:
        _parse_cidr(text)
    return texts


def _parse_cidr(text: str) -> list[str]:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f'must hold networks like "10.0.0.0/8", not {text!r}') from None
    return [text]


def _no_flag(text: str) -> object:
    raise ValueError(f"cannot be given as a flag: {text!r}")


def _list_of(text: str) -> list[str]:
    return [text]


TEXT: Final = Kind("text", _read_text, str)
SECRET: Final = Kind("secret", _read_secret, str)
BOOL: Final = Kind("bool", _read_bool, _parse_bool, takes_value=False)
INT: Final = Kind("int", _read_int, _parse_int)
FLOAT: Final = Kind("number", _read_float, _parse_float)
DURATION: Final = Kind("duration", read_duration, read_duration)
PORT: Final = Kind("port", _read_int, _parse_int)
ADDRESS: Final = Kind("address", _read_text, str)
ADDRESSES: Final = Kind("addresses", _read_text, str)
TEXTS: Final = Kind("list of texts", _read_texts, _list_of, Merge.APPEND)
CIDRS: Final = Kind("list of networks", _read_cidrs, _parse_cidr, Merge.APPEND)
TEXT_MAP: Final = Kind("map of texts", _read_text_map, _parse_pair, Merge.UPDATE)
DURATION_MAP: Final = Kind("map of durations", _read_duration_map, _no_flag, Merge.UPDATE)
OBJECT: Final = Kind("object", _read_object, _no_flag, Merge.UPDATE)
OBJECTS: Final = Kind("list of objects", _read_objects, _no_flag, Merge.APPEND)


def merge_values(kind: Kind, earlier: object, later: object) -> object:
    """Merge two values of one key, each as `Kind.read` or `Kind.parse` returned it."""
    if kind.merge is Merge.APPEND and isinstance(earlier, list) and isinstance(later, list):
        return [*earlier, *later]
    if kind.merge is Merge.UPDATE and isinstance(earlier, Mapping) and isinstance(later, Mapping):
        return {**earlier, **later}
    return later
