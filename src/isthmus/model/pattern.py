"""Regular expressions that others give us, matched in time that grows with the text alone.

An expression in an event or a filter comes from anyone who may write one. Python's own engine
takes exponential time on some; RE2 does not, and is the syntax that Consul's users write.
"""

import re
from collections.abc import Callable
from typing import Any, Final

PATTERN_SIZE_MAX: Final = 4096
"""Characters of an expression."""

_MEMORY_MAX: Final = 1 << 20
_GO_TEXTS: Final = {
    "missing )": "missing closing )",
    "missing ]": "missing closing ]",
    "no argument for repetition operator": "missing argument to repetition operator",
    "bad repetition operator": "invalid nested repetition operator",
    "invalid repetition size": "invalid repeat count",
    "trailing \\": "trailing backslash at end of expression: ``",
    "invalid perl operator": "invalid or unsupported Perl syntax",
    "invalid named capture group": "invalid named capture",
}
"""What the library says, and what Go says of the same."""
_ESCAPE: Final = re.compile(r"\\Q.*?(?:\\E|$)|\\(?P<letter>.)", re.DOTALL)
"""An escape. The library knows ``\\C``, a single byte; Go does not."""


def compile_pattern(text: str) -> Callable[[str], bool]:
    """Make a function that says whether an expression matches anywhere in a text.

    Raises:
        ValueError: It is no regular expression, or too long; worded as Go does.
    """
    compiled = _compile(text)

    def matches(subject: str) -> bool:
        return compiled.search(subject.encode("utf-8", "replace")) is not None

    return matches


def compile_groups(text: str) -> Callable[[str], tuple[str, ...]]:
    """Make a function that gives the groups of an expression's first match in a text.

    The whole match comes first; a group that took no part is empty. Without a match there are none.

    Raises:
        ValueError: It is no regular expression, or too long; worded as Go does.
    """
    compiled = _compile(text)

    def groups(subject: str) -> tuple[str, ...]:
        found = compiled.search(subject.encode("utf-8", "replace"))
        if found is None:
            return ()
        parts = (found.group(), *found.groups())
        return tuple([(part or b"").decode("utf-8", "replace") for part in parts])

    return groups


def _compile(text: str) -> Any:
    if len(text) > PATTERN_SIZE_MAX:
        raise ValueError(f"error parsing regexp: longer than {PATTERN_SIZE_MAX} characters")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        rest = text[error.start :]
        raise ValueError(f"error parsing regexp: invalid UTF-8: `{rest}`") from None
    import re2  # Most agents never need it.

    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MEMORY_MAX
    try:
        compiled = re2.compile(text, options=options)
    except re2.error as error:
        raise ValueError(f"error parsing regexp: {_in_go(error)}") from None
    if any(escape["letter"] == "C" for escape in _ESCAPE.finditer(text)):
        raise ValueError("error parsing regexp: invalid escape sequence: `\\C`")
    return compiled


def _in_go(error: Exception) -> str:
    said = error.args[0] if error.args else b""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    code, colon, where = text.partition(": ")
    code = _GO_TEXTS.get(code, code)
    return f"{code}: `{where}`" if colon else code
