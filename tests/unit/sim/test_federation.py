"""A federation as it is built, and what befalls its hosts."""

from isthmus.gossip.roster import MemberStatus
from isthmus.model.coordinate import ORIGIN
from isthmus.sim.federation import COORDINATES_MAX, Federation
from isthmus.sim.gateways import CHECK_INTERVAL
from isthmus.sim.run import Run
from isthmus.sim.scenario import Scenario
from isthmus.sim.topology import Host, Role, Topology

GATEWAY = Host("dc2", Role.GATEWAY, 1)
SERVER = Host("dc2", Role.SERVER, 1)
CLIENT = Host("dc2", Role.CLIENT, 1)


def make_federation(*, datacenters: int = 2, warm: bool = True) -> Federation:
    topology = Topology(datacenters=datacenters, servers=2, clients=1, gateways=2, warm=warm)
    return Run(Scenario(topology=topology, duration=10_000.0)).federation


def gateway_states(federation: Federation) -> list[bool]:
    """Whether the catalog of dc2 takes its gateways for critical, in order."""
    return [
        any(check.status == "critical" for check in record.checks or ())
        for record in federation.datacenters["dc2"].tables.gateways
    ]


def test_warm_federation_knows_all_members_and_states_from_the_start() -> None:
    federation = make_federation()
    assert {server.known_count for server in federation.servers.values()} == {4}
    assert all(len(dc.tables.states) == 2 for dc in federation.datacenters.values())
    lan = federation.servers[SERVER].lan.serf.members()
    assert sorted(member.name for member in lan) == ["client1", "server1", "server2"]


def test_cold_federation_knows_nobody_at_the_start() -> None:
    federation = make_federation(warm=False)
    assert {server.known_count for server in federation.servers.values()} == {1}
    known = [len(dc.tables.states) for dc in federation.datacenters.values()]
    assert known == [1, 0]  # The primary has written its own.


def test_agents_find_a_crashed_gateway_within_the_interval_of_their_check() -> None:
    federation = make_federation()
    federation.world.run(until=5.0)
    federation.crash(GATEWAY)
    assert gateway_states(federation) == [False, False]
    federation.world.run(until=5.0 + CHECK_INTERVAL)
    assert gateway_states(federation) == [True, False]
    federation.start(GATEWAY)
    federation.world.run(until=16.0)
    assert gateway_states(federation) == [False, False]


def test_gateway_that_leaves_is_no_more_in_the_catalog() -> None:
    federation = make_federation()
    federation.leave(GATEWAY)
    assert len(federation.datacenters["dc2"].tables.gateways) == 1


def test_crashed_gateway_closes_what_leads_through_it() -> None:
    federation = make_federation()
    federation.world.run(until=30.0)
    gateway = federation.gateways[GATEWAY]
    connections = list(gateway.connections)
    assert connections
    federation.crash(GATEWAY)
    assert not any(connection.is_open for connection in connections)
    assert len(gateway.connections) == 0


def test_client_that_crashed_and_came_back_is_a_member_again() -> None:
    federation = make_federation()
    federation.crash(CLIENT)
    federation.world.run(until=30.0)
    pool = federation.servers[SERVER].lan.serf
    lost = pool.member("client1")
    federation.start(CLIENT)
    federation.world.run(until=60.0)
    found = pool.member("client1")
    assert lost is not None
    assert found is not None
    assert (lost.status, found.status) == (MemberStatus.FAILED, MemberStatus.ALIVE)


def test_hosts_are_reachable_unless_a_link_or_all_gateways_are_gone() -> None:
    federation = make_federation()
    other = Host("dc1", Role.SERVER, 1)
    seen = [federation.reachable(SERVER, other)]
    federation.world.network.cut("dc1", "dc2")
    seen.append(federation.reachable(SERVER, other))
    federation.world.network.heal_all()
    seen.append(federation.reachable(SERVER, other))
    for number in (1, 2):
        federation.crash(Host("dc2", Role.GATEWAY, number))
    seen.append(federation.reachable(SERVER, other))
    assert seen == [True, False, True, False]
    assert federation.reachable(SERVER, Host("dc2", Role.SERVER, 2))


def test_network_coordinates_of_large_federations_stand_still_and_count_their_bytes() -> None:
    small, large = make_federation(), make_federation(datacenters=COORDINATES_MAX // 5 + 1)
    sizes = []
    for federation in (small, large):
        federation.world.run(until=30.0)
        serf = federation.servers[SERVER].wan.serf
        sizes.append(len(serf.ack_payload()))
    assert small.servers[SERVER].wan.serf.coordinates.own != ORIGIN
    assert large.servers[SERVER].wan.serf.coordinates.own == ORIGIN
    assert sizes[0] == sizes[1] > 100
