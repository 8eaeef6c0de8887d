"""MessagePack codec: captured bytes both ways, round trips, what it tolerates, rubbish."""

import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.errors import MalformedPacket
from isthmus.model.catalog import Node, NodeService, ServiceAddress
from isthmus.model.config_entry import ServiceSplit, ServiceSplitterConfigEntry
from isthmus.model.federation import (
    FederationState,
    FederationStateRequest,
    IndexedFederationStates,
)
from isthmus.model.kv import DirEntry
from isthmus.model.methods import METHODS
from isthmus.model.query import QueryOptions
from isthmus.model.record import Float32, Record, Uint
from isthmus.model.timestamp import Timestamp
from isthmus.units import Duration
from isthmus.wire import msgpack
from isthmus.wire.blob import is_blob
from support.records import free_values, record_types, values
from support.rpc_vectors import BODIES, RpcVector, federation_messages, load

RECORDS = record_types()
PLAIN = sorted(name for name, kind in BODIES.items() if not is_blob(kind))
SAME_BYTES = [name for name in PLAIN if not name.endswith("1.9.8")]
# The type is chosen once per example, so many examples see many types.
ANY_RECORD = st.sampled_from(RECORDS).flatmap(values)


class Omitting(Record, frozen=True, kw_only=True):
    """As Go's ``Intention``, whose unused address and port stay away from the wire."""

    wire_omit_empty = frozenset({"default_addr"})

    zone: str = ""
    default_addr: str = ""
    action: str = ""


# Vectors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLAIN)
def test_captured_message_decodes_to_its_meaning(name: str) -> None:
    vector = load(name)
    value = msgpack.decode(vector.kind, vector.body)
    assert value == msgpack.from_plain(vector.kind, vector.meaning)
    assert without_new_fields(vector, msgpack.to_plain(value)) == without_new_fields(
        vector, wire_bytes(vector.meaning)
    )


def wire_bytes(value: Any) -> Any:
    """Strings as bytes, so that times and values compare whichever way they are held."""
    if isinstance(value, str):
        return msgpack.bytes_of(value)
    if isinstance(value, list | tuple):
        return [wire_bytes(item) for item in value]
    if isinstance(value, dict):
        return {wire_bytes(key): wire_bytes(item) for key, item in value.items()}
    return value


def without_new_fields(vector: RpcVector, value: Any) -> Any:
    value = wire_bytes(value)
    if vector.name.endswith("1.9.8"):
        value.pop(b"Backend", None)
    return value


@pytest.mark.parametrize("name", SAME_BYTES)
def test_captured_message_encodes_to_the_same_bytes(name: str) -> None:
    vector = load(name)
    assert msgpack.encode(msgpack.decode(vector.kind, vector.body)) == vector.body


def test_reply_of_an_older_server_lacks_a_field_and_is_read() -> None:
    vector = load("federationstate-list-response-1.9.8")
    (state,) = msgpack.decode(IndexedFederationStates, vector.body).states or ()
    assert state == FederationState(
        datacenter="dc1",
        updated_at=Timestamp.parse("2026-11-23T07:28:37.857102475Z"),
        primary_modify_index=12,
        create_index=12,
        modify_index=12,
    )


@pytest.mark.parametrize("number", range(len(federation_messages())))
def test_messages_of_a_real_federation_pass_through_unchanged(number: int) -> None:
    message = federation_messages()[number]
    method = METHODS[message["header"]["ServiceMethod"]]
    kind: Any = method.request if message["dir"] == "request" else method.reply
    body = bytes.fromhex(message["body_hex"])
    assert msgpack.encode(msgpack.decode(kind, body)) == body


def test_captured_gateway_has_its_fields() -> None:
    vector = load("federationstate-apply-request")
    state = msgpack.decode(FederationStateRequest, vector.body).state
    assert state is not None
    ((gateway,),) = [state.mesh_gateways or ()]
    assert gateway.service is not None
    assert gateway.node is not None
    assert gateway.service.meta == {"consul-wan-federation": "1"}
    assert gateway.service.proxy.config == {
        "n": 7.0,
        "l": ["a"],
        "envoy_mesh_gateway_no_default_bind": True,
        "x": 1.5,
    }
    assert gateway.node.tagged_addresses == {"wan": "198.18.0.1", "lan": "10.9.0.1"}
    assert [check.definition.interval for check in gateway.checks or ()] == [Duration.of(10)]


# Round trips ------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_zero_value_of_every_record_survives(record: type[Record]) -> None:
    assert msgpack.decode(record, msgpack.encode(record())) == record()


@given(value=ANY_RECORD)
@settings(deadline=None)
def test_every_record_survives(value: Record) -> None:
    assert msgpack.decode(type(value), msgpack.encode(value)) == value


@given(value=ANY_RECORD)
@settings(deadline=None, max_examples=50)
def test_maps_have_sorted_keys(value: Record) -> None:
    keys = list(next(plain_of(msgpack.encode(value))))
    assert keys == sorted(keys)


def plain_of(data: bytes) -> Any:
    unpacker = msgpack.Unpacker()
    unpacker.feed(data)
    return iter(unpacker)


@given(data=st.binary(max_size=80))
def test_bytes_that_are_no_text_survive(data: bytes) -> None:
    entry = DirEntry(key=data.decode("utf-8", "surrogateescape"), value=data)
    assert msgpack.decode(DirEntry, msgpack.encode(entry)) == entry


@given(chunks=st.lists(st.integers(1, 7), min_size=1), stream=st.lists(free_values(), max_size=4))
def test_stream_may_be_chopped_anywhere(chunks: list[int], stream: list[Any]) -> None:
    data = b"".join(map(msgpack.pack, stream))
    unpacker, found, start = msgpack.Unpacker(), [], 0
    while start < len(data):
        for size in chunks:
            unpacker.feed(data[start : start + size])
            start += size
            found += list(unpacker)
    assert found == stream
    assert unpacker.offset == len(data)


# Encoding rules, protocol/rpc.md §3.2 ------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "hexadecimal"),
    [
        ("", "a0"),
        ("x" * 31, "bf" + "78" * 31),
        ("x" * 32, "da0020" + "78" * 32),  # Never str8.
        ("x" * 65535, "daffff" + "78" * 65535),
        ("x" * 65536, "db00010000" + "78" * 65536),
        (b"\x00\xff", "a200ff"),  # Never bin.
        (True, "c3"),
        (0, "00"),
        (127, "7f"),
        (128, "cc80"),
        (65536, "ce00010000"),
        (2**64 - 1, "cf" + "ff" * 8),
        (-1, "ff"),
        (-33, "d0df"),
        (1.5, "cb3ff8000000000000"),
        (float("inf"), "cb7ff0000000000000"),
        (Duration.of(1), "ce3b9aca00"),
        (None, "c0"),
        ((), "90"),
        ({}, "80"),
        (Timestamp(), "af010000000000000000" + "00000000ffff"),
        (
            Timestamp.parse("2020-03-09T20:59:02.123456Z"),
            "af010000000ed5f8a516075bca00ffff",
        ),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_values_take_the_forms_of_the_old_specification(value: object, hexadecimal: str) -> None:
    assert msgpack.encode(value).hex() == hexadecimal


def test_what_has_no_form_is_our_mistake() -> None:
    with pytest.raises(TypeError, match="no MessagePack form for object"):
        msgpack.pack([object()])


def test_records_have_every_field_sorted_by_its_wire_name() -> None:
    plain: Any = msgpack.to_plain(ServiceAddress(address="10.0.0.1"))
    assert list(plain.items()) == [("Address", "10.0.0.1"), ("Port", 0)]


def test_weight_of_a_split_has_single_precision_and_nothing_else_has() -> None:
    entry = ServiceSplitterConfigEntry(name="web", splits=(ServiceSplit(weight=33.3),))
    data = msgpack.encode(entry)
    assert b"\xa6Weight\xca\x42\x05\x33\x33" in data
    assert msgpack.encode(msgpack.decode(ServiceSplitterConfigEntry, data)) == data


def test_weight_that_single_precision_cannot_hold_is_refused() -> None:
    assert msgpack.from_plain(ServiceSplit, {"Weight": 0.1}).weight == 0.10000000149011612
    assert msgpack.from_plain(ServiceSplit, {"Weight": 7}).weight == 7.0
    with pytest.raises(MalformedPacket, match=r"ServiceSplit\.Weight: 1e\+39 overflows"):
        msgpack.from_plain(ServiceSplit, {"Weight": 1e39})


def test_field_that_go_tags_omitempty_stays_away_when_zero() -> None:
    assert msgpack.to_plain(Omitting(zone="z")) == {"Action": "", "Zone": "z"}
    assert list(msgpack.to_plain(Omitting(default_addr="a"))) == ["Action", "DefaultAddr", "Zone"]  # type: ignore[call-overload]


# What is tolerated, protocol/rpc.md §3.2 and §3.3 -------------------------------------------------

NODE = {"Node": "n", "Meta": {"k": "v"}, "ModifyIndex": 7}


@pytest.mark.parametrize(
    ("kind", "data", "value"),
    [
        pytest.param(Node, msgpack.pack(dict(reversed(NODE.items()))), None, id="any key order"),
        pytest.param(Node, msgpack.pack({**NODE, "Zone": [{}]}), None, id="unknown key"),
        pytest.param(Node, msgpack.pack({**NODE, "node": "other"}), None, id="wrong case"),
        pytest.param(
            Node, msgpack.pack({**NODE, "ID": None, "CreateIndex": None}), None, id="nil is zero"
        ),
        pytest.param(str, b"\xd9\x01a", "a", id="str8 for a string"),
        pytest.param(bytes, b"\xc4\x01a", b"a", id="bin for bytes"),
        pytest.param(bytes, b"\x92\x01\xcc\xff", b"\x01\xff", id="list of integers for bytes"),
        pytest.param(bool, b"\x01", True, id="1 for true"),
        pytest.param(bool, b"\x00", False, id="0 for false"),
        pytest.param(float, b"\x07", 7.0, id="integer for a float"),
        pytest.param(float, b"\xca\x3f\xc0\x00\x00", 1.5, id="single for a double"),
        pytest.param(Duration, b"\xc0", Duration(0), id="nil for a duration"),
        pytest.param(Timestamp, b"\xc0", Timestamp(), id="nil for a time"),
        pytest.param(
            Timestamp,
            b"\xc4\x0f" + bytes.fromhex("010000000ed5f8a516075bca00ffff"),
            Timestamp.parse("2020-03-09T20:59:02.123456Z"),
            id="bin for a time",
        ),
        pytest.param(
            Timestamp,
            b"\xaf" + bytes.fromhex("010000000ed5f8a516075bca000000"),
            Timestamp(63_719_384_342, 123_456_000, 0),
            id="zone that happens to be at UTC",
        ),
        pytest.param(
            Timestamp,
            b"\xb0" + bytes.fromhex("020000000ed5f8a516075bca00003c1e"),
            Timestamp(63_719_384_342, 123_456_000, 60),
            id="version 2 with seconds of the offset",
        ),
        pytest.param(Timestamp | None, b"\xc0", None, id="pointer to a time"),
    ],
)
def test_what_consul_accepts_is_accepted(kind: Any, data: bytes, value: object) -> None:
    expected = Node(node="n", meta={"k": "v"}, modify_index=7) if value is None else value
    if kind == Timestamp | None:
        expected = None
    assert msgpack.decode(kind, data) == expected


@pytest.mark.parametrize(
    ("kind", "zero"),
    [
        (str, ""),
        (bytes, b""),
        (bool, False),
        (int, 0),
        (Uint, 0),
        (float, 0.0),
        (Float32, 0.0),
        (Duration, Duration(0)),
        (Timestamp, Timestamp()),
        (Node, Node()),
        (tuple[str, ...], ()),
        (dict[str, str], {}),
        (object, None),
        (Node | None, None),
        (tuple[Node, ...] | None, None),
        (int | None, None),
    ],
    ids=repr,
)
def test_nil_is_the_zero_value(kind: Any, zero: object) -> None:
    assert msgpack.decode(kind, b"\xc0") == zero


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        pytest.param(float, b"\xa0", id="string for a float"),
        pytest.param(object, b"\x91\xd4\x01\x00", id="extension deep in a free value"),
        pytest.param(Node, b"\x92\xa0\xa0", id="struct as a list"),
        pytest.param(str, b"\xc4\x01a", id="bin for a string"),
        pytest.param(dict[str, str], b"\x81\xc4\x01a\xa0", id="bin for a key of a map"),
        pytest.param(int, b"\xcb" + bytes(8), id="float for an integer"),
        pytest.param(int, b"\xa11", id="string for an integer"),
        pytest.param(int, b"\xcf" + b"\xff" * 8, id="integer of more than 63 bits"),
        pytest.param(int, b"\xc3", id="true for an integer"),
        pytest.param(bool, b"\x02", id="2 for a boolean"),
        pytest.param(bool, b"\x90", id="list for a boolean"),
        pytest.param(bytes, b"\x91\xcd\x01\x00", id="256 in a list for bytes"),
        pytest.param(tuple[str, ...], b"\x80", id="map for a list"),
        pytest.param(Timestamp, b"\xa0", id="empty time"),
        pytest.param(Timestamp, b"\xb42020-03-09T20:59:02Z", id="text for a time"),
        pytest.param(Timestamp, b"\x07", id="integer for a time"),
        pytest.param(Timestamp, b"\xd6\xff\x00\x00\x00\x00", id="timestamp extension"),
        pytest.param(Timestamp, b"\xaf\x03" + bytes(14), id="time of version 3"),
        pytest.param(
            Timestamp, b"\xaf\x01" + b"\x7f" + bytes(11) + b"\xff\xff", id="year 292 billion"
        ),
        pytest.param(object, b"\xd4\x01\x00", id="extension in a free value"),
        pytest.param(object, b"\x81\x01\x01", id="integer key in a free value"),
        pytest.param(object, b"\x91" * 101 + b"\x90", id="free value nested too deeply"),
        pytest.param(Node, b"", id="nothing"),
        pytest.param(Node, b"\x80\x80", id="two values"),
        pytest.param(Node, b"\x80\xa5x", id="rest that is cut off"),
        pytest.param(Node, b"\xc1", id="byte that MessagePack does not use"),
        pytest.param(Node, b"\x81\x91\x00\x00", id="list as a key"),
    ],
)
def test_what_consul_refuses_is_refused(kind: Any, data: bytes) -> None:
    with pytest.raises(MalformedPacket):
        msgpack.decode(kind, data)


@pytest.mark.parametrize("number", [0, 7, 2**64 - 1])
def test_unsigned_fields_take_all_64_bits(number: int) -> None:
    data = msgpack.pack({"MinQueryIndex": number})
    assert msgpack.decode(QueryOptions, data) == QueryOptions(min_query_index=number)


def test_unsigned_fields_refuse_negative_numbers() -> None:
    with pytest.raises(MalformedPacket, match=r"^QueryOptions.MinQueryIndex: expected an unsigned"):
        msgpack.decode(QueryOptions, msgpack.pack({"MinQueryIndex": -1}))


def test_mistake_names_the_field() -> None:
    data = msgpack.pack({"Proxy": {"Upstreams": [{"LocalBindPort": "x"}]}})
    with pytest.raises(MalformedPacket, match=r"Upstream\.LocalBindPort: expected an integer"):
        msgpack.decode(NodeService, data)


# Rubbish ----------------------------------------------------------------------------------------


@given(data=st.binary(max_size=60), record=st.sampled_from(RECORDS))
def test_any_bytes_are_a_value_or_a_protocol_error(data: bytes, record: type[Record]) -> None:
    try:
        value = msgpack.decode(record, data)
    except MalformedPacket:
        return
    assert isinstance(value, record)


@given(value=ANY_RECORD, other=free_values(), data=st.data())
@settings(deadline=None)
def test_any_value_in_any_field_is_taken_or_refused(
    value: Record, other: object, data: st.DataObject
) -> None:
    plain: Any = msgpack.to_plain(value)
    if plain:
        plain[data.draw(st.sampled_from(sorted(plain)))] = other
    try:
        again = msgpack.from_plain(type(value), plain)
    except MalformedPacket:
        return
    assert msgpack.decode(type(value), msgpack.encode(again)) == again


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xdd\x7f\xff\xff\xff", id="list"),
        pytest.param(b"\xdf\x7f\xff\xff\xff", id="map"),
        pytest.param(b"\xdb\x7f\xff\xff\xff", id="string"),
        pytest.param(b"\xdd\x00\x3f\xff\xff" * 1000, id="nested lists"),
    ],
)
def test_declared_length_costs_no_memory(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(MalformedPacket):
            msgpack.decode(Node, data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa0", b"\x92\xc0"])
def test_deep_nesting_is_refused(opening: bytes) -> None:
    with pytest.raises(MalformedPacket):
        msgpack.decode(object, opening * 100_000 + b"\xc0")


def test_deepest_free_value_can_be_written_again() -> None:
    data = b"\x91" * msgpack.NESTING_MAX + b"\xc0"
    assert msgpack.encode(msgpack.decode(object, data)) == data


def test_message_over_the_limit_is_refused() -> None:
    unpacker = msgpack.Unpacker(size_max=100)
    unpacker.feed(b"\xda\x01\x00" + bytes(90))
    assert list(unpacker) == []
    with pytest.raises(MalformedPacket, match="larger than the limit"):
        unpacker.feed(bytes(90))
