"""What replication writes, and which index it waits for."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from isthmus.federation.replication import ReplicationIndex, writes_to_follow
from isthmus.model.federation import (
    DELETE,
    UPSERT,
    FederationState,
    FederationStateRequest,
)
from isthmus.model.timestamp import Timestamp


def make_state(dc: str, modify_index: int, primary: int = 0) -> FederationState:
    return FederationState(
        datacenter=dc,
        updated_at=Timestamp(modify_index),
        modify_index=modify_index,
        create_index=3,
        primary_modify_index=primary or modify_index,
    )


def apply(
    writes: list[FederationStateRequest], stored: list[FederationState], index: int
) -> list[FederationState]:
    table = {state.datacenter: state for state in stored}
    for write in writes:
        assert write.state is not None
        index += 1
        if write.op == DELETE:
            del table[write.state.datacenter]
        else:
            table[write.state.datacenter] = msgspec.structs.replace(
                write.state, create_index=index, modify_index=index
            )
    return list(table.values())


def test_new_record_is_written_with_the_primarys_index() -> None:
    (write,) = writes_to_follow([make_state("dc1", 17)], [])
    assert write.op == UPSERT
    assert write.state == FederationState(
        datacenter="dc1", updated_at=Timestamp(17), primary_modify_index=17
    )


def test_deletions_come_first() -> None:
    writes = writes_to_follow([make_state("dc1", 17)], [make_state("dc9", 4)])
    assert [(w.op, w.state and w.state.datacenter) for w in writes] == [
        (DELETE, "dc9"),
        (UPSERT, "dc1"),
    ]


def test_record_of_a_rebuilt_primary_with_an_old_index_is_written() -> None:
    stored = apply(writes_to_follow([make_state("dc1", 17)], []), [], 100)
    rebuilt = msgspec.structs.replace(make_state("dc1", 17), updated_at=Timestamp(99))
    assert len(writes_to_follow([rebuilt], stored)) == 1


@given(
    primary=st.dictionaries(st.sampled_from(["dc1", "dc2", "dc3", "dc4"]), st.integers(1, 50)),
    ours=st.dictionaries(st.sampled_from(["dc1", "dc2", "dc3", "dc4"]), st.integers(1, 50)),
)
def test_one_round_closes_every_gap_and_the_second_finds_none(
    primary: dict[str, int], ours: dict[str, int]
) -> None:
    theirs = [make_state(dc, index) for dc, index in primary.items()]
    stored = [make_state(dc, 7, index) for dc, index in ours.items()]
    after = apply(writes_to_follow(theirs, stored), stored, 100)
    assert {state.datacenter: state.primary_modify_index for state in after} == primary
    assert writes_to_follow(theirs, after) == []


def test_index_that_goes_back_starts_over() -> None:
    index = ReplicationIndex()
    assert not index.receive(17)
    assert index.last == 17
    assert index.receive(5)
    assert index.last == 0
    assert not index.receive(5)
    index.reset()
    assert index.last == 0
