"""Expressions as their callers meet them: text in, a function over records out."""

import functools
from collections.abc import Callable
from typing import Final, TypeVar

from isthmus.bexpr.evaluation import compile_expression
from isthmus.bexpr.grammar import parse
from isthmus.model.record import Record

R = TypeVar("R", bound=Record)

FILTERS_KEPT_MAX: Final = 128
"""Compiled expressions that are kept for their next use."""
_KEPT_SIZE_MAX: Final = 1024
"""Characters of an expression that is kept."""


def compile_filter(text: str, record: type[R]) -> Callable[[R], bool]:
    """Make a function that says whether an expression holds for a record.

    Args:
        text: The expression. Bytes that are not UTF-8 are lone surrogates (``surrogateescape``).
        record: Type of the records.

    Raises:
        BadExpression: The expression is malformed, too large, or does not fit the records; the
            text is Consul's.
    """
    compiled: Callable[[R], bool] = (_kept if len(text) <= _KEPT_SIZE_MAX else _compile)(
        text, record
    )
    return compiled


def check_syntax(text: str) -> None:
    """Refuse a malformed expression, whatever it is about.

    Raises:
        BadExpression: It is malformed or too large.
    """
    parse(text)


def _compile(text: str, record: type[Record]) -> Callable[[Record], bool]:
    return compile_expression(parse(text), record)


_kept = functools.lru_cache(FILTERS_KEPT_MAX)(_compile)
