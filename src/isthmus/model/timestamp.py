"""Moments on the calendar, with the nanoseconds and zone offset that Go keeps."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final, Self

import msgspec

_UNIX_EPOCH: Final = 62_135_596_800  # Seconds from 0001-01-01 to 1970-01-01.
_DAY: Final = 86_400
_OFFSET_MAX: Final = 24 * 60 - 1
_NANOSECONDS: Final = 1_000_000_000
_YEAR_ONE: Final = datetime(1, 1, 1)  # noqa: DTZ001 - plain calendar arithmetic, no zone.
# The calendar repeats after 400 years, so a shift by them reaches year 0, which datetime lacks.
_CYCLE: Final = 146_097 * _DAY
_CYCLE_YEARS: Final = 400
_SECONDS_MIN: Final = -366 * _DAY  # 0000-01-01T00:00:00Z; year 0 is a leap year.
_SECONDS_MAX: Final = 315_537_897_599  # 9999-12-31T23:59:59Z
UTC_OFFSET: Final = -1
"""Value of `Timestamp.offset_minutes` that stands for UTC itself."""

_RFC_3339: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"(?:(Z)|([+-])([0-9]{2}):([0-9]{2}))"
)


class Timestamp(msgspec.Struct, frozen=True, order=True):
    """A moment: seconds since year 1 (UTC), nanoseconds, and the zone it is shown in.

    Attributes:
        seconds: Since 0001-01-01T00:00:00Z. The zero value is Go's zero time.
        nanoseconds: 0 to 999 999 999.
        offset_minutes: East of UTC; -1 means UTC, 0 a zone that happens to be at UTC.

    Source: protocol/rpc.md §3.3.
    """

    seconds: int = 0
    nanoseconds: int = 0
    offset_minutes: int = UTC_OFFSET

    @classmethod
    def of(cls, wall: datetime) -> Self:
        """From an aware datetime; the zone is dropped, UTC is kept."""
        since = wall.astimezone(UTC).replace(tzinfo=None) - _YEAR_ONE
        return cls(since.days * _DAY + since.seconds, since.microseconds * 1_000)

    @classmethod
    def of_unix(cls, seconds: int, nanoseconds: int = 0) -> Self:
        """From seconds since 1970."""
        return cls(seconds + _UNIX_EPOCH, nanoseconds)

    @property
    def is_zero(self) -> bool:
        """Whether it is Go's zero time."""
        return self.seconds == 0 and self.nanoseconds == 0

    @property
    def is_valid(self) -> bool:
        """Whether RFC 3339 can show it: a year from 0 to 9999 in its zone, under a day from UTC."""
        return (
            abs(self.offset_minutes) <= _OFFSET_MAX
            and 0 <= self.nanoseconds < _NANOSECONDS
            and _SECONDS_MIN <= self._wall_seconds <= _SECONDS_MAX
        )

    @property
    def _wall_seconds(self) -> int:
        """Seconds since year 1 as a clock in the zone shows them."""
        offset = 0 if self.offset_minutes == UTC_OFFSET else self.offset_minutes
        return self.seconds + 60 * offset

    def __str__(self) -> str:
        """RFC 3339 with as many digits as needed: ``2020-03-09T20:59:02.123456Z``."""
        shift = _CYCLE if self._wall_seconds < 0 else 0
        wall = _YEAR_ONE + timedelta(seconds=self._wall_seconds + shift)
        year = wall.year - (_CYCLE_YEARS if shift else 0)
        text = f"{year:04}-{wall:%m-%dT%H:%M:%S}"
        if self.nanoseconds:
            text += f".{self.nanoseconds:09d}".rstrip("0")
        if self.offset_minutes in {UTC_OFFSET, 0}:
            return text + "Z"
        hours, minutes = divmod(abs(self.offset_minutes), 60)
        return f"{text}{'-' if self.offset_minutes < 0 else '+'}{hours:02}:{minutes:02}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse RFC 3339; digits beyond nanoseconds are cut off.

        Raises:
            ValueError: Not RFC 3339 with a zone, or no date of the calendar.
        """
        match = _RFC_3339.fullmatch(text)
        if match is None:
            raise ValueError(f"cannot parse {text!r} as RFC 3339 time")
        year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
        try:
            wall = datetime(  # noqa: DTZ001 - the zone is reckoned below.
                year or _CYCLE_YEARS, month, day, hour, minute, second
            )
        except ValueError as error:
            raise ValueError(f"cannot parse {text!r} as RFC 3339 time: {error}") from None
        since = wall - _YEAR_ONE
        seconds = since.days * _DAY + since.seconds - (0 if year else _CYCLE)
        offset = 0
        if match[8] is None:
            hours, minutes = int(match[10]), int(match[11])
            if hours > 23 or minutes > 59:
                raise ValueError(f"cannot parse {text!r} as RFC 3339 time: zone out of range")
            offset = (60 * hours + minutes) * (-1 if match[9] == "-" else 1)
        nanoseconds = int((match[7] or "")[:9].ljust(9, "0"))
        return cls(seconds - 60 * offset, nanoseconds, UTC_OFFSET if match[8] else offset)
