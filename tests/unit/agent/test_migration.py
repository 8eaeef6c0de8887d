"""Moving and recovering data is refused while an agent has it."""

import os
from pathlib import Path

import pytest

from isthmus.agent.migration import MigrationRefused, migrate, recover
from isthmus.agent.platform import Machine
from isthmus.agent.storage_files import RECOVER_FILE
from isthmus.config.model import AgentConfig
from isthmus.engine.folder_lock import FolderLock
from isthmus.store.engine import Locked


def held(directory: Path) -> FolderLock:
    directory.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(directory)
    lock.take()
    return lock


def test_recovery_waits_until_the_agent_has_stopped(tmp_path: Path) -> None:
    config = AgentConfig(data_dir=tmp_path)
    with pytest.raises(MigrationRefused, match="no data of etcd"):
        recover(config)
    (tmp_path / "storage" / "etcd").mkdir(parents=True)
    lock = held(tmp_path / "storage")
    with pytest.raises(MigrationRefused, match=r"in use by another process .*: stop the agent"):
        recover(config)
    assert not (tmp_path / "storage" / RECOVER_FILE).exists()
    lock.release()
    assert recover(config) == tmp_path / "storage" / RECOVER_FILE


async def test_no_etcd_is_formed_beside_a_running_agent_s_data(tmp_path: Path) -> None:
    lock = held(tmp_path / "store")
    with pytest.raises(Locked):
        await migrate(AgentConfig(data_dir=tmp_path, server=True), "etcd", Machine())
    assert os.listdir(tmp_path) == ["store"]
    lock.release()


async def test_running_agent_s_etcd_is_left_alone(tmp_path: Path) -> None:
    lock = held(tmp_path / "storage")
    config = AgentConfig(data_dir=tmp_path, server=True, node_name="alpha")
    with pytest.raises(Locked):
        await migrate(config, "sqlite", Machine())
    assert os.listdir(tmp_path / "storage") == ["lock"]
    lock.release()
