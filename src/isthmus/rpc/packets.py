"""Gossip packets on a TLS stream, each behind its length: ALPN ``consul/wan-gossip/packet``.

One connection carries one direction: the dialling side writes, the accepting side only reads.
Source: protocol/federation.md §14.1.
"""

from collections.abc import Generator
from typing import Final

from isthmus.errors import MalformedPacket

PACKET_SIZE_MAX: Final = 4 * 1024 * 1024
"""Consul's limit; a longer packet costs its sender the connection."""

_LENGTH_SIZE: Final = 4


def frame_packet(packet: bytes) -> bytes:
    """Put a packet's length before it: ``length:u32be | packet``."""
    assert 0 < len(packet) <= PACKET_SIZE_MAX
    return len(packet).to_bytes(_LENGTH_SIZE, "big") + packet


class PacketReader:
    """Take packets out of the stream, however it is cut into pieces.

    At most one packet, of `PACKET_SIZE_MAX` bytes, is held incomplete.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._packets: list[bytes] = []
        self._parser = self._parse()
        self._wanted = next(self._parser)
        self._error: MalformedPacket | None = None

    @property
    def in_packet(self) -> bool:
        """Whether the last packet, or its length, has only partly arrived."""
        return self._wanted != _LENGTH_SIZE or bool(self._buffer)

    def receive_data(self, data: bytes) -> None:
        """Accept bytes of the stream.

        Raises:
            MalformedPacket: A length is 0 or above `PACKET_SIZE_MAX`. Packets before it can be
                taken; the connection must be closed, and every later call raises it again.
        """
        if self._error is not None:
            raise self._error
        self._buffer += data
        try:
            while len(self._buffer) >= self._wanted:
                self._wanted = self._parser.send(None)
        except MalformedPacket as error:
            self._error = error
            self._buffer.clear()
            raise

    def take_packets(self) -> list[bytes]:
        """Remove and return the complete packets, oldest first."""
        packets, self._packets = self._packets, []
        return packets

    def _parse(self) -> Generator[int, None, None]:
        """Follow the layout; each pause asks for that many bytes to be in the buffer."""
        while True:
            yield _LENGTH_SIZE
            size = int.from_bytes(self._take(_LENGTH_SIZE), "big")
            if size == 0:
                raise MalformedPacket("gossip packet of 0 bytes")
            if size > PACKET_SIZE_MAX:
                raise MalformedPacket(f"gossip packet of {size} bytes, limit {PACKET_SIZE_MAX}")
            yield size
            self._packets.append(self._take(size))

    def _take(self, size: int) -> bytes:
        taken = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        return taken
