"""What the agent's process loads, and how it says that it cannot start."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from isthmus.agent.process import run
from isthmus.config.model import AddressConfig, AgentConfig, LogConfig, PortConfig

ALLOWED = {
    "cryptography",  # AES-GCM of gossip, and certificates.
    "cython_runtime",
    "httptools",
    "isthmus",
    "msgpack",
    "msgspec",
    "sortedcontainers",
    "typing_extensions",
}
SLOW = {"sqlite3", "rich", "prometheus_client", "urllib.request", "xml", "multiprocessing"}
_LIST = "import sys, isthmus.agent.process; print(' '.join(sys.modules))"


def test_agent_loads_nothing_that_makes_its_start_slow() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LIST], capture_output=True, text=True, check=True, timeout=30
    )
    loaded = set(done.stdout.split())
    packages = {name.partition(".")[0] for name in loaded if not name.startswith("_")}
    assert packages - set(sys.stdlib_module_names) <= ALLOWED
    assert not loaded & SLOW


def test_agent_that_cannot_start_says_why_and_removes_its_pid_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pid_file = tmp_path / "pid"
    config = AgentConfig(
        node_name="alpha",
        server=True,
        dev=True,
        addresses=AddressConfig(bind="192.0.2.1"),
        ports=PortConfig(server=8300),
        log=LogConfig(level="ERR"),
        pid_file=str(pid_file),
    )
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        assert run(config, lambda: config) == 1
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    assert not pid_file.exists()
    said = capfd.readouterr().err
    assert "agent cannot start" in said
    assert "192.0.2.1:8300" in said


@pytest.mark.parametrize("key", ["log_file", "pid_file"])
def test_file_that_cannot_be_written_is_named_with_its_key(
    key: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "none" / "agent.log"
    config = AgentConfig(
        node_name="alpha",
        log=LogConfig(file=str(path) if key == "log_file" else ""),
        pid_file=str(path) if key == "pid_file" else "",
    )
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        assert run(config, lambda: config) == 1
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    text = f"agent cannot start: {key}: cannot write {path}: No such file or directory; "
    assert text in caplog.text + capfd.readouterr().err  # By the log that there is.
