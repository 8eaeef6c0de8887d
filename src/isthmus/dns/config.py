"""What the operator configures about DNS. Source: protocol/cli-config-dns.md §3.4."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from isthmus.names import split_host_port

OFF: Final = -1
"""Port number of a door that is not wanted."""
PORT: Final = 8600
RECURSOR_PORT: Final = 53


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsConfig:
    """The DNS door of an agent.

    Attributes:
        datacenter: Ours; asked when a name says none.
        node_name: Of this agent; prepared queries sort by the distance to it.
        domain: Names under it are answered; without dots at its ends.
        alt_domain: Names under this one too; empty for none.
        addresses: Where it listens.
        port: UDP and TCP port; 0 for any free one, `OFF` for none.
        recursors: ``address``, ``address:port`` or ``[v6]:port`` of servers that know other names.
        recursor_timeout: Seconds that one of them has to answer.
        token: ACL secret that look-ups are made with.
        allow_stale: Any server may answer a look-up.
        max_stale: Seconds; what is older is asked again from the leader.
        node_ttl: Seconds; TTL of what is known of nodes.
        service_ttl: Seconds by service name, ``prefix*`` or ``*``.
        use_cache: Look-ups are answered from the agent's cache, where it keeps them.
        cache_max_age: Seconds; oldest answer of a prepared query from it; 0 for any.
        only_passing: Instances with warnings are left out too.
        enable_truncate: A shortened answer says so (TC).
        a_record_limit: Most addresses in an answer; 0 for no limit.
        udp_answer_limit: Most records in an answer by UDP without EDNS, at most 8.
        disable_compression: Names are written in full.
        node_meta_txt: The node's metadata go along with addresses and SRV records.
        translate_wan_addrs: Answers about other datacenters have WAN addresses and ports.
        soa_refresh, soa_retry, soa_expire, soa_min_ttl: Seconds in the SOA record.
    """

    datacenter: str
    node_name: str
    domain: str = "consul"
    alt_domain: str = ""
    addresses: tuple[str, ...] = ("127.0.0.1",)
    port: int = PORT
    recursors: tuple[str, ...] = ()
    recursor_timeout: float = 2.0
    token: str = ""
    allow_stale: bool = True
    max_stale: float = 315_360_000.0
    node_ttl: float = 0.0
    service_ttl: Mapping[str, float] = field(default_factory=dict)
    use_cache: bool = False
    cache_max_age: float = 0.0
    only_passing: bool = False
    enable_truncate: bool = False
    a_record_limit: int = 0
    udp_answer_limit: int = 3
    disable_compression: bool = False
    node_meta_txt: bool = True
    translate_wan_addrs: bool = False
    soa_refresh: int = 3600
    soa_retry: int = 600
    soa_expire: int = 86400
    soa_min_ttl: int = 0

    def __post_init__(self) -> None:
        assert self.domain
        assert self.domain == self.domain.strip(".").lower()
        assert self.alt_domain == self.alt_domain.strip(".").lower()
        assert self.recursor_timeout > 0

    @property
    def recursor_addresses(self) -> list[tuple[str, int]]:
        """Hosts and ports of the recursors.

        Raises:
            ValueError: One is no address; the text says which.
        """
        return [recursor_address(text) for text in self.recursors]

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains that are answered."""
        return (self.domain, self.alt_domain) if self.alt_domain else (self.domain,)

    def ttl_of(self, service: str) -> int:
        """TTL in seconds of answers about a service: its own, or the longest prefix's."""
        exact = self.service_ttl.get(service)
        if exact is not None and not service.endswith("*"):
            return int(exact)
        prefixes = [
            key
            for key in self.service_ttl
            if key.endswith("*") and service.startswith(key.removesuffix("*"))
        ]
        return int(self.service_ttl[max(prefixes, key=len)]) if prefixes else 0


def recursor_address(text: str) -> tuple[str, int]:
    """Host and port of a recursor: ``address``, ``address:port``, ``[v6]:port``.

    Raises:
        ValueError: It is none; the text says why.
    """
    bare = text.strip("[]")
    if (":" not in text or text.count(":") > 1) and (text.endswith("]") or "]" not in text):
        host, port = bare, RECURSOR_PORT
    else:
        host, port = split_host_port(text)
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address, with or without a port") from None
    return host, port
