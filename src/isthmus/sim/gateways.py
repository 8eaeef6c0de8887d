"""Mesh gateways of a simulation: what they route, which connections lead through them.

A gateway looks names up in the production route table (`mesh/routes.py`) and orders endpoints with
the production gateway's memory of their health; only sockets are simulated.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Final

from isthmus.gateway.config import GatewayConfig
from isthmus.gateway.health import EndpointHealth
from isthmus.mesh.routes import Endpoint
from isthmus.model.catalog import (
    CRITICAL,
    PASSING,
    CheckServiceNode,
    HealthCheck,
    Node,
    NodeService,
    ServiceAddress,
)
from isthmus.names import GATEWAY_PORT, MESH_GATEWAY_KIND, WAN_FEDERATION_META, host_port
from isthmus.sim.network import Machine, Network
from isthmus.sim.topology import Host
from isthmus.sim.world import Process

CHECK_INTERVAL: Final = 10.0
"""Seconds between two checks of a gateway by its agent, as the built-in gateway registers it."""
CONFIG: Final = GatewayConfig()
_SERVICE: Final = "mesh-gateway"
_INSIDE, _OUTSIDE = "10.", "100."


def outside_address(machine: Machine) -> str:
    """Address at which other datacenters reach a gateway's machine; servers inside use the other.

    Only gateways have one, so nothing else can be dialled from another datacenter.
    """
    assert machine.address.startswith(_INSIDE)
    return _OUTSIDE + machine.address.removeprefix(_INSIDE)


class Connection:
    """A connection of a server to a server of another datacenter, through gateways.

    Attributes:
        path: Machines from the dialling server to the other one.
        is_open: Nobody on the way closed it.

    Args:
        path: See above.
        holders: Tables of open connections that it stands in, while it is open: those of its
            gateways, and of the server at its end.
        gateways: Those on the path; they count what goes through.
        lost: Called once, when another than we closed it and that came to be known here.
    """

    __slots__ = ("_gateways", "_holders", "_lost", "is_open", "path")

    def __init__(
        self,
        path: tuple[Machine, ...],
        holders: Sequence[dict["Connection", None]],
        gateways: tuple["Gateway", ...],
        lost: Callable[[float], None],
    ) -> None:
        self.path, self._holders, self._gateways, self._lost = path, holders, gateways, lost
        self.is_open = True
        for holder in holders:
            holder[self] = None

    def carried(self, size: int) -> None:
        """So many bytes go through, in either direction."""
        for gateway in self._gateways:
            gateway.forwarded_size += size

    def close(self) -> None:
        """Close it from our side."""
        if self.is_open:
            self.is_open = False
            for holder in self._holders:
                holder.pop(self, None)

    def break_at(self, machine: Machine, network: Network) -> None:
        """The process on a machine of the path is gone; its system says so to whom it can."""
        if not self.is_open:
            return
        self.close()
        place = self.path.index(machine)
        way = [machine, *reversed(self.path[:place])]
        if all(not network.link(source, target).cut for source, target in pairwise(way)):
            self._lost(sum(network.latency(source, target) for source, target in pairwise(way)))

    def usable(self, network: Network) -> bool:
        """Whether a message may be sent; if not, the attempt shows that it is lost, if it can."""
        if self.is_open:
            return True
        ours, next_one = self.path[:2]
        if not (network.link(ours, next_one).cut or network.link(next_one, ours).cut):
            self._lost(network.latency(ours, next_one) + network.latency(next_one, ours))
        return False


class Gateway:
    """One mesh gateway: a process on a machine of its own, registered in its datacenter.

    Attributes:
        host: Which one.
        machine: Where it runs; another one after `move`.
        process: Its program.
        connections: That lead through it, in the order in which they were opened.
        forwarded_size: Bytes of calls that went through it; gossip counts at its machine.
        health: Memory of how endpoints fared.
        critical: Whether its check failed when it was made last.
        modify_index: Of its registration in the catalog.
    """

    def __init__(self, host: Host, process: Process) -> None:
        self.host, self.process = host, process
        self.connections: dict[Connection, None] = {}
        self.forwarded_size = 0
        self.health = EndpointHealth(CONFIG)
        self.critical = False
        self.modify_index = 0

    @property
    def machine(self) -> Machine:
        """Where it runs."""
        return self.process.machine

    @property
    def addresses(self) -> tuple[str, str]:
        """``host:port`` inside its datacenter, and outside."""
        return (
            host_port(self.machine.address, GATEWAY_PORT),
            host_port(outside_address(self.machine), GATEWAY_PORT),
        )

    def start(self, process: Process) -> None:
        """Run again: as a fresh process, perhaps on another machine."""
        self.process = process
        self.health = EndpointHealth(CONFIG)

    def record(self) -> CheckServiceNode:
        """What the catalog of its datacenter has of it."""
        node, address = self.host.node, self.machine.address
        outside = outside_address(self.machine)
        return CheckServiceNode(
            node=Node(node=node, address=address, datacenter=self.host.dc),
            service=NodeService(
                kind=MESH_GATEWAY_KIND,
                id=node,
                service=_SERVICE,
                address=address,
                port=GATEWAY_PORT,
                meta={WAN_FEDERATION_META: "1"},
                modify_index=self.modify_index,
                tagged_addresses={"wan": ServiceAddress(address=outside, port=GATEWAY_PORT)},
            ),
            checks=(
                HealthCheck(
                    node=node,
                    check_id=f"service:{node}",
                    name="mesh-gateway listening",
                    status=CRITICAL if self.critical else PASSING,
                    service_id=node,
                    service_name=_SERVICE,
                ),
            ),
        )

    def order(self, endpoints: Iterable[Endpoint], *, now: float) -> list[Endpoint]:
        """Order in which it tries the endpoints of a route."""
        return self.health.order(tuple(endpoints), now=now)[: CONFIG.attempts_max]
