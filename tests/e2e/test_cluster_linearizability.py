"""Consistent reads, writes and compare-and-sets seem to happen one at a time, whatever breaks."""

import os
import signal
import time
from collections import Counter

import pytest

from support.datacenter import Datacenter
from support.etcd import etcd_missing
from support.linearizability import check_register
from support.processes import eventually
from support.registers import RegisterClients

SEED = int(os.environ.get("ISTHMUS_CRASH_SEED", "1"))
CLIENTS = 9
KEYS = 4

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(180),
    pytest.mark.skipif(bool(etcd_missing()), reason=etcd_missing() or "all there"),
]


def kill_leader(datacenter: Datacenter) -> None:
    leader = datacenter.leader()
    leader.kill()
    time.sleep(3)
    leader.start()


def pause_leader(datacenter: Datacenter) -> None:
    leader = datacenter.leader()
    leader.signal(signal.SIGSTOP)
    time.sleep(8)
    leader.signal(signal.SIGCONT)


def pause_leader_and_etcd(datacenter: Datacenter) -> None:
    leader = datacenter.leader()
    leader.signal(signal.SIGSTOP, etcd=True)
    time.sleep(5)
    leader.signal(signal.SIGCONT, etcd=True)


def kill_etcd(datacenter: Datacenter) -> None:
    os.kill(datacenter.leader().etcd_pid, signal.SIGKILL)
    time.sleep(3)


def pause_etcd(datacenter: Datacenter) -> None:
    """The commit in flight is answered, if ever, when others have led and committed."""
    leader = datacenter.leader()
    leader.signal(signal.SIGSTOP, agent=False, etcd=True)
    time.sleep(3)
    leader.signal(signal.SIGCONT, agent=False, etcd=True)


def move_leader(datacenter: Datacenter) -> None:
    for _ in range(3):
        datacenter.leader().request("PUT", "/v1/operator/raft/transfer-leader")
        time.sleep(0.7)


FAULTS = {
    "crashes": (kill_leader, kill_etcd),
    "pauses": (pause_leader, pause_leader_and_etcd),
    "hand-overs": (move_leader, pause_etcd, move_leader, pause_etcd),
}


@pytest.mark.parametrize("name", FAULTS)
def test_keys_are_linearizable(datacenter: Datacenter, name: str) -> None:
    with RegisterClients(datacenter, count=CLIENTS, keys=KEYS, seed=SEED) as clients:
        time.sleep(1)
        for fault in FAULTS[name]:
            fault(datacenter)
            eventually(
                lambda: all(server.put("formed/x") for server in datacenter.servers),
                timeout=60,
                what="all servers take writes",
            )
            time.sleep(1)
    counts: Counter[str] = Counter()
    for key, history in clients.histories.items():
        verdict = check_register(history)
        counts.update(operation.kind for operation in history)
        assert verdict.linearizable, (key, verdict.stuck)
    print(dict(counts), f"{clients.unknown_count} without an answer; seed {SEED}")
    assert min(counts.values()) > 50
    datacenter.wait_until_equal()
