"""The table of gateways: which lists it builds, and which it answers with."""

from random import Random

import msgspec
import pytest

from isthmus.federation.locator import (
    GatewayLocator,
    GatewaysChanged,
    LocatorPopulated,
    WayToPrimaryChanged,
    usable_addresses,
)
from isthmus.model.address import lan_address, wan_address
from isthmus.model.catalog import (
    CheckServiceNode,
    HealthCheck,
    Node,
    NodeService,
    ServiceAddress,
)
from isthmus.model.federation import FederationState


def make_gateway(
    lan: str = "10.0.0.1",
    wan: str = "198.51.100.1",
    *,
    port: int = 8443,
    wan_port: int = 443,
    meta: str = "1",
    status: str = "passing",
) -> CheckServiceNode:
    return CheckServiceNode(
        node=Node(node="n1", address="10.9.9.9", tagged_addresses={"wan": "198.51.100.99"}),
        service=NodeService(
            kind="mesh-gateway",
            service="mesh-gateway",
            address=lan,
            port=port,
            meta={"consul-wan-federation": meta} if meta else None,
            tagged_addresses={"wan": ServiceAddress(address=wan, port=wan_port)} if wan else None,
        ),
        checks=(HealthCheck(status=status),),
    )


def make_state(dc: str, *gateways: CheckServiceNode) -> FederationState:
    return FederationState(datacenter=dc, mesh_gateways=gateways or None)


def make_locator(dc: str = "dc2", primary: str = "dc1") -> GatewayLocator:
    return GatewayLocator(dc=dc, primary_dc=primary, rng=Random(1))


DC1 = make_state("dc1", make_gateway("10.1.0.1", "198.51.100.1"))
DC2 = make_state("dc2", make_gateway("10.2.0.1", "198.51.100.2"))


def test_nothing_is_offered_before_states_were_told() -> None:
    locator = make_locator()
    locator.set_primary_gateways(["198.51.100.7:443"])
    assert locator.candidates("dc1") == ()
    assert not locator.populated


def test_configured_gateways_lead_to_the_primary_while_no_state_is_known() -> None:
    locator = make_locator()
    locator.set_primary_gateways(["198.51.100.7:443"])
    locator.set_states(())
    assert locator.candidates("dc1") == ("198.51.100.7:443",)
    assert locator.candidates("dc3") == ()


def test_own_gateways_lead_everywhere_once_they_are_known() -> None:
    locator = make_locator()
    locator.set_primary_gateways(["198.51.100.7:443"])
    locator.set_states((DC1, DC2))
    assert locator.candidates("dc1") == ("10.2.0.1:8443",)
    assert locator.candidates("dc3") == ("10.2.0.1:8443",)


def test_primary_uses_its_own_gateways_for_every_secondary() -> None:
    locator = make_locator("dc1")
    locator.set_states((DC1, DC2))
    assert locator.candidates("DC2") == ("10.1.0.1:8443",)


def test_three_failures_of_replication_turn_to_the_primarys_gateways() -> None:
    locator = make_locator()
    locator.set_primary_gateways(["198.51.100.7:443"])
    locator.set_states((DC1, DC2))
    locator.replication_started()
    for _ in range(2):
        locator.replication_failed()
    assert locator.candidates("dc1") == ("10.2.0.1:8443",)
    locator.take_outputs()
    locator.replication_failed()
    assert set(locator.candidates("dc1")) == {"198.51.100.1:443", "198.51.100.7:443"}
    assert locator.candidates("dc3") == ("10.2.0.1:8443",)
    assert locator.take_outputs() == [WayToPrimaryChanged(through_local=False)]
    locator.replication_succeeded()
    assert locator.candidates("dc1") == ("10.2.0.1:8443",)
    assert locator.take_outputs() == [WayToPrimaryChanged(through_local=True)]


def test_follower_stays_with_its_own_gateways() -> None:
    locator = make_locator()
    locator.set_states((DC1, DC2))
    for _ in range(5):
        locator.replication_failed()
    assert locator.candidates("dc1") == ("10.2.0.1:8443",)


def test_loss_of_leadership_forgets_failures() -> None:
    locator = make_locator()
    locator.set_states((DC1, DC2))
    locator.replication_started()
    for _ in range(3):
        locator.replication_failed()
    locator.replication_stopped()
    assert locator.candidates("dc1") == ("10.2.0.1:8443",)


def test_gateway_that_failed_is_tried_last_and_never_left_out() -> None:
    locator = make_locator()
    two = make_state("dc2", make_gateway("10.2.0.1"), make_gateway("10.2.0.2"))
    locator.set_states((two,))
    locator.gateway_failed("10.2.0.1:8443")
    for _ in range(20):
        assert locator.candidates("dc3") == ("10.2.0.2:8443", "10.2.0.1:8443")
    locator.gateway_worked("10.2.0.1:8443")
    firsts = {locator.candidates("dc3")[0] for _ in range(50)}
    assert firsts == {"10.2.0.1:8443", "10.2.0.2:8443"}


def test_first_states_and_every_change_of_a_list_are_events() -> None:
    locator = make_locator()
    locator.set_states((DC2,))
    locator.set_states((DC2,))
    locator.set_primary_gateways(["b:1", "a:1"])
    locator.set_primary_gateways(["a:1", "b:1"])
    assert locator.take_outputs() == [
        GatewaysChanged(("10.2.0.1:8443",), (), ()),
        LocatorPopulated(),
        GatewaysChanged(("10.2.0.1:8443",), (), ("a:1", "b:1")),
    ]


def test_hearsay_of_a_newer_record_is_used_while_cut_off_and_forgotten_then() -> None:
    locator = make_locator()
    old = msgspec.structs.replace(DC1, primary_modify_index=7)
    moved = make_state("dc1", make_gateway("10.1.0.9", "198.51.100.9"))
    locator.set_states((old,))
    locator.replication_started()
    for _ in range(3):
        locator.replication_failed()
    locator.set_hearsay((msgspec.structs.replace(moved, primary_modify_index=7),))
    assert locator.candidates("dc1") == ("198.51.100.1:443",)
    locator.set_hearsay((msgspec.structs.replace(moved, primary_modify_index=8), DC2))
    assert set(locator.candidates("dc1")) == {"198.51.100.1:443", "198.51.100.9:443"}
    locator.replication_succeeded()
    locator.replication_failed()
    assert locator.candidates("dc1") == ("198.51.100.1:443",)


@pytest.mark.parametrize(
    ("gateway", "kept"),
    [
        (make_gateway(), True),
        (make_gateway(status="warning"), True),
        (make_gateway(status="critical"), False),
        (make_gateway(meta=""), False),
        (make_gateway(meta="true"), False),
    ],
)
def test_only_healthy_gateways_that_expose_servers_count(
    gateway: CheckServiceNode, kept: bool
) -> None:
    assert usable_addresses([gateway], wan=True) == (("198.51.100.1:443",) if kept else ())


def test_best_address_follows_the_order_of_the_specification() -> None:
    assert wan_address(make_gateway()) == ("198.51.100.1", 443)
    assert wan_address(make_gateway(wan_port=0)) == ("198.51.100.1", 8443)
    assert wan_address(make_gateway(wan="")) == ("10.0.0.1", 8443)
    assert wan_address(make_gateway("", "")) == ("198.51.100.99", 8443)
    assert lan_address(make_gateway("", "")) == ("10.9.9.9", 8443)


def test_ipv6_addresses_stand_in_brackets() -> None:
    assert usable_addresses([make_gateway("fd00::1")], wan=False) == ("[fd00::1]:8443",)
