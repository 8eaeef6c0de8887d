"""The agent's DNS door: made from its configuration, opened, reconfigured.

Source: protocol/cli-config-dns.md §3.
"""

from collections.abc import Callable
from datetime import datetime
from random import Random
from typing import Any

from isthmus.agent.cache import CallCache
from isthmus.agent.ports import listening
from isthmus.config.model import AgentConfig
from isthmus.dns.config import DnsConfig
from isthmus.dns.lookups import Rpc
from isthmus.dns.server import DnsServer
from isthmus.net.network import Network


def dns_config(config: AgentConfig) -> DnsConfig:
    """The DNS door's part of an agent's configuration."""
    dns = config.dns
    return DnsConfig(
        datacenter=config.datacenter,
        node_name=config.node_name,
        domain=config.domain.strip(".").lower(),
        alt_domain=config.alt_domain.strip(".").lower(),
        addresses=_hosts(config),
        port=config.ports.dns,
        recursors=dns.recursors,
        recursor_timeout=dns.recursor_timeout,
        token=config.acl.tokens.get("default", ""),
        allow_stale=dns.allow_stale,
        max_stale=dns.max_stale,
        node_ttl=dns.node_ttl,
        service_ttl=dns.service_ttl,
        use_cache=dns.use_cache,
        cache_max_age=dns.cache_max_age,
        only_passing=dns.only_passing,
        enable_truncate=dns.enable_truncate,
        a_record_limit=dns.a_record_limit,
        udp_answer_limit=dns.udp_answer_limit,
        disable_compression=dns.disable_compression,
        node_meta_txt=dns.enable_additional_node_meta_txt,
        translate_wan_addrs=config.translate_wan_addrs,
        soa_refresh=dns.soa_refresh,
        soa_retry=dns.soa_retry,
        soa_expire=dns.soa_expire,
        soa_min_ttl=dns.soa_min_ttl,
    )


async def open_dns(
    config: AgentConfig,
    rpc: Rpc,
    *,
    is_here: Callable[[bool], bool],
    cache: CallCache,
    network: Network,
    rng: Random,
    wall: Callable[[], datetime],
) -> DnsServer:
    """Open an agent's DNS door; see `dns.server.DnsServer` for the arguments.

    Raises:
        ConfigError: A port cannot be opened.
    """

    async def cached(method: str, request: Any) -> Any:
        if not cache.keeps(method):
            return await rpc(method, request)
        return (await cache.get(method, request)).reply

    server = DnsServer(
        dns_config(config),
        rpc,
        is_here=is_here,
        cached=cached,
        network=network,
        rng=rng,
        wall=wall,
    )
    key = "client_addr" if config.addresses.dns == config.addresses.client else "addresses.dns"
    with listening(config, "DNS", key, *_hosts(config), port="dns"):
        await server.start()
    return server


def _hosts(config: AgentConfig) -> tuple[str, ...]:
    """Where DNS listens: what `client_addr` has of unix sockets is for HTTP only."""
    return tuple([host for host in config.addresses.dns if "/" not in host])
