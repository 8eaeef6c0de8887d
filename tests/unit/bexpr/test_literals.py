"""Literals as Go's ``strconv`` has them; its own answers are the expectations."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.bexpr.literals import (
    parse_bool,
    parse_float,
    parse_int,
    parse_uint,
    quote,
    unquote,
)


def refusal(parse: object, text: str) -> str:
    assert callable(parse)
    with pytest.raises(ValueError, match="strconv") as caught:
        parse(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢", '"plain é 漢"'),
        ('a"\\', '"a\\"\\\\"'),
        ("\a\b\f\n\r\t\v", '"\\a\\b\\f\\n\\r\\t\\v"'),
        ("\0\x1f\x7f", '"\\x00\\x1f\\x7f"'),
        ("\xa0\u200b\U000e0001", '"\\u00a0\\u200b\\U000e0001"'),
        ("\udcff", '"\\xff"'),
    ],
)
def test_text_is_quoted(text: str, shown: str) -> None:
    assert quote(text) == shown


@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\udc80\udcff")))
def test_what_is_quoted_is_read_back(text: str) -> None:
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    quoted = quote(text)
    if '"' not in text:  # In expressions no quote can be inside.
        assert unquote(quoted) == text


@pytest.mark.parametrize(
    ("literal", "text"),
    [
        ('"a\\x41\\101\\u00e9\\U0001f600"', "aAAé😀"),
        ('"\\xc3\\xa9\\xff"', "é\udcff"),
        ("`a\\n\r\nb`", "a\\n\nb"),
        ('"\udcc3"', "\udcc3"),
    ],
)
def test_literals_are_read(literal: str, text: str) -> None:
    assert unquote(literal) == text


@pytest.mark.parametrize(
    "inside", ["\\", "\\q", "\\x4", "\\400", "\\18", "\\ud800", "\\U00110000", "\\'", "a\nb"]
)
def test_wrong_escapes_are_refused(inside: str) -> None:
    with pytest.raises(ValueError, match=r"^invalid syntax$"):
        unquote(f'"{inside}"')


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("-0", 0),
        ("+5", 5),
        ("0x1F", 31),
        ("0b11", 3),
        ("0o17", 15),
        ("017", 15),
        ("0_1", 1),
        ("0x_1", 1),
        ("1_000", 1000),
        ("-9223372036854775808", -(2**63)),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_integers_are_read(text: str, number: int) -> None:
    assert parse_int(text) == number
    if text[0] not in "+-":
        assert parse_uint(text) == number


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "invalid syntax"),
        ("-", "invalid syntax"),
        ("abc", "invalid syntax"),
        ("08", "invalid syntax"),
        ("0x", "invalid syntax"),
        ("0b2", "invalid syntax"),
        ("_1", "invalid syntax"),
        ("1__0", "invalid syntax"),
        ("0_", "invalid syntax"),
        ("1.0", "invalid syntax"),
        ("٣", "invalid syntax"),
        ("9223372036854775808", "value out of range"),
        ("-9223372036854775809", "value out of range"),
        ("99999999999999999999x", "value out of range"),
    ],
)
def test_what_is_no_integer_is_refused(text: str, why: str) -> None:
    assert refusal(parse_int, text) == f'strconv.ParseInt: parsing "{text}": {why}'


def test_unsigned_integers_have_no_sign_and_a_width() -> None:
    assert parse_uint("18446744073709551615") == 2**64 - 1
    assert refusal(parse_uint, "18446744073709551616").endswith("value out of range")
    assert refusal(parse_uint, "-1") == 'strconv.ParseUint: parsing "-1": invalid syntax'
    assert parse_uint("255", bits=8) == 255
    with pytest.raises(ValueError, match="value out of range"):
        parse_uint("256", bits=8)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", 1.0),
        ("1.", 1.0),
        ("-.5e1", -5.0),
        ("1_000.5", 1000.5),
        ("1e5_0", 1e50),
        ("0x1p-2", 0.25),
        ("0X_1_0P1", 32.0),
        ("0x1.8p+1_0", 1536.0),
        ("-Infinity", -math.inf),
        ("08", 8.0),
    ],
)
def test_floats_are_read(text: str, number: float) -> None:
    assert parse_float(text) == number


def test_floats_of_single_precision_are_rounded() -> None:
    assert parse_float("0.1", bits=32) == 0.10000000149011612
    assert math.isnan(parse_float("NaN", bits=32))
    with pytest.raises(ValueError, match='parsing "1e39": value out of range'):
        parse_float("1e39", bits=32)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "invalid syntax"),
        ("-nan", "invalid syntax"),
        ("._5", "invalid syntax"),
        ("1._5", "invalid syntax"),
        ("0x1", "invalid syntax"),
        ("infinit", "invalid syntax"),
        ("1e400", "value out of range"),
        ("0x1p2000", "value out of range"),
    ],
)
def test_what_is_no_float_is_refused(text: str, why: str) -> None:
    assert refusal(parse_float, text) == f'strconv.ParseFloat: parsing "{text}": {why}'


def test_bools_are_read() -> None:
    assert [parse_bool(text) for text in ("1", "t", "T", "true", "TRUE", "True")] == [True] * 6
    assert [parse_bool(text) for text in ("0", "f", "F", "false", "FALSE", "False")] == [False] * 6
    assert refusal(parse_bool, "yes") == 'strconv.ParseBool: parsing "yes": invalid syntax'
