"""The first thing a newcomer runs."""

import subprocess

import pytest

from support.processes import ISTHMUS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


def test_demo_federates_its_datacenters() -> None:
    done = subprocess.run(
        [*ISTHMUS, "demo", "-check"], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every datacenter reads every other's service." in done.stdout


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
