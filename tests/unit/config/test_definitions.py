"""Service and check definitions in the spelling of the HTTP API."""

import re
from typing import Any

import pytest

from isthmus.config.definitions import check_definition, service_definition


def test_service_is_spelled_as_the_http_api_spells_it() -> None:
    written: dict[str, Any] = {
        "id": "web1",
        "name": "web",
        "tags": ["a"],
        "enable_tag_override": True,
        "meta": {"some_key": "v"},
        "tagged_addresses": {"lan": {"address": "10.0.0.1", "port": 80}},
        "weights": {"passing": 2, "warning": 1},
        "check": {"http": "http://x", "interval": "10s", "tls_skip_verify": True},
        "checks": [{"ttl": "90s", "header": {"X-Some_header": ["1"]}}],
        "connect": {"sidecar_service": {"proxy": {"upstreams": [{"destination_name": "db"}]}}},
    }
    assert service_definition(written) == {
        "ID": "web1",
        "Name": "web",
        "Tags": ["a"],
        "EnableTagOverride": True,
        "Meta": {"some_key": "v"},
        "TaggedAddresses": {"lan": {"Address": "10.0.0.1", "Port": 80}},
        "Weights": {"Passing": 2, "Warning": 1},
        "Check": {"HTTP": "http://x", "Interval": "10s", "TLSSkipVerify": True},
        "Checks": [{"TTL": "1m30s", "Header": {"X-Some_header": ["1"]}}],
        "Connect": {"SidecarService": {"Proxy": {"Upstreams": [{"DestinationName": "db"}]}}},
    }


@pytest.mark.parametrize("name", ["EnableTagOverride", "enabletagoverride", "enable_tag_override"])
def test_any_spelling_is_understood(name: str) -> None:
    assert service_definition({"Name": "a", name: True})["EnableTagOverride"] is True


def test_a_block_stands_for_a_list_of_one() -> None:
    service = service_definition({"name": "a", "checks": {"ttl": "1s"}})
    assert service["Checks"] == [{"TTL": "1s"}]


def test_mesh_gateway_keeps_its_proxy_configuration_as_written() -> None:
    proxy = {"config": {"envoy_gateway_bind_addresses": {"a_b": {"address": "x"}}}}
    service = service_definition({"name": "gw", "kind": "mesh-gateway", "port": 1, "proxy": proxy})
    assert service["Proxy"]["Config"] == {"envoy_gateway_bind_addresses": {"a_b": {"address": "x"}}}


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({"port": 80}, 'service "": Missing service name'),
        ({"name": "a", "port": "x"}, 'service "a": json: '),
        ({"name": "a", "check": {"http": "http://x"}}, 'service "a": '),
        ({"name": "a", "meta": {"consul-wan-federation": "1"}}, 'service "a": '),
        ({"name": "a", "prot": 80}, "invalid config key service.prot"),
        ({"name": "a", "check": {"intreval": "1s"}}, "invalid config key service.check.intreval"),
        (
            {"name": "a", "check": {"interval": "1"}},
            'service.check.interval: invalid duration: "1"',
        ),
        ({"name": "a", "check": 5}, "service.check must be an object"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(written: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        service_definition(written)


def test_check_needs_a_name() -> None:
    written = {"id": "c", "name": "n", "ttl": "1s"}
    assert check_definition(written) == {"ID": "c", "Name": "n", "TTL": "1s"}
    with pytest.raises(ValueError, match='check "c": Missing check name'):
        check_definition({"id": "c", "ttl": "1s"})
