"""``isthmus config``: what the agent is asked, and what is said of its answers."""

import io
import json
from pathlib import Path

import pytest

from isthmus.cli.config import FILE_SIZE_MAX
from support.cli import Cli, FakeAgent

WEB_HCL = """
Kind     = "service-resolver"
Name     = "web"
ConnectTimeout = "5s"
Subsets = {
  "v1" = { Filter = "Service.Meta.version == v1" }
}
Failover { "*" { Datacenters = ["dc2"] } }
"""
WEB = {
    "ConnectTimeout": "5s",
    "Kind": "service-resolver",
    "Name": "web",
    "Subsets": {"v1": {"Filter": "Service.Meta.version == v1"}},
    "Failover": {"*": {"Datacenters": ["dc2"]}},
    "CreateIndex": 0,
    "ModifyIndex": 0,
}


@pytest.mark.parametrize(
    "text",
    [
        WEB_HCL,
        json.dumps(WEB),
        'kind = "service-resolver" name = "web" connect_timeout = "5s"\n'
        'subsets "v1" { filter = "Service.Meta.version == v1" }\n'
        'failover = [{ "*" = [{ datacenters = "dc2" }] }]',
    ],
)
def test_entry_of_a_file_is_written(cli: Cli, agent: FakeAgent, tmp_path: Path, text: str) -> None:
    agent.answer("/v1/config", b"true", method="PUT")
    path = tmp_path / "web"
    path.write_text(text)
    result = cli("config", "write", "-datacenter=dc2", str(path))
    written = "Config entry written: service-resolver/web\n"
    assert (result.code, result.out, result.err) == (0, written, "")
    method, target, query, body = agent.last
    assert (method, target, query) == ("PUT", "/v1/config", {"dc": ["dc2"]})
    assert json.loads(body) == WEB


def test_entry_of_standard_input_is_written(
    cli: Cli, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.answer("/v1/config", b"true", method="PUT")
    text = 'Kind = "mesh"\nTransparentProxy { MeshDestinationsOnly = true }'
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert cli("config", "write", "-").out == "Config entry written: mesh/mesh\n"
    assert json.loads(agent.last[3]) == {
        "Kind": "mesh",
        "TransparentProxy": {"MeshDestinationsOnly": True},
        "CreateIndex": 0,
        "ModifyIndex": 0,
    }


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "web.hcl"
    path.write_text('Kind = "service-defaults"\nName = "web"')
    return str(path)


def test_entry_that_has_changed_is_not_written(cli: Cli, agent: FakeAgent, file: str) -> None:
    agent.answer("/v1/config", b"false\n", method="PUT")
    result = cli("config", "write", "-cas", "-modify-index=7", file)
    assert (result.code, result.out) == (1, "")
    assert result.err == "Config entry not updated: service-defaults/web\n"
    assert agent.last[2] == {"cas": ["7"]}
    cli("config", "write", "-cas", file)
    assert agent.last[2] == {"cas": ["0"]}
    cli("config", "write", "-modify-index=7", file)
    assert agent.last[2] == {}


def test_refusal_of_the_agent_is_told(cli: Cli, agent: FakeAgent, file: str) -> None:
    agent.answer("/v1/config", b"no", status=500, method="PUT")
    result = cli("config", "write", file)
    text = "Error writing config entry service-defaults/web: Unexpected response code: 500 (no)\n"
    assert (result.code, result.err) == (1, text)


def test_wrong_command_lines_ask_nothing(cli: Cli, agent: FakeAgent) -> None:
    which = "Must provide exactly one positional argument to specify the config entry to write"
    for args, text in (
        (("write",), which),
        (("write", "a", "b"), which),
        (("read", "-name=web"), "Must specify the -kind parameter"),
        (("read", "-kind=mesh"), "Must specify the -name parameter"),
        (("list",), "Must specify the -kind parameter"),
        (("delete", "-name=web"), "Must specify the -kind parameter"),
        (("delete", "-kind=mesh"), "Must specify the -name parameter"),
    ):
        result = cli("config", *args)
        assert (result.code, result.out) == (1, "")
        assert result.err.startswith(f"{text}\n"), result.err
    assert agent.requests == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Kind =", "Failed to decode config entry input: line 1: "),
        ('{"Kind": }', "Failed to decode config entry input: "),
        ("{" * 5000, "Failed to decode config entry input: "),
        (
            'Name = "web"',
            "Failed to decode config entry input: Payload does not contain a kind/Kind key at "
            "the top level",
        ),
        (
            'Kind = "bogus"',
            "Failed to decode config entry input: invalid config entry kind: bogus",
        ),
        (
            'Kind = "mesh"\nFoo = 1',
            'Failed to decode config entry input: 1 error occurred:\n\t* invalid config key "Foo"',
        ),
        ("#" * (FILE_SIZE_MAX + 1), "Failed to load data: "),
        ("\udcff", "Failed to load data: "),
    ],
    ids=range(8),
)
def test_file_that_holds_no_entry_is_refused(
    cli: Cli, agent: FakeAgent, tmp_path: Path, text: str, fault: str
) -> None:
    path = tmp_path / "entry"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    result = cli("config", "write", str(path))
    assert (result.code, result.out, agent.requests) == (1, "", [])
    assert result.err.startswith(fault), result.err


def test_missing_file_is_told(cli: Cli, tmp_path: Path) -> None:
    missing = tmp_path / "nope"
    fault = f"Failed to load data: Failed to read file: {missing}: No such file or directory\n"
    assert cli("config", "write", str(missing)).err == fault
    assert cli("config", "write", "").err.startswith("Failed to load data: must specify")


def test_entry_is_read(cli: Cli, agent: FakeAgent) -> None:
    entry = {"Kind": "service-defaults", "Name": "a/b", "Meta": {"o": "Ω"}, "ModifyIndex": 4}
    agent.answer("/v1/config/service-defaults/a%2Fb", entry)
    result = cli("config", "read", "-kind", "service-defaults", "-name", "a/b", "-stale")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        '{\n    "Kind": "service-defaults",\n    "Name": "a/b",\n    "Meta": {\n'
        '        "o": "Ω"\n    },\n    "ModifyIndex": 4\n}\n'
    )
    assert agent.last[2] == {"stale": [""]}


def test_missing_entry_is_told(cli: Cli, agent: FakeAgent) -> None:
    text = b'Config entry not found for "mesh" / "x"'
    agent.answer("/v1/config/mesh/x", text, status=404)
    result = cli("config", "read", "-kind=mesh", "-name=x")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "Error reading config entry mesh/x: Unexpected response code: 404 "
        '(Config entry not found for "mesh" / "x")\n'
    )


def test_names_are_listed(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/config/service-defaults", [{"Name": "api"}, {"Name": "web"}])
    assert cli("config", "list", "-kind=service-defaults").out == "api\nweb\n"
    agent.answer("/v1/config/mesh", [{"Kind": "mesh"}])
    assert cli("config", "list", "-kind=mesh").out == "mesh\n"
    agent.answer("/v1/config/foo", b"invalid config entry kind: foo", status=500)
    result = cli("config", "list", "-kind=foo")
    assert (result.code, result.err) == (
        1,
        'Error listing config entries for kind "foo": Unexpected response code: 500 '
        "(invalid config entry kind: foo)\n",
    )


def test_entry_is_deleted(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/config/mesh/mesh", {}, method="DELETE")
    result = cli("config", "delete", "-kind=mesh", "-name=mesh")
    assert (result.code, result.out) == (0, "Config entry deleted: mesh/mesh\n")
    agent.answer("/v1/config/foo/x", b"no", status=400, method="DELETE")
    result = cli("config", "delete", "-kind=foo", "-name=x")
    text = "Error deleting config entry foo/x: Unexpected response code: 400 (no)\n"
    assert (result.code, result.err) == (1, text)
