"""What a datacenter's servers agree on, and where its gateways lead."""

import pytest

from isthmus.errors import NoLeader
from isthmus.mesh.routes import RouteKind
from isthmus.model.federation import DELETE, UPSERT, FederationState, FederationStateRequest
from isthmus.sim.datacenter import Datacenter
from isthmus.sim.gateways import Gateway
from isthmus.sim.topology import Host, Role
from isthmus.sim.world import World


class Site:
    """Datacenter dc2 with two servers, and all it tells."""

    def __init__(self) -> None:
        self.world = World()
        self.commits: list[str] = []
        self.gateway_changes = 0
        self.datacenter = Datacenter(
            "dc2",
            committed=lambda datacenter, about: self.commits.append(about),
            gateways_changed=self._changed,
            remote_routes={},
        )
        for number in (1, 2):
            machine = self.world.machine(f"server{number}.dc2", "dc2")
            self.datacenter.add_server(f"server{number}", machine)
        self.datacenter.leader = "server1"

    def _changed(self, datacenter: Datacenter) -> None:
        self.gateway_changes += 1

    def gateway(self, dc: str, number: int = 1) -> Gateway:
        machine = self.world.machine(f"gateway{number}.{dc}", dc)
        gateway = Gateway(Host(dc, Role.GATEWAY, number), self.world.process(machine.name, machine))
        gateway.modify_index = 1
        return gateway

    def write(self, state: FederationState, *, op: str = UPSERT, node: str = "server1") -> bool:
        return self.datacenter.apply(node, FederationStateRequest(op=op, state=state))


def test_leaders_write_is_there_for_all_and_wakes_who_waits() -> None:
    site, woken = Site(), list[int]()
    tables = site.datacenter.tables
    tables.watches.register(tables.states.topics, lambda: woken.append(1))
    site.write(FederationState(datacenter="dc1"))
    state = tables.state("dc1")
    assert state is not None
    assert (state.modify_index, tables.states_index, woken) == (1, 1, [1])
    assert site.commits == ["dc1"]


def test_server_that_does_not_lead_writes_nothing() -> None:
    site = Site()
    with pytest.raises(NoLeader):
        site.write(FederationState(datacenter="dc1"), node="server2")
    assert (site.commits, site.datacenter.tables.state("dc1")) == ([], None)


def test_deleted_record_is_gone_and_the_index_is_higher() -> None:
    site = Site()
    site.write(FederationState(datacenter="dc1"))
    site.write(FederationState(datacenter="dc1"), op=DELETE)
    assert site.datacenter.tables.state("dc1") is None
    assert site.datacenter.tables.states_index == 2


def test_write_that_changes_nothing_takes_no_index() -> None:
    site = Site()
    site.write(FederationState(datacenter="dc1"), op=DELETE)
    assert (site.commits, site.datacenter.tables.states_index) == ([], 0)


def test_registered_gateways_are_published_in_order() -> None:
    site = Site()
    site.datacenter.register(site.gateway("dc2", 2))
    site.datacenter.register(site.gateway("dc2", 1))
    nodes = [record.node.node for record in site.datacenter.tables.gateways if record.node]
    assert (nodes, site.gateway_changes) == (["gateway1", "gateway2"], 2)


def test_own_server_is_routed_to_its_address_until_it_leaves() -> None:
    site = Site()
    route = site.datacenter.route("dc2", "server2")
    assert route is not None
    machine = site.world.network.machines["server2.dc2"]
    assert (route.kind, [e.host for e in route.endpoints]) == (
        RouteKind.LOCAL_SERVER,
        [machine.address],
    )
    site.datacenter.remove_server("server2")
    assert site.datacenter.route("dc2", "server2") is None


def test_any_own_server_is_routed_to_all() -> None:
    route = Site().datacenter.route("dc2", "*")
    assert route is not None
    assert (route.kind, len(route.endpoints)) == (RouteKind.LOCAL_SERVERS, 2)


def test_other_datacenter_is_routed_to_its_gateways_as_last_replicated() -> None:
    site = Site()
    assert site.datacenter.route("dc1", "server1") is None
    for number in (1, 2):
        gateway = site.gateway("dc1", number)
        site.write(FederationState(datacenter="dc1", mesh_gateways=(gateway.record(),)))
        route = site.datacenter.route("dc1", "server1")
        assert route is not None
        assert (route.kind, [str(e) for e in route.endpoints]) == (
            RouteKind.REMOTE_SERVERS,
            [gateway.addresses[1]],
        )
