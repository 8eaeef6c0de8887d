"""Snapshots with the program as installed: saved, restored, imported, killed in the middle."""

import io
import json
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from isthmus.model.kv import DirEntry
from isthmus.store.snapshot import take_view, write_snapshot
from isthmus.store.store import Store
from isthmus.wire.consul_snapshot import INDEX
from support.agent_process import AgentProcess
from support.consul_snapshot import archive_of, state_of
from support.processes import ISTHMUS, eventually, shown_on_failure

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
ADDRESS = "127.41.7.1"
KEYS = 60_000
_STAGED = (
    "SELECT count(*) FROM kv WHERE k >= CAST('d/0001/' AS BLOB) AND k < CAST('d/00010' AS BLOB)"
)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    """A server that keeps its data."""
    agent = AgentProcess(
        tmp_path, ADDRESS, server=True, bootstrap=True, data_dir=str(tmp_path / "data")
    )
    try:
        agent.wait_until_ready()
        yield agent
    finally:
        agent.kill()


def isthmus(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ISTHMUS, *args[:2], f"-http-addr={ADDRESS}:8500", *args[2:]],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def put(agent: AgentProcess, key: str, value: bytes) -> None:
    assert agent.request("PUT", f"/v1/kv/{key}", value)[:2] == (200, b"true")


def get(agent: AgentProcess, key: str) -> bytes:
    return agent.request("GET", f"/v1/kv/{key}?raw")[1]


def large(path: Path) -> None:
    """A snapshot that takes a while to restore."""
    store = Store()
    store.fill("kv", (DirEntry(key=f"big/{number}", value=bytes(64)) for number in range(KEYS)))
    store.loaded(index=1000, generation=0, table_indexes=())
    with path.open("wb") as file:
        write_snapshot(
            take_view(store), file, io.BytesIO(), dc="dc1", cluster="", created="", modified=0
        )


def staged(folder: Path) -> int:
    """Rows of the generation to come that are on the disk."""
    connection = sqlite3.connect(f"file:{folder}/data/store/state.db?mode=ro", uri=True)
    try:
        return int(connection.execute(_STAGED).fetchone()[0])
    finally:
        connection.close()


def test_data_is_saved_and_restored_while_a_reader_waits(
    agent: AgentProcess, tmp_path: Path
) -> None:
    with shown_on_failure(agent.process):
        put(agent, "k", b"old")
        file = str(tmp_path / "s.snap")
        assert isthmus("snapshot", "save", file).stdout.startswith("Saved and verified snapshot")
        put(agent, "k", b"new")
        index = agent.request("GET", "/v1/kv/k")[2]["X-Consul-Index"]
        answers: list[bytes] = []
        reader = threading.Thread(
            target=lambda: answers.append(
                agent.request("GET", f"/v1/kv/k?raw&index={index}&wait=60s", timeout=70)[1]
            )
        )
        reader.start()
        done = isthmus("snapshot", "restore", file)
        assert (done.returncode, done.stdout) == (0, "Restored snapshot\n")
        reader.join(20)
        assert answers == [b"old"]
        assert list((tmp_path / "data" / "snapshots").iterdir()) == []


def test_restore_that_is_killed_in_the_middle_leaves_the_old_data(
    agent: AgentProcess, tmp_path: Path
) -> None:
    put(agent, "k", b"old")
    large(tmp_path / "large.snap")
    restoring = threading.Thread(
        target=isthmus, args=("snapshot", "restore", str(tmp_path / "large.snap"))
    )
    restoring.start()
    eventually(
        lambda: staged(tmp_path) > KEYS // 5, timeout=60, every=0.01, what="rows of the restore"
    )
    agent.kill()
    restoring.join(100)
    assert 0 < staged(tmp_path) < KEYS, "killed too late to show anything"
    agent.restart()
    agent.wait_until_ready()
    with shown_on_failure(agent.process):
        assert get(agent, "k") == b"old"
        assert agent.request("GET", "/v1/kv/big/?keys")[0] == 404
        eventually(lambda: staged(tmp_path) == 0, timeout=20, what="the rows to be removed")
        assert isthmus("snapshot", "restore", str(tmp_path / "large.snap")).returncode == 0
        assert agent.request("GET", "/v1/kv/k")[0] == 404
        assert len(agent.get("/v1/kv/big/?keys")) == KEYS


def test_snapshot_of_consul_is_taken_over(agent: AgentProcess, tmp_path: Path) -> None:
    path = tmp_path / "consul.snap"
    path.write_bytes(archive_of(state_of([(2, DirEntry(key="theirs", value=b"v")), (INDEX, {})])))
    with shown_on_failure(agent.process):
        done = isthmus("snapshot", "import", str(path))
        assert done.returncode == 0, done.stderr
        assert "Not imported: 1 of Index" in done.stdout
        assert get(agent, "theirs") == b"v"
        refused = isthmus("snapshot", "restore", str(path))
        assert refused.returncode == 1
        assert "isthmus snapshot import" in refused.stderr
        shown = subprocess.run(
            [*ISTHMUS, "snapshot", "inspect", "-format=json", str(path)],
            capture_output=True,
            check=True,
        )
        assert json.loads(shown.stdout)["Meta"]["Term"] == 2
