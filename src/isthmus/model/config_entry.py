"""Config entries: what operators say about services, proxies and gateways, by kind and name.

The primary owns them; secondaries replicate them. On the wire their messages are strings that
hold MessagePack (`wire.blob`), so the fields ``entry`` and ``entries`` are hidden from the
plain codec. Source: protocol/rpc.md §3.5, §5.2, §6, protocol/http-api.md §6.6.
"""

from typing import Final

import msgspec

from isthmus.model.catalog import (
    ExposeConfig,
    MeshGatewayConfig,
    TransparentProxyConfig,
)
from isthmus.model.query import QueryMeta, QueryOptions
from isthmus.model.record import Float32, Record, Uint
from isthmus.model.timestamp import Timestamp
from isthmus.units import Duration

SERVICE_DEFAULTS: Final = "service-defaults"
PROXY_DEFAULTS: Final = "proxy-defaults"
SERVICE_ROUTER: Final = "service-router"
SERVICE_SPLITTER: Final = "service-splitter"
SERVICE_RESOLVER: Final = "service-resolver"
INGRESS_GATEWAY: Final = "ingress-gateway"
TERMINATING_GATEWAY: Final = "terminating-gateway"
SERVICE_INTENTIONS: Final = "service-intentions"
MESH: Final = "mesh"

PROXY_DEFAULTS_NAME: Final = "global"
"""The only name that an entry of kind ``proxy-defaults`` may have."""
MESH_NAME: Final = "mesh"
"""Name under which the one entry of kind ``mesh`` is found; the entry does not carry it."""

UPSERT: Final = "upsert"
UPSERT_CAS: Final = "upsert-cas"
COPY: Final = "copy"
"""Ours, and never on the wire: an upsert in which what is there already has no say."""
DELETE: Final = "delete"


class ConfigEntry(Record, frozen=True, kw_only=True):
    """What every entry has. Kind and name together are its key."""

    json_omit_empty = frozenset({"meta"})

    kind: str = ""
    name: str = ""
    meta: dict[str, str] | None = None
    create_index: Uint = 0
    modify_index: Uint = 0


class UpstreamLimits(Record, frozen=True, kw_only=True):
    """Limits of a proxy towards one upstream; None leaves the proxy's own default."""

    json_omit_empty = frozenset(
        {"max_connections", "max_pending_requests", "max_concurrent_requests"}
    )

    max_connections: int | None = None
    max_pending_requests: int | None = None
    max_concurrent_requests: int | None = None


class PassiveHealthCheck(Record, frozen=True, kw_only=True):
    """When a proxy takes an upstream's instance out of balance."""

    json_omit_empty = frozenset({"interval", "max_failures"})
    json_numbers = frozenset({"interval"})

    interval: Duration = Duration(0)
    max_failures: Uint = 0


class UpstreamConfig(Record, frozen=True, kw_only=True):
    """How proxies dial one upstream, or with an empty name all of them."""

    json_omit_empty = frozenset(
        {
            "name",
            "envoy_listener_json",
            "envoy_cluster_json",
            "protocol",
            "connect_timeout_ms",
            "limits",
            "passive_health_check",
        }
    )

    name: str = ""
    envoy_listener_json: str = ""
    envoy_cluster_json: str = ""
    protocol: str = ""
    connect_timeout_ms: int = 0
    limits: UpstreamLimits | None = None
    passive_health_check: PassiveHealthCheck | None = None
    mesh_gateway: MeshGatewayConfig = MeshGatewayConfig()


class UpstreamConfiguration(Record, frozen=True, kw_only=True):
    """Upstream settings of one service: defaults, and overrides by name."""

    json_omit_empty = frozenset({"overrides", "defaults"})

    overrides: tuple[UpstreamConfig, ...] | None = None
    defaults: UpstreamConfig | None = None


class ServiceConfigEntry(ConfigEntry, frozen=True, kw_only=True):
    """``service-defaults``: protocol and mesh settings of one service."""

    json_omit_empty = frozenset({"mode", "external_sni", "upstream_config", "meta"})

    kind: str = SERVICE_DEFAULTS
    name: str = ""
    protocol: str = ""
    mode: str = ""
    transparent_proxy: TransparentProxyConfig = TransparentProxyConfig()
    mesh_gateway: MeshGatewayConfig = MeshGatewayConfig()
    expose: ExposeConfig = ExposeConfig()
    external_sni: str = ""
    upstream_config: UpstreamConfiguration | None = None
    meta: dict[str, str] | None = None
    create_index: Uint = 0
    modify_index: Uint = 0


class ProxyConfigEntry(ConfigEntry, frozen=True, kw_only=True):
    """``proxy-defaults``: settings of all proxies."""

    json_omit_empty = frozenset({"config", "mode", "meta"})

    kind: str = PROXY_DEFAULTS
    name: str = ""
    config: dict[str, object] | None = None
    mode: str = ""
    transparent_proxy: TransparentProxyConfig = TransparentProxyConfig()
    mesh_gateway: MeshGatewayConfig = MeshGatewayConfig()
    expose: ExposeConfig = ExposeConfig()
    meta: dict[str, str] | None = None
    create_index: Uint = 0
    modify_index: Uint = 0


class ServiceRouteHTTPMatchHeader(Record, frozen=True, kw_only=True):
    """Condition on a header of a request."""

    json_omit_empty = frozenset({"present", "exact", "prefix", "suffix", "regex", "invert"})

    name: str = ""
    present: bool = False
    exact: str = ""
    prefix: str = ""
    suffix: str = ""
    regex: str = ""
    invert: bool = False


class ServiceRouteHTTPMatchQueryParam(Record, frozen=True, kw_only=True):
    """Condition on a query parameter of a request."""

    json_omit_empty = frozenset({"present", "exact", "regex"})

    name: str = ""
    present: bool = False
    exact: str = ""
    regex: str = ""


class ServiceRouteHTTPMatch(Record, frozen=True, kw_only=True):
    """Conditions on an HTTP request; all must hold."""

    json_omit_empty = frozenset(
        {"path_exact", "path_prefix", "path_regex", "header", "query_param", "methods"}
    )

    path_exact: str = ""
    path_prefix: str = ""
    path_regex: str = ""
    header: tuple[ServiceRouteHTTPMatchHeader, ...] | None = None
    query_param: tuple[ServiceRouteHTTPMatchQueryParam, ...] | None = None
    methods: tuple[str, ...] | None = None


class ServiceRouteMatch(Record, frozen=True, kw_only=True):
    """Which requests a route takes."""

    json_omit_empty = frozenset({"http"})

    http: ServiceRouteHTTPMatch | None = None


class ServiceRouteDestination(Record, frozen=True, kw_only=True):
    """Where a route sends requests, and how."""

    json_omit_empty = frozenset(
        {
            "service",
            "service_subset",
            "namespace",
            "prefix_rewrite",
            "request_timeout",
            "num_retries",
            "retry_on_connect_failure",
            "retry_on_status_codes",
        }
    )
    json_first = frozenset({"request_timeout"})

    service: str = ""
    service_subset: str = ""
    namespace: str = ""
    prefix_rewrite: str = ""
    request_timeout: Duration = Duration(0)
    num_retries: Uint = 0
    retry_on_connect_failure: bool = False
    retry_on_status_codes: tuple[Uint, ...] | None = None


class ServiceRoute(Record, frozen=True, kw_only=True):
    """One route: the first that matches is taken."""

    json_omit_empty = frozenset({"match", "destination"})

    match: ServiceRouteMatch | None = None
    destination: ServiceRouteDestination | None = None


class ServiceRouterConfigEntry(ConfigEntry, frozen=True, kw_only=True):
    """``service-router``: routes of a service by HTTP request."""

    json_omit_empty = frozenset({"meta"})

    kind: str = SERVICE_ROUTER
    name: str = ""
    routes: tuple[ServiceRoute, ...] | None = None
    meta: dict[str, str] | None = None
    create_index: Uint = 0
    modify_index: Uint = 0


class ServiceSplit(Record, frozen=True, kw_only=True):
    """A share, in percent, of a service's traffic."""

    json_omit_empty = frozenset({"service", "service_subset", "namespace"})

    weight: Float32 = 0.0
    service: str = ""
    service_subset: str = ""
    namespace: str = ""


class ServiceSplitterConfigEntry(ConfigEntry, frozen=True, kw_only=True):
    """``service-splitter``: how a service's traffic is shared out."""

    json_omit_empty = frozenset({"meta"})

    kind: str = SERVICE_SPLITTER
    name: str = ""
    splits: tuple[ServiceSplit, ...] | None = None
    meta: dict[str, str] | None = None
    create_index: Uint = 0
    modify_index: Uint = 0


class ServiceResolverSubset(Record, frozen=True, kw_only=True):
    """A named part of a service's instances."""

    json_omit_empty = frozenset({"filter", "only_passing"})

    filter: str = ""
    only_passing: bool = False


class ServiceResolverRedirect(Record, frozen=True, kw_only=True):
    """Another service, subset or datacenter that stands in for a service."""

    json_omit_empty = frozenset({"service", "service_subset", "namespace", "datacenter"})

    service: str = ""
    service_subset: str = ""
    namespace: str = ""
    datacenter: str = ""


class ServiceResolverFailover(Record, frozen=True, kw_only=True):
    """Where to go when no instance is healthy."""

    json_omit_empty = frozenset({"service", "service_subset", "namespace", "datacenters"})

    service: str = ""
    service_subset: str = ""
    namespace: str = ""
    datacenters: tuple[str, ...] | None = None


class RingHashConfig(Record, frozen=True, kw_only=True):
    """Sizes of the ring of the policy ``ring_hash``."""

    json_omit_empty = frozenset({"minimum_ring_size", "maximum_ring_size"})

    minimum_ring_size: Uint = 0
    maximum_ring_size: Uint = 0


class LeastRequestConfig(Record, frozen=True, kw_only=True):
    """Instances that the policy ``least_request`` compares."""

    json_omit_empty = frozenset({"choice_count"})

    choice_count: Uint = 0


class CookieConfig(Record, frozen=True, kw_only=True):
    """Cookie that a proxy makes when a request has none to hash."""

    json_omit_empty = frozenset({"session", "ttl", "path"})
    json_numbers = frozenset({"ttl"})

    session: bool = False
    ttl: Duration = Duration(0)
    path: str = ""


class HashPolicy(Record, frozen=True, kw_only=True):
    """What of a request is hashed to pick an instance."""

    json_omit_empty = frozenset({"field", "field_value", "cookie_config", "source_ip", "terminal"})

    field: str = ""
    field_value: str = ""
    cookie_config: CookieConfig | None = None
    source_ip: bool = msgspec.field(default=False, name="SourceIP")
    terminal: bool = False


class LoadBalancer(Record, frozen=True, kw_only=True):
    """How proxies choose among instances."""

    json_omit_empty = frozenset(
        {"policy", "ring_hash_config", "least_request_config", "hash_policies"}
    )

    policy: str = ""
    ring_hash_config: RingHashConfig | None = None
    least_request_config: LeastRequestConfig | None = None
    hash_policies: tuple[HashPolicy, ...] | None = None


class ServiceResolverConfigEntry(ConfigEntry, frozen=True, kw_only=True):
    """``service-resolver``: which instances a service name means."""

    json_omit_empty = frozenset(
        {
            "default_subset",
            "subsets",
            "redirect",
            "failover",
            "connect_timeout",
            "load_balancer",
            "meta",
        }
    )
    json_first = frozenset({"connect_timeout"})

    kind: str = SERVICE_RESOLVER
    name: str = ""
    default_subset: str = ""
    subsets: dict[str, ServiceResolverSubset] | None = None
    redirect: ServiceResolverRedirect | None = None
    failover: dict[str, ServiceResolverFailover] | None = None
    connect_timeout: Duration = Duration(0)
    load_balancer: LoadBalancer | None = None
    meta: dict[str, str] | None = None
    create_index: Uint = 0
    modify_index: Uint = 0


class GatewayTLSConfig(Record, frozen=True, kw_only=True):
    """Whether a gateway's listeners speak TLS."""

    enabled: bool = False


class IngressService(Record, frozen=True, kw_only=True):
    """A service behind an ingress listener."""

    json_omit_empty = frozenset({"meta"})

    name: str = ""
    hosts: tuple[str, ...] | None = None
    meta: dict[str, str] | None = None


class IngressListener(Record, frozen=True, kw_only=True):
    """A port of an ingress gateway."""

    port: int = 0
    protocol: str = ""
    services: tuple[IngressService, ...] | None = None


class IngressGatewayConfigEntry(ConfigEntry, frozen=True, kw_only=True):
    """``ingress-gateway``: what a gateway lets in from outside the mesh."""

    json_omit_empty = frozenset({"meta"})

    kind: str = INGRESS_GATEWAY
    name: str = ""
    tls: GatewayTLSConfig = GatewayTLSConfig()
    listeners: tuple[IngressListener, ...] | None = None
    meta: dict[str, str] | None = None
    create_index: Uint = 0
    modify_index: Uint = 0


class LinkedService(Record, frozen=True, kw_only=True):
    """A service outside the mesh that a terminating gateway reaches."""

    json_omit_empty = frozenset({"name", "ca_file", "cert_file", "key_file", "sni"})

    name: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    sni: str = ""


class TerminatingGatewayConfigEntry(ConfigEntry, frozen=True, kw_only=True):
    """``terminating-gateway``: what a gateway reaches outside the mesh."""

    json_omit_empty = frozenset({"meta"})

    kind: str = TERMINATING_GATEWAY
    name: str = ""
    services: tuple[LinkedService, ...] | None = None
    meta: dict[str, str] | None = None
    create_index: Uint = 0
    modify_index: Uint = 0


class IntentionHTTPHeaderPermission(Record, frozen=True, kw_only=True):
    """Condition on a header of a permitted request."""

    json_omit_empty = frozenset({"present", "exact", "prefix", "suffix", "regex", "invert"})

    name: str = ""
    present: bool = False
    exact: str = ""
    prefix: str = ""
    suffix: str = ""
    regex: str = ""
    invert: bool = False


class IntentionHTTPPermission(Record, frozen=True, kw_only=True):
    """Which HTTP requests a permission is about."""

    json_omit_empty = frozenset({"path_exact", "path_prefix", "path_regex", "header", "methods"})

    path_exact: str = ""
    path_prefix: str = ""
    path_regex: str = ""
    header: tuple[IntentionHTTPHeaderPermission, ...] | None = None
    methods: tuple[str, ...] | None = None


class IntentionPermission(Record, frozen=True, kw_only=True):
    """``allow`` or ``deny`` for some requests; the first that matches counts."""

    json_omit_empty = frozenset({"http"})

    action: str = ""
    http: IntentionHTTPPermission | None = None


class SourceIntention(Record, frozen=True, kw_only=True):
    """Who may, or may not, speak to the entry's service."""

    json_omit_empty = frozenset(
        {
            "action",
            "permissions",
            "legacy_id",
            "description",
            "legacy_meta",
            "legacy_create_time",
            "legacy_update_time",
        }
    )

    name: str = ""
    action: str = ""
    permissions: tuple[IntentionPermission, ...] | None = None
    precedence: int = 0
    legacy_id: str = ""
    type: str = ""
    description: str = ""
    legacy_meta: dict[str, str] | None = None
    legacy_create_time: Timestamp | None = None
    legacy_update_time: Timestamp | None = None


class ServiceIntentionsConfigEntry(ConfigEntry, frozen=True, kw_only=True):
    """``service-intentions``: who may speak to a service."""

    json_omit_empty = frozenset({"meta"})

    kind: str = SERVICE_INTENTIONS
    name: str = ""
    sources: tuple[SourceIntention, ...] | None = None
    meta: dict[str, str] | None = None
    create_index: Uint = 0
    modify_index: Uint = 0


class TransparentProxyMeshConfig(Record, frozen=True, kw_only=True):
    """Transparent proxying of the whole mesh."""

    mesh_destinations_only: bool = False


class MeshConfigEntry(ConfigEntry, frozen=True, kw_only=True):
    """``mesh``: settings of the whole mesh. It carries no name, and its kind in JSON alone."""

    json_omit_empty = frozenset({"meta"})
    json_hidden = frozenset({"name"})
    wire_hidden = frozenset({"kind", "name"})

    kind: str = MESH
    name: str = MESH_NAME
    transparent_proxy: TransparentProxyMeshConfig = TransparentProxyMeshConfig()
    meta: dict[str, str] | None = None
    create_index: Uint = 0
    modify_index: Uint = 0


CONFIG_ENTRY_TYPES: Final[dict[str, type[ConfigEntry]]] = {
    SERVICE_DEFAULTS: ServiceConfigEntry,
    PROXY_DEFAULTS: ProxyConfigEntry,
    SERVICE_ROUTER: ServiceRouterConfigEntry,
    SERVICE_SPLITTER: ServiceSplitterConfigEntry,
    SERVICE_RESOLVER: ServiceResolverConfigEntry,
    INGRESS_GATEWAY: IngressGatewayConfigEntry,
    TERMINATING_GATEWAY: TerminatingGatewayConfigEntry,
    SERVICE_INTENTIONS: ServiceIntentionsConfigEntry,
    MESH: MeshConfigEntry,
}
"""Record type by kind, in the order in which a replicating secondary names the kinds."""


class ConfigEntryQuery(QueryOptions, frozen=True, kw_only=True):
    """Read of one entry, or with an empty name of all of a kind."""

    kind: str = ""
    name: str = ""
    datacenter: str = ""


class ConfigEntryListAllRequest(QueryOptions, frozen=True, kw_only=True):
    """Read of all entries of the kinds that the asker understands."""

    kinds: tuple[str, ...] | None = None
    datacenter: str = ""


class ConfigEntryRequest(Record, frozen=True, kw_only=True):
    """Write of an entry: ``upsert``, ``upsert-cas``, ``delete``; a string on the wire.

    ``upsert-cas`` compares the entry's `modify_index`; ``ConfigEntry.Delete`` has no `op`.
    """

    wire_hidden = frozenset({"entry"})

    op: str = ""
    datacenter: str = ""
    entry: ConfigEntry | None = None
    token: str = ""


class ConfigEntryResponse(QueryMeta, frozen=True, kw_only=True):
    """Reply of ``ConfigEntry.Get``; a string on the wire. No entry is no error."""

    wire_hidden = frozenset({"entry"})

    entry: ConfigEntry | None = None


class IndexedConfigEntries(QueryMeta, frozen=True, kw_only=True):
    """Reply of ``ConfigEntry.List``: all of one kind; a string on the wire."""

    wire_hidden = frozenset({"entries"})

    kind: str = ""
    entries: tuple[ConfigEntry, ...] = ()


class IndexedGenericConfigEntries(QueryMeta, frozen=True, kw_only=True):
    """Reply of ``ConfigEntry.ListAll``: entries of any kind; a string on the wire."""

    wire_hidden = frozenset({"entries"})

    entries: tuple[ConfigEntry, ...] = ()


class ServiceID(Record, frozen=True, kw_only=True):
    """Id of a service."""

    id: str = ""


class ServiceConfigRequest(QueryOptions, frozen=True, kw_only=True):
    """Ask for the settings that config entries give a service and its upstreams."""

    name: str = ""
    datacenter: str = ""
    mesh_gateway: MeshGatewayConfig = MeshGatewayConfig()
    mode: str = ""
    upstreams: tuple[str, ...] | None = None
    upstream_ids: tuple[ServiceID, ...] | None = None


class OpaqueUpstreamConfig(Record, frozen=True, kw_only=True):
    """Settings of one upstream, as its proxy's configuration holds them."""

    upstream: ServiceID = ServiceID()
    config: dict[str, object] | None = None


class ServiceConfigResponse(QueryMeta, frozen=True, kw_only=True):
    """Reply of ``ConfigEntry.ResolveServiceConfig``; a string on the wire."""

    proxy_config: dict[str, object] | None = None
    upstream_configs: dict[str, dict[str, object]] | None = None
    upstream_id_configs: tuple[OpaqueUpstreamConfig, ...] | None = None
    mesh_gateway: MeshGatewayConfig = MeshGatewayConfig()
    expose: ExposeConfig = ExposeConfig()
    transparent_proxy: TransparentProxyConfig = TransparentProxyConfig()
    mode: str = ""
