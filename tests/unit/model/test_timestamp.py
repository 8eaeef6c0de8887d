"""Moments as text and as numbers."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from isthmus.model.timestamp import UTC_OFFSET, Timestamp
from support.records import timestamps


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0001-01-01T00:00:00Z", Timestamp()),
        ("2020-03-09T20:59:02.123456Z", Timestamp(63_719_384_342, 123_456_000)),
        ("2020-03-09T21:59:02.123456+01:00", Timestamp(63_719_384_342, 123_456_000, 60)),
        ("1970-01-01T00:00:00.000000001Z", Timestamp.of_unix(0, 1)),
        ("2020-02-29T23:59:59-09:30", Timestamp(63_718_651_799, 0, -570)),
        ("9999-12-31T23:59:59.999999999Z", Timestamp(315_537_897_599, 999_999_999)),
        # Go's zero time in a zone west of UTC.
        ("0000-12-31T19:00:00-05:00", Timestamp(0, 0, -300)),
        ("0000-01-01T00:00:00Z", Timestamp(-366 * 86_400)),
    ],
)
def test_text_and_value_stand_for_each_other(text: str, value: Timestamp) -> None:
    assert Timestamp.parse(text) == value
    assert str(value) == text
    assert value.is_valid


@given(moment=timestamps())
@example(Timestamp(0, 0, -720))
@example(Timestamp(0, 0, 840))
def test_every_moment_survives_as_text(moment: Timestamp) -> None:
    again = Timestamp.parse(str(moment))
    # RFC 3339 cannot tell UTC from a zone that happens to be there.
    assert (again.seconds, again.nanoseconds) == (moment.seconds, moment.nanoseconds)
    assert again.offset_minutes == (moment.offset_minutes or UTC_OFFSET)


@given(wall=st.datetimes(timezones=st.just(UTC)))
def test_datetimes_keep_their_moment(wall: datetime) -> None:
    text = wall.isoformat().replace("+00:00", "Z")
    assert Timestamp.of(wall) == Timestamp.parse(text)
    assert datetime.fromisoformat(str(Timestamp.of(wall))) == wall


def test_zone_of_a_datetime_is_dropped() -> None:
    wall = datetime(2020, 3, 9, 22, 59, 2, tzinfo=timezone(timedelta(hours=2)))
    assert str(Timestamp.of(wall)) == "2020-03-09T20:59:02Z"


def test_moments_are_ordered_by_time() -> None:
    assert Timestamp(1) < Timestamp(1, 1) < Timestamp(2)
    assert Timestamp().is_zero
    assert not Timestamp(0, 1).is_zero


def test_offset_zero_is_shown_as_utc_and_digits_beyond_nanoseconds_are_cut() -> None:
    assert str(Timestamp.parse("2020-01-01T00:00:00.1234567899+00:00")) == (
        "2020-01-01T00:00:00.123456789Z"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2020-03-09",
        "2020-03-09T20:59:02",
        "2020-03-09 20:59:02Z",
        "2020-03-09T20:59:02.Z",
        "2020-03-09T20:59:02z",
        "2020-02-30T00:00:00Z",
        "2020-03-09T24:00:00Z",
        "2020-03-09T20:59:60Z",
        "2020-03-09T20:59:02+24:00",
        "2020-03-09T20:59:02+0100",
        "20200309T205902Z",
        "٢٠٢٠-03-09T20:59:02Z",
        "2020-03-09T20:59:02Z\n",
    ],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"cannot parse .* as RFC 3339 time"):
        Timestamp.parse(text)


@pytest.mark.parametrize(
    "moment",
    [
        Timestamp(2**62),
        Timestamp(-(2**62)),
        Timestamp(0, -1),
        Timestamp(0, 1_000_000_000),
        Timestamp(0, 0, 24 * 60),
        Timestamp(315_537_897_599, 0, 60),
    ],
)
def test_what_text_cannot_show_is_not_valid(moment: Timestamp) -> None:
    assert not moment.is_valid
