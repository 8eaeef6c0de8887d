"""Memberlist on the wire: messages, the layers of a packet, the framing of a stream.

A packet is ``label( encryption( checksum( compression( compound( messages ) ) ) ) )``, every layer
optional and marked by its first byte. A stream: ``label( encryption( compression( message ) ) )``.

Source: protocol/gossip.md §1, §2, §10.
"""

import struct
import zlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final, TypeAlias

import msgpack
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Struct

from isthmus.errors import BadChecksum, MalformedPacket, ProtocolError, UnknownProtocol
from isthmus.wire import lzw
from isthmus.wire.fields import COUNT_MAX, Field, Fields, boolean, octets, text, unsigned

STREAM_SIZE_MAX: Final = 20 * 1024 * 1024
"""Most bytes of one stream message before decompression, as memberlist limits encrypted ones."""
NODE_COUNT_MAX: Final = COUNT_MAX
COMPOUND_COUNT_MAX: Final = 255
PACKET_PLAIN_SIZE_MAX: Final = 1024 * 1024
"""Bytes that all compressed parts of one packet may become; a datagram of bombs stays cheap."""
PACKET_MESSAGES_MAX: Final = 1024
"""Messages of one packet, four full compounds; nested ones could hold a hundred thousand pings."""
LABEL_SIZE_MAX: Final = 255
NESTING_MAX: Final = 4
"""Compound and compress layers may stand in each other; deeper ones are refused."""
NONCE_SIZE: Final = 12
TAG_SIZE: Final = 16
ENCRYPTION_OVERHEAD: Final = 1 + NONCE_SIZE + TAG_SIZE
VSN_SIZE: Final = 6

ENCRYPTION_VERSION_PADDED: Final = 0
ENCRYPTION_VERSION: Final = 1

NOT_ENCRYPTED: Final = "Encryption is configured but remote state is not encrypted"
ENCRYPTED: Final = "Remote state is encrypted and encryption is not configured"
NO_KEY: Final = "No installed keys could decrypt the message"


class MessageType(IntEnum):
    """First byte of a message or layer."""

    PING = 0
    INDIRECT_PING = 1
    ACK = 2
    SUSPECT = 3
    ALIVE = 4
    DEAD = 5
    PUSH_PULL = 6
    COMPOUND = 7
    USER = 8
    COMPRESS = 9
    ENCRYPT = 10
    NACK = 11
    CHECKSUM = 12
    ERROR = 13
    LABEL = 244


class Ping(Struct, frozen=True, kw_only=True):
    """Are you there? Answered by an `Ack` with the same number.

    An ack goes to the source named here; without one, to where the packet came from.
    """

    seq_no: int = 0
    node: str = ""
    source_addr: bytes = b""
    source_port: int = 0
    source_node: str = ""


class IndirectPing(Struct, frozen=True, kw_only=True):
    """Ping `node` at `target` for me; `nack` asks to be told when it stays silent."""

    seq_no: int = 0
    target: bytes = b""
    port: int = 0
    node: str = ""
    nack: bool = False
    source_addr: bytes = b""
    source_port: int = 0
    source_node: str = ""


class Ack(Struct, frozen=True, kw_only=True):
    """Answer to a ping; serf puts its network coordinate into `payload`."""

    seq_no: int = 0
    payload: bytes = b""


class Nack(Struct, frozen=True, kw_only=True):
    """Answer of a helper whose own ping stayed unanswered: the helper at least is well."""

    seq_no: int = 0


class Suspect(Struct, frozen=True, kw_only=True):
    """`from_` did not reach `node`."""

    incarnation: int = 0
    node: str = ""
    from_: str = ""


class Alive(Struct, frozen=True, kw_only=True):
    """`node` is alive at this address with this meta.

    `vsn`: protocol min, max, current, delegate min, max, current, one byte each.
    """

    incarnation: int = 0
    node: str = ""
    addr: bytes = b""
    port: int = 0
    meta: bytes = b""
    vsn: bytes = b""


class Dead(Struct, frozen=True, kw_only=True):
    """`node` is dead, says `from_`; when both are the same, it left."""

    incarnation: int = 0
    node: str = ""
    from_: str = ""


class UserMessage(Struct, frozen=True):
    """Bytes of the layer above (serf)."""

    payload: bytes = b""


class ErrorReply(Struct, frozen=True, kw_only=True):
    """Answer on a stream that cannot be served."""

    error: str = ""


class NodeStatus(IntEnum):
    """State of a member in a push/pull, and in our own table."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


class NodeState(Struct, frozen=True, kw_only=True):
    """One member in a push/pull."""

    name: str = ""
    addr: bytes = b""
    port: int = 0
    meta: bytes = b""
    incarnation: int = 0
    state: NodeStatus = NodeStatus.ALIVE
    vsn: bytes = b""


class PushPull(Struct, frozen=True, kw_only=True):
    """Everything one member knows; `join` asks for the merge checks."""

    join: bool
    nodes: tuple[NodeState, ...]
    user_state: bytes


class _PushPullHeader(Struct, frozen=True, kw_only=True):
    join: bool = False
    nodes: int = 0
    user_state_len: int = 0


class _UserHeader(Struct, frozen=True, kw_only=True):
    user_msg_len: int = 0


class _Compressed(Struct, frozen=True, kw_only=True):
    algo: int = 0
    buf: bytes = b""


PacketMessage: TypeAlias = (
    Ping | IndirectPing | Ack | Nack | Suspect | Alive | Dead | UserMessage | ErrorReply
)
StreamMessage: TypeAlias = PushPull | Ping | Ack | UserMessage | ErrorReply

_U8, _U16, _U32, _U64 = unsigned(8), unsigned(16), unsigned(32), unsigned(64)
_SEQ_NO: Final = Field("SeqNo", "seq_no", _U32)
_NODE: Final = Field("Node", "node", text)
_FROM: Final = Field("From", "from_", text)
_ADDR: Final = Field("Addr", "addr", octets)
_PORT: Final = Field("Port", "port", _U16)
_META: Final = Field("Meta", "meta", octets, nil_empty=True)
_VSN: Final = Field("Vsn", "vsn", octets)
_INCARNATION: Final = Field("Incarnation", "incarnation", _U32)
_SOURCE: Final = (
    Field("SourceAddr", "source_addr", octets, omit_empty=True),
    Field("SourcePort", "source_port", _U16, omit_empty=True),
    Field("SourceNode", "source_node", text, omit_empty=True),
)


def _node_status(value: object) -> NodeStatus:
    number = _U8(value)
    try:
        return NodeStatus(number)
    except ValueError:
        raise MalformedPacket(f"{number} is not a node state") from None


_PACKET_FIELDS: Final[dict[int, Fields[Any]]] = {
    MessageType.PING: Fields(Ping, _SEQ_NO, _NODE, *_SOURCE),
    MessageType.INDIRECT_PING: Fields(
        IndirectPing,
        _SEQ_NO,
        Field("Target", "target", octets),
        _PORT,
        _NODE,
        Field("Nack", "nack", boolean),
        *_SOURCE,
    ),
    MessageType.ACK: Fields(Ack, _SEQ_NO, Field("Payload", "payload", octets, nil_empty=True)),
    MessageType.NACK: Fields(Nack, _SEQ_NO),
    MessageType.SUSPECT: Fields(Suspect, _INCARNATION, _NODE, _FROM),
    MessageType.ALIVE: Fields(Alive, _INCARNATION, _NODE, _ADDR, _PORT, _META, _VSN),
    MessageType.DEAD: Fields(Dead, _INCARNATION, _NODE, _FROM),
    MessageType.ERROR: Fields(ErrorReply, Field("Error", "error", text)),
}
_TYPE_OF: Final[dict[type[PacketMessage], MessageType]] = {
    Ping: MessageType.PING,
    IndirectPing: MessageType.INDIRECT_PING,
    Ack: MessageType.ACK,
    Nack: MessageType.NACK,
    Suspect: MessageType.SUSPECT,
    Alive: MessageType.ALIVE,
    Dead: MessageType.DEAD,
    ErrorReply: MessageType.ERROR,
}
_PREFIX_OF: Final = {record: bytes((number,)) for record, number in _TYPE_OF.items()}
_STATE_FIELDS: Final = Fields(
    NodeState,
    Field("Name", "name", text),
    _ADDR,
    _PORT,
    _META,
    _INCARNATION,
    Field("State", "state", _node_status, write=int),
    _VSN,
)
_HEADER_FIELDS: Final = Fields(
    _PushPullHeader,
    Field("Join", "join", boolean),
    Field("Nodes", "nodes", _U64),
    Field("UserStateLen", "user_state_len", _U64),
)
_USER_FIELDS: Final = Fields(_UserHeader, Field("UserMsgLen", "user_msg_len", _U64))
_COMPRESSED_FIELDS: Final = Fields(
    _Compressed, Field("Algo", "algo", _U8), Field("Buf", "buf", octets)
)
_USER: Final = bytes((MessageType.USER,))


def encode_message(message: PacketMessage) -> bytes:
    """One packet message: type byte and body."""
    if isinstance(message, UserMessage):
        return _USER + message.payload
    prefix = _PREFIX_OF[type(message)]
    return prefix + _PACKET_FIELDS[prefix[0]].encode(message)


def decode_message(data: bytes) -> PacketMessage:
    """Read one packet message.

    Raises:
        UnknownProtocol: No message that a packet may carry.
        MalformedPacket: The body does not follow its format.
    """
    if not data:
        raise MalformedPacket("missing message type byte")
    if data[0] == MessageType.USER:
        return UserMessage(data[1:])
    fields = _PACKET_FIELDS.get(data[0])
    if fields is None:
        raise UnknownProtocol(f"msg type ({data[0]}) not supported")
    message: PacketMessage = fields.decode(data[1:])
    return message


# --- Layers -------------------------------------------------------------------------------------


def add_label(data: bytes, label: bytes) -> bytes:
    """Put ``244 | length:u8 | label`` in front; an empty label adds nothing."""
    assert len(label) <= LABEL_SIZE_MAX
    return bytes((MessageType.LABEL, len(label))) + label + data if label else data


def split_label(data: bytes) -> tuple[bytes, bytes]:
    """Split into label (empty when there is none) and rest.

    Raises:
        MalformedPacket: The label is empty or cut off.
    """
    if not data or data[0] != MessageType.LABEL:
        return b"", data
    if len(data) < 2 or not data[1] or len(data) < 2 + data[1]:
        raise MalformedPacket("label header is cut off or empty")
    return data[2 : 2 + data[1]], data[2 + data[1] :]


def seal(
    data: bytes,
    cipher: AESGCM,
    *,
    nonce: bytes,
    associated: bytes,
    version: int = ENCRYPTION_VERSION,
) -> bytes:
    """Encrypt: ``version:u8 | nonce[12] | ciphertext | tag[16]``.

    Args:
        data: Plaintext; version 0 pads it to 16 bytes as PKCS#7 does.
        cipher: AES-GCM under the primary key.
        nonce: 12 bytes never used before with this key.
        associated: Label of a packet; of a stream the five bytes before it and the label.
        version: 1, or 0 for peers at memberlist protocol 1.
    """
    assert len(nonce) == NONCE_SIZE
    if version == ENCRYPTION_VERSION_PADDED:
        padding = 16 - len(data) % 16
        data += bytes((padding,)) * padding
    return bytes((version,)) + nonce + cipher.encrypt(nonce, data, associated or None)


def unseal(data: bytes, ciphers: Sequence[AESGCM], *, associated: bytes) -> bytes:
    """Decrypt with whichever key fits.

    Raises:
        MalformedPacket: Too short, or the padding is wrong.
        UnknownProtocol: An encryption version that we do not know.
        BadChecksum: No key fits.
    """
    if not data:
        raise MalformedPacket("Cannot decrypt empty payload")
    version = data[0]
    if version > ENCRYPTION_VERSION:
        raise UnknownProtocol(f"Unsupported encryption version {version}")
    if len(data) < ENCRYPTION_OVERHEAD + (16 if version == ENCRYPTION_VERSION_PADDED else 0):
        raise MalformedPacket(f"Payload is too small to decrypt: {len(data)}")
    nonce, sealed = data[1 : 1 + NONCE_SIZE], data[1 + NONCE_SIZE :]
    for cipher in ciphers:
        try:
            plain = cipher.decrypt(nonce, sealed, associated or None)
        except InvalidTag:
            continue
        return plain if version else _unpad(plain)
    raise BadChecksum(NO_KEY)


def _unpad(plain: bytes) -> bytes:
    padding = plain[-1] if plain else 0
    if not 1 <= padding <= 16 or plain[-padding:] != bytes((padding,)) * padding:
        raise MalformedPacket("wrong padding")
    return plain[:-padding]


def add_checksum(data: bytes) -> bytes:
    """Put ``12 | crc32:u32be`` of the rest in front."""
    return struct.pack(">BI", MessageType.CHECKSUM, zlib.crc32(data)) + data


def check_checksum(data: bytes) -> bytes:
    """Take the checksum layer off, if there is one.

    Raises:
        MalformedPacket: Cut off.
        BadChecksum: It does not match.
    """
    if not data or data[0] != MessageType.CHECKSUM:
        return data
    if len(data) < 5:
        raise MalformedPacket("checksum is cut off")
    expected = int.from_bytes(data[1:5], "big")
    rest = data[5:]
    if zlib.crc32(rest) != expected:
        raise BadChecksum(f"Got invalid checksum for UDP packet: {zlib.crc32(rest)}, {expected}")
    return rest


def compress(data: bytes) -> bytes:
    """Put `data` into a compress message, shorter or not."""
    return b"\x09" + _COMPRESSED_FIELDS.encode(_Compressed(buf=lzw.compress(data)))


def _decompress(compressed: _Compressed, *, size_max: int = lzw.DECOMPRESSED_SIZE_MAX) -> bytes:
    if compressed.algo != 0:
        raise UnknownProtocol(f"Cannot decompress unknown algorithm {compressed.algo}")
    return lzw.decompress(compressed.buf, size_max=size_max)


def join_compound(messages: Sequence[bytes]) -> bytes:
    """Put messages into one: ``7 | count:u8 | length:u16be × count | message × count``.

    A single message stays as it is.
    """
    if len(messages) == 1:
        return messages[0]
    assert 0 < len(messages) <= COMPOUND_COUNT_MAX
    lengths = struct.pack(f">BB{len(messages)}H", 7, len(messages), *map(len, messages))
    return lengths + b"".join(messages)


def split_compound(payload: bytes) -> list[bytes]:
    """Split what follows the type byte of a compound into its messages.

    Returns:
        The complete messages, in order; those cut off at the end are left out, as memberlist does.

    Raises:
        MalformedPacket: The list of lengths itself is cut off.

    Source: piggybacking, SWIM §4.1; protocol/gossip.md §1.4.
    """
    count = payload[0] if payload else 0
    start = 1 + 2 * count
    if not payload or len(payload) < start:
        raise MalformedPacket("compound: list of lengths is cut off")
    messages = []
    for length in struct.unpack_from(f">{count}H", payload, 1):
        if start + length > len(payload):
            break
        messages.append(payload[start : start + length])
        start += length
    return messages


@dataclass(slots=True)
class OpenedPacket:
    """What a packet held.

    Attributes:
        messages: Leaf messages, type byte first, in order.
        faults: What was dropped on the way, beside them; with `messages` at most
            ``PACKET_MESSAGES_MAX + 1``.
        plain_size: Bytes that compressed parts became so far.
    """

    messages: list[bytes] = field(default_factory=list)
    faults: list[ProtocolError] = field(default_factory=list)
    plain_size: int = field(default=0, compare=False)


def open_packet(
    data: bytes, *, label: bytes = b"", ciphers: Sequence[AESGCM] = (), verify: bool = True
) -> OpenedPacket:
    """Take all layers off a packet.

    Args:
        data: The datagram.
        label: The only label accepted.
        ciphers: One per installed key; none: encryption is not configured.
        verify: With keys, refuse what is not encrypted; otherwise try it as plaintext.

    Raises:
        ProtocolError: A layer around the whole packet is wrong; nothing of it may be used.
    """
    found, data = split_label(data)
    if found != label:
        raise MalformedPacket(f"discarding packet with unacceptable label {found!r}")
    if ciphers:
        try:
            data = unseal(data, ciphers, associated=label)
        except ProtocolError:
            if verify:
                raise
    opened = OpenedPacket()
    _open_layers(check_checksum(data), opened, depth=0)
    return opened


def _open_layers(data: bytes, opened: OpenedPacket, *, depth: int) -> None:
    """Append the leaves of `data`; compound and compress may stand in each other."""
    kind = data[0] if data else -1
    if kind not in {MessageType.COMPOUND, MessageType.COMPRESS}:
        opened.messages.append(data)
        return
    if depth == NESTING_MAX:
        raise MalformedPacket("compound and compress messages are nested too deeply")
    if kind == MessageType.COMPRESS:
        room = PACKET_PLAIN_SIZE_MAX - opened.plain_size
        opened.plain_size = PACKET_PLAIN_SIZE_MAX  # Of a part that fails, too: its work was done.
        inner = _decompress(_COMPRESSED_FIELDS.decode(data[1:]), size_max=room)
        opened.plain_size += len(inner) - room
        _open_layers(inner, opened, depth=depth + 1)
        return
    for part in split_compound(data[1:]):
        found = len(opened.messages) + len(opened.faults)
        if found >= PACKET_MESSAGES_MAX:
            if found == PACKET_MESSAGES_MAX:  # Said once.
                opened.faults.append(MalformedPacket("packet holds too many messages"))
            return
        try:
            _open_layers(part, opened, depth=depth + 1)
        except ProtocolError as fault:
            opened.faults.append(fault)


# --- Streams ------------------------------------------------------------------------------------


def encode_stream(message: StreamMessage) -> bytes:
    """Type byte and body of a stream message; layers are added by `wrap_stream`."""
    if isinstance(message, PushPull):
        header = _PushPullHeader(
            join=message.join, nodes=len(message.nodes), user_state_len=len(message.user_state)
        )
        parts = [b"\x06", _HEADER_FIELDS.encode(header)]
        parts += [_STATE_FIELDS.encode(node) for node in message.nodes]
        return b"".join((*parts, message.user_state))
    if isinstance(message, UserMessage):
        header_bytes = _USER_FIELDS.encode(_UserHeader(user_msg_len=len(message.payload)))
        return _USER + header_bytes + message.payload
    return encode_message(message)


def wrap_stream(
    data: bytes,
    *,
    label: bytes = b"",
    cipher: AESGCM | None = None,
    nonce: bytes = b"",
    dialler: bool,
    compressed: bool = False,
) -> bytes:
    """Put a stream message into its layers.

    Args:
        data: From `encode_stream`.
        label: Authenticated by both sides, sent by the dialler only.
        cipher: AES-GCM under the primary key; None: plain.
        nonce: 12 fresh bytes, with a cipher.
        dialler: Whether we opened the connection.
        compressed: Whether to compress.
    """
    if compressed:
        data = compress(data)
    if cipher is not None:
        head = struct.pack(">BI", MessageType.ENCRYPT, ENCRYPTION_OVERHEAD + len(data))
        data = head + seal(data, cipher, nonce=nonce, associated=head + label)
    return add_label(data, label) if dialler else data


_Reading: TypeAlias = Generator[None, None, None]


class StreamReader:
    """Reads the one message that a memberlist stream carries in each direction.

    Feed it with `receive_data`; `message` is set once it is complete.

    Args:
        label: The only label accepted.
        ciphers: One per installed key; none: encryption is not configured.
        verify: With keys, refuse what is not encrypted.
        dialler: Whether we opened the connection; then the peer's answer has no label header.
    """

    def __init__(
        self,
        *,
        label: bytes = b"",
        ciphers: Sequence[AESGCM] = (),
        verify: bool = True,
        dialler: bool,
    ) -> None:
        self._label, self._ciphers, self._verify = label, ciphers, verify
        self._dialler = dialler
        self._source = _Source()
        self.message: StreamMessage | None = None
        self._steps = self._read()
        next(self._steps)

    @property
    def held_size(self) -> int:
        """Bytes taken in so far."""
        return len(self._source.data)

    def receive_data(self, data: bytes) -> None:
        """Take bytes in; those after the message are ignored.

        Raises:
            ProtocolError: The stream is malformed, too long or wrongly encrypted; nothing of it
                may be used and nothing more fed.
        """
        if self.message is None:
            self._source.data += data
            next(self._steps, None)

    def receive_eof(self) -> None:
        """The peer sends no more.

        Raises:
            MalformedPacket: It ends inside the message.
        """
        if self.message is None:
            raise MalformedPacket("stream ends inside a message")

    def _read(self) -> _Reading:
        source = self._source
        yield from source.need(1)
        if source.data[0] == MessageType.LABEL and not self._dialler:
            yield from source.need(2)
            yield from source.need(2 + source.data[1])
            found, rest = split_label(bytes(source.data))
            source.data = bytearray(rest)
            yield from source.need(1)
        else:
            found = self._label if self._dialler else b""
        if found != self._label:
            raise MalformedPacket(f"discarding stream with unacceptable label {found!r}")
        kind = source.data[0]
        if kind == MessageType.ENCRYPT:
            yield from source.need(5)
            head = bytes(source.data[:5])
            size = int.from_bytes(head[1:], "big")
            if not self._ciphers:
                raise UnknownProtocol(ENCRYPTED)
            if size > STREAM_SIZE_MAX:
                raise MalformedPacket(f"Remote node state is larger than limit ({size})")
            yield from source.need(5 + size)
            sealed = bytes(source.data[5 : 5 + size])
            plain = unseal(sealed, self._ciphers, associated=head + self._label)
            source = _Source(plain, complete=True)
        elif self._ciphers and self._verify:
            raise UnknownProtocol(NOT_ENCRYPTED)
        yield from self._read_message(source)

    def _read_message(self, source: "_Source") -> _Reading:
        yield from source.need(1)
        kind = source.data[0]
        if kind == MessageType.COMPRESS:
            values: list[object] = []
            yield from source.objects(1, 1, values.append)
            plain = _decompress(_COMPRESSED_FIELDS.from_map(values[0]))
            source = _Source(plain, complete=True)
            yield from source.need(1)
            kind = source.data[0]
        if kind == MessageType.PUSH_PULL:
            yield from self._read_push_pull(source)
        elif kind == MessageType.USER:
            values = []
            end = yield from source.objects(1, 1, values.append)
            size = _USER_FIELDS.from_map(values[0]).user_msg_len
            if size > STREAM_SIZE_MAX:
                raise MalformedPacket(f"user message of {size} bytes is too long")
            yield from source.need(end + size)
            self.message = UserMessage(bytes(source.data[end : end + size]))
        elif kind in {MessageType.PING, MessageType.ACK, MessageType.ERROR}:
            values = []
            yield from source.objects(1, 1, values.append)
            message = _PACKET_FIELDS[kind].from_map(values[0])
            assert isinstance(message, (Ping, Ack, ErrorReply))
            self.message = message
        else:
            raise UnknownProtocol(f"received invalid msgType ({kind})")

    def _read_push_pull(self, source: "_Source") -> _Reading:
        values: list[object] = []
        end = yield from source.objects(1, 1, values.append)
        header = _HEADER_FIELDS.from_map(values[0])
        if header.nodes > NODE_COUNT_MAX or header.user_state_len > STREAM_SIZE_MAX:
            raise MalformedPacket(
                f"push/pull of {header.nodes} nodes and {header.user_state_len} bytes is too large"
            )
        nodes: list[NodeState] = []
        end = yield from source.objects(
            end, header.nodes, lambda value: nodes.append(_STATE_FIELDS.from_map(value))
        )
        yield from source.need(end + header.user_state_len)
        user_state = bytes(source.data[end : end + header.user_state_len])
        self.message = PushPull(join=header.join, nodes=tuple(nodes), user_state=user_state)


class _Source:
    """Bytes that a stream reader asks for; `complete` ones cannot become more."""

    def __init__(self, data: bytes = b"", *, complete: bool = False) -> None:
        self.data = bytearray(data)
        self._complete = complete

    def need(self, size: int) -> _Reading:
        """Wait until there are `size` bytes."""
        while len(self.data) < size:
            self._refuse_end()
            yield

    def objects(
        self, start: int, count: int, receive: Callable[[object], None]
    ) -> Generator[None, None, int]:
        """Hand `count` MessagePack objects from `start` on to `receive`; return where they end."""
        unpacker = msgpack.Unpacker(
            raw=True, max_buffer_size=lzw.DECOMPRESSED_SIZE_MAX, max_array_len=64, max_map_len=64
        )
        fed = start
        for _ in range(count):
            while True:
                try:
                    if fed < len(self.data):
                        unpacker.feed(memoryview(self.data)[fed:].tobytes())
                        fed = len(self.data)
                    value = unpacker.unpack()
                except msgpack.OutOfData:
                    self._refuse_end()
                except (ValueError, TypeError, msgpack.UnpackException) as error:
                    raise MalformedPacket(f"msgpack: {error}") from None
                else:
                    break
                yield
            receive(value)
        end: int = start + unpacker.tell()
        return end

    def _refuse_end(self) -> None:
        if self._complete:
            raise MalformedPacket("stream ends inside a message")
        if len(self.data) > STREAM_SIZE_MAX + 5:
            raise MalformedPacket(f"stream is larger than limit ({STREAM_SIZE_MAX})")
