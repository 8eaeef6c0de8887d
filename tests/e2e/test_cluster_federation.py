"""Three datacenters of three servers: the federation goes on when leaders and a gateway die."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import netns
from support.etcd import etcd_missing
from support.netns import Sites
from support.processes import eventually, shown_on_failure
from support.realm import Realm, RealmCallers
from support.writing import Writers, check_datacenter

_MISSING = netns.missing() or etcd_missing()

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.namespaces,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(_MISSING), reason=_MISSING or "all there"),
]

RECOVERY_MAX = 5.0
"""Seconds after which every federated read succeeds again."""


@pytest.fixture
def realm(sites: Sites, tmp_path: Path) -> Iterator[Realm]:
    """Three datacenters of three servers and two gateways, federated."""
    with Realm(sites, tmp_path) as realm:
        realm.start()
        with shown_on_failure(*realm.processes()):
            yield realm
        assert sites.dropped("servers") == 0


def test_leaders_of_two_datacenters_and_a_gateway_die_in_the_same_second(realm: Realm) -> None:
    victims = [realm.datacenters[dc].leader() for dc in ("dc1", "dc2")]
    gateway = realm.gateways["dc3"][0]
    with RealmCallers(realm, but={victim.name for victim in victims}) as callers:
        time.sleep(2)
        killed = time.monotonic()
        for victim in victims:
            victim.process.send(signal.SIGKILL)
        gateway.send(signal.SIGKILL)
        for victim in victims:
            victim.kill()
        gateway.wait()
        time.sleep(3 * RECOVERY_MAX)
    early = [failure for failure in callers.failures() if failure[0] < killed]
    assert not early
    last = max((moment for moment, _, _ in callers.failures()), default=killed)
    print(f"{len(callers.failures())} calls failed, the last {last - killed:.2f} s after the kill")
    print(f"the last slow one {callers.slow(after=killed):.2f} s after it")
    assert last - killed <= RECOVERY_MAX, callers.failures()[-3:]
    eventually(realm.formed, timeout=60, every=0.5, what="every locator is told")
    for victim in victims:
        victim.start()
    eventually(realm.formed, timeout=60, every=0.5, what="all are back")
    for datacenter in realm.datacenters.values():
        datacenter.wait_until_equal()


def test_leadership_moves_in_the_primary_and_a_secondary_at_once(realm: Realm) -> None:
    primary, secondary = realm.datacenters["dc1"], realm.datacenters["dc2"]
    with (
        RealmCallers(realm, but=set()) as callers,
        Writers(primary, name="p", pause=0.01) as first,
        Writers(secondary, name="s", pause=0.01) as second,
    ):
        time.sleep(1)
        for _ in range(3):
            moved = time.monotonic()
            leaders = primary.leader(), secondary.leader()
            for leader in leaders:
                leader.request("PUT", "/v1/operator/raft/transfer-leader")
            for datacenter, old in zip((primary, secondary), leaders, strict=True):
                eventually(
                    lambda datacenter=datacenter, old=old: datacenter.leader() is not old,  # type: ignore[misc]
                    timeout=15,
                    what="another leads",
                )
            time.sleep(4)
            print(f"gaps {first.gap(after=moved):.2f} s, {second.gap(after=moved):.2f} s")
    assert not callers.failures()
    assert not first.errors() + second.errors()
    eventually(realm.formed, timeout=30, every=0.5, what="every locator is told")
    states = {
        server.name: server.request("GET", "/v1/internal/federation-states/mesh-gateways")[1]
        for _, server in realm.servers
    }
    assert len(set(states.values())) == 1, states
    check_datacenter(primary, first)
    check_datacenter(secondary, second)
