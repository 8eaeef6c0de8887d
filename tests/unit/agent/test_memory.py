"""Large blocks are given back, also in a process that has freed large ones before."""

import subprocess
import sys

SCRIPT = """
from isthmus.agent.memory import give_back_large_blocks
give_back_large_blocks()
def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
before = resident()
for size in (8, 16, 30):
    bytearray(size << 20)  # Freed: the C library would now keep blocks of that size.
held, between = [], []
for _ in range(20):
    held.append(bytearray(b"x") * (10 << 20))
    between.append(bytes(200))
held.clear()
print(resident() - before)
"""


def test_memory_of_large_blocks_goes_back_to_the_system() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, check=True, text=True
    )
    assert int(done.stdout) < 20 * 1024
