"""What our members' tags say, and what the catalog is told about members of the LAN pool.

Source: protocol/gossip.md §14.2, §14.5.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from isthmus import __version__
from isthmus.federation.router import ServerInfo
from isthmus.gossip.roster import Member, MemberStatus
from isthmus.model.catalog import (
    CONSUL_SERVICE,
    CRITICAL,
    PASSING,
    SERF_HEALTH,
    HealthCheck,
    NodeService,
    RegisterRequest,
    Weights,
)
from isthmus.model.network import Networks
from isthmus.units import Duration

COMPATIBLE_BUILD: Final = "1.10.11"
"""Consul release whose protocols we speak; peers decide by it what they may ask of us."""

_PROTOCOL, _PROTOCOL_MIN, _PROTOCOL_MAX = "2", "2", "3"
_RAFT_PROTOCOL: Final = "3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this server is, as its tags say.

    Attributes:
        uses_tls: A CA is configured.
        wan_port: WAN gossip port; -1 when there is no WAN pool.
    """

    node: str
    node_id: str
    dc: str
    rpc_port: int
    wan_port: int
    bootstrap: bool
    expect: int
    uses_tls: bool


def client_tags(identity: Identity, *, reconnect_timeout: float = 0.0) -> dict[str, str]:
    """Tags of a client agent in the LAN pool.

    Args:
        identity: Who it is; what only servers have does not count.
        reconnect_timeout: Seconds after which the others forget it once it failed; 0: as they
            are configured.
    """
    tags = {"role": "node", **_common_tags(identity)}
    if reconnect_timeout:
        tags["rc_tm"] = str(Duration.of(reconnect_timeout))
    return tags


def _common_tags(identity: Identity) -> dict[str, str]:
    return {
        "dc": identity.dc,
        "segment": "",
        "id": identity.node_id,
        "vsn": _PROTOCOL,
        "vsn_min": _PROTOCOL_MIN,
        "vsn_max": _PROTOCOL_MAX,
        "build": f"{COMPATIBLE_BUILD}:isthmus-{__version__}",
        "acls": "0",
    }


def server_tags(identity: Identity, *, wan: bool) -> dict[str, str]:
    """Tags of a server in the LAN pool, or with `wan` in the WAN pool."""
    tags = {
        "role": "consul",
        **_common_tags(identity),
        "raft_vsn": _RAFT_PROTOCOL,
        "port": str(identity.rpc_port),
        "ft_fs": "1",
        "ft_si": "1",
    }
    if identity.bootstrap:
        tags["bootstrap"] = "1"
    if identity.expect > 1:
        tags["expect"] = str(identity.expect)
    if identity.uses_tls:
        tags["use_tls"] = "1"
    if not wan and identity.wan_port > 0:
        tags["wan_join_port"] = str(identity.wan_port)
    return tags


def member_registration(
    *, node: str, address: str, tags: Mapping[str, str], server: ServerInfo | None, alive: bool
) -> RegisterRequest:
    """What the leader writes about a LAN member: node, serfHealth, and the service of a server."""
    return RegisterRequest(
        datacenter=tags.get("dc", ""),
        id=tags.get("id", ""),
        node=node,
        address=address,
        service=_server_service(server, tags) if server is not None else None,
        check=HealthCheck(
            node=node,
            check_id=SERF_HEALTH,
            name="Serf Health Status",
            status=PASSING if alive else CRITICAL,
            output="Agent alive and reachable" if alive else "Agent not live or unreachable",
        ),
        skip_node_update=True,  # The node's own agent writes its tagged addresses and meta.
    )


def _server_service(server: ServerInfo, tags: Mapping[str, str]) -> NodeService:
    return NodeService(
        id=CONSUL_SERVICE,
        service=CONSUL_SERVICE,
        port=server.port,
        weights=Weights(passing=1, warning=1),
        meta={
            "non_voter": str("nonvoter" in tags).lower(),
            "raft_version": tags.get("raft_vsn", _RAFT_PROTOCOL),
            "read_replica": str("read_replica" in tags).lower(),
            "serf_protocol_current": "2",
            "serf_protocol_max": "5",
            "serf_protocol_min": "1",
            "version": server.build.partition(":")[0],
        },
    )


def wan_member_problem(name: str, tags: Mapping[str, str], server: ServerInfo | None) -> str:
    """Why a member may not be in the WAN pool; empty when it may."""
    return "" if server is not None else f"Member '{name}' is not a server"


def lan_member_problem(
    name: str, tags: Mapping[str, str], *, own_name: str, own_id: str, dc: str
) -> str:
    """Why a member may not be in the LAN pool; empty when it may.

    Source: protocol/gossip.md §14.3.
    """
    if tags.get("role") in {"consul", "node"} and tags.get("dc") != dc:
        return f"Member '{name}' part of wrong datacenter '{tags.get('dc', '')}'"
    if tags.get("segment", ""):
        return f"Member '{name}' part of wrong segment '{tags['segment']}' (expected '')"
    if tags.get("id") and tags["id"] == own_id and name.lower() != own_name.lower():
        return f"Member '{name}' has conflicting node ID '{own_id}' with this agent's ID"
    return ""


def address_problem(
    members: Sequence[Member], allowed: Networks, *, own_name: str, key: str
) -> str | None:
    """Why members may not be in a pool: the operator allows no such address.

    Args:
        members: To be let in.
        allowed: Networks; none: every address is allowed.
        own_name: Our member name: we are in it anyway.
        key: Where the operator says so.
    """
    if not allowed:
        return None
    for member in members:
        if member.name != own_name and member.address not in allowed:
            return f"Member '{member.name}': {member.address} is not allowed by {key}"
    return None


def shared_id_problem(members: Sequence[Member]) -> str | None:
    """Why a list of LAN members contradicts itself: two of them share a node id."""
    owners: dict[str, str] = {}
    for member in members:
        own_id = member.tags.get("id", "")
        if not own_id or member.status is MemberStatus.LEFT:
            continue
        other = owners.setdefault(own_id, member.name)
        if other != member.name:
            return (
                f"Member '{member.name}' has conflicting node ID '{own_id}' with member '{other}'"
            )
    return None
