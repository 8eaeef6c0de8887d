"""The npm client ``consul``: every method that concerns service discovery."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.agent_process import AgentProcess

CLIENT = Path(sys.prefix) / "clients/npm/node_modules/consul"
STEPS = 19
SCRIPT = Path(__file__).with_name("clients") / "npm_consul.js"

_MISSING = shutil.which("node") is None or not CLIENT.is_dir()
pytestmark = [
    pytest.mark.interop,
    pytest.mark.timeout(180),
    pytest.mark.skipif(_MISSING, reason="needs Node.js and the npm client: make clients"),
]


@pytest.fixture
def agent(tmp_path: Path, worker_id: str) -> Iterator[AgentProcess]:
    number = int(worker_id.removeprefix("gw")) if worker_id.startswith("gw") else 0
    process = AgentProcess(tmp_path, f"127.62.{number}.1")
    try:
        process.wait_until_ready()
        yield process
    finally:
        process.kill()


def test_every_method_works(agent: AgentProcess) -> None:
    done = subprocess.run(
        ["node", str(SCRIPT), str(CLIENT), agent.host],
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == STEPS
