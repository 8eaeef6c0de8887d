"""Plots: what is drawn where, and that nothing gets lost on the way."""

import itertools
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.sim.plots import (
    POINTS_MAX,
    Line,
    Mark,
    Point,
    Span,
    draw_histogram,
    draw_lines,
    draw_timeline,
    merge_turns,
    thin,
)

Element = ElementTree.Element


def svgs(markup: str) -> list[Element]:
    """The wide plot and the narrow one; parsing fails on anything that is not well-formed."""
    return list(ElementTree.fromstring(f"<div>{markup}</div>"))


def flat(x: float, y: float) -> Point:
    return Point(x, y, y, y)


def lines(*points: Point, spans: tuple[Span, ...] = (), y_max: float = 0.0) -> list[Element]:
    return svgs(
        draw_lines(
            "key",
            "a title",
            "about",
            [Line("a server", 1, points)],
            x_max=100.0,
            show="{:.0f}".format,
            spans=spans,
            y_max=y_max,
        )
    )


def numbers(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)]


def by_class(svg: Element, name: str) -> list[Element]:
    return [one for one in svg.iter() if name in one.get("class", "").split()]


def labels(svg: Element) -> list[str]:
    return [one.text or "" for one in by_class(svg, "label")]


def test_plot_is_drawn_wide_and_narrow_with_title_and_description() -> None:
    wide, narrow = lines(flat(1, 5), flat(100, 9))
    for svg, kind in ((wide, "wide"), (narrow, "narrow")):
        assert (svg.get("class"), svg.get("role")) == (kind, "img")
        assert svg.get("aria-labelledby") == f"key-{kind}-title key-{kind}-about"
        assert [(one.get("id"), one.text) for one in svg[:2]] == [
            (f"key-{kind}-title", "a title"),
            (f"key-{kind}-about", "about"),
        ]


@given(
    st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1e9)), min_size=1, max_size=400),
    st.booleans(),
)
def test_all_is_drawn_within_the_frame(values: list[tuple[float, float]], bounded: bool) -> None:
    points = [
        Point(index * 100 / len(values), min(pair), max(pair), max(pair))
        for index, pair in enumerate(values)
    ]
    y_max = max(max(pair) for pair in values) if bounded else 0.0
    for svg in lines(*points, y_max=y_max):
        _, _, width, height = map(float, (svg.get("viewBox") or "").split())
        for path in (*by_class(svg, "line"), *by_class(svg, "band")):
            for x, y in numbers(path.get("d", "")):
                assert 0 <= x <= width
                assert 0 <= y <= height


def test_larger_values_are_drawn_higher_and_later_ones_further_right() -> None:
    wide, _ = lines(flat(10, 5), flat(50, 9), flat(90, 1))
    drawn = numbers(by_class(wide, "line")[0].get("d", ""))
    assert drawn[0][0] < drawn[1][0] < drawn[2][0]
    assert drawn[1][1] < drawn[0][1] < drawn[2][1]


def test_labels_of_an_axis_do_not_overlap() -> None:
    for svg in lines(flat(1, 5), flat(100, 123_456)):
        axis = [one for one in by_class(svg, "label") if (one.text or "").endswith(("s", "m"))]
        places = [(float(one.get("x", "0")), len(one.text or "")) for one in axis]
        assert len(places) >= 2
        for (left, size), (right, other) in itertools.pairwise(places):
            assert left + 3.5 * size < right - 3.5 * other


def test_faults_are_shaded_and_numbered_unless_numbers_would_cover_each_other() -> None:
    spans = (
        Span(1, "partition <one>", [(10, 30)]),
        Span(2, "crash", [(10.5, 20)]),
        Span(3, "loss", [(60, 100)]),
    )
    wide, _ = lines(flat(1, 5), flat(100, 9), spans=spans)
    assert len(by_class(wide, "fault")) == 3
    assert [one.text for one in by_class(wide, "number")] == ["1", "3"]
    assert by_class(wide, "fault")[0][0].text == "1: partition <one>"


def test_values_near_a_natural_end_are_magnified() -> None:
    wide, _ = lines(flat(1, 150), flat(50, 147), flat(100, 150), y_max=150)
    assert [label for label in labels(wide) if label.isdecimal()] == [
        "146",
        "147",
        "148",
        "149",
        "150",
    ]
    wide, _ = lines(flat(1, 150), flat(50, 20), flat(100, 150), y_max=150)
    assert "0" in labels(wide)


def test_values_are_told_under_the_pointer() -> None:
    wide, _ = lines(Point(40, 1, 2, 3), flat(100, 9))
    assert [one[0].text for one in by_class(wide, "hint")] == [
        "40s; a server: 2 (1 to 3)",
        "1m40s; a server: 9",
    ]


def test_line_of_zeros_can_be_drawn() -> None:
    wide, _ = lines(flat(1, 0), flat(100, 0))
    assert len(numbers(by_class(wide, "line")[0].get("d", ""))) == 2


@given(st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9), st.floats(0, 9)), max_size=700))
def test_thinning_loses_no_extreme(values: list[tuple[float, float, float]]) -> None:
    points = [Point(float(at), *sorted(value)) for at, value in enumerate(values)]
    thinned = thin(points)
    assert len(thinned) == min(len(points), POINTS_MAX)
    if points:
        assert thinned[-1].x == points[-1].x
        assert min(one.low for one in thinned) == min(one.low for one in points)
        assert max(one.high for one in thinned) == max(one.high for one in points)


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=60))
def test_histogram_counts_every_value_once(values: list[float]) -> None:
    for svg in svgs(draw_histogram("key", "title", "about", values, colour=1)):
        bars = by_class(svg, "bar")
        counts = [int((bar[0].text or "").rpartition(": ")[2]) for bar in bars]
        assert sum(counts) == len(values)
        assert all(float(bar.get("height", "0")) > 0 for bar in bars)


def test_figures_to_compare_with_are_named_in_rows_of_their_own() -> None:
    marks = [Mark(4.0, "earliest"), Mark(1.0, "first"), Mark(900.0, "far beyond")]
    wide, _ = svgs(draw_histogram("key", "title", "about", [3.0, 5.0], colour=1, marks=marks))
    named = [one for one in by_class(wide, "label") if one.text in {"earliest", "first"}]
    assert [one.text for one in named] == ["first", "earliest"]
    assert len({one.get("y") for one in named}) == 2
    assert "far beyond" not in labels(wide)


def test_timeline_has_a_row_for_each_fault() -> None:
    spans = [Span(1, "crash", [(1, 5), (20, 25)]), Span(2, "loss " * 40, [(0, 100)])]
    wide, narrow = svgs(draw_timeline("key", "title", "about", spans, x_max=100.0))
    assert len(by_class(wide, "turn")) == 3
    assert labels(wide)[0] == "1  crash"
    assert labels(wide)[1].endswith("…")
    assert len(labels(narrow)[1]) < len(labels(wide)[1])


@pytest.mark.parametrize(
    ("turns", "merged"),
    [
        ([(0, 1), (2, 3)], [(0, 1), (2, 3)]),
        ([(2, 3), (0, 2)], [(0, 3)]),
        ([(0, 9), (2, 3), (9, 10)], [(0, 10)]),
        ([], []),
    ],
)
def test_turns_that_touch_are_one(
    turns: list[tuple[float, float]], merged: list[tuple[float, float]]
) -> None:
    assert merge_turns(turns) == merged
