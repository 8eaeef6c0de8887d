"""Nodes, services, checks, and the requests about them.

Source of fields and their order: protocol/rpc.md §6, protocol/http-api.md §7.
"""

from isthmus.model.query import QueryMeta, QueryOptions, QuerySource
from isthmus.model.record import Record, Uint
from isthmus.units import Duration

PASSING = "passing"
WARNING = "warning"
CRITICAL = "critical"
MAINTENANCE = "maintenance"
SERF_HEALTH = "serfHealth"
CONSUL_SERVICE = "consul"
"""Name and id of the service under which servers register themselves."""


class Node(Record, frozen=True, kw_only=True):
    """A machine in the catalog."""

    id: str = ""
    node: str = ""
    address: str = ""
    datacenter: str = ""
    tagged_addresses: dict[str, str] | None = None
    meta: dict[str, str] | None = None
    create_index: Uint = 0
    modify_index: Uint = 0


class ServiceAddress(Record, frozen=True, kw_only=True):
    """An address of a service under a tag such as ``wan``."""

    address: str = ""
    port: int = 0


class Weights(Record, frozen=True, kw_only=True):
    """DNS weights of a service instance by state."""

    passing: int = 0
    warning: int = 0


class MeshGatewayConfig(Record, frozen=True, kw_only=True):
    """How a proxy leaves its datacenter: ``""``, ``none``, ``local`` or ``remote``."""

    json_omit_empty = frozenset({"mode"})

    mode: str = ""


class ExposePath(Record, frozen=True, kw_only=True):
    """An HTTP path that a proxy exposes outside the mesh."""

    json_omit_empty = frozenset({"listener_port", "path", "local_path_port", "protocol"})

    listener_port: int = 0
    path: str = ""
    local_path_port: int = 0
    protocol: str = ""
    parsed_from_check: bool = False


class ExposeConfig(Record, frozen=True, kw_only=True):
    """What a proxy exposes outside the mesh."""

    json_omit_empty = frozenset({"checks", "paths"})

    checks: bool = False
    paths: tuple[ExposePath, ...] | None = None


class TransparentProxyConfig(Record, frozen=True, kw_only=True):
    """Transparent proxying of one proxy."""

    json_omit_empty = frozenset({"outbound_listener_port", "dialed_directly"})

    outbound_listener_port: int = 0
    dialed_directly: bool = False


class Upstream(Record, frozen=True, kw_only=True):
    """A service that a proxy dials for its application."""

    json_omit_empty = frozenset(
        {
            "destination_namespace",
            "local_bind_address",
            "local_bind_port",
            "local_bind_socket_path",
            "local_bind_socket_mode",
            "config",
            "ingress_hosts",
            "centrally_configured",
        }
    )
    filter_hidden = frozenset({"config", "ingress_hosts", "centrally_configured"})

    destination_type: str = ""
    destination_namespace: str = ""
    destination_name: str = ""
    datacenter: str = ""
    local_bind_address: str = ""
    local_bind_port: int = 0
    local_bind_socket_path: str = ""
    local_bind_socket_mode: str = ""
    config: dict[str, object] | None = None
    mesh_gateway: MeshGatewayConfig = MeshGatewayConfig()
    ingress_hosts: tuple[str, ...] | None = None
    centrally_configured: bool = False


class ConnectProxyConfig(Record, frozen=True, kw_only=True):
    """What a proxy stands for and how it behaves."""

    json_omit_empty = frozenset(
        {
            "destination_service_name",
            "destination_service_id",
            "local_service_address",
            "local_service_port",
            "local_service_socket_path",
            "config",
            "upstreams",
            "transparent_proxy",
        }
    )
    filter_hidden = frozenset({"config"})

    destination_service_name: str = ""
    destination_service_id: str = ""
    local_service_address: str = ""
    local_service_port: int = 0
    local_service_socket_path: str = ""
    mode: str = ""
    config: dict[str, object] | None = None
    upstreams: tuple[Upstream, ...] | None = None
    mesh_gateway: MeshGatewayConfig = MeshGatewayConfig()
    expose: ExposeConfig = ExposeConfig()
    transparent_proxy: TransparentProxyConfig = TransparentProxyConfig()


class ServiceConnect(Record, frozen=True, kw_only=True):
    """Whether a service speaks the mesh's TLS itself.

    ``sidecar_service`` is only ever set inside an agent's own registrations.
    """

    json_omit_empty = frozenset({"native", "sidecar_service"})
    filter_hidden = frozenset({"sidecar_service"})

    native: bool = False
    sidecar_service: dict[str, object] | None = None


class NodeService(Record, frozen=True, kw_only=True):
    """A service instance, as part of its node."""

    json_omit_empty = frozenset({"kind", "tagged_addresses", "port", "socket_path"})
    json_hidden = frozenset({"locally_registered_as_sidecar"})
    filter_hidden = frozenset({"locally_registered_as_sidecar"})

    kind: str = ""
    id: str = ""
    service: str = ""
    tags: tuple[str, ...] | None = None
    address: str = ""
    tagged_addresses: dict[str, ServiceAddress] | None = None
    meta: dict[str, str] | None = None
    port: int = 0
    socket_path: str = ""
    weights: Weights | None = None
    enable_tag_override: bool = False
    proxy: ConnectProxyConfig = ConnectProxyConfig()
    connect: ServiceConnect = ServiceConnect()
    locally_registered_as_sidecar: bool = False
    create_index: Uint = 0
    modify_index: Uint = 0


class ServiceNode(Record, frozen=True, kw_only=True):
    """A service instance with its node flattened in."""

    json_omit_empty = frozenset({"service_tagged_addresses"})

    id: str = ""
    node: str = ""
    address: str = ""
    datacenter: str = ""
    tagged_addresses: dict[str, str] | None = None
    node_meta: dict[str, str] | None = None
    service_kind: str = ""
    service_id: str = ""
    service_name: str = ""
    service_tags: tuple[str, ...] | None = None
    service_address: str = ""
    service_tagged_addresses: dict[str, ServiceAddress] | None = None
    service_weights: Weights = Weights()
    service_meta: dict[str, str] | None = None
    service_port: int = 0
    service_socket_path: str = ""
    service_enable_tag_override: bool = False
    service_proxy: ConnectProxyConfig = ConnectProxyConfig()
    service_connect: ServiceConnect = ServiceConnect()
    create_index: Uint = 0
    modify_index: Uint = 0


class HealthCheckDefinition(Record, frozen=True, kw_only=True):
    """How a check is run."""

    json_first = frozenset(
        {"interval", "output_max_size", "timeout", "deregister_critical_service_after"}
    )
    json_omit_empty = frozenset(
        {
            "http",
            "tls_server_name",
            "tls_skip_verify",
            "header",
            "method",
            "body",
            "disable_redirects",
            "tcp",
            "h2ping",
            "interval",
            "output_max_size",
            "timeout",
            "deregister_critical_service_after",
            "script_args",
            "docker_container_id",
            "shell",
            "grpc",
            "grpc_use_tls",
            "alias_node",
            "alias_service",
            "ttl",
        }
    )

    http: str = ""
    tls_server_name: str = ""
    tls_skip_verify: bool = False
    header: dict[str, tuple[str, ...]] | None = None
    method: str = ""
    body: str = ""
    disable_redirects: bool = False
    tcp: str = ""
    h2ping: str = ""
    interval: Duration = Duration(0)
    output_max_size: Uint = 0
    timeout: Duration = Duration(0)
    deregister_critical_service_after: Duration = Duration(0)
    script_args: tuple[str, ...] | None = None
    docker_container_id: str = ""
    shell: str = ""
    grpc: str = ""
    grpc_use_tls: bool = False
    alias_node: str = ""
    alias_service: str = ""
    ttl: Duration = Duration(0)

    @property
    def check_type(self) -> str:
        """What kind of check this defines; empty when it defines none that could be run."""
        runs = self.interval > 0
        kinds = {
            "grpc": self.grpc and runs,
            "http": self.http and runs,
            "ttl": self.ttl > 0,
            "tcp": self.tcp and runs,
            "alias": self.alias_node or self.alias_service,
            "docker": self.docker_container_id and self.script_args and runs,
            "script": self.script_args and runs,
            "h2ping": self.h2ping and runs,
        }
        return next((kind for kind, is_it in kinds.items() if is_it), "")


class HealthCheck(Record, frozen=True, kw_only=True):
    """A check of a node, or of one service of it."""

    filter_hidden = frozenset({"definition"})

    node: str = ""
    check_id: str = ""
    name: str = ""
    status: str = ""
    notes: str = ""
    output: str = ""
    service_id: str = ""
    service_name: str = ""
    service_tags: tuple[str, ...] | None = None
    type: str = ""
    interval: str = ""
    timeout: str = ""
    exposed_port: int = 0
    definition: HealthCheckDefinition = HealthCheckDefinition()
    create_index: Uint = 0
    modify_index: Uint = 0


class CheckServiceNode(Record, frozen=True, kw_only=True):
    """A service instance with its node and all checks that concern it."""

    node: Node | None = None
    service: NodeService | None = None
    checks: tuple[HealthCheck, ...] | None = None


class NodeServices(Record, frozen=True, kw_only=True):
    """A node and its services by id."""

    node: Node | None = None
    services: dict[str, NodeService] | None = None


class NodeServiceList(Record, frozen=True, kw_only=True):
    """A node and its services in order."""

    node: Node | None = None
    services: tuple[NodeService, ...] | None = None


class ServiceName(Record, frozen=True, kw_only=True):
    """Name of a service."""

    name: str = ""


class GatewayService(Record, frozen=True, kw_only=True):
    """A service bound to a gateway by a config entry."""

    json_omit_empty = frozenset(
        {"port", "protocol", "hosts", "ca_file", "cert_file", "key_file", "sni", "from_wildcard"}
    )

    gateway: ServiceName = ServiceName()
    service: ServiceName = ServiceName()
    gateway_kind: str = ""
    port: int = 0
    protocol: str = ""
    hosts: tuple[str, ...] | None = None
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    sni: str = ""
    from_wildcard: bool = False
    create_index: Uint = 0
    modify_index: Uint = 0


class RegisterRequest(Record, frozen=True, kw_only=True):
    """Put a node, and optionally a service and checks on it, into the catalog."""

    datacenter: str = ""
    id: str = ""
    node: str = ""
    address: str = ""
    tagged_addresses: dict[str, str] | None = None
    node_meta: dict[str, str] | None = None
    service: NodeService | None = None
    check: HealthCheck | None = None
    checks: tuple[HealthCheck, ...] | None = None
    skip_node_update: bool = False
    token: str = ""
    create_index: Uint = 0
    modify_index: Uint = 0


class DeregisterRequest(Record, frozen=True, kw_only=True):
    """Remove a service, a check, or the whole node when neither is named."""

    datacenter: str = ""
    node: str = ""
    service_id: str = ""
    check_id: str = ""
    token: str = ""


class DatacentersRequest(QueryOptions, frozen=True, kw_only=True):
    """Ask for the known datacenters; answered by whichever server is asked."""


class ServiceRequest(QueryOptions, frozen=True, kw_only=True):
    """Ask for instances of a service (Go: ``ServiceSpecificRequest``)."""

    datacenter: str = ""
    node_meta_filters: dict[str, str] | None = None
    service_name: str = ""
    service_kind: str = ""
    service_tag: str = ""
    service_tags: tuple[str, ...] | None = None
    service_address: str = ""
    tag_filter: bool = False
    source: QuerySource = QuerySource()
    connect: bool = False
    ingress: bool = False


class NodeRequest(QueryOptions, frozen=True, kw_only=True):
    """Ask about one node (Go: ``NodeSpecificRequest``)."""

    datacenter: str = ""
    node: str = ""


class ChecksInStateRequest(QueryOptions, frozen=True, kw_only=True):
    """Ask for all checks in a state; ``any`` for all."""

    datacenter: str = ""
    node_meta_filters: dict[str, str] | None = None
    state: str = ""
    source: QuerySource = QuerySource()


class ServiceDumpRequest(QueryOptions, frozen=True, kw_only=True):
    """Ask for all service instances, or with `use_service_kind` those of one kind."""

    datacenter: str = ""
    service_kind: str = ""
    use_service_kind: bool = False
    source: QuerySource = QuerySource()


class IndexedNodes(QueryMeta, frozen=True, kw_only=True):
    """Reply of ``Catalog.ListNodes``."""

    nodes: tuple[Node, ...] | None = None


class IndexedServices(QueryMeta, frozen=True, kw_only=True):
    """Reply of ``Catalog.ListServices``: tags by service name."""

    services: dict[str, tuple[str, ...]] | None = None


class IndexedServiceList(QueryMeta, frozen=True, kw_only=True):
    """Reply of ``Catalog.ServiceList``."""

    services: tuple[ServiceName, ...] | None = None


class IndexedServiceNodes(QueryMeta, frozen=True, kw_only=True):
    """Reply of ``Catalog.ServiceNodes``."""

    service_nodes: tuple[ServiceNode, ...] | None = None


class IndexedNodeServices(QueryMeta, frozen=True, kw_only=True):
    """Reply of ``Catalog.NodeServices``."""

    node_services: NodeServices | None = None


class IndexedNodeServiceList(QueryMeta, frozen=True, kw_only=True):
    """Reply of ``Catalog.NodeServiceList``."""

    node_services: NodeServiceList = NodeServiceList()


class IndexedGatewayServices(QueryMeta, frozen=True, kw_only=True):
    """Reply of ``Catalog.GatewayServices``."""

    services: tuple[GatewayService, ...] | None = None


class IndexedHealthChecks(QueryMeta, frozen=True, kw_only=True):
    """Reply of the ``Health`` calls that list checks."""

    health_checks: tuple[HealthCheck, ...] | None = None


class IndexedCheckServiceNodes(QueryMeta, frozen=True, kw_only=True):
    """Reply of ``Health.ServiceNodes``."""

    nodes: tuple[CheckServiceNode, ...] | None = None


class NodeInfo(Record, frozen=True, kw_only=True):
    """A node with its services and all its checks, as operators look at it."""

    id: str = ""
    node: str = ""
    address: str = ""
    tagged_addresses: dict[str, str] | None = None
    meta: dict[str, str] | None = None
    services: tuple[NodeService, ...] | None = None
    checks: tuple[HealthCheck, ...] | None = None


class IndexedNodeDump(QueryMeta, frozen=True, kw_only=True):
    """Reply of ``Internal.NodeInfo`` and ``Internal.NodeDump``."""

    dump: tuple[NodeInfo, ...] | None = None


class IndexedNodesWithGateways(QueryMeta, frozen=True, kw_only=True):
    """Reply of ``Internal.ServiceDump``."""

    nodes: tuple[CheckServiceNode, ...] | None = None
    gateways: tuple[GatewayService, ...] | None = None
