"""When our gateways are written to the primary, and which records are pruned."""

from datetime import UTC, datetime
from random import Random

import msgspec

from isthmus.federation.announce import (
    PRUNE_INTERVAL,
    REPAIR_INTERVAL,
    AnnounceOutput,
    Announcer,
    DeleteState,
    Pruner,
    StateWritten,
    WriteFailed,
    WriteState,
    state_to_announce,
    states_to_prune,
)
from isthmus.model.catalog import CheckServiceNode, HealthCheck, Node, NodeService
from isthmus.model.federation import FederationState
from isthmus.model.timestamp import Timestamp

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
GATEWAY = CheckServiceNode(
    node=Node(node="n1", address="10.0.0.1", modify_index=5),
    service=NodeService(id="gw", kind="mesh-gateway", port=8443, modify_index=6),
    checks=(HealthCheck(check_id="c", output="ok", modify_index=7),),
)


def test_unknown_datacenter_announces_itself_even_without_gateways() -> None:
    state = state_to_announce("dc2", (), None, wall=NOW)
    assert state == FederationState(datacenter="dc2", updated_at=Timestamp.of(NOW))


def test_equal_record_is_not_written_again() -> None:
    stored = FederationState(datacenter="dc2", mesh_gateways=(GATEWAY,), modify_index=9)
    assert state_to_announce("dc2", (GATEWAY,), stored, wall=NOW) is None


def test_indexes_do_not_count_as_a_difference() -> None:
    stored = FederationState(datacenter="dc2", mesh_gateways=(GATEWAY,))
    assert GATEWAY.service is not None
    moved = msgspec.structs.replace(
        GATEWAY, service=msgspec.structs.replace(GATEWAY.service, modify_index=99)
    )
    assert state_to_announce("dc2", (moved,), stored, wall=NOW) is None


def test_changed_check_output_is_written() -> None:
    stored = FederationState(datacenter="dc2", mesh_gateways=(GATEWAY,))
    assert GATEWAY.checks is not None
    changed = msgspec.structs.replace(
        GATEWAY, checks=(msgspec.structs.replace(GATEWAY.checks[0], output="refused"),)
    )
    state = state_to_announce("dc2", (changed,), stored, wall=NOW)
    assert state is not None
    assert state.mesh_gateways == (changed,)


def test_lost_gateway_is_written() -> None:
    stored = FederationState(datacenter="dc2", mesh_gateways=(GATEWAY,))
    state = state_to_announce("dc2", (), stored, wall=NOW)
    assert state is not None
    assert state.mesh_gateways is None


def test_records_of_departed_datacenters_are_pruned_our_own_never() -> None:
    states = [FederationState(datacenter=dc) for dc in ("dc1", "dc2", "dc3")]
    assert states_to_prune(states, ["DC2"], own_dc="dc1") == ["dc3"]


# The core that decides when; `tests/unit/server/test_leader.py` runs it with asyncio around it.


class NoJitter(Random):
    def random(self) -> float:
        return 0.0


def make_announcer(*, enabled: bool = True) -> Announcer:
    announcer = Announcer("dc2", enabled=lambda: enabled, wall=lambda: NOW, rng=NoJitter(), now=0.0)
    announcer.set_states((), now=0.0)
    return announcer


def outputs(announcer: Announcer, now: float) -> list[AnnounceOutput]:
    announcer.handle_timer(now=now)
    return announcer.take_outputs()


OURS = FederationState(datacenter="dc2", mesh_gateways=(GATEWAY,), updated_at=Timestamp.of(NOW))


def test_nothing_is_written_before_both_tables_are_known() -> None:
    assert outputs(make_announcer(), 0.0) == []


def test_gateways_that_the_primary_lacks_are_written_at_once() -> None:
    announcer = make_announcer()
    announcer.set_gateways((GATEWAY,), now=1.0)
    assert outputs(announcer, 1.0) == [WriteState(OURS)]
    assert announcer.next_timer() is None
    announcer.written(now=1.5)
    assert outputs(announcer, 1.5) == [StateWritten(OURS)]
    assert announcer.next_timer() == 1.5 + REPAIR_INTERVAL


def test_change_during_a_write_is_written_after_it() -> None:
    announcer = make_announcer()
    announcer.set_gateways((GATEWAY,), now=0.0)
    outputs(announcer, 0.0)
    announcer.set_gateways((), now=1.0)
    assert outputs(announcer, 1.0) == []
    announcer.written(now=2.0)
    assert outputs(announcer, 2.0)[-1] == WriteState(
        FederationState(datacenter="dc2", updated_at=Timestamp.of(NOW))
    )


def test_refused_write_is_repeated_and_sooner_after_news() -> None:
    announcer = make_announcer()
    announcer.set_gateways((GATEWAY,), now=0.0)
    outputs(announcer, 0.0)
    announcer.write_failed("no way", now=1.0)
    assert announcer.next_timer() == 3.0
    assert outputs(announcer, 2.9) == [WriteFailed("no way", 2.0)]
    announcer.wake(now=2.9)
    assert outputs(announcer, 2.9) == [WriteState(OURS)]


def test_disabled_feature_writes_nothing() -> None:
    announcer = make_announcer(enabled=False)
    announcer.set_gateways((GATEWAY,), now=0.0)
    assert outputs(announcer, 0.0) == []


def test_departed_datacenter_is_pruned_at_once_only_if_it_was_seen() -> None:
    known = {"dc1", "dc2"}
    pruner = Pruner("dc1", known_dcs=lambda: known, now=0.0)
    pruner.set_states(tuple(FederationState(datacenter=dc) for dc in ("dc1", "dc2", "dc3")))
    known.discard("dc2")
    pruner.datacenter_departed(now=5.0)
    pruner.handle_timer(now=5.0)
    assert pruner.take_outputs() == [DeleteState("dc2")]
    assert pruner.next_timer() == PRUNE_INTERVAL
    pruner.handle_timer(now=PRUNE_INTERVAL)
    assert pruner.take_outputs() == [DeleteState("dc2"), DeleteState("dc3")]
