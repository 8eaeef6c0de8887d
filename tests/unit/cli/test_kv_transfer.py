"""kv export and import: Consul's format, both ways."""

import io
import json
from pathlib import Path

import pytest

from isthmus.model.kv import KV_SET, DirEntry, KVSRequest
from support.cli import Cli, FakeAgent
from support.live_agent import live_agent

ENTRIES = [
    {"key": "a", "flags": 3, "value": "AP8="},
    {"key": "a/é <&>", "flags": 0, "value": ""},
]


def test_keys_under_a_prefix_are_printed(cli: Cli, agent: FakeAgent) -> None:
    agent.answer(
        "/v1/kv/a",
        [
            {"Key": "a", "Flags": 3, "Value": "AP8=", "LockIndex": 1, "ModifyIndex": 9},
            {"Key": "a/é <&>", "Flags": 0, "Value": None},
        ],
    )
    result = cli("kv", "export", "-datacenter=dc2", "/a")
    assert result.code == 0
    assert json.loads(result.out) == ENTRIES
    assert result.out.startswith('[\n\t{\n\t\t"key": "a",\n')
    assert agent.last[2] == {"recurse": [""], "dc": ["dc2"]}
    assert cli("kv", "export").out == "[]\n"


@pytest.mark.parametrize("from_", ["argument", "file", "stdin"])
def test_keys_are_written_in_order(
    from_: str, cli: Cli, agent: FakeAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = json.dumps(ENTRIES)
    file = tmp_path / "kv.json"
    file.write_text(text)
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    for path in ("/v1/kv/a", "/v1/kv/a/%C3%A9%20%3C%26%3E"):
        agent.answer(path, b"true", method="PUT")
    given = {"argument": text, "file": f"@{file}", "stdin": "-"}[from_]
    result = cli("kv", "import", given)
    assert (result.code, result.out) == (0, "Imported: a\nImported: a/é <&>\n")
    assert [(path, query, body) for _, path, query, body in agent.requests] == [
        ("/v1/kv/a", {"flags": ["3"]}, b"\x00\xff"),
        ("/v1/kv/a/%C3%A9%20%3C%26%3E", {}, b""),
    ]


@pytest.mark.parametrize("prefix", ["sub", "sub/", "/sub//"])
def test_prefix_is_put_before_each_key(prefix: str, cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/kv/sub/a", b"true", method="PUT")
    result = cli("kv", "import", f"-prefix={prefix}", json.dumps(ENTRIES[:1]))
    assert result.out == "Imported: sub/a\n"


def test_what_is_exported_can_be_imported(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    values = {"a": b"\x00\xff", "a/b": b"", "é <&>": b"x" * 100_000}
    with live_agent() as live:
        monkeypatch.setenv("CONSUL_HTTP_ADDR", live.address)
        for flags, (key, value) in enumerate(values.items()):
            entry = DirEntry(key=key, value=value, flags=flags)
            live.apply(KVSRequest(op=KV_SET, dir_ent=entry))
        file = tmp_path / "kv.json"
        file.write_bytes(cli("kv", "export").raw)
        assert cli("kv", "delete", "-recurse", "").code == 0
        assert cli("kv", "import", f"@{file}").code == 0
        rows = live.server.store.kv.list("").value
    assert {row.key: row.value or b"" for row in rows} == values
    assert [row.flags for row in rows] == [0, 1, 2]


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((), "Error! Missing DATA argument"),
        (("",), "Error! Empty DATA argument"),
        (("a", "b"), "Error! Too many arguments (expected 1, got 2)"),
        (("@/no/such/file",), "Error! Failed to read file: /no/such/file: No such file or dir"),
        (("x",), "Cannot unmarshal data: "),
        (("{}",), "Cannot unmarshal data: it is no list"),
        (("[1]",), "Cannot unmarshal data: an entry has no key"),
        (('[{"key":"a","flags":-1}]',), "Cannot unmarshal data: the flags of a are no number"),
        (('[{"key":"a","value":"%"}]',), "Error base 64 decoding value for key a: "),
    ],
)
def test_what_cannot_be_imported_is_refused_before_anything_is_written(
    args: tuple[str, ...], text: str, cli: Cli, agent: FakeAgent
) -> None:
    result = cli("kv", "import", *args)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(text)
    assert agent.requests == []


def test_failures_are_said(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/kv/a", b"no", status=500, method="PUT")
    result = cli("kv", "import", json.dumps(ENTRIES))
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(
        "Error! Failed writing data for key a: Unexpected response code: 500 (no)"
    )
    agent.answer("/v1/kv/", [{"Bad": 1}])
    assert cli("kv", "export").err.startswith(
        "Error querying Consul agent: the answer is no list of keys"
    )
    assert cli("kv", "export", "a", "b").err.startswith("Too many arguments (expected 1, got 2)")
