"""``isthmus validate``: is this configuration right, and would this release start with it.

Source: protocol/cli-config-dns.md §1.2 and §2.4.
"""

from pathlib import Path

from isthmus.cli.command import Command, complain, format_mistakes, say
from isthmus.cli.flags import Flag, Parsed, UsageError, switch
from isthmus.config import load, unreadable, unsupported
from isthmus.config.sources import ConfigPath
from isthmus.errors import ConfigError

_PREFIX = "Config validation failed: "


def _run(args: Parsed) -> int:
    if not args.rest:
        raise UsageError("Must specify at least one config file or directory")
    sources = [ConfigPath(Path(path), args["config-format"]) for path in args.rest]
    try:
        config = load(sources)
    except ConfigError as error:
        complain(format_mistakes(error, prefix=_PREFIX))
        return 1
    if args["quiet"]:
        return 0
    for warning in config.warnings:
        say(warning)
    for mistake in (*unsupported(config), *unreadable(config)):
        say(f"note: an agent would not start: {mistake}")
    say("Configuration is valid!")
    return 0


VALIDATE = Command(
    "validate",
    "Check configuration files and directories.",
    _run,
    (
        switch("quiet", "Say nothing if all is well."),
        Flag("config-format", "hcl or json, for files with other endings.", placeholder="FORMAT"),
    ),
    arguments="PATH…",
    count=None,
)
