"""The first thing a newcomer runs."""

import signal
import socket
import subprocess
from pathlib import Path

import pytest

from isthmus.cli.demo import Demo
from support.processes import ISTHMUS, Process, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


def test_demo_federates_its_datacenters() -> None:
    done = subprocess.run(
        [*ISTHMUS, "demo", "-check"], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every datacenter reads every other's service." in done.stdout


def test_second_demo_is_refused_while_its_addresses_are_in_use() -> None:
    with socket.create_server(("127.101.0.10", 8500)):
        done = subprocess.run(
            [*ISTHMUS, "demo", "-check"], capture_output=True, text=True, timeout=30, check=False
        )
    assert done.returncode == 1
    assert "127.101.0.10:8500 is in use" in done.stderr


def test_nothing_of_a_killed_demo_stays(tmp_path: Path) -> None:
    demo = Process([*ISTHMUS, "demo", "-datacenters", "2"], tmp_path / "log")
    try:
        eventually(lambda: "Ctrl-C" in demo.output(), timeout=60, what="demo is up")
        demo.send(signal.SIGKILL)
        demo.wait()
        left = Demo(2, tmp_path)
        eventually(lambda: not left.taken(), timeout=15, what="servers and gateways are gone")
    finally:
        demo.stop(signal.SIGTERM)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["-datacenters", "1"], "-datacenters takes a number from 2 to 20"),
        (["-nope"], "Unknown flag: -nope"),
        (["extra"], "Unexpected argument: extra"),
    ],
)
def test_wrong_arguments_start_nothing(args: list[str], text: str) -> None:
    done = subprocess.run(
        [*ISTHMUS, "demo", *args], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert text in done.stderr
