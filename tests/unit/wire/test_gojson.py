"""JSON as Go writes and reads it: captured bodies, round trips, rubbish."""

import json
import math
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from isthmus.errors import MalformedPacket
from isthmus.model.catalog import (
    CheckServiceNode,
    ConnectProxyConfig,
    ExposePath,
    HealthCheck,
    HealthCheckDefinition,
    IndexedCheckServiceNodes,
    Node,
    NodeService,
    TransparentProxyConfig,
    Upstream,
)
from isthmus.model.config_entry import (
    CookieConfig,
    IndexedGenericConfigEntries,
    MeshConfigEntry,
    OpaqueUpstreamConfig,
    ServiceConfigEntry,
    ServiceResolverConfigEntry,
    ServiceSplit,
    UpstreamLimits,
)
from isthmus.model.coordinate import DatacenterMap
from isthmus.model.federation import FederationState, FederationStateResponse
from isthmus.model.kv import DirEntry
from isthmus.model.record import Record
from isthmus.model.session import Session
from isthmus.model.timestamp import Timestamp
from isthmus.model.txn import TxnResult
from isthmus.units import Duration
from isthmus.wire import gojson, msgpack
from support.records import free_values, record_types, values
from support.rpc_vectors import VECTORS, load

RECORDS = record_types()
ANY_RECORD = st.sampled_from(RECORDS).flatmap(values)
HTTP = json.loads((VECTORS / "federation" / "http.json").read_text())["cases"]
LISTS = (
    "list_primary",
    "list_secondary",
    "list_other_dc",
    "list_stale",
    "list_consistent",
    "list_pretty_filter",
    "list_blocking_no_change",
)
BODIES: dict[str, Any] = {
    **dict.fromkeys(LISTS, tuple[FederationState, ...]),
    "get_dc2_on_primary": FederationStateResponse,
    "get_dc2_on_secondary": FederationStateResponse,
    "get_dc1_on_secondary": FederationStateResponse,
    "get_other_dc": FederationStateResponse,
    "get_upper_case": FederationStateResponse,
    "mesh_gateways_primary": dict[str, tuple[CheckServiceNode, ...]],
    "mesh_gateways_secondary": dict[str, tuple[CheckServiceNode, ...]],
    "catalog_datacenters": tuple[str, ...],
    "coordinate_datacenters": tuple[DatacenterMap, ...],
}


class PartialList(Record, frozen=True, kw_only=True):
    """A list of text, which stays a tuple on its way to the encoder."""

    names: tuple[str, ...] = ()


# Captured bodies --------------------------------------------------------------------------------


@pytest.mark.parametrize("case", sorted(BODIES))
def test_captured_body_passes_through_records_unchanged(case: str) -> None:
    body = HTTP[case]["body"]
    # Text as Go wrote it: compact, in the captured order.
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
    value = gojson.decode(BODIES[case], text)
    assert gojson.encode(value) == go_floats(text)


def go_floats(text: bytes) -> bytes:
    """Floats that Python's `json` writes with an exponent, as Go writes them."""
    return re.sub(rb"\b[0-9.]+e-[0-9]+\b", lambda match: gojson.encode(float(match[0])), text)


def test_message_from_the_wire_shows_as_the_captured_json_does() -> None:
    """Same shapes, whichever of the two the record came from."""
    value = msgpack.decode(IndexedCheckServiceNodes, load("health-servicenodes-response").body)
    (instance,) = json.loads(gojson.encode(value.nodes))
    assert instance["Service"]["Proxy"] == {"Mode": "", "MeshGateway": {}, "Expose": {}}
    assert instance["Service"]["Connect"] == {}
    assert list(instance["Service"]) == [
        "ID", "Service", "Tags", "Address", "Meta", "Port", "Weights", "EnableTagOverride",
        "Proxy", "Connect", "CreateIndex", "ModifyIndex",
    ]  # fmt: skip
    assert instance["Checks"][0]["Definition"] == {}


# Shapes, protocol/http-api.md §6 and §7 ----------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (
            Node(node="a", meta={"z": "1", "b": "2"}),
            '{"ID":"","Node":"a","Address":"","Datacenter":"","TaggedAddresses":null,'
            '"Meta":{"b":"2","z":"1"},"CreateIndex":0,"ModifyIndex":0}',
        ),
        (
            DirEntry(key="k", value=b"val", flags=7),
            '{"LockIndex":0,"Key":"k","Flags":7,"Value":"dmFs","CreateIndex":0,"ModifyIndex":0}',
        ),
        (
            DirEntry(key="k", session="s"),
            '{"LockIndex":0,"Key":"k","Flags":0,"Value":null,"Session":"s",'
            '"CreateIndex":0,"ModifyIndex":0}',
        ),
        (
            HealthCheckDefinition(
                http="http://x/",
                header={"A": ("1",)},
                interval=Duration.of(90),
                timeout=Duration(1),
            ),
            '{"Interval":"1m30s","Timeout":"1ns","HTTP":"http://x/","Header":{"A":["1"]}}',
        ),
        (
            ConnectProxyConfig(transparent_proxy=TransparentProxyConfig(dialed_directly=True)),
            '{"Mode":"","MeshGateway":{},"Expose":{},"TransparentProxy":{"DialedDirectly":true}}',
        ),
        (
            Upstream(),
            '{"DestinationType":"","DestinationName":"","Datacenter":"","MeshGateway":{}}',
        ),
        (
            ServiceConfigEntry(name="web", protocol="http"),
            '{"Kind":"service-defaults","Name":"web","Protocol":"http","TransparentProxy":{},'
            '"MeshGateway":{},"Expose":{},"CreateIndex":0,"ModifyIndex":0}',
        ),
        (
            MeshConfigEntry(),
            '{"Kind":"mesh","TransparentProxy":{"MeshDestinationsOnly":false},'
            '"CreateIndex":0,"ModifyIndex":0}',
        ),
        (
            ServiceResolverConfigEntry(name="r", connect_timeout=Duration.of(0.25)),
            '{"ConnectTimeout":"250ms","Kind":"service-resolver","Name":"r",'
            '"CreateIndex":0,"ModifyIndex":0}',
        ),
        (ServiceSplit(weight=33.3), '{"Weight":33.3}'),
        (ServiceSplit(weight=math.inf), '{"Weight":null}'),
        (UpstreamLimits(max_connections=0), '{"MaxConnections":0}'),
        (CookieConfig(ttl=Duration.of(1)), '{"TTL":1000000000}'),
        (
            Session(id="i", lock_delay=Duration.of(15), node_checks=("serfHealth",)),
            '{"ID":"i","Name":"","Node":"","LockDelay":15000000000,"Behavior":"","TTL":"",'
            '"NodeChecks":["serfHealth"],"ServiceChecks":null,"CreateIndex":0,"ModifyIndex":0}',
        ),
        (TxnResult(kv=None), "{}"),
        (ExposePath(path="\udc80"), '{"Path":"\ufffd","ParsedFromCheck":false}'),
        (
            OpaqueUpstreamConfig(config={"k": ["\udc80"]}),
            '{"Upstream":{"ID":""},"Config":{"k":["\ufffd"]}}',
        ),
        (PartialList(names=("\udc80",)), '{"Names":["\ufffd"]}'),
        (
            FederationState(datacenter="dc1"),
            '{"Datacenter":"dc1","UpdatedAt":"0001-01-01T00:00:00Z","PrimaryModifyIndex":0,'
            '"CreateIndex":0,"ModifyIndex":0}',
        ),
        (
            FederationStateResponse(index=7, last_contact=Duration(3), known_leader=True),
            '{"State":null,"Index":7,"LastContact":3,"KnownLeader":true,"ConsistencyLevel":"",'
            '"NotModified":false,"Backend":0}',
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_records_show_as_consul_shows_them(value: Record, text: str) -> None:
    assert gojson.encode(value).decode() == text


def test_service_hides_what_only_agents_know() -> None:
    shown = json.loads(gojson.encode(NodeService(locally_registered_as_sidecar=True)))
    assert "LocallyRegisteredAsSidecar" not in shown


def test_entries_of_any_kind_show_all_their_fields() -> None:
    reply = IndexedGenericConfigEntries(entries=(MeshConfigEntry(), ServiceConfigEntry(name="w")))
    mesh, service = json.loads(gojson.encode(reply))["Entries"]
    assert list(mesh) == ["Kind", "TransparentProxy", "CreateIndex", "ModifyIndex"]
    assert service["Name"] == "w"


def test_pretty_text_has_four_spaces_and_ends_with_a_newline() -> None:
    assert gojson.encode({"b": (1,), "a": {}}, pretty=True) == (
        b'{\n    "a": {},\n    "b": [\n        1\n    ]\n}\n'
    )


# Go's text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("<a href='x'>&", r'"\u003ca href='
         "'x'"
         r'\u003e\u0026"'),
        ("\u2028\u2029", r'"\u2028\u2029"'),
        ("\b\f\n\r\t\x00\\b", r'"\u0008\u000c\n\r\t\u0000\\b"'),
        ('"\\', r'"\"\\"'),
        ("grün", '"grün"'),
        (b"\xe2\x82".decode("utf-8", "surrogateescape"), '"\ufffd\ufffd"'),
        ({"\udcff": "\udcff"}, '{"\ufffd":"\ufffd"}'),
        ({"b": 1, "a": 2}, '{"a":2,"b":1}'),
        (b"\x00\xff", '"AP8="'),
        (bytearray(b"\x00\xff"), '"AP8="'),
        (
            (Upstream(), {"a": Duration(1)}),
            '[{"DestinationType":"","DestinationName":"","Datacenter":"","MeshGateway":{}},'
            '{"a":"1ns"}]',
        ),
        (None, "null"),
        (Duration.of(90), '"1m30s"'),
        (Timestamp.parse("2020-03-09T20:59:02.12+02:00"), '"2020-03-09T20:59:02.12+02:00"'),
    ],
    ids=repr,
)  # fmt: skip
def test_text_is_escaped_as_go_does(value: object, text: str) -> None:
    assert gojson.encode(value).decode() == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7.0, "7"),
        (-0.0, "-0"),
        (0.0, "0"),
        (1.5, "1.5"),
        (1e-5, "0.00001"),
        (1e-6, "0.000001"),
        (9.99e-7, "9.99e-7"),
        (1e-7, "1e-7"),
        (1.5e-10, "1.5e-10"),
        (2.0**53, "9007199254740992"),
        (1e20, "100000000000000000000"),
        (1.2345678901234567e20, "123456789012345670000"),
        (1e21, "1e+21"),
        (1.5e300, "1.5e+300"),
        (-1e-300, "-1e-300"),
        (math.inf, "null"),
    ],
)
def test_floats_have_go_notation(value: float, text: str) -> None:
    assert gojson.encode(value).decode() == text


@given(value=st.floats(allow_nan=False, allow_infinity=False))
@example(5e-324)
def test_floats_keep_their_value_and_switch_to_exponents_where_go_does(value: float) -> None:
    text = gojson.encode(value).decode()
    assert float(text) == value
    assert ("e" in text) == (value != 0 and not 1e-6 <= abs(value) < 1e21)
    assert not re.search(r"\.0$|\.$|e[+-]0|E|e[0-9]", text)


@given(value=st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_single_floats_have_no_more_digits_than_they_need(value: float) -> None:
    text = gojson.encode(ServiceSplit(weight=value)).decode()
    again = gojson.decode(ServiceSplit, text.encode())
    assert again.weight == value
    assert sum(c.isdigit() for c in text.partition("e")[0].strip("0.")) <= 50


# Reading ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Node, '{"node":"a","ADDRESS":"b"}', Node(node="a", address="b")),
        (Node, '{"Node":null,"Meta":null}', Node()),
        (Node, "null", Node()),
        (HealthCheckDefinition, '{"TTL":"10s"}', HealthCheckDefinition(ttl=Duration.of(10))),
        (HealthCheckDefinition, '{"Interval":5}', HealthCheckDefinition(interval=Duration(5))),
        (HealthCheckDefinition, '{"Interval":""}', HealthCheckDefinition()),
        (DirEntry, '{"Value":"dmFs"}', DirEntry(value=b"val")),
        (FederationState, '{"UpdatedAt":"0001-01-01T00:00:00Z"}', FederationState()),
        (
            ConnectProxyConfig,
            '{"Config":{"n":7,"l":[1,"x",true,null]}}',
            ConnectProxyConfig(config={"n": 7.0, "l": [1.0, "x", True, None]}),
        ),
        (tuple[str, ...], "[]", ()),
        (tuple[str, ...] | None, "null", None),
        (ServiceSplit, '{"Weight":33.3}', ServiceSplit(weight=33.29999923706055)),
        (float, "7", 7.0),
    ],
)  # fmt: skip
def test_requests_are_read_as_go_reads_them(kind: Any, text: str, value: object) -> None:
    assert gojson.decode(kind, text.encode()) == value


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (Node, "", "EOF"),
        (Node, "{", "invalid JSON"),
        (Node, "[]", "json: cannot unmarshal array into Go value of type structs.Node"),
        (Node, '{"X":1}', 'json: unknown field "X"'),
        (NodeService, '{"LocallyRegisteredAsSidecar":true}', "unknown field"),
        (Node, '{"Node":7}', "cannot unmarshal number into Go struct field Node.Node of type str"),
        (NodeService, '{"Port":"x"}', "unmarshal string into .* NodeService.Port of type int"),
        (NodeService, '{"Port":1.5}', "cannot unmarshal number"),
        (NodeService, '{"Port":9223372036854775808}', "cannot unmarshal number"),
        (NodeService, '{"Port":true}', "cannot unmarshal bool"),
        (NodeService, '{"EnableTagOverride":1}', "cannot unmarshal number .* of type bool"),
        (Node, '{"ModifyIndex":-1}', "cannot unmarshal number .* of type uint64"),
        (DirEntry, '{"Value":"%%"}', "illegal base64"),
        (HealthCheck, '{"Definition":{"Interval":"zz"}}', 'time: invalid duration "zz"'),
        (FederationState, '{"UpdatedAt":"yesterday"}', "RFC 3339"),
        (ConnectProxyConfig, '{"Config":' + '{"a":' * 102 + "1" + "}" * 103, "nested deeper"),
        (ServiceSplit, '{"Weight":1e39}', "of type float32"),
        (float, "1" + "0" * 400, "number .* of type float64"),
        (float, '"x"', "string .* of type float64"),
        (dict[str, str], "7", r"of type map\[string\]string"),
        (NodeService, '{"Tags":"x"}', r"string into .* NodeService.Tags of type \[\]string"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_go_words(kind: Any, text: str, message: str) -> None:
    with pytest.raises(MalformedPacket, match=message):
        gojson.decode(kind, text.encode())


def test_unknown_fields_can_be_ignored_at_any_depth() -> None:
    text = b'{"Zone":1,"Checks":[{"Name":"a","Zone":2}]}'
    assert gojson.decode(CheckServiceNode, text, ignore_unknown=True) == CheckServiceNode(
        checks=(HealthCheck(name="a"),)
    )


# Properties ---------------------------------------------------------------------------------------


@given(value=ANY_RECORD)
@settings(deadline=None)
def test_what_was_read_shows_as_what_was_written(value: Record) -> None:
    """Reading forgets what JSON does not tell (nil from empty); writing again shows the same."""
    text = gojson.encode(value)
    assert gojson.encode(gojson.decode(type(value), text, ignore_unknown=True)) == text


@given(value=free_values())
def test_any_free_value_is_json(value: object) -> None:
    text = gojson.encode({"value": value})
    assert msgspec.json.decode(text).keys() == {"value"}
    assert b"<" not in text


@given(data=st.binary(max_size=60) | st.text(max_size=60).map(str.encode), record=ANY_RECORD)
def test_any_bytes_are_a_value_or_a_protocol_error(data: bytes, record: Record) -> None:
    with suppress(MalformedPacket):
        assert isinstance(gojson.decode(type(record), data), type(record))


@given(record=ANY_RECORD, other=free_values(), data=st.data())
@settings(deadline=None)
def test_any_value_in_any_field_is_taken_or_refused(
    record: Record, other: object, data: st.DataObject
) -> None:
    plain = json.loads(gojson.encode(record))
    if plain:
        plain[data.draw(st.sampled_from(sorted(plain)))] = other
    with suppress(MalformedPacket):
        gojson.decode(type(record), gojson.encode(plain), ignore_unknown=True)


@given(value=ANY_RECORD, data=st.data())
@settings(deadline=None)
def test_whatever_the_wire_brings_can_be_shown(value: Record, data: st.DataObject) -> None:
    message = bytearray(msgpack.encode(value))
    for _ in range(3):
        at = data.draw(st.integers(0, len(message) - 1))
        message[at] = data.draw(st.integers(0, 255))
    with suppress(MalformedPacket):
        damaged = msgpack.decode(type(value), bytes(message))
        assert msgspec.json.decode(gojson.encode(damaged)) is not None


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_deep_nesting_is_refused(opening: bytes) -> None:
    with pytest.raises(MalformedPacket):
        gojson.decode(object, opening * 100_000)


def test_vectors_are_where_the_tests_look() -> None:
    assert Path(VECTORS, "federation", "http.json").is_file()
