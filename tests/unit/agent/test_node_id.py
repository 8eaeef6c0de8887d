"""The node id over restarts."""

from pathlib import Path

import pytest

from isthmus.agent.node_id import kept_node_id, node_id
from isthmus.config.model import AgentConfig
from isthmus.errors import ConfigError


def zeros(size: int) -> bytes:
    return bytes(size)


def ones(size: int) -> bytes:
    return b"\xff" * size


def test_node_id_is_kept_in_the_data_directory(tmp_path: Path) -> None:
    config = AgentConfig(data_dir=tmp_path / "data")
    first = node_id(config, zeros)
    assert first == "00000000-0000-4000-8000-000000000000"
    assert node_id(config, ones) == first


def test_configured_node_id_wins(tmp_path: Path) -> None:
    config = AgentConfig(node_id="A0000000-0000-0000-0000-000000000001", data_dir=tmp_path)
    assert node_id(config, zeros) == "a0000000-0000-0000-0000-000000000001"
    assert list(tmp_path.iterdir()) == []


def test_without_a_data_directory_each_start_has_its_own() -> None:
    assert node_id(AgentConfig(dev=True), zeros) != node_id(AgentConfig(dev=True), ones)


@pytest.mark.parametrize("content", ["", "no uuid"])
def test_file_without_a_uuid_is_a_mistake_of_the_configuration(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "node-id").write_text(content)
    with pytest.raises(
        ConfigError, match=r"node_id: cannot be used: .*; write the node's UUID into"
    ):
        node_id(AgentConfig(data_dir=tmp_path), zeros)


def test_data_directory_that_cannot_be_written_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError) as caught:
        node_id(AgentConfig(data_dir=tmp_path / "file"), zeros)
    assert "node_id: cannot be used: " in str(caught.value)
    assert "[Errno" not in str(caught.value)
    assert str(caught.value).endswith("data_dir that it may write, or set node_id to a UUID")


def test_id_that_was_never_made_is_not_made_by_asking(tmp_path: Path) -> None:
    config = AgentConfig(data_dir=tmp_path / "data")
    assert kept_node_id(config) == ""
    assert not (tmp_path / "data").exists()
    made = node_id(config, zeros)
    assert kept_node_id(config) == made
