"""kv get, put, delete."""

import base64
from pathlib import Path
from typing import Any

import pytest

from support.cli import Cli, FakeAgent


def pair(key: str, value: bytes, **more: Any) -> dict[str, Any]:
    encoded = base64.b64encode(value).decode()
    numbers = {"Flags": 0, "LockIndex": 0, "CreateIndex": 5, "ModifyIndex": 9}
    return {"Key": key, "Value": encoded, **numbers, **more}


def test_value_is_printed_as_it_is(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/kv/a/b%20c", [pair("a/b c", b"hello")])
    result = cli("kv", "get", "/a/b c")
    assert (result.code, result.out) == (0, "hello\n")
    assert cli("kv", "get", "-base64", "a/b c").out == "aGVsbG8=\n"


def test_missing_key_exits_1(cli: Cli, agent: FakeAgent) -> None:
    result = cli("kv", "get", "none")
    assert (result.code, result.out, result.err) == (1, "", "Error! No key exists at: none\n")


def test_detailed_value(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/kv/a", [pair("a", b"v")])
    assert cli("kv", "get", "-detailed", "a").out == (
        "CreateIndex      5\n"
        "Flags            0\n"
        "Key              a\n"
        "LockIndex        0\n"
        "ModifyIndex      9\n"
        "Session          -\n"
        "Value            v\n"
    )


def test_prefix_gives_keys_and_values_or_keys(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/kv/p", [pair("p/1", b"x"), pair("p/2", b"", Value=None)])
    assert cli("kv", "get", "-recurse", "p").out == "p/1:x\np/2:\n"
    assert agent.last[2] == {"recurse": [""]}
    agent.answer("/v1/kv/", ["p/"])
    assert cli("kv", "get", "-keys").out == "p/\n"
    assert agent.last[2] == {"keys": [""], "separator": ["/"]}


def test_wrong_number_of_arguments(cli: Cli) -> None:
    assert cli("kv", "get").err.startswith("Error! Missing KEY argument")
    late = cli("kv", "get", "a", "-http-addr=x", "-token=y")
    assert late.code == 1
    assert late.err.startswith(
        "Too many arguments (expected 1, got 3)\nFlags stand before arguments; "
    )


def test_put_writes(cli: Cli, agent: FakeAgent, tmp_path: Path) -> None:
    agent.answer("/v1/kv/a", b"true", method="PUT")
    result = cli("kv", "put", "-flags=42", "a", "value")
    assert (result.code, result.out) == (0, "Success! Data written to: a\n")
    assert agent.last == ("PUT", "/v1/kv/a", {"flags": ["42"]}, b"value")
    (tmp_path / "f").write_bytes(b"\x00\xff")
    cli("kv", "put", "a", f"@{tmp_path}/f")
    assert agent.last[3] == b"\x00\xff"
    cli("kv", "put", "-base64", "a", "aGk=")
    assert agent.last[3] == b"hi"
    cli("kv", "put", "a")
    assert agent.last[3] == b""


def test_put_in_another_datacenter(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/kv/a", b"true", method="PUT")
    cli("kv", "put", "-datacenter", "dc3", "a", "x")
    assert agent.last[2] == {"dc": ["dc3"]}


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("-cas", "-modify-index=7", "a", "x"), "Error! Did not write to a: CAS failed\n"),
        (
            ("-cas", "a", "x"),
            "Error! Did not write to a: CAS performed with index=0 and key already exists.\n",
        ),
        (("-acquire", "-session=s", "a"), "Error! Did not acquire lock\n"),
        (("-release", "-session=s", "a"), "Error! Did not release lock\n"),
        (("/a", "x"), "Error! Invalid key. Key must not begin with a '/': /a\n"),
        (("-acquire", "a", "x"), "Error! Missing -session (required with -acquire and -release)\n"),
        (("a", "@/none"), "Error! Failed to read file: /none: No such file or directory\n"),
        (("-base64", "a", "?"), "Error! Cannot base 64 decode data: "),
        ((), "Error! Missing KEY argument\n"),
    ],
)
def test_put_that_fails_says_why(
    args: tuple[str, ...], text: str, cli: Cli, agent: FakeAgent
) -> None:
    agent.answer("/v1/kv/a", b"false", method="PUT")
    result = cli("kv", "put", *args)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(text)


def test_delete(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/kv/a", b"true", method="DELETE")
    assert cli("kv", "delete", "a").out == "Success! Deleted key: a\n"
    result = cli("kv", "delete", "-recurse", "a")
    assert result.out == "Success! Deleted keys with prefix: a\n"
    assert agent.last[2] == {"recurse": [""]}
    agent.answer("/v1/kv/a", b"false", method="DELETE")
    result = cli("kv", "delete", "-cas", "-modify-index=3", "a")
    assert (result.code, result.err) == (1, "Error! Did not delete key a: CAS failed\n")
    assert cli("kv", "delete", "-cas", "-recurse", "a").err.startswith("Cannot specify both")
    assert cli("kv", "delete").err.startswith("Error! Missing KEY argument")


def test_detailed_prefix_parts_its_pairs_by_blank_lines(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/kv/p", [pair("p/1", b"x"), pair("p/2", b"y", Session="s")])
    out = cli("kv", "get", "-recurse", "-detailed", "p").out
    assert [part.splitlines()[-1].split()[-1] for part in out.split("\n\n")] == ["x", "y"]
    assert "Session          s" in out


def test_binary_values_are_not_changed(agent: FakeAgent, cli: Cli) -> None:
    agent.answer("/v1/kv/a", [pair("a", b"\x00\xff")])
    assert cli("kv", "get", "a").raw == b"\x00\xff\n"


def test_locks_are_taken_and_given_with_a_session(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/kv/a", b"true", method="PUT")
    taken = cli("kv", "put", "-acquire", "-session=s1", "a", "x")
    assert (taken.code, taken.out) == (0, "Success! Lock acquired on: a\n")
    assert agent.last[2] == {"acquire": ["s1"]}
    given = cli("kv", "put", "-release", "-session=s1", "-flags=3", "a")
    assert given.out == "Success! Lock released on: a\n"
    assert agent.last[2] == {"release": ["s1"], "flags": ["3"]}
    cli("kv", "put", "-cas", "-modify-index=0", "a", "x")
    assert agent.last[2] == {"cas": ["0"]}


def test_unreachable_agent_is_an_error_of_every_command(cli: Cli) -> None:
    nowhere = "-http-addr=127.0.0.1:1"
    for args, text in (
        (("get", nowhere, "a"), "Error querying Consul agent: no agent answers"),
        (("put", nowhere, "a", "x"), "Error! Failed writing data: no agent answers"),
        (("delete", nowhere, "a"), "Error! Did not delete key a: no agent answers"),
    ):
        result = cli("kv", *args)
        assert result.code == 1
        assert result.err.startswith(text)


def test_index_and_cas_belong_together_when_deleting(cli: Cli) -> None:
    assert cli("kv", "delete", "-cas", "a").err.startswith("Must specify -modify-index with -cas!")
    alone = cli("kv", "delete", "-modify-index=1", "a")
    assert alone.err.startswith("Cannot specify -modify-index without -cas!")
