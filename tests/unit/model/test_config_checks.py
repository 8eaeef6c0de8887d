"""How config entries are normalised, and which are refused; the texts are Consul 1.10.11's."""

import json
from typing import Any

import msgspec
import pytest

from isthmus.errors import InvalidRequest
from isthmus.model.config_checks import checked
from isthmus.model.config_entry import CONFIG_ENTRY_TYPES, ConfigEntry, ServiceSplit
from isthmus.model.config_entry import ServiceSplitterConfigEntry as Splitter
from isthmus.wire import gojson


def entry_of(plain: dict[str, Any]) -> ConfigEntry:
    return gojson.decode(CONFIG_ENTRY_TYPES[plain["Kind"]], json.dumps(plain).encode())


def service(**fields: Any) -> dict[str, Any]:
    return {"Kind": "service-defaults", "Name": "web", **fields}


def upstreams(*overrides: Any, **fields: Any) -> dict[str, Any]:
    return service(UpstreamConfig={"Overrides": list(overrides), **fields})


def router(*routes: Any, **fields: Any) -> dict[str, Any]:
    return {"Kind": "service-router", "Name": "web", "Routes": list(routes), **fields}


def route(**http: Any) -> dict[str, Any]:
    return router({"Match": {"HTTP": {"PathPrefix": "/"}}}, {"Match": {"HTTP": http}})


def splitter(*splits: Any, **fields: Any) -> dict[str, Any]:
    return {"Kind": "service-splitter", "Name": "web", "Splits": list(splits), **fields}


def resolver(**fields: Any) -> dict[str, Any]:
    return {"Kind": "service-resolver", "Name": "web", **fields}


def balancer(**fields: Any) -> dict[str, Any]:
    return resolver(LoadBalancer=fields)


def hashing(**fields: Any) -> dict[str, Any]:
    return balancer(Policy="maglev", HashPolicies=[{"SourceIP": True}, fields])


def ingress(*listeners: Any, **fields: Any) -> dict[str, Any]:
    return {"Kind": "ingress-gateway", "Name": "in", "Listeners": list(listeners), **fields}


def listener(protocol: str, *services: Any) -> dict[str, Any]:
    return ingress({"Port": 80, "Protocol": protocol, "Services": list(services)})


def terminating(*services: Any, **fields: Any) -> dict[str, Any]:
    return {"Kind": "terminating-gateway", "Name": "out", "Services": list(services), **fields}


def intentions(*sources: Any, **fields: Any) -> dict[str, Any]:
    return {"Kind": "service-intentions", "Name": "db", "Sources": list(sources), **fields}


def permission(**fields: Any) -> dict[str, Any]:
    good = {"Action": "deny", "HTTP": {"PathPrefix": "/"}}
    return intentions({"Name": "web", "Permissions": [good, {"Action": "allow", **fields}]})


def permitted(**http: Any) -> dict[str, Any]:
    return permission(HTTP=http)


LONG = "x" * 513
MANY = {f"k{number}": "v" for number in range(65)}

REFUSED: list[tuple[dict[str, Any], str]] = [
    (service(Name=""), "Name is required"),
    (
        service(Name="*"),
        "service-defaults name must be the name of a service, and not a wildcard",
    ),
    (
        service(Meta=MANY),
        "1 error occurred:\n\t* Meta exceeds maximum element count 64\n\n",
    ),
    (
        service(Meta={"k" * 129: LONG}),
        f'2 errors occurred:\n\t* Meta key "{"k" * 129}" exceeds maximum length 128'
        f'\n\t* Meta value for key "{"k" * 129}" exceeds maximum length 512\n\n',
    ),
    (
        upstreams({"Protocol": "http"}, {"Name": "*"}, Defaults={"Name": "db"}),
        "3 errors occurred:\n\t* error in upstream override for : Name is required"
        "\n\t* error in upstream override for *: Wildcard name is not supported"
        "\n\t* error in upstream defaults: Name must be empty\n\n",
    ),
    (
        upstreams({"Name": "db", "PassiveHealthCheck": {"Interval": -1}}),
        "1 error occurred:\n\t* error in upstream override for db: 1 error occurred:"
        "\n\t* passive health check interval cannot be negative\n\n\n\n",
    ),
    *(
        (
            upstreams(Defaults={"Limits": {field: -1}}),
            "1 error occurred:\n\t* error in upstream defaults: 1 error occurred:"
            f"\n\t* max {name} cannot be negative\n\n\n\n",
        )
        for field, name in (
            ("MaxConnections", "connections"),
            ("MaxPendingRequests", "pending requests"),
            ("MaxConcurrentRequests", "concurrent requests"),
        )
    ),
    (
        {"Kind": "proxy-defaults", "Meta": MANY},
        "1 error occurred:\n\t* Meta exceeds maximum element count 64\n\n",
    ),
    (
        {"Kind": "mesh", "Meta": MANY},
        "1 error occurred:\n\t* Meta exceeds maximum element count 64\n\n",
    ),
    (router(Name=""), "Name is required"),
    (route(PathExact="x"), "Route[1] PathExact doesn't start with '/': \"x\""),
    (route(PathPrefix='"\\'), "Route[1] PathPrefix doesn't start with '/': \"\\\"\\\\\""),
    (
        route(PathPrefix="/x", PathRegex="x"),
        "Route[1] should only contain at most one of PathExact, PathPrefix, or PathRegex",
    ),
    (route(Header=[{"Exact": "x"}]), "Route[1] Header[0] missing required Name field"),
    (
        route(Header=[{"Name": "x", "Present": True, "Exact": "x"}]),
        "Route[1] Header[0] should only contain one of Present, Exact, Prefix, Suffix, or Regex",
    ),
    (route(QueryParam=[{"Exact": "x"}]), "Route[1] QueryParam[0] missing required Name field"),
    (
        route(QueryParam=[{"Name": "x"}]),
        "Route[1] QueryParam[0] should only contain one of Present, Exact, or Regex",
    ),
    (route(Methods=["get", "LOOK"]), 'Route[1] Methods contains an invalid method "LOOK"'),
    (route(Methods=["get", "GET"]), 'Route[1] Methods contains "GET" more than once'),
    (
        router({"Destination": {"PrefixRewrite": "/x"}}),
        "Route[0] cannot make use of PrefixRewrite without configuring either PathExact or "
        "PathPrefix",
    ),
    (splitter({"Weight": 100}, Name=""), "Name is required"),
    (splitter(), "no splits configured"),
    (
        splitter({"Weight": 50}, {"Weight": 50, "Service": "web"}),
        'split destination occurs more than once: service="web", subset="", namespace=""',
    ),
    (
        splitter({"Weight": 50}, {"Weight": 49.99, "ServiceSubset": "v2"}),
        "the sum of all split weights must be 100, not 99.989998",
    ),
    (resolver(Name=""), "Name is required"),
    (resolver(Subsets={"": {}}), "Subset defined with empty name"),
    (
        resolver(Subsets={"V1": {}}),
        'Subset "V1" is invalid: must be 63 characters or fewer, begin or end with lower case '
        "alphanumeric characters, and contain lower case alphanumeric characters or '-' in "
        "between",
    ),
    (
        resolver(Subsets={"v" * 64: {}}),
        f'Subset "{"v" * 64}" is invalid: must be non-empty and 63 characters or fewer',
    ),
    (resolver(DefaultSubset="v1"), 'DefaultSubset "v1" is not a valid subset'),
    (
        resolver(Redirect={"Service": "x"}, Failover={"*": {"Service": "y"}}),
        "Redirect and Failover cannot both be set",
    ),
    (resolver(Redirect={}), "Redirect is empty"),
    (
        resolver(Redirect={"ServiceSubset": "v1"}),
        "Redirect.ServiceSubset defined without Redirect.Service",
    ),
    (
        resolver(Redirect={"Namespace": "n"}),
        "Redirect.Namespace defined without Redirect.Service",
    ),
    (
        resolver(Redirect={"Service": "web", "ServiceSubset": "v1"}),
        'Redirect.ServiceSubset "v1" is not a valid subset of "web"',
    ),
    (resolver(Failover={"v1": {"Service": "x"}}), 'Bad Failover["v1"]: not a valid subset'),
    (
        resolver(Failover={"*": {}}),
        'Bad Failover["*"] one of Service, ServiceSubset, Namespace, or Datacenters is required',
    ),
    (
        resolver(Failover={"*": {"ServiceSubset": "v1"}}),
        'Bad Failover["*"].ServiceSubset "v1" is not a valid subset of ""',
    ),
    (
        resolver(Failover={"*": {"Datacenters": ["dc2", ""]}}),
        'Bad Failover["*"].Datacenters: found empty datacenter',
    ),
    (resolver(ConnectTimeout="-1s"), "Bad ConnectTimeout '-1s', must be >= 0"),
    (balancer(Policy="best"), 'Bad LoadBalancer policy: "best" is not supported'),
    (
        balancer(Policy="maglev", RingHashConfig={}),
        "Bad LoadBalancer configuration. RingHashConfig specified for incompatible load "
        'balancing policy "maglev"',
    ),
    (
        balancer(Policy="random", LeastRequestConfig={}),
        "Bad LoadBalancer configuration. LeastRequestConfig specified for incompatible load "
        'balancing policy "random"',
    ),
    (
        balancer(HashPolicies=[{"SourceIP": True}]),
        'Bad LoadBalancer configuration: HashPolicies specified for non-hash-based Policy: ""',
    ),
    (hashing(Field="body"), 'Bad LoadBalancer HashPolicy[1]: "body" is not a supported field'),
    (
        hashing(SourceIP=True, Field="header"),
        "Bad LoadBalancer HashPolicy[1]: A single hash policy cannot hash both a source address "
        'and a "header"',
    ),
    (
        hashing(SourceIP=True, FieldValue="x"),
        "Bad LoadBalancer HashPolicy[1]: A FieldValue cannot be specified when hashing SourceIP",
    ),
    (
        hashing(Field="header"),
        'Bad LoadBalancer HashPolicy[1]: Field "header" was specified without a FieldValue',
    ),
    (
        hashing(FieldValue="x"),
        "Bad LoadBalancer HashPolicy[1]: FieldValue requires a Field to apply to",
    ),
    (
        hashing(Field="header", FieldValue="x", CookieConfig={}),
        'Bad LoadBalancer HashPolicy[1]: cookie_config provided for "header"',
    ),
    (
        hashing(Field="cookie", FieldValue="x", CookieConfig={"Session": True, "TTL": "1s"}),
        "Bad LoadBalancer HashPolicy[1]: a session cookie cannot have an associated TTL",
    ),
    (
        ingress(
            {"Port": 80, "Services": [{"Name": "a"}]}, {"Port": 80, "Services": [{"Name": "b"}]}
        ),
        "port 80 declared on two listeners",
    ),
    (
        listener("udp", {"Name": "a"}),
        "protocol must be 'tcp', 'http', 'http2', or 'grpc'. 'udp' is an unsupported protocol",
    ),
    (listener("http"), "No service declared for listener with port 80"),
    (
        listener("grpc", {"Name": "a"}, {"Name": "b"}),
        "Multiple services per listener are only supported for protocol = 'http' "
        "(listener on port 80)",
    ),
    (
        listener("", {"Name": "*"}),
        "Wildcard service name is only valid for protocol = 'http' (listener on port 80)",
    ),
    (
        listener("TCP", {"Name": "a", "Hosts": ["h"]}),
        "Associating hosts to a service is not supported for the tcp protocol "
        "(listener on port 80)",
    ),
    (listener("http", {"Name": ""}), "Service name cannot be blank (listener on port 80)"),
    (
        listener("http", {"Name": "*", "Hosts": ["h"]}),
        "Associating hosts to a wildcard service is not supported (listener on port 80)",
    ),
    (
        listener("http", {"Name": "a", "Hosts": ["h"]}, {"Name": "b", "Hosts": ["h"]}),
        "Hosts must be unique within a specific listener (listener on port 80)",
    ),
    (
        ingress(
            {"Port": 1, "Protocol": "http", "Services": [{"Name": "a", "Hosts": ["*"]}]},
            TLS={"Enabled": True},
        ),
        "Host '*' is not allowed when TLS is enabled, all hosts must be valid DNS records to add "
        "as a DNSSAN",
    ),
    *(
        (
            listener("http", {"Name": "a", "Hosts": [host]}),
            f'Host "{host}" must be a valid DNS hostname',
        )
        for host in ("", "a..b", "a..", "x" * 64, ".".join(["x" * 50] * 6))
    ),
    *(
        (
            listener("http", {"Name": "a", "Hosts": [host]}),
            f'Host "{host}" is not valid, a wildcard specifier is only allowed as the leftmost '
            "label",
        )
        for host in ("*.*.example", "a*.example", "a.*")
    ),
    (
        ingress(Meta=MANY),
        "1 error occurred:\n\t* Meta exceeds maximum element count 64\n\n",
    ),
    (terminating({"CAFile": "x"}), "Service name cannot be blank."),
    (
        terminating({"Name": "a"}, {"Name": "a"}),
        'Service "a" was specified more than once within a namespace',
    ),
    (
        terminating({"Name": "a", "CertFile": "c", "KeyFile": "k"}),
        'Service "a" must have a CertFile, CAFile, and KeyFile specified for TLS origination',
    ),
    (intentions(Name=""), "Name is required"),
    (intentions(Name="a*"), "Name: wildcard character '*' cannot be used with partial values"),
    (
        intentions(Meta=MANY),
        "1 error occurred:\n\t* Meta exceeds maximum element count 64\n\n",
    ),
    (intentions(), "At least one source is required"),
    (intentions({"Action": "allow"}), "Sources[0].Name is required"),
    (
        intentions({"Name": "a*", "Action": "allow"}),
        "Sources[0].Name: wildcard character '*' cannot be used with partial values",
    ),
    (
        intentions({"Name": "a", "Description": LONG}),
        "Sources[0].Description exceeds maximum length 512",
    ),
    (
        intentions({"Name": "a", "LegacyMeta": {"k": "v"}}),
        "Sources[0].LegacyMeta must be omitted",
    ),
    (intentions({"Name": "a"}), "Sources[0].Action must be set to 'allow' or 'deny'"),
    (
        intentions({"Name": "a", "Action": "maybe"}),
        "Sources[0].Action must be set to 'allow' or 'deny'",
    ),
    (
        intentions({"Name": "a", "Action": "allow", "Permissions": [{"Action": "allow"}]}),
        "Sources[0].Action must be omitted if Permissions are specified",
    ),
    (
        intentions({"Name": "a", "Permissions": [{"Action": "allow"}]}, Name="*"),
        "Sources[0].Permissions cannot be specified on intentions with wildcarded destinations",
    ),
    (
        intentions({"Name": "a", "Action": "allow", "Type": "k8s"}),
        "Sources[0].Type must be set to 'consul'",
    ),
    (
        # The wildcard stands behind exact names once they are sorted.
        intentions({"Name": "*", "Action": "x"}, {"Name": "a", "Action": "allow"}),
        "Sources[1].Action must be set to 'allow' or 'deny'",
    ),
    (
        intentions({"Name": "a", "Action": "deny"}, {"Name": "a", "Action": "allow"}),
        'Sources[1] defines "a" more than once',
    ),
    (
        permission(Action=""),
        "Sources[0].Permissions[1].Action must be set to 'allow' or 'deny'",
    ),
    (permission(), "Sources[0].Permissions[1].HTTP is required"),
    (permitted(), "Sources[0].Permissions[1].HTTP should not be empty"),
    (
        permitted(PathExact="x"),
        "Sources[0].Permissions[1].HTTP.PathExact doesn't start with '/': \"x\"",
    ),
    (
        permitted(PathPrefix="x"),
        "Sources[0].Permissions[1].HTTP.PathPrefix doesn't start with '/': \"x\"",
    ),
    (
        permitted(PathExact="/x", PathRegex="x"),
        "Sources[0].Permissions[1].HTTP should only contain at most one of PathExact, "
        "PathPrefix, or PathRegex",
    ),
    (
        permitted(Header=[{"Present": True}]),
        "Sources[0].Permissions[1].HTTP.Header[0] missing required Name field",
    ),
    (
        permitted(Header=[{"Name": "x"}]),
        "Sources[0].Permissions[1].HTTP.Header[0] should only contain one of Present, Exact, "
        "Prefix, Suffix, or Regex",
    ),
    (
        permitted(Methods=["look"]),
        'Sources[0].Permissions[1].HTTP.Methods contains an invalid method "LOOK"',
    ),
    (
        permitted(Methods=["get", "Get"]),
        'Sources[0].Permissions[1].HTTP.Methods contains "GET" more than once',
    ),
]
"""Entries and what Consul answers to them."""


@pytest.mark.parametrize(("plain", "text"), REFUSED)
def test_entry_that_breaks_a_rule_is_refused(plain: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        checked(entry_of(plain))
    assert str(caught.value) == text


KEPT: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        upstreams(
            {"Name": "db", "Protocol": "TCP", "ConnectTimeoutMs": -5},
            Defaults={"Protocol": "HTTP", "Limits": {"MaxConnections": 0}},
        )
        | {"Protocol": "HTTP", "Meta": {"k" * 128: "v" * 512}},
        upstreams(
            {"Name": "db", "Protocol": "tcp"},
            Defaults={"Protocol": "http", "Limits": {"MaxConnections": 0}},
        )
        | {"Protocol": "http", "Meta": {"k" * 128: "v" * 512}},
    ),
    (
        {"Kind": "proxy-defaults", "Name": "other", "Config": {"Protocol": "HTTP"}},
        {"Kind": "proxy-defaults", "Name": "global", "Config": {"Protocol": "HTTP"}},
    ),
    (
        route(PathRegex="x", Methods=["get", "Post"]),
        route(PathRegex="x", Methods=["GET", "POST"]),
    ),
    (
        splitter({"Weight": 33.333}, {"Weight": 66.666, "ServiceSubset": "v2", "Namespace": "n"}),
        splitter({"Weight": 33.33}, {"Weight": 66.67, "ServiceSubset": "v2", "Namespace": "n"}),
    ),
    (
        resolver(
            Subsets={"v1": {"Filter": "Service.Meta.v == 1"}},
            DefaultSubset="v1",
            Redirect={"Service": "web", "ServiceSubset": "v1"},
            ConnectTimeout="0s",
        ),
        resolver(
            Subsets={"v1": {"Filter": "Service.Meta.v == 1"}},
            DefaultSubset="v1",
            Redirect={"Service": "web", "ServiceSubset": "v1"},
        ),
    ),
    (
        resolver(Failover={"*": {"Service": "x", "ServiceSubset": "of-x"}}),
        resolver(Failover={"*": {"Service": "x", "ServiceSubset": "of-x"}}),
    ),
    (
        hashing(Field="cookie", FieldValue="x", CookieConfig={"TTL": "1s"}, Terminal=True),
        hashing(Field="cookie", FieldValue="x", CookieConfig={"TTL": "1s"}, Terminal=True),
    ),
    (
        ingress({"Port": 80, "Services": [{"Name": "a"}]}),
        ingress({"Port": 80, "Protocol": "tcp", "Services": [{"Name": "a"}]}),
    ),
    *(
        (
            listener("HTTP", {"Name": "a", "Hosts": [host]}, {"Name": "*"}),
            listener("http", {"Name": "a", "Hosts": [host]}, {"Name": "*"}),
        )
        for host in ("*", "*.example", "a.", ".", "what ever", "x" * 63, r"x\.\255" + "y" * 60)
    ),
    (
        terminating({"Name": "*", "CAFile": "ca"}, {"Name": "a", "SNI": "a"}),
        terminating({"Name": "*", "CAFile": "ca"}, {"Name": "a", "SNI": "a"}),
    ),
    (
        intentions(
            {"Name": "*", "Action": "deny", "Precedence": 77},
            {
                "Name": "b",
                "Permissions": [{"Action": "allow", "HTTP": {"Methods": ["get"]}}],
                "LegacyID": "x",
                "LegacyMeta": {},
                "LegacyCreateTime": "2026-01-01T00:00:00Z",
                "LegacyUpdateTime": "2026-01-01T00:00:00Z",
            },
            {"Name": "a", "Action": "allow"},
        ),
        intentions(
            {
                "Name": "b",
                "Permissions": [{"Action": "allow", "HTTP": {"Methods": ["GET"]}}],
                "Precedence": 9,
                "Type": "consul",
            },
            {"Name": "a", "Action": "allow", "Precedence": 9, "Type": "consul"},
            {"Name": "*", "Action": "deny", "Precedence": 8, "Type": "consul"},
        ),
    ),
    (
        intentions({"Name": "*", "Action": "deny"}, {"Name": "a", "Action": "deny"}, Name="*"),
        intentions(
            {"Name": "a", "Action": "deny", "Precedence": 6, "Type": "consul"},
            {"Name": "*", "Action": "deny", "Precedence": 5, "Type": "consul"},
            Name="*",
        ),
    ),
    (
        {"Kind": "mesh", "TransparentProxy": {"MeshDestinationsOnly": True}},
        {"Kind": "mesh", "TransparentProxy": {"MeshDestinationsOnly": True}},
    ),
]
"""Entries, and how they are kept."""


@pytest.mark.parametrize(("plain", "kept"), KEPT)
def test_entry_is_normalised(plain: dict[str, Any], kept: dict[str, Any]) -> None:
    assert checked(entry_of(plain)) == entry_of(kept)


@pytest.mark.parametrize(("plain", "kept"), KEPT)
def test_what_is_normalised_stays(plain: dict[str, Any], kept: dict[str, Any]) -> None:
    """Writing what was read changes nothing."""
    assert checked(entry_of(kept)) == entry_of(kept)


@pytest.mark.parametrize("kind", CONFIG_ENTRY_TYPES)
def test_kind_is_that_of_the_record_and_indexes_stay(kind: str) -> None:
    plain = {
        "service-splitter": splitter({"Weight": 100}),
        "service-intentions": intentions({"Name": "a", "Action": "allow"}),
    }.get(kind, {"Kind": kind})
    entry = msgspec.structs.replace(entry_of(plain), kind="", name="web", modify_index=7)
    found = checked(entry)
    assert (found.kind, found.modify_index) == (kind, 7)


@pytest.mark.parametrize("entry", [ingress(Name=""), terminating(Name="")])
def test_gateway_needs_a_name(entry: dict[str, Any]) -> None:
    """Consul refuses it too, in words of its own store."""
    with pytest.raises(InvalidRequest, match=r"^Name is required$"):
        checked(entry_of(entry))


def test_weight_that_is_no_number_is_refused() -> None:
    """Messages of other servers may hold one; JSON cannot."""
    for weight in (float("nan"), float("inf"), 3e38):
        with pytest.raises(InvalidRequest, match="weight of a split"):
            checked(Splitter(name="web", splits=(ServiceSplit(weight=weight),)))


def test_length_counts_bytes() -> None:
    entry = entry_of(service(Meta={"ä" * 64: ""}))
    assert checked(entry) == entry
    with pytest.raises(InvalidRequest, match="exceeds maximum length 128"):
        checked(msgspec.structs.replace(entry, meta={"ä" * 65: ""}))
