"""Serf codec: captured bytes both ways, round trips, rubbish."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import MalformedPacket, ProtocolError, UnknownProtocol
from isthmus.wire import memberlist as packets
from isthmus.wire import serf as wire

ATTRIBUTES = {
    "LTime": "ltime", "Node": "node", "Prune": "prune", "Name": "name", "Payload": "payload",
    "CC": "cc", "ID": "id", "Addr": "addr", "Port": "port", "SourceNode": "source_node",
    "Filters": "filters", "Flags": "flags", "RelayFactor": "relay_factor", "Timeout": "timeout",
    "From": "from_", "Tags": "tags", "Status": "status", "ProtocolMin": "protocol_min",
    "ProtocolMax": "protocol_max", "ProtocolCur": "protocol_cur", "DelegateMin": "delegate_min",
    "DelegateMax": "delegate_max", "DelegateCur": "delegate_cur", "Key": "key", "Result": "result",
    "Message": "message", "Keys": "keys", "PrimaryKey": "primary_key",
    "StatusLTimes": "status_ltimes", "LeftMembers": "left_members", "EventLTime": "event_ltime",
    "Events": "events", "QueryLTime": "query_ltime",
}  # fmt: skip
TYPES = {
    "leave": wire.Leave,
    "join": wire.Join,
    "pushPull": wire.SerfPushPull,
    "userEvent": wire.UserEvent,
    "query": wire.Query,
    "queryResponse": wire.QueryResponse,
    "conflictResponse": wire.ConflictResponse,
    "keyRequest": wire.KeyRequest,
    "keyResponse": wire.KeyResponse,
}
BYTES = {"payload", "addr", "key"}


def plain(name: str, value: Any) -> Any:
    """A vector's notation of a value: byte strings are written as ``0x…``."""
    if name == "events":
        slots: list[wire.UserEvents | None] = [None] * value["length"]
        for place, slot in value["non_null"].items():
            events = [
                wire.UserEventBody(name=event["Name"], payload=octets(event["Payload"]))
                for event in slot["Events"]
            ]
            slots[int(place)] = wire.UserEvents(ltime=slot["LTime"], events=tuple(events))
        return tuple(slots)
    if name in BYTES:
        return octets(value)
    if name == "filters":
        return tuple(octets(each) for each in value or ())
    if name in {"keys", "left_members"}:
        return tuple(value or ())
    return value


def octets(value: str | None) -> bytes:
    return b"" if value is None else bytes.fromhex(value.removeprefix("0x"))


def expected(message: dict[str, Any]) -> Any:
    if message["type"] == "relay":
        header = message["header"]
        inner = message["inner"]
        return wire.Relay(
            ip=octets(header["DestAddr"]["IP"]),
            port=header["DestAddr"]["Port"],
            dest_name=header["DestName"],
            message=wire.encode_message(expected(inner)),
        )
    body = {ATTRIBUTES[key]: value for key, value in message["body"].items()}
    return TYPES[message["type"]](**{name: plain(name, body[name]) for name in body})


def captured(vector: Any) -> list[tuple[bytes, dict[str, Any]]]:
    """Serf messages of a vector and what they mean."""
    if vector.stream:
        reader = packets.StreamReader(
            label=vector.label, ciphers=vector.ciphers, dialler=vector.dialled_by_us
        )
        reader.receive_data(vector.data)
        message = reader.message
        meaning = vector.messages[0].get("user_state")
        if meaning is None:
            return []
        assert isinstance(message, packets.PushPull)
        return [(message.user_state, meaning)]
    opened = packets.open_packet(vector.data, label=vector.label, ciphers=vector.ciphers)
    found = []
    for leaf, meaning in zip(opened.messages, vector.messages, strict=True):
        decoded = packets.decode_message(leaf)
        if isinstance(decoded, packets.UserMessage):
            found.append((decoded.payload, meaning["serf"]))
            if meaning["serf"].get("payload", {}).get("type") in TYPES:
                inner = octets(meaning["serf"]["body"]["Payload"])
                found.append((inner, meaning["serf"]["payload"]))
    return found


def test_captured_bytes_decode_to_their_messages(gossip_vector: Any) -> None:
    for data, meaning in captured(gossip_vector):
        assert wire.decode_message(data) == expected(meaning)


def test_messages_encode_to_the_captured_bytes(gossip_vector: Any) -> None:
    for data, _ in captured(gossip_vector):
        message = wire.decode_message(data)
        encoded = wire.encode_message(message)
        if isinstance(message, (wire.SerfPushPull, wire.ConflictResponse)):
            assert len(encoded) == len(data)  # Their maps have no fixed order.
        else:
            assert encoded == data


def test_captured_tags_decode(gossip_vector: Any) -> None:
    for message in gossip_vector.messages:
        for node in (message, *message.get("nodes", ())):
            if "tags" in node:
                meta = octets(node.get("Meta") or node["body"]["Meta"])
                assert wire.decode_tags(meta) == node["tags"]


def test_captured_filters_decode_and_encode(gossip_vector: Any) -> None:
    if not gossip_vector.name.startswith("34"):
        return
    ((data, _),) = captured(gossip_vector)
    query = wire.decode_message(data)
    assert isinstance(query, wire.Query)
    filters = [wire.decode_filter(each) for each in query.filters]
    assert filters == [wire.NodeFilter(("s2", "s3")), wire.TagFilter(tag="role", expr="r[23]")]
    assert tuple(wire.encode_filter(each) for each in filters) == query.filters


u8, u16, u32 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32))
u64 = st.integers(0, 2**64 - 1)
texts = st.text(max_size=40)
binary = st.binary(max_size=60)
bodies = st.builds(wire.UserEventBody, name=texts, payload=binary)
slots = st.none() | st.builds(
    wire.UserEvents, ltime=u64, events=st.lists(bodies, max_size=3).map(tuple)
)
tags = st.dictionaries(texts, texts, max_size=4)
messages = st.one_of(
    st.builds(wire.Leave, ltime=u64, node=texts, prune=st.booleans()),
    st.builds(wire.Join, ltime=u64, node=texts),
    st.builds(
        wire.SerfPushPull,
        ltime=u64,
        status_ltimes=st.dictionaries(texts, u64, max_size=4),
        left_members=st.lists(texts, max_size=3).map(tuple),
        event_ltime=u64,
        events=st.lists(slots, max_size=4).map(tuple),
        query_ltime=u64,
    ),
    st.builds(wire.UserEvent, ltime=u64, name=texts, payload=binary, cc=st.booleans()),
    st.builds(
        wire.Query,
        ltime=u64,
        id=u32,
        addr=binary,
        port=u16,
        source_node=texts,
        filters=st.lists(binary, max_size=3).map(tuple),
        flags=u32,
        relay_factor=u8,
        timeout=st.integers(-(2**63), 2**63 - 1),
        name=texts,
        payload=binary,
    ),
    st.builds(wire.QueryResponse, ltime=u64, id=u32, from_=texts, flags=u32, payload=binary),
    st.builds(
        wire.ConflictResponse,
        name=texts,
        addr=binary,
        port=u16,
        tags=tags,
        status=u8,
        protocol_min=u8,
        delegate_cur=u8,
    ),
    st.builds(wire.KeyRequest, key=binary),
    st.builds(
        wire.KeyResponse,
        result=st.booleans(),
        message=texts,
        keys=st.lists(texts, max_size=3).map(tuple),
        primary_key=texts,
    ),
    st.builds(wire.Relay, ip=binary, port=u16, zone=texts, dest_name=texts, message=binary),
)


@given(messages)
def test_round_trip(message: wire.SerfMessage) -> None:
    assert wire.decode_message(wire.encode_message(message)) == message


@given(tags)
def test_tags_round_trip(values: dict[str, str]) -> None:
    assert wire.decode_tags(wire.encode_tags(values)) == values


@pytest.mark.parametrize(("meta", "role"), [(b"", ""), (b"web", "web")])
def test_meta_without_mark_is_the_role(meta: bytes, role: str) -> None:
    """protocol/gossip.md §13.3."""
    assert wire.decode_tags(meta) == {"role": role}


@given(st.one_of(st.binary(max_size=200), st.tuples(st.binary(max_size=1), binary).map(b"".join)))
def test_any_bytes_are_a_message_or_a_protocol_error(data: bytes) -> None:
    for decode in (wire.decode_message, wire.decode_tags, wire.decode_filter):
        try:
            decode(data)
        except ProtocolError:
            continue


def test_unknown_type_is_an_unknown_protocol() -> None:
    with pytest.raises(UnknownProtocol, match=r"\(77\)"):
        wire.decode_message(b"\x4d\x80")


def test_tags_that_are_no_map_of_texts_are_malformed() -> None:
    with pytest.raises(MalformedPacket):
        wire.decode_tags(b"\xff\x81\xa1a\x07")
