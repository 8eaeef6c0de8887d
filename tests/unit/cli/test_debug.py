"""``isthmus debug``: what is in the archive, and what is refused."""

import json
import tarfile
from pathlib import Path

import pytest

from isthmus.cli import debug
from isthmus.cli.client import AgentClient, parse_address
from isthmus.cli.debug import Capture
from support.cli import Cli, FakeAgent

SELF = {"Config": {"Version": "1.10.11"}, "DebugConfig": {"EnableDebug": True}}


@pytest.fixture
def answering(agent: FakeAgent) -> FakeAgent:
    """An agent that tells all there is."""
    for path, body in (
        ("/v1/agent/self", SELF),
        ("/v1/agent/host", {"Memory": {"total": 1}}),
        ("/v1/agent/members", [{"Name": "a"}]),
        ("/v1/agent/monitor", b"one\ntwo\n"),
        ("/v1/agent/metrics/stream", b'{"Timestamp":"x"}\n'),
        ("/debug/pprof/stacks", b"thread\n"),
        ("/debug/pprof/memory", b"1 8 int\n"),
        ("/debug/pprof/profile", b"a;b 7\n"),
    ):
        agent.answer(path, body)
    return agent


def capture(agent: FakeAgent, folder: Path, *targets: str) -> Capture:
    """Capture for three looks of no length."""
    folder.mkdir()
    moments = iter([0.0, 1.0, 2.0, 3.0, 999.0])
    made = Capture(
        AgentClient(parse_address(agent.address)),
        folder,
        targets,
        interval=0.0,
        duration=10.0,
        clock=lambda: next(moments),
    )
    made.run()
    return made


def test_everything_is_captured(answering: FakeAgent, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    assert capture(answering, folder, *debug.TARGETS).problems == []
    assert json.loads((folder / "agent.json").read_text()) == SELF
    assert json.loads((folder / "members.json").read_text()) == [{"Name": "a"}]
    assert json.loads((folder / "host.json").read_text()) == {"Memory": {"total": 1}}
    assert (folder / "profile.folded").read_bytes() == b"a;b 7\n"
    looks = [path for path in folder.iterdir() if path.is_dir()]
    assert (looks[0] / "stacks.txt").read_bytes() == b"thread\n"
    assert (looks[0] / "memory.txt").read_bytes() == b"1 8 int\n"
    profiled = next(one for one in answering.requests if one[1] == "/debug/pprof/profile")
    assert profiled[2] == {"seconds": ["10"]}


def test_streams_are_written_while_they_come(answering: FakeAgent, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    capture(answering, folder, "logs", "metrics")
    assert {path.name for path in folder.iterdir()} == {"isthmus.log", "metrics.json"}
    watched = next(one for one in answering.requests if one[1] == "/v1/agent/monitor")
    assert watched[2] == {"loglevel": ["TRACE"]}


def test_what_cannot_be_had_is_told_and_the_rest_is_captured(
    answering: FakeAgent, tmp_path: Path
) -> None:
    answering.answer("/v1/agent/host", b"no", status=403)
    folder = tmp_path / "d"
    made = capture(answering, folder, "host", "members")
    assert made.problems == ["host: Unexpected response code: 403 (no)"]
    assert [path.name for path in folder.iterdir()] == ["members.json"]


def test_archive_holds_the_files_and_the_folder_is_gone(
    cli: Cli, answering: FakeAgent, tmp_path: Path
) -> None:
    result = cli("debug", "-capture=agent", "-capture=members", f"-output={tmp_path}/d")
    assert result.code == 0
    assert result.out.splitlines()[-1] == f"Saved debug archive: {tmp_path}/d.tar.gz"
    assert not (tmp_path / "d").exists()
    with tarfile.open(tmp_path / "d.tar.gz") as tar:
        assert sorted(tar.getnames()) == ["d", "d/agent.json", "d/index.json", "d/members.json"]
        index = tar.extractfile("d/index.json")
        assert index is not None
        told = json.load(index)
    assert (told["AgentVersion"], told["Targets"]) == ("1.10.11", ["agent", "members"])


def test_files_stay_as_they_are_without_an_archive(
    cli: Cli, answering: FakeAgent, tmp_path: Path
) -> None:
    result = cli("debug", "-capture=host", f"-output={tmp_path}/d", "-archive=false")
    assert result.code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"d"}
    assert {path.name for path in (tmp_path / "d").iterdir()} == {"host.json", "index.json"}


def test_agent_without_enable_debug_has_no_profile(
    cli: Cli, answering: FakeAgent, tmp_path: Path
) -> None:
    answering.answer("/v1/agent/self", {**SELF, "DebugConfig": {"EnableDebug": False}})
    result = cli("debug", "-capture=pprof", "-capture=host", f"-output={tmp_path}/d")
    assert result.code == 0
    assert "enable_debug" in result.err
    assert not [one for one in answering.requests if one[1].startswith("/debug")]


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("-duration=5s",), "duration must be longer than 10s"),
        (("-interval=1s",), "interval must be longer than 5s"),
        (("-duration=10s", "-interval=20s"), "duration (10s) must be longer than interval (20s)"),
        (("-capture=heap",), "target not found: heap"),
    ],
)
def test_what_is_refused(
    cli: Cli, answering: FakeAgent, tmp_path: Path, args: tuple[str, ...], text: str
) -> None:
    result = cli("debug", f"-output={tmp_path}/d", *args)
    assert result.code == 1
    assert result.err.startswith(f"Capture validation failed: {text}")
    assert answering.requests == []
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_there_is_left_alone(cli: Cli, answering: FakeAgent, tmp_path: Path) -> None:
    result = cli("debug", "-capture=host", f"-output={tmp_path}")
    assert result.code == 1
    assert "output directory already exists" in result.err
