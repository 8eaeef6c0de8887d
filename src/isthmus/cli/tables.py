"""Tables on a terminal, laid out as Consul's are: columns parted by two spaces."""

from collections.abc import Sequence
from typing import Final

_GAP: Final = "  "


def format_table(rows: Sequence[Sequence[str]], *, gap: str = _GAP) -> str:
    """Lay out rows; the first is the heading."""
    if not rows:
        return ""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (
        gap.join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    return "\n".join(lines)


def format_pairs(values: dict[str, str] | None) -> str:
    """``a=1,b=2``, sorted."""
    return ",".join(f"{key}={value}" for key, value in sorted((values or {}).items()))
