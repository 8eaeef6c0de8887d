"""Our pools as servers ask them, and where their keys lie."""

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest

from isthmus.agent.keyring import ServerPools, keyring_file, keyring_warnings, snapshot_file
from isthmus.config.model import AgentConfig, GossipConfig
from isthmus.errors import InvalidRequest, RequestError, Unavailable
from isthmus.model.keyring import INSTALL, LIST, REMOVE, USE, KeyringRequest, KeyringResponse
from isthmus.net.gossip import KeyOperation, KeyResult

KEY = bytes(range(16))
KEY_TEXT = base64.b64encode(KEY).decode()
OTHER_TEXT = base64.b64encode(bytes(16)).decode()


class FakePool:
    """Answers as it is told."""

    def __init__(self, result: KeyResult | None = None) -> None:
        self.told: list[tuple[object, ...]] = []
        self.failure: Exception | None = None
        self.result = result

    async def user_event(self, name: str, payload: bytes, *, coalesce: bool = False) -> int:
        if self.failure is not None:
            raise self.failure
        self.told.append((name, payload, coalesce))
        return 1

    async def keys(
        self, operation: KeyOperation, key: bytes = b"", *, relay_factor: int = 0
    ) -> KeyResult:
        self.told.append((operation, key, relay_factor))
        assert self.result is not None
        return self.result


def pools(lan: FakePool | None, wan: FakePool | None = None) -> ServerPools:
    return ServerPools("dc1", lan=lambda: lan, wan=lambda: wan)


async def test_events_go_to_the_lan_pool_one_by_one() -> None:
    lan, wan = FakePool(), FakePool()
    await pools(lan, wan).fire("consul:event:x", b"p")
    assert (lan.told, wan.told) == ([("consul:event:x", b"p", False)], [])


async def test_event_that_is_too_long_is_answered_as_consul_does() -> None:
    lan = FakePool()
    lan.failure = InvalidRequest("too long")
    with pytest.raises(RequestError, match="too long") as caught:
        await pools(lan).fire("x", b"")
    assert caught.value.status == 500


@pytest.mark.parametrize(
    ("operation", "asked"),
    [
        (LIST, (KeyOperation.LIST, b"", 2)),
        (INSTALL, (KeyOperation.INSTALL, KEY, 2)),
        (USE, (KeyOperation.USE, KEY, 2)),
        (REMOVE, (KeyOperation.REMOVE, KEY, 2)),
    ],
)
async def test_each_operation_asks_the_pool_that_is_meant(
    operation: str, asked: tuple[object, ...]
) -> None:
    result = KeyResult(2, 2, 0, {}, {"k2": 1, "k1": 2}, {"k1": 2})
    lan, wan = FakePool(), FakePool(result)
    key = "" if operation == LIST else KEY_TEXT
    request = KeyringRequest(operation=operation, key=key, relay_factor=2)
    answer = await pools(lan, wan).keys(request, wan=True)
    assert (lan.told, wan.told) == ([], [asked])
    assert answer == KeyringResponse(
        wan=True,
        datacenter="dc1",
        messages={},
        keys={"k1": 2, "k2": 1},
        primary_keys={"k1": 2},
        num_nodes=2,
    )


async def test_members_that_fail_or_say_nothing_make_an_error() -> None:
    lan = FakePool(KeyResult(3, 3, 1, {"b": "no"}, {}, {}))
    answer = await pools(lan).keys(KeyringRequest(operation=LIST), wan=False)
    assert answer is not None
    assert (answer.wan, answer.error) == (False, "1/3 nodes reported failure")
    assert answer.messages == {"b": "no"}
    lan.result = KeyResult(3, 2, 0, {}, {}, {})
    answer = await pools(lan).keys(KeyringRequest(operation=LIST), wan=False)
    assert answer is not None
    assert answer.error == "2/3 nodes reported success"


async def test_pool_that_is_missing() -> None:
    starting = pools(None)
    assert await starting.keys(KeyringRequest(operation=LIST), wan=True) is None
    with pytest.raises(Unavailable):
        await starting.keys(KeyringRequest(operation=LIST), wan=False)
    with pytest.raises(Unavailable):
        await starting.fire("x", b"")


def test_files_lie_where_consul_has_them(tmp_path: Path) -> None:
    config = AgentConfig(data_dir=tmp_path)
    assert keyring_file(config, wan=False) == tmp_path / "serf/local.keyring"
    assert keyring_file(config, wan=True) == tmp_path / "serf/remote.keyring"
    assert snapshot_file(config, wan=False) == tmp_path / "serf/local.snapshot"
    assert snapshot_file(config, wan=True) == tmp_path / "serf/remote.snapshot"


def test_nothing_is_kept_where_that_is_not_wanted(tmp_path: Path) -> None:
    config = AgentConfig(data_dir=tmp_path, gossip=GossipConfig(disable_keyring_file=True))
    assert keyring_file(config, wan=False) is None
    assert snapshot_file(config, wan=False) is not None
    assert snapshot_file(replace(config, dev=True), wan=False) is None
    assert keyring_file(AgentConfig(dev=True), wan=True) is None
    assert snapshot_file(AgentConfig(dev=True), wan=True) is None


def test_warning_of_a_key_that_counts_no_more(tmp_path: Path) -> None:
    config = AgentConfig(data_dir=tmp_path, gossip=GossipConfig(encrypt=KEY_TEXT))
    assert list(keyring_warnings(config)) == []
    (tmp_path / "serf").mkdir()
    lan, wan = tmp_path / "serf/local.keyring", tmp_path / "serf/remote.keyring"
    lan.write_text(json.dumps([OTHER_TEXT, KEY_TEXT]))
    wan.write_text(json.dumps([OTHER_TEXT]))
    (warning,) = keyring_warnings(config)
    assert "WAN" in warning
    assert str(wan) in warning
    assert KEY_TEXT not in warning
    assert list(keyring_warnings(replace(config, gossip=GossipConfig()))) == []
    disabled = GossipConfig(encrypt=KEY_TEXT, disable_keyring_file=True)
    assert list(keyring_warnings(replace(config, gossip=disabled))) == []


@pytest.mark.parametrize("content", ["", "{", "{}", "\x00"])
def test_broken_file_is_left_for_the_pool_to_refuse(tmp_path: Path, content: str) -> None:
    (tmp_path / "serf").mkdir()
    (tmp_path / "serf/local.keyring").write_text(content)
    config = AgentConfig(data_dir=tmp_path, gossip=GossipConfig(encrypt=KEY_TEXT))
    assert list(keyring_warnings(config)) == []
