"""Settings as the API shows them."""

import dataclasses
from pathlib import Path
from typing import Any, cast

import pytest

from isthmus.agent.debug_config import debug_config
from isthmus.config.model import (
    AclConfig,
    AddressConfig,
    AgentConfig,
    ConnectConfig,
    GossipConfig,
    PortConfig,
    StorageConfig,
)
from isthmus.wire import gojson


def shown(**config: Any) -> dict[str, Any]:
    return cast(dict[str, Any], debug_config(AgentConfig(node_name="n1", **config)))


def test_no_secret_is_shown() -> None:
    encoded = gojson.encode(
        shown(
            data_dir=Path("/data"),
            gossip=GossipConfig(encrypt="S3CRET-key"),
            acl=AclConfig(tokens={"replication": "S3CRET-token"}),
            connect=ConnectConfig(ca_config={"private_key": "S3CRET-ca"}),
            storage=StorageConfig(password="S3CRET-etcd"),
            services=({"Name": "web", "Token": "S3CRET-service"},),
            checks=({"Name": "c", "Header": {"Authorization": ["S3CRET-header"]}},),
            origins={"encrypt": "S3CRET-file"},
        )
    )
    assert b"S3CRET" not in encoded
    assert encoded.count(b'"hidden"') == 5  # Gossip's key stands there twice.


def test_every_secret_field_is_hidden_or_left_out() -> None:
    """Fields that do not show in a record's text are secret: none may get past."""

    def secrets(record: Any, path: str = "") -> set[str]:
        found = set[str]()
        for field in dataclasses.fields(record):
            value, name = getattr(record, field.name), f"{path}{field.name}"
            if dataclasses.is_dataclass(value):
                found |= secrets(value, f"{name}.")
            elif not field.repr:
                found.add(name)
        return found

    assert secrets(AgentConfig()) == {"acl.tokens", "gossip.encrypt", "storage.password"}


def test_settings_have_consuls_names_and_forms() -> None:
    found = shown(
        server=True,
        addresses=AddressConfig(http=("127.0.0.1", "unix:///run/a.sock"), dns=("::1",)),
        ports=PortConfig(http=18500, dns=18600),
    )
    assert (found["ServerMode"], found["NodeName"], found["DNSDomain"]) == (True, "n1", "consul.")
    assert found["HTTPAddrs"] == ["tcp://127.0.0.1:18500", "unix:///run/a.sock"]
    assert found["DNSAddrs"] == ["udp://[::1]:18600"]
    assert found["RetryJoinIntervalLAN"] == "30s"
    assert (found["HTTPSPort"], found["EncryptKey"]) == (-1, "")


@pytest.mark.parametrize("enabled", [False, True])
def test_consuls_debug_command_finds_what_it_looks_for(enabled: bool) -> None:
    found = shown(enable_debug=enabled)
    assert (found["EnableDebug"], found["ACLsEnabled"]) == (enabled, False)
