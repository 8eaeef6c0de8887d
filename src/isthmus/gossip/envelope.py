"""Puts messages into the layers that a pool is configured for, and takes them off.

Source: protocol/gossip.md §1.2, §1.3, §1.7.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from isthmus.errors import ProtocolError
from isthmus.gossip.config import GossipConfig
from isthmus.gossip.keyring import Keyring
from isthmus.wire import memberlist as wire

COMPRESS_SIZE_MIN: Final = 128
"""Smaller messages are not worth the attempt."""
COMPRESS_SIZE_MAX: Final = 32 * 1024
"""Larger streams go uncompressed: the time it takes would hold up the loop."""
COMPOUND_OVERHEAD: Final = 2
"""Bytes that each message in a compound costs beside its own."""


@dataclass(slots=True)
class ReadPacket:
    """What a packet says.

    Attributes:
        messages: In order.
        refused: How many more were in it that can not be read.
    """

    messages: list[wire.PacketMessage] = field(default_factory=list)
    refused: int = 0


class Reader(Protocol):
    """Reads the one message that comes over a stream; see `wire.memberlist.StreamReader`."""

    message: wire.StreamMessage | None

    @property
    def held_size(self) -> int:
        """Bytes taken in so far."""

    def receive_data(self, data: bytes) -> None:
        """Take bytes in."""


class Codec(Protocol):
    """Makes bytes of messages and messages of bytes: `Envelope`, or a simulation's stand-in."""

    @property
    def budget(self) -> int:
        """Bytes for the messages of one packet."""

    def packet(self, messages: Sequence[bytes], *, checksum: bool) -> bytes:
        """One datagram of these messages."""

    def read_packet(self, data: bytes) -> ReadPacket:
        """What a packet says.

        Raises:
            ProtocolError: A layer around the whole packet is wrong; nothing of it may be used.
        """

    def stream(self, message: wire.StreamMessage, *, dialler: bool) -> bytes:
        """All bytes of one direction of a stream."""

    def reader(self, *, dialler: bool) -> Reader:
        """Reads the other direction."""


class Envelope:
    """The layers of one pool.

    Args:
        config: Label, compression, and whether encryption is demanded and used.
        keyring: Encryption keys; an empty one: not encrypted.
        entropy: Gives so many unpredictable bytes, for nonces.
    """

    def __init__(
        self, config: GossipConfig, keyring: Keyring, entropy: Callable[[int], bytes]
    ) -> None:
        self._config, self._keyring, self._entropy = config, keyring, entropy

    @property
    def budget(self) -> int:
        """Bytes for the messages of one packet."""
        budget = self._config.packet_size - COMPOUND_OVERHEAD
        if self._config.label:
            budget -= 2 + len(self._config.label)
        return budget - wire.ENCRYPTION_OVERHEAD if self._sealing else budget

    def read_packet(self, data: bytes) -> ReadPacket:
        """What a packet says.

        Raises:
            ProtocolError: A layer around the whole packet is wrong; nothing of it may be used.
        """
        opened = wire.open_packet(
            data,
            label=self._config.label,
            ciphers=self._keyring.ciphers,
            verify=self._config.verify_incoming,
        )
        read = ReadPacket(refused=len(opened.faults))
        for leaf in opened.messages:
            try:
                read.messages.append(wire.decode_message(leaf))
            except ProtocolError:
                read.refused += 1
        return read

    def packet(self, messages: Sequence[bytes], *, checksum: bool) -> bytes:
        """One datagram of these messages."""
        data = wire.join_compound(messages)
        # An ack alone is a coordinate: digits as good as random, which never get shorter.
        promising = len(data) >= COMPRESS_SIZE_MIN and data[0] != wire.MessageType.ACK
        if self._config.compress and promising:
            compressed = wire.compress(data)
            if len(compressed) < len(data):
                data = compressed
        if checksum:
            data = wire.add_checksum(data)
        if self._sealing:
            data = wire.seal(
                data,
                self._keyring.ciphers[0],
                nonce=self._entropy(wire.NONCE_SIZE),
                associated=self._config.label,
            )
        return wire.add_label(data, self._config.label)

    def stream(self, message: wire.StreamMessage, *, dialler: bool) -> bytes:
        """All bytes of one direction of a stream."""
        data = wire.encode_stream(message)
        sealing = self._sealing
        return wire.wrap_stream(
            data,
            label=self._config.label,
            cipher=self._keyring.ciphers[0] if sealing else None,
            nonce=self._entropy(wire.NONCE_SIZE) if sealing else b"",
            dialler=dialler,
            compressed=(
                self._config.compress and COMPRESS_SIZE_MIN <= len(data) <= COMPRESS_SIZE_MAX
            ),
        )

    def reader(self, *, dialler: bool) -> wire.StreamReader:
        """Reads the other direction."""
        return wire.StreamReader(
            label=self._config.label,
            ciphers=self._keyring.ciphers,
            verify=self._config.verify_incoming,
            dialler=dialler,
        )

    @property
    def _sealing(self) -> bool:
        return bool(self._keyring) and self._config.verify_outgoing
