"""One datacenter of a simulation: what its servers agree on, who leads them, its gateways' routes.

Consensus is not simulated: it is etcd's, and has its own proofs. A write by the leader is atomic
and durable, and every server of the datacenter reads it; so is the lease that says who leads.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final, TypeAlias

from isthmus.errors import NoLeader
from isthmus.mesh.gateways import remote_gateways
from isthmus.mesh.routes import (
    Endpoint,
    GatewayFacts,
    LocalServer,
    Route,
    RouteTable,
    route_table,
)
from isthmus.model.catalog import CheckServiceNode
from isthmus.model.federation import FederationState, FederationStateRequest
from isthmus.names import SERVER_PORT, server_name
from isthmus.sim.gateways import Gateway
from isthmus.sim.network import Machine
from isthmus.store import federation as store
from isthmus.store.federation import FEDERATION_STATES, FederationStates
from isthmus.store.keys import folded
from isthmus.store.table import Overlay, Table
from isthmus.store.watch import Watches

DOMAIN: Final = "consul"

RemoteRoutes: TypeAlias = dict[str, tuple[tuple[CheckServiceNode, ...], Route | None]]
"""Route to the servers of each other datacenter, and the gateways that it was made from."""


class Tables:
    """Federation states and gateways as all servers of one datacenter read them.

    Attributes:
        states: The federation states: the production reads over the production table.
        gateways: Mesh gateways that are registered here, in order.
        watches: Who waits for a change of the states.
        index: Of the last write of any kind.

    Args:
        committed: Told after each write which datacenter's record it was about.
    """

    def __init__(self, *, committed: Callable[[str], None]) -> None:
        self._committed = committed
        self._table: Table[FederationState] = Table(FEDERATION_STATES)
        self.states = FederationStates(self._table)
        self.gateways: tuple[CheckServiceNode, ...] = ()
        self.watches = Watches()
        self.index = 0

    @property
    def states_index(self) -> int:
        """Index of the last write of a federation state."""
        return self._table.index

    def state(self, dc: str) -> FederationState | None:
        """The record of one datacenter."""
        return self._table.get(folded(dc))

    def fill(self, states: Iterable[FederationState], *, index: int) -> None:
        """Begin with these records, as a datacenter that has run for long."""
        assert not len(self._table)
        rows = list(states)
        self._table.fill([([folded(state.datacenter) for state in rows], rows)])
        self._table.filled()
        self._table.index = self.index = max(index, self.index)
        self.states.observe()

    def apply(self, request: FederationStateRequest) -> bool:
        """Commit one write of a federation state, and wake who waits for one."""
        overlay = Overlay({FEDERATION_STATES.name: self._table})
        index = self.index + 1
        done = store.apply(overlay, request, index)
        changes = overlay.tables[FEDERATION_STATES.name].changes
        if not changes:
            return done
        for key, (row, at) in changes.items():
            if row is None:
                self._table.delete(key)
            else:
                self._table.put(row)
            self._table.index = max(self._table.index, at)
        self.index = index
        self.watches.wake(self.states.observe())
        assert request.state is not None
        self._committed(request.state.datacenter)
        return done


class Datacenter:
    """One datacenter.

    Attributes:
        name: ``dc3``.
        tables: What its servers agree on.
        leader: Node name of the server that leads; empty: nobody yet.
        gateways: Its mesh gateways by node name.

    Args:
        name: ``dc3``.
        committed: Told after each write whose record it was about.
        gateways_changed: Told when a gateway registered, or its check turned.
        remote_routes: Shared by all datacenters, which compute the same routes from equal states.
    """

    def __init__(
        self,
        name: str,
        *,
        committed: Callable[["Datacenter", str], None],
        gateways_changed: Callable[["Datacenter"], None],
        remote_routes: RemoteRoutes,
    ) -> None:
        self.name, self._remote_routes = name, remote_routes
        self._tell_commit = partial(committed, self)
        self.tables = Tables(committed=self._committed)
        self.leader = ""
        self.gateways: dict[str, Gateway] = {}
        self._gateways_changed = gateways_changed
        self._servers: dict[str, LocalServer] = {}
        self._own: RouteTable | None = None
        self._found: dict[str, Route | None] = {}
        """What `_own` has for the servers that were asked for."""
        self._known: dict[str, Route] = {}
        """Routes to other datacenters that were asked for, as long as their records stay."""

    # Writes ---------------------------------------------------------------------------------------

    def apply(self, node: str, request: FederationStateRequest) -> bool:
        """Commit a write on behalf of server `node`.

        Raises:
            NoLeader: It does not lead, or no more: nothing was written.
        """
        if node != self.leader:
            raise NoLeader
        return self.tables.apply(request)

    def _committed(self, about: str) -> None:
        self._known.pop(about, None)
        self._tell_commit(about)

    def add_server(self, node: str, machine: Machine) -> None:
        """A server is in the catalog: gateways let its name be dialled."""
        self._servers[node] = LocalServer(node, machine.address, SERVER_PORT)
        self._forget_routes()

    def remove_server(self, node: str) -> None:
        """A server left for good."""
        self._servers.pop(node, None)
        self._forget_routes()

    def _forget_routes(self) -> None:
        self._own = None
        self._found.clear()

    def register(self, gateway: Gateway) -> None:
        """A gateway says where it is, or what its check found, in the catalog."""
        self.gateways[gateway.host.node] = gateway
        self.tables.index += 1
        gateway.modify_index = self.tables.index
        self._publish()

    def deregister(self, gateway: Gateway) -> None:
        """A gateway is gone for good."""
        self.gateways.pop(gateway.host.node, None)
        self._publish()

    def _publish(self) -> None:
        self.tables.gateways = tuple(self.gateways[node].record() for node in sorted(self.gateways))
        self._gateways_changed(self)

    # Routes ---------------------------------------------------------------------------------------

    def route(self, dc: str, node: str) -> Route | None:
        """Where this datacenter's gateways lead a connection that asks for server `node` of `dc`.

        Looked up in the production route table, of which only the part about `dc` is made.
        """
        if dc == self.name:
            if node not in self._found:
                if self._own is None:
                    facts = self._facts(servers=tuple(self._servers.values()))
                    self._own = route_table(facts)
                self._found[node] = _found(self._own, dc, node)
            return self._found[node]
        route = self._known.get(dc)
        if route is None:
            route = self._remote_route(dc, node)
            if route is not None:
                self._known[dc] = route
        return route

    def _remote_route(self, dc: str, node: str) -> Route | None:
        """The route that the record of another datacenter makes."""
        state = self.tables.state(dc)
        if state is None:
            return None
        gateways = state.mesh_gateways or ()
        known = self._remote_routes.get(dc)
        if known is None or known[0] is not gateways:
            found = {dc: remote_gateways((), gateways, exposing_only=True)}
            # One pattern matches every server of another datacenter.
            route = _found(route_table(self._facts(gateways=found)), dc, node)
            known = self._remote_routes[dc] = gateways, route
        return known[1]

    def _facts(
        self,
        *,
        servers: tuple[LocalServer, ...] = (),
        gateways: Mapping[str, tuple[Endpoint, ...]] | None = None,
    ) -> GatewayFacts:
        return GatewayFacts(
            dc=self.name,
            domain=DOMAIN,
            exposes_servers=True,
            servers=servers,
            server_gateways=gateways or {},
        )


def _found(table: RouteTable, dc: str, node: str) -> Route | None:
    found = table.lookup(server_name(dc, DOMAIN, node))
    return None if found is None else found[1]
