"""Plots as inline SVG: lines with bands over time, histograms, and a timeline of faults.

Each is drawn twice, for wide and for narrow screens, and the style sheet shows one: scaled down, a
wide plot's labels would be too small to read. Colours come from the style sheet.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from isthmus.sim.amounts import format_seconds

POINTS_MAX: Final = 240
"""Points of a line; more are drawn together."""
BARS_MAX: Final = 30
HINTS_MAX: Final = 80
_WIDTHS: Final = (("wide", 780), ("narrow", 360))
_HEIGHT: Final = 230
_TOP, _RIGHT, _BOTTOM = 26, 14, 34
_CHARACTER: Final = 6.6
"""Width of a character of the labels."""
_ROW: Final = 15
_LEAST: Final = 1e-9
"""What is smaller is drawn as nothing."""
_STEPS: Final = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1, 2, 5, 10, 15, 30, 60, 120, 180, 300, 600, 900, 1800),
    *(3600, 7200, 14400, 21600, 43200, 86400, 172800),
)
"""Distances of ticks on an axis of time, in seconds."""


@dataclass(frozen=True, slots=True)
class Point:
    """A moment of a line.

    Attributes:
        x: Seconds.
        low: Lower edge of the band.
        y: The line itself.
        high: Upper edge.
    """

    x: float
    low: float
    y: float
    high: float


@dataclass(frozen=True, slots=True)
class Line:
    """A line with a band around it.

    Attributes:
        label: In the legend.
        colour: Number of its colour in the style sheet, from 1.
        points: In order of `x`.
    """

    label: str
    colour: int
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Span:
    """A fault, as plots over time show it.

    Attributes:
        number: From 1; stands above it.
        text: What it is.
        turns: When it begins and ends, several times if it befalls one host after another.
    """

    number: int
    text: str
    turns: Sequence[tuple[float, float]]

    @property
    def start(self) -> float:
        """When it first begins."""
        return min(start for start, _ in self.turns)

    @property
    def end(self) -> float:
        """When it is over at last."""
        return max(end for _, end in self.turns)


@dataclass(frozen=True, slots=True)
class Mark:
    """A figure to compare with, drawn as a line with its name."""

    value: float
    label: str


@dataclass(frozen=True, slots=True)
class _Frame:
    """The rectangle of the data, and what its edges stand for."""

    left: float
    top: float
    width: float
    height: float
    x_max: float
    y_max: float
    y_min: float = 0.0

    def x(self, value: float) -> float:
        return self.left + self.width * min(1.0, value / self.x_max)

    def y(self, value: float) -> float:
        share = (value - self.y_min) / (self.y_max - self.y_min)
        return self.top + self.height * (1 - min(1.0, max(0.0, share)))

    @property
    def bottom(self) -> float:
        return self.top + self.height

    @property
    def right(self) -> float:
        return self.left + self.width


def draw_lines(
    key: str,
    title: str,
    about: str,
    lines: Sequence[Line],
    *,
    x_max: float,
    show: Callable[[float], str],
    spans: Sequence[Span] = (),
    marks: Sequence[Mark] = (),
    y_max: float = 0.0,
) -> str:
    """Draw lines over time.

    Args:
        key: Prefix of the ids, unique on the page.
        title: Name of the plot, for those who do not see it.
        about: What it shows, likewise.
        lines: At least one, with at least one point.
        x_max: End of the axis of time, in seconds.
        show: A value with its unit.
        spans: Faults to shade.
        marks: Horizontal lines to compare with.
        y_max: End of the other axis, when it has a natural one; values that all lie in its upper
            fifth are magnified. 0: what the data need.
    """
    lines = [Line(line.label, line.colour, thin(line.points)) for line in lines]
    highest = max(point.high for line in lines for point in line.points)
    lowest = min(point.low for line in lines for point in line.points)
    top = y_max if y_max >= _LEAST else _ceiling(max([highest, *(mark.value for mark in marks)]))
    ticks = _ticks(top)
    if _LEAST <= 0.8 * y_max <= lowest < y_max:
        ticks = _ticks_between(lowest, y_max)

    def draw(width: float) -> tuple[Iterator[str], float]:
        left = 12 + _CHARACTER * max(len(show(tick)) for tick in ticks)
        frame = _Frame(
            left, _TOP, width - left - _RIGHT, _HEIGHT - _TOP - _BOTTOM, x_max, top, ticks[0]
        )
        return _lines(frame, lines, ticks, show, spans, marks), _HEIGHT

    return _figure(key, title, about, draw)


def draw_histogram(
    key: str,
    title: str,
    about: str,
    values: Sequence[float],
    *,
    colour: int,
    marks: Sequence[Mark] = (),
) -> str:
    """Draw how often lengths of time occur.

    Args:
        key: Prefix of the ids, unique on the page.
        title: Name of the plot.
        about: What it shows.
        values: Seconds; at least one.
        colour: Number of its colour.
        marks: Vertical lines to compare with; those far beyond the data are left out.
    """
    longest = max(values)
    shown = [mark for mark in marks if mark.value <= 2 * longest]
    step, counts = _bins(values)
    x_max = max([len(counts) * step, *(mark.value * 1.05 for mark in shown)])
    y_max = _ceiling(max(counts))

    def draw(width: float) -> tuple[Iterator[str], float]:
        ticks = [tick for tick in _ticks(y_max) if tick == int(tick)]
        left = 12 + _CHARACTER * max(len(f"{tick:.0f}") for tick in ticks)
        top = _TOP + _ROW * len(shown)
        frame = _Frame(left, top, width - left - _RIGHT, _HEIGHT - _TOP - _BOTTOM, x_max, y_max)
        return _bars(frame, step, counts, ticks, shown, colour), top + frame.height + _BOTTOM

    return _figure(key, title, about, draw)


def draw_timeline(key: str, title: str, about: str, spans: Sequence[Span], *, x_max: float) -> str:
    """Draw when which fault happened: a row for each.

    Args:
        key: Prefix of the ids, unique on the page.
        title: Name of the plot.
        about: What it shows.
        spans: At least one.
        x_max: End of the axis of time, in seconds.
    """
    row = 34

    def draw(width: float) -> tuple[Iterator[str], float]:
        frame = _Frame(12, 6, width - 12 - _RIGHT, row * len(spans), x_max, 1.0)
        return _timeline(frame, spans, row), frame.bottom + _BOTTOM

    return _figure(key, title, about, draw)


def thin(points: Sequence[Point], limit: int = POINTS_MAX) -> list[Point]:
    """Draw neighbours together until at most `limit` points are left; no extreme gets lost."""
    if len(points) <= limit:
        return list(points)
    thinned = list[Point]()
    for index in range(limit):
        group = points[index * len(points) // limit : (index + 1) * len(points) // limit]
        ordered = sorted(point.y for point in group)
        thinned.append(
            Point(
                group[-1].x,
                min(point.low for point in group),
                ordered[len(ordered) // 2],
                max(point.high for point in group),
            )
        )
    return thinned


def _figure(
    key: str, title: str, about: str, draw: Callable[[float], tuple[Iterator[str], float]]
) -> str:
    parts = list[str]()
    for kind, width in _WIDTHS:
        shapes, height = draw(width)
        name = f"{key}-{kind}"
        parts.append(
            f'<svg class="{kind}" viewBox="0 0 {width} {height:.0f}" role="img" '
            f'aria-labelledby="{name}-title {name}-about">'
            f'<title id="{name}-title">{escape(title)}</title>'
            f'<desc id="{name}-about">{escape(about)}</desc>{"".join(shapes)}</svg>'
        )
    return "\n".join(parts)


def _lines(
    frame: _Frame,
    lines: Sequence[Line],
    ticks: Sequence[float],
    show: Callable[[float], str],
    spans: Sequence[Span],
    marks: Sequence[Mark],
) -> Iterator[str]:
    yield from _shades(frame, spans)
    yield from _grid(frame, ticks, show)
    yield from _time_axis(frame)
    for line in lines:
        edges = [(point.x, point.high) for point in line.points]
        edges += [(point.x, point.low) for point in reversed(line.points)]
        yield f'<path class="band c{line.colour}" d="{_path(frame, edges)}Z"/>'
    for line in lines:
        path = _path(frame, [(point.x, point.y) for point in line.points])
        yield f'<path class="line c{line.colour}" d="{path}"/>'
    for mark in marks:
        y = frame.y(mark.value)
        yield f'<path class="mark" d="M{frame.left:.1f} {y:.1f}H{frame.right:.1f}"/>'
        beneath = y < frame.top + _ROW  # Above stand the numbers of the faults.
        yield _text(frame.right, y + 14 if beneath else y - 4, mark.label, "end")
    yield from _hints(frame, lines, show)


def _hints(frame: _Frame, lines: Sequence[Line], show: Callable[[float], str]) -> Iterator[str]:
    """Strips that say the exact values under the pointer."""
    thinned = [thin(line.points, HINTS_MAX) for line in lines]
    before = 0.0
    for index, first in enumerate(thinned[0]):
        texts = [format_seconds(round(first.x, 1))]
        for line, points in zip(lines, thinned, strict=True):
            point = points[min(index, len(points) - 1)]
            low, middle, high = show(point.low), show(point.y), show(point.high)
            text = middle if low == high else f"{middle} ({low} to {high})"
            texts.append(f"{line.label}: {text}")
        left, right = frame.x(before), frame.x(first.x)
        before = first.x
        yield (
            f'<rect class="hint" x="{left:.1f}" y="{frame.top}" width="{right - left:.1f}" '
            f'height="{frame.height}"><title>{escape("; ".join(texts))}</title></rect>'
        )


def _shades(frame: _Frame, spans: Sequence[Span]) -> Iterator[str]:
    free = frame.left - 1
    for span in sorted(spans, key=lambda span: (span.start, span.number)):
        left, right = frame.x(span.start), frame.x(span.end)
        yield (
            f'<rect class="fault" x="{left:.1f}" y="{frame.top}" '
            f'width="{max(1.5, right - left):.1f}" height="{frame.height}">'
            f"<title>{span.number}: {escape(span.text)}</title></rect>"
        )
        label = str(span.number)
        if left >= free:  # Numbers that would cover each other are in the timeline all the same.
            yield _text(left + 1, frame.top - 6, label, "start", "number")
            free = left + _CHARACTER * len(label) + 5


def _grid(frame: _Frame, ticks: Sequence[float], show: Callable[[float], str]) -> Iterator[str]:
    for tick in ticks:
        y = frame.y(tick)
        yield f'<path class="grid" d="M{frame.left:.1f} {y:.1f}H{frame.right:.1f}"/>'
        yield _text(frame.left - 6, y + 4, show(tick), "end")


def _time_axis(frame: _Frame) -> Iterator[str]:
    room = max(2, int(frame.width / 70))
    step = next((step for step in _STEPS if frame.x_max / step <= room), frame.x_max / room)
    yield f'<path class="axis" d="M{frame.left:.1f} {frame.bottom:.1f}H{frame.right:.1f}"/>'
    for index in range(int(frame.x_max / step + 1e-9) + 1):
        x = frame.x(index * step)
        yield f'<path class="axis" d="M{x:.1f} {frame.bottom:.1f}v5"/>'
        label = format_seconds(index * step)
        half = _CHARACTER * len(label) / 2
        anchor = "end" if x + half > frame.right + _RIGHT else "middle"
        yield _text(x, frame.bottom + 20, label, anchor)


def _bars(
    frame: _Frame,
    step: float,
    counts: Sequence[int],
    ticks: Sequence[float],
    marks: Sequence[Mark],
    colour: int,
) -> Iterator[str]:
    yield from _grid(frame, ticks, "{:.0f}".format)
    yield from _time_axis(frame)
    for index, count in enumerate(counts):
        if count:
            left, right = frame.x(index * step), frame.x((index + 1) * step)
            since, until = format_seconds(index * step), format_seconds((index + 1) * step)
            yield (
                f'<rect class="bar c{colour}" x="{left + 0.5:.1f}" y="{frame.y(count):.1f}" '
                f'width="{max(1.0, right - left - 1):.1f}" '
                f'height="{frame.bottom - frame.y(count):.1f}">'
                f"<title>{since} to {until}: {count}</title></rect>"
            )
    for number, mark in enumerate(sorted(marks, key=lambda mark: mark.value)):
        x, y = frame.x(mark.value), _TOP - 8 + _ROW * number
        yield f'<path class="mark" d="M{x:.1f} {y + 4:.1f}V{frame.bottom:.1f}"/>'
        beyond = x + _CHARACTER * len(mark.label) > frame.right
        yield _text(x - 4 if beyond else x + 4, y + 8, mark.label, "end" if beyond else "start")


def _timeline(frame: _Frame, spans: Sequence[Span], row: int) -> Iterator[str]:
    room = int(frame.width / _CHARACTER)
    for index, span in enumerate(spans):
        top = frame.top + row * index
        label = f"{span.number}  {span.text}"
        short = label if len(label) <= room else f"{label[: room - 1]}…"
        yield _text(frame.left, top + 12, short, "start")
        yield f'<path class="grid" d="M{frame.left:.1f} {top + 23}H{frame.right:.1f}"/>'
        for start, end in merge_turns(span.turns):
            left, right = frame.x(start), frame.x(end)
            yield (
                f'<rect class="turn" x="{left:.1f}" y="{top + 18}" '
                f'width="{max(2.5, right - left):.1f}" height="10" rx="2">'
                f"<title>{escape(label)}</title></rect>"
            )
    yield from _time_axis(frame)


def merge_turns(turns: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Turns that touch or overlap, as one."""
    merged = list[tuple[float, float]]()
    for start, end in sorted(turns):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _path(frame: _Frame, points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in points)


def _text(x: float, y: float, text: str, anchor: str, kind: str = "label") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _bins(values: Sequence[float]) -> tuple[float, list[int]]:
    """Width of the bars, and how many values fall into each; the first begins at 0."""
    longest = max(values)
    step = next(
        (step for step in _STEPS if longest / step < BARS_MAX), max(1.0, longest / (BARS_MAX - 1))
    )
    counts = [0] * (int(longest / step) + 1)
    for value in values:
        counts[int(value / step)] += 1
    return step, counts


def _ceiling(highest: float) -> float:
    """The next round number above `highest`."""
    if highest < _LEAST:
        return 1.0
    power: float = 10 ** math.floor(math.log10(highest))
    factors = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
    return (
        next(factor for factor in factors if factor * power >= highest * 1.02 or factor == 10)
        * power
    )


def _ticks_between(low: float, top: float) -> list[float]:
    """Round values around `low` and up to `top`, which need not be round."""
    step = _ceiling((top - low) / 4) if top - low > 4 else 1.0
    bottom = math.floor(low / step - 0.2) * step
    return [bottom + index * step for index in range(int((top - bottom) / step + 1e-9) + 1)]


def _ticks(top: float) -> list[float]:
    """Four or five round values from 0 to `top`."""
    power: float = 10 ** math.floor(math.log10(top))
    for step in (0.1, 0.2, 0.25, 0.5, 1, 2):
        if top / (step * power) <= 5 + 1e-9:
            break
    return [index * step * power for index in range(int(top / (step * power) + 1e-9) + 1)]
