"""What holds for what, against a second evaluation that was written for the test alone."""

import re
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.bexpr import BadExpression, compile_filter
from isthmus.bexpr.evaluation import MATCHES_MAX
from isthmus.bexpr.literals import quote
from isthmus.bexpr.syntax import And, Expression, Match, Not, Operator, Or
from isthmus.model.catalog import NodeService, ServiceAddress
from isthmus.model.record import Float32, Record, Uint

WORDS: Final = ("", "a", "b", "ab", "x y", "é", "not", "1", "7")


class Part(Record, frozen=True, kw_only=True):
    name: str = ""
    number: Uint = 0
    tags: tuple[str, ...] | None = None


class Whole(Record, frozen=True, kw_only=True):
    name: str = ""
    number: int = 0
    flag: bool = False
    tags: tuple[str, ...] | None = None
    counts: tuple[int, ...] = ()
    meta: dict[str, str] | None = None
    part: Part | None = None
    parts: tuple[Part, ...] | None = None
    named: dict[str, Part] | None = None


words = st.sampled_from(WORDS)
maybe_words = st.none() | st.lists(words, max_size=3).map(tuple)
numbers = st.sampled_from((0, 1, 7, 8))
parts = st.builds(Part, name=words, number=numbers, tags=maybe_words)
wholes = st.builds(
    Whole,
    name=words,
    number=numbers,
    flag=st.booleans(),
    tags=maybe_words,
    counts=st.lists(numbers, max_size=3).map(tuple),
    meta=st.none() | st.dictionaries(words, words, max_size=3),
    part=st.none() | parts,
    parts=st.none() | st.lists(parts, max_size=3).map(tuple),
    named=st.none() | st.dictionaries(words, parts, max_size=2),
)

TEXTS: Final = (
    Operator.EQUAL,
    Operator.NOT_EQUAL,
    Operator.IN,
    Operator.NOT_IN,
    Operator.MATCHES,
    Operator.NOT_MATCHES,
)
LISTS: Final = (Operator.IN, Operator.NOT_IN, Operator.IS_EMPTY, Operator.IS_NOT_EMPTY)
EQUALITY: Final = (Operator.EQUAL, Operator.NOT_EQUAL)
EMPTINESS: Final = (Operator.IS_EMPTY, Operator.IS_NOT_EMPTY)
WITHOUT_VALUE: Final = frozenset(EMPTINESS)


@st.composite
def matches(draw: st.DrawFn) -> Match:
    key = draw(words)
    part = (("Name", TEXTS, words), ("Number", EQUALITY, numbers), ("Tags", LISTS, words))
    fields: list[tuple[tuple[str, ...], tuple[Operator, ...], st.SearchStrategy[Any]]] = [
        (("Flag",), EQUALITY, st.sampled_from(("true", "false", "T", "0"))),
        (("Counts",), LISTS, numbers),
        (("Meta",), LISTS, words),
        (("Meta", key), TEXTS, words),
        (("Parts",), EMPTINESS, words),
        (("Named",), LISTS, words),
        *(((name,), operators, values) for name, operators, values in part),
    ]
    for above in (("Part",), ("Parts",), ("Named", key)):
        fields += [((*above, name), operators, values) for name, operators, values in part]
    selector, operators, values = draw(st.sampled_from(fields))
    operator = draw(st.sampled_from(operators))
    return Match(selector, operator, None if operator in WITHOUT_VALUE else str(draw(values)))


expressions: st.SearchStrategy[Expression] = st.recursive(
    matches(),
    lambda inner: st.one_of(
        inner.map(Not),
        st.lists(inner, min_size=2, max_size=3).map(tuple).map(And),
        st.lists(inner, min_size=2, max_size=3).map(tuple).map(Or),
    ),
    max_leaves=6,
)


def written(expression: Expression) -> str:
    """Text of an expression, with more parentheses than it needs."""
    match expression:
        case Match(selector, operator, value):
            way = selector[0] + "".join(f"[{quote(name)}]" for name in selector[1:])
            match operator:
                case Operator.EQUAL:
                    return f"{way}=={quote(value or '')}"
                case Operator.NOT_EQUAL:
                    return f"{way} != `{value}`"
                case Operator.IN:
                    return f"{quote(value or '')} in {way}"
                case Operator.NOT_IN:
                    return f"{way} not contains {quote(value or '')}"
                case Operator.MATCHES | Operator.NOT_MATCHES:
                    return f"{way} {operator.value.lower()} {quote(value or '')}"
                case _:
                    return f"{way} {operator.value.lower()}"
        case Not(operand):
            return f"not ({written(operand)})"
        case And(terms):
            return " and ".join(f"({written(term)})" for term in terms)
        case Or(terms):
            return " or ".join(f"( {written(term)} )" for term in terms)


def holds(expression: Expression, row: Whole) -> bool:
    match expression:
        case Match():
            return reached(expression, row, expression.selector)
        case Not(operand):
            return not holds(operand, row)
        case And(terms):
            return all(holds(term, row) for term in terms)
        case Or(terms):
            return any(holds(term, row) for term in terms)


def reached(match: Match, value: Any, selector: tuple[str, ...]) -> bool:
    if not selector:
        return compared(match.operator, value, match.value)
    if isinstance(value, tuple):
        return any(reached(match, element, selector) for element in value)
    if isinstance(value, Record):
        return reached(match, getattr(value, selector[0].lower()), selector[1:])
    if value is None and match.selector[0] == "Parts":
        return False  # A list of none.
    if value is None or selector[0] not in value:
        return match.operator not in (Operator.EQUAL, Operator.IN, Operator.IS_NOT_EMPTY)
    return reached(match, value[selector[0]], selector[1:])


def compared(operator: Operator, value: Any, wanted: str | None) -> bool:
    match operator:
        case Operator.NOT_EQUAL:
            return not compared(Operator.EQUAL, value, wanted)
        case Operator.NOT_IN:
            return not compared(Operator.IN, value, wanted)
        case Operator.NOT_MATCHES:
            return not compared(Operator.MATCHES, value, wanted)
        case Operator.IS_NOT_EMPTY:
            return bool(value)
        case Operator.IS_EMPTY:
            return not value
        case Operator.MATCHES:
            return re.search(wanted or "", value) is not None
        case Operator.IN:
            inside = value if isinstance(value, str) else [str(one) for one in value or ()]
            return (wanted or "") in inside
        case Operator.EQUAL:
            if isinstance(value, bool):
                return value == (wanted in ("true", "T"))
            return str(value) == wanted


@given(expression=expressions, rows=st.lists(wholes, min_size=1, max_size=4))
def test_expressions_hold_where_the_reference_says(
    expression: Expression, rows: list[Whole]
) -> None:
    compiled = compile_filter(written(expression), Whole)
    assert [compiled(row) for row in rows] == [holds(expression, row) for row in rows]


def refusal(text: str, record: type[Record] = Whole) -> str:
    with pytest.raises(BadExpression) as caught:
        compile_filter(text, record)
    return caught.value.reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Part == a", 'Invalid match operator "Equal" for selector "Part"'),
        ("Meta.a is empty", 'Invalid match operator "Is Empty" for selector "Meta.a"'),
        ("Number contains 1", 'Invalid match operator "In" for selector "Number"'),
        ("Tags != a", 'Invalid match operator "Not Equal" for selector "Tags"'),
        ("Parts matches a", 'Invalid match operator "Matches" for selector "Parts"'),
        (
            "Part.Number == -1",
            'Failed to coerce value "-1" for selector "Part.Number": '
            'strconv.ParseUint: parsing "-1": invalid syntax',
        ),
        (
            "x in Counts",
            'Failed to coerce value "x" for selector "Counts": '
            'strconv.ParseInt: parsing "x": invalid syntax',
        ),
        (
            "Flag == 2",
            'Failed to coerce value "2" for selector "Flag": '
            'strconv.ParseBool: parsing "2": invalid syntax',
        ),
        (
            'Name matches "a("',
            'Failed to compile regular expression "a(": '
            "error parsing regexp: missing closing ): `a(`",
        ),
        ("Name == a or Nope == b or Also == c", 'Selector "Nope" is not valid'),
    ],
)
def test_what_does_not_fit_the_records_is_refused(text: str, reason: str) -> None:
    assert refusal(text) == reason


def test_number_of_comparisons_is_bounded() -> None:
    most = " or ".join(["Name == a"] * MATCHES_MAX)
    assert compile_filter(most, Whole)(Whole(name="a"))
    expected = "Number of match expressions (513) exceeds the limit (512)"
    assert refusal(most + " or Name == b") == expected


def test_regular_expressions_are_bounded() -> None:
    assert "longer than 4096 characters" in refusal(f"Name matches `{'a' * 4097}`")


def test_absent_records_are_like_missing_keys() -> None:
    service = NodeService(service="web", tagged_addresses={"wan": ServiceAddress(port=80)})
    for text, expected in (
        ("Weights.Passing == 1", False),
        ("Weights.Passing != 1", True),
        ("TaggedAddresses.wan.Port == 80", True),
        ("TaggedAddresses.lan.Port == 80", False),
        ("TaggedAddresses.lan.Address not matches x", True),
        ("TaggedAddresses.lan.Address matches x", True),
    ):
        assert compile_filter(text, NodeService)(service) is expected


def test_bytes_that_are_no_characters_are_compared_too() -> None:
    for text in ('"\\xc3" in Name', '"\\xff" in Name', 'Name == "\\xc3\\xa9\\xff"'):
        assert compile_filter(text, Whole)(Whole(name="é\udcff"))
        assert not compile_filter(text, Whole)(Whole(name="e"))


def test_numbers_of_single_precision_are_compared_as_such() -> None:
    class Share(Record, frozen=True, kw_only=True):
        share: Float32 = 0.0

    assert compile_filter('Share == "0.1"', Share)(Share(share=0.10000000149011612))
