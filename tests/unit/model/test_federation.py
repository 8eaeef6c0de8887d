"""When two federation states say the same."""

from typing import Any

import msgspec
import pytest

from isthmus.model.catalog import CheckServiceNode, HealthCheck, Node, NodeService
from isthmus.model.federation import FederationState
from isthmus.model.timestamp import Timestamp

CHECK = HealthCheck(node="n", check_id="c", status="passing", output="ok")
GATEWAY = CheckServiceNode(
    node=Node(node="n", address="10.0.0.1"),
    service=NodeService(kind="mesh-gateway", id="mg", service="mg", port=8443),
    checks=(CHECK,),
)
OTHER = CheckServiceNode(node=Node(node="o"), service=NodeService(id="mg"))
STATE = FederationState(datacenter="dc1", mesh_gateways=(GATEWAY, OTHER))


def with_gateway(**parts: Any) -> FederationState:
    changed = msgspec.structs.replace(GATEWAY, **parts)
    return msgspec.structs.replace(STATE, mesh_gateways=(changed, OTHER))


def with_part(part: str, **fields: Any) -> FederationState:
    value = getattr(GATEWAY, part)
    return with_gateway(**{part: msgspec.structs.replace(value, **fields)})


@pytest.mark.parametrize(
    "other",
    [
        STATE,
        msgspec.structs.replace(STATE, updated_at=Timestamp(7), modify_index=9, create_index=8),
        msgspec.structs.replace(STATE, primary_modify_index=9),
        with_part("node", modify_index=9, create_index=8, meta={}, tagged_addresses={}),
        with_part("service", modify_index=9, create_index=8, tags=(), meta={}),
        with_gateway(checks=(msgspec.structs.replace(CHECK, modify_index=9, service_tags=()),)),
    ],
)
def test_times_indexes_and_nil_do_not_count(other: FederationState) -> None:
    assert STATE.is_same(other)
    assert other.is_same(STATE)


@pytest.mark.parametrize(
    "other",
    [
        msgspec.structs.replace(STATE, datacenter="dc2"),
        msgspec.structs.replace(STATE, mesh_gateways=None),
        msgspec.structs.replace(STATE, mesh_gateways=(GATEWAY,)),
        msgspec.structs.replace(STATE, mesh_gateways=(OTHER, GATEWAY)),  # No sorting is done.
        with_part("node", address="10.0.0.2"),
        with_part("node", meta={"k": "v"}),
        with_part("service", port=443),
        with_part("service", tagged_addresses={"wan": {}}),
        with_gateway(checks=()),
        with_gateway(checks=(msgspec.structs.replace(CHECK, output="other"),)),
        with_gateway(node=None),
        with_gateway(service=None),
    ],
)
def test_everything_else_counts(other: FederationState) -> None:
    assert not STATE.is_same(other)
    assert not other.is_same(STATE)


def test_states_without_gateways_are_the_same_whether_nil_or_empty() -> None:
    assert FederationState(mesh_gateways=()).is_same(FederationState())
