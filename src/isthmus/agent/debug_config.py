"""The configuration as ``/v1/agent/self`` shows it: under our names and under Consul's, no secrets.

Source: protocol/http-api.md §6.3, `DebugConfig`.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from isthmus.config.model import AgentConfig
from isthmus.names import host_port
from isthmus.units import Duration

HIDDEN: Final = "hidden"
"""What stands in place of a secret, as in Consul."""
_UNIX: Final = "unix://"

_NAMES: Final[Mapping[str, str]] = {
    "AdvertiseAddrLAN": "addresses.advertise",
    "AdvertiseAddrWAN": "addresses.advertise_wan",
    "BindAddr": "addresses.bind",
    "Bootstrap": "bootstrap",
    "BootstrapExpect": "bootstrap_expect",
    "CAFile": "tls.ca_file",
    "CAPath": "tls.ca_path",
    "CertFile": "tls.cert_file",
    "CheckOutputMaxSize": "check.output_max_size",
    "ClientAddrs": "addresses.client",
    "ConnectEnabled": "connect.enabled",
    "ConnectMeshGatewayWANFederationEnabled": "connect.mesh_gateway_wan_federation",
    "DNSPort": "ports.dns",
    "DNSRecursors": "dns.recursors",
    "Datacenter": "datacenter",
    "DataDir": "data_dir",
    "DevMode": "dev",
    "DisableCoordinates": "gossip.disable_coordinates",
    "DiscardCheckOutput": "check.discard_output",
    "ACLsEnabled": "acl.enabled",
    "EnableDebug": "enable_debug",
    "EnableLocalScriptChecks": "check.enable_local_script_checks",
    "EnableRemoteScriptChecks": "check.enable_remote_script_checks",
    "GRPCPort": "ports.grpc",
    "HTTPBlockEndpoints": "http.block_endpoints",
    "HTTPMaxConnsPerClient": "limits.http_max_conns_per_client",
    "HTTPPort": "ports.http",
    "HTTPResponseHeaders": "http.response_headers",
    "HTTPSPort": "ports.https",
    "KVMaxValueSize": "limits.kv_max_value_size",
    "KeyFile": "tls.key_file",
    "LeaveOnTerm": "leave.on_terminate",
    "NodeID": "node_id",
    "NodeMeta": "node_meta",
    "NodeName": "node_name",
    "PidFile": "pid_file",
    "PrimaryDatacenter": "primary_datacenter",
    "PrimaryGateways": "connect.primary_gateways",
    "RPCMaxBurst": "limits.rpc_max_burst",
    "RPCMaxConnsPerClient": "limits.rpc_max_conns_per_client",
    "RPCRateLimit": "limits.rpc_rate",
    "RejoinAfterLeave": "join.rejoin_after_leave",
    "RetryJoinLAN": "join.retry_join",
    "RetryJoinWAN": "join.retry_join_wan",
    "SerfPortLAN": "ports.serf_lan",
    "SerfPortWAN": "ports.serf_wan",
    "ServerMode": "server",
    "ServerName": "tls.server_name",
    "ServerPort": "ports.server",
    "SkipLeaveOnInt": "leave.skip_on_interrupt",
    "TLSMinVersion": "tls.min_version",
    "TaggedAddresses": "addresses.tagged",
    "TranslateWANAddrs": "translate_wan_addrs",
    "TxnMaxReqLen": "limits.txn_max_req_len",
    "VerifyIncoming": "tls.verify_incoming",
    "VerifyIncomingHTTPS": "tls.verify_incoming_https",
    "VerifyIncomingRPC": "tls.verify_incoming_rpc",
    "VerifyOutgoing": "tls.verify_outgoing",
    "VerifyServerHostname": "tls.verify_server_hostname",
}
"""Our fields by Consul's names."""
_DURATIONS: Final[Mapping[str, str]] = {
    "CheckUpdateInterval": "check.update_interval",
    "DefaultQueryTime": "http.default_query_time",
    "DNSNodeTTL": "dns.node_ttl",
    "HTTPSHandshakeTimeout": "limits.https_handshake_timeout",
    "MaxQueryTime": "http.max_query_time",
    "PrimaryGatewaysInterval": "connect.primary_gateways_interval",
    "RPCHandshakeTimeout": "limits.rpc_handshake_timeout",
    "RetryJoinIntervalLAN": "join.retry_interval",
    "RetryJoinIntervalWAN": "join.retry_interval_wan",
}
"""The same of lengths of time, which Consul shows as text: ``30s``."""


def debug_config(config: AgentConfig) -> dict[str, object]:
    """Every setting without its secrets.

    Args:
        config: As it is in force.

    Returns:
        Our fields, nested, in lower case; and those that Consul has, too, under its names.
    """
    ours = _ours(config)
    found = {name: _value(config, path) for name, path in _NAMES.items()}
    found |= {name: str(Duration.of(_value(config, path))) for name, path in _DURATIONS.items()}
    addresses, ports = config.addresses, config.ports
    found |= {
        "DNSAddrs": [f"udp://{host_port(host, ports.dns)}" for host in addresses.dns],
        "DNSDomain": f"{config.domain}.",
        "EncryptKey": HIDDEN * bool(config.gossip.encrypt),
        "HTTPAddrs": [_listener(host, ports.http) for host in addresses.http],
        "HTTPSAddrs": [_listener(host, ports.https) for host in addresses.https],
        "Logging": {"LogLevel": config.log.level, "LogJSON": config.log.json},
        "UIConfig": {"Enabled": config.ui.enabled, "ContentPath": config.ui.content_path},
    }
    return {**ours, **{name: _plain(value) for name, value in sorted(found.items())}}


def _ours(config: AgentConfig) -> dict[str, object]:
    replace = dataclasses.replace
    shown = dataclasses.asdict(
        replace(
            config,
            gossip=replace(config.gossip, encrypt=HIDDEN * bool(config.gossip.encrypt)),
            acl=replace(config.acl, tokens=dict.fromkeys(config.acl.tokens, HIDDEN)),
            connect=replace(
                config.connect, ca_config=dict.fromkeys(config.connect.ca_config, HIDDEN)
            ),
            storage=replace(config.storage, password=HIDDEN * bool(config.storage.password)),
            services=(),  # They hold tokens and headers; other calls show them.
            checks=(),
            watches=(),
            origins={},
        )
    )
    return {name: _plain(value) for name, value in shown.items()}


def _value(config: AgentConfig, path: str) -> Any:
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _listener(host: str, port: int) -> str:
    return host if host.startswith(_UNIX) else f"tcp://{host_port(host, port)}"


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value
