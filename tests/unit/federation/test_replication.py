"""What replication writes, and which index it waits for."""

from random import Random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import FEDERATION_STATES_DISABLED
from isthmus.federation.locator import GatewayLocator
from isthmus.federation.replication import (
    AskForGateways,
    FetchRecords,
    FollowRecords,
    ReplicationIndex,
    ReplicationOutput,
    ReplicationStatus,
    RoundDone,
    RoundFailed,
    StateReplicator,
    entry_writes_to_follow,
    writes_to_follow,
)
from isthmus.model.config_entry import (
    CONFIG_ENTRY_TYPES,
    COPY,
    ConfigEntry,
    ConfigEntryRequest,
    ServiceIntentionsConfigEntry,
    SourceIntention,
)
from isthmus.model.federation import (
    DELETE,
    UPSERT,
    FederationState,
    FederationStateRequest,
)
from isthmus.model.timestamp import Timestamp
from isthmus.store.store import Store
from support.stores import Driven


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


# Config entries -----------------------------------------------------------------------------------

ENTRIES = st.dictionaries(
    st.tuples(st.sampled_from(["service-defaults", "service-resolver"]), st.sampled_from("abc")),
    st.sampled_from("xyz"),
)


def entries_of(found: dict[tuple[str, str], str], index: int) -> list[ConfigEntry]:
    return [
        CONFIG_ENTRY_TYPES[kind](name=name, meta={"text": text}, modify_index=index)
        for (kind, name), text in found.items()
    ]


def contents_of(store: Store) -> dict[tuple[str, str], str]:
    return {
        (entry.kind, entry.name): (entry.meta or {})["text"]
        for entry in store.config_entries.list().value
    }


@given(primary=ENTRIES, ours=ENTRIES)
def test_one_round_copies_all_config_entries_and_the_second_finds_no_gap(
    primary: dict[tuple[str, str], str], ours: dict[tuple[str, str], str]
) -> None:
    driven = Driven()
    for entry in entries_of(ours, 1):
        driven.execute(ConfigEntryRequest(op=UPSERT, entry=entry))
    before = driven.store.index
    theirs = entries_of(primary, 999)
    writes = entry_writes_to_follow(theirs, driven.store.config_entries.list().value)
    for write in writes:
        driven.execute(write)
    assert contents_of(driven.store) == primary
    assert len(writes) == driven.store.index - before, "each was needed"
    assert len(writes) == len({*primary.items()} - {*ours.items()}) + len({*ours} - {*primary})
    assert entry_writes_to_follow(theirs, driven.store.config_entries.list().value) == []


def test_config_entries_that_are_gone_are_deleted_first() -> None:
    writes = entry_writes_to_follow(
        entries_of({("service-defaults", "a"): "x"}, 5),
        entries_of({("service-router", "a"): "x"}, 5),
    )
    assert [write.op for write in writes] == [DELETE, COPY]


def test_intention_whose_id_changed_in_the_primary_is_copied_all_the_same() -> None:
    """Written by an operator it would be refused."""
    driven = Driven()
    for legacy_id in ("one", "two"):
        source = SourceIntention(name="api", legacy_id=legacy_id)
        theirs = ServiceIntentionsConfigEntry(name="web", sources=(source,), modify_index=9)
        for write in entry_writes_to_follow([theirs], driven.store.config_entries.list().value):
            driven.execute(write)
    (found,) = driven.store.config_entries.list().value
    assert isinstance(found, ServiceIntentionsConfigEntry)
    assert found.sources == theirs.sources


def test_index_that_goes_back_starts_over() -> None:
    index = ReplicationIndex()
    assert not index.receive(17)
    assert index.last == 17
    assert index.receive(5)
    assert index.last == 0
    assert not index.receive(5)
    index.reset()
    assert index.last == 0


# The core that decides when; `tests/unit/server/test_leader.py` runs it with asyncio around it.


class NoJitter(Random):
    def random(self) -> float:
        return 0.0


def make_replicator(*known_dcs: str) -> tuple[StateReplicator, GatewayLocator]:
    locator = GatewayLocator(dc="dc2", primary_dc="dc1", rng=Random(1))
    locator.set_states(())
    locator.replication_started()
    replicator = StateReplicator(
        "dc2",
        "dc1",
        locator=locator,
        enabled=lambda: True,
        known_dcs=lambda: {"dc1", "dc2", *known_dcs},
        status=ReplicationStatus(running=True),
        rng=NoJitter(),
        now=0.0,
    )
    return replicator, locator


def outputs(replicator: StateReplicator, now: float) -> list[ReplicationOutput[FederationState]]:
    replicator.handle_timer(now=now)
    return replicator.take_outputs()


def test_round_fetches_follows_and_fetches_past_its_index() -> None:
    replicator, _ = make_replicator()
    assert outputs(replicator, 0.0) == [FetchRecords(0)]
    states = (make_state("dc1", 7),)
    replicator.fetched(states, 7, now=1.0)
    assert outputs(replicator, 1.0) == [FollowRecords(states)]
    replicator.followed(1, now=1.0)
    assert outputs(replicator, 1.0) == [RoundDone(1, went_back=False), FetchRecords(7)]
    assert replicator.status.index == 7


def fail(
    replicator: StateReplicator, now: float, text: str = "no way"
) -> list[ReplicationOutput[FederationState]]:
    """The fetch under way fails, after which the next begins; what is to be done between."""
    assert outputs(replicator, now)[-1] == FetchRecords(0)
    replicator.fetch_failed(text, now=now)
    return replicator.take_outputs()


def test_third_failure_cuts_off_and_asks_another_secondary() -> None:
    replicator, locator = make_replicator("dc3")
    assert fail(replicator, 0.0) == [RoundFailed("no way", 1.0)]
    assert fail(replicator, 1.0) == [RoundFailed("no way", 2.0)]
    before = locator.is_cut_off
    assert fail(replicator, 3.0) == [RoundFailed("no way", 4.0), AskForGateways("dc3")]
    assert (before, locator.is_cut_off) == (False, True)
    assert replicator.next_timer() is None
    replicator.not_told(now=4.0)
    assert replicator.next_timer() == 8.0


def test_failure_that_is_not_the_ways_fault_does_not_cut_off() -> None:
    replicator, locator = make_replicator()
    for now in (0.0, 1.0, 3.0, 7.0):
        fail(replicator, now, FEDERATION_STATES_DISABLED)
    assert not locator.is_cut_off


def test_news_during_a_round_that_fails_begin_the_next_at_once() -> None:
    replicator, _ = make_replicator()
    outputs(replicator, 0.0)
    replicator.wake(now=0.5)
    replicator.fetch_failed("no way", now=1.0)
    assert outputs(replicator, 1.0) == [RoundFailed("no way", 1.0), FetchRecords(0)]


def test_write_that_fails_reads_everything_again() -> None:
    replicator, locator = make_replicator()
    outputs(replicator, 0.0)
    replicator.fetched((), 7, now=0.0)
    replicator.take_outputs()
    replicator.follow_failed("no leader", now=0.0)
    assert outputs(replicator, 1.0) == [RoundFailed("no leader", 1.0), FetchRecords(0)]
    assert not locator.is_cut_off
