"""A member of the storage cluster that is started before the agent is loaded."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isthmus.agent.member import LocalMember, start_known_member
from isthmus.agent.storage_files import CLUSTER_FILE, RECOVER_FILE, Cluster
from isthmus.config.model import AddressConfig, AgentConfig, StorageConfig
from isthmus.errors import Unavailable
from isthmus.model.storage import StorageMember
from isthmus.store.engine import EngineUnavailable, Locked
from support.etcd import fake_etcd

OWN_ID = "00000000-0000-4000-8000-000000000001"
DEADLINE = 20.0


@pytest.fixture
def config(tmp_path: Path) -> AgentConfig:
    """A server that was here before, and whose member has worked."""
    runs = fake_etcd(tmp_path, "3.4.23", f"echo started >> {tmp_path}/starts; exec sleep 60")
    made = AgentConfig(
        server=True,
        bootstrap_expect=3,
        node_id=OWN_ID,
        data_dir=tmp_path / "data",
        addresses=AddressConfig(advertise="10.0.0.1"),
        storage=StorageConfig(etcd_binary=str(runs)),
    )
    folder = tmp_path / "data" / "storage"
    (folder / "etcd" / "member" / "wal").mkdir(parents=True)
    note(made, started=True)
    return made


def note(config: AgentConfig, *, host: str = "10.0.0.1", started: bool) -> None:
    """Have the server's notes say that it is in a cluster."""
    assert config.data_dir is not None
    cluster = Cluster(
        token="t",
        members=(StorageMember(server_id=OWN_ID, node="s1", peer_url=f"https://{host}:8304"),),
        new=True,
        started=started,
    )
    write(config, CLUSTER_FILE, cluster.as_dict())


def write(config: AgentConfig, name: str, value: dict[str, Any]) -> None:
    assert config.data_dir is not None
    (config.data_dir / "storage" / name).write_text(json.dumps(value))


@pytest.fixture
async def begin() -> AsyncIterator[Callable[[AgentConfig], Any]]:
    """Begins a start; what was begun ends with the test."""
    begun: list[LocalMember] = []

    async def start(config: AgentConfig) -> LocalMember | None:
        member = await start_known_member(config)
        if member is not None:
            begun.append(member)
        return member

    yield start
    for member in begun:
        await member.close()


async def test_member_that_has_worked_is_started(
    config: AgentConfig, begin: Callable[[AgentConfig], Any], tmp_path: Path
) -> None:
    member = await begin(config)
    assert member.process.is_started
    assert member.process.pid is not None  # What holds the loop up from now on does not delay it.
    async with asyncio.timeout(DEADLINE):
        while not (tmp_path / "starts").exists():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await member.close()
    assert not member.process.is_started


async def test_its_folder_is_ours_alone_until_it_is_closed(
    config: AgentConfig, begin: Callable[[AgentConfig], Any]
) -> None:
    member = await begin(config)
    member.take()  # It is ours already.
    with pytest.raises(Locked):
        await start_known_member(config)
    assert member.process.is_started
    await member.close()
    assert (await begin(config)).process.is_started


@pytest.mark.parametrize(
    "change",
    [
        lambda config: note(config, started=False),
        lambda config: note(config, host="10.0.0.9", started=True),
        lambda config: write(config, CLUSTER_FILE, {}),
        lambda config: write(config, RECOVER_FILE, {"alone": True}),
        lambda config: (config.data_dir / "storage" / "etcd" / "member" / "wal").rmdir(),
    ],
    ids=["never worked", "moved", "in no cluster", "to go on alone", "without its data"],
)
async def test_member_that_something_has_to_be_asked_about_waits_for_the_agent(
    config: AgentConfig,
    begin: Callable[[AgentConfig], Any],
    change: Callable[[AgentConfig], object],
) -> None:
    change(config)
    member = await begin(config)
    assert not member.process.is_started


@pytest.mark.parametrize(
    "other",
    [
        {"server": False},
        {"bootstrap_expect": 1},
        {"storage": StorageConfig(endpoints=("127.0.0.1:2379",))},
        {"node_id": ""},
        {"data_dir": None},
    ],
    ids=["client", "sqlite", "external etcd", "new node", "no data directory"],
)
async def test_where_there_is_no_member_nothing_is_begun(
    config: AgentConfig, other: dict[str, Any]
) -> None:
    assert await start_known_member(replace(config, **other)) is None


async def test_start_that_fails_leaves_the_folder_free(
    config: AgentConfig, begin: Callable[[AgentConfig], Any]
) -> None:
    assert config.data_dir is not None
    missing = replace(config, storage=StorageConfig(etcd_binary="/nowhere/etcd"))
    with pytest.raises(EngineUnavailable, match="apt-get install etcd-server"):
        await start_known_member(missing)
    (config.data_dir / "storage" / CLUSTER_FILE).write_text("{")
    with pytest.raises(Unavailable, match="is damaged"):
        await start_known_member(config)
    note(config, started=True)
    assert (await begin(config)).process.is_started


async def test_who_asks_late_is_told_of_a_removal_at_once(
    config: AgentConfig, begin: Callable[[AgentConfig], Any], tmp_path: Path
) -> None:
    said = '{"level": "warn", "msg": "the member has been permanently removed from the cluster"}'
    fake_etcd(tmp_path, "3.4.23", f"echo '{said}' >&2")
    member = await begin(config)
    told = asyncio.Event()
    member.process.when_removed(told.set)
    async with asyncio.timeout(DEADLINE):
        await told.wait()
    again = asyncio.Event()
    async with asyncio.timeout(DEADLINE):
        while not again.is_set():
            member.process.when_removed(again.set)
            await asyncio.sleep(0)
