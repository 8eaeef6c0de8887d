"""Names on the wire, and what is declared about fields."""

import pytest

from isthmus.model.catalog import HealthCheckDefinition, NodeService
from isthmus.model.config_entry import ProxyConfigEntry, UpstreamConfig
from isthmus.model.event import UserEvent
from isthmus.model.federation import FederationStateResponse
from isthmus.model.query import QuerySource
from isthmus.model.record import Field, Record, Uint, fields_of, split_optional, wire_name
from support.records import record_types


@pytest.mark.parametrize(
    ("name", "wire"),
    [
        ("node", "Node"),
        ("check_id", "CheckID"),
        ("modify_index", "ModifyIndex"),
        ("grpc_use_tls", "GRPCUseTLS"),
        ("tls_server_name", "TLSServerName"),
        ("h2ping", "H2PING"),
        ("ca_file", "CAFile"),
        ("external_sni", "ExternalSNI"),
        ("ignore_check_ids", "IgnoreCheckIDs"),
        ("query_id_or_name", "QueryIDOrName"),
        ("nearest_n", "NearestN"),
        ("connect_timeout_ms", "ConnectTimeoutMs"),
        ("envoy_cluster_json", "EnvoyClusterJSON"),
    ],
)
def test_wire_names_follow_go(name: str, wire: str) -> None:
    assert wire_name(name) == wire


@pytest.mark.parametrize(
    ("record", "wire"), [(QuerySource, "Ip"), (UserEvent, "LTime"), (UpstreamConfig, "Limits")]
)
def test_exceptions_are_declared(record: type[Record], wire: str) -> None:
    assert wire in {field.wire for field in fields_of(record)}


def test_fields_have_name_wire_name_and_type() -> None:
    assert fields_of(NodeService)[-1] == Field("modify_index", "ModifyIndex", Uint)


def test_fields_of_a_shared_group_come_last() -> None:
    assert [field.wire for field in fields_of(FederationStateResponse)][:2] == ["State", "Index"]
    assert [field.name for field in fields_of(ProxyConfigEntry)] == list(
        ProxyConfigEntry.__annotations__
    )


def test_optional_types_are_taken_apart() -> None:
    assert split_optional(int | None) == (int, True)
    assert split_optional(Uint) == (Uint, False)
    assert split_optional(tuple[str, ...] | None) == (tuple[str, ...], True)


@pytest.mark.parametrize("record", record_types(), ids=lambda record: record.__name__)
def test_declarations_name_existing_fields(record: type[Record]) -> None:
    names = {field.name for field in fields_of(record)}
    assert record.json_omit_empty <= names
    assert record.json_hidden <= names
    assert record.json_numbers <= names
    assert record.wire_hidden <= names
    assert record.wire_omit_empty <= names


@pytest.mark.parametrize("record", record_types(), ids=lambda record: record.__name__)
def test_wire_names_are_unique(record: type[Record]) -> None:
    wire = [field.wire.lower() for field in fields_of(record)]
    assert len(set(wire)) == len(wire)


def test_records_are_frozen() -> None:
    definition = HealthCheckDefinition()
    with pytest.raises(AttributeError, match="immutable"):
        definition.http = "x"  # type: ignore[misc]
