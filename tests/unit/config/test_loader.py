"""Files and flags to one configuration."""

import ipaddress
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.config import AgentConfig, ConfigPath, ConfigText, Surroundings, load
from isthmus.config.model import GossipTimers
from isthmus.config.surroundings import InterfaceAddress
from isthmus.errors import ConfigError, Mistake

Load = Callable[..., AgentConfig]
Refuse = Callable[..., tuple[Mistake, ...]]

ALONE = Surroundings("alpha", list)
SECONDARY = """
server             = true
datacenter         = "dc2"
primary_datacenter = "dc1"
data_dir           = "/var/lib/isthmus"
bind_addr          = "10.2.0.1"
advertise_addr_wan = "192.0.2.9"
ca_file = "ca.pem", cert_file = "c.pem", key_file = "k.pem"
verify_server_hostname = true
connect {
  enabled = true
  enable_mesh_gateway_wan_federation = true
}
primary_gateways          = ["gw1.example.com:8443", "10.9.0.1:443"]
primary_gateways_interval = "5s"
ports { https = -1, serf_lan = 9301 }
service { name = "web" port = 80 }
service { name = "api" port = 81 }
"""


def test_secondary_is_told_everything() -> None:
    config = load([ConfigText(SECONDARY)], surroundings=ALONE)
    assert (config.server, config.datacenter, config.primary_datacenter) == (True, "dc2", "dc1")
    assert not config.primary
    assert config.node_name == "alpha"
    assert config.data_dir == Path("/var/lib/isthmus")
    assert config.connect.mesh_gateway_wan_federation
    assert config.connect.primary_gateways == ("gw1.example.com:8443", "10.9.0.1:443")
    assert config.connect.primary_gateways_interval == 5.0
    assert config.addresses.serf_lan == config.addresses.advertise == "10.2.0.1"
    assert config.addresses.advertise_wan == "192.0.2.9"
    assert config.addresses.tagged == {
        "lan": "10.2.0.1",
        "lan_ipv4": "10.2.0.1",
        "wan": "192.0.2.9",
        "wan_ipv4": "192.0.2.9",
    }
    assert (config.ports.https, config.ports.serf_lan, config.ports.serf_wan) == (-1, 9301, 8302)
    assert config.tls.verify_outgoing
    assert [service["Name"] for service in config.services] == ["web", "api"]
    assert config.warnings == ()


def test_defaults_are_consuls() -> None:
    config = load([ConfigText('data_dir = "/x" bind_addr = "10.0.0.1"')], surroundings=ALONE)
    assert (config.datacenter, config.primary_datacenter, config.domain) == ("dc1", "dc1", "consul")
    assert config.addresses.http == config.addresses.dns == ("127.0.0.1",)
    assert config.join.retry_interval == config.join.retry_interval_wan == 30.0
    assert config.gossip.lan == GossipTimers()
    assert config.gossip.wan == GossipTimers.wan()
    assert (config.leave.on_terminate, config.leave.skip_on_interrupt) == (True, False)


def test_servers_stay_in_the_pool_when_they_stop(load_values: Load) -> None:
    config = load_values({"server": True})
    assert (config.leave.on_terminate, config.leave.skip_on_interrupt) == (False, True)


def test_dev_needs_nothing() -> None:
    config = load([], dev=True, surroundings=ALONE)
    assert config.server
    assert config.dev
    assert config.data_dir is None
    assert config.connect.enabled
    assert config.http.pretty
    assert config.log.level == "DEBUG"
    assert config.addresses.advertise == "127.0.0.1"
    assert config.gossip.lan == GossipTimers.dev()
    assert config.warnings == ()


def test_files_and_flags_win_over_the_dev_preset() -> None:
    config = load(
        [ConfigText('log_level = "warn"')], {"ports.http": 9}, dev=True, surroundings=ALONE
    )
    assert (config.log.level, config.ports.http) == ("WARN", 9)


def test_files_of_a_directory_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "20.json").write_text('{"node_name": "second", "retry_join": ["b"]}')
    (tmp_path / "10.hcl").write_text('node_name = "first"\nretry_join = ["a"]\ndata_dir = "/x"')
    (tmp_path / "notes.txt").write_text("nothing = [")
    (tmp_path / "30.hcl").mkdir()
    later = ConfigText('retry_join = ["c"] bind_addr = "10.0.0.1"')
    config = load([ConfigPath(tmp_path), later], surroundings=ALONE)
    assert config.node_name == "second"
    assert config.join.retry_join == ("a", "b", "c")
    assert config.origins["node_name"] == str(tmp_path / "20.json")


def test_flags_win_and_their_lists_stand_first(load_values: Load) -> None:
    config = load_values(
        {"node_name": "file", "retry_join": ["file"], "node_meta": {"a": "1", "b": "1"}},
        flags={"node_name": "flag", "retry_join": ["flag"], "node_meta": {"b": "2"}},
    )
    assert config.node_name == "flag"
    assert config.join.retry_join == ("flag", "file")
    assert config.node_meta == {"a": "1", "b": "2"}
    assert config.origins["node_name"] == "-node"


def test_service_and_services_add_up(load_values: Load) -> None:
    config = load_values(
        {"service": {"name": "a"}, "services": [{"name": "b"}], "check": {"name": "c", "ttl": "1m"}}
    )
    assert [one["Name"] for one in config.services] == ["a", "b"]
    assert config.checks == ({"Name": "c", "TTL": "1m0s"},)


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.hcl").write_text('nodename = "x"\nretry_interval = "soon"\nserver = "yes"')
    (tmp_path / "b.json").write_text('{\n"datacenter": }')
    (tmp_path / "c.hcl").write_text('bind_addr = 1\nports { htp = 1 }\nprimary_gateways = ["gw"]')
    with pytest.raises(ConfigError) as caught:
        load([ConfigPath(tmp_path), ConfigPath(tmp_path / "none.hcl")], surroundings=ALONE)
    found = {
        (Path(one.source).name, one.key, one.text, one.remedy) for one in caught.value.mistakes
    }
    assert found >= {
        ("a.hcl", "nodename", "invalid config key nodename", 'did you mean "node_name"?'),
        (
            "a.hcl",
            "retry_interval",
            'retry_interval: invalid duration: "soon": time: invalid duration "soon"',
            'write a number and a unit, like "30s", "5m" or "1h30m"',
        ),
        ("a.hcl", "server", "server must be true or false, not 'yes'", ""),
        ("b.json:2", "", "JSON: Expecting value", ""),
        ("c.hcl", "bind_addr", "bind_addr must be a text in quotes, not 1", ""),
        ("c.hcl", "ports.htp", "invalid config key ports.htp", 'did you mean "ports.http"?'),
        ("none.hcl", "", "cannot be read: No such file or directory", ""),
        ("", "data_dir", "data_dir cannot be empty", "set data_dir, or start with -dev"),
    }


def test_a_key_at_the_wrong_place_is_pointed_to_the_right_one(refuse: Refuse) -> None:
    (mistake,) = refuse({"enable_mesh_gateway_wan_federation": True})
    assert mistake.remedy == 'did you mean "connect.enable_mesh_gateway_wan_federation"?'


def test_keys_of_later_releases_are_accepted_with_a_warning(load_values: Load) -> None:
    config = load_values(
        {
            "autopilot": {"upgrade_version_tag": "x"},
            "disable_update_check": True,
            "telemetry": {"circonus_api_token": "x", "disable_compat_1.9": True},
            "ui": True,
        }
    )
    assert config.ui.enabled
    assert sorted(text.partition(" (")[0] for text in config.warnings) == [
        "autopilot.upgrade_version_tag: accepted, but this release does not act on it yet",
        "disable_update_check: accepted and ignored, it has no meaning for isthmus",
        "telemetry.circonus_api_token: ignored, it has no meaning for isthmus",
        "ui_config.enabled: accepted, but this release does not act on it yet",
    ]


def test_newer_spelling_of_tls_is_read(load_values: Load) -> None:
    config = load_values(
        {
            "tls": {
                "defaults": {"ca_file": "ca", "cert_file": "c", "key_file": "k"},
                "internal_rpc": {"verify_server_hostname": True, "verify_incoming": True},
            }
        }
    )
    assert config.tls.configured
    assert config.tls.requires_rpc_client_certificate
    assert not config.tls.requires_https_client_certificate
    assert config.tls.verify_server_hostname


def test_templates_are_expanded(load_values: Load) -> None:
    config = load_values(
        {
            "server": True,
            "primary_datacenter": "dc0",
            "bind_addr": '{{ GetInterfaceIP "eth0" }}',
            "client_addr": "127.0.0.1 {{ GetPrivateIP }}",
            "advertise_addr_wan": "{{ GetPublicIP }}",
            "primary_gateways": ["{{ GetPrivateIP }}:8443", "gw:1"],
            "retry_join": ["{{ GetPrivateIPs }}"],
        }
    )
    assert config.addresses.bind == config.addresses.advertise == "10.1.0.5"
    assert config.addresses.http == ("127.0.0.1", "10.1.0.5")
    assert config.addresses.advertise_wan == "8.8.4.4"
    assert config.connect.primary_gateways == ("10.1.0.5:8443", "gw:1")
    assert config.join.retry_join == ("10.1.0.5", "fd00::5")


def test_template_that_is_not_supported_is_one_mistake(refuse: Refuse) -> None:
    (mistake,) = refuse({"bind_addr": '{{ GetAllInterfaces | include "name" "eth0" }}'})
    assert mistake.source == "a.json"
    assert "GetAllInterfaces" in mistake.text
    assert "is not supported; write an address" in mistake.text


def test_ambiguous_address_is_refused() -> None:
    text = ConfigText('data_dir = "/x"')
    with pytest.raises(ConfigError, match="No private IPv4 address found"):
        load([text], surroundings=ALONE)


def test_several_private_addresses_are_named(machine: Surroundings) -> None:
    both = Surroundings(
        "alpha",
        lambda: [
            *machine.interfaces(),
            InterfaceAddress("eth2", ipaddress.ip_address("192.168.0.9")),
        ],
    )
    with pytest.raises(ConfigError) as caught:
        load([ConfigText('data_dir = "/x"')], surroundings=both)
    (mistake,) = caught.value.mistakes
    assert mistake.text.startswith("Multiple private IPv4 addresses found.")
    assert mistake.remedy == "set bind_addr or advertise_addr: 10.1.0.5, 192.168.0.9"


def test_unreadable_addresses_are_a_mistake() -> None:
    def broken() -> list[InterfaceAddress]:
        raise OSError("no netlink")

    with pytest.raises(ConfigError, match="addresses cannot be read: no netlink"):
        load([ConfigText('data_dir = "/x"')], surroundings=Surroundings("alpha", broken))


def test_addresses_of_both_versions_are_tagged(load_values: Load) -> None:
    config = load_values(
        {
            "bind_addr": "::",
            "advertise_addr_ipv4": "10.0.0.1",
            "advertise_addr_ipv6": "fd00::1",
            "advertise_addr_wan": "fd00::2",
            "advertise_addr_wan_ipv4": "192.0.2.1",
            "tagged_addresses": {"mine": "10.9.9.9"},
        }
    )
    assert config.addresses.advertise == "10.0.0.1"
    assert config.addresses.tagged == {
        "lan": "10.0.0.1",
        "lan_ipv4": "10.0.0.1",
        "lan_ipv6": "fd00::1",
        "wan": "fd00::2",
        "wan_ipv4": "192.0.2.1",
        "wan_ipv6": "fd00::2",
        "mine": "10.9.9.9",
    }


def test_domains_lose_their_last_dot_and_suites_are_split(load_values: Load) -> None:
    suites = ["TLS_RSA_WITH_AES_128_CBC_SHA", "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"]
    values = {"domain": "example.com.", "alt_domain": "alt."}
    config = load_values({**values, "tls_cipher_suites": ", ".join(suites)})
    assert (config.domain, config.alt_domain) == ("example.com", "alt")
    assert config.tls.cipher_suites == tuple(suites)


def test_script_checks_of_everyone_include_those_of_files(load_values: Load) -> None:
    config = load_values({"enable_script_checks": True})
    assert config.check.enable_local_script_checks
    assert config.check.enable_remote_script_checks


def test_unix_socket_serves_http(load_values: Load) -> None:
    config = load_values({"addresses": {"http": "unix:///run/isthmus.sock 127.0.0.1"}})
    assert config.addresses.http == ("unix:///run/isthmus.sock", "127.0.0.1")


def test_null_is_as_good_as_nothing(load_values: Load) -> None:
    assert load_values({"node_name": None, "connect": None}).node_name == "alpha"


def test_lists_of_one_stand_for_their_element(load_values: Load) -> None:
    """As Consul takes them, because HCL's blocks are lists."""
    config = load_values({"connect": [{"enabled": True}], "node_meta": [{"a": "b"}]})
    assert config.connect.enabled
    assert config.node_meta == {"a": "b"}


leaves = st.fixed_dictionaries(
    {},
    optional={
        "server": st.booleans(),
        "node_name": st.sampled_from(["a", "node-1"]),
        "node_meta": st.dictionaries(st.sampled_from(["a", "b"]), st.text("xyz", max_size=3)),
        "retry_join": st.lists(st.sampled_from(["10.0.0.1", "host", "[::1]:8301"]), max_size=3),
        "retry_interval": st.sampled_from(["1s", "500ms", "1m30s"]),
        "ports": st.dictionaries(st.sampled_from(["http"]), st.integers(1, 8000)),
        "connect": st.fixed_dictionaries({"enabled": st.booleans()}),
        "limits": st.fixed_dictionaries({"http_max_conns_per_client": st.integers(1, 10**6)}),
        "services": st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(["web", "db"]), "port": st.integers(0, 65535)},
                optional={"tags": st.lists(st.text("ab", max_size=2), max_size=2)},
            ),
            max_size=2,
        ),
    },
)  # fmt: skip


def as_hcl(values: dict[str, Any], *, blocks: bool) -> str:
    """The same configuration in HCL, sections as blocks or as objects."""

    def written(value: Any) -> str:
        if isinstance(value, dict):
            return "{\n" + as_hcl(value, blocks=blocks) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(map(written, value)) + "]"
        return json.dumps(value)

    return "".join(
        f"{key}{' ' if blocks and isinstance(value, dict) else ' = '}{written(value)}\n"
        for key, value in values.items()
    )


@given(values=leaves, blocks=st.booleans())
def test_hcl_and_json_configure_the_same(values: dict[str, Any], blocks: bool) -> None:
    values = {"data_dir": "/x", "bind_addr": "10.0.0.1", **values}
    one = load([ConfigText(json.dumps(values), "json", "x")], surroundings=ALONE)
    other = load([ConfigText(as_hcl(values, blocks=blocks), "hcl", "x")], surroundings=ALONE)
    assert one == other


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 70000) | st.text("ab0s:{} .", max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", max_size=2), inner),
    max_leaves=4,
)
some_keys = st.sampled_from(
    ["server", "node_name", "ports", "connect", "retry_join", "service", "checks", "node_meta",
     "bind_addr", "client_addr", "retry_interval", "gossip_lan", "acl", "dns_config", "encrypt",
     "primary_gateways", "datacenter", "tagged_addresses", "config_entries", "nonsense"]
)  # fmt: skip


@given(values=st.dictionaries(some_keys, json_values, max_size=4))
def test_any_values_are_a_configuration_or_mistakes(values: dict[str, Any]) -> None:
    refused = False
    try:
        load([ConfigText(json.dumps(values), "json", "x")], surroundings=ALONE)
    except ConfigError as error:
        refused = bool(error.mistakes)
    assert refused or "data_dir" in values
