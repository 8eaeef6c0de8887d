"""Regular expressions that come from other members, in the syntax and with the bounds of RE2.

Consul and Serf are written in Go, whose expressions are RE2's. That engine takes time linear in
its input, so no filter of a peer can hold up the loop.

Source: protocol/gossip.md §13.5, §14.6.
"""

from functools import lru_cache
from typing import Final

from isthmus.model.pattern import compile_pattern

PATTERN_SIZE_MAX: Final = 256
"""Characters; a longer expression matches nothing."""
PATTERNS_KEPT_MAX: Final = 16
"""Compiled expressions that are kept: one is often asked of many members in a row."""

_compile: Final = lru_cache(maxsize=PATTERNS_KEPT_MAX)(compile_pattern)


def is_found(expression: str, value: str) -> bool:
    """Whether `expression` is found anywhere in `value`.

    An expression that is malformed, too long or too large matches nothing.
    """
    if len(expression) > PATTERN_SIZE_MAX:
        return False
    try:
        return _compile(expression)(value)
    except ValueError:
        return False
