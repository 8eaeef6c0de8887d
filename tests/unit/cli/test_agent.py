"""From the agent's command line to its configuration."""

from pathlib import Path

import pytest

from isthmus.cli.agent import AGENT_FLAGS, agent_config
from isthmus.cli.flags import parse_flags
from isthmus.config import AgentConfig
from support.cli import Cli


def configured(*args: str) -> AgentConfig:
    return agent_config(parse_flags(args, AGENT_FLAGS, {}))


def test_test_suites_command_line_is_understood(tmp_path: Path) -> None:
    """Programs written for Consul start it like this."""
    file = tmp_path / "a.json"
    file.write_text('{"ports": {"http": 18500, "dns": -1}, "enable_debug": true}')
    config = configured(
        "-dev", "-bind", "127.0.0.2", "-client=127.0.0.3", "--node", "n1", "-datacenter", "dc7",
        "-data-dir", str(tmp_path), "-pid-file", f"{tmp_path}/pid", "-config-file", str(file),
    )  # fmt: skip
    assert (config.dev, config.server, config.node_name, config.datacenter) == (
        True, True, "n1", "dc7",
    )  # fmt: skip
    assert config.addresses.bind == config.addresses.advertise == "127.0.0.2"
    assert config.addresses.http == ("127.0.0.3",)
    assert (config.ports.http, config.ports.dns) == (18500, -1)
    assert (config.data_dir, config.pid_file) == (tmp_path, f"{tmp_path}/pid")


def test_repeated_flags_add_up() -> None:
    config = configured(
        "-server", "-data-dir=/x", "-bind=127.0.0.1", "-node-meta", "a:1", "-node-meta=b:2:3",
        "-retry-join=x", "-retry-join", "y", "-hcl", 'retry_join = ["z"]', "-log-level=debug",
    )  # fmt: skip
    assert config.node_meta == {"a": "1", "b": "2:3"}
    assert config.join.retry_join == ("x", "y", "z")
    assert config.log.level == "DEBUG"


def test_files_and_directories_are_read_in_the_order_given(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x.hcl").write_text('node_name = "directory"')
    (tmp_path / "f.hcl").write_text('node_name = "file"')
    directory, file = f"-config-dir={tmp_path}/d", f"-config-file={tmp_path}/f.hcl"
    assert configured("-dev", directory, file).node_name == "file"
    assert configured("-dev", file, directory).node_name == "directory"


def test_secondary_by_flags_alone() -> None:
    config = configured(
        "-server", "-data-dir=/x", "-bind=127.0.0.1", "-datacenter=dc2",
        "-primary-gateway=gw:8443", "-primary-gateway", "10.0.0.1:443",
        '-hcl=primary_datacenter = "dc1"',
        '-hcl=ca_file="c" cert_file="c" key_file="k" '
        "connect { enabled = true enable_mesh_gateway_wan_federation = true }",
    )  # fmt: skip
    assert config.connect.primary_gateways == ("gw:8443", "10.0.0.1:443")
    assert config.connect.mesh_gateway_wan_federation


def test_mistakes_stop_the_start(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.hcl").write_text("servr = true")
    result = cli("agent", "-bind=127.0.0.1", "-data-dir=/x", f"-config-dir={tmp_path}")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        f'==> invalid config key servr\n  in {tmp_path}/a.hcl; did you mean "server"?\n'
    )


def test_several_mistakes_are_a_list(cli: Cli) -> None:
    result = cli("agent", "-bind=x", "-retry-max=3", "-bootstrap")
    assert result.code == 1
    assert result.err == (
        "==> 3 errors occurred:\n"
        "\t* data_dir cannot be empty\n"
        "\t  set data_dir, or start with -dev\n"
        "\t* 'bootstrap = true' requires 'server = true'\n"
        "\t  in -bootstrap; set server = true\n"
        '\t* bind_addr must be an IP address, not "x"\n'
        "\t  in -bind\n"
    )


def test_access_control_is_never_silently_open(cli: Cli) -> None:
    result = cli("agent", "-dev", "-hcl", "acl { enabled = true }")
    assert result.code == 1
    assert "acl.enabled = true is not supported by this release" in result.err


def test_what_this_release_does_not_do_is_refused_at_start(cli: Cli) -> None:
    result = cli("agent", "-bind=127.0.0.1", "-data-dir=/x", "-retry-join=provider=aws")
    assert result.code == 1
    assert result.err.startswith("==> discovery by provider is not in this release: provider=aws\n")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("-dev", "now"), "Unexpected extra arguments: ['now']"),
        (("-http-port=x",), 'invalid value "x" for flag -http-port: must be a whole number'),
        (("-config-format=toml",), 'invalid value "toml" for flag -config-format: must be hcl or'),
        (("-retry-interval=5",), 'invalid value "5" for flag -retry-interval: invalid duration'),
    ],
)
def test_wrong_command_lines_are_refused(args: tuple[str, ...], text: str, cli: Cli) -> None:
    result = cli("agent", *args)
    assert result.code == 1
    assert result.err.startswith(text)


def test_help_says_which_flags_do_nothing_and_which_add_up(cli: Cli) -> None:
    text = cli("agent", "-help").out
    assert "  -raft-protocol=VALUE\n      Belongs to Consul's storage. Ignored.\n" in text
    assert "  -node=VALUE\n      Name of this node. Default: the host's name.\n" in text
    assert (
        "  -recursor=VALUE\n      DNS servers asked about other domains. May be repeated.\n" in text
    )
