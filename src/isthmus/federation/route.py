"""From a server's name to the way there: direct, or through a mesh gateway.

Source: protocol/federation.md §6.1, §6.3, §15.2.
"""

from dataclasses import dataclass
from typing import TypeAlias

from isthmus.names import server_name, split_wan_name


@dataclass(frozen=True, slots=True)
class Direct:
    """Dial the server's own address: it is of our datacenter, or no gateways are in use."""

    dc: str
    node: str


@dataclass(frozen=True, slots=True)
class ViaGateway:
    """Dial a gateway and ask it, by SNI, for the server; the server's address is not used."""

    dc: str
    node: str

    def sni(self, domain: str) -> str:
        """TLS server name that gateways route by, in the federation's DNS domain."""
        return server_name(self.dc, domain, self.node)


Way: TypeAlias = Direct | ViaGateway


def way_to(dc: str, node: str, *, own_dc: str, gateways: bool) -> Way:
    """Decide how to reach server `node` of `dc`.

    Args:
        dc: Datacenter of the server.
        node: Short node name; ``*`` for any server.
        own_dc: Our datacenter.
        gateways: Whether WAN federation through mesh gateways is on.
    """
    if not gateways or dc.lower() == own_dc.lower():
        return Direct(dc, node)
    return ViaGateway(dc, node)


def way_to_member(name: str, *, own_dc: str, gateways: bool) -> Way:
    """Decide how to reach the WAN member `name` (``node.dc``).

    Raises:
        InvalidNodeName: The name does not encode a datacenter; nothing may be sent.
    """
    node, dc = split_wan_name(name)
    return way_to(dc, node, own_dc=own_dc, gateways=gateways)
