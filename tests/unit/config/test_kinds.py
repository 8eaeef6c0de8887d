"""Kinds of values: from files, from flags, merged."""

import re
from typing import Any

import pytest

from isthmus.config import kinds
from isthmus.config.kinds import Kind, merge_values


@pytest.mark.parametrize(
    ("kind", "written", "value"),
    [
        (kinds.TEXT, "a", "a"),
        (kinds.TEXT, ["a"], "a"),
        (kinds.BOOL, False, False),
        (kinds.INT, 3, 3),
        (kinds.INT, 3.0, 3),
        (kinds.FLOAT, 3, 3.0),
        (kinds.DURATION, "1m30s", 90.0),
        (kinds.DURATION, "250ms", 0.25),
        (kinds.TEXTS, [], []),
        (kinds.TEXT_MAP, {"a": "b"}, {"a": "b"}),
        (kinds.DURATION_MAP, {"*": "5s"}, {"*": 5.0}),
        (kinds.OBJECTS, {"a": 1}, [{"a": 1}]),
        (kinds.OBJECTS, [{"a": 1}, {}], [{"a": 1}, {}]),
        (kinds.CIDRS, ["10.0.0.0/8", "fd00::/8"], ["10.0.0.0/8", "fd00::/8"]),
    ],
)
def test_value_of_a_file_is_read(kind: Kind, written: Any, value: object) -> None:
    assert kind.read(written) == value


@pytest.mark.parametrize(
    ("kind", "written", "text"),
    [
        (kinds.TEXT, 1, "must be a text in quotes, not 1"),
        (kinds.TEXT, True, "must be a text in quotes, not true"),
        (kinds.TEXT, ["a", "b"], "must be a text in quotes, not a list"),
        (kinds.BOOL, "true", "must be true or false, not 'true'"),
        (kinds.BOOL, 1, "must be true or false, not 1"),
        (kinds.INT, 1.5, "must be a whole number, not 1.5"),
        (kinds.INT, True, "must be a whole number, not true"),
        (kinds.FLOAT, "1", "must be a number, not '1'"),
        (kinds.DURATION, "30", 'invalid duration: "30": time: missing unit in duration "30"'),
        (kinds.DURATION, 30, "must be a text in quotes, not 30"),
        (kinds.TEXTS, "a", "must be a list of texts"),
        (kinds.TEXTS, ["a", 1], "must be a list of texts"),
        (kinds.TEXT_MAP, {"a": 1}, "must be an object of texts { … }, not an object"),
        (kinds.DURATION_MAP, "5s", "must be an object like"),
        (kinds.OBJECT, [1, 2], "must be an object { … }"),
        (kinds.OBJECTS, [1], "must be a list of objects, not a list"),
        (kinds.CIDRS, ["ten"], "must hold networks like"),
    ],
)
def test_value_of_another_kind_is_refused(kind: Kind, written: Any, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        kind.read(written)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (kinds.TEXT, "a", "a"),
        (kinds.BOOL, "T", True),
        (kinds.BOOL, "0", False),
        (kinds.INT, "-1", -1),
        (kinds.FLOAT, "1.5", 1.5),
        (kinds.DURATION, "2h", 7200.0),
        (kinds.TEXTS, "a", ["a"]),
        (kinds.TEXT_MAP, "rack:7:b", {"rack": "7:b"}),
        (kinds.CIDRS, "10.0.0.0/8", ["10.0.0.0/8"]),
    ],
)
def test_value_of_a_flag_is_parsed(kind: Kind, text: str, value: object) -> None:
    assert kind.parse(text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (kinds.BOOL, "yes"),
        (kinds.INT, "many"),
        (kinds.FLOAT, "much"),
        (kinds.DURATION, "soon"),
        (kinds.CIDRS, "here"),
        (kinds.OBJECT, "{}"),
    ],
)
def test_wrong_text_of_a_flag_is_refused(kind: Kind, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        kind.parse(text)


def test_values_merge_by_their_kind() -> None:
    assert merge_values(kinds.TEXT, "a", "b") == "b"
    assert merge_values(kinds.TEXTS, ["a"], ["b", "a"]) == ["a", "b", "a"]
    assert merge_values(kinds.TEXT_MAP, {"a": "1", "b": "1"}, {"b": "2"}) == {"a": "1", "b": "2"}
