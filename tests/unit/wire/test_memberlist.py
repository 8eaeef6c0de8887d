"""Memberlist codec: captured bytes both ways, round trips, rubbish."""

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import BadChecksum, MalformedPacket, ProtocolError, UnknownProtocol
from isthmus.wire import memberlist as wire
from support.gossip_vectors import paths

TYPES = {
    "ping": wire.Ping,
    "indirectPing": wire.IndirectPing,
    "ackResp": wire.Ack,
    "nackResp": wire.Nack,
    "suspect": wire.Suspect,
    "alive": wire.Alive,
    "dead": wire.Dead,
    "err": wire.ErrorReply,
}
ATTRIBUTES = {
    "SeqNo": "seq_no", "Node": "node", "Target": "target", "Port": "port", "Nack": "nack",
    "SourceAddr": "source_addr", "SourcePort": "source_port", "SourceNode": "source_node",
    "Payload": "payload", "Incarnation": "incarnation", "From": "from_", "Addr": "addr",
    "Meta": "meta", "Vsn": "vsn", "Error": "error", "Name": "name", "State": "state",
}  # fmt: skip
KEY = AESGCM(bytes(range(16)))
OTHER_KEY = AESGCM(bytes(range(32)))
NONCE = bytes(12)
VECTORS = Path(__file__).parents[2] / "vectors"


def plain(value: object) -> Any:
    """A vector's notation of a value: byte strings are written as ``0x…``."""
    if value is None:
        return b""
    if isinstance(value, str) and value.startswith("0x"):
        return bytes.fromhex(value[2:])
    return value


def record(kind: type, body: dict[str, Any]) -> Any:
    return kind(**{ATTRIBUTES[key]: plain(value) for key, value in body.items()})


def packet_messages(vector: Any) -> list[bytes]:
    opened = wire.open_packet(vector.data, label=vector.label, ciphers=vector.ciphers)
    assert not opened.faults
    return opened.messages


def read_stream(vector: Any, *, chunk: int = 1 << 20) -> Any:
    reader = wire.StreamReader(
        label=vector.label, ciphers=vector.ciphers, dialler=vector.dialled_by_us
    )
    for start in range(0, len(vector.data), chunk):
        reader.receive_data(vector.data[start : start + chunk])
    reader.receive_eof()
    return reader.message


def expected_stream(message: dict[str, Any]) -> Any:
    if message["type"] == "pushPull":
        nodes = []
        for node in message["nodes"]:
            body = {key: value for key, value in node.items() if key in ATTRIBUTES}
            nodes.append(record(wire.NodeState, body | {"State": wire.NodeStatus(node["State"])}))
        return wire.PushPull(
            join=message["header"]["Join"],
            nodes=tuple(nodes),
            user_state=plain(message["user_state_hex"]),
        )
    if message["type"] == "user":
        return wire.UserMessage(plain(message["payload"]))
    return record(TYPES[message["type"]], message["body"])


def test_captured_bytes_decode_to_their_messages(gossip_vector: Any) -> None:
    if gossip_vector.stream:
        (expected,) = gossip_vector.messages
        assert read_stream(gossip_vector) == expected_stream(expected)
        return
    leaves = packet_messages(gossip_vector)
    assert len(leaves) == len(gossip_vector.messages)
    for leaf, message in zip(leaves, gossip_vector.messages, strict=True):
        decoded = wire.decode_message(leaf)
        if message["type"] == "user":
            assert isinstance(decoded, wire.UserMessage)
        else:
            assert decoded == record(TYPES[message["type"]], message["body"])


def test_messages_encode_to_the_captured_bytes(gossip_vector: Any) -> None:
    if gossip_vector.stream:
        message = read_stream(gossip_vector)
        data = wire.wrap_stream(
            wire.encode_stream(message),
            label=gossip_vector.label,
            dialler=not gossip_vector.dialled_by_us,
            compressed=True,
        )
        if not gossip_vector.ciphers:
            assert data == gossip_vector.data
        return
    for leaf in packet_messages(gossip_vector):
        assert wire.encode_message(wire.decode_message(leaf)) == leaf


def test_layers_encode_to_the_captured_bytes(gossip_vector: Any) -> None:
    """All packets but encrypted ones, whose nonce is chance."""
    if gossip_vector.stream or gossip_vector.ciphers:
        return
    leaves = packet_messages(gossip_vector)
    data = wire.join_compound(leaves)
    if "lzw" in gossip_vector.layers:
        data = wire.compress(data)
    if "crc32" in gossip_vector.layers:
        data = wire.add_checksum(data)
    assert wire.add_label(data, gossip_vector.label) == gossip_vector.data


def test_captured_streams_may_come_in_any_pieces(gossip_vector: Any) -> None:
    if gossip_vector.stream:
        assert read_stream(gossip_vector, chunk=1) == read_stream(gossip_vector)


def federation_vector(name: str) -> Any:
    return json.loads((VECTORS / "federation" / f"{name}.json").read_text())


def leaf_bodies(decoded: dict[str, Any]) -> list[dict[str, Any]]:
    if decoded["name"] == "compound":
        return [leaf for part in decoded["parts"] for leaf in leaf_bodies(part)]
    return leaf_bodies(decoded["inner"]) if "inner" in decoded else [decoded]


@pytest.mark.parametrize("name", ["packet_frames", "packet_frames_encrypted"])
def test_captured_gateway_packets_decode(name: str) -> None:
    """Consul 1.10.11's packets through mesh gateways (protocol/federation.md §14.1)."""
    raw = federation_vector(name)
    key = msgspec.json.decode(json.dumps(raw.get("gossip_key_base64", "")), type=bytes)
    ciphers = (AESGCM(key),) if key else ()
    frames = [frame for connection in raw["connections"] for frame in connection["frames"]]
    assert frames
    for frame in frames:
        packet = bytes.fromhex(frame["frame_hex"])[4:]
        opened = wire.open_packet(packet, ciphers=ciphers)
        expected = leaf_bodies(frame["decoded"])
        assert not opened.faults
        assert [leaf[0] for leaf in opened.messages] == [leaf["type"] for leaf in expected]
        for leaf, message in zip(opened.messages, expected, strict=True):
            decoded = wire.decode_message(leaf)
            assert wire.encode_message(decoded) == leaf
            if "Node" in message.get("body", {}) and not isinstance(decoded, wire.UserMessage):
                assert decoded.node == message["body"]["Node"]  # type: ignore[union-attr]


def test_captured_gateway_streams_decode() -> None:
    """Consul 1.10.11's push/pulls through mesh gateways (protocol/federation.md §14.2)."""
    for exchange in federation_vector("stream_exchange")["exchanges"]:
        for side in ("dialler", "receiver"):
            if exchange["mode"] != "plain":
                continue
            data = bytes.fromhex(exchange[f"{side}_bytes_hex"])
            reader = wire.StreamReader(dialler=side == "receiver")
            reader.receive_data(data)
            message = reader.message
            assert isinstance(message, wire.PushPull)
            expected = exchange[f"{side}_decoded"]["inner"]
            assert [node.name for node in message.nodes] == [
                node["Name"] for node in expected["nodes"]
            ]
            assert message.user_state.hex() == expected["user_state_hex"]
            encoded = wire.wrap_stream(
                wire.encode_stream(message), dialler=side == "dialler", compressed=True
            )
            assert encoded == data


texts = st.text(max_size=40)
u16 = st.integers(0, 2**16 - 1)
u32 = st.integers(0, 2**32 - 1)
octets = st.binary(max_size=80)
sources = {"source_addr": octets, "source_port": u16, "source_node": texts}
suspicions = {"incarnation": u32, "node": texts, "from_": texts}
messages = st.one_of(
    st.builds(wire.Ping, seq_no=u32, node=texts, **sources),
    st.builds(
        wire.IndirectPing, seq_no=u32, target=octets, port=u16, node=texts, nack=st.booleans(),
        **sources,
    ),
    st.builds(wire.Ack, seq_no=u32, payload=octets),
    st.builds(wire.Nack, seq_no=u32),
    st.builds(wire.Suspect, **suspicions),
    st.builds(wire.Dead, **suspicions),
    st.builds(
        wire.Alive, incarnation=u32, node=texts, addr=octets, port=u16, meta=octets, vsn=octets
    ),
    st.builds(wire.ErrorReply, error=texts),
    st.builds(wire.UserMessage, octets),
)  # fmt: skip
states = st.builds(
    wire.NodeState, name=texts, addr=octets, port=u16, meta=octets, incarnation=u32,
    state=st.sampled_from(wire.NodeStatus), vsn=octets,
)  # fmt: skip
stream_messages = st.one_of(
    st.builds(
        wire.PushPull,
        join=st.booleans(),
        nodes=st.lists(states, max_size=4).map(tuple),
        user_state=octets,
    ),
    st.builds(wire.Ping, seq_no=u32, node=texts, **sources),
    st.builds(wire.Ack, seq_no=u32, payload=octets),
    st.builds(wire.UserMessage, octets),
    st.builds(wire.ErrorReply, error=texts),
)


@given(messages)
def test_message_round_trip(message: wire.PacketMessage) -> None:
    assert wire.decode_message(wire.encode_message(message)) == message


@given(
    st.lists(messages.map(wire.encode_message), min_size=1, max_size=6),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, 0, 1]),
    st.sampled_from([b"", b"dc1"]),
)
def test_packet_round_trip(
    leaves: list[bytes], compressed: bool, checksum: bool, version: int | None, label: bytes
) -> None:
    data = wire.join_compound(leaves)
    if compressed:
        data = wire.compress(data)
    if checksum:
        data = wire.add_checksum(data)
    if version is not None:
        data = wire.seal(data, KEY, nonce=NONCE, associated=label, version=version)
    data = wire.add_label(data, label)
    ciphers = () if version is None else (OTHER_KEY, KEY)
    assert wire.open_packet(data, label=label, ciphers=ciphers).messages == leaves


@given(
    stream_messages, st.booleans(), st.booleans(), st.booleans(), st.sampled_from([b"", b"dc1"]),
    st.data(),
)  # fmt: skip
def test_stream_round_trip(
    message: wire.StreamMessage,
    compressed: bool,
    encrypted: bool,
    dialler: bool,
    label: bytes,
    data: st.DataObject,
) -> None:
    raw = wire.wrap_stream(
        wire.encode_stream(message),
        label=label,
        cipher=KEY if encrypted else None,
        nonce=NONCE,
        dialler=dialler,
        compressed=compressed,
    )
    cut = data.draw(st.integers(0, len(raw)))
    reader = wire.StreamReader(
        label=label, ciphers=(OTHER_KEY, KEY) if encrypted else (), dialler=not dialler
    )
    reader.receive_data(raw[:cut])
    if cut < len(raw):
        assert reader.message is None
    reader.receive_data(raw[cut:])
    assert reader.message == message


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_protocol_error(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        wire.decode_message(data)


any_layers = st.one_of(
    st.binary(max_size=100),
    st.binary(max_size=100).map(lambda data: b"\x07" + data),
    st.binary(max_size=100).map(wire.add_checksum),
    st.binary(max_size=100).map(wire.compress),
    st.binary(max_size=100).map(lambda data: wire.compress(wire.compress(data))),
    st.binary(max_size=100).map(lambda data: wire.add_label(data, b"x")),
)


@given(any_layers, st.booleans())
def test_any_bytes_are_a_packet_or_a_protocol_error(data: bytes, encrypted: bool) -> None:
    try:
        opened = wire.open_packet(data, ciphers=(KEY,) if encrypted else (), verify=False)
    except ProtocolError:
        return
    assert all(isinstance(fault, ProtocolError) for fault in opened.faults)


@given(
    st.one_of(
        st.binary(max_size=200),
        st.tuples(st.sampled_from([b"\x06", b"\x08", b"\x09", b"\x0a", b"\xf4"]), octets).map(
            b"".join
        ),
    ),
    st.booleans(),
)
def test_any_bytes_are_a_stream_or_a_protocol_error(data: bytes, encrypted: bool) -> None:
    reader = wire.StreamReader(ciphers=(KEY,) if encrypted else (), verify=False, dialler=False)
    try:
        reader.receive_data(data)
        reader.receive_eof()
    except ProtocolError:
        return
    assert reader.message is not None


def test_checksum_stands_only_directly_inside_encryption() -> None:
    """protocol/gossip.md §1.2: inside a compound it is an unknown message."""
    inner = wire.add_checksum(b"\x00\x80")
    opened = wire.open_packet(wire.join_compound([inner, b"\x00\x80"]))
    with pytest.raises(UnknownProtocol, match=r"msg type \(12\) not supported"):
        wire.decode_message(opened.messages[0])
    assert wire.decode_message(opened.messages[1]) == wire.Ping()


def test_wrong_checksum_drops_the_packet() -> None:
    data = bytearray(wire.add_checksum(b"\x00\x80"))
    data[2] ^= 1
    with pytest.raises(BadChecksum):
        wire.open_packet(bytes(data))


def test_broken_part_of_a_compound_spares_the_others() -> None:
    opened = wire.open_packet(wire.join_compound([b"\x09\x80", b"\x00\x80"]))
    assert opened.messages == [b"\x00\x80"]
    assert len(opened.faults) == 1


def test_cut_off_tail_of_a_compound_is_left_out() -> None:
    data = wire.join_compound([b"\x00\x80", b"\x00\x81"])
    assert wire.open_packet(data[:-1]).messages == [b"\x00\x80"]


def test_deep_nesting_is_refused() -> None:
    data = b"\x00\x80"
    for _ in range(wire.NESTING_MAX + 1):
        data = wire.compress(data)
    with pytest.raises(MalformedPacket, match="nested"):
        wire.open_packet(data)


def test_plain_packet_is_refused_by_a_pool_with_keys() -> None:
    with pytest.raises(ProtocolError):
        wire.open_packet(b"\x00\x80", ciphers=(KEY,))
    assert wire.open_packet(b"\x00\x80", ciphers=(KEY,), verify=False).messages == [b"\x00\x80"]


def test_label_must_be_ours() -> None:
    for label, data in ((b"", wire.add_label(b"\x00\x80", b"x")), (b"x", b"\x00\x80")):
        with pytest.raises(MalformedPacket, match="unacceptable label"):
            wire.open_packet(data, label=label)


def test_number_beyond_its_range_is_malformed() -> None:
    """A uint32 field above 2^32-1 is a decode error."""
    with pytest.raises(MalformedPacket, match="32 bits"):
        wire.decode_message(b"\x0b\x81\xa5SeqNo\xcf" + struct.pack(">Q", 2**32))


def test_other_string_families_and_signed_integers_are_accepted() -> None:
    data = b"\x05\x83\xd9\x04Node\xc4\x01a\xa4From\xc5\x00\x01b\xabIncarnation\xd3" + bytes(7)
    assert wire.decode_message(data + b"\x07") == wire.Dead(incarnation=7, node="a", from_="b")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x06\x83\xa4Join\xc3\xa5Nodes\xce\x7f\xff\xff\xff\xacUserStateLen\x00", "too large"),
        (b"\x06\x83\xa4Join\xc3\xa5Nodes\x00\xacUserStateLen\xce\x7f\xff\xff\xff", "too large"),
        (b"\x08\x81\xaaUserMsgLen\xce\x7f\xff\xff\xff", "too long"),
        (b"\x0a\x7f\xff\xff\xff", "larger than limit"),
        (b"\x63", r"invalid msgType \(99\)"),
    ],
)
def test_stream_that_promises_too_much_is_refused_at_its_header(data: bytes, text: str) -> None:
    reader = wire.StreamReader(ciphers=(KEY,), verify=False, dialler=False)
    with pytest.raises(ProtocolError, match=text):
        reader.receive_data(data)


def test_errors_of_streams_are_worded_as_the_reference_does() -> None:
    reader = wire.StreamReader(ciphers=(KEY,), dialler=False)
    with pytest.raises(ProtocolError, match=wire.NOT_ENCRYPTED):
        reader.receive_data(b"\x00")
    reader = wire.StreamReader(dialler=False)
    with pytest.raises(ProtocolError, match=wire.ENCRYPTED):
        reader.receive_data(b"\x0a\x00\x00\x00\x20")
    sealed = wire.wrap_stream(b"\x00\x80", cipher=KEY, nonce=NONCE, dialler=True)
    reader = wire.StreamReader(ciphers=(OTHER_KEY,), dialler=False)
    with pytest.raises(ProtocolError, match=wire.NO_KEY):
        reader.receive_data(sealed)


def test_encrypted_captures_seal_to_themselves(gossip_vector: Any) -> None:
    """With the capture's nonce, encryption gives its bytes again: both versions, with label."""
    if not gossip_vector.ciphers:
        return
    (cipher,) = gossip_vector.ciphers
    label, data = wire.split_label(gossip_vector.data)
    associated = gossip_vector.label
    head = b""
    if gossip_vector.stream:
        head, data = data[:5], data[5:]
        associated = head + associated
    sealed = wire.seal(
        wire.unseal(data, [cipher], associated=associated),
        cipher,
        nonce=data[1 : 1 + wire.NONCE_SIZE],
        associated=associated,
        version=data[0],
    )
    assert wire.add_label(head + sealed, label) == gossip_vector.data


def test_all_vectors_are_read() -> None:
    """protocol/gossip.md §19 lists forty."""
    numbers = [int(path.name[:2]) for path in paths()]
    assert numbers == list(range(1, 41))


def test_packet_holds_a_bounded_number_of_messages() -> None:
    """Compounds in a compound could hold 65 025 pings, each of which would be answered."""
    ping = wire.encode_message(wire.Ping())
    inner = wire.join_compound([ping] * 255)
    opened = wire.open_packet(wire.join_compound([inner] * 255))
    assert opened.messages == [ping] * wire.PACKET_MESSAGES_MAX
    assert [str(fault) for fault in opened.faults] == ["packet holds too many messages"]
    rubbish = wire.join_compound([b"\x07"] * 255)
    opened = wire.open_packet(wire.join_compound([rubbish] * 255))
    assert (len(opened.messages), len(opened.faults)) == (0, wire.PACKET_MESSAGES_MAX + 1)


def test_bombs_in_one_packet_share_one_bound() -> None:
    """Sixty parts of a few kilobytes each, every one of which becomes 400 KiB."""
    bomb = wire.compress(bytes(400 * 1024))
    opened = wire.open_packet(wire.join_compound([bomb] * 60))
    assert sum(map(len, opened.messages)) <= wire.PACKET_PLAIN_SIZE_MAX
    assert len(opened.messages) == 2
    assert len(opened.faults) == 58
    assert wire.open_packet(bomb).messages == [bytes(400 * 1024)]
