"""Commands take indexes one by one, or change nothing."""

import pytest

from isthmus.errors import RequestError
from isthmus.model.catalog import DeregisterRequest, HealthCheck, NodeService, RegisterRequest
from isthmus.model.federation import FederationState, FederationStateRequest
from isthmus.model.kv import KV_CAS, KV_SET, DirEntry, KVSRequest
from isthmus.store import commands
from support.stores import Driven


def set_key(key: str, value: bytes = b"v") -> KVSRequest:
    return KVSRequest(op=KV_SET, dir_ent=DirEntry(key=key, value=value))


def test_each_command_takes_the_next_index_and_all_its_rows_have_it() -> None:
    driven = Driven()
    register = RegisterRequest(
        node="x",
        address="10.0.0.1",
        service=NodeService(id="web", service="web"),
        check=HealthCheck(node="x", check_id="c", service_id="web"),
    )
    driven.execute(set_key("a"), register, set_key("b"))
    (item,) = driven.store.catalog.check_service_nodes("web").value
    assert item.node is not None
    assert item.service is not None
    assert item.checks is not None
    assert (item.node.modify_index, item.service.modify_index) == (3, 3)
    assert [check.modify_index for check in item.checks] == [3]
    entries = driven.store.kv.list("").value
    assert [entry.modify_index for entry in entries] == [2, 4]


def test_refused_command_takes_no_index() -> None:
    driven = Driven()
    lost = KVSRequest(op=KV_CAS, dir_ent=DirEntry(key="a", modify_index=9))
    assert driven.execute(set_key("a"), lost, set_key("b")) is False
    assert [entry.modify_index for entry in driven.store.kv.list("").value] == [2, 3]
    assert driven.store.index == 3


def test_failed_command_leaves_what_the_others_of_its_batch_did() -> None:
    driven = Driven()
    overlay = driven.store.overlay()
    commands.apply(overlay, set_key("a"), 2)
    bad = RegisterRequest(node="x", checks=(HealthCheck(node="x", service_id="no"),))
    with pytest.raises(RequestError):
        commands.apply(overlay, bad, 3)
    assert overlay.tables["nodes"].changes == {}
    assert set(overlay.tables["kv"].changes) == {b"a"}


def test_later_command_on_a_key_wins_and_the_engine_gets_one_write() -> None:
    driven = Driven()
    overlay = driven.store.overlay()
    for index in range(2, 5):
        commands.apply(overlay, set_key("a", b"%d" % index), index)
    batch = driven.store.batch(overlay, index=4, batch_id=bytes(16), commands=3)
    assert sorted(batch.puts) == [b"d/0000/kv/a", b"i/0000/kv"]
    assert (batch.deletes, batch.index, batch.commands) == (set(), 4, 3)


@pytest.mark.parametrize(
    ("command", "least"),
    [
        (set_key("k" * 10, bytes(1000)), 1010),
        (RegisterRequest(checks=(HealthCheck(output="o" * 500),)), 500),
        (FederationStateRequest(state=FederationState(mesh_gateways=())), 1),
        (DeregisterRequest(), 1),
    ],
)
def test_size_of_a_command_counts_its_payload(command: commands.Command, least: int) -> None:
    assert least < commands.size(command) < least + 10_000
