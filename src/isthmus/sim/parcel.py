"""Stands for the bytes of gossip in a simulation: what they say, and how many they would be."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from isthmus.errors import ProtocolError
from isthmus.gossip.config import GossipConfig
from isthmus.gossip.envelope import COMPRESS_SIZE_MAX, Envelope, ReadPacket
from isthmus.gossip.keyring import Keyring
from isthmus.wire import memberlist as wire

STATES_MAX: Final = 200_000
"""Members whose encoded size is remembered."""
EXCHANGES_MAX: Final = 1024
"""Exchanges of full state whose size is remembered."""
_CHECKSUM_SIZE: Final = 5
_SHORT_LIVED: Final = frozenset(
    {
        wire.MessageType.PING,
        wire.MessageType.INDIRECT_PING,
        wire.MessageType.ACK,
        wire.MessageType.NACK,
    }
)
"""Messages that are not repeated: remembering what they say is of no use."""


class Parcel(bytes):
    """A packet, or all that goes one way over a stream; as bytes it is empty.

    Attributes:
        messages: Leaves of a packet, encoded.
        message: What a stream carries.
        size: Bytes that it would be. Packets are counted before compression.
    """

    messages: Sequence[bytes]
    message: wire.StreamMessage | None
    size: int

    @classmethod
    def of(
        cls,
        size: int,
        *,
        messages: Sequence[bytes] = (),
        message: wire.StreamMessage | None = None,
    ) -> "Parcel":
        """A parcel that counts as so many bytes."""
        parcel = cls()
        parcel.messages, parcel.message, parcel.size = messages, message, size
        return parcel


class ParcelReader:
    """Reads a stream that carries one parcel each way."""

    def __init__(self) -> None:
        self.message: wire.StreamMessage | None = None
        self.held_size = 0

    def receive_data(self, data: bytes) -> None:
        """Take the parcel in."""
        assert isinstance(data, Parcel)
        self.message = data.message


class ParcelCodec:
    """In place of `Envelope`: hands messages over as they are, and counts their bytes.

    Encryption, labels and checksums count with their size. Nothing is encrypted or compressed,
    except once to find out how long a compressed exchange of state is.

    Args:
        config: Of the pool.
        encrypted: Whether the pool has keys.
    """

    def __init__(self, config: GossipConfig, *, encrypted: bool = False) -> None:
        keyring = Keyring((bytes(16),) if encrypted else ())
        self._config = config
        self._envelope = Envelope(config, keyring, bytes)
        self.budget = self._envelope.budget
        self._sealed = encrypted and config.verify_outgoing
        self._label_size = 2 + len(config.label) if config.label else 0
        self.overhead = self._label_size + (wire.ENCRYPTION_OVERHEAD if self._sealed else 0)
        """Bytes that the layers add to a packet."""
        self._state_sizes: dict[wire.NodeState, int] = {}
        self._exchange_sizes: dict[tuple[int, int], tuple[wire.PushPull, int]] = {}

    def packet(self, messages: Sequence[bytes], *, checksum: bool) -> Parcel:
        """One packet of these messages."""
        size = sum(map(len, messages)) + self.overhead
        if len(messages) > 1:
            size += 2 + 2 * len(messages)
        return Parcel.of(size + _CHECKSUM_SIZE if checksum else size, messages=messages)

    def read_packet(self, data: bytes) -> ReadPacket:
        """What a packet says."""
        assert isinstance(data, Parcel)
        read = ReadPacket()
        for leaf in data.messages:
            try:
                once = leaf[0] in _SHORT_LIVED
                read.messages.append(wire.decode_message(leaf) if once else _decode(leaf))
            except ProtocolError:
                read.refused += 1
        return read

    def stream(self, message: wire.StreamMessage, *, dialler: bool) -> Parcel:
        """All that goes one way over a stream."""
        if not isinstance(message, wire.PushPull):
            size = len(self._envelope.stream(message, dialler=dialler))
            return Parcel.of(size, message=message)
        # Members that agree exchange the same objects again and again.
        key = id(message.nodes), id(message.user_state)
        known = self._exchange_sizes.get(key)
        if known is None:
            if len(self._exchange_sizes) >= EXCHANGES_MAX:
                self._exchange_sizes.clear()
            # The message is kept, so that no other objects get these identities.
            known = self._exchange_sizes[key] = message, self._exchange_size(message)
        return Parcel.of(known[1] + (self._label_size if dialler else 0), message=message)

    def reader(self, *, dialler: bool) -> ParcelReader:
        """Reads the other direction."""
        del dialler
        return ParcelReader()

    def _exchange_size(self, message: wire.PushPull) -> int:
        """Bytes of an exchange, without a label; exact, compressed as it would be."""
        user_size = len(message.user_state)
        size = _BLANK_SIZE + _integer_size(len(message.nodes)) + _integer_size(user_size)
        size += user_size + sum(map(self._state_size, message.nodes))
        if size <= COMPRESS_SIZE_MAX:
            size = len(self._envelope.stream(message, dialler=False))
        elif self._sealed:
            size += _STREAM_SEAL_SIZE
        return size

    def _state_size(self, state: wire.NodeState) -> int:
        known = self._state_sizes.get(state)
        if known is None:
            if len(self._state_sizes) >= STATES_MAX:
                self._state_sizes.clear()
            known = self._state_sizes[state] = len(_exchange(state)) - len(_exchange())
        return known


def _exchange(*states: wire.NodeState) -> bytes:
    return wire.encode_stream(wire.PushPull(join=False, nodes=states, user_state=b""))


_STREAM_SEAL_SIZE: Final = 5 + wire.ENCRYPTION_OVERHEAD
_BLANK_SIZE: Final = len(_exchange()) - 2
"""Bytes of an exchange's header without its two counts."""


def _integer_size(number: int) -> int:
    """Bytes of an unsigned number in MessagePack, below 2**32."""
    return 1 if number < 0x80 else 2 if number < 0x100 else 3 if number < 0x10000 else 5


@lru_cache(maxsize=65_536)
def _decode(leaf: bytes) -> wire.PacketMessage:
    """What a rumour says; the same rumour reaches every member many times."""
    return wire.decode_message(leaf)
