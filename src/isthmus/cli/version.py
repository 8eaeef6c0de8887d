"""``isthmus version``."""

import json
from typing import Final

from isthmus import __version__
from isthmus.cli.command import Command, CommandFailed, say
from isthmus.cli.flags import Flag, Parsed

_PROTOCOLS: Final = {"Default": 2, "Min": 2, "Max": 3}
"""Versions of gossip's protocol, as Consul 1.10 numbers them."""


def _run(args: Parsed) -> int:
    if args["format"] == "json":
        told = {"Version": __version__, "Revision": "", "Prerelease": "", "RPC": _PROTOCOLS}
        say(json.dumps(told, indent=4))
        return 0
    if args["format"] != "pretty":
        raise CommandFailed(f"Unknown format: {args['format']}; there are pretty and json")
    say(f"isthmus v{__version__}")
    say("Protocol 2 spoken by default, understands 2 to 3 (as Consul 1.10 numbers them)")
    return 0


VERSION: Final = Command(
    "version",
    "Print the version.",
    _run,
    (Flag("format", "pretty or json.", default="pretty", placeholder="FORMAT"),),
)
