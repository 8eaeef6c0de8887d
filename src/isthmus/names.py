"""Who is where: node names, TLS server names, ALPN identifiers, default ports.

Every name that two programs must agree on is made and taken apart here and nowhere else.
"""

from enum import StrEnum
from typing import Final

from isthmus.errors import InvalidNodeName

SERVER_PORT: Final = 8300
SERF_LAN_PORT: Final = 8301
SERF_WAN_PORT: Final = 8302
HTTP_PORT: Final = 8500
GATEWAY_PORT: Final = 8443

ANY_SERVER: Final = "*"
"""Node name that stands for whichever server of a datacenter a gateway picks."""

WAN_JOIN_PLACEHOLDER: Final = "192.0.2.2"
"""Address in the first WAN join through gateways: a documentation address, never dialled."""

WAN_FEDERATION_META: Final = "consul-wan-federation"
"""Service meta key that marks a mesh gateway which exposes its datacenter's servers ("1")."""

MESH_GATEWAY_KIND: Final = "mesh-gateway"


class Alpn(StrEnum):
    """Protocols that native TLS on the server port carries.

    Source: protocol/rpc.md §1.2. The order is the order in which servers offer them.
    """

    RPC_SINGLE = "consul/rpc-single"
    RAFT = "consul/raft"
    RPC_MULTI = "consul/rpc-multi"
    RPC_SNAPSHOT = "consul/rpc-snapshot"
    RPC_GOSSIP = "consul/rpc-gossip"
    RPC_GRPC = "consul/rpc-grpc"
    WAN_GOSSIP_PACKET = "consul/wan-gossip/packet"
    WAN_GOSSIP_STREAM = "consul/wan-gossip/stream"


def wan_name(node: str, dc: str) -> str:
    """Name of a server in the WAN pool: ``node.dc``."""
    return f"{node}.{dc}"


def split_wan_name(name: str) -> tuple[str, str]:
    """Split ``node.dc`` into node and datacenter.

    Raises:
        InvalidNodeName: There is not exactly one dot, so the name does not say a datacenter.

    Source: protocol/federation.md §15.1.
    """
    node, dot, dc = name.partition(".")
    if not dot or not dc or "." in dc:
        raise InvalidNodeName(f"node name does not encode a datacenter: {name}")
    return node, dc


def server_name(dc: str, domain: str, node: str = ANY_SERVER) -> str:
    """TLS server name (SNI) of one server, or with ``*`` of any server, of a datacenter.

    Source: protocol/federation.md §6.3.
    """
    domain = domain.rstrip(".")
    return f"server.{dc}.{domain}" if node == ANY_SERVER else f"{node}.server.{dc}.{domain}"


def host_port(host: str, port: int) -> str:
    """Join ``host:port``; an IPv6 address stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_host_port(address: str) -> tuple[str, int]:
    """Split ``host:port``, ``[v6]:port``.

    Raises:
        ValueError: Host or port is missing, or the port is not a number from 1 to 65535; the
            text says which.
    """
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if host in {"", "[]"} and colon:
        raise ValueError(f"missing host in address {address!r}, expected HOST:PORT")
    if not colon or (":" in host and not bracketed):
        raise ValueError(f"missing port in address {address!r}, expected HOST:PORT")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"bad port in address {address!r}, expected a number from 1 to 65535")
    return host[1:-1] if bracketed else host, int(port)
