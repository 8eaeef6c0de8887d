"""The machine that an agent runs on, as ``/v1/agent/host`` shows it.

Field names are those that Consul's answer has (gopsutil's); what the system does not tell is left
out, and a part that cannot be read is named in ``Errors``. Source: protocol/http-api.md §6.3.
"""

import contextlib
import os
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

DISK: Final = "/"
"""Whose space is told; as in Consul."""
CPUS_MAX: Final = 1024
_CPU_FIELDS: Final = {
    "vendor_id": "vendorId",
    "cpu family": "family",
    "model": "model",
    "model name": "modelName",
    "physical id": "physicalId",
    "core id": "coreId",
    "microcode": "microcode",
}


def host_info(wall: datetime) -> Mapping[str, object]:
    """Memory, processors, system and disk.

    Args:
        wall: The calendar clock now.
    """
    errors = list[str]()

    def part(collect: Callable[[], object]) -> object:
        try:
            return collect()
        except (OSError, ValueError, RuntimeError) as error:
            errors.append(str(error))
            return None

    return {
        "Memory": part(_memory),
        "CPU": part(_processors),
        "Host": part(lambda: _system(wall)),
        "Disk": part(_disk),
        "CollectionTime": int(wall.timestamp() * 1_000_000_000),
        "Errors": errors or None,
    }


def _memory() -> dict[str, object]:
    import psutil  # Only who asks pays for its import.

    found, swap = psutil.virtual_memory(), psutil.swap_memory()
    names = ("total", "available", "used", "free", "active", "inactive", "buffers", "cached")
    shown: dict[str, object] = {name: getattr(found, name) for name in names}
    shown["usedPercent"] = found.percent
    shown["shared"], shown["slab"] = found.shared, found.slab
    shown["swapTotal"], shown["swapFree"] = swap.total, swap.free
    return shown


def _processors() -> list[dict[str, object]]:
    import psutil

    frequency = psutil.cpu_freq()
    mhz = float(frequency.current) if frequency is not None else 0.0
    found = list[dict[str, object]]()
    for block in Path("/proc/cpuinfo").read_text(errors="replace").split("\n\n")[:CPUS_MAX]:
        told = {
            name.strip(): value.strip()
            for name, colon, value in (line.partition(":") for line in block.splitlines())
            if colon
        }
        if "processor" not in told:
            continue
        shown: dict[str, object] = {"cpu": int(told["processor"]), "cores": 1}
        shown |= {ours: told[name] for name, ours in _CPU_FIELDS.items() if name in told}
        shown["mhz"] = float(told.get("cpu MHz", mhz))
        shown["flags"] = told.get("flags", told.get("Features", "")).split()
        found.append(shown)
    return found


def _system(wall: datetime) -> dict[str, object]:
    import platform

    import psutil

    system = os.uname()
    release: dict[str, str] = {}
    with contextlib.suppress(OSError):  # Not every system has the file.
        release = platform.freedesktop_os_release()
    booted = int(psutil.boot_time())
    return {
        "hostname": system.nodename,
        "uptime": max(int(wall.timestamp()) - booted, 0),
        "bootTime": booted,
        "procs": len(psutil.pids()),
        "os": system.sysname.lower(),
        "platform": release.get("ID", ""),
        "platformFamily": release.get("ID_LIKE", release.get("ID", "")),
        "platformVersion": release.get("VERSION_ID", ""),
        "kernelVersion": system.release,
        "kernelArch": system.machine,
    }


def _disk() -> dict[str, object]:
    import psutil

    usage, inodes = psutil.disk_usage(DISK), os.statvfs(DISK)
    used = inodes.f_files - inodes.f_ffree
    types = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    return {
        "path": DISK,
        "fstype": types.get(DISK, ""),
        "total": usage.total,
        "free": usage.free,
        "used": usage.used,
        "usedPercent": usage.percent,
        "inodesTotal": inodes.f_files,
        "inodesUsed": used,
        "inodesFree": inodes.f_ffree,
        "inodesUsedPercent": 100.0 * used / inodes.f_files if inodes.f_files else 0.0,
    }
