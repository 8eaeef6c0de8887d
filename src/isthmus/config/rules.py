"""Rules that a whole configuration keeps, each with Consul's text where Consul has the rule.

Where Consul accepts what cannot work (federation without certificates, a node name with a dot, a
gateway without port, an interval of zero), we refuse it.

Source: protocol/cli-config-dns.md §2.4; protocol/federation.md §2.1.
"""

import difflib
import ipaddress
import re
from collections.abc import Iterator
from typing import Final

from isthmus import names
from isthmus.config.model import AgentConfig
from isthmus.dns.config import recursor_address
from isthmus.errors import Mistake
from isthmus.model.keyring import decode_key
from isthmus.model.network import Networks
from isthmus.net.ciphers import SUITES

NODE_META_PAIRS_MAX: Final = 64
NODE_META_KEY_SIZE_MAX: Final = 128
NODE_META_VALUE_SIZE_MAX: Final = 512
RECONNECT_TIMEOUT_MIN: Final = 8 * 3600.0

_FLAG: Final = "connect.enable_mesh_gateway_wan_federation"
_DATACENTER: Final = re.compile(r"[a-z0-9_-]+")
_DNS_NAME: Final = re.compile(r"[A-Za-z0-9-]+")
_DNS_NAME_SIZE_MAX: Final = 63
_DOMAIN_SIZE_MAX: Final = 150
"""Leaves room for a node's and a datacenter's name before it."""
_TTL_MAX: Final = 2**31 - 1
_META_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LOG_LEVELS: Final = ("TRACE", "DEBUG", "INFO", "WARN", "ERR", "ERROR")
_TLS_VERSIONS: Final = ("tls10", "tls11", "tls12", "tls13")
_FILE_MODE: Final = re.compile(r"[0-7]{3,4}")
_UNIX: Final = "unix://"


def broken_rules(config: AgentConfig) -> Iterator[Mistake]:
    """Find every rule that `config` breaks."""
    for rule in (
        _identity, _node_meta, _bootstrap, _storage, _federation, _primary_gateways, _addresses,
        _ports, _dns, _gossip, _tls, _doors, _acl,
    ):  # fmt: skip
        for key, text, remedy in rule(config):
            yield Mistake(config.origins.get(key, ""), key, text, remedy)


def warnings(config: AgentConfig) -> Iterator[str]:
    """What works and is probably not meant."""
    name = config.node_name
    if not _DNS_NAME.fullmatch(name):
        yield (
            f'Node name "{name}" will not be discoverable via DNS due to invalid characters. '
            "Valid characters include all alpha-numerics and dashes."
        )
    elif len(name) > _DNS_NAME_SIZE_MAX:
        yield (
            f'Node name "{name}" will not be discoverable via DNS due to it being too long. '
            "Valid lengths are between 1 and 63 bytes."
        )
    if config.bootstrap_expect == 1:
        yield "bootstrap_expect = 1 is the same as bootstrap = true"
    elif config.bootstrap_expect == 2:
        yield "bootstrap_expect = 2: a datacenter with 2 servers does not survive the loss of one"
    elif config.bootstrap_expect and config.bootstrap_expect % 2 == 0:
        yield "bootstrap_expect is even: one server more tolerates no fault more"
    if config.connect.primary_gateways and not config.connect.mesh_gateway_wan_federation:
        yield f"primary_gateways has no effect without {_FLAG} = true"
    if not config.server:
        yield from _client_warnings(config)
    for key, networks, address in (
        (
            "serf_lan_allowed_cidrs",
            config.gossip.serf_lan_allowed_cidrs,
            config.addresses.advertise,
        ),
        (
            "serf_wan_allowed_cidrs",
            config.gossip.serf_wan_allowed_cidrs,
            config.addresses.advertise_wan,
        ),
    ):
        if networks and _is_ip(address) and address not in Networks(networks):
            yield f"{key} does not hold our own address {address}: members with this list refuse us"
    if config.connect.mesh_gateway_wan_federation and config.ports.serf_wan <= 0:
        yield "ports.serf_wan = -1: without a WAN pool there is no federation"


_SERVERS_ONLY: Final = ("storage.", "retry_join_wan", "start_join_wan", "ports.server")


def _client_warnings(config: AgentConfig) -> Iterator[str]:
    for key, source in config.origins.items():
        if key.startswith(_SERVERS_ONLY):
            yield f"{key} has no effect on a client agent ({source})"


_Rule = Iterator[tuple[str, str, str]]
"""Key, text, remedy."""


def _identity(config: AgentConfig) -> _Rule:
    for key, shown, value in (
        ("datacenter", "datacenter", config.datacenter),
        # Consul names the key by its old name here.
        ("primary_datacenter", "acl_datacenter", config.primary_datacenter),
    ):
        if key == "primary_datacenter" and value == config.datacenter:
            continue
        if not value:
            yield key, f"{key} cannot be empty", "name the datacenter"
        elif not _DATACENTER.fullmatch(value):
            text = (
                f"{shown} can only contain lowercase alphanumeric, - or _ characters. "
                f'received: "{value}"'
            )
            yield key, text, f"rename the datacenter in {key}"
    if not config.node_name:
        yield "node_name", "node_name cannot be empty", "set node_name"
    if config.node_id and not _UUID.fullmatch(config.node_id):
        text = f'node_id must be a UUID, not "{config.node_id}"'
        yield "node_id", text, "leave it out: the agent makes one and keeps it"
    if config.data_dir is None:
        if not config.dev:
            yield "data_dir", "data_dir cannot be empty", "set data_dir, or start with -dev"
    elif config.data_dir.exists() and not config.data_dir.is_dir():
        yield "data_dir", f'data_dir "{config.data_dir}" is not a directory', "name a directory"


def _node_meta(config: AgentConfig) -> _Rule:
    if len(config.node_meta) > NODE_META_PAIRS_MAX:
        text = f"Node metadata cannot contain more than {NODE_META_PAIRS_MAX} key/value pairs"
        yield "node_meta", text, "leave some out"
    for key, value in config.node_meta.items():
        problem = ""
        if not _META_KEY.fullmatch(key):
            problem = "Key name contains invalid characters"
        elif len(key) > NODE_META_KEY_SIZE_MAX:
            problem = f"Key name is too long (limit: {NODE_META_KEY_SIZE_MAX} characters)"
        elif key.startswith("consul-"):
            problem = "Key prefix 'consul-' is reserved for internal use"
        elif len(value) > NODE_META_VALUE_SIZE_MAX:
            problem = f"Value is too long (limit: {NODE_META_VALUE_SIZE_MAX} characters)"
        if problem:
            yield "node_meta", f'Couldn\'t load metadata pair ("{key}"): {problem}', ""


_ENGINES: Final = ("auto", "sqlite", "etcd", "memory")
_LEASE_MIN: Final = 2.0  # What etcd grants at least.


def _bootstrap(config: AgentConfig) -> _Rule:
    if config.bootstrap and not config.server:
        yield "bootstrap", "'bootstrap = true' requires 'server = true'", "set server = true"
    if config.bootstrap_expect < 0:
        text = (
            f"bootstrap_expect cannot be {config.bootstrap_expect}. "
            "Must be greater than or equal to zero"
        )
        yield "bootstrap_expect", text, "leave it out"
    if config.bootstrap_expect > 0:
        key = "bootstrap_expect"
        if not config.server:
            yield key, "'bootstrap_expect > 0' requires 'server = true'", "set server = true"
        if config.bootstrap:
            text = "'bootstrap_expect > 0' and 'bootstrap = true' are mutually exclusive"
            yield key, text, "keep one of them"
        if config.dev:
            yield key, "'bootstrap_expect > 0' not allowed in dev mode", "leave one of them out"


def _storage(config: AgentConfig) -> _Rule:
    storage = config.storage
    if storage.engine not in _ENGINES:
        yield "storage.engine", f"unknown engine {storage.engine!r}", f"use {' or '.join(_ENGINES)}"
    if storage.engine in {"sqlite", "memory"} and config.bootstrap_expect > 1:
        text = f"{storage.engine} keeps the data of one server only"
        yield "storage.engine", text, 'use engine = "etcd", or set bootstrap = true'
    if storage.engine in {"sqlite", "memory"} and storage.endpoints:
        text = f"endpoints are of no use with engine = {storage.engine!r}"
        yield "storage.endpoints", text, 'leave them out, or use engine = "etcd"'
    for endpoint in storage.endpoints:
        try:
            names.split_host_port(endpoint.removeprefix("https://").removeprefix("http://"))
        except ValueError:
            yield "storage.endpoints", f"{endpoint!r} is not host:port", "as in 10.0.0.1:2379"
        if endpoint.startswith("https://") and not storage.ca_file:
            yield "storage.endpoints", f"{endpoint} without ca_file", "set ca_file too"
        if endpoint.startswith("http://") and storage.ca_file:
            yield "storage.endpoints", f"{endpoint} with ca_file", "write https://, or no ca_file"
    if storage.password and not storage.username:
        yield "storage.password", "password without username", "set username too"
    if bool(storage.cert_file) != bool(storage.key_file):
        yield "storage.cert_file", "cert_file and key_file belong together", "set both"
    if storage.cert_file and not storage.ca_file:
        yield "storage.ca_file", "cert_file without ca_file", "set ca_file too"
    if storage.lease_ttl < _LEASE_MIN:
        yield "storage.lease_ttl", f"must be at least {_LEASE_MIN:g}s", ""
    if storage.election_timeout < 5 * storage.heartbeat_interval:
        text = "must be at least five times heartbeat_interval"
        yield "storage.etcd.election_timeout", text, ""
    ports = {storage.peer_port, storage.client_port}
    if config.storage_engine == "etcd" and not storage.endpoints and len(ports) < 2:
        yield "storage.etcd.client_port", "is the same as peer_port", "choose another"


def _federation(config: AgentConfig) -> _Rule:
    if not config.connect.mesh_gateway_wan_federation:
        return
    flag = f"'{_FLAG} = true'"
    if not config.connect.enabled:
        text = f"'{_FLAG}=true' requires 'connect.enabled=true'"
        yield _FLAG, text, "set connect { enabled = true }"
    if not config.server:
        yield _FLAG, f"{flag} requires 'server = true'", "set it on servers only"
    name = config.node_name
    for forbidden in "/.":
        if forbidden in name:
            text = f"{flag} requires that 'node_name' not contain '{forbidden}' characters"
            yield "node_name", text, f"set node_name to a name like {_plain_name(name)!r}"
    if name == names.ANY_SERVER:
        text = f"{flag} requires that 'node_name' is not '*', which stands for any server"
        yield "node_name", text, "set node_name to the server's own name"
    for key, addresses in (
        ("start_join_wan", config.join.start_join_wan),
        ("retry_join_wan", config.join.retry_join_wan),
    ):
        if addresses:
            text = f"'{key}' is incompatible with {flag}"
            yield key, text, "remove it; secondaries find the primary by primary_gateways"
    if not config.tls.configured:
        missing = [
            key
            for key, value in (
                ("ca_file", config.tls.ca_file or config.tls.ca_path),
                ("cert_file", config.tls.cert_file),
                ("key_file", config.tls.key_file),
            )
            if not value
        ]
        text = f"{flag} requires TLS: {', '.join(missing)} missing"
        remedy = "isthmus tls ca create; isthmus tls cert create -server -dc DC -node NODE"
        yield "cert_file" if config.tls.ca_file else "ca_file", text, remedy


def _plain_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "-", name.partition(".")[0]).strip("-") or "server1"


def _primary_gateways(config: AgentConfig) -> _Rule:
    gateways, key = config.connect.primary_gateways, "primary_gateways"
    if not gateways:
        return
    if not config.server:
        yield key, "'primary_gateways' requires 'server = true'", "set it on servers only"
    if config.primary:
        text = "'primary_gateways' should only be configured in a secondary datacenter"
        yield key, text, "remove it, or set primary_datacenter to the other datacenter"
    for gateway in gateways:
        if gateway.startswith("provider="):
            continue
        try:
            names.split_host_port(gateway)
        except ValueError as error:
            remedy = f'write "{gateway}:{names.GATEWAY_PORT}"' if ":" not in gateway else ""
            yield key, f"primary_gateways: {error}", remedy


def _addresses(config: AgentConfig) -> _Rule:
    addresses, reported = config.addresses, set[str]()
    for key, value in (
        ("bind_addr", addresses.bind),
        ("serf_lan", addresses.serf_lan),
        ("serf_wan", addresses.serf_wan),
        ("advertise_addr", addresses.advertise),
        ("advertise_addr_wan", addresses.advertise_wan),
    ):
        if value in reported:
            continue  # It follows from the key that was reported.
        if value and not _is_ip(value):
            reported.add(value)
            yield key, f'{key} must be an IP address, not "{value}"', ""
        elif key.startswith("advertise") and value in {"0.0.0.0", "::", "[::]"}:
            reported.add(value)
            kind = "Advertise WAN" if key.endswith("wan") else "Advertise"
            text = f"{kind} address cannot be 0.0.0.0, :: or [::]"
            yield key, text, "set it to what other servers of this datacenter can dial"
    for key, values in (
        ("client_addr", addresses.client),
        ("addresses.http", addresses.http),
        ("addresses.https", addresses.https),
        ("addresses.dns", addresses.dns),
        ("addresses.grpc", addresses.grpc),
    ):
        if key != "client_addr" and values == addresses.client:
            continue
        for value in values:
            if value.startswith(_UNIX):
                if key == "addresses.dns":
                    yield key, "DNS address cannot be a unix socket", "name an IP address"
                elif key == "addresses.https" or (key == "client_addr" and config.ports.https > 0):
                    text = "HTTPS address cannot be a unix socket"
                    yield key, text, "write it into addresses.http, and IP addresses here"
            elif not _is_ip(value):
                yield key, f'{key} must hold IP addresses, not "{value}"', ""


def _dns(config: AgentConfig) -> _Rule:
    dns = config.dns
    for recursor in dns.recursors:
        try:
            recursor_address(recursor)
        except ValueError as error:
            remedy = "write IP addresses, with a port unless it is 53"
            yield "recursors", f"Invalid recursor address: {error}", remedy
    for key in ("domain", "alt_domain"):
        if len(getattr(config, key)) > _DOMAIN_SIZE_MAX:
            yield key, f"{key} is longer than {_DOMAIN_SIZE_MAX} characters", ""
    if dns.recursor_timeout <= 0:
        yield "dns_config.recursor_timeout", "dns_config.recursor_timeout must be positive", ""
    for name in ("udp_answer_limit", "a_record_limit"):
        key, limit = f"dns_config.{name}", getattr(dns, name)
        if limit < 0:
            yield key, f"{key} cannot be {limit}. Must be greater than or equal to zero", ""
    for service, ttl in dns.service_ttl.items():
        if not 0 <= ttl <= _TTL_MAX:
            yield "dns_config.service_ttl", f"TTL of {service} must be from 0 to {_TTL_MAX} s", ""
    if not 0 <= dns.node_ttl <= _TTL_MAX:
        yield "dns_config.node_ttl", f"dns_config.node_ttl must be from 0 to {_TTL_MAX} s", ""
    for name in ("refresh", "retry", "expire", "min_ttl"):
        if not 0 <= getattr(dns, f"soa_{name}") <= _TTL_MAX:
            key = f"dns_config.soa.{name}"
            yield key, f"{key} must be from 0 to {_TTL_MAX}", ""


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("%")[0].strip("[]"))
    except ValueError:
        return False
    return True


def _is_host_port(text: str) -> bool:
    try:
        names.split_host_port(text)
    except ValueError:
        return False
    return True


def _ports(config: AgentConfig) -> _Rule:
    used: dict[str, tuple[str, str]] = {}
    addresses, ports = config.addresses, config.ports
    for door, key, hosts, port in (
        ("DNS", "ports.dns", addresses.dns, ports.dns),
        ("HTTP", "ports.http", addresses.http, ports.http),
        ("HTTPS", "ports.https", addresses.https, ports.https),
        ("gRPC", "ports.grpc", addresses.grpc, ports.grpc),
        ("RPC Advertise", "ports.server", (addresses.advertise,), ports.server),
        ("Serf Advertise LAN", "ports.serf_lan", (addresses.advertise,), ports.serf_lan),
        ("Serf Advertise WAN", "ports.serf_wan", (addresses.advertise_wan,), ports.serf_wan),
    ):
        if port <= 0:
            if key in {"ports.server", "ports.serf_lan"}:
                yield key, f"{key} cannot be turned off", "set a port from 1 to 65535"
            continue
        for host in hosts:
            address = host if host.startswith(_UNIX) else names.host_port(host, port)
            if address in used:
                other, other_key = used[address]
                text = f"{door} address {address} already configured for {other}"
                written = key if key in config.origins else other_key
                yield written, text, "give each its own port"
            used.setdefault(address, (door, key))


def _gossip(config: AgentConfig) -> _Rule:
    if config.gossip.encrypt:
        try:
            decode_key(config.gossip.encrypt)
        except ValueError as error:
            text = f"encrypt has invalid key: {error}"
            yield "encrypt", text, "make one with isthmus keygen"
    for pool, timers in (("gossip_lan", config.gossip.lan), ("gossip_wan", config.gossip.wan)):
        if timers.probe_timeout > timers.probe_interval:
            text = f"{pool}.probe_timeout must not be longer than {pool}.probe_interval"
            yield f"{pool}.probe_timeout", text, ""
    for key, value in (
        ("reconnect_timeout", config.gossip.reconnect_timeout_lan),
        ("reconnect_timeout_wan", config.gossip.reconnect_timeout_wan),
    ):
        if value < RECONNECT_TIMEOUT_MIN:
            yield key, f"{key} must be at least 8h", ""
    if config.gossip.advertise_reconnect_timeout and config.server:
        key = "advertise_reconnect_timeout"
        yield key, f"{key} can only be used on a client", "use reconnect_timeout on servers"


def _tls(config: AgentConfig) -> _Rule:
    tls = config.tls
    if bool(tls.cert_file) != bool(tls.key_file):
        given, missing = ("cert_file", "key_file") if tls.cert_file else ("key_file", "cert_file")
        yield given, f"{given} is given without {missing}", f"set {missing}"
    for key, wanted in (
        ("verify_incoming", tls.verify_incoming),
        ("verify_incoming_rpc", tls.verify_incoming_rpc),
        ("verify_incoming_https", tls.verify_incoming_https),
        ("verify_outgoing", tls.verify_outgoing),
    ):
        if wanted and not (tls.ca_file or tls.ca_path):
            yield key, f"{key} is set, and no CA certificate is given", "set ca_file or ca_path"
        elif wanted and key.startswith("verify_incoming") and not tls.cert_file:
            yield key, f"{key} is set, and no certificate is given", "set cert_file and key_file"
    if tls.min_version not in _TLS_VERSIONS:
        text = f'tls_min_version must be one of {", ".join(_TLS_VERSIONS)}, not "{tls.min_version}"'
        yield "tls_min_version", text, ""
    for suite in tls.cipher_suites:
        if suite not in SUITES:
            close = difflib.get_close_matches(suite, SUITES, n=1)
            remedy = f'did you mean "{close[0]}"?' if close else f"there are {', '.join(SUITES)}"
            yield "tls_cipher_suites", f"unsupported cipher suite: {suite}", remedy
    if config.ports.https > 0 and not (tls.cert_file and tls.key_file):
        text = "ports.https is open, and no certificate is given"
        yield "ports.https", text, "set cert_file and key_file"


def _doors(config: AgentConfig) -> _Rule:
    if config.http.default_query_time > config.http.max_query_time:
        key = "default_query_time" if "default_query_time" in config.origins else "max_query_time"
        yield key, "default_query_time must not be longer than max_query_time", ""
    for named in config.telemetry.prefix_filter:
        if named[:1] not in {"+", "-"} or len(named) == 1:
            key = "telemetry.prefix_filter"
            text = f'{key} must hold names behind + or -, not "{named}"'
            remedy = 'write "+consul.rpc" to let metrics through, "-consul.http" to drop them'
            yield key, text, remedy
    for key, address in (
        ("telemetry.statsd_address", config.telemetry.statsd_address),
        ("telemetry.dogstatsd_addr", config.telemetry.dogstatsd_addr),
    ):
        if address and not _is_host_port(address):
            yield key, f'{key} must be host:port, not "{address}"', 'write "127.0.0.1:8125"'
    if config.http.unix_socket_mode and not _FILE_MODE.fullmatch(config.http.unix_socket_mode):
        text = f'unix_sockets.mode must be octal, like "0770", not "{config.http.unix_socket_mode}"'
        yield "unix_sockets.mode", text, ""
    if config.log.level not in _LOG_LEVELS:
        text = f'log_level must be trace, debug, info, warn or err, not "{config.log.level}"'
        yield "log_level", text, ""


def _acl(config: AgentConfig) -> _Rule:
    if config.acl.enabled:
        text = "acl.enabled = true is not supported by this release"
        remedy = "isthmus does not enforce tokens yet and does not pretend to; remove it"
        yield "acl.enabled", text, remedy
    for key in ("acl_default_policy", "acl.default_policy"):
        if key == "acl.default_policy" and config.acl.default_policy == "allow":
            continue
        if key in config.origins:
            text = f"{key} is not supported by this release"
            yield key, text, "isthmus does not enforce tokens yet; remove it"
    if "acl_datacenter" in config.origins:
        text = "acl_datacenter turns access control on, which this release does not support"
        yield "acl_datacenter", text, "use primary_datacenter to name the primary"
