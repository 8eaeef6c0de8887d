"""What an agent is told of its own services and checks, and what it shows of them.

Source: protocol/http-api.md §6.3, "Registration body", "AgentServiceOut", "Member".
"""

from collections.abc import Mapping
from typing import ClassVar

import msgspec

from isthmus.model.catalog import (
    ConnectProxyConfig,
    ExposeConfig,
    MeshGatewayConfig,
    NodeService,
    ServiceAddress,
    ServiceConnect,
    TransparentProxyConfig,
    Upstream,
    Weights,
)
from isthmus.model.record import Record, Uint
from isthmus.units import Duration

TTL = "ttl"
HTTP = "http"
TCP = "tcp"
GRPC = "grpc"
H2PING = "h2ping"
SCRIPT = "script"
DOCKER = "docker"
ALIAS = "alias"


class CheckDefinition(Record, frozen=True, kw_only=True):
    """A check as it is registered: what it is called, and how it is run.

    Attributes:
        check_id: Empty for one derived from the name or the service.
        status: First status; empty for critical.
        interval, timeout, ttl: Text or nanoseconds in JSON.
    """

    json_aliases: ClassVar[Mapping[str, str]] = {"id": "CheckID", "args": "ScriptArgs"}
    """Other names, in lower case, that a request may use for a field."""

    check_id: str = ""
    name: str = ""
    notes: str = ""
    service_id: str = ""
    token: str = ""
    status: str = ""
    script_args: tuple[str, ...] | None = None
    http: str = ""
    header: dict[str, tuple[str, ...]] | None = None
    method: str = ""
    body: str = ""
    disable_redirects: bool = False
    tcp: str = ""
    interval: Duration = Duration(0)
    docker_container_id: str = ""
    shell: str = ""
    grpc: str = ""
    grpc_use_tls: bool = False
    h2ping: str = ""
    tls_server_name: str = ""
    tls_skip_verify: bool = False
    alias_node: str = ""
    alias_service: str = ""
    timeout: Duration = Duration(0)
    ttl: Duration = Duration(0)
    success_before_passing: int = 0
    failures_before_warning: int = 0
    failures_before_critical: int = 0
    deregister_critical_service_after: Duration = Duration(0)
    output_max_size: int = 0

    @property
    def type(self) -> str:
        """Kind of the check, as the catalog names it; empty when nothing says how to run it."""
        kinds = (
            (self.grpc, GRPC),
            (self.http, HTTP),
            (self.ttl, TTL),
            (self.tcp, TCP),
            (self.alias_node or self.alias_service, ALIAS),
            (self.script_args and self.docker_container_id, DOCKER),
            (self.script_args, SCRIPT),
            (self.h2ping, H2PING),
        )
        return next((kind for given, kind in kinds if given), "")


class ServiceDefinition(Record, frozen=True, kw_only=True):
    """A service as it is registered with its agent.

    Attributes:
        checks: Besides `check`; both may be given.
        connect: Its `sidecar_service` holds another registration, as a plain dict.
    """

    kind: str = ""
    id: str = ""
    name: str = ""
    tags: tuple[str, ...] | None = None
    address: str = ""
    tagged_addresses: dict[str, ServiceAddress] | None = None
    meta: dict[str, str] | None = None
    port: int = 0
    socket_path: str = ""
    check: CheckDefinition | None = None
    checks: tuple[CheckDefinition, ...] | None = None
    weights: Weights | None = None
    token: str = ""
    enable_tag_override: bool = False
    proxy: ConnectProxyConfig | None = None
    connect: ServiceConnect | None = None


class AgentUpstream(Upstream, frozen=True, kw_only=True):
    """An upstream as its agent shows it: without what is empty."""

    json_omit_empty = Upstream.json_omit_empty | {"destination_type", "datacenter"}


class AgentProxy(Record, frozen=True, kw_only=True):
    """A proxy's configuration as its agent shows it: without what is empty."""

    json_omit_empty = frozenset(
        {
            "destination_service_name",
            "destination_service_id",
            "local_service_address",
            "local_service_port",
            "local_service_socket_path",
            "mode",
            "transparent_proxy",
            "config",
            "upstreams",
        }
    )
    filter_hidden = frozenset({"config"})

    destination_service_name: str = ""
    destination_service_id: str = ""
    local_service_address: str = ""
    local_service_port: int = 0
    local_service_socket_path: str = ""
    mode: str = ""
    transparent_proxy: TransparentProxyConfig | None = None
    config: dict[str, object] | None = None
    upstreams: tuple[AgentUpstream, ...] | None = None
    mesh_gateway: MeshGatewayConfig = MeshGatewayConfig()
    expose: ExposeConfig = ExposeConfig()


class AgentService(Record, frozen=True, kw_only=True):
    """A service as its agent shows it.

    Attributes:
        content_hash: Changes with the rest; shown only of a single service.
    """

    json_omit_empty = frozenset(
        {"kind", "socket_path", "tagged_addresses", "proxy", "connect", "content_hash"}
    )
    filter_hidden = frozenset({"content_hash", "datacenter"})

    kind: str = ""
    id: str = ""
    service: str = ""
    tags: tuple[str, ...] = ()
    meta: dict[str, str] = msgspec.field(default_factory=dict)
    port: int = 0
    address: str = ""
    socket_path: str = ""
    tagged_addresses: dict[str, ServiceAddress] | None = None
    weights: Weights = Weights(passing=1, warning=1)
    enable_tag_override: bool = False
    content_hash: str = ""
    proxy: AgentProxy | None = None
    connect: ServiceConnect | None = None
    datacenter: str = ""

    @classmethod
    def of(cls, service: NodeService, *, datacenter: str) -> "AgentService":
        """The view of a registered service, without content hash."""
        return cls(
            kind=service.kind,
            id=service.id,
            service=service.service,
            tags=service.tags or (),
            meta=service.meta or {},
            port=service.port,
            address=service.address,
            socket_path=service.socket_path,
            tagged_addresses=service.tagged_addresses or None,
            weights=service.weights or Weights(passing=1, warning=1),
            enable_tag_override=service.enable_tag_override,
            proxy=_agent_proxy(service.proxy) if service.kind else None,
            connect=service.connect if service.connect != ServiceConnect() else None,
            datacenter=datacenter,
        )


def _agent_upstream(upstream: Upstream) -> AgentUpstream:
    return AgentUpstream(**{name: getattr(upstream, name) for name in Upstream.__struct_fields__})


def _agent_proxy(proxy: ConnectProxyConfig) -> AgentProxy:
    transparent, upstreams = proxy.transparent_proxy, proxy.upstreams
    return AgentProxy(
        destination_service_name=proxy.destination_service_name,
        destination_service_id=proxy.destination_service_id,
        local_service_address=proxy.local_service_address,
        local_service_port=proxy.local_service_port,
        local_service_socket_path=proxy.local_service_socket_path,
        mode=proxy.mode,
        transparent_proxy=transparent if transparent != TransparentProxyConfig() else None,
        config=proxy.config,
        upstreams=None if upstreams is None else tuple(map(_agent_upstream, upstreams)),
        mesh_gateway=proxy.mesh_gateway,
        expose=proxy.expose,
    )


class CheckUpdate(Record, frozen=True, kw_only=True):
    """Body of ``/v1/agent/check/update/ID``."""

    status: str = ""
    output: str = ""


class Member(Record, frozen=True, kw_only=True):
    """A member of a gossip pool as the agent shows it.

    Attributes:
        status: 0 none, 1 alive, 2 leaving, 3 left, 4 failed.
    """

    name: str = ""
    addr: str = ""
    port: Uint = 0
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    status: int = 0
    protocol_min: Uint = 0
    protocol_max: Uint = 0
    protocol_cur: Uint = 0
    delegate_min: Uint = 0
    delegate_max: Uint = 0
    delegate_cur: Uint = 0
