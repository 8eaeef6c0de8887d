"""A real etcd for tests: one member on free ports of the loopback, without a disk to sync."""

import asyncio
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from isthmus.engine.etcd import EtcdEngine
from isthmus.engine.etcd_access import EtcdAccess
from isthmus.engine.etcd_api import MESSAGES, CallFailed, EtcdClient
from isthmus.store.engine import Limits

START_TIMEOUT = 20.0
WALL = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def etcd_missing() -> str:
    """Why no etcd can be started; empty when one can."""
    return "" if shutil.which("etcd") else "etcd is not installed (Debian: etcd-server)"


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


@contextmanager
def running_etcd(directory: Path, *options: str) -> Iterator[str]:
    """One member; its client address ``host:port``."""
    client, peer = free_ports(2)
    command = [
        "etcd",
        "--name=only",
        f"--data-dir={directory / 'etcd'}",
        f"--listen-client-urls=http://127.0.0.1:{client}",
        f"--advertise-client-urls=http://127.0.0.1:{client}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-cluster=only=http://127.0.0.1:{peer}",
        "--heartbeat-interval=50",
        "--election-timeout=500",
        *options,
    ]
    with (directory / "etcd.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            asyncio.run(_wait(f"127.0.0.1:{client}"))
            yield f"127.0.0.1:{client}"
        finally:
            process.kill()
            process.wait()


async def _wait(endpoint: str) -> None:
    client = EtcdClient(EtcdAccess(endpoints=(endpoint,)))
    try:
        async with asyncio.timeout(START_TIMEOUT):
            while True:
                try:
                    await client.call("Status", MESSAGES["StatusRequest"]())
                except CallFailed:
                    await asyncio.sleep(0.05)
                else:
                    return
    finally:
        await client.close()


def make_etcd(
    endpoint: str,
    root: str,
    *,
    datacenter: str = "dc1",
    cluster: str = "11111111-2222-3333-4444-555555555555",
    operations_max: int = 128,
    lease_time: float = 10.0,
) -> EtcdEngine:
    """An engine on a running etcd, not open yet."""
    return EtcdEngine(
        EtcdAccess(endpoints=(endpoint,)),
        datacenter=datacenter,
        cluster=cluster,
        wall=lambda: WALL,
        root=root.encode(),
        limits=Limits(operations_max, 1_572_864),
        lease_time=lease_time,
    )


def fake_etcd(folder: Path, version: str, life: str = "true") -> Path:
    """A program that says it is an etcd, and otherwise does as it is told."""
    program = folder / "fake-etcd"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo "etcd Version: {version}" && exit\n{life}\n'
    )
    program.chmod(0o755)
    return program
