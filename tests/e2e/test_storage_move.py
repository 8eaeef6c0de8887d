"""One server grows to three while it serves, and its data goes back to one file.

Source: design of storage, §9 "Migration".
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.datacenter import Datacenter
from support.etcd import etcd_missing
from support.processes import eventually, shown_on_failure
from support.writing import Writers, check_writes

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(180),
    pytest.mark.skipif(bool(etcd_missing()), reason=etcd_missing() or "all there"),
]
GAP_MAX = 6.0
"""Generous bound of the pause that writers see, on a busy machine."""


def isthmus(*args: str) -> str:
    """Output of a command that must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "isthmus.cli.main", *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_one_server_grows_to_three_while_it_serves_and_its_data_goes_back(tmp_path: Path) -> None:
    with Datacenter(tmp_path, 1, bootstrap_expect=1) as datacenter:
        datacenter.start()
        first = datacenter.servers[0]
        with shown_on_failure(first.process), Writers(datacenter) as writers:
            eventually(lambda: writers.acknowledged_count > 20, timeout=30, what="writes")
            said = isthmus(
                "operator", "storage", "migrate", "-online", f"-http-addr={first.host}:8500"
            )
            assert "bootstrap_expect = 3" in said
            for _ in range(2):
                datacenter.add(bootstrap_expect=3, retry_join=[first.host]).start()
            datacenter.wait_until_formed()
            eventually(
                lambda: (
                    sum(
                        server["Voter"]
                        for server in first.get("/v1/operator/raft/configuration")["Servers"]
                    )
                    == 3
                ),
                timeout=60,
                what="three servers that vote",
            )
            writers.stop()
            print(f"longest gap between writes: {writers.gap():.2f} s")
            assert writers.gap() < GAP_MAX
            assert not writers.errors()
        check_writes(writers.journals, datacenter.wait_until_equal())

        first.kill()  # The others do without it, and it comes back as one of three.
        eventually(lambda: datacenter.servers[1].put("formed/without"), timeout=30, what="a leader")
        first.config["bootstrap_expect"] = 3
        first.start()
        eventually(lambda: first.is_back("formed/again"), timeout=60, what="the first is back")
        tables = datacenter.wait_until_equal()

        lost = datacenter.servers[2]
        datacenter.servers[1].kill()
        lost.kill()  # Two of three are lost for good: the first goes on alone.
        first.stop()
        isthmus("operator", "storage", "recover", f"-config-file={tmp_path / 's1.json'}")
        first.start()
        eventually(lambda: first.put("formed/recovered"), timeout=60, what="it goes on alone")
        check_writes(writers.journals, first.tables())
        shutil.rmtree(datacenter.servers[1].data_dir / "storage")
        datacenter.servers[1].start()
        eventually(
            lambda: datacenter.servers[1].is_back("formed/joined"), timeout=60, what="another joins"
        )
        tables = datacenter.wait_until_equal()

        for server in datacenter.running[1:]:
            isthmus("leave", f"-http-addr={server.host}:8500")
            eventually(lambda server=server: not server.is_running, timeout=30, what="it left")  # type: ignore[misc]
            eventually(lambda: first.put("formed/fewer"), timeout=60, what="those that stay go on")
        eventually(
            lambda: len(first.get("/v1/operator/raft/configuration")["Servers"]) == 1,
            timeout=60,
            what="one server keeps the data",
        )
        before = first.tables()
        first.stop()
        config = tmp_path / "back.json"
        kept = {key: value for key, value in first.config.items() if key != "bootstrap_expect"}
        config.write_text(json.dumps({**kept, "bootstrap": True}))
        said = isthmus("operator", "storage", "migrate", f"-config-file={config}", "-to=sqlite")
        assert "kept in" in said
        first.config.pop("bootstrap_expect")
        first.config["bootstrap"] = True
        first.start()
        eventually(lambda: first.put("formed/alone"), timeout=30, what="it leads alone")
        after = first.tables()
        path = next(path for path in after if "kv" in path)
        keys = {row["Key"]: row["ModifyIndex"] for row in before[path]}
        assert keys.items() <= {row["Key"]: row["ModifyIndex"] for row in after[path]}.items()
        check_writes(writers.journals, tables)
