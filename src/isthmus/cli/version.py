"""``isthmus version``."""

from isthmus import __version__
from isthmus.cli.command import Command, say
from isthmus.cli.flags import Parsed


def _run(_: Parsed) -> int:
    say(f"isthmus v{__version__}")
    say("Protocol 2 spoken by default, understands 2 to 3 (as Consul 1.10 numbers them)")
    return 0


VERSION = Command("version", "Print the version.", _run)
