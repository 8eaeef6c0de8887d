"""What a config entry must keep to by itself, and how it is normalised when it is written.

What needs other entries, such as whether a whole discovery chain has one protocol, is not asked
here. The texts are Consul's; of an entry that breaks several rules the first counts.
Source: protocol/http-api.md §6.6; Consul 1.10, agent/structs.
"""

import math
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from isthmus.errors import InvalidRequest
from isthmus.model.config_entry import (
    INGRESS_GATEWAY,
    MESH,
    MESH_NAME,
    PROXY_DEFAULTS,
    PROXY_DEFAULTS_NAME,
    SERVICE_DEFAULTS,
    SERVICE_INTENTIONS,
    SERVICE_RESOLVER,
    SERVICE_ROUTER,
    SERVICE_SPLITTER,
    TERMINATING_GATEWAY,
    ConfigEntry,
    HashPolicy,
    IngressGatewayConfigEntry,
    IngressListener,
    IntentionHTTPHeaderPermission,
    IntentionHTTPPermission,
    IntentionPermission,
    LoadBalancer,
    MeshConfigEntry,
    ProxyConfigEntry,
    ServiceConfigEntry,
    ServiceIntentionsConfigEntry,
    ServiceResolverConfigEntry,
    ServiceResolverFailover,
    ServiceRoute,
    ServiceRouteHTTPMatch,
    ServiceRouteHTTPMatchHeader,
    ServiceRouterConfigEntry,
    ServiceSplitterConfigEntry,
    SourceIntention,
    TerminatingGatewayConfigEntry,
    UpstreamConfig,
    UpstreamConfiguration,
)
from isthmus.model.registration import join_faults
from isthmus.units import quote

WILDCARD: Final = "*"
"""Name that stands for all services."""
CONSUL_SOURCE: Final = "consul"
"""The only type of an intention's source."""

_META_COUNT_MAX: Final = 64
_META_KEY_SIZE_MAX: Final = 128
_META_VALUE_SIZE_MAX: Final = 512
_PERCENT: Final = 100.0
_WEIGHT_SUM: Final = 100 * 100
"""Of all weights, in the hundredths of a percent that they are counted in."""
_SINGLE: Final = struct.Struct(">f")
_SUBSET: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_SUBSET_SIZE_MAX: Final = 63
_LABEL_SIZE_MAX: Final = 63
_DOMAIN_SIZE_MAX: Final = 256
_ESCAPED: Final = re.compile(rb"\\(?:[0-9]{3}|.)", re.DOTALL)
_METHODS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE"}
)
_LISTENER_PROTOCOLS: Final = frozenset({"tcp", "http", "http2", "grpc"})
_ACTIONS: Final = frozenset({"allow", "deny"})
_RING_HASH: Final = "ring_hash"
_LEAST_REQUEST: Final = "least_request"
_HASHING: Final = frozenset({"maglev", _RING_HASH})
_POLICIES: Final = frozenset({"", "random", "round_robin", _LEAST_REQUEST, *_HASHING})
_COOKIE: Final = "cookie"
_HASHED_FIELDS: Final = frozenset({"header", _COOKIE, "query_parameter"})
_PRECEDENCES: Final = {
    (False, False): 9,
    (False, True): 8,
    (True, False): 6,
    (True, True): 5,
}
"""By whether the destination and the source are all services."""

_NAME_REQUIRED: Final = "Name is required"

_replace = msgspec.structs.replace


def checked(entry: ConfigEntry) -> ConfigEntry:
    """Normalise an entry that somebody writes, and check it.

    Args:
        entry: As it was sent. Its indexes stay.

    Returns:
        What to keep.

    Raises:
        InvalidRequest: It breaks a rule.
    """
    kind, normalize, faults = _RULES[type(entry)]
    entry = _replace(normalize(entry), kind=kind)
    fault = next(faults(entry), None)
    if fault is not None:
        raise InvalidRequest(fault)
    return entry


# What all have ---------------------------------------------------------------------------------


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))


def _meta_faults(meta: dict[str, str] | None) -> list[str]:
    faults = []
    if meta and len(meta) > _META_COUNT_MAX:
        faults.append(f"Meta exceeds maximum element count {_META_COUNT_MAX}")
    for key, value in sorted((meta or {}).items()):
        if _size(key) > _META_KEY_SIZE_MAX:
            faults.append(f"Meta key {quote(key)} exceeds maximum length {_META_KEY_SIZE_MAX}")
        if _size(value) > _META_VALUE_SIZE_MAX:
            faults.append(
                f"Meta value for key {quote(key)} exceeds maximum length {_META_VALUE_SIZE_MAX}"
            )
    return faults


def _meta_fault(entry: ConfigEntry) -> Iterator[str]:
    if faults := _meta_faults(entry.meta):
        yield join_faults(faults)


def _named(entry: ConfigEntry) -> Iterator[str]:
    if not entry.name:
        yield _NAME_REQUIRED
    yield from _meta_fault(entry)


def _unchanged(entry: ConfigEntry) -> ConfigEntry:
    return entry


# Services and proxies --------------------------------------------------------------------------


def _normalize_service(entry: ServiceConfigEntry) -> ServiceConfigEntry:
    upstreams = entry.upstream_config
    if upstreams is not None:
        upstreams = UpstreamConfiguration(
            overrides=_each(_normalize_upstream, upstreams.overrides),
            defaults=upstreams.defaults and _normalize_upstream(upstreams.defaults),
        )
    return _replace(entry, protocol=entry.protocol.lower(), upstream_config=upstreams)


def _each(change: Callable[[Any], Any], items: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    return None if items is None else tuple(change(item) for item in items)


def _normalize_upstream(upstream: UpstreamConfig) -> UpstreamConfig:
    return _replace(
        upstream,
        protocol=upstream.protocol.lower(),
        connect_timeout_ms=max(0, upstream.connect_timeout_ms),
    )


def _service_faults(entry: ServiceConfigEntry) -> Iterator[str]:
    if not entry.name:
        yield _NAME_REQUIRED
    if entry.name == WILDCARD:
        yield "service-defaults name must be the name of a service, and not a wildcard"
    faults = _meta_faults(entry.meta)
    upstreams = entry.upstream_config or UpstreamConfiguration()
    for override in upstreams.overrides or ():
        if fault := _override_fault(override):
            faults.append(f"error in upstream override for {override.name}: {fault}")
    if upstreams.defaults is not None and (fault := _defaults_fault(upstreams.defaults)):
        faults.append(f"error in upstream defaults: {fault}")
    if faults:
        yield join_faults(faults)


def _override_fault(upstream: UpstreamConfig) -> str:
    if not upstream.name:
        return _NAME_REQUIRED
    if upstream.name == WILDCARD:
        return "Wildcard name is not supported"
    return _limits_fault(upstream)


def _defaults_fault(upstream: UpstreamConfig) -> str:
    return "Name must be empty" if upstream.name else _limits_fault(upstream)


def _limits_fault(upstream: UpstreamConfig) -> str:
    faults = []
    passive, limits = upstream.passive_health_check, upstream.limits
    if passive is not None and passive.interval < 0:
        faults.append("passive health check interval cannot be negative")
    if limits is not None:
        values = {
            "connections": limits.max_connections,
            "pending requests": limits.max_pending_requests,
            "concurrent requests": limits.max_concurrent_requests,
        }
        negative = (name for name, value in values.items() if value is not None and value < 0)
        if (name := next(negative, None)) is not None:
            faults.append(f"max {name} cannot be negative")
    return join_faults(faults) if faults else ""


def _normalize_proxy(entry: ProxyConfigEntry) -> ProxyConfigEntry:
    return _replace(entry, name=PROXY_DEFAULTS_NAME)


def _normalize_mesh(entry: MeshConfigEntry) -> MeshConfigEntry:
    return _replace(entry, name=MESH_NAME)


# Routers ---------------------------------------------------------------------------------------


def _normalize_router(entry: ServiceRouterConfigEntry) -> ServiceRouterConfigEntry:
    return _replace(entry, routes=_each(_normalize_route, entry.routes))


def _normalize_route(route: ServiceRoute) -> ServiceRoute:
    if route.match is None or route.match.http is None:
        return route
    http = _replace(route.match.http, methods=_each(str.upper, route.match.http.methods))
    return _replace(route, match=_replace(route.match, http=http))


def _router_faults(entry: ServiceRouterConfigEntry) -> Iterator[str]:
    yield from _named(entry)
    for number, route in enumerate(entry.routes or ()):
        http = (route.match and route.match.http) or ServiceRouteHTTPMatch()
        for fault in _route_faults(http):
            yield f"Route[{number}] {fault}"
        has_prefix = http.path_exact or http.path_prefix
        if route.destination is not None and route.destination.prefix_rewrite and not has_prefix:
            yield (
                f"Route[{number}] cannot make use of PrefixRewrite without configuring either "
                "PathExact or PathPrefix"
            )


def _route_faults(http: ServiceRouteHTTPMatch) -> Iterator[str]:
    yield from _path_faults(http)
    for number, header in enumerate(http.header or ()):
        for fault in _header_faults(header):
            yield f"Header[{number}] {fault}"
    for number, parameter in enumerate(http.query_param or ()):
        if not parameter.name:
            yield f"QueryParam[{number}] missing required Name field"
        if _given(parameter.present, parameter.exact, parameter.regex) != 1:
            yield f"QueryParam[{number}] should only contain one of Present, Exact, or Regex"
    yield from _method_faults(http.methods)


def _given(*values: object) -> int:
    return sum(map(bool, values))


def _path_faults(
    http: ServiceRouteHTTPMatch | IntentionHTTPPermission, *, separator: str = ""
) -> Iterator[str]:
    if http.path_exact and not http.path_exact.startswith("/"):
        yield f"{separator}PathExact doesn't start with '/': {quote(http.path_exact)}"
    if http.path_prefix and not http.path_prefix.startswith("/"):
        yield f"{separator}PathPrefix doesn't start with '/': {quote(http.path_prefix)}"
    if _given(http.path_exact, http.path_prefix, http.path_regex) > 1:
        space = " " if separator else ""
        yield (f"{space}should only contain at most one of PathExact, PathPrefix, or PathRegex")


def _header_faults(
    header: ServiceRouteHTTPMatchHeader | IntentionHTTPHeaderPermission,
) -> Iterator[str]:
    if not header.name:
        yield "missing required Name field"
    if _given(header.present, header.exact, header.regex, header.prefix, header.suffix) != 1:
        yield "should only contain one of Present, Exact, Prefix, Suffix, or Regex"


def _method_faults(methods: tuple[str, ...] | None, *, separator: str = "") -> Iterator[str]:
    found = set[str]()
    for method in methods or ():
        if method not in _METHODS:
            yield f"{separator}Methods contains an invalid method {quote(method)}"
        if method in found:
            yield f"{separator}Methods contains {quote(method)} more than once"
        found.add(method)


# Splitters -------------------------------------------------------------------------------------


def _to_single(value: float) -> float:
    return float(_SINGLE.unpack(_SINGLE.pack(value))[0])


def _scaled(weight: float) -> int:
    """A weight in hundredths of a percent, as arithmetic of single precision has it."""
    try:
        product = _to_single(_to_single(weight) * _PERCENT)
    except OverflowError:
        product = math.inf
    if not math.isfinite(product):
        raise InvalidRequest(f"the weight of a split must be between 0 and 100, not {weight}")
    return int(math.copysign(math.floor(abs(product) + 0.5), product))


def _normalize_splitter(entry: ServiceSplitterConfigEntry) -> ServiceSplitterConfigEntry:
    return _replace(
        entry,
        splits=_each(
            lambda split: _replace(split, weight=_to_single(_scaled(split.weight) / _PERCENT)),
            entry.splits,
        ),
    )


def _splitter_faults(entry: ServiceSplitterConfigEntry) -> Iterator[str]:
    if not entry.name:
        yield _NAME_REQUIRED
    if not entry.splits:
        yield "no splits configured"
    yield from _meta_fault(entry)
    found = set[tuple[str, str, str]]()
    for split in entry.splits or ():
        key = (split.service or entry.name, split.service_subset, split.namespace)
        if key in found:
            service, subset, namespace = map(quote, key)
            yield (
                f"split destination occurs more than once: service={service}, "
                f"subset={subset}, namespace={namespace}"
            )
        found.add(key)
    total = sum(_scaled(split.weight) for split in entry.splits or ())
    if total != _WEIGHT_SUM:
        shown = _to_single(_to_single(total) / _PERCENT)
        yield f"the sum of all split weights must be 100, not {shown:f}"


# Resolvers -------------------------------------------------------------------------------------


def _resolver_faults(entry: ServiceResolverConfigEntry) -> Iterator[str]:
    yield from _named(entry)
    subsets = entry.subsets or {}
    for name in sorted(subsets):
        if not name:
            yield "Subset defined with empty name"
        if fault := _subset_fault(name):
            yield f"Subset {quote(name)} is invalid: {fault}"
    if entry.default_subset and entry.default_subset not in subsets:
        yield f"DefaultSubset {quote(entry.default_subset)} is not a valid subset"
    yield from _redirect_faults(entry)
    for subset, failover in sorted((entry.failover or {}).items()):
        for fault in _failover_faults(entry, subset, failover):
            yield f"Bad Failover[{quote(subset)}]{fault}"
    if entry.connect_timeout < 0:
        yield f"Bad ConnectTimeout '{entry.connect_timeout}', must be >= 0"
    if entry.load_balancer is not None:
        yield from _balancer_faults(entry.load_balancer)


def _subset_fault(name: str) -> str:
    if _size(name) > _SUBSET_SIZE_MAX:
        return "must be non-empty and 63 characters or fewer"
    if not _SUBSET.fullmatch(name):
        return (
            "must be 63 characters or fewer, begin or end with lower case alphanumeric "
            "characters, and contain lower case alphanumeric characters or '-' in between"
        )
    return ""


def _redirect_faults(entry: ServiceResolverConfigEntry) -> Iterator[str]:
    redirect = entry.redirect
    if redirect is None:
        return
    service, subset = redirect.service, redirect.service_subset
    if entry.failover:
        yield "Redirect and Failover cannot both be set"
    if not (service or subset or redirect.namespace or redirect.datacenter):
        yield "Redirect is empty"
    if not service and subset:
        yield "Redirect.ServiceSubset defined without Redirect.Service"
    if not service and redirect.namespace:
        yield "Redirect.Namespace defined without Redirect.Service"
    if service == entry.name and subset and subset not in (entry.subsets or {}):
        yield f"Redirect.ServiceSubset {quote(subset)} is not a valid subset of {quote(service)}"


def _failover_faults(
    entry: ServiceResolverConfigEntry, name: str, failover: ServiceResolverFailover
) -> Iterator[str]:
    subsets = entry.subsets or {}
    service, subset = failover.service, failover.service_subset
    if name != WILDCARD and name not in subsets:
        yield ": not a valid subset"
    if not (service or subset or failover.namespace or failover.datacenters):
        yield " one of Service, ServiceSubset, Namespace, or Datacenters is required"
    if subset and service in {"", entry.name} and subset not in subsets:
        yield f".ServiceSubset {quote(subset)} is not a valid subset of {quote(service)}"
    if "" in (failover.datacenters or ()):
        yield ".Datacenters: found empty datacenter"


def _balancer_faults(balancer: LoadBalancer) -> Iterator[str]:
    policy = quote(balancer.policy)
    if balancer.policy not in _POLICIES:
        yield f"Bad LoadBalancer policy: {policy} is not supported"
    wrong = "Bad LoadBalancer configuration"
    unfit = f"specified for incompatible load balancing policy {policy}"
    if balancer.policy != _RING_HASH and balancer.ring_hash_config is not None:
        yield f"{wrong}. RingHashConfig {unfit}"
    if balancer.policy != _LEAST_REQUEST and balancer.least_request_config is not None:
        yield f"{wrong}. LeastRequestConfig {unfit}"
    if balancer.policy not in _HASHING and balancer.hash_policies:
        yield f"{wrong}: HashPolicies specified for non-hash-based Policy: {policy}"
    for number, hashed in enumerate(balancer.hash_policies or ()):
        for fault in _hash_faults(hashed):
            yield f"Bad LoadBalancer HashPolicy[{number}]: {fault}"


def _hash_faults(policy: HashPolicy) -> Iterator[str]:
    field, cookie = quote(policy.field), policy.cookie_config
    if policy.field and policy.field not in _HASHED_FIELDS:
        yield f"{field} is not a supported field"
    if policy.source_ip and policy.field:
        yield f"A single hash policy cannot hash both a source address and a {field}"
    if policy.source_ip and policy.field_value:
        yield "A FieldValue cannot be specified when hashing SourceIP"
    if policy.field and not policy.field_value:
        yield f"Field {field} was specified without a FieldValue"
    if policy.field_value and not policy.field:
        yield "FieldValue requires a Field to apply to"
    if cookie is not None and policy.field != _COOKIE:
        yield f"cookie_config provided for {field}"
    if cookie is not None and cookie.session and cookie.ttl:
        yield "a session cookie cannot have an associated TTL"


# Gateways --------------------------------------------------------------------------------------


def _normalize_ingress(entry: IngressGatewayConfigEntry) -> IngressGatewayConfigEntry:
    return _replace(
        entry,
        listeners=_each(
            lambda listener: _replace(listener, protocol=(listener.protocol or "tcp").lower()),
            entry.listeners,
        ),
    )


def _ingress_faults(entry: IngressGatewayConfigEntry) -> Iterator[str]:
    yield from _meta_fault(entry)
    ports = set[int]()
    for listener in entry.listeners or ():
        if listener.port in ports:
            yield f"port {listener.port} declared on two listeners"
        ports.add(listener.port)
        yield from _listener_faults(listener, has_tls=entry.tls.enabled)
    if not entry.name:
        yield _NAME_REQUIRED  # Consul's store refuses it, with a text that helps nobody.


def _listener_faults(listener: IngressListener, *, has_tls: bool) -> Iterator[str]:
    protocol, place = listener.protocol, f"(listener on port {listener.port})"
    services = listener.services or ()
    if protocol not in _LISTENER_PROTOCOLS:
        yield (
            "protocol must be 'tcp', 'http', 'http2', or 'grpc'. "
            f"'{protocol}' is an unsupported protocol"
        )
    if not services:
        yield f"No service declared for listener with port {listener.port}"
    if protocol != "http" and len(services) > 1:
        yield (f"Multiple services per listener are only supported for protocol = 'http' {place}")
    hosts = set[str]()
    for service in services:
        if protocol == "tcp" and service.name == WILDCARD:
            yield f"Wildcard service name is only valid for protocol = 'http' {place}"
        if protocol == "tcp" and service.hosts:
            yield (
                f"Associating hosts to a service is not supported for the {protocol} "
                f"protocol {place}"
            )
        if not service.name:
            yield f"Service name cannot be blank {place}"
        if service.name == WILDCARD and service.hosts:
            yield f"Associating hosts to a wildcard service is not supported {place}"
        for host in service.hosts or ():
            if host in hosts:
                yield f"Hosts must be unique within a specific listener {place}"
            hosts.add(host)
            yield from _host_faults(host, has_tls=has_tls)


def _host_faults(host: str, *, has_tls: bool) -> Iterator[str]:
    if host == WILDCARD:
        if has_tls:
            yield (
                "Host '*' is not allowed when TLS is enabled, all hosts must be valid DNS "
                "records to add as a DNSSAN"
            )
        return
    if not _is_domain(host):
        yield f"Host {quote(host)} must be a valid DNS hostname"
    if WILDCARD in host.removeprefix("*."):
        yield (
            f"Host {quote(host)} is not valid, a wildcard specifier is only allowed as the "
            "leftmost label"
        )


def _is_domain(host: str) -> bool:
    """Whether a name fits into DNS messages; which characters it has does not matter."""
    escaped = _ESCAPED.sub(b"x", host.encode("utf-8", "surrogateescape"))
    labels = escaped.removesuffix(b".").split(b".")
    return (
        escaped != b""
        and all(len(label) <= _LABEL_SIZE_MAX for label in labels)
        and all(labels[1:])
        and sum(len(label) + 1 for label in labels) <= _DOMAIN_SIZE_MAX
    )


def _terminating_faults(entry: TerminatingGatewayConfigEntry) -> Iterator[str]:
    yield from _meta_fault(entry)
    found = set[str]()
    for service in entry.services or ():
        name, files = service.name, (service.ca_file, service.cert_file, service.key_file)
        if not name:
            yield "Service name cannot be blank."
        if name in found:
            yield f"Service {quote(name)} was specified more than once within a namespace"
        found.add(name)
        if (service.cert_file or service.key_file) and not all(files):
            yield (
                f"Service {quote(name)} must have a CertFile, CAFile, and KeyFile specified for "
                "TLS origination"
            )
    if not entry.name:
        yield _NAME_REQUIRED


# Intentions ------------------------------------------------------------------------------------


def _normalize_intentions(entry: ServiceIntentionsConfigEntry) -> ServiceIntentionsConfigEntry:
    if entry.sources is None:
        return entry
    is_wild = entry.name == WILDCARD
    sources = [
        _replace(
            source,
            type=source.type or CONSUL_SOURCE,
            precedence=_PRECEDENCES[is_wild, source.name == WILDCARD],
            permissions=_each(_normalize_permission, source.permissions),
            legacy_id="",
            legacy_meta=source.legacy_meta or None,
            legacy_create_time=None,
            legacy_update_time=None,
        )
        for source in entry.sources
    ]
    sources.sort(key=lambda source: -source.precedence)
    return _replace(entry, sources=tuple(sources))


def _normalize_permission(permission: IntentionPermission) -> IntentionPermission:
    http = permission.http
    if http is None or not http.methods:
        return permission
    return _replace(permission, http=_replace(http, methods=_each(str.upper, http.methods)))


def _intentions_faults(entry: ServiceIntentionsConfigEntry) -> Iterator[str]:
    if not entry.name:
        yield _NAME_REQUIRED
    yield from _wildcard_faults(entry.name)
    yield from _meta_fault(entry)
    if not entry.sources:
        yield "At least one source is required"
    found = set[str]()
    for number, source in enumerate(entry.sources or ()):
        for fault in _source_faults(source, is_wild=entry.name == WILDCARD):
            yield f"Sources[{number}].{fault}"
        if source.name in found:
            yield f"Sources[{number}] defines {quote(source.name)} more than once"
        found.add(source.name)


def _wildcard_faults(name: str) -> Iterator[str]:
    if name != WILDCARD and WILDCARD in name:
        yield "Name: wildcard character '*' cannot be used with partial values"


def _source_faults(source: SourceIntention, *, is_wild: bool) -> Iterator[str]:
    if not source.name:
        yield "Name is required"
    yield from _wildcard_faults(source.name)
    if _size(source.description) > _META_VALUE_SIZE_MAX:
        yield f"Description exceeds maximum length {_META_VALUE_SIZE_MAX}"
    if source.legacy_meta:
        yield "LegacyMeta must be omitted"
    if not source.permissions and source.action not in _ACTIONS:
        yield "Action must be set to 'allow' or 'deny'"
    if source.permissions and source.action:
        yield "Action must be omitted if Permissions are specified"
    if source.permissions and is_wild:
        yield "Permissions cannot be specified on intentions with wildcarded destinations"
    if source.type != CONSUL_SOURCE:
        yield f"Type must be set to '{CONSUL_SOURCE}'"
    for number, permission in enumerate(source.permissions or ()):
        for fault in _permission_faults(permission):
            yield f"Permissions[{number}].{fault}"


def _permission_faults(permission: IntentionPermission) -> Iterator[str]:
    http = permission.http
    if permission.action not in _ACTIONS:
        yield "Action must be set to 'allow' or 'deny'"
    if http is None:
        yield "HTTP is required"
        return
    for fault in _path_faults(http, separator="."):
        yield f"HTTP{fault}"
    for number, header in enumerate(http.header or ()):
        for fault in _header_faults(header):
            yield f"HTTP.Header[{number}] {fault}"
    for fault in _method_faults(http.methods, separator="."):
        yield f"HTTP{fault}"
    if not (http.path_exact or http.path_prefix or http.path_regex or http.header or http.methods):
        yield "HTTP should not be empty"


_Rules = tuple[str, Callable[[Any], ConfigEntry], Callable[[Any], Iterator[str]]]

_RULES: Final[dict[type[ConfigEntry], _Rules]] = {
    ServiceConfigEntry: (SERVICE_DEFAULTS, _normalize_service, _service_faults),
    ProxyConfigEntry: (PROXY_DEFAULTS, _normalize_proxy, _meta_fault),
    ServiceRouterConfigEntry: (SERVICE_ROUTER, _normalize_router, _router_faults),
    ServiceSplitterConfigEntry: (SERVICE_SPLITTER, _normalize_splitter, _splitter_faults),
    ServiceResolverConfigEntry: (SERVICE_RESOLVER, _unchanged, _resolver_faults),
    IngressGatewayConfigEntry: (INGRESS_GATEWAY, _normalize_ingress, _ingress_faults),
    TerminatingGatewayConfigEntry: (TERMINATING_GATEWAY, _unchanged, _terminating_faults),
    ServiceIntentionsConfigEntry: (SERVICE_INTENTIONS, _normalize_intentions, _intentions_faults),
    MeshConfigEntry: (MESH, _normalize_mesh, _meta_fault),
}
"""Kind, how it is normalised, and what it breaks then, in the order in which Consul looks."""
