"""Which of its addresses a node or service is shown with. Source: protocol/cli-config-dns.md §3.4.

Inside a datacenter that is the plain address, or the tagged one of the family asked for; of
another datacenter, if the agent translates, the WAN's.
"""

import enum
import socket
from collections.abc import Mapping
from typing import Final

from isthmus.model.catalog import Node, NodeService

_MAPPED: Final = bytes(10) + b"\xff\xff"
"""What an IPv4 address begins with that is written as an IPv6 address."""


class Family(enum.Enum):
    """Addresses that are asked for; the value is their size in bytes."""

    V4 = 4
    V6 = 16
    ANY = 0


def node_address(node: Node, family: Family, *, wan: bool) -> str:
    """Address of a node; empty when it has none of that family.

    Args:
        node: In any datacenter.
        family: Host names are of every family.
        wan: Whether it is shown as seen from outside its datacenter.
    """
    return _choose(node.address, node.tagged_addresses or {}, family, wan=wan)


def service_address(service: NodeService, family: Family, *, wan: bool) -> str:
    """Address of a service itself; empty when it has none of that family. See `node_address`."""
    tagged = {tag: found.address for tag, found in (service.tagged_addresses or {}).items()}
    return _choose(service.address, tagged, family, wan=wan)


def service_port(service: NodeService, *, wan: bool) -> int:
    """Port of a service."""
    tagged = (service.tagged_addresses or {}).get("wan") if wan else None
    return tagged.port if tagged is not None and tagged.port else service.port


def _choose(plain: str, tagged: Mapping[str, str], family: Family, *, wan: bool) -> str:
    by_family = {Family.V6: tagged.get("lan_ipv6", ""), Family.V4: tagged.get("lan_ipv4", "")}
    if wan:
        plain = tagged.get("wan", plain)
        by_family[Family.V6] = tagged.get("wan_ipv6", by_family[Family.V6])
        by_family[Family.V4] = tagged.get("wan_ipv4", by_family[Family.V4])
    for one, found in by_family.items():
        if found and family in {one, Family.ANY}:
            return found
    packed = pack(plain)
    if family is Family.ANY or packed is None or len(packed) == family.value:
        return plain
    return ""


def pack(text: str) -> bytes | None:
    """An IP address as 4 or 16 bytes; None for anything else."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            packed = socket.inet_pton(family, text)
        except (OSError, ValueError):
            continue
        return packed[-4:] if packed.startswith(_MAPPED) and len(packed) == 16 else packed
    return None
