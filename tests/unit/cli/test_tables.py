"""Tables on a terminal."""

from isthmus.cli.tables import format_pairs, format_table


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    rows = [("Node", "Address", "Status"), ("alpha.dc1", "10.0.0.1", "alive"), ("b", "", "left")]
    assert format_table(rows).splitlines() == [
        "Node       Address   Status",
        "alpha.dc1  10.0.0.1  alive",
        "b                    left",
    ]


def test_no_line_ends_in_spaces() -> None:
    assert format_table([("A", "B"), ("1", "")]) == "A  B\n1"


def test_heading_stands_alone_and_nothing_is_nothing() -> None:
    assert format_table([("Node", "Address")]) == "Node  Address"
    assert format_table([]) == ""


def test_gap_can_be_another() -> None:
    assert format_table([("a", "b"), ("cc", "d")], gap=" | ") == "a  | b\ncc | d"


def test_pairs_are_sorted() -> None:
    assert format_pairs({"b": "2", "a": "1"}) == "a=1,b=2"
    assert format_pairs({}) == format_pairs(None) == ""
