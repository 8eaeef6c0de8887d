"""Amounts as text and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.sim.amounts import (
    TIME_MAX,
    format_rate,
    format_seconds,
    format_share,
    parse_rate,
    parse_seconds,
    parse_share,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.2, "200ms"),
        (45, "45s"),
        (60, "1m"),
        (90, "1m30s"),
        (3600, "1h"),
        (3630, "1h0m30s"),
    ],
)
def test_seconds_show_without_idle_units(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
    assert parse_seconds(text) == seconds


@given(st.integers(0, int(TIME_MAX * 1000)))
def test_seconds_survive_the_way_through_text(milliseconds: int) -> None:
    assert parse_seconds(format_seconds(milliseconds / 1000)) == milliseconds / 1000


@given(st.integers(0, 10**5))
def test_share_survives_the_way_through_text(steps: int) -> None:
    assert parse_share(format_share(steps / 10**5)) == steps / 10**5


@given(st.integers(0, 10**12 - 1))
def test_rate_survives_the_way_through_text(rate: int) -> None:
    assert parse_rate(format_rate(rate)) == rate


@pytest.mark.parametrize(
    ("parse", "text", "says"),
    [
        (parse_seconds, "soon", "'soon' is no duration; write 500ms, 30s, 1m30s or 2h"),
        (parse_seconds, "-1s", "-1s is not within 0s to 168h"),
        (parse_seconds, "169h", "169h is not within 0s to 168h"),
        (parse_share, "5", "'5' is no share; write it as 5% or 0.5%"),
        (parse_share, "101%", "101% is more than all"),
        (parse_rate, "5", "'5' is no rate; write it as 500B/s, 64kB/s or 1MB/s"),
    ],
)
def test_bad_text_is_told_what_would_be_good(parse, text: str, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- the whole text is compared
        parse(text)
    assert str(caught.value) == says
