"""What a layer that must reach another datacenter asks for, and nothing more.

`net.wan` implements it over mesh gateways; the gossip driver uses it without knowing how.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar

P = TypeVar("P", bound=asyncio.BaseProtocol)


class WanCarrier(Protocol):
    """Carries gossip to servers of other datacenters, by WAN node name.

    Used on the gossip thread's loop only.
    """

    def carries(self, node_name: str) -> bool:
        """Whether `node_name` is of another datacenter, to be reached through gateways.

        Raises:
            InvalidNodeName: The name does not encode a datacenter: nothing may be sent to it.
        """

    async def send_packet(self, node_name: str, packet: bytes) -> None:
        """Send one gossip packet.

        Raises:
            Unavailable: It surely did not go out; the packet counts as lost.
        """

    async def open_stream(self, node_name: str, factory: Callable[[], P], *, timeout: float) -> P:
        """Open a gossip stream.

        Raises:
            Unavailable: No stream; nothing is left open.
        """
