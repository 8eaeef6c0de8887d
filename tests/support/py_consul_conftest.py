"""Fixtures of py-consul's own tests, with isthmus in the place of a container of Consul.

Placed as ``conftest.py`` above an unpacked copy of those tests. Every test gets an agent of its
own on Consul's ports; the whole run happens in a network namespace, where they are free.
"""

import collections
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HTTP_PORT = 8500
READY_TIMEOUT = 60.0
OUTCOMES = "PY_CONSUL_OUTCOMES"
"""Environment variable: the file that a line of JSON for each test goes to."""

Instance = collections.namedtuple("Instance", ["container", "port", "version"])


def _ask(method: str, path: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{HTTP_PORT}/v1/{path}", data=data, method=method
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def _is_ready() -> bool:
    try:
        if not _ask("GET", "status/leader"):
            return False
        checks, nodes = _ask("GET", "health/state/passing"), _ask("GET", "catalog/nodes")
        # The agent's own registration is the last write to its node.
        synced = any(node["TaggedAddresses"] and node["Meta"] for node in nodes)
        return synced and any(check["CheckID"] == "serfHealth" for check in checks)
    except (OSError, urllib.error.URLError):
        return False


def _serve(folder: Path, **config: object) -> Iterator[Instance]:
    file = folder / "agent.json"
    file.write_text(
        json.dumps(
            {
                "ports": {"https": -1, "dns": -1},
                "performance": {"raft_multiplier": 1},
                "enable_script_checks": True,
                "data_dir": str(folder / "data"),
                **config,
            }
        )
    )
    command = [sys.executable, "-m", "isthmus.cli.main", "agent", "-dev", "-config-file", str(file)]
    with (folder / "agent.log").open("wb") as log:
        agent = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + READY_TIMEOUT
            while not _is_ready():
                if agent.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"no agent: {(folder / 'agent.log').read_text()[-2000:]}")
                time.sleep(0.05)
            version = _ask("GET", "agent/self")["Config"]["Version"]
            yield Instance(agent, HTTP_PORT, version)
        finally:
            agent.send_signal(signal.SIGKILL)
            agent.wait()


@pytest.fixture
def consul_instance(tmp_path: Path) -> Iterator[Instance]:
    yield from _serve(tmp_path)


@pytest.fixture
def acl_consul_instance(tmp_path: Path) -> Iterator[tuple[Instance, str]]:
    token = uuid.uuid4().hex
    acl = {"enabled": True, "tokens": {"master": token}}
    for instance in _serve(tmp_path, primary_datacenter="dc1", acl=acl):
        yield instance, token


@pytest.fixture
def consul_port(consul_instance: Instance) -> tuple[int, str]:
    return consul_instance.port, consul_instance.version


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note how each test went, and why."""
    if report.when != "call" and not (report.failed or report.skipped):
        return
    reason = ""
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        reason = crash.message if crash is not None else str(report.longrepr)[-500:]
    elif isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
    line = {"test": report.nodeid, "outcome": report.outcome, "reason": reason[:500]}
    with open(os.environ[OUTCOMES], "a") as file:
        file.write(json.dumps(line) + "\n")
