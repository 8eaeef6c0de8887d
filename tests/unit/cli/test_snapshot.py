"""``isthmus snapshot``: output, exit codes, and files that are right or not there."""

import errno
import io
import json
from pathlib import Path
from typing import Any

import pytest

from isthmus.cli.client import AgentClient, parse_address
from isthmus.cli.snapshot import (
    LOCK_KEY,
    RETRY_INTERVAL,
    ROUNDS_MAX,
    TYPE_NAMES,
    Schedule,
    Turn,
    format_size,
    read_contents,
    save_dated,
    thin_out,
)
from isthmus.model.config_entry import UPSERT, ConfigEntryRequest, ServiceConfigEntry
from isthmus.model.kv import KV_SET, DirEntry, KVSRequest
from isthmus.store.snapshot import take_view, write_snapshot
from isthmus.store.store import SCHEMAS
from isthmus.wire.archive import UnreadableSnapshot
from support.cli import Cli, FakeAgent
from support.consul_snapshot import archive_of, state_of
from support.stores import Driven

PATH = "/v1/snapshot"
KEY = f"/v1/kv/{LOCK_KEY}"


def snapshot(*keys: str, driven: Driven | None = None) -> bytes:
    driven = driven or Driven()
    for key in keys or ("a", "web/x/1", "web/x/2", "web/y"):
        driven.execute(KVSRequest(op=KV_SET, dir_ent=DirEntry(key=key, value=b"v")))
    out = io.BytesIO()
    write_snapshot(
        take_view(driven.store),
        out,
        io.BytesIO(),
        dc="dc1",
        cluster="uuid",
        created="2026-01-02T03:04:05+00:00",
        modified=0,
    )
    return out.getvalue()


def consul() -> bytes:
    rows: list[tuple[int, Any]] = [(2, DirEntry(key="a/b")), (2, DirEntry(key="a/c")), (99, {})]
    return archive_of(state_of(rows))


def test_saved_file_is_verified(cli: Cli, agent: FakeAgent, tmp_path: Path) -> None:
    agent.answer(PATH, snapshot())
    result = cli("snapshot", "save", "-stale", "-datacenter=dc2", str(tmp_path / "s.snap"))
    assert (result.code, result.out) == (0, "Saved and verified snapshot to index 5\n")
    assert (tmp_path / "s.snap").read_bytes() == snapshot()
    assert (tmp_path / "s.snap").stat().st_mode & 0o777 == 0o600
    assert agent.last[2] == {"dc": ["dc2"], "stale": [""]}


def test_snapshot_of_a_consul_agent_is_saved_and_verified_too(
    cli: Cli, agent: FakeAgent, tmp_path: Path
) -> None:
    agent.answer(PATH, consul())
    result = cli("snapshot", "save", str(tmp_path / "s.snap"))
    assert result.out == "Saved and verified snapshot to index 18\n"


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (snapshot()[:-9], 200, "Error verifying snapshot file: failed to decompress snapshot"),
        (b"<html>", 200, "Error verifying snapshot file: failed to decompress snapshot"),
        (b"No cluster leader", 500, "Error saving snapshot: Unexpected response code: 500 (No c"),
    ],
)
def test_failed_save_leaves_the_old_file(
    cli: Cli, agent: FakeAgent, tmp_path: Path, body: bytes, status: int, text: str
) -> None:
    (tmp_path / "s.snap").write_bytes(b"old")
    agent.answer(PATH, body, status=status)
    result = cli("snapshot", "save", str(tmp_path / "s.snap"))
    assert result.code == 1
    assert result.err.startswith(text)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_file_that_cannot_be_written_is_told(cli: Cli, agent: FakeAgent, tmp_path: Path) -> None:
    agent.answer(PATH, snapshot())
    result = cli("snapshot", "save", str(tmp_path / "none" / "s.snap"))
    assert result.code == 1
    path = tmp_path / "none" / "s.snap"
    assert result.err == f"Error saving snapshot: {path}: No such file or directory\n"


def test_full_disk_is_not_taken_for_an_agent_that_is_away(agent: FakeAgent, tmp_path: Path) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any, /) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    agent.answer(PATH, snapshot())
    client = AgentClient(parse_address(agent.address))
    with pytest.raises(OSError, match="No space left"):  # Not that no agent answers.
        client.download(PATH, Full())


def test_restore_sends_the_file(cli: Cli, agent: FakeAgent, tmp_path: Path) -> None:
    (tmp_path / "s.snap").write_bytes(snapshot())
    agent.answer(PATH, b"", method="PUT")
    result = cli("snapshot", "restore", "-datacenter", "dc2", str(tmp_path / "s.snap"))
    assert (result.code, result.out) == (0, "Restored snapshot\n")
    assert agent.last == ("PUT", PATH, {"dc": ["dc2"]}, snapshot())


def test_refused_restore_says_why(cli: Cli, agent: FakeAgent, tmp_path: Path) -> None:
    (tmp_path / "s.snap").write_bytes(b"x")
    agent.answer(PATH, b"failed to decompress snapshot: unexpected EOF", method="PUT", status=500)
    result = cli("snapshot", "restore", str(tmp_path / "s.snap"))
    assert (result.code, result.err) == (
        1,
        "Error restoring snapshot: Unexpected response code: 500 "
        "(failed to decompress snapshot: unexpected EOF)\n",
    )
    missing = cli("snapshot", "restore", str(tmp_path / "none"))
    assert missing.err.startswith("Error opening snapshot file: ")


@pytest.mark.parametrize("command", ["save", "restore", "inspect", "import"])
def test_one_file_is_to_be_named(cli: Cli, command: str) -> None:
    assert "Missing FILE argument" in cli("snapshot", command).err
    assert "Too many arguments (expected 1, got 2)" in cli("snapshot", command, "a", "b").err


def test_inspect_shows_what_a_snapshot_holds(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "s.snap"
    file.write_bytes(snapshot())
    result = cli("snapshot", "inspect", "-kvdetails", str(file))
    head, types, keys = result.out.split("\n\n")
    assert head.splitlines()[1:4] == [
        f" Size            {file.stat().st_size}",
        " Index           5",
        " Datacenter      dc1",
    ]
    assert types.splitlines()[0] == " Type       Count      Size"
    assert [line.split()[:2] for line in types.splitlines()[2:]] == [
        ["KVS", "4"],
        ["----", "----"],
        ["Total", types.split()[-1]],
    ]
    assert {tuple(line.split()[:2]) for line in keys.splitlines()[2:5]} == {
        ("a", "1"),
        ("web/x", "2"),
        ("web/y", "1"),
    }


def test_inspect_names_every_table_as_consul_does(cli: Cli, tmp_path: Path) -> None:
    driven = Driven()
    entry = ServiceConfigEntry(name="web")
    driven.execute(ConfigEntryRequest(op=UPSERT, entry=entry))
    (tmp_path / "s.snap").write_bytes(snapshot(driven=driven))
    shown = json.loads(cli("snapshot", "inspect", "-format=json", str(tmp_path / "s.snap")).out)
    found = {one["Name"]: one["Count"] for one in shown["Stats"]}
    assert found == {"ConfigEntry": 1, "KVS": 4}
    assert set(TYPE_NAMES) == {schema.name for schema in SCHEMAS}


def test_inspect_counts_keys_as_deep_as_asked(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "s.snap").write_bytes(snapshot())
    flags = ("-kvdetails", "-kvdepth=1", "-kvfilter=web", "-format=json")
    shown = json.loads(cli("snapshot", "inspect", *flags, str(tmp_path / "s.snap")).out)
    assert [(one["Name"], one["Count"]) for one in shown["StatsKV"]] == [("web", 3)]
    assert shown["Meta"]["Index"] == 5
    assert shown["TotalSize"] == shown["Stats"][0]["Sum"]
    assert cli("snapshot", "inspect", "-kvdetails", "-kvdepth=0", "f").code == 1
    assert "Unknown format: xml" in cli("snapshot", "inspect", "-format=xml", "f").err


def test_inspect_shows_a_snapshot_of_consul_as_consul_does(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "c.snap").write_bytes(consul())
    result = cli("snapshot", "inspect", "-kvdetails", "-kvdepth=1", str(tmp_path / "c.snap"))
    lines = [line.split() for line in result.out.splitlines()]
    assert ["ID", "2-18-1637"] in lines
    assert ["Term", "2"] in lines
    assert ["KVS", "2"] in [line[:2] for line in lines]
    assert ["type", "99", "1"] in [line[:3] for line in lines]
    assert ["a", "2"] in [line[:2] for line in lines]


def test_inspect_refuses_what_is_no_snapshot(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"text")
    result = cli("snapshot", "inspect", str(tmp_path / "f"))
    assert (result.code, result.err) == (
        1,
        "Error reading snapshot: failed to decompress snapshot: gzip: invalid header\n",
    )


def test_import_reports_what_was_taken_over(cli: Cli, agent: FakeAgent, tmp_path: Path) -> None:
    (tmp_path / "c.snap").write_bytes(consul())
    left = {"Kind": "Session", "Found": 2, "Imported": 0, "Kept": 0, "Refused": 0,
            "Names": ["s1", "s2"], "Reason": "this release has no sessions"}  # fmt: skip
    taken = {**left, "Kind": "KVS", "Imported": 2, "Names": None, "Reason": ""}
    agent.answer("/v1/isthmus/snapshot/import", {"Index": 9, "Kinds": [taken, left]}, method="PUT")
    result = cli("snapshot", "import", "-keep", str(tmp_path / "c.snap"))
    assert result.code == 0
    assert [line.split() for line in result.out.splitlines()] == [
        ["Type", "Found", "Imported", "Kept", "Refused"],
        ["KVS", "2", "2", "0", "0"],
        ["Session", "2", "0", "0", "0"],
        [],
        [
            "Not",
            "imported:",
            "2",
            "of",
            "Session,",
            "this",
            "release",
            "has",
            "no",
            "sessions:",
            "s1,",
            "s2",
        ],
    ]
    assert agent.last[2] == {"keep": [""]}
    assert agent.last[3] == consul()
    refused = {**left, "Refused": 1, "Reason": "wrong"}
    agent.answer("/v1/isthmus/snapshot/import", {"Kinds": [refused]}, method="PUT")
    assert cli("snapshot", "import", str(tmp_path / "c.snap")).code == 1
    assert agent.last[2] == {}


def test_one_snapshot_of_the_agent_is_dated_and_old_ones_go(
    cli: Cli, agent: FakeAgent, tmp_path: Path
) -> None:
    agent.answer(PATH, snapshot())
    for number in range(3):
        (tmp_path / f"isthmus-dc1-2025010{number}T000000Z-{number:020d}.snap").touch()
    (tmp_path / "other.snap").touch()
    flags = ("-interval=0", "-retain=2", f"-local-path={tmp_path}")
    result = cli("snapshot", "agent", *flags)
    name = "isthmus-dc1-20260102T030405Z-00000000000000000005.snap"
    assert result.code == 0
    assert result.out.splitlines()[0] == f"Saved and verified snapshot {tmp_path / name}"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "isthmus-dc1-20250102T000000Z-00000000000000000002.snap",
        name,
        "other.snap",
    ]
    assert [one[1] for one in agent.requests] == [PATH]


def test_agent_that_cannot_save_says_so(cli: Cli, agent: FakeAgent, tmp_path: Path) -> None:
    agent.answer(PATH, b"No cluster leader", status=500)
    result = cli("snapshot", "agent", "-interval=0", f"-local-path={tmp_path}")
    assert result.code == 1
    assert "No cluster leader" in result.err
    assert list(tmp_path.iterdir()) == []
    wrong = cli("snapshot", "agent", "-interval=0", "-retain=-1")
    assert "must not be negative" in wrong.err
    agent.answer(PATH, consul())
    assert cli("snapshot", "agent", "-interval=0", f"-local-path={tmp_path}").code == 1
    assert list(tmp_path.iterdir()) == []


class FakeKey:
    """A key that several agents see."""

    def __init__(self) -> None:
        self.index, self.value = 0, b""

    def client(self) -> AgentClient:
        key = self

        class Client(AgentClient):
            def get_list(self, path: str, query: Any = None) -> list[Any]:
                return [{"ModifyIndex": key.index}] if key.index else []

            def request(
                self, method: str, path: str, query: Any = None, body: bytes | None = None
            ) -> tuple[int, bytes]:
                if method == "DELETE":
                    if query["cas"] == str(key.index):
                        key.index, key.value = 0, b""
                    return 200, b"true"
                return 200, key.value

            def put(self, path: str, query: Any = None, body: bytes | None = None) -> bytes:
                assert path == KEY
                if query["cas"] != key.index or body == key.value:
                    return b"false"
                key.index, key.value = key.index + 1, body or b""
                return b"true"

        return Client(parse_address("127.0.0.1:1"))


def test_one_of_several_agents_saves_and_another_takes_over_when_it_is_gone() -> None:
    key = FakeKey()
    first, second = (Turn(key.client(), LOCK_KEY, name) for name in ("a", "b"))
    for _ in range(5):
        assert first.take()
        assert not second.take()
    taken = [second.take() for _ in range(ROUNDS_MAX + 2)]
    assert taken == [False] * (ROUNDS_MAX - 1) + [True] * 3
    assert not first.take()


def test_only_one_of_those_that_wait_takes_over() -> None:
    key = FakeKey()
    turns = [Turn(key.client(), LOCK_KEY, name) for name in ("a", "b", "c")]
    assert turns[0].take()
    takers = [turn.take() for _ in range(ROUNDS_MAX + 1) for turn in turns[1:]]
    assert takers.count(True) == 1


def test_agent_that_gave_up_saves_again_only_when_nobody_else_does() -> None:
    key = FakeKey()
    first, second = (Turn(key.client(), LOCK_KEY, name) for name in ("a", "b"))
    assert first.take()
    first.give_up()
    taken = [(first.take(), second.take()) for _ in range(ROUNDS_MAX + 2)]
    assert taken[-1] == (False, True)
    assert not any(ours for ours, _ in taken)
    second.give_up()
    assert [first.take() for _ in range(ROUNDS_MAX + 1)] == [False] * ROUNDS_MAX + [True]


def test_agent_that_stops_leaves_its_turn_to_the_next() -> None:
    key = FakeKey()
    first, second = (Turn(key.client(), LOCK_KEY, name) for name in ("a", "b"))
    first.end()
    assert first.take()
    second.end()  # Not its own.
    assert not second.take()
    first.end()
    assert second.take()
    assert not first.take()


def test_failed_save_is_tried_again_soon_then_left_to_another_agent(
    agent: FakeAgent, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = FakeKey()
    turn = Turn(key.client(), LOCK_KEY, "a")
    client = AgentClient(parse_address(agent.address))
    schedule = Schedule(client, turn, tmp_path, retain=2, interval=3600.0, failures_max=3)
    agent.answer(PATH, b"No cluster leader", status=500)
    assert [schedule.round() for _ in range(2)] == [RETRY_INTERVAL] * 2
    assert key.index == 1
    agent.answer(PATH, snapshot())
    assert (schedule.round(), schedule.failure_count) == (3600.0, 0)
    agent.answer(PATH, b"No cluster leader", status=500)
    waits = [schedule.round() for _ in range(4)]
    assert waits == [RETRY_INTERVAL, RETRY_INTERVAL, 3600.0, 3600.0]
    said = capsys.readouterr()
    assert "3 failures, another agent may save" in said.err
    assert said.out.endswith("Another agent saves snapshots; waiting\n")
    assert key.index == 2


def test_agent_that_cannot_ask_whose_turn_it_is_saves_nothing(
    agent: FakeAgent, tmp_path: Path
) -> None:
    client = AgentClient(parse_address(agent.address))
    agent.answer(KEY, b"No cluster leader", status=500)
    agent.answer(PATH, snapshot())
    schedule = Schedule(client, Turn(client, LOCK_KEY, "a"), tmp_path, retain=2, interval=60.0)
    assert [schedule.round() for _ in range(2)] == [RETRY_INTERVAL] * 2
    assert list(tmp_path.iterdir()) == []


def test_short_interval_is_not_waited_beyond(agent: FakeAgent, tmp_path: Path) -> None:
    agent.answer(PATH, b"No cluster leader", status=500)
    client = AgentClient(parse_address(agent.address))
    assert Schedule(client, None, tmp_path, retain=2, interval=2.0).round() == 2.0


def test_retained_files_are_the_newest(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"isthmus-{number}.snap").touch()
    assert thin_out(tmp_path, 0) == []
    assert [path.name for path in thin_out(tmp_path, 3)] == ["isthmus-0.snap"]
    assert thin_out(tmp_path, 3) == []


def test_file_in_both_forms_at_once_is_refused() -> None:
    with pytest.raises(UnreadableSnapshot):
        read_contents(io.BytesIO(snapshot()[:-100]))


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0"), (1, "1B"), (1023, "1023B"), (1024, "1KB"), (1536, "1.5KB"), (2**40 * 3, "3TB")],
)
def test_sizes_are_shown_as_consul_shows_them(size: int, text: str) -> None:
    assert format_size(size) == text


def test_dated_file_is_named_by_moment_and_index(agent: FakeAgent, tmp_path: Path) -> None:
    agent.answer(PATH, snapshot("k"))
    path = save_dated(AgentClient(parse_address(agent.address)), tmp_path)
    assert path.name == "isthmus-dc1-20260102T030405Z-00000000000000000002.snap"
