"""Rows of an answer that its reader wants: ``?filter``.

Source: protocol/http-api.md §4.
"""

from collections.abc import Callable
from typing import TypeVar

from isthmus.bexpr import compile_filter
from isthmus.model.query import QueryOptions
from isthmus.model.record import Record

R = TypeVar("R", bound=Record)


def row_filter(request: QueryOptions, record: type[R]) -> Callable[[tuple[R, ...]], tuple[R, ...]]:
    """Make a function that keeps those rows that a request's filter expression holds for.

    Args:
        request: Without an expression, the function returns what it is given.
        record: Type of the rows.

    Raises:
        BadExpression: The expression is malformed or does not fit the rows.
    """
    if not request.filter:
        return _all_rows
    holds = compile_filter(request.filter, record)
    return lambda rows: tuple([row for row in rows if holds(row)])


def _all_rows(rows: tuple[R, ...]) -> tuple[R, ...]:
    return rows
