"""What a whole configuration must keep, with Consul's own texts.

The vector holds what Consul 1.10.11 answered to ``consul validate``; it names its cases, and the
table below says what each one changes in the vector's baseline.
"""

# ruff: noqa: E501 -- a table is read by its rows.

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isthmus.config import AgentConfig
from isthmus.errors import Mistake

Load = Callable[..., AgentConfig]
Refuse = Callable[..., tuple[Mistake, ...]]

VECTOR = json.loads(
    (Path(__file__).parents[2] / "vectors/federation/config_validation.json").read_text()
)
FLAG = "connect.enable_mesh_gateway_wan_federation = true"
TLS = {"ca_file": "ca.pem", "cert_file": "c.pem", "key_file": "k.pem"}
GONE = object()

CHANGES: dict[str, dict[str, Any]] = {
    "baseline secondary": {},
    "flag without connect": {"connect": {"enable_mesh_gateway_wan_federation": True}},
    "flag on client": {"server": False, "primary_gateways": GONE},
    "primary_gateways on client": {"server": False, "connect": {"enabled": True}},
    "slash in node name": {"node_name": "a/b"},
    "dot in node name": {"node_name": "a.b"},
    "star node name": {"node_name": "*"},
    "underscore node name": {"node_name": "a_b"},
    "start_join_wan": {"start_join_wan": ["10.0.0.1"]},
    "retry_join_wan": {"retry_join_wan": ["10.0.0.1"]},
    "primary_gateways in primary": {"primary_datacenter": "dc2"},
    "primary_gateways without federation flag": {"connect": {"enabled": True}},
    "no primary_datacenter": {"primary_datacenter": GONE},
    "no tls at all": dict.fromkeys(TLS, GONE),
    "verify_* all on without certs": {
        **dict.fromkeys(TLS, GONE),
        "verify_incoming": True,
        "verify_outgoing": True,
        "verify_server_hostname": True,
    },
    "serf_wan -1": {"ports": {"serf_wan": -1}},
    "bad interval": {"primary_gateways_interval": "abc"},
    "interval 0": {"primary_gateways_interval": "0s"},
    "primary gateway without port": {"primary_gateways": ["10.0.0.1"]},
    "primary gateway provider": {"primary_gateways": ["provider=aws tag_key=x"]},
    "primary gateway hostname": {"primary_gateways": ["gateway.example.com:443"]},
    "primary gateway template": {"primary_gateways": ["{{ GetPrivateIP }}:8443"]},
    "bad primary_datacenter": {"primary_datacenter": "d c"},
    "upper case dc": {"datacenter": "DC2"},
    "dc with dot": {"datacenter": "dc.2"},
}
STRICTER = {
    "dot in node name": f"'{FLAG}' requires that 'node_name' not contain '.' characters",
    "star node name": f"'{FLAG}' requires that 'node_name' is not '*', which stands for any server",
    "no tls at all": f"'{FLAG}' requires TLS: ca_file, cert_file, key_file missing",
    "verify_* all on without certs": f"'{FLAG}' requires TLS: ca_file, cert_file, key_file missing",
    "interval 0": "primary_gateways_interval must be greater than zero",
    "primary gateway without port": "primary_gateways: missing port in address '10.0.0.1', "
    "expected HOST:PORT",
}
"""Consul accepts these, and they cannot work; we refuse them."""


def values_of(case: str) -> dict[str, Any]:
    values = {**VECTOR["baseline"], **TLS, **CHANGES[case]}
    return {key: value for key, value in values.items() if value is not GONE}


def test_every_case_of_the_vector_is_known() -> None:
    assert [one["case"] for one in VECTOR["cases"]] == list(CHANGES)
    assert {one["case"] for one in VECTOR["cases"] if one["rc"] == 0} >= set(STRICTER)


@pytest.mark.parametrize("case", [one for one in VECTOR["cases"] if one["rc"] != 0], ids=lambda c: c["case"])  # fmt: skip
def test_what_consul_refuses_is_refused_in_its_words(case: dict[str, Any], refuse: Refuse) -> None:
    expected = case["message"].removeprefix("Config validation failed: ")
    expected = expected.removeprefix("1 error occurred: \t* ").strip()
    mistakes = refuse(values_of(case["case"]))
    assert [mistake.text for mistake in mistakes] == [expected]
    assert all(mistake.source in {"a.json", ""} for mistake in mistakes)


@pytest.mark.parametrize("case", [one for one in VECTOR["cases"] if one["rc"] == 0], ids=lambda c: c["case"])  # fmt: skip
def test_what_consul_accepts_is_accepted_unless_it_cannot_work(
    case: dict[str, Any], load_values: Load, refuse: Refuse
) -> None:
    name = case["case"]
    if name in STRICTER:
        assert STRICTER[name] in [mistake.text for mistake in refuse(values_of(name))]
        return
    config = load_values(values_of(name))
    warning = case["message"].removeprefix("Configuration is valid!").strip()
    assert warning in " ".join(config.warnings)


@pytest.mark.parametrize(
    ("values", "key", "text"),
    [
        ({"data_dir": ""}, "data_dir", "data_dir cannot be empty"),
        ({"bootstrap": True}, "bootstrap", "'bootstrap = true' requires 'server = true'"),
        ({"bootstrap_expect": 3}, "bootstrap_expect", "'bootstrap_expect > 0' requires 'server = true'"),
        ({"bootstrap_expect": -1}, "bootstrap_expect", "bootstrap_expect cannot be -1. Must be greater than or equal to zero"),
        ({"server": True, "bootstrap_expect": 3, "storage": {"engine": "sqlite"}}, "storage.engine", "sqlite keeps the data of one server only"),
        ({"server": True, "bootstrap_expect": 3, "storage": {"engine": "memory"}}, "storage.engine", "memory keeps the data of one server only"),
        ({"server": True, "storage": {"endpoints": ["etcd"]}}, "storage.endpoints", "'etcd' is not host:port"),
        ({"server": True, "storage": {"engine": "memory", "endpoints": ["h:1"]}}, "storage.endpoints", "endpoints are of no use with engine = 'memory'"),
        ({"server": True, "storage": {"endpoints": ["https://h:1"]}}, "storage.endpoints", "https://h:1 without ca_file"),
        ({"server": True, "storage": {"endpoints": ["http://h:1"], "ca_file": "c"}}, "storage.endpoints", "http://h:1 with ca_file"),
        ({"server": True, "storage": {"endpoints": ["h:1"], "password": "p"}}, "storage.password", "password without username"),
        ({"server": True, "bootstrap": True, "bootstrap_expect": 1}, "bootstrap_expect", "'bootstrap_expect > 0' and 'bootstrap = true' are mutually exclusive"),
        ({"datacenter": "dc one"}, "datacenter", 'datacenter can only contain lowercase alphanumeric, - or _ characters. received: "dc one"'),
        ({"encrypt": "AAAA"}, "encrypt", "encrypt has invalid key: it has 3 bytes, not 16, 24 or 32"),
        ({"encrypt": "?"}, "encrypt", "encrypt has invalid key: illegal base64 data"),
        ({"ports": {"dns": 8500}}, "ports.dns", "HTTP address 127.0.0.1:8500 already configured for DNS"),
        ({"ports": {"http": 70000}}, "ports.http", "ports.http must be a port from 1 to 65535, or -1 for none, not 70000"),
        ({"ports": {"server": -1}}, "ports.server", "ports.server cannot be turned off"),
        ({"advertise_addr": "0.0.0.0"}, "advertise_addr", "Advertise address cannot be 0.0.0.0, :: or [::]"),
        ({"advertise_addr_wan": "::"}, "advertise_addr_wan", "Advertise WAN address cannot be 0.0.0.0, :: or [::]"),
        ({"bind_addr": "nowhere"}, "bind_addr", 'bind_addr must be an IP address, not "nowhere"'),
        ({"addresses": {"dns": "unix:///x"}}, "addresses.dns", "DNS address cannot be a unix socket"),
        ({"recursors": ["dns.example"]}, "recursors", "Invalid recursor address: 'dns.example' is not an IP address, with or without a port"),
        ({"recursors": ["8.8.8.8:x"]}, "recursors", "Invalid recursor address: bad port in address '8.8.8.8:x', expected a number from 1 to 65535"),
        ({"dns_config": {"udp_answer_limit": -1}}, "dns_config.udp_answer_limit", "dns_config.udp_answer_limit cannot be -1. Must be greater than or equal to zero"),
        ({"dns_config": {"a_record_limit": -1}}, "dns_config.a_record_limit", "dns_config.a_record_limit cannot be -1. Must be greater than or equal to zero"),
        ({"dns_config": {"service_ttl": {"web": "-1s"}}}, "dns_config.service_ttl", "TTL of web must be from 0 to 2147483647 s"),
        ({"dns_config": {"node_ttl": "-1s"}}, "dns_config.node_ttl", "dns_config.node_ttl must be from 0 to 2147483647 s"),
        ({"dns_config": {"soa": {"retry": -1}}}, "dns_config.soa.retry", "dns_config.soa.retry must be from 0 to 2147483647"),
        ({"domain": "x" * 151}, "domain", "domain is longer than 150 characters"),
        ({"node_name": ""}, "node_name", "node_name cannot be empty"),
        ({"data_dir": "/dev/null"}, "data_dir", 'data_dir "/dev/null" is not a directory'),
        ({"key_file": "k.pem"}, "key_file", "key_file is given without cert_file"),
        ({"ca_file": "c", "verify_incoming": True}, "verify_incoming", "verify_incoming is set, and no certificate is given"),
        ({"client_addr": "here"}, "client_addr", 'client_addr must hold IP addresses, not "here"'),
        ({"node_meta": {"a b": "1"}}, "node_meta", 'Couldn\'t load metadata pair ("a b"): Key name contains invalid characters'),
        ({"node_meta": {"a": "x" * 513}}, "node_meta", 'Couldn\'t load metadata pair ("a"): Value is too long (limit: 512 characters)'),
        ({"node_meta": {"a" * 129: "x"}}, "node_meta", f'Couldn\'t load metadata pair ("{"a" * 129}"): Key name is too long (limit: 128 characters)'),
        ({"node_meta": {f"k{n}": "" for n in range(65)}}, "node_meta", "Node metadata cannot contain more than 64 key/value pairs"),
        ({"node_id": "7"}, "node_id", 'node_id must be a UUID, not "7"'),
        ({"node_meta": {"consul-x": "1"}}, "node_meta", 'Couldn\'t load metadata pair ("consul-x"): Key prefix \'consul-\' is reserved for internal use'),
        ({"cert_file": "c.pem"}, "cert_file", "cert_file is given without key_file"),
        ({"verify_outgoing": True}, "verify_outgoing", "verify_outgoing is set, and no CA certificate is given"),
        ({"ports": {"https": 8501}}, "ports.https", "ports.https is open, and no certificate is given"),
        ({"tls_min_version": "ssl3"}, "tls_min_version", 'tls_min_version must be one of tls10, tls11, tls12, tls13, not "ssl3"'),
        ({"default_query_time": "20m"}, "default_query_time", "default_query_time must not be longer than max_query_time"),
        ({"unix_sockets": {"mode": "rwx"}}, "unix_sockets.mode", 'unix_sockets.mode must be octal, like "0770", not "rwx"'),
        ({"limits": {"http_max_conns_per_client": 0}}, "limits.http_max_conns_per_client", "limits.http_max_conns_per_client must be greater than zero"),
        ({"telemetry": {"prefix_filter": ["+consul.rpc", "consul.http"]}}, "telemetry.prefix_filter", 'telemetry.prefix_filter must hold names behind + or -, not "consul.http"'),
        ({"tls_cipher_suites": "TLS_RSA_WITH_AES_128_CBC_SHA, TLS_RSA_WITH_RC4_128_SHA"}, "tls_cipher_suites", "unsupported cipher suite: TLS_RSA_WITH_RC4_128_SHA"),
        ({"addresses": {"https": "unix:///run/a.sock"}}, "addresses.https", "HTTPS address cannot be a unix socket"),
        ({"telemetry": {"prefix_filter": ["-"]}}, "telemetry.prefix_filter", 'telemetry.prefix_filter must hold names behind + or -, not "-"'),
        ({"telemetry": {"statsd_address": "localhost"}}, "telemetry.statsd_address", 'telemetry.statsd_address must be host:port, not "localhost"'),
        ({"log_level": "loud"}, "log_level", 'log_level must be trace, debug, info, warn or err, not "LOUD"'),
        ({"reconnect_timeout": "1h"}, "reconnect_timeout", "reconnect_timeout must be at least 8h"),
        ({"server": True, "advertise_reconnect_timeout": "1h"}, "advertise_reconnect_timeout", "advertise_reconnect_timeout can only be used on a client"),
        ({"advertise_reconnect_timeout": "0s"}, "advertise_reconnect_timeout", "advertise_reconnect_timeout must be greater than zero"),
        ({"serf_lan_allowed_cidrs": ["lan"]}, "serf_lan_allowed_cidrs", "serf_lan_allowed_cidrs must hold networks like \"10.0.0.0/8\", not 'lan'"),
        ({"gossip_lan": {"probe_timeout": "2s"}}, "gossip_lan.probe_timeout", "gossip_lan.probe_timeout must not be longer than gossip_lan.probe_interval"),
        ({"acl": {"enabled": True}}, "acl.enabled", "acl.enabled = true is not supported by this release"),
        ({"acl": {"default_policy": "deny"}}, "acl.default_policy", "acl.default_policy is not supported by this release"),
        ({"acl_datacenter": "dc1"}, "acl_datacenter", "acl_datacenter turns access control on, which this release does not support"),
        ({"acl_default_policy": "deny"}, "acl_default_policy", "acl_default_policy is not supported by this release"),
    ],
)  # fmt: skip
def test_broken_rule_names_file_key_and_text(
    values: dict[str, Any], key: str, text: str, refuse: Refuse
) -> None:
    (mistake,) = refuse(values)
    assert (mistake.source, mistake.key, mistake.text) == ("a.json", key, text)


def test_bootstrap_expect_is_refused_in_dev_mode(refuse: Refuse) -> None:
    (mistake,) = refuse({"bootstrap_expect": 3}, dev=True)
    assert mistake == Mistake(
        "a.json",
        "bootstrap_expect",
        "'bootstrap_expect > 0' not allowed in dev mode",
        "leave one of them out",
    )


def test_the_gossip_key_is_in_no_message(refuse: Refuse, load_values: Load) -> None:
    secret = "c2VjcmV0"
    for values in ({"encrypt": secret}, {"encrypt": [secret]}, {"acl": {"tokens": secret}}):
        assert all(secret not in str(mistake) for mistake in refuse(values))
    config = load_values({"encrypt": "MDEyMzQ1Njc4OWFiY2RlZg=="})
    assert config.gossip.encrypt == "MDEyMzQ1Njc4OWFiY2RlZg=="
    assert "MDEy" not in repr(config)


def test_missing_primary_text_is_once_only(refuse: Refuse) -> None:
    """A datacenter's bad name is reported for the datacenter, not again as the primary's."""
    assert len(refuse({"datacenter": "dc.2"})) == 1


def warnings_of(config: AgentConfig) -> str:
    return "\n".join(config.warnings)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"server": True, "bootstrap_expect": 1}, "is the same as bootstrap = true"),
        ({"server": True, "bootstrap_expect": 2}, "does not survive the loss of one"),
        ({"server": True, "bootstrap_expect": 4}, "one server more tolerates no fault more"),
        ({"node_name": "n" * 64}, "due to it being too long"),
        (
            {"advertise_addr": "10.0.0.1", "serf_wan_allowed_cidrs": ["172.16.0.0/12"]},
            "serf_wan_allowed_cidrs does not hold our own address 10.0.0.1",
        ),
    ],
)
def test_what_is_probably_not_meant_is_warned_about(
    values: dict[str, Any], words: str, load_values: Load
) -> None:
    assert words in warnings_of(load_values(values))


def test_what_only_servers_use_is_named_on_a_client(load_values: Load) -> None:
    values = {"retry_join_wan": ["10.0.0.1"], "storage": {"engine": "etcd"}}
    found = load_values(values).warnings
    assert [warning.partition(" (")[0] for warning in found] == [
        "retry_join_wan has no effect on a client agent",
        "storage.engine has no effect on a client agent",
    ]
    assert "client agent" not in warnings_of(load_values({**values, "server": True}))


def test_what_gossip_is_told_needs_no_warning(load_values: Load) -> None:
    config = load_values(
        {
            "advertise_addr": "10.0.0.1",
            "serf_lan_allowed_cidrs": ["10.0.0.0/8"],
            "advertise_reconnect_timeout": "1h",
            "disable_keyring_file": True,
            "disable_remote_exec": True,
            "encrypt": "MDEyMzQ1Njc4OWFiY2RlZg==",
            "encrypt_verify_incoming": False,
            "encrypt_verify_outgoing": False,
            "rejoin_after_leave": True,
        }
    )
    assert config.warnings == ()
    assert config.join.rejoin_after_leave
    gossip = config.gossip
    assert (gossip.disable_keyring_file, gossip.advertise_reconnect_timeout) == (True, 3600)
    assert gossip.serf_lan_allowed_cidrs == ("10.0.0.0/8",)


def test_federation_without_a_wan_pool_is_warned_about(load_values: Load) -> None:
    assert "without a WAN pool" in warnings_of(load_values(values_of("serf_wan -1")))


def test_gateways_without_the_flag_are_warned_about(load_values: Load) -> None:
    config = load_values(values_of("primary_gateways without federation flag"))
    assert "primary_gateways has no effect" in warnings_of(config)
