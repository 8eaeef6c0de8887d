"""The one table of configuration keys: key → kind, field, default, release, tier.

The default of a key is the default of its field in `isthmus.config.model`. The reference page
``docs/configuration.md`` and the agent's flags are made from this table.

Source: protocol/cli-config-dns.md §2.1 and §2.3; protocol/federation.md §2.
"""

# ruff: noqa: E501 -- a table is read by its rows: one line for each key, however long.

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from isthmus.config.kinds import (
    ADDRESS,
    ADDRESSES,
    BOOL,
    CIDRS,
    DURATION,
    DURATION_MAP,
    FLOAT,
    INT,
    OBJECT,
    OBJECTS,
    PORT,
    SECRET,
    TEXT,
    TEXT_MAP,
    TEXTS,
    Kind,
)

RELEASE: Final = "0.1"


@dataclass(frozen=True, slots=True)
class Key:
    """One configuration key.

    Attributes:
        name: As written in files; sections are joined by dots.
        kind: How it is read and merged.
        field: Where it goes in `AgentConfig`, dotted; empty: it is checked and dropped.
        about: What it does, one line.
        flag: Command line flag without its dash; empty for none.
        since: Release of isthmus that first acts on it; empty: accepted, with a warning.
        tier: 1 must work, 2 users expect it, 3 rare or for Consul's enterprise edition.
        positive: A value of 0 or less is a mistake.
    """

    name: str
    kind: Kind
    field: str
    about: str
    flag: str = ""
    since: str = RELEASE
    tier: int = 1
    positive: bool = False


def _key(
    name: str, kind: Kind, field: str, about: str, flag: str = "", *, positive: bool = False
) -> Key:
    return Key(name, kind, field, about, flag, positive=positive)


def _later(
    name: str,
    kind: Kind,
    field: str,
    about: str,
    flag: str = "",
    *,
    tier: int = 2,
) -> Key:
    return Key(name, kind, field, about, flag, since="", tier=tier)


def _rare(name: str, kind: Kind, about: str, flag: str = "") -> Key:
    return Key(name, kind, "", about, flag, since="", tier=3)


# fmt: off
_IDENTITY: Final = (
    _key("server", BOOL, "server", "The agent is a server.", "server"),
    _key("bootstrap", BOOL, "bootstrap", "This server elects itself.", "bootstrap"),
    _key("bootstrap_expect", INT, "bootstrap_expect", "Servers that make up a new datacenter.", "bootstrap-expect"),
    _key("datacenter", TEXT, "datacenter", "Our datacenter; lower case letters, digits, - and _.", "datacenter"),
    _key("primary_datacenter", TEXT, "primary_datacenter", "The datacenter that owns federation states; the same everywhere. Default: ours."),
    _key("node_name", TEXT, "node_name", "Name of this node. Default: the host's name.", "node"),
    _key("node_id", TEXT, "node_id", "UUID of this node. Default: made once and kept in the data directory.", "node-id"),
    _key("node_meta", TEXT_MAP, "node_meta", "Pairs stored with the node in the catalog.", "node-meta"),
    _key("data_dir", TEXT, "data_dir", "Where the agent keeps its data; required without -dev.", "data-dir"),
    _key("domain", TEXT, "domain", "Domain of server names in certificates and of DNS.", "domain"),
    _key("alt_domain", TEXT, "alt_domain", "A second DNS domain.", "alt-domain"),
    _key("pid_file", TEXT, "pid_file", "File the process id is written to.", "pid-file"),
    _key("translate_wan_addrs", BOOL, "translate_wan_addrs", "Answers about other datacenters show their WAN addresses."),
)
_ADDRESSES: Final = (
    _key("bind_addr", ADDRESS, "addresses.bind", "Where the server port and gossip listen.", "bind"),
    _key("client_addr", ADDRESSES, "addresses.client", "Where HTTP, DNS and gRPC listen; several are parted by spaces.", "client"),
    _key("advertise_addr", ADDRESS, "addresses.advertise", "What other agents dial. Default: bind_addr, or the only private IPv4 address.", "advertise"),
    _key("advertise_addr_wan", ADDRESS, "addresses.advertise_wan", "What WAN gossip carries. Default: advertise_addr.", "advertise-wan"),
    _key("advertise_addr_ipv4", ADDRESS, "", "IPv4 address in tagged addresses; advertise_addr if that is missing."),
    _key("advertise_addr_ipv6", ADDRESS, "", "IPv6 address in tagged addresses."),
    _key("advertise_addr_wan_ipv4", ADDRESS, "", "IPv4 WAN address in tagged addresses; advertise_addr_wan if that is missing."),
    _key("advertise_addr_wan_ipv6", ADDRESS, "", "IPv6 WAN address in tagged addresses."),
    _key("tagged_addresses", TEXT_MAP, "", "More addresses of the node by tag."),
    _key("serf_lan", ADDRESS, "addresses.serf_lan", "Where LAN gossip listens. Default: bind_addr.", "serf-lan-bind"),
    _key("serf_wan", ADDRESS, "addresses.serf_wan", "Where WAN gossip listens. Default: bind_addr.", "serf-wan-bind"),
    _key("addresses.http", ADDRESSES, "addresses.http", "Where HTTP listens; unix:///path too. Default: client_addr."),
    _key("addresses.https", ADDRESSES, "addresses.https", "Where HTTPS listens. Default: client_addr."),
    _key("addresses.dns", ADDRESSES, "addresses.dns", "Where DNS listens. Default: client_addr."),
    _later("addresses.grpc", ADDRESSES, "addresses.grpc", "Where gRPC (xDS) listens. Default: client_addr.", tier=1),
    _key("ports.http", PORT, "ports.http", "HTTP port; -1 is off.", "http-port"),
    _key("ports.https", PORT, "ports.https", "HTTPS port; -1 is off.", "https-port"),
    _key("ports.dns", PORT, "ports.dns", "DNS port; -1 is off.", "dns-port"),
    _later("ports.grpc", PORT, "ports.grpc", "gRPC (xDS) port; -1 is off.", "grpc-port", tier=1),
    _key("ports.serf_lan", PORT, "ports.serf_lan", "LAN gossip port.", "serf-lan-port"),
    _key("ports.serf_wan", PORT, "ports.serf_wan", "WAN gossip port; -1: no WAN pool.", "serf-wan-port"),
    _key("ports.server", PORT, "ports.server", "Server port: RPC, and what gateways forward.", "server-port"),
    _key("ports.sidecar_min_port", PORT, "ports.sidecar_min", "First port for sidecar proxies."),
    _key("ports.sidecar_max_port", PORT, "ports.sidecar_max", "Last port for sidecar proxies."),
    _later("ports.expose_min_port", PORT, "ports.expose_min", "First port for exposed checks."),
    _later("ports.expose_max_port", PORT, "ports.expose_max", "Last port for exposed checks."),
    _rare("ports.proxy_min_port", PORT, "First port for managed proxies, which are no more."),
    _rare("ports.proxy_max_port", PORT, "Last port for managed proxies, which are no more."),
)
_FEDERATION: Final = (
    _key("connect.enabled", BOOL, "connect.enabled", "The service mesh; needed for federation through gateways."),
    _key("connect.enable_mesh_gateway_wan_federation", BOOL, "connect.mesh_gateway_wan_federation", "Other datacenters are reached through mesh gateways only; on every server of every datacenter."),
    _key("primary_gateways", TEXTS, "connect.primary_gateways", "host:port of the primary's gateways; on servers of secondary datacenters.", "primary-gateway"),
    _key("primary_gateways_interval", DURATION, "connect.primary_gateways_interval", "Between two attempts to find the primary's gateways.", positive=True),
    _later("connect.ca_provider", TEXT, "connect.ca_provider", "Provider of the mesh's certificate authority.", tier=1),
    _key("connect.ca_config", OBJECT, "connect.ca_config", "Settings of that provider; `cluster_id` is the mesh's trust domain, the rest waits."),
    _key("start_join", TEXTS, "join.start_join", "Addresses to join once at start; the agent stops if none answers.", "join"),
    _key("start_join_wan", TEXTS, "join.start_join_wan", "The same for the WAN pool; not with federation through gateways.", "join-wan"),
    _key("retry_join", TEXTS, "join.retry_join", "Addresses to join, again and again until one answers.", "retry-join"),
    _key("retry_join_wan", TEXTS, "join.retry_join_wan", "The same for the WAN pool; not with federation through gateways.", "retry-join-wan"),
    _key("retry_interval", DURATION, "join.retry_interval", "Between two attempts.", "retry-interval", positive=True),
    _key("retry_interval_wan", DURATION, "join.retry_interval_wan", "The same for the WAN pool.", "retry-interval-wan", positive=True),
    _key("retry_max", INT, "join.retry_max", "Attempts, an interval apart, before the agent stops; 0: no limit.", "retry-max"),
    _key("retry_max_wan", INT, "join.retry_max_wan", "The same for the WAN pool.", "retry-max-wan"),
    _key("rejoin_after_leave", BOOL, "join.rejoin_after_leave", "An agent that left joins the members it knew again at its next start.", "rejoin"),
    _key("leave_on_terminate", BOOL, "leave.on_terminate", "SIGTERM leaves the pools. Default: true on clients."),
    _key("skip_leave_on_interrupt", BOOL, "leave.skip_on_interrupt", "SIGINT does not leave the pools. Default: true on servers."),
)
_STORAGE: Final = (
    _key("storage.engine", TEXT, "storage.engine", "Where data is kept: sqlite (one server), etcd (several), memory; auto: sqlite with bootstrap, etcd otherwise."),
    _key("storage.endpoints", TEXTS, "storage.endpoints", "An etcd of your own, host:port each; empty: the servers run one themselves."),
    _key("storage.ca_file", TEXT, "storage.ca_file", "Certificates that your etcd must have been issued by; empty: clear text."),
    _key("storage.cert_file", TEXT, "storage.cert_file", "Our certificate for your etcd."),
    _key("storage.key_file", TEXT, "storage.key_file", "Its key."),
    _key("storage.username", TEXT, "storage.username", "Of your etcd's access control."),
    _key("storage.password", SECRET, "storage.password", "Its password."),
    _key("storage.prefix", TEXT, "storage.prefix", "What our keys in your etcd start with. Default: /isthmus/DATACENTER/."),
    _key("storage.lease_ttl", DURATION, "storage.lease_ttl", "With your etcd: a leader that is gone is replaced after this.", positive=True),
    _key("storage.max_txn_ops", INT, "storage.max_txn_ops", "What your etcd allows in one transaction (its --max-txn-ops).", positive=True),
    _key("storage.max_request_bytes", INT, "storage.max_request_bytes", "What your etcd allows in one request (its --max-request-bytes).", positive=True),
    _key("storage.etcd.binary", TEXT, "storage.etcd_binary", "The etcd that the servers run: a name in PATH, or a path."),
    _key("storage.etcd.peer_port", PORT, "storage.peer_port", "Where it listens for the other servers, on advertise_addr."),
    _key("storage.etcd.client_port", PORT, "storage.client_port", "Where it listens on 127.0.0.1, for operators; we use a socket beside its data if its path is short enough."),
    _key("storage.etcd.heartbeat_interval", DURATION, "storage.heartbeat_interval", "Between two signs of life of its leader; one round trip between the servers is right.", positive=True),
    _key("storage.etcd.election_timeout", DURATION, "storage.election_timeout", "Without a sign of life for so long another leads; at least 5 heartbeats.", positive=True),
    _key("storage.snapshot_size_max", INT, "storage.snapshot_size_max", "Largest snapshot, in bytes, that is taken in to be restored or imported.", positive=True),
    _key("storage.etcd.quota_bytes", INT, "storage.quota_bytes", "How large its database may get.", positive=True),
)
_AUTOPILOT: Final = (
    _key("autopilot.cleanup_dead_servers", BOOL, "autopilot.cleanup_dead_servers", "Servers that have failed for half a minute are removed from the storage. Holds, as the others here, until an operator sets it: isthmus operator autopilot set-config."),
    _key("autopilot.last_contact_threshold", DURATION, "autopilot.last_contact_threshold", "Longest time without word of the leader of a healthy server; at least 1s counts.", positive=True),
    _key("autopilot.max_trailing_logs", INT, "autopilot.max_trailing_logs", "Most writes that a healthy server is behind."),
    _key("autopilot.min_quorum", INT, "autopilot.min_quorum", "No failed server is removed below so many."),
    _key("autopilot.server_stabilization_time", DURATION, "autopilot.server_stabilization_time", "How long a new server must be healthy before it votes."),
)
_GOSSIP: Final = (
    _key("encrypt", SECRET, "gossip.encrypt", "Gossip key for the first start: 16, 24 or 32 bytes in base64 (isthmus keygen). Once there is a keyring file, that counts.", "encrypt"),
    _key("encrypt_verify_incoming", BOOL, "gossip.encrypt_verify_incoming", "Plain gossip is refused."),
    _key("encrypt_verify_outgoing", BOOL, "gossip.encrypt_verify_outgoing", "Gossip that we send is encrypted."),
    _key("disable_keyring_file", BOOL, "gossip.disable_keyring_file", "Gossip keys are not kept in the data directory: each start begins with encrypt.", "disable-keyring-file"),
    _key("disable_coordinates", BOOL, "gossip.disable_coordinates", "No network coordinates: round trips are not estimated, `near` sorts nothing."),
    _key("gossip_lan.gossip_interval", DURATION, "gossip.lan.gossip_interval", "Between two rounds of gossip.", positive=True),
    _key("gossip_lan.gossip_nodes", INT, "gossip.lan.gossip_nodes", "Members per round.", positive=True),
    _key("gossip_lan.probe_interval", DURATION, "gossip.lan.probe_interval", "Between two probes.", positive=True),
    _key("gossip_lan.probe_timeout", DURATION, "gossip.lan.probe_timeout", "Wait for an answer.", positive=True),
    _key("gossip_lan.suspicion_mult", INT, "gossip.lan.suspicion_mult", "Patience with suspects.", positive=True),
    _key("gossip_lan.retransmit_mult", INT, "gossip.lan.retransmit_mult", "How often rumours are repeated.", positive=True),
    _key("gossip_wan.gossip_interval", DURATION, "gossip.wan.gossip_interval", "The same between datacenters.", positive=True),
    _key("gossip_wan.gossip_nodes", INT, "gossip.wan.gossip_nodes", "Members per round.", positive=True),
    _key("gossip_wan.probe_interval", DURATION, "gossip.wan.probe_interval", "Between two probes.", positive=True),
    _key("gossip_wan.probe_timeout", DURATION, "gossip.wan.probe_timeout", "Wait for an answer.", positive=True),
    _key("gossip_wan.suspicion_mult", INT, "gossip.wan.suspicion_mult", "Patience with suspects.", positive=True),
    _key("gossip_wan.retransmit_mult", INT, "gossip.wan.retransmit_mult", "How often rumours are repeated.", positive=True),
    _key("reconnect_timeout", DURATION, "gossip.reconnect_timeout_lan", "A failed member is forgotten after this; at least 8h."),
    _key("reconnect_timeout_wan", DURATION, "gossip.reconnect_timeout_wan", "The same in the WAN pool."),
    _key("serf_lan_allowed_cidrs", CIDRS, "gossip.serf_lan_allowed_cidrs", "Networks that LAN members may have addresses of; all others are refused. Default: any.", "serf-lan-allowed-cidrs"),
    _key("serf_wan_allowed_cidrs", CIDRS, "gossip.serf_wan_allowed_cidrs", "The same for the WAN pool.", "serf-wan-allowed-cidrs"),
    _key("advertise_reconnect_timeout", DURATION, "gossip.advertise_reconnect_timeout", "On clients: the others forget us after this, instead of after their own reconnect_timeout.", positive=True),
    _key("disable_remote_exec", BOOL, "", "Accepted for Consul's sake: isthmus runs no commands that an event brings, whatever this says."),
)
_TLS: Final = (
    _key("ca_file", TEXT, "tls.ca_file", "Certificates of the agents' CA, PEM."),
    _key("ca_path", TEXT, "tls.ca_path", "Directory of such files."),
    _key("cert_file", TEXT, "tls.cert_file", "Our certificate, PEM; see isthmus tls cert create."),
    _key("key_file", TEXT, "tls.key_file", "Its key, PEM."),
    _key("verify_incoming", BOOL, "tls.verify_incoming", "Whoever dials a TLS door shows a certificate."),
    _key("verify_incoming_rpc", BOOL, "tls.verify_incoming_rpc", "The same, server port only."),
    _key("verify_incoming_https", BOOL, "tls.verify_incoming_https", "The same, HTTPS only."),
    _key("verify_outgoing", BOOL, "tls.verify_outgoing", "We dial servers with TLS only."),
    _key("verify_server_hostname", BOOL, "tls.verify_server_hostname", "A server's certificate must name its role and datacenter."),
    _key("allow_client_certificates_rpc", BOOL, "tls.allow_client_certificates_rpc", "Any certificate of the CA may act as a server on the server port, as in Consul; else it must name server.<dc>.<domain>."),
    _key("server_name", TEXT, "tls.server_name", "Name that our own certificate carries instead of the node name."),
    _key("tls_min_version", TEXT, "tls.min_version", "tls10, tls11, tls12 or tls13."),
    _key("tls_cipher_suites", TEXT, "tls.cipher_suites", "Cipher suites of TLS 1.2 and older, parted by commas, the best first: TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256. Default: OpenSSL's choice."),
    _rare("tls_prefer_server_cipher_suites", BOOL, "The server's order of suites counts."),
    _key("enable_agent_tls_for_checks", BOOL, "tls.enable_agent_tls_for_checks", "Checks use the agent's certificate."),
)
_DOORS: Final = (
    _key("performance.rpc_hold_timeout", DURATION, "performance.rpc_hold_timeout", "How long a call waits for a leader, and on a client agent for a server.", positive=True),
    _later("performance.leave_drain_time", DURATION, "performance.leave_drain_time", "How long a leaving server goes on answering.", tier=1),
    _later("performance.raft_multiplier", INT, "performance.raft_multiplier", "Pace of elections."),
    _key("limits.http_max_conns_per_client", INT, "limits.http_max_conns_per_client", "HTTP connections of one address.", positive=True),
    _key("limits.https_handshake_timeout", DURATION, "limits.https_handshake_timeout", "Time for a TLS handshake on HTTPS.", positive=True),
    _key("limits.rpc_handshake_timeout", DURATION, "limits.rpc_handshake_timeout", "Time for the first bytes and the handshake on the server port.", positive=True),
    _key("limits.rpc_max_conns_per_client", INT, "limits.rpc_max_conns_per_client", "Connections of one address to the server port.", positive=True),
    _key("limits.rpc_rate", FLOAT, "limits.rpc_rate", "Calls per second that a client agent makes to servers; more are answered 429. Below 0: no limit."),
    _key("limits.rpc_max_burst", INT, "limits.rpc_max_burst", "Calls that it may make at once when it made few before.", positive=True),
    _key("limits.kv_max_value_size", INT, "limits.kv_max_value_size", "Bytes of a value in the key-value store.", positive=True),
    _key("limits.txn_max_req_len", INT, "limits.txn_max_req_len", "Bytes of a transaction; limits.kv_max_value_size counts if that is more.", positive=True),
    _key("http_config.response_headers", TEXT_MAP, "http.response_headers", "Headers of every answer."),
    _key("http_config.block_endpoints", TEXTS, "http.block_endpoints", "Paths that are refused, with all that starts like them."),
    _key("http_config.allow_write_http_from", CIDRS, "http.allow_write_http_from", "Networks that may write over HTTP; unix sockets may not then. Default: all.", "allow-write-http-from"),
    _key("http_config.use_cache", BOOL, "http.use_cache", "?cached is answered from the agent's cache."),
    _rare("http_config.max_header_bytes", INT, "Bytes of a request's headers."),
    _key("default_query_time", DURATION, "http.default_query_time", "Longest block of a read that names no wait.", "default-query-time", positive=True),
    _key("discovery_max_stale", DURATION, "http.discovery_max_stale", "How old the data of catalog and health reads may be that name no consistency; then any server answers. 0: the leader does."),
    _key("max_query_time", DURATION, "http.max_query_time", "Longest block of any read.", "max-query-time", positive=True),
    _key("session_ttl_min", DURATION, "session_ttl_min", "Shortest time to live of a session.", positive=True),
    _key("unix_sockets.user", TEXT, "http.unix_socket_user", "Owner of unix sockets: a name or a number."),
    _key("unix_sockets.group", TEXT, "http.unix_socket_group", "Group of unix sockets: a name or a number."),
    _key("unix_sockets.mode", TEXT, "http.unix_socket_mode", "Permissions of unix sockets, octal."),
    _key("recursors", TEXTS, "dns.recursors", "DNS servers asked about other domains.", "recursor"),
    _key("dns_config.allow_stale", BOOL, "dns.allow_stale", "Any server answers."),
    _key("dns_config.max_stale", DURATION, "dns.max_stale", "Unless its data are older."),
    _key("dns_config.node_ttl", DURATION, "dns.node_ttl", "TTL of node answers."),
    _key("dns_config.service_ttl", DURATION_MAP, "dns.service_ttl", "TTL by service name, prefix* or *."),
    _key("dns_config.only_passing", BOOL, "dns.only_passing", "Instances with warnings are left out."),
    _key("dns_config.enable_truncate", BOOL, "dns.enable_truncate", "Shortened answers say so."),
    _key("dns_config.a_record_limit", INT, "dns.a_record_limit", "Most address records."),
    _key("dns_config.udp_answer_limit", INT, "dns.udp_answer_limit", "Most records in a plain UDP answer."),
    _key("dns_config.disable_compression", BOOL, "dns.disable_compression", "Names are written in full."),
    _key("dns_config.recursor_timeout", DURATION, "dns.recursor_timeout", "Wait for a recursor."),
    _key("dns_config.enable_additional_node_meta_txt", BOOL, "dns.enable_additional_node_meta_txt", "Node meta as TXT records."),
    _key("dns_config.use_cache", BOOL, "dns.use_cache", "Answer from the agent's cache."),
    _key("dns_config.cache_max_age", DURATION, "dns.cache_max_age", "Oldest answer from that cache."),
    _key("dns_config.soa.refresh", INT, "dns.soa_refresh", "SOA record."),
    _key("dns_config.soa.retry", INT, "dns.soa_retry", "SOA record."),
    _key("dns_config.soa.expire", INT, "dns.soa_expire", "SOA record."),
    _key("dns_config.soa.min_ttl", INT, "dns.soa_min_ttl", "SOA record."),
    _rare("dns_config.prefer_namespace", BOOL, "Namespaces are not ours."),
    _later("ui_config.enabled", BOOL, "ui.enabled", "The web interface.", "ui"),
    _later("ui_config.dir", TEXT, "ui.dir", "Files of the web interface.", "ui-dir"),
    _later("ui_config.content_path", TEXT, "ui.content_path", "Path of the web interface.", "ui-content-path"),
    _later("ui_config.metrics_provider", TEXT, "ui.metrics_provider", "Where the web interface gets metrics."),
    _rare("ui_config.metrics_provider_files", TEXTS, "Scripts of that provider."),
    _rare("ui_config.metrics_provider_options_json", TEXT, "Options of that provider."),
    _rare("ui_config.metrics_proxy", OBJECT, "Proxy to that provider."),
    _rare("ui_config.dashboard_url_templates", TEXT_MAP, "Links to dashboards."),
    _key("telemetry.prometheus_retention_time", DURATION, "telemetry.prometheus_retention_time", "Above 0: /v1/agent/metrics?format=prometheus answers. Metrics are made when asked for, none is kept."),
    _key("telemetry.metrics_prefix", TEXT, "telemetry.metrics_prefix", "What metric names start with that Consul has, too."),
    _key("telemetry.statsd_address", TEXT, "telemetry.statsd_address", "statsd to send to, host:port (UDP), every 10 s."),
    _key("telemetry.dogstatsd_addr", TEXT, "telemetry.dogstatsd_addr", "DogStatsD to send to, host:port (UDP), every 10 s; labels become tags."),
    _key("telemetry.dogstatsd_tags", TEXTS, "telemetry.dogstatsd_tags", "Tags of all that is sent to DogStatsD: `region:north`."),
    _key("telemetry.prefix_filter", TEXTS, "telemetry.prefix_filter", "Metrics let through (+consul.rpc) and dropped (-consul.http), by the start of their names; the longest counts."),
    _key("telemetry.filter_default", BOOL, "telemetry.filter_default", "All other metrics are let through."),
    _key("telemetry.disable_hostname", BOOL, "telemetry.disable_hostname", "Gauges that Consul has, too, do not carry the host's name."),
    _key("telemetry.disable_compat_1.9", BOOL, "telemetry.disable_compat_1_9", "The names that HTTP requests had before Consul 1.9 (consul.http.GET…) are left out."),
)
_LOCAL: Final = (
    _key("service", OBJECTS, "services", "A local service, as in the HTTP API's registration."),
    _key("services", OBJECTS, "services", "Local services."),
    _key("check", OBJECTS, "checks", "A local health check."),
    _key("checks", OBJECTS, "checks", "Local health checks."),
    _key("watches", OBJECTS, "watches", "What is watched (type, key, service …), and the program (args) or URL (http_handler_config) that is told of changes."),
    _key("enable_script_checks", BOOL, "check.enable_remote_script_checks", "Checks may run programs, also those registered over HTTP.", "enable-script-checks"),
    _key("enable_local_script_checks", BOOL, "check.enable_local_script_checks", "Checks from files may run programs.", "enable-local-script-checks"),
    _key("check_update_interval", DURATION, "check.update_interval", "How often unchanged checks' output is written."),
    _key("check_output_max_size", INT, "check.output_max_size", "Bytes of a check's output that are kept.", "check_output_max_size"),
    _key("discard_check_output", BOOL, "check.discard_output", "A check's output is not stored."),
    _key("log_level", TEXT, "log.level", "trace, debug, info, warn or err.", "log-level"),
    _key("log_json", BOOL, "log.json", "One JSON object a line.", "log-json"),
    _key("log_file", TEXT, "log.file", "File the log is also written to, in a directory that exists; a directory with a slash at its end: isthmus.log in it. Old files carry the time in their names.", "log-file"),
    _key("log_rotate_bytes", INT, "log.rotate_bytes", "Size after which a new file is begun; 0: any.", "log-rotate-bytes"),
    _key("log_rotate_duration", DURATION, "log.rotate_duration", "Time after which a new file is begun.", "log-rotate-duration", positive=True),
    _key("log_rotate_max_files", INT, "log.rotate_max_files", "Old files kept; 0: all, -1: none.", "log-rotate-max-files"),
    _key("enable_syslog", BOOL, "log.enable_syslog", "The log also goes to syslog.", "syslog"),
    _key("syslog_facility", TEXT, "log.syslog_facility", "Facility in syslog."),
    _key("enable_debug", BOOL, "enable_debug", "Stacks, profile and memory over HTTP, at /debug/pprof/."),
    _key("acl.enabled", BOOL, "acl.enabled", "Access control. This release refuses true: it would not enforce it."),
    _later("acl.default_policy", TEXT, "acl.default_policy", "allow or deny."),
    _later("acl.down_policy", TEXT, "acl.down_policy", "What holds without a reachable primary."),
    _key("acl.tokens", OBJECT, "acl.tokens", "Tokens: `replication` goes with requests to the primary."),
)
_RARE_NAMES: Final[Mapping[str, tuple[Kind, str]]] = {
    "acl.policy_ttl": (DURATION, "Age of cached policies."),
    "acl.token_ttl": (DURATION, "Age of cached tokens."),
    "acl.role_ttl": (DURATION, "Age of cached roles."),
    "acl.disabled_ttl": (DURATION, "How long to believe that access control is off."),
    "acl.enable_token_replication": (BOOL, "Tokens are replicated."),
    "acl.enable_key_list_policy": (BOOL, "Listing keys needs its own permission."),
    "acl.enable_token_persistence": (BOOL, "Tokens set over HTTP are kept."),
    "acl.msp_disable_bootstrap": (BOOL, "Enterprise edition."),
    "acl.managed_service_provider": (OBJECTS, "Enterprise edition."),
    "acl_agent_master_token": (SECRET, "Old name within acl.tokens."),
    "acl_agent_token": (SECRET, "Old name within acl.tokens."),
    "acl_datacenter": (TEXT, "Old name of primary_datacenter that also turns access control on; refused."),
    "acl_default_policy": (TEXT, "Old name of acl.default_policy."),
    "acl_down_policy": (TEXT, "Old name of acl.down_policy."),
    "acl_enable_key_list_policy": (BOOL, "Old name within acl."),
    "acl_enforce_version_8": (BOOL, "Gone."),
    "acl_master_token": (SECRET, "Old name within acl.tokens."),
    "acl_replication_token": (SECRET, "Old name within acl.tokens."),
    "acl_token": (SECRET, "Old name within acl.tokens."),
    "acl_ttl": (DURATION, "Old name of acl.token_ttl."),
    "acl_policy_ttl": (DURATION, "Old name of acl.policy_ttl."),
    "enable_acl_replication": (BOOL, "Old name of acl.enable_token_replication."),
    "audit": (OBJECT, "Enterprise edition."),
    "auto_config": (OBJECT, "Configuration from the servers."),
    "auto_encrypt": (OBJECT, "Certificates from the servers."),
    "cache": (OBJECT, "Rate of the agent's cache."),
    "config_entries": (OBJECT, "Config entries written at the first start."),
    "disable_anonymous_signature": (BOOL, "isthmus never calls home."),
    "disable_update_check": (BOOL, "isthmus never calls home."),
    "disable_host_node_id": (BOOL, "The node id is random anyway."),
    "disable_http_unprintable_char_filter": (BOOL, "Unprintable characters in paths are let through."),
    "enable_central_service_config": (BOOL, "Central service defaults are merged."),
    "license_path": (TEXT, "Enterprise edition."),
    "non_voting_server": (BOOL, "Enterprise edition."),
    "read_replica": (BOOL, "Enterprise edition."),
    "segment": (TEXT, "Enterprise edition."),
    "protocol": (INT, "Gossip protocol version; 2 is spoken."),
    "raft_protocol": (INT, "Belongs to Consul's storage."),
    "segments": (OBJECTS, "Enterprise edition."),
    "snapshot_agent": (OBJECT, "Enterprise edition."),
    "xds": (OBJECT, "Limits of xDS."),
}
_LATER_NAMES: Final[Mapping[str, tuple[Kind, str]]] = {
    "autopilot.disable_upgrade_migration": (BOOL, "Enterprise edition."),
    "autopilot.redundancy_zone_tag": (TEXT, "Enterprise edition."),
    "autopilot.upgrade_version_tag": (TEXT, "Enterprise edition."),
    "raft_snapshot_interval": (DURATION, "Belongs to Consul's storage."),
    "raft_snapshot_threshold": (INT, "Belongs to Consul's storage."),
    "raft_trailing_logs": (INT, "Belongs to Consul's storage."),
    "rpc.enable_streaming": (BOOL, "Servers push changes to agents."),
    "use_streaming_backend": (BOOL, "Agents take pushed changes."),
    "telemetry.statsite_address": (TEXT, "statsite to send to."),
    "limits.request_limits": (OBJECT, "Rates of requests."),
}
# fmt: on

_FLAGS_OF_RARE: Final = {
    "protocol": "protocol",
    "raft_protocol": "raft-protocol",
    "disable_host_node_id": "disable-host-node-id",
    "segment": "segment",
    "read_replica": "read-replica",
}

ALIASES: Final[Mapping[str, str]] = {
    "ui": "ui_config.enabled",
    "ui_dir": "ui_config.dir",
    "ui_content_path": "ui_config.content_path",
    "tls.defaults.ca_file": "ca_file",
    "tls.defaults.ca_path": "ca_path",
    "tls.defaults.cert_file": "cert_file",
    "tls.defaults.key_file": "key_file",
    "tls.defaults.verify_incoming": "verify_incoming",
    "tls.defaults.verify_outgoing": "verify_outgoing",
    "tls.defaults.verify_server_hostname": "verify_server_hostname",
    "tls.internal_rpc.verify_server_hostname": "verify_server_hostname",
    "tls.internal_rpc.verify_incoming": "verify_incoming_rpc",
    "tls.internal_rpc.allow_client_certificates": "allow_client_certificates_rpc",
    "tls.https.verify_incoming": "verify_incoming_https",
}
"""Other spellings of keys, from older and newer releases of Consul."""

IGNORED_PREFIXES: Final = ("telemetry.circonus_",)
"""Keys that start like this are accepted and ignored."""


def _all() -> Iterator[Key]:
    for section in (
        _IDENTITY,
        _ADDRESSES,
        _FEDERATION,
        _STORAGE,
        _AUTOPILOT,
        _GOSSIP,
        _TLS,
        _DOORS,
        _LOCAL,
    ):
        yield from section
    for name, (kind, about) in _LATER_NAMES.items():
        yield _later(name, kind, "", about)
    for name, (kind, about) in _RARE_NAMES.items():
        yield _rare(name, kind, about, _FLAGS_OF_RARE.get(name, ""))


def _by_name(keys: Iterable[Key]) -> dict[str, Key]:
    table: dict[str, Key] = {}
    for key in keys:
        assert key.name not in table, key.name
        table[key.name] = key
    return table


KEYS: Final[Mapping[str, Key]] = _by_name(_all())
"""Every key by its name."""

SECTIONS: Final[frozenset[str]] = frozenset(
    ".".join(parts[:length])
    for parts in (name.split(".") for name in (*KEYS, *ALIASES))
    for length in range(1, len(parts))
) - frozenset(KEYS)
"""Names that hold further keys and are none themselves."""

FLAGS: Final[Mapping[str, Key]] = {key.flag: key for key in KEYS.values() if key.flag}
"""Keys by their command line flag."""
