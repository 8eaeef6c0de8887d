"""Durations as Go writes and reads them."""

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from isthmus.units import HOUR, MILLISECOND, MINUTE, SECOND, Duration, format_duration
from isthmus.units import parse_duration as parse


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1_100, "1.1µs"),
        (20_000, "20µs"),
        (2_200_000, "2.2ms"),
        (250 * MILLISECOND, "250ms"),
        (1_500 * MILLISECOND, "1.5s"),
        (3_300 * MILLISECOND, "3.3s"),
        (MINUTE, "1m0s"),
        (4 * MINUTE + 5 * SECOND + MILLISECOND, "4m5.001s"),
        (HOUR, "1h0m0s"),
        (5 * HOUR + 6 * MINUTE + 7 * SECOND + MILLISECOND, "5h6m7.001s"),
        (8 * MINUTE + 1, "8m0.000000001s"),
        (-90 * SECOND, "-1m30s"),
        (2**63 - 1, "2562047h47m16.854775807s"),
        (-(2**63), "-2562047h47m16.854775808s"),
    ],
)
def test_text_and_length_stand_for_each_other(nanoseconds: int, text: str) -> None:
    assert format_duration(nanoseconds) == text
    assert str(Duration(nanoseconds)) == text
    assert parse(text) == nanoseconds


@given(nanoseconds=st.integers(-(2**63), 2**63 - 1))
@example(999_999_999)
def test_every_length_survives_as_text(nanoseconds: int) -> None:
    assert parse(str(Duration(nanoseconds))) == nanoseconds


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("-0", 0),
        ("5s", 5 * SECOND),
        ("+5s", 5 * SECOND),
        ("5.0s", 5 * SECOND),
        ("5.s", 5 * SECOND),
        (".5s", SECOND // 2),
        ("-.5s", -SECOND // 2),
        ("3h30m", 3 * HOUR + 30 * MINUTE),
        ("10.5s4m", 4 * MINUTE + 10 * SECOND + SECOND // 2),
        ("-2m3.4s", -(2 * MINUTE + 3 * SECOND + 400 * MILLISECOND)),
        ("12us", 12_000),
        ("12µs", 12_000),  # U+00B5
        ("12μs", 12_000),  # U+03BC
        ("1h2m3s4ms5us6ns", HOUR + 2 * MINUTE + 3 * SECOND + 4_005_006),
        ("39h9m14.425s", 39 * HOUR + 9 * MINUTE + 14_425 * MILLISECOND),
        # More digits than an integer of 64 bits holds; Go rounds as floats do.
        ("0.3333333333333333333h", 20 * MINUTE),
        ("0.100000000000000000000h", 6 * MINUTE),
        ("0.830103483285477580700h", 49 * MINUTE + 48 * SECOND + 372_539_827),
    ],
)
def test_other_spellings_are_read(text: str, nanoseconds: int) -> None:
    assert parse(text) == nanoseconds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'time: invalid duration ""'),
        ("3", 'time: missing unit in duration "3"'),
        ("3000h5", 'time: missing unit in duration "3000h5"'),
        ("-", 'time: invalid duration "-"'),
        ("s", 'time: invalid duration "s"'),
        (".", 'time: invalid duration "."'),
        (".s", 'time: invalid duration ".s"'),
        ("+.s", 'time: invalid duration "+.s"'),
        ("zz", 'time: invalid duration "zz"'),
        ("1x", 'time: unknown unit "x" in duration "1x"'),
        ("1 s", 'time: unknown unit " s" in duration "1 s"'),
        ('1"', r'time: unknown unit "\"" in duration "1\""'),
        ("٣s", 'time: invalid duration "٣s"'),
        ("3000000h", 'time: invalid duration "3000000h"'),
        ("9223372036854775808ns", 'time: invalid duration "9223372036854775808ns"'),
        ("-9223372036854775809ns", 'time: invalid duration "-9223372036854775809ns"'),
    ],
)
def test_mistakes_have_go_words(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="time: ") as caught:
        parse(text)
    assert str(caught.value) == message


@given(text=st.text(alphabet="0123456789.-+hmsunµ", max_size=12))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert isinstance(parse(text), Duration)


def test_seconds_are_rounded_to_nanoseconds() -> None:
    assert Duration.of(0.1) == 100_000_000
    assert Duration(1_500_000_000).seconds == 1.5
