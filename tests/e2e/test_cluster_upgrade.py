"""Three servers of an earlier release are upgraded one by one while writers write.

The earlier release stores rows in an older version and does not know the present one, so that in
the midst of it the servers that wait for their turn cannot read what an upgraded leader commits.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from support.datacenter import Datacenter
from support.etcd import etcd_missing
from support.processes import ISTHMUS, eventually, shown_on_failure
from support.writing import Writers, check_writes

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(240),
    pytest.mark.skipif(bool(etcd_missing()), reason=etcd_missing() or "all there"),
]

OLDER = (sys.executable, "-P", str(Path(__file__).parents[1] / "support/older_release.py"))
PENDING_MAX = 10.0
"""Seconds in which a server that waits for its upgrade answers by passing the call on."""


def test_rolling_upgrade_across_a_version_of_stored_rows(tmp_path: Path) -> None:
    with Datacenter(tmp_path) as datacenter:
        for server in datacenter.servers:
            server.program = OLDER
        datacenter.start()
        with shown_on_failure(*datacenter.processes()), Writers(datacenter) as writers:
            eventually(lambda: writers.acknowledged_count > 300, timeout=30, what="old rows")
            # The leader first, so that one of the old ones leads; then that one.
            for number in range(3):
                waiting = [server for server in datacenter.servers if server.program == OLDER]
                leader = datacenter.leader()
                server = leader if leader in waiting else waiting[0]
                assert server.stop() == 0
                server.program = ISTHMUS
                server.start()
                eventually(
                    lambda server=server: server.is_back(f"formed/up-{server.name}"),  # type: ignore[misc]
                    timeout=30,
                    what=f"{server.name} is back",
                )
                if number == 1:
                    upgraded = [one for one in datacenter.servers if one.program == ISTHMUS]
                    (last,) = [one for one in datacenter.servers if one.program == OLDER]
                    hand_over(datacenter, upgraded[0].name)
                    eventually(
                        lambda last=last: "cannot read the data" in last.process.output(),  # type: ignore[misc]
                        timeout=30,
                        what=f"{last.name} says that it is to be upgraded",
                    )
                    assert last.put("formed/through-old", timeout=PENDING_MAX)
                    for read in ("", "?stale", "?consistent"):
                        assert last.get(f"/v1/kv/formed/through-old{read}", timeout=PENDING_MAX)
        tables = datacenter.wait_until_equal()
        check_writes(writers.journals, tables)
        assert not [error for error in writers.errors() if error.startswith("500")]
        # A restart of all reads rows of both versions.
        said = [server.process.output().count("cannot read") for server in datacenter.servers]
        assert any(said)
        for server in datacenter.servers:
            server.kill()
        for server in datacenter.servers:
            server.start()
        datacenter.wait_until_formed()
        check_writes(writers.journals, datacenter.wait_until_equal())
        assert said == [
            server.process.output().count("cannot read") for server in datacenter.servers
        ]
        print(f"{writers.acknowledged_count} acknowledged writes, longest gap {writers.gap():.2f}")


def hand_over(datacenter: Datacenter, node: str) -> None:
    """Have a server lead."""
    (server_id,) = [number for number, name in datacenter.voters().items() if name == node]

    def leads() -> bool:
        leader = datacenter.leader()
        if leader.name != node:
            command = [*ISTHMUS, "operator", "raft", "transfer-leader", f"-id={server_id}"]
            where = ["-http-addr", f"{leader.host}:8500"]
            subprocess.run([*command, *where], check=False, timeout=30, capture_output=True)
        return datacenter.leader().name == node

    eventually(leads, timeout=60, every=1.0, what=f"{node} leads")
