"""Which address is shown."""

import pytest

from isthmus.dns.addresses import Family, node_address, pack, service_address, service_port
from isthmus.model.catalog import Node, NodeService, ServiceAddress

NODE = Node(
    address="10.0.0.1",
    tagged_addresses={"lan_ipv6": "fd00::1", "wan": "198.51.100.1", "wan_ipv6": "2001:db8::1"},
)
SERVICE = NodeService(
    address="web.example",
    port=80,
    tagged_addresses={"wan": ServiceAddress(address="198.51.100.2", port=8080)},
)


@pytest.mark.parametrize(
    ("family", "wan", "address"),
    [
        (Family.V4, False, "10.0.0.1"),
        (Family.V6, False, "fd00::1"),
        (Family.V4, True, "198.51.100.1"),
        (Family.V6, True, "2001:db8::1"),
    ],
)
def test_tagged_address_of_the_family_wins(family: Family, wan: bool, address: str) -> None:
    assert node_address(NODE, family, wan=wan) == address


def test_address_of_another_family_is_not_shown() -> None:
    assert node_address(Node(address="10.0.0.1"), Family.V6, wan=False) == ""
    assert node_address(Node(address="fd00::1"), Family.V4, wan=False) == ""
    assert node_address(Node(address="fd00::1"), Family.ANY, wan=False) == "fd00::1"


def test_host_name_is_of_every_family() -> None:
    assert service_address(SERVICE, Family.V4, wan=False) == "web.example"
    assert service_address(SERVICE, Family.V6, wan=False) == "web.example"
    assert service_address(NodeService(), Family.ANY, wan=False) == ""


def test_port_goes_with_the_address() -> None:
    assert service_address(SERVICE, Family.ANY, wan=True) == "198.51.100.2"
    assert service_port(SERVICE, wan=True) == 8080
    assert service_port(SERVICE, wan=False) == 80
    without = NodeService(port=80, tagged_addresses={"wan": ServiceAddress(address="x")})
    assert service_port(without, wan=True) == 80


def test_addresses_are_packed() -> None:
    assert pack("10.0.0.1") == b"\x0a\0\0\1"
    assert pack("::1") == bytes(15) + b"\1"
    assert pack("::ffff:10.0.0.1") == b"\x0a\0\0\1"
    assert pack("web.example") is None
    assert pack("") is None
    assert pack("1\0") is None
