"""py-consul's own tests, as its source distribution has them, against isthmus on Consul's ports.

What fails is listed in ``py_consul_failures.toml``, each with its reason: nothing else may fail,
and what is listed must still do so, or the list is out of date.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from support import netns, py_consul_conftest
from support.netns import run

RELEASE = version("py-consul")
PASSED_MIN = 110
SHARDS = 2
"""Namespaces, each with its part of the tests."""
RERUNS = 3
"""As the client's own configuration has it."""

_ARCHIVE = Path(sys.prefix) / f"clients/py-consul/py_consul-{RELEASE}.tar.gz"
_FAILURES = Path(__file__).with_name("py_consul_failures.toml")
pytestmark = [
    pytest.mark.interop,
    pytest.mark.namespaces,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(netns.missing()), reason=netns.missing() or "all there"),
    pytest.mark.skipif(not _ARCHIVE.exists(), reason="needs the client's source: make clients"),
]


def unpack(folder: Path) -> Path:
    """The client's tests, below our fixtures."""
    with tarfile.open(_ARCHIVE) as packed:
        packed.extractall(folder, filter="data")
    root = folder / "run"
    shutil.copytree(folder / f"py_consul-{RELEASE}" / "tests", root / "tests")
    shutil.copy(py_consul_conftest.__file__, root / "conftest.py")
    (root / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    return root


def start(root: Path, shard: int, tests: list[str]) -> tuple[subprocess.Popen[bytes], Path, str]:
    """Run some of the tests in a namespace of their own."""
    namespace = f"pyconsul{os.getpid() % 100000}n{shard}"
    run("ip", "netns", "add", namespace)
    run("ip", "-n", namespace, "link", "set", "lo", "up")
    outcomes = root / f"outcomes-{shard}"
    command = [
        *("ip", "netns", "exec", namespace, sys.executable, "-m", "pytest", "-q"),
        *("-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist"),
        *("--import-mode=importlib", f"--basetemp={root / f'tmp-{shard}'}", *tests),
    ]
    environment = os.environ | {py_consul_conftest.OUTCOMES: str(outcomes)}
    with (root / f"log-{shard}").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=root, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    return process, outcomes, namespace


def run_tests(root: Path, *parts: list[str]) -> dict[str, Any]:
    """Run parts of the tests side by side; how each test went, by its name."""
    shards = [start(root, number, part) for number, part in enumerate(parts)]
    try:
        for process, _, _ in shards:
            process.wait(timeout=500)
    finally:
        for process, _, namespace in shards:
            process.kill()
            process.wait()
            run("ip", "netns", "del", namespace)
    lines = [json.loads(line) for _, file, _ in shards for line in file.read_text().splitlines()]
    return {line["test"]: line for line in lines}  # The last word on each.


def failures(outcomes: dict[str, Any]) -> set[str]:
    return {test for test, line in outcomes.items() if line["outcome"] == "failed"}


def test_the_client_s_own_tests_pass(tmp_path: Path) -> None:
    root = unpack(tmp_path)
    files = sorted(str(each.relative_to(root)) for each in root.rglob("test_*.py"))
    outcomes = run_tests(root, *(files[number::SHARDS] for number in range(SHARDS)))
    listed = tomllib.loads(_FAILURES.read_text())
    expected = {test for group in listed.values() for test in group["tests"]}
    for _ in range(RERUNS):  # Some of its tests wait for 100 ms, and it runs them again, too.
        if again := sorted(failures(outcomes) - expected):
            outcomes |= run_tests(root, again)
    failed = failures(outcomes)
    passed = sum(line["outcome"] == "passed" for line in outcomes.values())
    for test in sorted(failed - expected):
        print(f"{test}: {outcomes[test]['reason']}")
    for log in sorted(root.glob("log-*")):
        print(log.read_text()[-3000:])
    assert failed - expected == set(), "tests of the client fail"
    assert expected - failed == set(), f"these pass now: take them out of {_FAILURES.name}"
    assert passed >= PASSED_MIN
