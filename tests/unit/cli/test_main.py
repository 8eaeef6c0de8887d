"""Finding commands, and starting fast."""

import importlib
import json
import subprocess
import sys

import pytest

from isthmus import __version__
from isthmus.cli.command import Command
from isthmus.cli.main import COMMANDS
from support.cli import Cli


def test_version_is_printed(cli: Cli) -> None:
    for spelled in ("version", "-v", "--version"):
        result = cli(spelled)
        assert result.code == 0
        assert result.out.startswith(f"isthmus v{__version__}\nProtocol 2 spoken by default")


def test_unknown_command_exits_127_and_lists_the_commands(cli: Cli) -> None:
    result = cli("membres")
    assert (result.code, result.out) == (127, "")
    assert "there is no command 'membres'" in result.err
    assert all(f"    {name} " in result.err for name in COMMANDS)


def test_no_command_exits_127(cli: Cli) -> None:
    assert cli().code == 127


def test_help_lists_the_commands(cli: Cli) -> None:
    result = cli("-help")
    assert (result.code, result.err) == (0, "")
    assert "members" in result.out


def test_group_lists_its_commands(cli: Cli) -> None:
    result = cli("kv")
    assert result.code == 1
    assert "kv get" in result.err
    assert "members" not in result.err
    assert cli("tls", "ca", "-h").code == 0


def test_unknown_subcommand_is_named_with_those_beside_it(cli: Cli) -> None:
    result = cli("operator", "raft", "frob", "-x")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(
        "isthmus: there is no command 'operator raft frob'\n\n"
        "Usage: isthmus operator raft <subcommand> [flags]\n"
    )
    assert "operator raft list-peers" in result.err
    assert "autopilot" not in result.err
    assert "there is no command" not in cli("operator", "raft").err + cli("kv", "-x").err


def test_command_help_shows_its_flags(cli: Cli) -> None:
    result = cli("members", "-h")
    assert result.code == 0
    assert result.out.startswith("Usage: isthmus members [flags]")
    assert "-http-addr=ADDRESS" in result.out
    assert "[CONSUL_HTTP_ADDR]" in result.out


def test_wrong_flag_exits_1_with_the_help(cli: Cli) -> None:
    result = cli("members", "-loud")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("flag provided but not defined: -loud\n\nUsage: isthmus members")


@pytest.mark.parametrize(
    "name", [name for name in COMMANDS if name not in {"demo", "connect gateway"}]
)
def test_every_command_exists_under_its_name(name: str) -> None:
    module, _, attribute = COMMANDS[name][0].partition(":")
    command = getattr(importlib.import_module(module), attribute)
    assert not isinstance(command, Command) or command.name == name


PROGRAM = """
import json, sys
before = set(sys.modules)
from isthmus.cli.main import main
code = main({args})
print(json.dumps(sorted(set(sys.modules) - before)), file=sys.stderr)
sys.exit(code)
"""


def modules_of(*args: str) -> set[str]:
    """Modules that a command imports."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM.format(args=list(args))],
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_version_imports_next_to_nothing() -> None:
    """Start-up is a feature: a command loads only what it needs."""
    modules = modules_of("version")
    ours = {name for name in modules if name.startswith("isthmus")}
    assert ours == {
        "isthmus",
        "isthmus.cli",
        "isthmus.cli.command",
        "isthmus.cli.flags",
        "isthmus.cli.main",
        "isthmus.cli.version",
        "isthmus.errors",
    }
    heavy = ("asyncio", "ssl", "http", "click", "rich", "cryptography", "msgspec", "hcl2", "json")
    assert not {name.partition(".")[0] for name in modules} & set(heavy) - {"json"}


def test_keygen_imports_no_agent() -> None:
    assert not {"isthmus.config", "isthmus.agent", "cryptography", "ssl"} & modules_of("keygen")


def test_reader_that_goes_away_is_no_traceback() -> None:
    """As in ``isthmus agent -help | head -1``."""
    command = [sys.executable, "-m", "isthmus.cli.main", "agent", "-help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 1
