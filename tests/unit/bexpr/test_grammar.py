"""Text → syntax: what binds to what, how much is read, and what is said of the rest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.bexpr.grammar import EXPRESSION_SIZE_MAX, NESTING_MAX, parse
from isthmus.bexpr.syntax import And, BadExpression, Expression, Match, Not, Operator, Or


def field(name: str) -> Match:
    return Match((name,), Operator.IS_EMPTY, None)


A, B, C = field("a"), field("b"), field("c")


def refusal(text: str) -> str:
    with pytest.raises(BadExpression) as caught:
        parse(text)
    return caught.value.reason


@pytest.mark.parametrize(
    ("text", "syntax"),
    [
        ("a is empty or b is empty and c is empty", Or((A, And((B, C))))),
        ("a is empty and b is empty or c is empty", Or((And((A, B)), C))),
        ("(a is empty or b is empty) and c is empty", And((Or((A, B)), C))),
        ("not a is empty and b is empty", And((Not(A), B))),
        ("not (a is empty and b is empty)", Not(And((A, B)))),
        ("not not a is empty", A),
        ("not not not a is empty", Not(A)),
        ("(a is empty)", A),
        ("\n( (\ta is empty ) )\r\n", A),
        ("a is empty or b is empty or c is empty", Or((A, B, C))),
    ],
)
def test_and_binds_closer_than_or_and_not_closest(text: str, syntax: Expression) -> None:
    assert parse(text) == syntax


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a==b", Match(("a",), Operator.EQUAL, "b")),
        ("a.b != c.d", Match(("a", "b"), Operator.NOT_EQUAL, "c.d")),
        ("a contains b", Match(("a",), Operator.IN, "b")),
        ("a not contains -1.5", Match(("a",), Operator.NOT_IN, "-1.5")),
        ('"b" in a', Match(("a",), Operator.IN, "b")),
        ("7 not in a", Match(("a",), Operator.NOT_IN, "7")),
        ("a matches `\\d`", Match(("a",), Operator.MATCHES, "\\d")),
        ("a not  matches b", Match(("a",), Operator.NOT_MATCHES, "b")),
        ("a is not empty", Match(("a",), Operator.IS_NOT_EMPTY, None)),
        ('a["b c"].d[`e`] == 1', Match(("a", "b c", "d", "e"), Operator.EQUAL, "1")),
        ("not == not", Match(("not",), Operator.EQUAL, "not")),
        ("in in in", Match(("in",), Operator.IN, "in")),
        ("is is empty", Match(("is",), Operator.IS_EMPTY, None)),
    ],
)
def test_matches_name_a_field_an_operator_and_a_value(text: str, match: Match) -> None:
    assert parse(text) == match


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "a ==",
            '1:5 (4): no match found, expected: "-", "0", "\\"", "`", '
            "[ \\t\\r\\n], [1-9] or [a-zA-Z]",
        ),
        ("a == b)", "1:7 (6): no match found, expected: "),
        ("é == b", "1:1 (0): no match found, expected: "),
        ("a == é", "1:6 (5): no match found, expected: "),
        ("a\n == b\n x", "3:2 (9): no match found, expected: "),
        ("a.5 == b", "1:3 (2): no match found, expected: [a-zA-Z]"),
        ("a[b] == c", '1:3 (2): rule "index": Invalid index'),
        ('a["b" == c', '1:7 (6): rule "index": Unclosed index expression'),
        ("(a == b", '1:8 (7): rule "grouping": Unmatched parentheses'),
        ("a == 007", '1:7 (6): rule "number": Invalid number literal'),
        ("b in 7", '1:6 (5): rule "match": Invalid selector'),
        ('a == "b', '1:8 (7): rule "string": Unterminated string literal'),
        ('a == "\\q"', '1:6 (5): rule "string": invalid syntax'),
        (
            '"\\q" in 7',
            '1:1 (0): rule "string": invalid syntax\n1:9 (8): rule "match": Invalid selector',
        ),
        ("a == \udcff", '1:6 (5): rule "whitespace": invalid encoding'),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, reason: str) -> None:
    assert refusal(text).startswith(reason)


def test_nesting_is_bounded_and_takes_linear_time() -> None:
    """Without memory of what was found, each level would take four times as long."""
    assert parse("(" * NESTING_MAX + "a is empty" + ")" * NESTING_MAX) == A
    deepest = "(" * NESTING_MAX + "a is empty" + ")" * (NESTING_MAX - 1)
    assert refusal(deepest).endswith('rule "grouping": Unmatched parentheses')
    deep = "(" * (NESTING_MAX + 1) + "a is empty" + ")" * (NESTING_MAX + 1)
    assert refusal(deep) == "the expression has more than 64 parentheses inside each other"


def test_negations_in_a_row_are_bounded() -> None:
    assert parse("not " * (NESTING_MAX - 1) + "a is empty") == Not(A)
    reason = 'the expression has 64 times "not" in a row'
    assert refusal("not " * NESTING_MAX + "a is empty") == reason


def test_length_is_bounded() -> None:
    fits = "a == `" + "b" * (EXPRESSION_SIZE_MAX - 7) + "`"
    assert isinstance(parse(fits), Match)
    assert refusal(fits + " ") == "the expression is longer than 16384 characters; shorten it"


@pytest.mark.parametrize("text", ["not ", "a and ", "(not ", "a==b or ", "((", 'a["', "a[["])
def test_endless_repetitions_are_refused(text: str) -> None:
    assert refusal(text * (EXPRESSION_SIZE_MAX // len(text)))


PIECES = [*'ab. ()[]"`=!\\-01\n\udcffé', " and ", " not ", " in ", " is empty", '"x"', "=="]


@given(text=st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    try:
        parse(text)
    except BadExpression as error:
        for line in error.reason.splitlines():
            place, _, why = line.partition(": ")
            assert place[0].isdigit()
            assert why
