"""The agent's DNS door out of its configuration."""

import socket
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest

from isthmus.agent.cache import CallCache
from isthmus.agent.dns import dns_config, open_dns
from isthmus.config.model import AclConfig, AddressConfig, AgentConfig, DnsConfig, PortConfig
from isthmus.errors import ConfigError
from isthmus.net.sockets import SocketNetwork
from support.dns import catalog, instance


def make(**fields: Any) -> AgentConfig:
    return AgentConfig(node_name="own", **fields)


def test_every_setting_arrives() -> None:
    dns = DnsConfig(
        recursors=("192.0.2.53",),
        allow_stale=False,
        max_stale=1.0,
        node_ttl=2.0,
        service_ttl={"web": 3.0},
        only_passing=True,
        enable_truncate=True,
        a_record_limit=4,
        udp_answer_limit=5,
        disable_compression=True,
        recursor_timeout=6.0,
        enable_additional_node_meta_txt=False,
        use_cache=True,
        cache_max_age=7.0,
        soa_refresh=8,
        soa_retry=9,
        soa_expire=10,
        soa_min_ttl=11,
    )
    made = dns_config(
        make(
            dns=dns,
            datacenter="dc2",
            domain="Site.",
            alt_domain="other.example.",
            translate_wan_addrs=True,
            acl=AclConfig(tokens={"default": "secret"}),
            ports=PortConfig(dns=53),
            addresses=AddressConfig(dns=("192.0.2.1",)),
        )
    )
    for name in (
        *("recursors", "allow_stale", "max_stale", "node_ttl", "service_ttl", "only_passing"),
        *("enable_truncate", "a_record_limit", "udp_answer_limit", "disable_compression"),
        *("recursor_timeout", "use_cache", "cache_max_age", "soa_refresh", "soa_retry"),
        *("soa_expire", "soa_min_ttl"),
    ):
        assert getattr(made, name) == getattr(dns, name), name
    assert not made.node_meta_txt
    assert made.translate_wan_addrs
    assert (made.datacenter, made.node_name) == ("dc2", "own")
    assert made.domains == ("site", "other.example")
    assert (made.token, made.port, made.addresses) == ("secret", 53, ("192.0.2.1",))


def test_unix_sockets_are_for_http_only() -> None:
    client = ("192.0.2.1", "unix:///run/isthmus.sock")
    made = dns_config(make(addresses=AddressConfig(client=client, dns=client)))
    assert made.addresses == ("192.0.2.1",)


@pytest.mark.parametrize(
    ("client", "key"), [("127.0.0.1", "client_addr"), ("127.0.0.2", "addresses.dns")]
)
async def test_port_that_cannot_be_opened_is_the_operator_s_to_change(
    client: str, key: str
) -> None:
    rpc, rng = catalog(instance()), Random(0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        config = make(
            ports=PortConfig(dns=port),
            addresses=AddressConfig(client=(client,), dns=("127.0.0.1",)),
        )
        with pytest.raises(ConfigError) as caught:
            await open_dns(
                config,
                rpc,
                is_here=lambda stale: True,
                cache=CallCache(rpc, rng=rng),
                network=SocketNetwork(),
                rng=rng,
                wall=lambda: datetime(2026, 1, 1, tzinfo=UTC),
            )
    (mistake,) = caught.value.mistakes
    assert mistake.key == f"{key}, ports.dns"
    assert f"cannot listen for DNS on 127.0.0.1:{port}: address already in use" in mistake.text
