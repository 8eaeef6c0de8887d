"""From a registration to what the catalog and the check runners get: rules, defaults, texts.

Pure: the agent keeps the result, the HTTP door and the configuration files feed it.
Source: protocol/http-api.md §6.3, "registration error" and "Defaults applied".
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from isthmus.errors import InvalidRequest, RequestError
from isthmus.model import agent
from isthmus.model.agent import CheckDefinition, ServiceDefinition
from isthmus.model.catalog import (
    CRITICAL,
    PASSING,
    WARNING,
    ConnectProxyConfig,
    HealthCheck,
    NodeService,
    ServiceAddress,
    ServiceConnect,
    Weights,
)
from isthmus.model.proxy_rules import SERVICE_UPSTREAM, expose_faults, upstream_faults
from isthmus.names import MESH_GATEWAY_KIND, WAN_FEDERATION_META
from isthmus.units import format_duration

CONNECT_PROXY_KIND: Final = "connect-proxy"
INGRESS_GATEWAY_KIND: Final = "ingress-gateway"
TERMINATING_GATEWAY_KIND: Final = "terminating-gateway"

META_PAIRS_MAX: Final = 64
META_KEY_SIZE_MAX: Final = 128
META_VALUE_SIZE_MAX: Final = 512
WEIGHT_MAX: Final = 65535
DNS_LABEL_SIZE_MAX: Final = 63

_DNS_LABEL: Final = re.compile(r"[A-Za-z0-9-]+")
_META_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_RESERVED_PREFIX: Final = "consul-"
_INTERVAL_KINDS: Final = frozenset(
    {agent.SCRIPT, agent.DOCKER, agent.HTTP, agent.TCP, agent.GRPC, agent.H2PING}
)
_STATUSES: Final = ("", PASSING, WARNING, CRITICAL)
_WILDCARDS: Final = ("0.0.0.0", "::", "[::]")
_GATEWAYS: Final = {
    MESH_GATEWAY_KIND: "mesh-gateway",
    TERMINATING_GATEWAY_KIND: "terminating-gateway",
    INGRESS_GATEWAY_KIND: "ingress-gateway",
}


@dataclass(frozen=True, slots=True)
class CheckPlan:
    """A check as the catalog shows it at first, and how it is run."""

    check: HealthCheck
    definition: CheckDefinition


@dataclass(frozen=True, slots=True)
class Registration:
    """What one registration comes to."""

    service: NodeService
    checks: tuple[CheckPlan, ...]
    token: str = ""


def register(definition: ServiceDefinition, *, node: str) -> Registration:
    """Check a service definition and fill in its defaults.

    Args:
        definition: As the user gave it.
        node: Our node, for the checks.

    Raises:
        InvalidRequest: It breaks a rule; nothing is registered.
    """
    if not definition.name:
        raise InvalidRequest("Missing service name")
    if definition.address in _WILDCARDS:
        raise InvalidRequest("Invalid service address")
    validate_meta(definition.meta or {}, kind=definition.kind)
    definitions = tuple(_definitions(definition))
    for check in definitions:
        validate_check(check)
    weights = definition.weights or Weights(passing=1, warning=1)
    if weights.passing < 1:
        raise InvalidRequest("Invalid Weights: Passing must be greater than 0")
    if weights.warning < 0:
        raise InvalidRequest("Invalid Weights: Warning must be greater or equal than 0")
    if max(weights.passing, weights.warning) > WEIGHT_MAX:
        raise InvalidRequest(f"Invalid Weights: DNS Weight must be between 0 and {WEIGHT_MAX}")
    service = _service(definition, weights)
    validate_kind(service)
    return Registration(service, _plans(service, definitions, node), definition.token)


def dns_fault(name: str) -> str:
    """Why nobody finds the name of a service or a tag over DNS; empty where it can be found."""
    if not _DNS_LABEL.fullmatch(name):
        return "it has other characters than letters, digits and dashes"
    if len(name) > DNS_LABEL_SIZE_MAX:
        return f"it is longer than {DNS_LABEL_SIZE_MAX} characters"
    return ""


def register_check(definition: CheckDefinition, *, node: str) -> CheckPlan:
    """Check the definition of a check that is registered by itself.

    The caller fills in name and tags of its service, if it has one.

    Raises:
        InvalidRequest: It breaks a rule; nothing is registered.
    """
    if not definition.name:
        raise InvalidRequest("Missing check name")
    if definition.status not in _STATUSES:
        raise InvalidRequest("Bad check status")
    validate_check(definition)
    check_id = definition.check_id or definition.name
    definition = msgspec.structs.replace(definition, check_id=check_id)
    check = HealthCheck(
        node=node,
        check_id=check_id,
        name=definition.name,
        status=definition.status or CRITICAL,
        notes=definition.notes,
        service_id=definition.service_id,
        type=definition.type,
        interval=format_duration(definition.interval),
        timeout=format_duration(definition.timeout),
    )
    return CheckPlan(check, definition)


def validate_check(definition: CheckDefinition) -> None:
    """Check that a definition says one way to run it, and how often.

    Raises:
        InvalidRequest: It does not.
    """
    kind = definition.type
    if definition.status not in _STATUSES:
        raise InvalidRequest("Status for checks must 'passing', 'warning', 'critical'")
    if not kind:
        if definition.interval > 0:
            raise InvalidRequest(
                "Invalid check: Interval set but no check type (such as HTTP or TCP) is given"
            )
        raise InvalidRequest("Invalid check: TTL must be > 0 for TTL checks")
    if definition.ttl > 0 and definition.interval > 0:
        raise InvalidRequest("Invalid check: Interval and TTL cannot both be specified")
    if kind in _INTERVAL_KINDS and definition.interval <= 0:
        raise InvalidRequest(
            "Invalid check: Interval must be > 0 for Script, HTTP, H2PING, or TCP checks"
        )
    if definition.alias_node or definition.alias_service:
        if kind in _INTERVAL_KINDS:
            raise InvalidRequest("Invalid check: Interval cannot be set for Alias checks")
        if definition.ttl > 0:
            raise InvalidRequest("Invalid check: TTL must be not be set for Alias checks")
    if kind == agent.TTL and definition.ttl < 0:
        raise InvalidRequest("Invalid check: TTL must be > 0 for TTL checks")
    if definition.output_max_size < 0:
        raise InvalidRequest("Invalid check: MaxOutputMaxSize must be positive")
    if definition.failures_before_warning > max(definition.failures_before_critical, 1):
        raise InvalidRequest(
            "Invalid check: FailuresBeforeWarning can't be higher than FailuresBeforeCritical"
        )


def validate_meta(meta: Mapping[str, str], *, kind: str) -> None:
    """Check a service's metadata.

    Raises:
        InvalidRequest: Too many pairs, a malformed key, too long a value, or a reserved key:
            ``consul-`` is ours, except the mark of a federating mesh gateway.
    """
    if fault := meta_fault(meta, kind=kind):
        raise InvalidRequest(f"Invalid Service Meta: {fault}")


def meta_fault(meta: Mapping[str, str], *, kind: str = "", reserved: bool = False) -> str:
    """What is wrong with metadata of a node or a service, in Consul's words; empty for nothing.

    Args:
        meta: The pairs.
        kind: Of the service.
        reserved: Whether keys that are ours may stand there.
    """
    if len(meta) > META_PAIRS_MAX:
        return f"Node metadata cannot contain more than {META_PAIRS_MAX} key/value pairs"
    for key, value in sorted(meta.items()):
        fault = _pair_fault(key, value, kind, reserved=reserved)
        if fault:
            return f"Couldn't load metadata pair ('{key}', '{value}'): {fault}"
    return ""


def _pair_fault(key: str, value: str, kind: str, *, reserved: bool) -> str:
    if not key:
        return "Key cannot be blank"
    if not _META_KEY.fullmatch(key):
        return "Key contains invalid characters"
    if len(key) > META_KEY_SIZE_MAX:
        return f"Key is too long (limit: {META_KEY_SIZE_MAX} characters)"
    ours = reserved or (kind == MESH_GATEWAY_KIND and key == WAN_FEDERATION_META)
    if key.startswith(_RESERVED_PREFIX) and not ours:
        return f"Key prefix '{_RESERVED_PREFIX}' is reserved for internal use"
    if len(value) > META_VALUE_SIZE_MAX:
        return f"Value is too long (limit: {META_VALUE_SIZE_MAX} characters)"
    return ""


def _definitions(definition: ServiceDefinition) -> Iterator[CheckDefinition]:
    """All checks, the single one first; an empty single one counts as none."""
    if definition.check is not None and definition.check != CheckDefinition():
        yield definition.check
    yield from definition.checks or ()


def _service(definition: ServiceDefinition, weights: Weights) -> NodeService:
    return NodeService(
        kind=definition.kind,
        id=definition.id or definition.name,
        service=definition.name,
        tags=definition.tags,
        address=definition.address,
        tagged_addresses=_tagged_addresses(definition),
        meta=definition.meta,
        port=definition.port,
        socket_path=definition.socket_path,
        weights=weights,
        enable_tag_override=definition.enable_tag_override,
        proxy=_proxy(definition.proxy or ConnectProxyConfig()),
        connect=ServiceConnect(native=definition.connect is not None and definition.connect.native),
    )


def _proxy(proxy: ConnectProxyConfig) -> ConnectProxyConfig:
    """A proxy whose upstreams all say what they lead to."""
    upstreams = tuple(
        upstream
        if upstream.destination_type
        else msgspec.structs.replace(upstream, destination_type=SERVICE_UPSTREAM)
        for upstream in proxy.upstreams or ()
    )
    return msgspec.structs.replace(proxy, upstreams=upstreams or proxy.upstreams)


def _tagged_addresses(definition: ServiceDefinition) -> dict[str, ServiceAddress] | None:
    """Tagged addresses, with those by family that follow from the service's own address.

    Raises:
        RequestError: One for a family has no address of it.
    """
    tagged = dict(definition.tagged_addresses or {})
    for tag in ("lan_ipv4", "wan_ipv4", "lan_ipv6", "wan_ipv6"):
        if tag in tagged and not _is_of_family(tagged[tag].address, tag[-4:]):
            text = f'Service tagged address "{tag}" must be a valid {tag[-4:]} address'
            raise RequestError(text)
    try:
        version = ipaddress.ip_address(definition.address).version
    except ValueError:
        return tagged or None
    for tag in (f"lan_ipv{version}", f"wan_ipv{version}"):
        own = ServiceAddress(address=definition.address, port=definition.port)
        tagged.setdefault(tag, own)
    return tagged


def _is_of_family(address: str, family: str) -> bool:
    try:
        return f"ipv{ipaddress.ip_address(address).version}" == family
    except ValueError:
        return False


def validate_kind(service: NodeService) -> None:
    """Check what the kind of a service demands.

    Raises:
        InvalidRequest: With all faults of the definition in its text.
    """
    faults = [*_proxy_faults(service), *_gateway_faults(service)]
    if faults:
        raise InvalidRequest(join_faults(faults))


def _proxy_faults(service: NodeService) -> Iterator[str]:
    if service.kind == CONNECT_PROXY_KIND:
        if not service.proxy.destination_service_name.strip():
            yield "Proxy.DestinationServiceName must be non-empty for Connect proxy services"
        if service.proxy.destination_service_name == "*":
            yield "Proxy.DestinationServiceName must not be a wildcard for Connect proxy services"
        if service.port == 0 and not service.socket_path:
            yield "Port or SocketPath must be set for a Connect proxy"
        if service.connect.native:
            yield "A Proxy cannot also be Connect Native, only typical services"
        yield from upstream_faults(service.proxy)
        yield from expose_faults(service.proxy)


def _gateway_faults(service: NodeService) -> Iterator[str]:
    name = _GATEWAYS.get(service.kind)
    if name is None:
        return
    if service.port == 0 and service.kind != INGRESS_GATEWAY_KIND:
        yield f"Port must be non-zero for a {name}"
    if service.proxy.destination_service_name:
        yield f"The Proxy.DestinationServiceName configuration is invalid for a {name}"
    if service.proxy.destination_service_id:
        yield f"The Proxy.DestinationServiceID configuration is invalid for a {name}"
    if service.proxy.local_service_address:
        yield f"The Proxy.LocalServiceAddress configuration is invalid for a {name}"
    if service.proxy.local_service_port:
        yield f"The Proxy.LocalServicePort configuration is invalid for a {name}"
    if service.proxy.upstreams:
        yield f"The Proxy.Upstreams configuration is invalid for a {name}"


def join_faults(faults: list[str]) -> str:
    """Several faults in one text, as Go's multierror has them."""
    head = "1 error occurred:" if len(faults) == 1 else f"{len(faults)} errors occurred:"
    return head + "".join(f"\n\t* {fault}" for fault in faults) + "\n\n"


def _plans(
    service: NodeService, definitions: tuple[CheckDefinition, ...], node: str
) -> tuple[CheckPlan, ...]:
    return tuple(
        _plan(service, definition, node, number if len(definitions) > 1 else 0)
        for number, definition in enumerate(definitions, start=1)
    )


def _plan(service: NodeService, definition: CheckDefinition, node: str, number: int) -> CheckPlan:
    check_id = definition.check_id or f"service:{service.id}" + (f":{number}" if number else "")
    check = HealthCheck(
        node=node,
        check_id=check_id,
        name=definition.name or f"Service '{service.service}' check",
        status=definition.status or CRITICAL,
        notes=definition.notes,
        service_id=service.id,
        service_name=service.service,
        service_tags=service.tags,
        type=definition.type,
    )
    definition = msgspec.structs.replace(definition, check_id=check_id, service_id=service.id)
    return CheckPlan(check, definition)
