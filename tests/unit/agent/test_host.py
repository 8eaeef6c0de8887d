"""The machine, in the shape of Consul's answer."""

from datetime import UTC, datetime, timedelta
from typing import Any, cast

from isthmus.agent.host import host_info

WALL = datetime(2030, 1, 1, tzinfo=UTC)


def shown() -> dict[str, Any]:
    return cast(dict[str, Any], host_info(WALL))


def test_parts_are_named_as_consul_names_them() -> None:
    found = shown()
    assert list(found) == ["Memory", "CPU", "Host", "Disk", "CollectionTime", "Errors"]
    assert found["CollectionTime"] == int(WALL.timestamp()) * 1_000_000_000
    assert found["Errors"] is None


def test_memory_and_disk_add_up() -> None:
    memory, disk = shown()["Memory"], shown()["Disk"]
    assert 0 < memory["available"] <= memory["total"]
    assert 0 <= memory["usedPercent"] <= 100
    assert disk["path"] == "/"
    assert 0 < disk["total"] >= disk["used"]
    assert disk["inodesUsed"] == disk["inodesTotal"] - disk["inodesFree"]


def test_every_processor_is_listed() -> None:
    cpus = shown()["CPU"]
    assert [cpu["cpu"] for cpu in cpus] == sorted(cpu["cpu"] for cpu in cpus)
    assert cpus
    assert all(isinstance(cpu["flags"], list) and cpu["mhz"] >= 0 for cpu in cpus)


def test_uptime_counts_from_the_boot() -> None:
    host = shown()["Host"]
    assert host["os"] == "linux"
    assert host["procs"] > 0
    booted = datetime.fromtimestamp(host["bootTime"], UTC)
    assert WALL - booted == timedelta(seconds=host["uptime"])
