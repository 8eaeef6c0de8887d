"""What an agent is told: one frozen record per component, complete with defaults.

Lengths of time are seconds, sizes are bytes. Only `config/` knows the keys, files and flags behind
these fields; `isthmus.config.keys` has the table. Components receive their own record.

Source of the defaults: protocol/cli-config-dns.md §2.3.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from isthmus import names

if TYPE_CHECKING:
    from isthmus.model.watch_definition import WatchDefinition

Definition = Mapping[str, Any]
"""A service or check definition with the field names of the HTTP API's registration."""

OFF: Final = -1
"""Port that is not opened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressConfig:
    """Where the agent listens and what others are told to dial.

    All templates are expanded. `http`, `https`, `dns` and `grpc` may hold ``unix:///path``.

    Attributes:
        bind: Server RPC, and what the others fall back to.
        serf_lan: LAN gossip listens here; `bind` unless configured.
        serf_wan: WAN gossip listens here; `bind` unless configured.
        advertise: What agents of this datacenter dial.
        advertise_wan: What WAN gossip carries; `advertise` unless configured.
        client: Default of the four below.
        tagged: Addresses by tag (``lan``, ``lan_ipv4``, ``wan``, …) as the catalog stores them.
    """

    bind: str = "0.0.0.0"
    serf_lan: str = "0.0.0.0"
    serf_wan: str = "0.0.0.0"
    advertise: str = "127.0.0.1"
    advertise_wan: str = "127.0.0.1"
    client: tuple[str, ...] = ("127.0.0.1",)
    http: tuple[str, ...] = ("127.0.0.1",)
    https: tuple[str, ...] = ("127.0.0.1",)
    dns: tuple[str, ...] = ("127.0.0.1",)
    grpc: tuple[str, ...] = ("127.0.0.1",)
    tagged: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PortConfig:
    """Ports; `OFF` for those that are not opened."""

    dns: int = 8600
    http: int = names.HTTP_PORT
    https: int = OFF
    grpc: int = OFF
    serf_lan: int = names.SERF_LAN_PORT
    serf_wan: int = names.SERF_WAN_PORT
    server: int = names.SERVER_PORT
    sidecar_min: int = 21000
    sidecar_max: int = 21255
    expose_min: int = 21500
    expose_max: int = 21755


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectConfig:
    """Service mesh, and federation through its gateways.

    Attributes:
        enabled: The mesh is on.
        mesh_gateway_wan_federation: Other datacenters are reached through mesh gateways only.
        primary_gateways: ``host:port`` each; how a secondary finds the primary at first. Host
            names are kept, so that they can be resolved anew.
        primary_gateways_interval: Between two attempts to find them.
        ca_provider: Name of the certificate authority's provider.
        ca_config: Its settings, as written.
    """

    enabled: bool = False
    mesh_gateway_wan_federation: bool = False
    primary_gateways: tuple[str, ...] = ()
    primary_gateways_interval: float = 30.0
    ca_provider: str = ""
    ca_config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinConfig:
    """Who to join at start. `retry_max` 0: never give up."""

    start_join: tuple[str, ...] = ()
    start_join_wan: tuple[str, ...] = ()
    retry_join: tuple[str, ...] = ()
    retry_join_wan: tuple[str, ...] = ()
    retry_interval: float = 30.0
    retry_interval_wan: float = 30.0
    retry_max: int = 0
    retry_max_wan: int = 0
    rejoin_after_leave: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GossipTimers:
    """Pace of one gossip pool. The defaults are those of a LAN."""

    gossip_interval: float = 0.2
    gossip_nodes: int = 3
    probe_interval: float = 1.0
    probe_timeout: float = 0.5
    suspicion_mult: int = 4
    retransmit_mult: int = 4

    @classmethod
    def wan(cls) -> "GossipTimers":
        """Between datacenters."""
        return cls(gossip_interval=0.5, probe_interval=5.0, probe_timeout=3.0, suspicion_mult=6)

    @classmethod
    def dev(cls) -> "GossipTimers":
        """One machine, one developer."""
        return cls(gossip_interval=0.1, probe_interval=0.1, probe_timeout=0.1, suspicion_mult=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageConfig:
    """Where the datacenter's data is kept. Times in seconds, sizes in bytes.

    Attributes:
        engine: ``auto``, ``sqlite``, ``etcd`` or ``memory``.
        endpoints: An etcd that somebody else runs; empty: the servers run one.
        ca_file, cert_file, key_file, username, password: How to reach that one.
        prefix: What our keys there start with; empty: ``/isthmus/DATACENTER/``.
        lease_ttl: How long the leadership of a server that is gone lasts there.
        max_txn_ops, max_request_bytes: What it allows.
        etcd_binary: Program of the etcd that the servers run.
        peer_port: Its port for the other servers.
        client_port: Its port for us.
        heartbeat_interval, election_timeout: Its pace.
        quota_bytes: How large its database may get.
        snapshot_size_max: Largest snapshot that is taken in.
    """

    engine: str = "auto"
    endpoints: tuple[str, ...] = ()
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    prefix: str = ""
    lease_ttl: float = 10.0
    max_txn_ops: int = 128  # etcd's default.
    max_request_bytes: int = 1_572_864  # etcd's default.
    etcd_binary: str = "etcd"
    peer_port: int = 8304
    client_port: int = 8305
    heartbeat_interval: float = 0.1
    election_timeout: float = 1.0
    quota_bytes: int = 8 * 1024**3
    snapshot_size_max: int = 4 * 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class AutopilotConfig:
    """What holds for servers that come and go until an operator sets it. Times in seconds.

    Attributes:
        cleanup_dead_servers: Failed servers are removed from the storage.
        last_contact_threshold: Longest time without word of the leader of a healthy server.
        max_trailing_logs: Most writes that a healthy server is behind.
        min_quorum: No failed server is removed below so many.
        server_stabilization_time: A new server votes after it has been healthy for so long.
    """

    cleanup_dead_servers: bool = True
    last_contact_threshold: float = 0.2
    max_trailing_logs: int = 250
    min_quorum: int = 0
    server_stabilization_time: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GossipConfig:
    """Both pools.

    Attributes:
        encrypt: Base64 of the gossip key; empty for none. Never logged.
        encrypt_verify_incoming: Plain packets are refused (off while switching encryption on).
        encrypt_verify_outgoing: We encrypt what we send.
        disable_coordinates: Neither pool estimates where its members lie.
        reconnect_timeout_lan: A failed member is forgotten after this.
        reconnect_timeout_wan: The same in the WAN pool.
        serf_lan_allowed_cidrs: Members with other addresses are refused; empty: none are.
        serf_wan_allowed_cidrs: The same in the WAN pool.
        advertise_reconnect_timeout: A client is forgotten after this instead; 0: as the others say.
        disable_keyring_file: Keys are kept in memory only.
    """

    lan: GossipTimers = field(default_factory=GossipTimers)
    wan: GossipTimers = field(default_factory=GossipTimers.wan)
    encrypt: str = field(default="", repr=False)
    encrypt_verify_incoming: bool = True
    encrypt_verify_outgoing: bool = True
    disable_keyring_file: bool = False
    disable_coordinates: bool = False
    reconnect_timeout_lan: float = 259200.0
    reconnect_timeout_wan: float = 259200.0
    serf_lan_allowed_cidrs: tuple[str, ...] = ()
    serf_wan_allowed_cidrs: tuple[str, ...] = ()
    advertise_reconnect_timeout: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """TLS of the server port and of HTTPS. Paths are as written; empty for none.

    Attributes:
        verify_incoming: Clients of every TLS door show a certificate of our CA.
        verify_server_hostname: The server we dial carries ``server.<dc>.<domain>``.
        allow_client_certificates_rpc: Any certificate of our CA may act as a server.
        server_name: Overrides the node name in our own certificates' expected names.
        min_version: ``tls10`` … ``tls13``.
        cipher_suites: Names; empty for the library's choice.
    """

    ca_file: str = ""
    ca_path: str = ""
    cert_file: str = ""
    key_file: str = ""
    verify_incoming: bool = False
    verify_incoming_rpc: bool = False
    verify_incoming_https: bool = False
    verify_outgoing: bool = False
    verify_server_hostname: bool = False
    allow_client_certificates_rpc: bool = False
    server_name: str = ""
    min_version: str = "tls12"
    cipher_suites: tuple[str, ...] = ()
    prefer_server_cipher_suites: bool = False
    enable_agent_tls_for_checks: bool = False

    @property
    def configured(self) -> bool:
        """Whether there is a CA and a key pair: what talking to another datacenter needs."""
        return bool((self.ca_file or self.ca_path) and self.cert_file and self.key_file)

    @property
    def requires_rpc_client_certificate(self) -> bool:
        """Whether who dials the server port shows a certificate."""
        return self.verify_incoming or self.verify_incoming_rpc

    @property
    def requires_https_client_certificate(self) -> bool:
        """Whether who dials the HTTPS port shows a certificate."""
        return self.verify_incoming or self.verify_incoming_https


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformanceConfig:
    """How patient calls are."""

    raft_multiplier: int = 5
    rpc_hold_timeout: float = 7.0
    leave_drain_time: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitConfig:
    """Upper bounds at the doors. `rpc_rate` below 0: unlimited."""

    http_max_conns_per_client: int = 200
    https_handshake_timeout: float = 5.0
    rpc_handshake_timeout: float = 5.0
    rpc_max_conns_per_client: int = 100
    rpc_rate: float = -1.0
    rpc_max_burst: int = 1000
    kv_max_value_size: int = 524288
    txn_max_req_len: int = 524288


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveConfig:
    """Which signal makes us leave the pools before we stop.

    Attributes:
        on_terminate: SIGTERM leaves; default: clients do, servers do not.
        skip_on_interrupt: SIGINT does not leave; default: servers do not, clients do.
    """

    on_terminate: bool = False
    skip_on_interrupt: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """Log. `level` is one of TRACE, DEBUG, INFO, WARN, ERR."""

    level: str = "INFO"
    json: bool = False
    file: str = ""
    rotate_bytes: int = 0
    rotate_duration: float = 86400.0
    rotate_max_files: int = 0
    enable_syslog: bool = False
    syslog_facility: str = "LOCAL0"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig:
    """The HTTP door.

    Attributes:
        discovery_max_stale: How old data may be that discovery reads show; 0: it is the leader's.
        pretty: Answers are indented without being asked (``-dev``).
        unix_socket_mode: Permissions of unix sockets in octal, as text; empty for the umask's.
    """

    response_headers: Mapping[str, str] = field(default_factory=dict)
    block_endpoints: tuple[str, ...] = ()
    allow_write_http_from: tuple[str, ...] = ()
    use_cache: bool = True
    default_query_time: float = 300.0
    max_query_time: float = 600.0
    discovery_max_stale: float = 0.0
    pretty: bool = False
    unix_socket_user: str = ""
    unix_socket_group: str = ""
    unix_socket_mode: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsConfig:
    """The DNS door."""

    recursors: tuple[str, ...] = ()
    allow_stale: bool = True
    max_stale: float = 315360000.0
    node_ttl: float = 0.0
    service_ttl: Mapping[str, float] = field(default_factory=dict)
    only_passing: bool = False
    enable_truncate: bool = False
    a_record_limit: int = 0
    udp_answer_limit: int = 3
    disable_compression: bool = False
    recursor_timeout: float = 2.0
    enable_additional_node_meta_txt: bool = True
    use_cache: bool = False
    cache_max_age: float = 0.0
    soa_refresh: int = 3600
    soa_retry: int = 600
    soa_expire: int = 86400
    soa_min_ttl: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryConfig:
    """Metrics."""

    prometheus_retention_time: float = 0.0
    metrics_prefix: str = "consul"
    statsd_address: str = ""
    dogstatsd_addr: str = ""
    dogstatsd_tags: tuple[str, ...] = ()
    prefix_filter: tuple[str, ...] = ()
    filter_default: bool = True
    disable_hostname: bool = False
    disable_compat_1_9: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class UiConfig:
    """The web user interface."""

    enabled: bool = False
    dir: str = ""
    content_path: str = "/ui/"
    metrics_provider: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckConfig:
    """How health checks run."""

    enable_local_script_checks: bool = False
    enable_remote_script_checks: bool = False
    update_interval: float = 300.0
    output_max_size: int = 4096
    discard_output: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AclConfig:
    """Access control. `load` refuses `enabled`: this release would not enforce it."""

    enabled: bool = False
    default_policy: str = "allow"
    down_policy: str = "extend-cache"
    tokens: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """Everything an agent is told, checked as a whole by `isthmus.config.load`.

    Attributes:
        datacenter: Ours, in lower case.
        primary_datacenter: The one that owns the federation states; ours if none was named.
        node_name: The host's name unless configured.
        node_id: A UUID, or empty: then the agent keeps one in `data_dir`.
        domain: Without the dot at the end.
        alt_domain: A second domain, or empty.
        data_dir: None only with `dev`.
        bootstrap_expect: Servers that make up a new datacenter; 0 if not said.
        dev: Everything in memory, for one developer.
        enable_debug: Stacks, profile and memory are shown over HTTP.
        session_ttl_min: Shortest time to live of a session.
        services: Definitions of local services, fields named as the HTTP API names them.
        checks: Definitions of local checks, the same.
        watches: What is watched, and who is told of changes.
        warnings: What an operator should read in the log at start.
        origins: Key as written in files to where it was set; what stands at its default is absent.
    """

    datacenter: str = "dc1"
    primary_datacenter: str = "dc1"
    node_name: str = ""
    node_id: str = ""
    node_meta: Mapping[str, str] = field(default_factory=dict)
    domain: str = "consul"
    alt_domain: str = ""
    data_dir: Path | None = None
    server: bool = False
    bootstrap: bool = False
    bootstrap_expect: int = 0
    dev: bool = False
    addresses: AddressConfig = field(default_factory=AddressConfig)
    ports: PortConfig = field(default_factory=PortConfig)
    connect: ConnectConfig = field(default_factory=ConnectConfig)
    join: JoinConfig = field(default_factory=JoinConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    autopilot: AutopilotConfig = field(default_factory=AutopilotConfig)
    gossip: GossipConfig = field(default_factory=GossipConfig)
    tls: TlsConfig = field(default_factory=TlsConfig)
    performance: PerformanceConfig = field(default_factory=PerformanceConfig)
    limits: LimitConfig = field(default_factory=LimitConfig)
    leave: LeaveConfig = field(default_factory=LeaveConfig)
    log: LogConfig = field(default_factory=LogConfig)
    http: HttpConfig = field(default_factory=HttpConfig)
    dns: DnsConfig = field(default_factory=DnsConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
    ui: UiConfig = field(default_factory=UiConfig)
    check: CheckConfig = field(default_factory=CheckConfig)
    acl: AclConfig = field(default_factory=AclConfig)
    session_ttl_min: float = 10.0
    translate_wan_addrs: bool = False
    pid_file: str = ""
    enable_debug: bool = False
    services: tuple[Definition, ...] = ()
    checks: tuple[Definition, ...] = ()
    watches: "tuple[WatchDefinition, ...]" = ()
    warnings: tuple[str, ...] = ()
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def storage_engine(self) -> str:
        """Which engine keeps the data: ``memory``, ``sqlite`` or ``etcd``."""
        if self.storage.engine != "auto":
            return self.storage.engine
        if self.dev:
            return "memory"
        alone = self.bootstrap or self.bootstrap_expect == 1
        return "sqlite" if alone and not self.storage.endpoints else "etcd"

    @property
    def primary(self) -> bool:
        """Whether ours is the primary datacenter."""
        return self.datacenter == self.primary_datacenter
