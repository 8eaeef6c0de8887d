"""asyncio's side of gossip's connections: they pass on what comes in, by callbacks.

Used on the gossip loop only.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from isthmus.errors import ProtocolError
from isthmus.net.network import DatagramRefused
from isthmus.rpc.packets import PacketReader

PACKET_IDLE_MAX: Final = 120.0
"""A connection that brings packets is closed after so many seconds of silence, as Consul does."""

_logger = logging.getLogger(__name__)


class DatagramProtocol(asyncio.DatagramProtocol):
    """The UDP socket.

    Args:
        on_packet: Takes a datagram and where it came from.
        on_refusal: Takes an address whose host refused a datagram of ours.

    Attributes:
        failed: Set when the socket refused what was sent; whoever sends resets it before.
        full: Whether so much waits for the socket that more should count as lost.
    """

    def __init__(
        self,
        on_packet: Callable[[bytes, tuple[str, int]], None],
        on_refusal: Callable[[tuple[str, int]], None],
    ) -> None:
        self._on_packet, self._on_refusal = on_packet, on_refusal
        self.failed = self.full = False

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """Pass a datagram on."""
        self._on_packet(data, (addr[0], addr[1]))

    def error_received(self, exc: Exception) -> None:
        """Note that the socket refused a datagram, or pass on that its receiver's host did."""
        if isinstance(exc, DatagramRefused):
            self._on_refusal(exc.address)
        else:
            self.failed = True

    def pause_writing(self) -> None:
        """Note that too much waits."""
        self.full = True

    def resume_writing(self) -> None:
        """Note that the socket caught up."""
        self.full = False


class StreamProtocol(asyncio.Protocol):
    """One gossip stream; reads nothing until it has its number.

    Args:
        on_data: Takes bytes of the stream of that number.
        on_lost: Told that the stream is closed, by whomever.
    """

    def __init__(
        self,
        on_data: Callable[[int, bytes], None],
        on_lost: Callable[[int, "StreamProtocol"], None],
    ) -> None:
        self._on_data, self._on_lost = on_data, on_lost
        self._transport: asyncio.Transport | None = None
        self._number = 0
        self._lost = False
        self._abort_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the number; the peer may have sent something already."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if not self._number:
            transport.pause_reading()

    def attach(self, number: int) -> None:
        """The stream has a number: what comes in may be passed on."""
        self._number = number
        if self._lost:
            self._on_lost(number, self)
        elif self._transport is not None:
            self._transport.resume_reading()

    def write(self, data: bytes) -> None:
        """Send; the answer of an exchange is one message, so there is nothing to wait for."""
        if self._transport is not None and not self._lost:
            self._transport.write(data)

    def close(self, *, grace: float) -> None:
        """Close once everything is sent, but within `grace` seconds."""
        if self._transport is None or self._lost:
            return
        self._transport.close()
        self._abort_timer = asyncio.get_running_loop().call_later(grace, self._transport.abort)

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Pass bytes on."""
        self._on_data(self._number, data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that it is over."""
        self._lost = True
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        if self._number:
            self._on_lost(self._number, self)


class PacketProtocol(asyncio.Protocol):
    """A connection that brings packets of one member of another datacenter, and answers nothing.

    Args:
        on_packet: Takes a packet.
        on_lost: Told that the connection is closed, by whomever.
    """

    def __init__(
        self,
        on_packet: Callable[[bytes], None],
        on_lost: Callable[["PacketProtocol"], None],
    ) -> None:
        self._on_packet, self._on_lost = on_packet, on_lost
        self._reader = PacketReader()
        self._transport: asyncio.Transport | None = None
        self._heard_at = 0.0
        self._idle_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to watch for silence."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._heard_at = asyncio.get_running_loop().time()
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Pass complete packets on; malformed framing ends the connection."""
        self._heard_at = asyncio.get_running_loop().time()
        try:
            self._reader.receive_data(data)
        except ProtocolError as error:
            _logger.warning("gossip packets: %s", error)
            self.abort()
        for packet in self._reader.take_packets():
            self._on_packet(packet)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that it is over."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._on_lost(self)

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _watch(self) -> None:
        """Close when nothing was heard for too long."""
        loop = asyncio.get_running_loop()
        left = self._heard_at + PACKET_IDLE_MAX - loop.time()
        if left <= 0:
            self.abort()
        else:
            self._idle_timer = loop.call_later(left, self._watch)
