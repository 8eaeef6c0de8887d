"""Syntax → a function that says whether a record fits.

Where a map lacks a key, or a record is absent, ``==``, ``in`` and ``is not empty`` do not hold and
all other operators do, ``matches`` too. Of a list an operator holds if it holds for any element:
``Checks.Status != passing`` holds where some check does not pass.
"""

from collections.abc import Callable, Mapping
from operator import not_
from typing import Any, Final, TypeAlias

from isthmus.bexpr import selectors
from isthmus.bexpr.literals import quote
from isthmus.bexpr.selectors import Listing, Shape, Structure
from isthmus.bexpr.syntax import And, BadExpression, Expression, Match, Not, Operator, Or
from isthmus.model.pattern import compile_pattern
from isthmus.model.record import Record

MATCHES_MAX: Final = 512
"""Comparisons in an expression."""

Test: TypeAlias = Callable[[Any], bool]

_HOLD_WITHOUT: Final = frozenset(Operator) - {Operator.EQUAL, Operator.IN, Operator.IS_NOT_EMPTY}
"""Operators that hold where there is nothing to compare."""


def compile_expression(expression: Expression, record: type[Record]) -> Test:
    """Make the function for records of one type.

    Raises:
        BadExpression: A selector, an operator or a value does not fit the type, or there are more
            than `MATCHES_MAX` comparisons.
    """
    count = 0

    def compiled(part: Expression) -> Test:
        nonlocal count
        match part:
            case Match():
                count += 1
                return _compile_match(part, record)
            case Not(operand):
                return _opposite(compiled(operand))
            case And(terms):
                return _all_of(tuple([compiled(term) for term in terms]))
            case Or(terms):
                return _any_of(tuple([compiled(term) for term in terms]))

    test = compiled(expression)
    if count > MATCHES_MAX:
        raise BadExpression(
            f"Number of match expressions ({count}) exceeds the limit ({MATCHES_MAX})"
        )
    return test


def _opposite(test: Test) -> Test:
    return lambda value: not test(value)


def _all_of(tests: tuple[Test, ...]) -> Test:
    def holds(row: Any) -> bool:
        for test in tests:  # noqa: SIM110 -- A generator would take twice as long.
            if not test(row):
                return False
        return True

    return holds


def _any_of(tests: tuple[Test, ...]) -> Test:
    def holds(row: Any) -> bool:
        for test in tests:  # noqa: SIM110 -- As above.
            if test(row):
                return True
        return False

    return holds


def _compile_match(match: Match, record: type[Record]) -> Test:
    shape = selectors.select(record, match.selector)
    operator, selector = match.operator, quote(".".join(match.selector))
    if operator not in shape.operators:
        raise BadExpression(
            f"Invalid match operator {quote(operator.value)} for selector {selector}"
        )
    wanted: Any = None
    if match.value is not None:
        try:
            wanted = shape.parse(match.value)
        except ValueError as error:
            raise BadExpression(
                f"Failed to coerce value {quote(match.value)} for selector {selector}: {error}"
            ) from None
    test = _comparison(operator, wanted, shape)
    if operator.negated:
        test = _opposite(test)
    return _reach(selectors.shape_of(record), match.selector, operator in _HOLD_WITHOUT, test)


def _comparison(operator: Operator, wanted: Any, shape: Shape) -> Test:
    """Compare a value; of negated operators, the opposite."""
    match operator:
        case Operator.EQUAL | Operator.NOT_EQUAL:
            return lambda value: bool(value == wanted)
        case Operator.IN | Operator.NOT_IN:
            if shape is selectors.TEXT:
                return _inside_text(wanted)
            return lambda value: value is not None and wanted in value
        case Operator.IS_EMPTY | Operator.IS_NOT_EMPTY:
            return not_
        case Operator.MATCHES | Operator.NOT_MATCHES:
            try:
                return compile_pattern(wanted)
            except ValueError as error:
                raise BadExpression(
                    f"Failed to compile regular expression {quote(wanted)}: {error}"
                ) from None


def _inside_text(wanted: str) -> Test:
    try:
        wanted.encode()
    except UnicodeEncodeError:  # Bytes that are no characters may still be in some.
        part = wanted.encode("utf-8", "surrogateescape")
        return lambda value: part in value.encode("utf-8", "surrogateescape")
    return lambda value: wanted in value


def _reach(shape: Shape | None, selector: tuple[str, ...], otherwise: bool, test: Test) -> Test:
    """Put the way to the selected value before a test.

    Args:
        shape: What the way begins at.
        selector: Names on the way.
        otherwise: Result where the way ends early.
        test: Of the value.
    """
    if not selector:
        return test
    if isinstance(shape, Listing):
        each = _reach(shape.element, selector, otherwise, test)
        return lambda items: any(map(each, items or ()))
    name, rest = selector[0], selector[1:]
    if isinstance(shape, Structure):
        attribute, inside = shape.fields[name]
        then = _reach(inside, rest, otherwise, test)
        if isinstance(inside, selectors.Scalar | Structure):
            return lambda row: (
                otherwise if (value := getattr(row, attribute)) is None else then(value)
            )
        return lambda row: then(getattr(row, attribute))
    assert isinstance(shape, selectors.Mapping)
    then = _reach(shape.value, rest, otherwise, test)

    def by_key(values: Mapping[str, Any] | None) -> bool:
        if values is None or name not in values:
            return otherwise
        return then(values[name])

    return by_key
