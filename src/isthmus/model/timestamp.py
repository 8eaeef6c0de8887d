"""Moments on the calendar, with the nanoseconds and zone offset that Go keeps."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Final, Self

import msgspec

_UNIX_EPOCH: Final = 62_135_596_800  # Seconds from 0001-01-01 to 1970-01-01.
_YEAR_ONE: Final = datetime(1, 1, 1, tzinfo=UTC)
UTC_OFFSET: Final = -1
"""Value of `Timestamp.offset_minutes` that stands for UTC itself."""


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
        since = wall.astimezone(UTC) - _YEAR_ONE
        return cls(since.days * 86_400 + since.seconds, since.microseconds * 1_000)

    @classmethod
    def of_unix(cls, seconds: int, nanoseconds: int = 0) -> Self:
        """From seconds since 1970."""
        return cls(seconds + _UNIX_EPOCH, nanoseconds)

    @property
    def is_zero(self) -> bool:
        """Whether it is Go's zero time."""
        return self.seconds == 0 and self.nanoseconds == 0

    def __str__(self) -> str:
        """RFC 3339 with as many digits as needed: ``2020-03-09T20:59:02.123456Z``."""
        zone = timedelta(minutes=0 if self.offset_minutes == UTC_OFFSET else self.offset_minutes)
        wall = (_YEAR_ONE + timedelta(seconds=self.seconds)).astimezone(timezone(zone))
        text = f"{wall.year:04}-{wall:%m-%dT%H:%M:%S}"
        if self.nanoseconds:
            text += f".{self.nanoseconds:09d}".rstrip("0")
        if self.offset_minutes in {UTC_OFFSET, 0}:
            return text + "Z"
        return text + f"{wall:%z}"[:3] + ":" + f"{wall:%z}"[3:5]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse RFC 3339.

        Raises:
            ValueError: Not RFC 3339 with a zone.
        """
        head, dot, rest = text.partition(".")
        digits = ""
        if dot:
            end = next((i for i, c in enumerate(rest) if not c.isdigit()), len(rest))
            digits, rest = rest[:end], rest[end:]
            if not digits:
                raise ValueError(f"cannot parse {text!r} as RFC 3339 time")
        wall = datetime.fromisoformat(head + rest if dot else text)
        if wall.tzinfo is None:
            raise ValueError(f"time {text!r} has no zone")
        moment = cls.of(wall)
        offset = wall.utcoffset() or timedelta(0)
        minutes = UTC_OFFSET if text.endswith(("Z", "z")) else int(offset.total_seconds() // 60)
        return cls(moment.seconds, int(digits[:9].ljust(9, "0") or 0), minutes)
