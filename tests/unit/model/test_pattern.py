"""Regular expressions of others: Go's syntax and texts, and no way to keep us busy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.model.pattern import PATTERN_SIZE_MAX, compile_groups, compile_pattern


def test_expression_matches_anywhere_unless_anchored() -> None:
    assert compile_pattern("eb")("web")
    assert not compile_pattern("^eb$")("web")
    assert compile_pattern(r"^web-[[:digit:]]+$")("web-12")  # A class that Python does not know.
    assert compile_pattern("")("")


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("(", "error parsing regexp: missing closing ): `(`"),
        ("[a", "error parsing regexp: missing closing ]: `[a`"),
        ("*", "error parsing regexp: missing argument to repetition operator: `*`"),
        ("a{2000}", "error parsing regexp: invalid repeat count: `{2000}`"),
        (r"(?<=a)b", "error parsing regexp: "),
        ("a" * (PATTERN_SIZE_MAX + 1), "error parsing regexp: longer than 4096 characters"),
        ("a\udcffb", "error parsing regexp: invalid UTF-8: `\udcffb`"),
        ("a\\", "error parsing regexp: trailing backslash at end of expression: ``"),
        ("(?z)", "error parsing regexp: invalid or unsupported Perl syntax: `(?z`"),
        ("(?P<>x)", "error parsing regexp: invalid named capture: `(?P<>`"),
        (r"a\C", r"error parsing regexp: invalid escape sequence: `\C`"),
    ],
)
def test_faults_are_worded_as_go_does(pattern: str, text: str) -> None:
    with pytest.raises(ValueError, match="error parsing regexp") as caught:
        compile_pattern(pattern)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("pattern", "subject", "groups"),
    [
        ("b", "ab", ("b",)),
        ("(a)|(b)", "xb", ("b", "", "b")),
        ("(?P<x>.)é", "äé", ("äé", "ä")),
        ("^b", "ab", ()),
    ],
)
def test_groups_are_those_of_the_first_match(
    pattern: str, subject: str, groups: tuple[str, ...]
) -> None:
    assert compile_groups(pattern)(subject) == groups


@pytest.mark.timeout(5)
def test_expression_that_grows_exponentially_elsewhere_is_harmless() -> None:
    assert not compile_pattern("(a+)+$")("a" * 10_000 + "!")


@given(pattern=st.text(max_size=30), subject=st.text(max_size=30))
def test_any_text_is_an_expression_or_a_value_error(pattern: str, subject: str) -> None:
    try:
        matches = compile_pattern(pattern)
    except ValueError:
        return
    assert matches(subject) in {True, False}


def test_quoted_backslash_begins_no_escape() -> None:
    assert compile_pattern(r"\Q\C\E")(r"\C")
    assert compile_pattern(r"\\C")(r"\C")


def test_text_that_is_not_utf8_can_be_matched() -> None:
    assert compile_pattern("^a.b$")("a\udcffb")
