"""``isthmus agent``: flags and files to a configuration, then the agent runs.

Source: protocol/cli-config-dns.md §2.1.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isthmus.cli.command import Command, complain, format_mistakes
from isthmus.cli.flags import Flag, Parsed, UsageError, switch
from isthmus.config import AgentConfig, load, unreadable, unsupported
from isthmus.config.keys import FLAGS, Key
from isthmus.config.kinds import Merge
from isthmus.config.sources import FORMATS, ConfigPath, ConfigText, Source
from isthmus.errors import ConfigError


def _language(text: str) -> str:
    if text not in FORMATS:
        raise ValueError("must be hcl or json")
    return text


def _flag(key: Key) -> Flag:
    about = key.about
    if not key.since:
        about += " Ignored." if key.tier > 2 else " This release does not act on it yet."
    if not key.kind.takes_value:
        return switch(key.flag, about)
    repeated = key.kind.merge is not Merge.LAST
    if repeated:
        about += " May be repeated."
    return Flag(key.flag, about, key.kind.parse, None, repeated)


AGENT_FLAGS: tuple[Flag, ...] = (
    switch("dev", "One server for one developer: everything in memory, on 127.0.0.1."),
    Flag("config-file", "File to read. May be repeated.", repeated=True, placeholder="FILE"),
    Flag(
        "config-dir",
        "Directory to read: its .hcl and .json files in the order of their names. May be repeated.",
        repeated=True,
        placeholder="DIR",
    ),
    Flag("config-format", "hcl or json, for files with other endings.", _language),
    Flag("hcl", "Configuration as text. May be repeated.", repeated=True, placeholder="TEXT"),
    *(_flag(key) for _, key in sorted(FLAGS.items())),
)


def agent_config(args: Parsed) -> AgentConfig:
    """Load the configuration that a parsed command line asks for.

    Raises:
        ConfigError: All mistakes.
    """
    language = args["config-format"]
    sources: list[Source] = [
        ConfigPath(Path(value), language)
        for name, value in args.sequence
        if name in {"config-file", "config-dir"}
    ]
    sources += [ConfigText(text) for text in args["hcl"]]
    values: dict[str, Any] = {}
    for name, key in FLAGS.items():
        if name in args.given:
            values[key.name] = _merged(key, args[name])
    return load(sources, values, dev=args["dev"])


def startable_config(args: Parsed) -> AgentConfig:
    """Load the configuration of an agent that is to run, at start and at each reload.

    Raises:
        ConfigError: All mistakes, or all that an agent of this release does not do.
    """
    config = agent_config(args)
    if mistakes := [*unsupported(config), *unreadable(config)]:
        raise ConfigError(mistakes)
    return config


def _merged(key: Key, value: Any) -> Any:
    """Put the repetitions of a flag together."""
    if key.kind.merge is Merge.APPEND:
        return [item for given in value for item in given]
    if key.kind.merge is Merge.UPDATE:
        return {name: item for given in value for name, item in given.items()}
    return value


def _run(args: Parsed) -> int:
    if args.rest:
        raise UsageError(f"Unexpected extra arguments: {args.rest}")
    try:
        config = startable_config(args)
    except ConfigError as error:
        complain(format_mistakes(error, prefix="==> "))
        return 1
    from isthmus.agent.process import run

    return run(config, lambda: startable_config(args))


COMMAND = Command(
    "agent",
    "Run an agent until it is told to stop.",
    _run,
    AGENT_FLAGS,
    count=None,
    examples=("isthmus agent -dev", "isthmus agent -config-dir=/etc/isthmus.d"),
)


def run(args: Sequence[str]) -> int:
    """Run ``isthmus agent`` with the arguments behind its name; return the exit code."""
    return COMMAND(args)
