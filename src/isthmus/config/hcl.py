"""HCL 1, the language of Consul's ``.hcl`` files: text to dictionaries and lists.

HCL 1 is not HCL 2 (Terraform's): keys may be quoted, commas in objects are optional, there are no
expressions, and ``${`` means nothing. The language is small, so this reader is written by hand: a
general HCL 2 parser refuses quoted keys and commas, leaves quotes and heredoc markers in values,
and needs two seconds to build its tables when the first file is read.

Grammar::

    file    := item*
    item    := key+ "=" value | key+ object            each may be followed by ","
    key     := IDENTIFIER | STRING                     further keys are labels: a { b { … } }
    value   := STRING | HEREDOC | NUMBER | "true" | "false" | list | object
    list    := "[" (value ("," value)* ","?)? "]"
    object  := "{" item* "}"
    comment := "#" … | "//" … | "/*" … "*/"

A block and an object behind ``=`` are the same. A block that occurs several times becomes a list
of dictionaries, any other key that occurs several times keeps its last value, as in JSON.

Source: the HCL 1 language as Consul's users write it; protocol/cli-config-dns.md §2.2.
"""

import re
from collections.abc import Callable
from typing import Final

NESTING_MAX: Final = 64
"""Deepest nesting of lists and objects that is read."""

_SKIP: Final = re.compile(r"(?:\s+|#[^\n]*|//[^\n]*|/\*.*?\*/)+", re.DOTALL)
_IDENTIFIER: Final = re.compile(r"[^\W\d][\w.\-]*")
_NUMBER: Final = re.compile(
    r"-?(?:0[xX][0-9a-fA-F]+|(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)(?![\w.])"
)
_STRING: Final = re.compile(r'"((?:[^"\\\n]|\\.)*)"')
_HEREDOC: Final = re.compile(r"<<(-?)([^\W\d]\w*)[ \t]*\r?\n")
_ESCAPE: Final = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))", re.DOTALL
)
_SIMPLE_ESCAPES: Final = {
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "\\": "\\",
    '"': '"',
}


class HclSyntaxError(ValueError):
    """The text is not HCL 1. Nothing of it was read.

    Attributes:
        line: Line of the mistake, counted from 1.
    """

    def __init__(self, text: str, *, line: int) -> None:
        self.line = line
        super().__init__(text)


def parse_hcl(text: str) -> dict[str, object]:
    """Read HCL 1.

    Returns:
        Values are `str`, `int`, `float`, `bool`, `list` and `dict`.

    Raises:
        HclSyntaxError: The text is not HCL 1; it says what stands at which line.
    """
    return _Reader(text.removeprefix("\ufeff")).file()


class _Block(dict[str, object]):
    """An object, remembered as such so that its repetition makes a list."""


class _Blocks(list[object]):
    """Repeated blocks of one key."""


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def file(self) -> dict[str, object]:
        return self._items(end="")

    def _items(self, *, end: str) -> _Block:
        items = _Block()
        while True:
            self._skip()
            if self._at == len(self._text):
                if end:
                    raise self._error(f'expected "{end}" before the end of the text')
                return items
            if end and self._take(end):
                return items
            self._item(items)
            self._skip()
            self._take(",")

    def _item(self, items: dict[str, object]) -> None:
        keys = [self._key()]
        while True:
            self._skip()
            if self._take("="):
                value = self._value()
                break
            if self._peek() == "{":
                value = self._value()
                break
            keys.append(self._key())
        for label in reversed(keys[1:]):
            value = _Block({label: value})
        key, before = keys[0], items.get(keys[0])
        if isinstance(value, _Block) and isinstance(before, _Block):
            items[key] = _Blocks([before, value])
        elif isinstance(value, _Block) and isinstance(before, _Blocks):
            before.append(value)
        else:
            items[key] = value

    def _key(self) -> str:
        if self._peek() == '"':
            return self._string()
        found = _IDENTIFIER.match(self._text, self._at)
        if found is None:
            raise self._error(f"expected a key, found {self._shown()}")
        self._at = found.end()
        return found[0]

    def _value(self) -> object:
        self._skip()
        start = self._peek()
        if start == '"':
            return self._string()
        if start == "[":
            return self._nested(self._list)
        if start == "{":
            return self._nested(self._object)
        if start == "<":
            return self._heredoc()
        if number := _NUMBER.match(self._text, self._at):
            self._at = number.end()
            return _number(number[0])
        if word := _IDENTIFIER.match(self._text, self._at):
            if word[0] in {"true", "false"}:
                self._at = word.end()
                return word[0] == "true"
            raise self._error(f'unknown value {word[0]}, a text stands in quotes: "{word[0]}"')
        raise self._error(f"expected a value, found {self._shown()}")

    def _nested(self, read: Callable[[], object]) -> object:
        self._depth += 1
        if self._depth > NESTING_MAX:
            raise self._error(f"nested deeper than {NESTING_MAX}")
        self._at += 1
        value = read()
        self._depth -= 1
        return value

    def _object(self) -> object:
        return self._items(end="}")

    def _list(self) -> object:
        values: list[object] = []
        while True:
            self._skip()
            if self._take("]"):
                return values
            values.append(self._value())
            self._skip()
            if not self._take(",") and self._peek() != "]":
                raise self._error(f'expected "," or "]" in a list, found {self._shown()}')

    def _string(self) -> str:
        found = _STRING.match(self._text, self._at)
        if found is None:
            raise self._error("a quoted text does not end on its line")
        text = _ESCAPE.sub(self._unescape, found[1])
        self._at = found.end()
        return text

    def _unescape(self, escape: re.Match[str]) -> str:
        code = escape[1] or escape[2] or escape[3]
        if code or escape[4]:
            number = int(code, 16) if code else int(escape[4], 8)
            if number <= 0x10FFFF and not 0xD800 <= number <= 0xDFFF:
                return chr(number)
        elif (simple := _SIMPLE_ESCAPES.get(escape[5])) is not None:
            return simple
        raise self._error(f"unknown escape {escape[0]} in a quoted text")

    def _heredoc(self) -> str:
        found = _HEREDOC.match(self._text, self._at)
        if found is None:
            raise self._error("expected <<MARKER and a new line")
        closing = re.compile(rf"^[ \t]*{found[2]}[ \t]*\r?$", re.MULTILINE)
        end = closing.search(self._text, found.end())
        if end is None:
            raise self._error(f"the text behind <<{found[1]}{found[2]} has no closing {found[2]}")
        body = self._text[found.end() : end.start()]
        self._at = end.end()
        return _unindent(body) if found[1] else body

    def _skip(self) -> None:
        if found := _SKIP.match(self._text, self._at):
            self._at = found.end()

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, mark: str) -> bool:
        if self._text.startswith(mark, self._at):
            self._at += len(mark)
            return True
        return False

    def _shown(self) -> str:
        return repr(self._peek()) if self._at < len(self._text) else "the end of the text"

    def _error(self, text: str) -> HclSyntaxError:
        return HclSyntaxError(text, line=self._text.count("\n", 0, self._at) + 1)


def _number(text: str) -> int | float:
    if "x" in text.lower():
        return int(text, 16)
    try:
        return int(text)
    except ValueError:
        return float(text)


def _unindent(body: str) -> str:
    """Take off what the least indented line is indented by, as ``<<-`` asks."""
    lines = body.splitlines(keepends=True)
    indents = [len(line) - len(line.lstrip(" \t")) for line in lines if line.strip()]
    width = min(indents, default=0)
    return "".join(line[width:] if line.strip() else line.lstrip(" \t") for line in lines)
