"""SIGKILL of any servers, again and again, below many writers: nothing acknowledged is lost.

A handful of rounds by default; ``ISTHMUS_CRASH_ROUNDS=50`` (``make crash``) runs more.
"""

import os
import signal
import statistics
import time
from random import Random

import pytest

from support.datacenter import Datacenter
from support.etcd import etcd_missing
from support.writing import Writers, check_datacenter

ROUNDS = int(os.environ.get("ISTHMUS_CRASH_ROUNDS", "4"))
SEED = int(os.environ.get("ISTHMUS_CRASH_SEED", "1"))
WRITERS_EACH = 22
"""Through each of three servers, so that more than 64 write at once."""
CHECK_EVERY = 10

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(120 + 20 * ROUNDS),
    pytest.mark.skipif(bool(etcd_missing()), reason=etcd_missing() or "all there"),
]


def test_acknowledged_writes_survive_sigkill_of_any_servers(datacenter: Datacenter) -> None:
    rng = Random(SEED)
    gaps = []
    with Writers(datacenter, count=WRITERS_EACH, pause=0.15) as writers:
        for turn in range(1, ROUNDS + 1):
            time.sleep(rng.uniform(0.3, 1.5))
            leader = datacenter.leader()
            others = [server for server in datacenter.servers if server is not leader]
            victims = rng.choice(
                [[leader], [leader], [others[0]], [leader, others[1]], datacenter.servers]
            )
            killed = time.monotonic()
            for victim in victims:
                victim.process.send(signal.SIGKILL)
            for victim in victims:
                victim.kill()
            if victims == [leader]:
                time.sleep(3)
                gaps.append(writers.next_acknowledged(killed + 0.1) - killed)
            for victim in rng.sample(victims, len(victims)):
                victim.start()
            datacenter.wait_until_formed()
            if turn % CHECK_EVERY == 0:
                check_writes_so_far(datacenter, writers)
    check_datacenter(datacenter, writers)
    print(f"{ROUNDS} rounds, seed {SEED}, {writers.acknowledged_count} acknowledged writes")
    if gaps:
        print(f"leader killed → next acknowledged write: median {statistics.median(gaps):.2f} s")
    assert writers.acknowledged_count > ROUNDS * 3 * WRITERS_EACH


def check_writes_so_far(datacenter: Datacenter, writers: Writers) -> None:
    """Assert that all acknowledged until now is there, while more is written."""
    acknowledged = [list(journal.acknowledged) for journal in writers.journals]
    found = {entry["Key"] for entry in datacenter.leader().get("/v1/kv/?recurse", timeout=60)}
    for keys in acknowledged:
        assert not [key for key in keys if key not in found]
