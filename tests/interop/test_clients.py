"""The clients npm ``consul`` and python-consul2: every method that concerns service discovery."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.agent_process import AgentProcess

CLIENTS = Path(sys.prefix) / "clients"
NPM = CLIENTS / "npm/node_modules/consul"
PYTHON_CONSUL2 = CLIENTS / "python-consul2"
NPM_STEPS, PYTHON_CONSUL2_STEPS = 19, 9
SCRIPTS = Path(__file__).with_name("clients")

_NO_NPM = shutil.which("node") is None or not NPM.is_dir()
pytestmark = [pytest.mark.interop, pytest.mark.timeout(180)]


@pytest.fixture
def agent(tmp_path: Path, worker_id: str) -> Iterator[AgentProcess]:
    number = int(worker_id.removeprefix("gw")) if worker_id.startswith("gw") else 0
    process = AgentProcess(tmp_path, f"127.62.{number}.1")
    try:
        process.wait_until_ready()
        yield process
    finally:
        process.kill()


def run(*command: str, **environment: str) -> str:
    """Output of a program, which must succeed."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=150, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(_NO_NPM, reason="needs Node.js and the npm client: make clients")
def test_every_method_of_the_npm_client_works(agent: AgentProcess) -> None:
    output = run("node", str(SCRIPTS / "npm_consul.js"), str(NPM), agent.host)
    assert len(json.loads(output)) == NPM_STEPS


@pytest.mark.skipif(not PYTHON_CONSUL2.is_dir(), reason="needs the client: make clients")
def test_every_method_of_python_consul2_works(agent: AgentProcess) -> None:
    script = str(SCRIPTS / "python_consul2.py")
    output = run(sys.executable, script, agent.host, PYTHONPATH=str(PYTHON_CONSUL2))
    assert len(output.split()) == PYTHON_CONSUL2_STEPS
