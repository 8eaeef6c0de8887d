"""validate, keygen."""

import base64
from pathlib import Path

from support.cli import Cli

VALID = 'server = true\nbind_addr = "127.0.0.1"\ndata_dir = "/x"\nnode_name = "a"\n'


def test_valid_configuration(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.hcl").write_text(VALID)
    result = cli("validate", str(tmp_path))
    assert (result.code, result.out, result.err) == (0, "Configuration is valid!\n", "")
    assert cli("validate", "-quiet", str(tmp_path / "a.hcl")).out == ""


def test_warnings_and_notes_stand_before_the_verdict(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.hcl").write_text(
        VALID.replace("server = true", 'server = true\nretry_join = ["provider=aws"]').replace(
            '"a"', '"a_b"'
        )
    )
    result = cli("validate", str(tmp_path))
    assert result.code == 0
    warning, note, verdict = result.out.splitlines()
    assert warning.startswith('Node name "a_b" will not be discoverable via DNS')
    assert note.startswith("note: an agent would not start: ")
    assert "discovery by provider is not in this release" in note
    assert verdict == "Configuration is valid!"


def test_one_mistake_is_said_as_consul_says_it(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.hcl").write_text(VALID + 'primary_gateways = ["gw:1"]')
    result = cli("validate", str(tmp_path))
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(
        "Config validation failed: 'primary_gateways' should only be configured in a secondary "
        "datacenter\n"
    )
    assert f"in {tmp_path}/a.hcl; remove it" in result.err


def test_all_mistakes_are_listed(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.hcl").write_text(VALID + "nonsense = 1\nlog_level = 5\n")
    result = cli("validate", str(tmp_path))
    assert result.code == 1
    assert result.err == (
        "Config validation failed: 2 errors occurred:\n"
        "\t* invalid config key nonsense\n"
        f"\t  in {tmp_path}/a.hcl; see docs/configuration.md for all keys\n"
        "\t* log_level must be a text in quotes, not 5\n"
        f"\t  in {tmp_path}/a.hcl\n"
    )


def test_validate_needs_a_path(cli: Cli) -> None:
    assert cli("validate").err.startswith("Must specify at least one config file or directory")


def test_keygen_gives_another_32_bytes_each_time(cli: Cli) -> None:
    first, second = cli("keygen").out, cli("keygen").out
    assert len(base64.b64decode(first, validate=False)) == 32
    assert first != second
