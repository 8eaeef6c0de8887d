"""What the agent's API shows of the configuration."""

from pathlib import Path

from isthmus.agent.api import _shown_config
from isthmus.config.model import AclConfig, AgentConfig, ConnectConfig, GossipConfig
from isthmus.wire import gojson


def test_shown_configuration_holds_no_secret() -> None:
    config = AgentConfig(
        data_dir=Path("/data"),
        gossip=GossipConfig(encrypt="S3CRET-key"),
        acl=AclConfig(tokens={"replication": "S3CRET-token"}),
        connect=ConnectConfig(ca_config={"private_key": "S3CRET-ca"}),
        services=({"Name": "web", "Token": "S3CRET-service"},),
        checks=({"Name": "c", "Header": {"Authorization": ["S3CRET-header"]}},),
    )
    shown = gojson.encode(_shown_config(config))
    assert b"S3CRET" not in shown
    assert b'"data_dir":"/data"' in shown
