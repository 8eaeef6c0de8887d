"""What every command is made of: help, flags, exit codes, errors."""

import pytest

from isthmus.cli.command import Command, CommandFailed, complain, format_mistakes, say
from isthmus.cli.flags import Flag, Parsed, UsageError, switch
from isthmus.errors import ConfigError, Mistake

Captured = pytest.CaptureFixture[str]


def make_command(run: object = None, *, count: int | None = 1) -> Command:
    def echo(parsed: Parsed) -> int:
        say(" ".join(parsed.rest))
        return 3

    def fail(parsed: Parsed) -> int:
        assert isinstance(run, Exception)
        raise run

    return Command(
        "kv get",
        "Read a key.",
        echo if run is None else fail,
        flags=(Flag("dc", "Datacenter that answers."), switch("keys", "Names only.")),
        arguments="KEY",
        count=count,
        examples=("isthmus kv get a",),
    )


def test_command_returns_the_code_of_its_function(capsys: Captured) -> None:
    assert make_command()(["-dc", "dc2", "a"]) == 3
    assert capsys.readouterr() == ("a\n", "")


@pytest.mark.parametrize("flag", ["-h", "-help", "--help"])
def test_help_goes_to_standard_output(flag: str, capsys: Captured) -> None:
    command = make_command()
    assert command([flag]) == 0
    assert capsys.readouterr() == (command.help() + "\n", "")


def test_help_says_usage_purpose_examples_and_flags() -> None:
    parts = make_command().help().split("\n\n")
    assert parts[:3] == [
        "Usage: isthmus kv get [flags] KEY",
        "  Read a key.",
        "Examples:\n  $ isthmus kv get a",
    ]
    assert parts[3].startswith("Flags:\n")
    assert [name in parts[3] for name in ("-dc", "-keys")] == [True, True]


def test_help_of_a_command_without_flags_is_short() -> None:
    assert Command("version", "Tell the version.", len).help() == (  # type: ignore[arg-type]
        "Usage: isthmus version\n\n  Tell the version."
    )


@pytest.mark.parametrize("args", [[], ["a", "b"], ["-nope", "a"], ["-dc"]])
def test_wrong_usage_is_told_with_the_help(args: list[str], capsys: Captured) -> None:
    command = make_command()
    assert command(args) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith(f"\n\n{command.help()}\n")


def test_command_may_look_at_its_arguments_itself(capsys: Captured) -> None:
    assert make_command(count=None)(["a", "b"]) == 3
    assert make_command(UsageError("give one key"), count=None)([]) == 1
    assert capsys.readouterr().err.startswith("give one key\n\nUsage: ")


@pytest.mark.parametrize("code", [1, 2])
def test_failed_command_says_why_and_no_more(code: int, capsys: Captured) -> None:
    assert make_command(CommandFailed("Error! No key exists at: a", code=code))(["a"]) == code
    assert capsys.readouterr() == ("", "Error! No key exists at: a\n")


def test_fault_of_ours_is_not_hidden() -> None:
    with pytest.raises(AssertionError, match="ours"):
        make_command(AssertionError("ours"))(["a"])


def test_words_go_where_they_belong(capsys: Captured) -> None:
    say("found")
    complain("not found")
    assert capsys.readouterr() == ("found\n", "not found\n")


def test_one_mistake_is_told_in_two_lines() -> None:
    mistake = Mistake("a.hcl", "ports.http", "not a port", "write a number")
    assert format_mistakes(ConfigError([mistake]), prefix="Error: ") == (
        "Error: not a port\n  in a.hcl, ports.http; write a number"
    )


def test_several_mistakes_are_a_list() -> None:
    mistakes = [
        Mistake("a.hcl", "zzz", "invalid config key zzz"),
        Mistake("", "server", "must be set"),
        Mistake("", "", "nothing works"),
    ]
    assert format_mistakes(ConfigError(mistakes), prefix="Error: ") == (
        "Error: 3 errors occurred:\n"
        "\t* invalid config key zzz\n\t  in a.hcl\n"
        "\t* must be set\n\t  server\n"
        "\t* nothing works"
    )
