"""Flags as Go's programs take them."""

from typing import Any

import pytest

from isthmus.cli.flags import (
    Flag,
    HelpRequested,
    UsageError,
    expect_arguments,
    parse_flags,
    switch,
    whole_number,
)

FLAGS = (
    switch("wan", "…", env="X_WAN"),
    Flag("n", "…", whole_number, 7),
    Flag("name", "…", env="X_NAME"),
    Flag("tag", "…", repeated=True),
)


@pytest.mark.parametrize(
    ("args", "values", "rest"),
    [
        ([], {"wan": False, "n": 7, "name": "", "tag": []}, []),
        (["-wan"], {"wan": True}, []),
        (["--wan", "-n=3", "x"], {"wan": True, "n": 3}, ["x"]),
        (["-wan=false", "-n", "0x10"], {"wan": False, "n": 16}, []),
        (["-tag", "a", "--tag=b"], {"tag": ["a", "b"]}, []),
        (["-name=", "x"], {"name": ""}, ["x"]),
        (["-name=a=b"], {"name": "a=b"}, []),
        (["x", "-wan"], {"wan": False}, ["x", "-wan"]),
        (["--", "-wan"], {"wan": False}, ["-wan"]),
        (["-", "-wan"], {"wan": False}, ["-", "-wan"]),
        (["-name", "-wan"], {"name": "-wan", "wan": False}, []),
    ],
)
def test_flags_stand_before_arguments(
    args: list[str], values: dict[str, Any], rest: list[str]
) -> None:
    parsed = parse_flags(args, FLAGS, {})
    assert {name: parsed[name] for name in values} == values
    assert parsed.rest == rest


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["-what"], "flag provided but not defined: -what"),
        (["-n"], "flag needs an argument: -n"),
        (["-n", "many"], 'invalid value "many" for flag -n: not a whole number'),
        (["-wan=perhaps"], 'invalid value "perhaps" for flag -wan: not true or false'),
    ],
)
def test_wrong_flags_are_refused_in_gos_words(args: list[str], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_flags(args, FLAGS, {})
    assert str(caught.value) == text


def test_environment_stands_in_and_flags_win() -> None:
    environ = {"X_WAN": "1", "X_NAME": "env"}
    parsed = parse_flags(["-name", "flag"], FLAGS, environ)
    assert (parsed["wan"], parsed["name"]) == (True, "flag")
    assert parsed.given == {"name"}
    with pytest.raises(UsageError, match='invalid value "x" for X_WAN'):
        parse_flags([], FLAGS, {"X_WAN": "x"})


def test_help_is_asked_for_with_one_or_two_dashes() -> None:
    for asked in ("-h", "--help", "-help"):
        with pytest.raises(HelpRequested):
            parse_flags([asked], FLAGS, {})


def test_number_of_arguments_is_said_as_consul_says_it() -> None:
    with pytest.raises(UsageError, match=r"Too many arguments \(expected 1, got 3\)"):
        expect_arguments(["a", "b", "c"], 1)
    with pytest.raises(UsageError, match=r"Not enough arguments \(expected 1, got 0\)"):
        expect_arguments([], 1)
