"""When our gateways are written to the primary, and which records are pruned."""

from datetime import UTC, datetime

import msgspec

from isthmus.federation.announce import state_to_announce, states_to_prune
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
