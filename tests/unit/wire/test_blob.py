"""Messages that are a string holding MessagePack."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.errors import MalformedPacket, ProtocolError
from isthmus.model.catalog import MeshGatewayConfig
from isthmus.model.config_entry import (
    CONFIG_ENTRY_TYPES,
    ConfigEntry,
    ConfigEntryRequest,
    ConfigEntryResponse,
    IndexedConfigEntries,
    IndexedGenericConfigEntries,
    MeshConfigEntry,
    ProxyConfigEntry,
    ServiceConfigEntry,
    ServiceConfigResponse,
)
from isthmus.model.query import Empty
from isthmus.wire import blob, msgpack
from support.records import values
from support.rpc_vectors import BODIES, Sequence, load

BLOBS = sorted(name for name, kind in BODIES.items() if blob.is_blob(kind))
WEB = ServiceConfigEntry(name="web", protocol="http", create_index=23, modify_index=23)
GLOBAL = ProxyConfigEntry(
    name="global",
    config={"protocol": "http", "local_connect_timeout_ms": 1000.0},
    mesh_gateway=MeshGatewayConfig(mode="local"),
    create_index=22,
    modify_index=22,
)
MEANINGS: dict[str, blob.Blob] = {
    "configentry-apply-request": ConfigEntryRequest(
        datacenter="dc1",
        op="upsert",
        entry=ServiceConfigEntry(name="fromdc2", protocol="tcp"),
        token="11111111-2222-3333-4444-555555555555",
    ),
    "configentry-get-response": ConfigEntryResponse(entry=GLOBAL, index=25, known_leader=True),
    "configentry-list-response": IndexedConfigEntries(
        kind="service-defaults", entries=(WEB,), index=25, known_leader=True
    ),
    "configentry-listall-response": IndexedGenericConfigEntries(
        entries=(GLOBAL, WEB), index=23, known_leader=True
    ),
}


def entries() -> st.SearchStrategy[ConfigEntry]:
    return st.sampled_from(sorted(CONFIG_ENTRY_TYPES)).flatmap(entries_of)


def entries_of(kind: str) -> st.SearchStrategy[Any]:
    record = CONFIG_ENTRY_TYPES[kind]
    strategy = values(record)
    if "kind" in record.wire_hidden:
        return strategy
    return strategy.map(lambda entry: type(entry)(**{**fields(entry), "kind": kind}))


def fields(entry: ConfigEntry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in entry.__struct_fields__}


def messages() -> st.SearchStrategy[blob.Blob]:
    some = st.lists(entries(), max_size=3).map(tuple)
    return st.one_of(
        st.builds(IndexedGenericConfigEntries, entries=some, index=st.integers(1, 2**64 - 1)),
        st.sampled_from(sorted(CONFIG_ENTRY_TYPES)).flatmap(
            lambda kind: st.builds(
                IndexedConfigEntries,
                kind=st.just(kind),
                entries=st.lists(entries_of(kind), max_size=2).map(tuple),
            )
        ),
        st.builds(ConfigEntryResponse, entry=st.none() | entries()),
        st.builds(ConfigEntryRequest, entry=st.none() | entries(), op=st.text(max_size=5)),
        values(ServiceConfigResponse),
    )


@pytest.mark.parametrize("name", BLOBS)
def test_captured_message_decodes_to_its_meaning(name: str) -> None:
    vector = load(name)
    assert blob.decode_blob(vector.kind, vector.body) == MEANINGS[name]


@pytest.mark.parametrize("name", BLOBS)
def test_captured_message_encodes_to_the_same_bytes(name: str) -> None:
    vector = load(name)
    value = blob.decode_blob(vector.kind, vector.body)
    assert blob.encode_blob(value) == vector.body


@pytest.mark.parametrize("name", BLOBS)
def test_string_holds_the_captured_sequence(name: str) -> None:
    vector = load(name)
    assert contents(blob.to_blob(MEANINGS[name])) == flat(vector.meaning)


def contents(text: str) -> list[Any]:
    unpacker = msgpack.Unpacker()
    unpacker.feed(msgpack.bytes_of(text))
    return list(unpacker)


def flat(value: Sequence) -> list[Any]:
    """The sequence with the strings inside as strings."""
    inner = [
        b"".join(map(msgpack.pack, item)).decode("utf-8", "surrogateescape")
        if isinstance(item, Sequence)
        else item
        for item in value
    ]
    return list(inner)


def test_proxy_defaults_are_wrapped_twice() -> None:
    content = contents(blob.to_blob(ConfigEntryResponse(entry=GLOBAL)))
    assert content[0] == "proxy-defaults"
    assert contents(content[1])[0]["Name"] == "global"


def test_missing_entry_is_an_empty_kind_and_the_meta() -> None:
    missing = ConfigEntryResponse(index=7)
    assert [type(item) for item in contents(blob.to_blob(missing))] == [str, dict]
    assert blob.from_blob(ConfigEntryResponse, blob.to_blob(missing)) == missing


def test_mesh_entry_carries_neither_kind_nor_name() -> None:
    content = contents(blob.to_blob(ConfigEntryResponse(entry=MeshConfigEntry())))
    assert sorted(content[1]) == ["CreateIndex", "Meta", "ModifyIndex", "TransparentProxy"]


@given(entries=st.lists(entries(), max_size=4).map(tuple))
@settings(deadline=None)
def test_list_of_all_kinds_survives(entries: tuple[ConfigEntry, ...]) -> None:
    message = IndexedConfigEntries(entries=entries)
    assert blob.decode_blob(IndexedConfigEntries, blob.encode_blob(message)) == message


@pytest.mark.parametrize("message", [*MEANINGS.values(), Empty(), True])
def test_message_of_any_type_goes_over_the_wire(message: Any) -> None:
    plain = msgpack.unpack(blob.encode_message(message))
    assert blob.message_from_plain(type(message), plain) == message
    assert isinstance(plain, str) is blob.is_blob(type(message))


@given(message=messages())
@settings(deadline=None)
def test_every_message_survives(message: blob.Blob) -> None:
    assert blob.decode_blob(type(message), blob.encode_blob(message)) == message


@pytest.mark.parametrize(
    ("kind", "content", "text"),
    [
        (IndexedGenericConfigEntries, [], "count"),
        (IndexedGenericConfigEntries, [2, "mesh", {}, {}], "count"),
        (IndexedGenericConfigEntries, [-1], "count"),
        (IndexedGenericConfigEntries, [1, "zzz", {}, {}], "invalid config entry kind: zzz"),
        (IndexedGenericConfigEntries, [1, "proxy-defaults", {}, {}], "a string of MessagePack"),
        (IndexedConfigEntries, [1, "mesh", {}], "count"),
        (IndexedConfigEntries, [0, 7, {}], "a kind and a map"),
        (IndexedConfigEntries, [1, "", {"Entries": [{"Kind": ""}]}], "entry kind: $"),
        (IndexedConfigEntries, [1, "", {"Entries": [{"Kind": []}]}], "entry kind: "),
        (ConfigEntryResponse, ["mesh", {}], "expected 3 values"),
        (ConfigEntryRequest, ["mesh", 7], "a map"),
        (ServiceConfigResponse, [7], "a map"),
    ],
)
def test_other_content_is_refused(kind: Any, content: list[Any], text: str) -> None:
    string = b"".join(map(msgpack.pack, content)).decode("utf-8", "surrogateescape")
    with pytest.raises(MalformedPacket, match=text):
        blob.from_blob(kind, string)


def test_plain_map_and_cut_off_string_are_refused() -> None:
    with pytest.raises(MalformedPacket, match="a string of MessagePack"):
        blob.from_blob(ConfigEntryRequest, {})
    with pytest.raises(MalformedPacket, match="cut off"):
        blob.from_blob(ConfigEntryRequest, "a\udca5")


def test_records_are_no_blobs() -> None:
    assert not blob.is_blob(Empty)
    assert not blob.is_blob(bool)


@given(data=st.binary(max_size=60), message=st.sampled_from([type(m) for m in MEANINGS.values()]))
def test_any_bytes_are_a_value_or_a_protocol_error(data: bytes, message: type[blob.Blob]) -> None:
    try:
        blob.decode_blob(message, data)
        blob.from_blob(message, data.decode("utf-8", "surrogateescape"))
    except ProtocolError:
        pass


@given(message=messages(), other=st.binary(max_size=4), data=st.data())
@settings(deadline=None)
def test_damaged_messages_are_a_value_or_a_protocol_error(
    message: blob.Blob, other: bytes, data: st.DataObject
) -> None:
    whole = msgpack.bytes_of(blob.to_blob(message))
    at = data.draw(st.integers(0, len(whole)))
    damaged = whole[:at] + other + whole[at + len(other) :]
    try:
        again = blob.from_blob(type(message), damaged.decode("utf-8", "surrogateescape"))
    except ProtocolError:
        return
    assert isinstance(again, type(message))
