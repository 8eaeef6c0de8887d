"""The node id over restarts, and what the agent says of itself."""

from pathlib import Path

import pytest

from isthmus.agent.identity import identity, node_facts, node_id
from isthmus.config.model import AddressConfig, AgentConfig, TlsConfig
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


def test_identity_and_facts_follow_the_configuration() -> None:
    config = AgentConfig(
        node_name="s1",
        datacenter="dc2",
        bootstrap_expect=1,
        tls=TlsConfig(ca_file="ca.pem"),
        node_meta={"rack": "7"},
        addresses=AddressConfig(advertise="10.0.0.1", tagged={"wan": "192.0.2.1"}),
    )
    own = identity(config, "id-1")
    assert (own.node, own.node_id, own.dc) == ("s1", "id-1", "dc2")
    assert (own.rpc_port, own.wan_port, own.bootstrap, own.expect) == (8300, 8302, True, 1)
    assert own.uses_tls
    facts = node_facts(config, "id-1")
    assert (facts.dc, facts.node, facts.address) == ("dc2", "s1", "10.0.0.1")
    assert facts.tagged_addresses == {"wan": "192.0.2.1"}
    assert facts.meta == {"consul-network-segment": "", "rack": "7"}
