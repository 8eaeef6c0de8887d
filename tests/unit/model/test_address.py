"""The best address of a service instance. Source: protocol/mesh.md §3.3."""

import msgspec
import pytest

from isthmus.model.address import lan_address, wan_address
from isthmus.model.catalog import CheckServiceNode, Node, NodeService, ServiceAddress

FULL = CheckServiceNode(
    node=Node(node="n", address="10.9.0.1", tagged_addresses={"wan": "198.51.100.9"}),
    service=NodeService(
        service="gw",
        address="10.0.0.1",
        port=8443,
        tagged_addresses={"wan": ServiceAddress(address="198.51.100.1", port=443)},
    ),
)


def without(*parts: str) -> CheckServiceNode:
    """The instance without some parts, like ``node`` or ``service.address``."""
    instance = FULL
    for part in parts:
        name, _, field = part.partition(".")
        if not field:
            instance = msgspec.structs.replace(instance, **{name: None})
            continue
        empty = "" if field == "address" else None
        changed = msgspec.structs.replace(getattr(instance, name), **{field: empty})
        instance = msgspec.structs.replace(instance, **{name: changed})
    return instance


def tagged(address: ServiceAddress, *, tag: str = "wan") -> CheckServiceNode:
    assert FULL.service is not None
    service = msgspec.structs.replace(FULL.service, tagged_addresses={tag: address})
    return msgspec.structs.replace(FULL, service=service)


@pytest.mark.parametrize(
    ("instance", "found"),
    [
        (FULL, ("10.0.0.1", 8443)),
        (without("service.address"), ("10.9.0.1", 8443)),
        (without("service.address", "node.address"), ("", 8443)),
        (without("service.address", "node"), ("", 8443)),
        (without("node"), ("10.0.0.1", 8443)),
        (without("service"), ("", 0)),
    ],
)
def test_inside_its_datacenter_the_services_address_comes_before_the_nodes(
    instance: CheckServiceNode, found: tuple[str, int]
) -> None:
    assert lan_address(instance) == found


@pytest.mark.parametrize(
    ("instance", "found"),
    [
        (FULL, ("198.51.100.1", 443)),
        (tagged(ServiceAddress(address="gw.example.com")), ("gw.example.com", 8443)),
        (tagged(ServiceAddress(port=443)), ("10.0.0.1", 8443)),
        (tagged(ServiceAddress(address="192.0.2.1", port=1), tag="lan"), ("10.0.0.1", 8443)),
        (without("service.tagged_addresses"), ("10.0.0.1", 8443)),
        (without("service.tagged_addresses", "service.address"), ("198.51.100.9", 8443)),
        (
            without("service.tagged_addresses", "service.address", "node.tagged_addresses"),
            ("10.9.0.1", 8443),
        ),
        (without("service.tagged_addresses", "service.address", "node"), ("", 8443)),
        (without("service"), ("", 0)),
    ],
)
def test_from_elsewhere_wan_addresses_come_first_and_the_services_before_the_nodes(
    instance: CheckServiceNode, found: tuple[str, int]
) -> None:
    assert wan_address(instance) == found
