"""Durations as Go writes them, and sizes: as text and back."""

import re
from typing import Final

NANOSECOND: Final = 1
MICROSECOND: Final = 1_000
MILLISECOND: Final = 1_000_000
SECOND: Final = 1_000_000_000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE

_UNITS: Final = {
    "ns": NANOSECOND,
    "us": MICROSECOND,
    "µs": MICROSECOND,  # U+00B5, micro sign
    "μs": MICROSECOND,  # U+03BC, Greek letter mu
    "ms": MILLISECOND,
    "s": SECOND,
    "m": MINUTE,
    "h": HOUR,
}
_TERM: Final = re.compile(r"([0-9]*)(?:(\.)([0-9]*))?([^.0-9]*)")
_NANOSECONDS_MIN: Final = -(2**63)
_NANOSECONDS_MAX: Final = 2**63 - 1
_FRACTION_MAX: Final = _NANOSECONDS_MAX // 10


class Duration(int):
    """A length of time in whole nanoseconds, the unit of Go's wire formats.

    JSON shows it as Go does (``"1m30s"``), MessagePack as an integer.
    """

    __slots__ = ()

    @classmethod
    def of(cls, seconds: float) -> "Duration":
        """From seconds, rounded to nanoseconds."""
        return cls(round(seconds * SECOND))

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return int(self) / SECOND

    def __str__(self) -> str:
        """Text as Go's ``Duration.String``: ``1m30s``, ``1.5s``, ``250ms``, ``0s``."""
        return format_duration(self)


def parse_duration(text: str) -> Duration:
    """Parse Go's duration syntax: ``300ms``, ``-1.5h``, ``2h45m``, ``0``.

    Raises:
        ValueError: Not in that syntax, or longer than 292 years; the text is Go's.
    """
    negative = text.startswith("-")
    rest = text[1:] if text[:1] in {"-", "+"} else text
    if rest == "0":
        return Duration(0)
    invalid = ValueError(f"time: invalid duration {quote(text)}")
    if not rest:
        raise invalid
    total = 0
    while rest:
        term = _TERM.match(rest)
        if term is None or not (term[1] or term[3]):
            raise invalid
        unit_name = term[4]
        if not unit_name:
            raise ValueError(f"time: missing unit in duration {quote(text)}")
        unit = _UNITS.get(unit_name)
        if unit is None:
            raise ValueError(f"time: unknown unit {quote(unit_name)} in duration {quote(text)}")
        total += int(term[1] or "0") * unit + _fraction(term[3] or "", unit)
        rest = rest[term.end() :]
        if total > -_NANOSECONDS_MIN:
            raise invalid
    total = -total if negative else total
    if total > _NANOSECONDS_MAX:
        raise invalid
    return Duration(total)


def _fraction(digits: str, unit: int) -> int:
    """Nanoseconds of a fraction, with the rounding of Go's floating-point product."""
    count, scale = 0, 1.0
    for digit in digits:
        if count > _FRACTION_MAX:
            break  # Go ignores the digits that overflow.
        count, scale = 10 * count + int(digit), scale * 10
    return int(count * (unit / scale))


def quote(text: str) -> str:
    """Text in double quotes, as Go's errors show it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def format_duration(nanoseconds: int) -> str:
    """Format nanoseconds as Go does: ``1h0m0s``, ``1.5s``, ``20µs``."""
    if nanoseconds == 0:
        return "0s"
    sign, rest = ("-", -nanoseconds) if nanoseconds < 0 else ("", int(nanoseconds))
    if rest < SECOND:
        for unit, size in (("ms", MILLISECOND), ("µs", MICROSECOND), ("ns", NANOSECOND)):
            if rest >= size:
                return f"{sign}{_decimal(rest, size)}{unit}"
    minutes, below = divmod(rest, MINUTE)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(below, SECOND)}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    if hours:
        text = f"{hours}h{text}"
    return sign + text


def _decimal(count: int, unit: int) -> str:
    whole, fraction = divmod(count, unit)
    digits = f"{fraction:0{len(str(unit)) - 1}d}".rstrip("0") if fraction else ""
    return f"{whole}.{digits}" if digits else str(whole)
