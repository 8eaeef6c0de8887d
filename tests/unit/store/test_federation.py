"""Federation states: the rules of federation.md §9.1."""

import pytest

from isthmus.errors import InvalidRequest
from isthmus.model.catalog import CheckServiceNode, Node
from isthmus.model.federation import (
    DELETE,
    UPSERT,
    FederationState,
    FederationStateRequest,
)
from support.stores import Driven, Sleeper

GATEWAYS = (CheckServiceNode(node=Node(node="alpha", create_index=77, modify_index=78)),)


def upsert(dc: str, *, primary_index: int = 0, gateways: bool = True) -> FederationStateRequest:
    state = FederationState(
        datacenter=dc,
        mesh_gateways=GATEWAYS if gateways else None,
        primary_modify_index=primary_index,
        create_index=900,
        modify_index=901,
    )
    return FederationStateRequest(op=UPSERT, state=state)


def delete(dc: str) -> FederationStateRequest:
    return FederationStateRequest(op=DELETE, state=FederationState(datacenter=dc))


def test_new_record_takes_the_index_for_all_its_indexes() -> None:
    driven = Driven()
    assert driven.execute(upsert("dc2")) is True
    state = driven.store.federation.get("dc2").value
    assert state is not None
    assert (state.create_index, state.modify_index, state.primary_modify_index) == (2, 2, 2)


def test_record_again_keeps_its_create_index() -> None:
    driven = Driven()
    driven.execute(upsert("dc2"))
    driven.execute(upsert("dc2", primary_index=55))
    state = driven.store.federation.get("dc2").value
    assert state is not None
    assert (state.create_index, state.modify_index, state.primary_modify_index) == (2, 3, 55)


def test_gateways_keep_the_indexes_of_their_datacenter() -> None:
    driven = Driven()
    driven.execute(upsert("dc2"))
    assert driven.store.federation.gateways().value == {"dc2": GATEWAYS}
    assert driven.reloaded().federation.gateways().value == {"dc2": GATEWAYS}


def test_lookups_ignore_case() -> None:
    driven = Driven()
    driven.execute(upsert("DC2"))
    assert driven.store.federation.get("dc2").value is not None
    driven.execute(upsert("dc2"))
    assert [state.datacenter for state in driven.store.federation.list().value] == ["dc2"]


def test_delete_of_an_absent_record_is_no_error_and_takes_no_index() -> None:
    driven = Driven()
    assert driven.execute(delete("dc9")) is False
    assert driven.store.index == 1


def test_delete_raises_the_index_of_the_table() -> None:
    driven = Driven()
    driven.execute(upsert("dc2"))
    driven.execute(delete("dc2"))
    answer = driven.store.federation.get("dc2")
    assert (answer.value, answer.index) == (None, 3)


def test_all_three_reads_share_the_tables_index() -> None:
    driven = Driven()
    driven.execute(upsert("dc2"), upsert("dc1"))
    states = driven.store.federation
    assert {states.get("dc2").index, states.list().index, states.gateways().index} == {3}
    assert [state.datacenter for state in states.list().value] == ["dc1", "dc2"]


def test_datacenters_without_gateways_are_left_out() -> None:
    driven = Driven()
    driven.execute(upsert("dc1"), upsert("dc2", gateways=False))
    assert list(driven.store.federation.gateways().value) == ["dc1"]


def test_every_reader_wakes_at_any_write_and_lists_are_kept_between() -> None:
    driven = Driven()
    driven.execute(upsert("dc1"))
    states = driven.store.federation
    kept = states.list()
    assert states.list() is kept
    sleeper = Sleeper(driven.store, states.get("dc1").topics)
    driven.execute(upsert("dc2"))
    assert sleeper.stop()
    assert states.list() is not kept


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (FederationStateRequest(op=UPSERT), "invalid request: missing federation state datacenter"),
        (upsert(""), "invalid request: missing federation state datacenter"),
        (
            FederationStateRequest(op="bogus", state=FederationState(datacenter="dc1")),
            "Invalid federation state operation: bogus",
        ),
    ],
)
def test_bad_writes_are_refused(request_: FederationStateRequest, text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Driven().execute(request_)
    assert str(caught.value) == text
