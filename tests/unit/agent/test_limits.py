"""The agent takes as many open files as it may have."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource
from isthmus.agent.limits import raise_descriptor_limit
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
print(raise_descriptor_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("soft", "hard", "reached"), [(100, 4000, 4000), (300, 300, 300)])
def test_the_soft_limit_is_raised_as_far_as_the_hard_one(
    soft: int, hard: int, reached: int
) -> None:
    """In a process of its own, for a hard limit cannot be raised again."""
    script = SCRIPT.format(soft=soft, hard=hard)
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    assert [int(word) for word in done.stdout.split()] == [reached, reached, hard]
