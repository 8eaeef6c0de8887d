"""WAN addresses in place of LAN addresses, in answers about another datacenter.

What has no ``wan`` address keeps its own. Source: protocol/http-api.md §8.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from isthmus.model.address import WAN
from isthmus.model.catalog import (
    CheckServiceNode,
    Node,
    NodeService,
    ServiceAddress,
    ServiceNode,
)

_replace = msgspec.structs.replace

_TAGS: Final = (WAN, "wan_ipv4", "wan_ipv6")
"""Where the address is looked for. Agents fill in the later ones from a service's own address."""


def node(found: Node) -> Node:
    """A node with its WAN address."""
    address = _node_address(found.address, found.tagged_addresses)
    return found if address == found.address else _replace(found, address=address)


def service(found: NodeService) -> NodeService:
    """A service with its WAN address and port."""
    address, port = _service_address(found.address, found.port, found.tagged_addresses)
    if (address, port) == (found.address, found.port):
        return found
    return _replace(found, address=address, port=port)


def nodes(found: Iterable[Node] | None) -> list[Node]:
    """Nodes with their WAN addresses."""
    return [node(one) for one in found or ()]


def service_nodes(found: Iterable[ServiceNode] | None) -> list[ServiceNode]:
    """Flattened instances with the WAN addresses of their nodes and their own."""
    translated = []
    for one in found or ():
        address, port = _service_address(
            one.service_address, one.service_port, one.service_tagged_addresses
        )
        translated.append(
            _replace(
                one,
                address=_node_address(one.address, one.tagged_addresses),
                service_address=address,
                service_port=port,
            )
        )
    return translated


def instances(found: Iterable[CheckServiceNode] | None) -> list[CheckServiceNode]:
    """Instances with the WAN addresses of their nodes and their own."""
    return [
        _replace(
            one,
            node=None if one.node is None else node(one.node),
            service=None if one.service is None else service(one.service),
        )
        for one in found or ()
    ]


def _node_address(address: str, tagged: Mapping[str, str] | None) -> str:
    return next((tagged[tag] for tag in _TAGS if tagged.get(tag)), address) if tagged else address


def _service_address(
    address: str, port: int, tagged: Mapping[str, ServiceAddress] | None
) -> tuple[str, int]:
    for tag in _TAGS:
        wan = (tagged or {}).get(tag)
        if wan is not None and wan.address:
            return wan.address, wan.port or port
    return address, port
