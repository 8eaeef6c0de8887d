import pytest

from isthmus.mesh.gateways import LAN, endpoints, remote_gateways
from isthmus.mesh.routes import Endpoint
from isthmus.model.address import WAN, lan_address, wan_address
from isthmus.model.catalog import (
    CheckServiceNode,
    HealthCheck,
    Node,
    NodeService,
    ServiceAddress,
    Weights,
)


def make_gateway(
    node: str = "gw",
    *,
    address: str = "10.2.0.20",
    wan: tuple[str, int] | None = ("198.51.100.5", 443),
    node_wan: str = "",
    status: str = "passing",
    index: int = 1,
    kind: str = "mesh-gateway",
    exposes: bool = True,
    weights: Weights | None = None,
) -> CheckServiceNode:
    return CheckServiceNode(
        node=Node(
            node=node,
            address="10.2.0.1",
            tagged_addresses={"wan": node_wan} if node_wan else None,
        ),
        service=NodeService(
            kind=kind,
            id="mesh-gateway",
            service="mesh-gateway",
            address=address,
            port=8443,
            tagged_addresses={"wan": ServiceAddress(address=wan[0], port=wan[1])} if wan else None,
            meta={"consul-wan-federation": "1"} if exposes else None,
            weights=weights,
            modify_index=index,
        ),
        checks=(HealthCheck(status=status),),
    )


@pytest.mark.parametrize(
    ("instance", "expected"),
    [
        (make_gateway(), ("198.51.100.5", 443)),
        (make_gateway(wan=("gateway.example.com", 0)), ("gateway.example.com", 8443)),
        (make_gateway(wan=None), ("10.2.0.20", 8443)),
        (make_gateway(wan=None, address="", node_wan="203.0.113.9"), ("203.0.113.9", 8443)),
        (make_gateway(wan=None, address=""), ("10.2.0.1", 8443)),
        (CheckServiceNode(), ("", 0)),
    ],
)
def test_wan_address_is_the_best_one(instance: CheckServiceNode, expected: tuple[str, int]) -> None:
    assert wan_address(instance) == expected


@pytest.mark.parametrize(
    ("instance", "expected"),
    [
        (make_gateway(), ("10.2.0.20", 8443)),
        (make_gateway(address=""), ("10.2.0.1", 8443)),
        (CheckServiceNode(), ("", 0)),
    ],
)
def test_lan_address_is_the_best_one(instance: CheckServiceNode, expected: tuple[str, int]) -> None:
    assert lan_address(instance) == expected


def hosts(*found: Endpoint) -> list[str]:
    return [endpoint.host for endpoint in found]


@pytest.mark.parametrize(
    ("dump_index", "state_index", "expected"),
    [(5, 4, "192.0.2.1"), (5, 5, "192.0.2.1"), (5, 6, "192.0.2.2")],
)
def test_newer_source_wins_and_the_dump_when_equal(
    dump_index: int, state_index: int, expected: str
) -> None:
    dump = [make_gateway(wan=("192.0.2.1", 443), index=dump_index)]
    state = [make_gateway(wan=("192.0.2.2", 443), index=state_index)]
    assert hosts(*remote_gateways(dump, state)) == [expected]


def test_federation_state_serves_when_the_datacenter_does_not_answer() -> None:
    assert hosts(*remote_gateways([], [make_gateway()])) == ["198.51.100.5"]


def test_only_mesh_gateways_count_and_for_servers_only_those_that_expose_them() -> None:
    gateways = [
        make_gateway("a", wan=("192.0.2.1", 443)),
        make_gateway("b", wan=("192.0.2.2", 443), exposes=False),
        make_gateway("c", wan=("192.0.2.3", 443), kind="connect-proxy"),
    ]
    assert hosts(*remote_gateways(gateways, [])) == ["192.0.2.1", "192.0.2.2"]
    assert hosts(*remote_gateways(gateways, [], exposing_only=True)) == ["192.0.2.1"]


def test_critical_gateways_are_left_out_unless_all_are() -> None:
    good = make_gateway("b", wan=("192.0.2.2", 443), status="warning")
    bad = make_gateway("a", wan=("192.0.2.1", 443), status="critical")
    assert hosts(*remote_gateways([bad, good], [])) == ["192.0.2.2"]
    assert hosts(*remote_gateways([bad], [])) == ["192.0.2.1"]


def test_order_does_not_depend_on_the_source() -> None:
    gateways = [make_gateway(node, wan=(f"192.0.2.{n}", 443)) for n, node in enumerate("cab")]
    assert remote_gateways(gateways, []) == remote_gateways(gateways[::-1], [])


@pytest.mark.parametrize(
    ("weights", "status", "expected"),
    [
        (None, "passing", 1),
        (Weights(passing=10, warning=2), "passing", 10),
        (Weights(passing=10, warning=2), "warning", 2),
        (Weights(passing=10, warning=0), "warning", 1),
    ],
)
def test_weight_follows_the_state(weights: Weights | None, status: str, expected: int) -> None:
    (endpoint,) = endpoints([make_gateway(weights=weights, status=status)], WAN)
    assert endpoint.weight == expected


def test_local_instances_are_reached_at_their_lan_address() -> None:
    assert endpoints([make_gateway()], LAN) == (Endpoint("10.2.0.20", 8443),)
