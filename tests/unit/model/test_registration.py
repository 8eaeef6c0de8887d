from typing import Any

import pytest

from isthmus.errors import InvalidRequest, RequestError
from isthmus.model.agent import AgentService, CheckDefinition, ServiceDefinition
from isthmus.model.catalog import (
    ConnectProxyConfig,
    HealthCheck,
    NodeService,
    ServiceAddress,
    ServiceConnect,
    Upstream,
    Weights,
)
from isthmus.model.registration import (
    META_KEY_SIZE_MAX,
    META_PAIRS_MAX,
    META_VALUE_SIZE_MAX,
    Registration,
    dns_fault,
    register,
    register_check,
)
from isthmus.units import Duration

TTL = CheckDefinition(ttl=Duration.of(10))


def make(**fields: object) -> Registration:
    return register(ServiceDefinition(**{"name": "web", **fields}), node="alpha")  # type: ignore[arg-type]


def refusal(**fields: object) -> str:
    with pytest.raises(InvalidRequest) as caught:
        make(**fields)
    assert caught.value.status == 400
    return str(caught.value)


def test_defaults_are_filled_in() -> None:
    assert make() == Registration(
        NodeService(id="web", service="web", weights=Weights(passing=1, warning=1)), ()
    )


def test_given_fields_are_kept() -> None:
    made = make(id="web-1", tags=("a",), port=80, meta={"k": "v"}, token="t").service
    assert (made.id, made.tags, made.port, made.meta) == ("web-1", ("a",), 80, {"k": "v"})
    assert make(token="t").token == "t"


@pytest.mark.parametrize(
    ("address", "family"), [("10.0.0.1", "ipv4"), ("fd00::1", "ipv6"), ("host", ""), ("", "")]
)
def test_tagged_addresses_follow_from_the_address(address: str, family: str) -> None:
    tagged = make(address=address, port=80).service.tagged_addresses
    own = ServiceAddress(address=address, port=80)
    assert tagged == ({f"lan_{family}": own, f"wan_{family}": own} if family else None)


def test_tagged_addresses_that_are_given_count() -> None:
    wan = ServiceAddress(address="1.2.3.4", port=1)
    tagged = make(address="10.0.0.1", tagged_addresses={"wan_ipv4": wan}).service.tagged_addresses
    assert tagged is not None
    assert tagged["wan_ipv4"] == wan


def test_only_check_takes_the_services_name() -> None:
    (plan,) = make(id="w", tags=("a",), check=TTL).checks
    assert plan.check == HealthCheck(
        node="alpha",
        check_id="service:w",
        name="Service 'web' check",
        status="critical",
        service_id="w",
        service_name="web",
        service_tags=("a",),
        type="ttl",
    )
    assert (plan.definition.check_id, plan.definition.service_id) == ("service:w", "w")


def test_several_checks_are_numbered_and_names_that_are_given_are_kept() -> None:
    named = CheckDefinition(check_id="c", name="n", status="passing", ttl=Duration.of(1))
    plans = make(check=TTL, checks=(TTL, named)).checks
    assert [plan.check.check_id for plan in plans] == ["service:web:1", "service:web:2", "c"]
    assert (plans[2].check.name, plans[2].check.status) == ("n", "passing")


def test_empty_check_counts_as_none() -> None:
    assert make(check=CheckDefinition()).checks == ()


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"http": "u"}, "http"),
        ({"tcp": "a:1"}, "tcp"),
        ({"grpc": "a:1"}, "grpc"),
        ({"h2ping": "a:1"}, "h2ping"),
        ({"script_args": ("true",)}, "script"),
        ({"script_args": ("true",), "docker_container_id": "d"}, "docker"),
    ],
)
def test_kinds_that_are_run_need_an_interval(fields: dict[str, object], kind: str) -> None:
    definition = CheckDefinition(**fields, interval=Duration.of(1))  # type: ignore[arg-type]
    assert make(check=definition).checks[0].check.type == kind
    without = CheckDefinition(**fields)  # type: ignore[arg-type]
    assert refusal(check=without) == (
        "Invalid check: Interval must be > 0 for Script, HTTP, H2PING, or TCP checks"
    )


def test_alias_needs_no_interval() -> None:
    assert make(check=CheckDefinition(alias_service="db")).checks[0].check.type == "alias"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"name": ""}, "Missing service name"),
        ({"address": "0.0.0.0"}, "Invalid service address"),
        ({"address": "::"}, "Invalid service address"),
        (
            {"check": CheckDefinition(name="x")},
            "Invalid check: TTL must be > 0 for TTL checks",
        ),
        (
            {"check": CheckDefinition(ttl=Duration.of(1), status="odd")},
            "Status for checks must 'passing', 'warning', 'critical'",
        ),
        (
            {"weights": Weights(passing=0, warning=1)},
            "Invalid Weights: Passing must be greater than 0",
        ),
        (
            {"meta": {"a b": "c"}},
            "Invalid Service Meta: Couldn't load metadata pair ('a b', 'c'): "
            "Key contains invalid characters",
        ),
        (
            {"meta": {"": "c"}},
            "Invalid Service Meta: Couldn't load metadata pair ('', 'c'): Key cannot be blank",
        ),
        (
            {"kind": "mesh-gateway"},
            "1 error occurred:\n\t* Port must be non-zero for a mesh-gateway\n\n",
        ),
        (
            {"kind": "connect-proxy"},
            "2 errors occurred:\n"
            "\t* Proxy.DestinationServiceName must be non-empty for Connect proxy services\n"
            "\t* Port or SocketPath must be set for a Connect proxy\n\n",
        ),
    ],
)
def test_broken_rule_is_told_in_consuls_words(fields: dict[str, object], text: str) -> None:
    assert refusal(**fields) == text


def test_gateway_stands_for_no_service() -> None:
    proxy = ConnectProxyConfig(
        destination_service_name="x",
        destination_service_id="x",
        local_service_address="x",
        local_service_port=1,
        upstreams=(Upstream(destination_name="x"),),
    )
    text = refusal(kind="terminating-gateway", port=1, proxy=proxy)
    assert text.startswith("5 errors occurred:\n\t* The Proxy.DestinationServiceName")


def test_proxy_is_not_native() -> None:
    proxy = ConnectProxyConfig(destination_service_name="*")
    text = refusal(kind="connect-proxy", port=1, proxy=proxy, connect=ServiceConnect(native=True))
    assert text.startswith("2 errors occurred:")
    assert make(connect=ServiceConnect(native=True)).service.connect.native


def test_mark_of_a_federating_gateway_is_the_only_reserved_key_allowed() -> None:
    mark = {"consul-wan-federation": "1"}
    assert make(kind="mesh-gateway", port=1, meta=mark).service.meta == mark
    assert "Key prefix 'consul-' is reserved for internal use" in refusal(meta=mark)
    other = {"consul-other": "1"}
    assert "is reserved" in refusal(kind="mesh-gateway", port=1, meta=other)


def test_metadata_is_bounded() -> None:
    largest = {"k" * META_KEY_SIZE_MAX: "v" * META_VALUE_SIZE_MAX}
    assert make(meta=largest).service.meta == largest
    assert "Key is too long" in refusal(meta={"k" * (META_KEY_SIZE_MAX + 1): ""})
    assert "Value is too long" in refusal(meta={"k": "v" * (META_VALUE_SIZE_MAX + 1)})
    many = {f"k{number}": "" for number in range(META_PAIRS_MAX + 1)}
    assert "more than 64 key/value pairs" in refusal(meta=many)


def test_check_by_itself_is_named_after_its_name() -> None:
    plan = register_check(CheckDefinition(name="disk", ttl=Duration.of(1)), node="alpha")
    assert (plan.check.check_id, plan.check.name, plan.check.node) == ("disk", "disk", "alpha")
    assert plan.check.status == "critical"


def test_check_by_itself_needs_a_name_and_a_type() -> None:
    with pytest.raises(InvalidRequest, match="Missing check name"):
        register_check(TTL, node="alpha")
    with pytest.raises(InvalidRequest, match="TTL must be > 0"):
        register_check(CheckDefinition(name="x"), node="alpha")


def test_view_of_a_service_leaves_out_what_is_empty() -> None:
    view = AgentService.of(make(port=80).service, datacenter="dc1")
    assert view == AgentService(id="web", service="web", port=80, datacenter="dc1")


def test_view_of_a_gateway_has_its_proxy() -> None:
    proxy = ConnectProxyConfig(config={"a": 1.0})
    made = make(kind="mesh-gateway", port=1, proxy=proxy)
    view = AgentService.of(made.service, datacenter="dc1")
    assert view.proxy is not None
    assert view.proxy.config == {"a": 1.0}
    assert view.proxy.transparent_proxy is None


# Rules that need a whole check or proxy --------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"ttl": 1, "interval": 1}, "Interval and TTL cannot both be specified"),
        ({"tcp": "h:1"}, "Interval must be > 0 for Script, HTTP, H2PING, or TCP checks"),
        ({"tcp": "h:1", "interval": 1, "alias_node": "n"}, "Interval cannot be set for Alias"),
        ({"ttl": 1, "alias_node": "n"}, "TTL must be not be set for Alias checks"),
        ({"ttl": -1}, "TTL must be > 0 for TTL checks"),
        ({"ttl": 1, "output_max_size": -1}, "MaxOutputMaxSize must be positive"),
        (
            {"ttl": 1, "failures_before_warning": 3, "failures_before_critical": 2},
            "FailuresBeforeWarning can't be higher than FailuresBeforeCritical",
        ),
    ],
)
def test_check_that_contradicts_itself_is_refused(fields: dict[str, Any], text: str) -> None:
    assert refusal(check=CheckDefinition(**fields)).startswith(f"Invalid check: {text}")


def test_check_by_itself_is_called_by_its_name_and_says_how_often_it_runs() -> None:
    definition = CheckDefinition(name="disk", tcp="h:1", interval=Duration.of(90))
    plan = register_check(definition, node="alpha")
    assert (plan.check.check_id, plan.definition.check_id) == ("disk", "disk")
    assert (plan.check.interval, plan.check.timeout) == ("1m30s", "0s")


def test_check_by_itself_needs_a_status_that_there_is() -> None:
    with pytest.raises(InvalidRequest, match="Bad check status"):
        register_check(CheckDefinition(name="c", ttl=Duration.of(1), status="odd"), node="alpha")


@pytest.mark.parametrize("tag", ["lan_ipv4", "wan_ipv4", "lan_ipv6", "wan_ipv6"])
@pytest.mark.parametrize("address", ["", "host", "10.0.0.1", "fd00::1"])
def test_tagged_address_of_a_family_is_of_that_family(tag: str, address: str) -> None:
    right = address == {"ipv4": "10.0.0.1", "ipv6": "fd00::1"}[tag[-4:]]
    tagged = {tag: ServiceAddress(address=address, port=80)}
    if right:
        assert make(tagged_addresses=tagged).service.tagged_addresses == tagged
    else:
        with pytest.raises(RequestError, match=f'"{tag}" must be a valid {tag[-4:]} address'):
            make(tagged_addresses=tagged)


def test_upstream_leads_to_a_service_unless_it_says_otherwise() -> None:
    upstreams = (
        Upstream(destination_name="db", local_bind_port=1),
        Upstream(destination_type="prepared_query", destination_name="q", local_bind_port=2),
    )
    proxy = ConnectProxyConfig(destination_service_name="web", upstreams=upstreams)
    made = make(kind="connect-proxy", port=1, proxy=proxy).service.proxy.upstreams or ()
    assert [upstream.destination_type for upstream in made] == ["service", "prepared_query"]


def test_ingress_gateway_needs_no_port() -> None:
    assert make(kind="ingress-gateway").service.port == 0


@pytest.mark.parametrize("name", ["web", "Web-1", "a" * 63])
def test_good_name_is_found_over_dns(name: str) -> None:
    assert dns_fault(name) == ""


@pytest.mark.parametrize("name", ["", "web_1", "web.1", "grüß", "a" * 64])
def test_other_names_are_not(name: str) -> None:
    assert dns_fault(name)


@pytest.mark.parametrize("weights", [Weights(passing=65536), Weights(passing=1, warning=65536)])
def test_weight_fits_into_dns(weights: Weights) -> None:
    assert refusal(weights=weights) == "Invalid Weights: DNS Weight must be between 0 and 65535"
