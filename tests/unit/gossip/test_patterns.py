"""Expressions of peers: RE2's syntax, bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.gossip.patterns import PATTERN_SIZE_MAX, is_found


@pytest.mark.parametrize(
    ("expression", "value", "found"),
    [
        ("", "", True),
        ("w.b[0-9]", "my-web7", True),
        ("^web$", "my-web", False),
        ("^(web|db)$", "db", True),
        ("(?i)WEB", "web", True),
        (r"^\pL+$", "größe", True),
    ],
)
def test_expression_is_searched_as_go_does(expression: str, value: str, found: bool) -> None:
    assert is_found(expression, value) is found


@pytest.mark.parametrize(
    "expression",
    ["(", "a**", "(?=a)", r"(a)\1", "a{1001}", "[\\pL]{500}", "\udcff", "|a" * PATTERN_SIZE_MAX],
)
def test_expression_that_is_malformed_or_too_large_matches_nothing(expression: str) -> None:
    assert is_found(expression, "aaa") is False


def test_value_that_is_no_text_is_searched_for_what_is_text() -> None:
    assert is_found("^a", "a\udcff") is True
    assert is_found("b", "a\udcff") is False


@pytest.mark.timeout(10)
@pytest.mark.parametrize("expression", ["(a+)+$", "(a|aa)+$", "(.*a){20}$", "(a?){100}a{100}$"])
def test_expression_takes_no_exponential_time(expression: str) -> None:
    assert is_found(expression, "a" * 511 + "!") is False


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_expression_gives_an_answer(expression: str, value: str) -> None:
    assert is_found(expression, value) in {True, False}
