"""``isthmus version``."""

import json

from isthmus import __version__
from support.cli import Cli


def test_version_as_json(cli: Cli) -> None:
    result = cli("version", "-format=json")
    assert result.code == 0
    told = json.loads(result.out)
    assert told["Version"] == __version__
    assert told["RPC"] == {"Default": 2, "Min": 2, "Max": 3}


def test_version_as_text(cli: Cli) -> None:
    result = cli("version", "-format=pretty")
    assert result.out.startswith(f"isthmus v{__version__}\n")


def test_unknown_format_is_refused(cli: Cli) -> None:
    result = cli("version", "-format=xml")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("Unknown format: xml")
