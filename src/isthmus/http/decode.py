"""JSON of request bodies into records, with the texts that Go's decoder would answer.

Names match without regard to case; for registrations also in snake_case. Unknown names are
refused. Source: protocol/http-api.md §1, "request JSON".
"""

import functools
import re
from typing import Any, Final, TypeVar, get_args, get_origin

import msgspec

from isthmus.errors import InvalidRequest, MalformedPacket
from isthmus.http.options import NO_NAMESPACES
from isthmus.model.record import Record, fields_of, split_optional
from isthmus.wire import gojson

T = TypeVar("T", bound=Record)

_PREFIX: Final = "Request decode failed: "
_SPACE: Final = " \t\r\n"
_NUMBER: Final = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_ESCAPES: Final = '"\\/bfnrt'
_HEX: Final = "0123456789abcdefABCDEF"
_NESTING_MAX: Final = 200
_UNKNOWN_NAMESPACE: Final = 'json: unknown field "Namespace"'
_LITERALS: Final = ("true", "false", "null")


def decode(
    kind: type[T],
    body: bytes,
    *,
    snake_case: bool = False,
    ignore_unknown: bool = False,
    prefix: str = _PREFIX,
) -> T:
    """Decode a request body.

    Args:
        kind: What it should be.
        body: As received.
        snake_case: Whether ``enable_tag_override`` stands for ``EnableTagOverride``.
        ignore_unknown: Skip names that are not declared instead of refusing them.
        prefix: What the error begins with.

    Raises:
        InvalidRequest: The body is something else.
    """
    if snake_case:
        try:
            return gojson.decode(kind, body)  # Most clients write names as they are.
        except MalformedPacket:
            body = _respell(kind, body)
    try:
        return gojson.decode(kind, body, ignore_unknown=ignore_unknown)
    except MalformedPacket as error:
        raise _refused(error, body, prefix) from None


def decode_list(kind: type[T], body: bytes, *, type_name: str, prefix: str) -> tuple[T, ...]:
    """Decode a request body that is a list of records; null is an empty one.

    Args:
        kind: What each should be.
        body: As received.
        type_name: What Go calls the list, for the error.
        prefix: What the error begins with.

    Raises:
        InvalidRequest: The body is something else.
    """
    try:
        return gojson.decode(tuple[kind, ...], body)  # type: ignore[valid-type]
    except MalformedPacket as error:
        start = body.lstrip()[:1]
        if start != b"[" and not syntax_fault(body):
            found = _KINDS.get(start, "number")
            text = f"json: cannot unmarshal {found} into Go value of type {type_name}"
            raise InvalidRequest(prefix + text) from None
        raise _refused(error, body, prefix) from None


def decode_object(body: bytes, *, prefix: str) -> dict[str, object]:
    """Decode a request body that is an object of anything; null is an empty one.

    Args:
        body: As received.
        prefix: What the error begins with.

    Raises:
        InvalidRequest: The body is something else.
    """
    try:
        value = gojson.decode(object, body)
    except MalformedPacket as error:
        raise _refused(error, body, prefix) from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        found = {str: "string", bool: "bool", list: "slice"}.get(type(value), "float64")
        raise InvalidRequest(f"{prefix}'' expected a map, got '{found}'")
    return value


_KINDS: Final = {b"{": "object", b'"': "string", b"t": "bool", b"f": "bool"}


def _refused(error: MalformedPacket, body: bytes, prefix: str) -> InvalidRequest:
    fault = str(error) if str(error).startswith("json: ") else syntax_fault(body)
    if fault == _UNKNOWN_NAMESPACE:
        fault += NO_NAMESPACES
    return InvalidRequest(prefix + (fault or str(error)))


def _respell(kind: type[Record], body: bytes) -> bytes:
    """Write every declared name as the wire has it; names that are the user's stay."""
    try:
        plain = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return body  # The decoder proper will say what is wrong.
    return msgspec.json.encode(_rename(kind, plain))


def _rename(kind: Any, value: Any) -> Any:
    kind, _ = split_optional(kind)
    if isinstance(value, list) and get_origin(kind) is tuple:
        return [_rename(get_args(kind)[0], item) for item in value]
    if not isinstance(value, dict):
        return value
    if get_origin(kind) is dict:
        inner = get_args(kind)[1]
        return {key: _rename(inner, item) for key, item in value.items()}
    if not (isinstance(kind, type) and issubclass(kind, Record)):
        return value
    spellings, kinds = _spellings(kind)
    renamed = {}
    for key, item in value.items():
        folded = key.lower()
        name: str = spellings.get(folded) or spellings.get(folded.replace("_", "")) or key
        renamed[name] = _rename(kinds.get(name, object), item)
    return renamed


@functools.cache
def _spellings(record: type[Record]) -> tuple[dict[str, str], dict[str, Any]]:
    """Wire names by lower-case spelling, and declared types by wire name."""
    fields = fields_of(record)
    spellings = {field.wire.lower(): field.wire for field in fields}
    spellings.update(getattr(record, "json_aliases", {}))
    return spellings, {field.wire: field.kind for field in fields}


def syntax_fault(body: bytes) -> str:
    """What Go's decoder says of text that is not JSON; empty when it is JSON."""
    text = body.decode("utf-8", "replace")
    if not text.strip(_SPACE):
        return "EOF"
    try:
        end = _skip(text, _value(text, _skip(text, 0), 0))
    except _Fault as fault:
        return str(fault)
    except IndexError:
        return "unexpected EOF"
    return _wrong(text[end], "after top-level value") if end < len(text) else ""


class _Fault(Exception):
    """The text of a syntax error."""


def _wrong(character: str, where: str) -> str:
    quoted = {"'": "'\\''", '"': "'\"'"}.get(character)
    if quoted is None:
        plain = character.isprintable() and character.isascii()
        quoted = f"'{character if plain else character.encode('unicode_escape').decode()}'"
    return f"invalid character {quoted} {where}"


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _value(text: str, at: int, depth: int) -> int:
    """Skip one value; returns where it ends."""
    character = text[at]
    if depth > _NESTING_MAX:
        raise _Fault("exceeded max depth")
    if character == "{":
        return _object(text, _skip(text, at + 1), depth)
    if character == "[":
        return _array(text, _skip(text, at + 1), depth)
    if character == '"':
        return _string(text, at + 1)
    if character == "-" or character.isdigit():
        number = _NUMBER.match(text, at)
        if number is None:
            raise _Fault(_wrong(text[at + 1], "in numeric literal"))
        return number.end()
    for literal in _LITERALS:
        if character == literal[0]:
            return _literal(text, at, literal)
    raise _Fault(_wrong(character, "looking for beginning of value"))


def _literal(text: str, at: int, literal: str) -> int:
    for offset, expected in enumerate(literal):
        if text[at + offset] != expected:
            where = f"in literal {literal} (expecting '{expected}')"
            raise _Fault(_wrong(text[at + offset], where))
    return at + len(literal)


def _string(text: str, at: int) -> int:
    while text[at] != '"':
        if text[at] < " ":
            raise _Fault(_wrong(text[at], "in string literal"))
        if text[at] == "\\":
            at += 1
            if text[at] == "u":
                for at in range(at + 1, at + 5):  # noqa: B020 - the last is where we stand.
                    if text[at] not in _HEX:
                        raise _Fault(_wrong(text[at], r"in \u hexadecimal character escape"))
            elif text[at] not in _ESCAPES:
                raise _Fault(_wrong(text[at], "in string escape code"))
        at += 1
    return at + 1


def _object(text: str, at: int, depth: int) -> int:
    if text[at] == "}":
        return at + 1
    while True:
        if text[at] != '"':
            raise _Fault(_wrong(text[at], "looking for beginning of object key string"))
        at = _skip(text, _string(text, at + 1))
        if text[at] != ":":
            raise _Fault(_wrong(text[at], "after object key"))
        at = _skip(text, _value(text, _skip(text, at + 1), depth + 1))
        if text[at] == "}":
            return at + 1
        if text[at] != ",":
            raise _Fault(_wrong(text[at], "after object key:value pair"))
        at = _skip(text, at + 1)


def _array(text: str, at: int, depth: int) -> int:
    if text[at] == "]":
        return at + 1
    while True:
        at = _skip(text, _value(text, at, depth + 1))
        if text[at] == "]":
            return at + 1
        if text[at] != ",":
            raise _Fault(_wrong(text[at], "after array element"))
        at = _skip(text, at + 1)
