"""From a server's name to the way there."""

import pytest

from isthmus.errors import InvalidNodeName
from isthmus.federation.route import Direct, ViaGateway, Way, way_to, way_to_member


@pytest.mark.parametrize(
    ("dc", "node", "gateways", "way"),
    [
        ("dc1", "alpha", True, Direct("dc1", "alpha")),
        ("DC1", "alpha", True, Direct("DC1", "alpha")),
        ("dc2", "alpha", False, Direct("dc2", "alpha")),
        ("dc2", "alpha", True, ViaGateway("dc2", "alpha")),
        ("dc2", "*", True, ViaGateway("dc2", "*")),
    ],
)
def test_way_depends_on_datacenter_and_mode(dc: str, node: str, gateways: bool, way: Way) -> None:
    assert way_to(dc, node, own_dc="dc1", gateways=gateways) == way


def test_member_name_is_taken_apart() -> None:
    way = way_to_member("alpha.dc2", own_dc="dc1", gateways=True)
    assert way == ViaGateway("dc2", "alpha")


@pytest.mark.parametrize("name", ["alpha", "a.b.dc2", "", "alpha."])
def test_name_without_a_datacenter_is_refused(name: str) -> None:
    with pytest.raises(InvalidNodeName, match="does not encode a datacenter"):
        way_to_member(name, own_dc="dc1", gateways=True)


@pytest.mark.parametrize(
    ("node", "sni"), [("alpha", "alpha.server.dc2.consul"), ("*", "server.dc2.consul")]
)
def test_gateways_are_asked_by_server_name(node: str, sni: str) -> None:
    assert ViaGateway("dc2", node).sni("consul.") == sni
