"""A hundred secondaries (cores on virtual time) after their primary was away for ten minutes.

The scene is the test of the same name; here it is only repeated and its figure printed.
"""

import re
import subprocess
import sys

from bench.figures import show

ROUNDS = 3
_TEST = "tests/unit/agent/test_stampede.py"
_FIGURE = re.compile(r"(\d+) datacenters whole ([\d.]+) s after the primary is back")


def main() -> None:
    """Print the virtual seconds until all are whole."""
    samples = []
    for _ in range(ROUNDS):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-s", _TEST],
            capture_output=True,
            text=True,
            check=False,
        )
        found = _FIGURE.search(done.stdout)
        if found is None:
            raise RuntimeError(done.stdout[-500:])
        samples.append(float(found[2]))
    show(f"{found[1]} secondaries whole after their primary is back", samples, "s", "5")


if __name__ == "__main__":
    main()
