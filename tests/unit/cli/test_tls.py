"""tls ca create, tls cert create."""

from pathlib import Path

import pytest

from support.cli import Cli


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_files_are_named_as_they_are_saved(cli: Cli, tmp_path: Path) -> None:
    made = cli("tls", "ca", "create", "-domain=example.com")
    assert made.out == (
        "==> Saved example.com-agent-ca.pem\n==> Saved example.com-agent-ca-key.pem\n"
    )
    made = cli("tls", "cert", "create", "-server", "-dc=dc2", "-node", "a", "-domain=example.com")
    assert made.code == 0
    assert made.out.endswith(
        "==> Using example.com-agent-ca.pem and example.com-agent-ca-key.pem\n"
        "==> Saved dc2-server-example.com-0.pem\n"
        "==> Saved dc2-server-example.com-0-key.pem\n"
    )
    assert made.out.startswith("==> WARNING: A server certificate")
    assert (tmp_path / "dc2-server-example.com-0.pem").exists()


def test_existing_ca_is_kept(cli: Cli) -> None:
    cli("tls", "ca", "create")
    again = cli("tls", "ca", "create")
    assert (again.code, again.out) == (1, "")
    assert again.err == "consul-agent-ca.pem already exists.\n"


def test_exactly_one_role_is_asked_for(cli: Cli) -> None:
    for args in ((), ("-server", "-client")):
        result = cli("tls", "cert", "create", *args)
        assert result.code == 1
        assert result.err.startswith("Please provide either -server, -client, or -cli\n")


def test_node_is_for_servers(cli: Cli) -> None:
    cli("tls", "ca", "create")
    result = cli("tls", "cert", "create", "-client", "-node=a")
    assert (result.code, result.err) == (1, "-node requires -server\n")


def test_ca_elsewhere_is_used(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("tls", "ca", "create")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    missing = cli("tls", "cert", "create", "-cli")
    assert missing.code == 1
    assert "isthmus tls ca create" in missing.err
    files = ("-ca=../consul-agent-ca.pem", "-key=../consul-agent-ca-key.pem")
    assert cli("tls", "cert", "create", "-cli", *files).code == 0
