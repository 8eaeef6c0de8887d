"""Entries as people write them, and what is said of those that are none.

The texts are Consul 1.10.11's, but for numbers out of range, which it takes for others.
"""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import MalformedPacket
from isthmus.model.catalog import ExposeConfig, ExposePath, MeshGatewayConfig
from isthmus.model.config_entry import (
    CONFIG_ENTRY_TYPES,
    ConfigEntry,
    IntentionHTTPPermission,
    IntentionPermission,
    MeshConfigEntry,
    PassiveHealthCheck,
    ProxyConfigEntry,
    ServiceConfigEntry,
    ServiceIntentionsConfigEntry,
    ServiceResolverConfigEntry,
    ServiceResolverSubset,
    ServiceRoute,
    ServiceRouteDestination,
    ServiceRouteHTTPMatch,
    ServiceRouteMatch,
    ServiceRouterConfigEntry,
    ServiceSplit,
    ServiceSplitterConfigEntry,
    SourceIntention,
    TransparentProxyMeshConfig,
    UpstreamConfig,
    UpstreamConfiguration,
    UpstreamLimits,
)
from isthmus.model.timestamp import Timestamp
from isthmus.units import Duration
from isthmus.wire import gojson
from isthmus.wire.written_entry import NESTING_MAX, read_entry

DEFAULTS = "service-defaults"


def refusal(written: dict[str, Any]) -> str:
    with pytest.raises(MalformedPacket) as caught:
        read_entry(written)
    return str(caught.value)


def test_names_are_as_on_the_wire() -> None:
    written = {
        "Kind": DEFAULTS,
        "Name": "web",
        "Protocol": "http",
        "MeshGateway": {"Mode": "local"},
        "ExternalSNI": "sni",
        "UpstreamConfig": {
            "Overrides": [{"Name": "db", "Limits": {"MaxConnections": 0}}],
            "Defaults": {"PassiveHealthCheck": {"Interval": "2s", "MaxFailures": 3}},
        },
        "Meta": {"Owner": "me"},
        "CreateIndex": 5,
        "ModifyIndex": 6,
    }
    assert read_entry(written) == ServiceConfigEntry(
        name="web",
        protocol="http",
        mesh_gateway=MeshGatewayConfig(mode="local"),
        external_sni="sni",
        upstream_config=UpstreamConfiguration(
            overrides=(UpstreamConfig(name="db", limits=UpstreamLimits(max_connections=0)),),
            defaults=UpstreamConfig(
                passive_health_check=PassiveHealthCheck(interval=Duration.of(2), max_failures=3)
            ),
        ),
        meta={"Owner": "me"},
    )


def test_names_may_be_in_snake_case_and_in_any_case() -> None:
    written = {
        "kind": DEFAULTS,
        "name": "web",
        "PROTOCOL": "http",
        "mesh_gateway": {"mode": "local"},
        "External_SNI": "sni",
        "upstream_config": {"defaults": {"passive_health_check": {"max_failures": 3}}},
    }
    assert read_entry(written) == ServiceConfigEntry(
        name="web",
        protocol="http",
        mesh_gateway=MeshGatewayConfig(mode="local"),
        external_sni="sni",
        upstream_config=UpstreamConfiguration(
            defaults=UpstreamConfig(passive_health_check=PassiveHealthCheck(max_failures=3))
        ),
    )


def test_name_of_the_wire_counts_before_others() -> None:
    wanted = ServiceConfigEntry(external_sni="right")
    assert read_entry({"Kind": DEFAULTS, "ExternalSNI": "right", "external_sni": "x"}) == wanted
    assert read_entry({"Kind": DEFAULTS, "external_sni": "x", "ExternalSNI": "right"}) == wanted


@pytest.mark.parametrize(
    ("written", "entry"),
    [
        ({"Kind": DEFAULTS, "Name": 5.0}, ServiceConfigEntry(name="5")),
        ({"Kind": DEFAULTS, "Name": 5}, ServiceConfigEntry(name="5")),
        ({"Kind": DEFAULTS, "Name": 1e21}, ServiceConfigEntry(name="1" + "0" * 21)),
        ({"Kind": DEFAULTS, "Name": 0.25}, ServiceConfigEntry(name="0.25")),
        ({"Kind": DEFAULTS, "Name": True}, ServiceConfigEntry(name="1")),
        ({"Kind": DEFAULTS, "Name": None, "Meta": None}, ServiceConfigEntry()),
        (
            {"Kind": DEFAULTS, "Meta": {"a": None, "b": 1}},
            ServiceConfigEntry(meta={"a": "", "b": "1"}),
        ),
        (
            {"Kind": DEFAULTS, "Meta": [{"a": "b"}, {"c": "d"}]},
            ServiceConfigEntry(meta={"a": "b", "c": "d"}),
        ),
        ({"Kind": DEFAULTS, "Meta": []}, ServiceConfigEntry(meta={})),
        (
            {"Kind": DEFAULTS, "MeshGateway": [{"Mode": ["local"]}]},
            ServiceConfigEntry(mesh_gateway=MeshGatewayConfig(mode="local")),
        ),
        (
            {"Kind": DEFAULTS, "Expose": {"Checks": "true", "Paths": {"ListenerPort": "80"}}},
            ServiceConfigEntry(
                expose=ExposeConfig(checks=True, paths=(ExposePath(listener_port=80),))
            ),
        ),
        (
            {"Kind": DEFAULTS, "Expose": {"Checks": 0.0, "Paths": {}}},
            ServiceConfigEntry(expose=ExposeConfig(paths=())),
        ),
        (
            {"Kind": "service-splitter", "Splits": [{"Weight": "33.333"}, {"weight": 66.0}]},
            ServiceSplitterConfigEntry(
                splits=(ServiceSplit(weight=33.33300018310547), ServiceSplit(weight=66.0))
            ),
        ),
        (
            {
                "Kind": "service-router",
                "Routes": {
                    "Match": {"HTTP": {"Methods": "get"}},
                    "Destination": {"RequestTimeout": "1m", "RetryOnStatusCodes": [503.0]},
                },
            },
            ServiceRouterConfigEntry(
                routes=(
                    ServiceRoute(
                        match=ServiceRouteMatch(http=ServiceRouteHTTPMatch(methods=("get",))),
                        destination=ServiceRouteDestination(
                            request_timeout=Duration.of(60), retry_on_status_codes=(503,)
                        ),
                    ),
                )
            ),
        ),
        (
            {
                "Kind": "service-resolver",
                "ConnectTimeout": 5e9,
                "Subsets": {"v1": {"only_passing": "t"}, "v2": None},
            },
            ServiceResolverConfigEntry(
                connect_timeout=Duration.of(5),
                subsets={
                    "v1": ServiceResolverSubset(only_passing=True),
                    "v2": ServiceResolverSubset(),
                },
            ),
        ),
        (
            {
                "Kind": "service-intentions",
                "Sources": [
                    None,
                    {
                        "Permissions": [{"HTTP": {"path_exact": "/"}}],
                        "LegacyCreateTime": "2026-01-01T00:00:00Z",
                    },
                ],
            },
            ServiceIntentionsConfigEntry(
                sources=(
                    SourceIntention(),
                    SourceIntention(
                        permissions=(
                            IntentionPermission(http=IntentionHTTPPermission(path_exact="/")),
                        ),
                        legacy_create_time=Timestamp.parse("2026-01-01T00:00:00Z"),
                    ),
                )
            ),
        ),
        (
            {"Kind": "mesh", "TransparentProxy": {"MeshDestinationsOnly": 1.0}},
            MeshConfigEntry(
                transparent_proxy=TransparentProxyMeshConfig(mesh_destinations_only=True)
            ),
        ),
    ],
)
def test_values_are_taken_for_what_is_wanted(written: dict[str, Any], entry: ConfigEntry) -> None:
    assert read_entry(written) == entry


def test_free_configuration_stays_but_for_objects_in_lists_of_one() -> None:
    written = {
        "Kind": "proxy-defaults",
        "Config": {
            "f": {"g": ["h"]},
            "k": [1.0, 2.0],
            "Name_x": "y",
            "none": None,
            "a": ["x"],
            "b": [{"c": [1.0], "d": [{"e": [2.0]}], "l": [[3.0]], "m": [{"n": ["o"]}, 1.0]}],
        },
    }
    assert read_entry(written) == ProxyConfigEntry(
        config={
            "f": {"g": ["h"]},
            "k": [1.0, 2.0],
            "Name_x": "y",
            "none": None,
            "a": "x",
            "b": {"c": 1.0, "d": {"e": 2.0}, "l": [3.0], "m": [{"n": "o"}, 1.0]},
        }
    )


def test_free_configuration_has_a_greatest_depth() -> None:
    value: object = "x"
    for _ in range(NESTING_MAX + 2):
        value = {"a": value}
    text = refusal({"Kind": "proxy-defaults", "Config": value})
    assert text.endswith(f"is nested deeper than {NESTING_MAX}")


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ({}, "Payload does not contain a kind/Kind key at the top level"),
        ({"KIND": DEFAULTS}, "Payload does not contain a kind/Kind key at the top level"),
        ({"Kind": 5.0}, "Kind value in payload is not a string"),
        ({"kind": None}, "Kind value in payload is not a string"),
        ({"Kind": ""}, "invalid config entry kind: "),
        ({"Kind": "bogus"}, "invalid config entry kind: bogus"),
    ],
)
def test_kind_must_be_one_of_consuls(written: dict[str, Any], text: str) -> None:
    assert refusal(written) == text


@pytest.mark.parametrize(
    ("fields", "faults"),
    [
        ({"Foo": 1, "Bar": 2}, ['invalid config key "Foo"', 'invalid config key "Bar"']),
        (
            {"Namespace": "x"},
            ['invalid config key "Namespace", namespaces are a consul enterprise feature'],
        ),
        ({"MeshGateway": {"Bad": 1}}, ['invalid config key "MeshGateway.Bad"']),
        (
            {"UpstreamConfig": {"Overrides": [{"Name": "a", "Bad": 1}]}},
            ['invalid config key "UpstreamConfig.Overrides[0].Bad"'],
        ),
        ({"createindex": 1}, ['invalid config key "createindex"']),
        ({"Proto_col": "x"}, ['invalid config key "Proto_col"']),
    ],
)
def test_unknown_names_are_refused(fields: dict[str, Any], faults: list[str]) -> None:
    head = "1 error occurred:" if len(faults) == 1 else f"{len(faults)} errors occurred:"
    wanted = head + "".join(f"\n\t* {fault}" for fault in faults) + "\n\n"
    assert refusal({"Kind": DEFAULTS, "Name": "web", **fields}) == wanted


def test_mesh_has_no_name() -> None:
    assert 'invalid config key "Name"' in refusal({"Kind": "mesh", "Name": "mesh"})


@pytest.mark.parametrize(
    ("written", "faults"),
    [
        (
            {"Kind": DEFAULTS, "Protocol": {"b": [1.0, "x", None, True, 1.5e30, 1e6], "a": 0.0}},
            [
                "'Protocol' expected type 'string', got unconvertible type "
                "'map[string]interface {}', value: 'map[a:0 b:[1 x <nil> true 1.5e+30 1e+06]]'"
            ],
        ),
        (
            {"Kind": DEFAULTS, "Protocol": ["a", "b"], "MeshGateway": "x", "Meta": "x"},
            [
                "'MeshGateway' expected a map, got 'string'",
                "'Meta' expected a map, got 'string'",
                "'Protocol' expected type 'string', got unconvertible type '[]interface {}', "
                "value: '[a b]'",
            ],
        ),
        (
            {"Kind": DEFAULTS, "Expose": {"Paths": {"ListenerPort": "abc"}}},
            [
                "cannot parse 'Expose.Paths[0].ListenerPort' as int: strconv.ParseInt: parsing "
                '"abc": invalid syntax'
            ],
        ),
        (
            {"Kind": DEFAULTS, "Expose": {"Paths": {"ListenerPort": "9" * 5000}}},
            [
                "cannot parse 'Expose.Paths[0].ListenerPort' as int: strconv.ParseInt: parsing "
                f'"{"9" * 5000}": value out of range'
            ],
        ),
        (
            {"Kind": DEFAULTS, "Expose": {"Paths": [{"ListenerPort": 1e30}]}},
            ["cannot parse 'Expose.Paths[0].ListenerPort' as int: 1e+30 is out of range"],
        ),
        (
            {
                "Kind": DEFAULTS,
                "UpstreamConfig": {
                    "Defaults": {
                        "Limits": {"MaxConnections": "x"},
                        "PassiveHealthCheck": {"MaxFailures": "-1"},
                    }
                },
            },
            [
                "cannot parse 'UpstreamConfig.Defaults.Limits.MaxConnections' as int: "
                'strconv.ParseInt: parsing "x": invalid syntax',
                "cannot parse 'UpstreamConfig.Defaults.PassiveHealthCheck.MaxFailures' as uint: "
                'strconv.ParseUint: parsing "-1": invalid syntax',
            ],
        ),
        (
            {"Kind": "service-resolver", "ConnectTimeout": "x"},
            ["error decoding 'ConnectTimeout': time: invalid duration \"x\""],
        ),
        (
            {"Kind": "service-resolver", "Subsets": {"v1": {"OnlyPassing": "x"}}},
            [
                "cannot parse 'Subsets[v1].OnlyPassing' as bool: strconv.ParseBool: parsing "
                '"x": invalid syntax'
            ],
        ),
        (
            {"Kind": "service-splitter", "Splits": [{"Weight": "x"}]},
            [
                "cannot parse 'Splits[0].Weight' as float: strconv.ParseFloat: parsing \"x\": "
                "invalid syntax"
            ],
        ),
        (
            {"Kind": "service-splitter", "Splits": [{"Weight": 1e300}]},
            ["cannot parse 'Splits[0].Weight' as float: 1e+300 is out of range"],
        ),
        (
            {"Kind": DEFAULTS, "Meta": {"a": {"b": 1.0}}},
            [
                "'Meta[a]' expected type 'string', got unconvertible type "
                "'map[string]interface {}', value: 'map[b:1]'"
            ],
        ),
        ({"Kind": DEFAULTS, "Meta": [1.0, 2.0]}, ["'Meta[0]' expected a map, got 'float64'"]),
    ],
)
def test_values_that_are_no_others_are_refused(written: dict[str, Any], faults: list[str]) -> None:
    points = "\n".join(f"* {fault}" for fault in faults)
    assert refusal(written) == f"{len(faults)} error(s) decoding:\n\n{points}"


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
NAMES = st.sampled_from(
    ["Name", "Meta", "Routes", "Match", "HTTP", "Splits", "Weight", "Sources", "Config", "TLS"]
) | st.sampled_from(
    ["ConnectTimeout", "Subsets", "Listeners", "Port", "Permissions", "LegacyCreateTime"]
)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner), max_leaves=12
)
KINDS = st.sampled_from(sorted(CONFIG_ENTRY_TYPES))


@given(kind=KINDS, written=st.dictionaries(NAMES, ANYTHING))
def test_anything_is_an_entry_or_refused(kind: str, written: dict[str, Any]) -> None:
    try:
        entry = read_entry({**written, "Kind": kind})
    except MalformedPacket:
        return
    assert entry.kind == kind
    gojson.encode(entry)
