"""What every command is made of: its help, its flags, its function, and its way to say errors."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from isthmus.cli.flags import (
    Flag,
    HelpRequested,
    Parsed,
    UsageError,
    expect_arguments,
    format_flags,
    parse_flags,
)
from isthmus.errors import ConfigError, IsthmusError, Mistake


class CommandFailed(IsthmusError):
    """A command cannot do its work; nothing more is to be done. Its text goes to stderr.

    Attributes:
        code: Exit code.
    """

    def __init__(self, text: str, *, code: int = 1) -> None:
        self.code = code
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        name: As typed, ``kv get``.
        about: One sentence.
        run: Gets the parsed arguments, returns the exit code.
        flags: Flags it knows.
        arguments: Positional arguments, for the help.
        count: How many of them there are; None: `run` looks itself.
        examples: Command lines worth copying.
        usage_code: Exit code for a wrong command line; Consul's commands have 1.
    """

    name: str
    about: str
    run: Callable[[Parsed], int]
    flags: tuple[Flag, ...] = ()
    arguments: str = ""
    count: int | None = 0
    examples: tuple[str, ...] = ()
    usage_code: int = 1

    def __call__(self, args: Sequence[str]) -> int:
        """Run with the arguments behind the command's name; return the exit code."""
        late = ""
        try:
            parsed = parse_flags(args, self.flags)
            late = self._late_flag(parsed.rest)
            if self.count is not None:
                expect_arguments(parsed.rest, self.count)
            return self.run(parsed)
        except HelpRequested:
            say(self.help())
            return 0
        except UsageError as error:
            complain(f"{error}\n{late}\n{self.help()}")
            return self.usage_code
        except CommandFailed as error:
            complain(f"{error}\n{late}".rstrip("\n"))
            return error.code

    def _late_flag(self, rest: Sequence[str]) -> str:
        """A line about a flag behind the arguments, which is taken for one of them."""
        names = () if "COMMAND" in self.arguments else {flag.name for flag in self.flags}
        for word in rest:
            if word.startswith("-") and word.lstrip("-").partition("=")[0] in names:
                return f"Flags stand before arguments; {word} came too late.\n"
        return ""

    def help(self) -> str:
        """The help text."""
        usage = " ".join(
            part
            for part in ("isthmus", self.name, "[flags]" if self.flags else "", self.arguments)
            if part
        )
        parts = [f"Usage: {usage}", f"  {self.about}"]
        if self.examples:
            parts.append("Examples:\n" + "\n".join(f"  $ {line}" for line in self.examples))
        if self.flags:
            parts.append("Flags:\n" + format_flags(self.flags))
        return "\n\n".join(parts)


def say(text: str) -> None:
    """Print to standard output."""
    sys.stdout.write(f"{text}\n")


def complain(text: str) -> None:
    """Print to standard error."""
    sys.stderr.write(f"{text}\n")


def format_mistakes(error: ConfigError, *, prefix: str) -> str:
    """Lay out all mistakes of a configuration; the first line starts as Consul's does."""
    if len(error.mistakes) == 1:
        return prefix + _mistake(error.mistakes[0], indent="  ")
    lines = "\n".join("\t* " + _mistake(one, indent="\t  ") for one in error.mistakes)
    return f"{prefix}{len(error.mistakes)} errors occurred:\n{lines}"


def _mistake(mistake: Mistake, *, indent: str) -> str:
    place = f"in {mistake.source}" if mistake.source else ""
    if mistake.key and mistake.key not in mistake.text:
        place = f"{place}, {mistake.key}" if place else mistake.key
    hint = "; ".join(part for part in (place, mistake.remedy) if part)
    return f"{mistake.text}\n{indent}{hint}" if hint else mistake.text
