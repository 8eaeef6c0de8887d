"""From the agent's configuration to the record of each component."""

import base64
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from isthmus.agent.checks import CheckTls
from isthmus.agent.local import LocalConfig
from isthmus.agent.services import ServicesConfig
from isthmus.config.model import AgentConfig, GossipTimers
from isthmus.engine.memory import MemoryEngine
from isthmus.gossip.config import GossipConfig
from isthmus.http.server import HttpConfig
from isthmus.http.unix_socket import SocketOwner
from isthmus.model.operator import AutopilotConfig
from isthmus.net.tls import TlsConfig, TlsConfigurator
from isthmus.server.snapshot import SnapshotConfig
from isthmus.store.engine import Engine
from isthmus.units import Duration

_STORE_FOLDER = "store"
_SNAPSHOT_FOLDER = "snapshots"


def tls_config(config: AgentConfig) -> TlsConfig:
    """TLS of the server port and of what we dial."""
    tls = config.tls
    return TlsConfig(
        ca_file=tls.ca_file,
        ca_path=tls.ca_path,
        cert_file=tls.cert_file,
        key_file=tls.key_file,
        verify_incoming=tls.verify_incoming,
        verify_incoming_rpc=tls.verify_incoming_rpc,
        verify_outgoing=tls.verify_outgoing,
        verify_server_hostname=tls.verify_server_hostname,
        allow_client_certificates=tls.allow_client_certificates_rpc,
        server_name=tls.server_name,
        tls_min_version=tls.min_version,
        cipher_suites=tls.cipher_suites,
        node_name=config.node_name,
        dc=config.datacenter,
        domain=config.domain,
    )


def local_config(config: AgentConfig) -> LocalConfig:
    """How results of checks are kept."""
    check = config.check
    return LocalConfig(update_interval=check.update_interval, discard_output=check.discard_output)


def services_config(config: AgentConfig) -> ServicesConfig:
    """What may be registered with the agent."""
    return ServicesConfig(
        sidecar_port_min=config.ports.sidecar_min,
        sidecar_port_max=config.ports.sidecar_max,
        file_scripts=config.check.enable_local_script_checks,
        http_scripts=config.check.enable_remote_script_checks,
    )


def check_tls(config: AgentConfig, tls: TlsConfigurator) -> CheckTls:
    """With which certificates checks dial."""
    return CheckTls(
        tls,
        use_agents=config.tls.enable_agent_tls_for_checks,
        agent_name=config.tls.server_name or config.node_name,
    )


def snapshot_config(config: AgentConfig) -> SnapshotConfig:
    """Where snapshots are kept while they come and go."""
    return SnapshotConfig(
        directory=None if config.data_dir is None else config.data_dir / _SNAPSHOT_FOLDER,
        size_max=config.storage.snapshot_size_max,
    )


def engine(
    config: AgentConfig, *, entropy: Callable[[int], bytes], wall: Callable[[], datetime]
) -> Engine:
    """Where this server's data is durable: SQLite in `data_dir`, or nowhere with ``-dev``."""
    cluster = str(
        uuid.UUID(bytes=entropy(16), version=4)
    )  # Of a new store; an old one has its own.
    if config.data_dir is None:
        return MemoryEngine(cluster=cluster)
    from isthmus.engine.sqlite import SqliteEngine  # -dev does without.

    return SqliteEngine(
        config.data_dir / _STORE_FOLDER,
        datacenter=config.datacenter,
        cluster=cluster,
        wall=wall,
    )


def autopilot_config(config: AgentConfig) -> AutopilotConfig:
    """What holds for servers that come and go until an operator sets it."""
    autopilot = config.autopilot
    return AutopilotConfig(
        cleanup_dead_servers=autopilot.cleanup_dead_servers,
        last_contact_threshold=Duration.of(autopilot.last_contact_threshold),
        max_trailing_logs=autopilot.max_trailing_logs,
        min_quorum=autopilot.min_quorum,
        server_stabilization_time=Duration.of(autopilot.server_stabilization_time),
    )


def http_config(config: AgentConfig) -> HttpConfig:
    """The HTTP door."""
    mode = config.http.unix_socket_mode
    return HttpConfig(
        addresses=config.addresses.http,
        port=config.ports.http,
        https_addresses=config.addresses.https,
        https_port=config.ports.https,
        https_verify_incoming=config.tls.requires_https_client_certificate,
        https_handshake_timeout=config.limits.https_handshake_timeout,
        max_conns_per_client=config.limits.http_max_conns_per_client,
        kv_value_size_max=config.limits.kv_max_value_size,
        translate_wan=config.translate_wan_addrs,
        discovery_max_stale=config.http.discovery_max_stale,
        txn_size_max=max(config.limits.txn_max_req_len, config.limits.kv_max_value_size),
        response_headers=config.http.response_headers,
        block_endpoints=config.http.block_endpoints,
        write_networks=config.http.allow_write_http_from,
        pretty=config.http.pretty,
        socket_owner=SocketOwner(
            user=config.http.unix_socket_user,
            group=config.http.unix_socket_group,
            mode=int(mode, 8) if mode else None,
        ),
    )


def gossip_config(config: AgentConfig, *, wan: bool) -> GossipConfig:
    """Times of a pool."""
    gossip = config.gossip
    timers: GossipTimers = gossip.wan if wan else gossip.lan
    return replace(
        GossipConfig.wan() if wan else GossipConfig.lan(),
        gossip_interval=timers.gossip_interval,
        gossip_nodes=timers.gossip_nodes,
        probe_interval=timers.probe_interval,
        probe_timeout=timers.probe_timeout,
        suspicion_mult=timers.suspicion_mult,
        retransmit_mult=timers.retransmit_mult,
        coordinates=not gossip.disable_coordinates,
        verify_incoming=gossip.encrypt_verify_incoming,
        verify_outgoing=gossip.encrypt_verify_outgoing,
        reconnect_timeout=gossip.reconnect_timeout_wan if wan else gossip.reconnect_timeout_lan,
    )


def gossip_keys(config: AgentConfig) -> tuple[bytes, ...]:
    """Encryption keys of both pools, primary first."""
    return (base64.b64decode(config.gossip.encrypt),) if config.gossip.encrypt else ()


def trust_domain(config: AgentConfig) -> str | None:
    """Trust domain of the mesh: known only when the operator set the cluster id."""
    cluster_id = config.connect.ca_config.get("cluster_id")
    return f"{cluster_id}.consul" if isinstance(cluster_id, str) and cluster_id else None
