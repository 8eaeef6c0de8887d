"""Servers by datacenter, as the gossip pools know them, and whom to ask first.

Source: protocol/gossip.md §14.2, protocol/rpc.md §7, §11.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from isthmus.federation.cooling import Cooling
from isthmus.model.coordinate import Coord, Coordinate, DatacenterMap, distance

_BUILD: Final = re.compile(r"\d+\.\d+\.\d+")
_INTEGERS: Final = ("port", "vsn")
_OPTIONAL_INTEGERS: Final = ("expect", "wan_join_port", "raft_vsn")
_WAN_AREA: Final = "wan"
NEAR_RATIO: Final = 1.25
NEAR_SLACK: Final = 0.002
"""A server counts as near as the nearest up to so many times its distance, and seconds more."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A server as a pool's member tags describe it.

    Attributes:
        name: Member name in its pool (``node.dc`` in the WAN pool).
        node: Short node name.
        dc: Its datacenter.
        host: Address it gossips from.
        port: Its RPC port.
        wan_join_port: Its WAN gossip port; 0 when its tags do not say.
        alive: Whether the pool believes it alive; a failed one stays known.
        features: Tags ``ft_…`` without the prefix, as integers.
        build: Version text.
    """

    name: str
    node: str
    dc: str
    host: str
    port: int
    wan_join_port: int = 0
    alive: bool = True
    features: tuple[tuple[str, int], ...] = ()
    build: str = ""

    def supports_federation_states(self) -> bool:
        """Whether it carries the tag ``ft_fs`` = 1."""
        return dict(self.features).get("fs") == 1


def parse_server(
    name: str, host: str, tags: Mapping[str, str], *, alive: bool
) -> ServerInfo | None:
    """Read a member's tags; None when it is no server.

    A server has role ``consul``, a build with a version in it, and integers where they belong.
    """
    if tags.get("role") != "consul" or not _BUILD.search(tags.get("build", "")):
        return None
    try:
        port, _ = (int(tags[key]) for key in _INTEGERS)
        optional = {key: int(tags[key]) for key in _OPTIONAL_INTEGERS if key in tags}
        features = tuple(
            sorted((key[3:], int(value)) for key, value in tags.items() if key.startswith("ft_"))
        )
    except (KeyError, ValueError):
        return None
    dc = tags.get("dc", "")
    suffix = f".{dc}"
    return ServerInfo(
        name=name,
        node=name[: -len(suffix)] if name.endswith(suffix) else name,
        dc=dc,
        host=host,
        port=port,
        wan_join_port=optional.get("wan_join_port", 0),
        alive=alive,
        features=features,
        build=tags.get("build", ""),
    )


class Router:
    """Which servers a datacenter has, and in which order to try them.

    Alive servers stand before failed ones; one that failed a call goes behind its equals, and
    behind all others that are alive while it cools down.
    """

    def __init__(self) -> None:
        self._servers: dict[str, dict[str, ServerInfo]] = {}
        self._cooling = Cooling()

    def put(self, server: ServerInfo) -> bool:
        """Add or replace a server; returns whether its datacenter is new."""
        is_new = server.dc.lower() not in self._servers
        servers = self._servers.setdefault(server.dc.lower(), {})
        known = servers.get(server.name)
        if known is not None and server.alive and not known.alive:
            self._cooling.forget(server.name)  # It came back.
        servers[server.name] = server
        return is_new

    def remove(self, name: str, dc: str) -> bool:
        """Forget a server that left; returns whether its datacenter is gone with it."""
        servers = self._servers.get(dc.lower(), {})
        self._cooling.forget(name)
        if servers.pop(name, None) is None or servers:
            return False
        del self._servers[dc.lower()]
        return True

    def servers(self, dc: str) -> tuple[ServerInfo, ...]:
        """Servers of a datacenter, those alive first; empty when it is unknown."""
        servers = self._servers.get(dc.lower(), {}).values()
        return tuple(sorted(servers, key=lambda server: not server.alive))

    def in_order(
        self,
        dc: str,
        *,
        now: float,
        far: Callable[[str], float] = lambda name: math.inf,
        repeatable: bool = True,
    ) -> tuple[ServerInfo, ...]:
        """Servers of a datacenter in the order to try: the nearest first.

        Args:
            dc: The datacenter.
            now: Seconds on the driver's monotonic clock.
            far: Seconds to a member of the WAN pool and back; infinite when that is unknown.
            repeatable: Whether the call may be made twice: a read.
        """
        distances = {server.name: far(server.name) for server in self.servers(dc)}
        near = min(distances.values(), default=0.0) * NEAR_RATIO + NEAR_SLACK

        def rank(server: ServerInfo) -> tuple[bool, bool, float]:
            away = distances[server.name]
            return (
                not server.alive,
                self._cooling.is_cooling(server.name, now=now, repeatable=repeatable),
                0.0 if away <= near else away,
            )

        return tuple(sorted(self.servers(dc), key=rank))

    def failed(self, server: ServerInfo, *, now: float) -> None:
        """A call to it failed: the others come first for a while, its equals for longer."""
        servers = self._servers.get(server.dc.lower(), {})
        if server.name in servers:
            self._cooling.failed(server.name, now=now)
            servers[server.name] = servers.pop(server.name)

    def answered(self, server: ServerInfo) -> None:
        """It carried a call out."""
        self._cooling.forget(server.name)

    def datacenters(self) -> tuple[str, ...]:
        """Known datacenters, sorted."""
        return tuple(sorted(self._servers))

    def datacenters_by_distance(
        self, dc: str, *, origin: Coord, coordinates: Mapping[str, Coord]
    ) -> tuple[str, ...]:
        """Known datacenters, nearest first; those equally far by name, those of unknown place last.

        A datacenter is as far away as the median of its servers. Ours is nowhere but here.

        Args:
            dc: Our datacenter.
            origin: Our coordinate in the WAN pool.
            coordinates: Those of its members, by name.

        Source: protocol/http-api.md §6.1 ("sorted by median RTT then name").
        """

        def far(name: str) -> float:
            if name == dc.lower():
                return 0.0
            known = [coordinates.get(server) for server in self._servers[name]]
            distances = [math.inf if one is None else distance(origin, one) for one in known]
            return sorted(distances)[len(distances) // 2]

        return tuple(sorted(self.datacenters(), key=far))

    def datacenter_maps(self, coordinates: Mapping[str, Coord]) -> tuple[DatacenterMap, ...]:
        """Where the servers of each datacenter lie, as far as `coordinates` of members say it."""
        return tuple(
            [
                DatacenterMap(
                    datacenter=dc,
                    area_id=_WAN_AREA,
                    coordinates=tuple(
                        [
                            Coordinate(node=server.node, coord=coordinates[server.name])
                            for server in sorted(
                                self._servers[dc].values(), key=lambda server: server.node
                            )
                            if server.name in coordinates
                        ]
                    ),
                )
                for dc in self.datacenters()
            ]
        )


def federation_states_supported(servers: Iterable[ServerInfo], dcs: Iterable[str]) -> bool:
    """Whether every server of each of `dcs` supports federation states, and each has one.

    Source: protocol/federation.md §9.3.
    """
    wanted = {dc.lower() for dc in dcs}
    found: set[str] = set()
    for server in servers:
        if server.dc.lower() in wanted:
            if not server.supports_federation_states():
                return False
            found.add(server.dc.lower())
    return found == wanted
