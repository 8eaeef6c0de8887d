"""Members of a real etcd as our children."""

import asyncio
import os
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

from isthmus.engine.etcd_access import EtcdAccess, MemberFiles
from isthmus.engine.etcd_api import MESSAGES, CallFailed, EtcdClient
from isthmus.engine.etcd_certificates import (
    Authority,
    keep_certificate,
    make_authority,
    make_request,
    own_key,
    sign,
)
from isthmus.engine.etcd_process import EtcdProcess, EtcdProcessConfig, Formation
from support.etcd import etcd_missing, free_ports

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(bool(etcd_missing()), reason=etcd_missing() or "-"),
]
WALL = datetime.now(UTC)  # noqa: TID251 (certificates of real programs)


def make_files(directory: Path, authority: Authority, name: str) -> MemberFiles:
    files = MemberFiles(directory)
    request = make_request(own_key(files), name=name, addresses=["127.0.0.1"])
    keep_certificate(
        files, ca=authority.certificate, certificate=sign(authority, request, name=name, wall=WALL)
    )
    return files


def make_process(
    directory: Path, authority: Authority, name: str, *, removed: asyncio.Event | None = None
) -> EtcdProcess:
    peer, client = free_ports(2)
    config = EtcdProcessConfig(
        directory=directory / name / "etcd",
        files=make_files(directory / name, authority, name),
        name=name,
        peer_host="127.0.0.1",
        peer_port=peer,
        client_port=client,
        heartbeat=0.05,
        election=0.5,
    )
    process = EtcdProcess(config)
    process.when_removed(removed.set if removed else lambda: None)
    return process


def pid_of(process: EtcdProcess) -> int:
    return process.pid or 0


async def until_led(client: EtcdClient) -> int:
    """Wait for a leader; its member id."""
    async with asyncio.timeout(30):
        while True:
            try:
                status = await client.call("Status", MESSAGES["StatusRequest"]())
            except CallFailed:
                status = None
            if status is not None and status.leader:
                return int(status.leader)
            await asyncio.sleep(0.05)


async def test_member_comes_back_after_it_was_killed_and_ends_with_us(tmp_path: Path) -> None:
    process = make_process(tmp_path, make_authority("storage", wall=WALL), "a")
    formation = Formation(members={"a": process.config.peer_url}, token="t", new=True)
    assert not (process.config.directory / "member").exists()
    await process.start(formation)
    client = EtcdClient(process.config.access)
    try:
        await until_led(client)
        first = pid_of(process)
        assert process.has_data
        os.kill(first, signal.SIGKILL)
        async with asyncio.timeout(30):
            while pid_of(process) in {0, first}:  # noqa: ASYNC110 (a process of its own)
                await asyncio.sleep(0.02)
        await until_led(client)
    finally:
        second = pid_of(process)
        await client.close()
        await process.stop()
    assert second
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)


async def test_members_speak_tls_of_their_own_authority_only(tmp_path: Path) -> None:
    authority = make_authority("storage", wall=WALL)
    one, two = (make_process(tmp_path, authority, name) for name in ("a", "b"))
    members = {"a": one.config.peer_url, "b": two.config.peer_url}
    formation = Formation(members=members, token="t", new=True)
    stranger = make_files(tmp_path / "x", make_authority("other", wall=WALL), "a")
    await one.start(formation)
    await two.start(formation)
    client = EtcdClient(two.config.access)
    try:
        await until_led(client)
        listed = await client.call("MemberList", MESSAGES["MemberListRequest"]())
        assert sorted(member.name for member in listed.members) == ["a", "b"]
        wrong = EtcdClient(
            EtcdAccess(
                endpoints=one.config.network_access.endpoints,
                ca_file=stranger.ca,
                cert_file=stranger.certificate,
                key_file=stranger.key,
            )
        )
        with pytest.raises(CallFailed):
            await wrong.call("Status", MESSAGES["StatusRequest"]())
        await wrong.close()
        right = EtcdClient(one.config.network_access)
        await until_led(right)
        await right.close()
    finally:
        await client.close()
        await one.stop()
        await two.stop()


async def test_member_that_was_removed_says_so_and_is_not_restarted(tmp_path: Path) -> None:
    authority, removed = make_authority("storage", wall=WALL), asyncio.Event()
    one = make_process(tmp_path, authority, "a")
    two = make_process(tmp_path, authority, "b", removed=removed)
    members = {"a": one.config.peer_url, "b": two.config.peer_url}
    formation = Formation(members=members, token="t", new=True)
    await one.start(formation)
    await two.start(formation)
    client = EtcdClient(one.config.access)
    try:
        await until_led(client)
        listed = await client.call("MemberList", MESSAGES["MemberListRequest"]())
        (victim,) = [member.ID for member in listed.members if member.name == "b"]
        async with asyncio.timeout(30):
            while True:
                try:
                    await client.call("MemberRemove", MESSAGES["MemberRemoveRequest"](ID=victim))
                    break
                except CallFailed:  # "unhealthy cluster" for the first five seconds.
                    await asyncio.sleep(0.2)
            await removed.wait()
        assert two.pid is None
        place = two.archive("removed-1")
        assert place is not None
        assert (place / "member").exists()
        assert not two.has_data
    finally:
        await client.close()
        await one.stop()
        await two.stop()
