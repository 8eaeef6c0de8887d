"""Amounts as operators write them: lengths of time, shares, rates; as text and back."""

import re
from decimal import Decimal
from typing import Final

from isthmus.units import Duration, format_duration, parse_duration

TIME_MAX: Final = 7 * 86400.0
"""Seconds: no length of time in a scenario is longer."""
_SHARE: Final = re.compile(r"(\d+(?:\.\d+)?)%")
_RATE: Final = re.compile(r"(\d{1,12})(B|kB|MB|GB)/s")
_RATE_UNITS: Final = {"GB": 10**9, "MB": 10**6, "kB": 10**3, "B": 1}


def parse_seconds(text: str) -> float:
    """Parse a length of time, ``1m30s``, into seconds.

    Raises:
        ValueError: It is none, or not within 0 to `TIME_MAX`.
    """
    try:
        seconds = parse_duration(text).seconds
    except ValueError:
        raise ValueError(f"{text!r} is no duration; write 500ms, 30s, 1m30s or 2h") from None
    if not 0 <= seconds <= TIME_MAX:
        raise ValueError(f"{text} is not within 0s to {format_seconds(TIME_MAX)}")
    return seconds


def format_seconds(seconds: float) -> str:
    """Seconds as a length of time without idle units: ``2m``, ``1m30s``, ``200ms``."""
    text = format_duration(Duration.of(seconds))
    if text.endswith("m0s"):
        text = text.removesuffix("0s")
    return text.removesuffix("0m") if text.endswith("h0m") else text


def parse_share(text: str) -> float:
    """Parse a share, ``5%``, into a number from 0 to 1.

    Raises:
        ValueError: It is none.
    """
    match = _SHARE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no share; write it as 5% or 0.5%")
    per_cent = Decimal(match[1])
    if per_cent > 100:
        raise ValueError(f"{text} is more than all")
    return float(per_cent / 100)


def format_share(share: float) -> str:
    """A share from 0 to 1 in per cent: ``5%``."""
    per_cent = (
        f"{Decimal(repr(share)) * 100:f}"  # The decimals that are meant, not the binary ones.
    )
    return (per_cent.rstrip("0").rstrip(".") if "." in per_cent else per_cent) + "%"


def parse_rate(text: str) -> int:
    """Parse a rate, ``64kB/s``, into bytes per second; ``0`` stands for no limit.

    Raises:
        ValueError: It is none.
    """
    if text == "0":
        return 0
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no rate; write it as 500B/s, 64kB/s or 1MB/s")
    return int(match[1]) * _RATE_UNITS[match[2]]


def format_rate(rate: int) -> str:
    """Bytes per second in the largest unit that shows them whole: ``64kB/s``; no limit: ``0``."""
    for name, unit in _RATE_UNITS.items():
        if rate and rate % unit == 0:
            return f"{rate // unit}{name}/s"
    return "0"
