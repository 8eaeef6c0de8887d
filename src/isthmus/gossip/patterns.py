"""Regular expressions that come from other members, in the syntax and with the bounds of RE2.

Consul and Serf are written in Go, whose expressions are RE2's. That engine takes time linear in
its input, so no filter of a peer can hold up the loop.

Source: protocol/gossip.md §13.5, §14.6.
"""

from typing import Final

from isthmus.model.pattern import compile_pattern

PATTERN_SIZE_MAX: Final = 256
"""Characters; a longer expression matches nothing."""


def is_found(expression: str, value: str) -> bool:
    """Whether `expression` is found anywhere in `value`.

    An expression that is malformed, too long or too large matches nothing.
    """
    if len(expression) > PATTERN_SIZE_MAX:
        return False
    try:
        return compile_pattern(expression)(value)
    except ValueError:
        return False
