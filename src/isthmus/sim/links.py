"""A server's connections to members of other datacenters: they carry its gossip through gateways.

One connection for each name, kept until it is idle or breaks, as `net.wan.GossipCarrier` has them.
"""

from collections.abc import Callable
from typing import Final, Protocol

from isthmus.names import split_wan_name
from isthmus.net.wan import CarrierConfig
from isthmus.sim.gateways import Connection
from isthmus.sim.network import Machine
from isthmus.sim.ways import NoWay, Way

CARRIER: Final = CarrierConfig()
SWEEP_INTERVAL: Final = CARRIER.idle_timeout / 2


class Surroundings(Protocol):
    """Ways and connections of one server."""

    def dial(self, dc: str, node: str) -> Way | NoWay:
        """Look for a way now, over the gateways that the locator offers."""

    def connect(self, way: Way, lost: Callable[[], None]) -> Connection | None:
        """Open a connection on a way; None: what leads there is gone meanwhile."""


class _Link:
    """A connection and when it was used last."""

    __slots__ = ("connection", "used_at")

    def __init__(self, connection: Connection, now: float) -> None:
        self.connection, self.used_at = connection, now


class Links:
    """The packet connections of one server, by the name of the member they lead to.

    The handshake of a new one takes no time here: its first packet travels like the later ones.
    A dial that would hang fails at once, well before the probe that needs it runs out of time.
    """

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._links: dict[str, _Link] = {}

    def __len__(self) -> int:
        return len(self._links)

    def path(self, name: str, *, now: float) -> tuple[Machine, ...] | None:
        """Machines on the way to a member; None: there is no way now."""
        link = self._links.get(name)
        if link is not None:
            if link.connection.is_open:
                link.used_at = now
                return link.connection.path
            del self._links[name]
        connection = self._dial(name)
        if connection is None:
            return None
        if len(self._links) >= CARRIER.connections_max:
            oldest = min(self._links, key=lambda known: self._links[known].used_at)
            self._links.pop(oldest).connection.close()
        self._links[name] = _Link(connection, now)
        return connection.path

    def sweep(self, *, now: float) -> None:
        """Close what was not used for long."""
        for name, link in list(self._links.items()):
            if now - link.used_at >= CARRIER.idle_timeout:
                link.connection.close()
                del self._links[name]

    def close(self) -> None:
        """Close all: the process is gone."""
        for link in self._links.values():
            link.connection.close()
        self._links.clear()

    def _dial(self, name: str) -> Connection | None:
        node, dc = split_wan_name(name)
        way = self._around.dial(dc, node)
        return None if isinstance(way, NoWay) else self._around.connect(way, _not_told)


def _not_told() -> None:
    """A broken connection is noticed by the next packet, which opens another."""
