"""Command line flags as Consul's users know them (Go's flag syntax).

One or two dashes mean the same, a value stands behind ``=`` or in the next argument, flags stand
before positional arguments, ``--`` ends them. Written by hand, because the libraries at hand want
GNU's syntax and cost half of the start-up time.

Source: protocol/cli-config-dns.md §1.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final


class UsageError(Exception):
    """The operator's command line is wrong: print the text and the command's help, exit 1."""


class HelpRequested(Exception):
    """``-h`` or ``-help``: print the command's help, exit 0."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag.

    Attributes:
        name: Without dashes.
        about: One line for the help.
        parse: From its text to its value; None: it stands alone (``-x``, ``-x=false``).
        default: Value if it is not given.
        repeated: It may be given several times; its value is a list.
        env: Environment variable that stands in for it.
        placeholder: Shown in the help for its value.
    """

    name: str
    about: str
    parse: Callable[[str], Any] | None = str
    default: Any = ""
    repeated: bool = False
    env: str = ""
    placeholder: str = "VALUE"


def switch(name: str, about: str, *, default: bool = False, env: str = "") -> Flag:
    """Make a flag that stands alone."""
    return Flag(name, about, None, default, env=env)


def whole_number(text: str) -> int:
    """Parse a flag's value as a whole number."""
    try:
        return int(text, 0)
    except ValueError:
        raise ValueError("not a whole number") from None


@dataclass(slots=True)
class Parsed:
    """What a command line said.

    Attributes:
        values: By flag name, defaults filled in.
        given: Names of the flags that were there.
        rest: Positional arguments.
        sequence: Name and value of the flags that were there, as they stood.
    """

    values: dict[str, Any] = field(default_factory=dict)
    given: set[str] = field(default_factory=set)
    rest: list[str] = field(default_factory=list)
    sequence: list[tuple[str, Any]] = field(default_factory=list)

    def __getitem__(self, name: str) -> Any:
        """Value of one flag."""
        return self.values[name]


_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})
_HELP: Final = frozenset({"h", "help"})


def parse_bool(text: str) -> bool:
    """Parse a truth value as Go does."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("not true or false")


def parse_flags(
    args: Sequence[str], flags: Iterable[Flag], environ: Mapping[str, str] | None = None
) -> Parsed:
    """Parse one command's arguments.

    Args:
        args: What stands behind the command's name.
        flags: All flags it knows.
        environ: Environment; None for the process's.

    Raises:
        UsageError: Unknown flag, missing or bad value.
        HelpRequested: The help was asked for.
    """
    known = {flag.name: flag for flag in flags}
    parsed, at = _defaults(known, os.environ if environ is None else environ), 0
    while at < len(args):
        arg = args[at]
        if arg == "-" or not arg.startswith("-"):
            break
        at += 1
        if arg == "--":
            break
        name, equals, text = arg.removeprefix("-").removeprefix("-").partition("=")
        flag = known.get(name)
        if flag is None:
            if name in _HELP:
                raise HelpRequested
            raise UsageError(f"flag provided but not defined: -{name}")
        if flag.parse is not None and not equals:
            if at == len(args):
                raise UsageError(f"flag needs an argument: -{name}")
            text = args[at]
            at += 1
        _store(parsed, flag, text if equals or flag.parse is not None else "true")
    parsed.rest = list(args[at:])
    return parsed


def _defaults(known: Mapping[str, Flag], environ: Mapping[str, str]) -> Parsed:
    parsed = Parsed()
    for flag in known.values():
        parsed.values[flag.name] = [] if flag.repeated else flag.default
        if flag.env and (text := environ.get(flag.env)):
            _store(parsed, flag, text, place=flag.env)
    parsed.given.clear()
    parsed.sequence.clear()
    return parsed


def _store(parsed: Parsed, flag: Flag, text: str, *, place: str = "") -> None:
    try:
        value = parse_bool(text) if flag.parse is None else flag.parse(text)
    except ValueError as error:
        place = place or f"flag -{flag.name}"
        raise UsageError(f'invalid value "{text}" for {place}: {error}') from None
    if flag.repeated:
        parsed.values[flag.name].append(value)
    else:
        parsed.values[flag.name] = value
    parsed.given.add(flag.name)
    parsed.sequence.append((flag.name, value))


def expect_arguments(rest: Sequence[str], count: int) -> None:
    """Refuse too many or too few positional arguments, as Consul words it.

    Raises:
        UsageError: Their number is another.
    """
    if len(rest) > count:
        raise UsageError(f"Too many arguments (expected {count}, got {len(rest)})")
    if len(rest) < count:
        raise UsageError(f"Not enough arguments (expected {count}, got {len(rest)})")


def format_flags(flags: Iterable[Flag]) -> str:
    """Lay out flags for a help text."""
    lines = list[str]()
    for flag in flags:
        shown = f"  -{flag.name}" if flag.parse is None else f"  -{flag.name}={flag.placeholder}"
        environment = f" [{flag.env}]" if flag.env else ""
        lines.append(f"{shown}\n      {flag.about}{environment}")
    return "\n".join(lines)
