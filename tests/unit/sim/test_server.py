"""Simulated servers: who leads, what wakes whom, how a gateway's address gets around."""

from isthmus.sim.run import Run
from isthmus.sim.scenario import Scenario
from isthmus.sim.server import LEASE, Server
from isthmus.sim.topology import Host, Role, Topology


def make_run(*, warm: bool = True, datacenters: int = 2) -> Run:
    topology = Topology(datacenters=datacenters, servers=3, gateways=2, warm=warm)
    return Run(Scenario(topology=topology, duration=10_000.0))


def host(number: int, dc: str = "dc2") -> Host:
    return Host(dc, Role.SERVER, number)


def server(run: Run, number: int, dc: str = "dc2") -> Server:
    return run.federation.servers[host(number, dc)]


def leaders(run: Run) -> list[str]:
    return [one.host.name for one in run.federation.servers.values() if one.is_leader]


def test_lowest_server_of_each_datacenter_leads() -> None:
    assert leaders(make_run()) == ["server1.dc1", "server1.dc2"]


def test_next_one_takes_over_when_the_pool_knows_that_the_leader_died() -> None:
    run = make_run()
    world = run.federation.world
    world.run(until=10.0)
    run.federation.crash(host(1))
    world.run(until=12.0)
    assert run.federation.datacenters["dc2"].leader == "server1"
    world.run(until=20.0)
    assert leaders(run) == ["server1.dc1", "server2.dc2"]


def test_leader_that_comes_back_follows() -> None:
    run = make_run()
    world = run.federation.world
    run.federation.crash(host(1))
    world.run(until=30.0)
    run.federation.start(host(1))
    world.run(until=60.0 + LEASE)
    assert leaders(run) == ["server1.dc1", "server2.dc2"]


def test_leader_that_stood_still_lays_its_duties_down() -> None:
    run = make_run()
    world = run.federation.world
    run.federation.pause(host(1))
    world.run(until=30.0)
    assert server(run, 1)._duties is not None  # It knows nothing yet.
    run.federation.resume(host(1))
    world.run(until=31.0)
    assert server(run, 1)._duties is None
    assert leaders(run) == ["server1.dc1", "server2.dc2"]


def test_restarted_server_does_not_take_the_lease_before_it_knows_the_others() -> None:
    run = make_run()
    world = run.federation.world
    run.federation.crash(host(2))
    world.run(until=30.0)
    run.federation.start(host(2))
    world.run(until=30.1)
    assert run.federation.datacenters["dc2"].leader == "server1"


def test_moved_gateway_is_announced_replicated_and_offered() -> None:
    run = make_run(datacenters=3)
    world = run.federation.world
    world.run(until=5.0)
    gateway = run.federation.gateways[Host("dc1", Role.GATEWAY, 1)]
    run.federation.move(gateway.host)
    world.run(until=6.0)
    inside, outside = gateway.addresses
    assert inside in server(run, 1, "dc1").locator.local
    for dc in ("dc2", "dc3"):
        for number in (1, 2, 3):
            assert outside in server(run, number, dc).locator.primary


def test_secondary_that_knows_nobody_joins_through_the_configured_gateways() -> None:
    run = make_run(warm=False)
    run.federation.world.run(until=10.0)
    assert {one.known_count for one in run.federation.servers.values()} == {6}
    assert {len(one.datacenter.tables.states) for one in run.federation.servers.values()} == {2}


def test_crashed_server_is_missed_by_nobody_while_its_datacenter_has_others() -> None:
    run = make_run()
    run.federation.crash(host(3))
    run.federation.world.run(until=60.0)
    assert server(run, 1, "dc1").known_count == 5
    assert server(run, 1, "dc1")._missing() == set()


def test_datacenter_without_living_servers_is_missed() -> None:
    run = make_run()
    for number in (1, 2, 3):
        run.federation.crash(host(number))
    run.federation.world.run(until=120.0)
    assert server(run, 1, "dc1")._missing() == {"dc2"}


def test_server_that_leaves_is_left_not_failed_and_its_process_ends() -> None:
    run = make_run()
    run.federation.world.run(until=5.0)
    run.federation.leave(host(3))
    run.federation.world.run(until=30.0)
    member = server(run, 1, "dc1").wan.serf.member("server3.dc2")
    assert member is not None
    assert str(member.status) == "left"
    assert not server(run, 3).process.alive


def test_write_reaches_the_leader_through_any_server_of_the_primary() -> None:
    """The primary's first server is passed over; a follower hands the write on."""
    run = make_run()
    world = run.federation.world
    world.run(until=5.0)
    leader = server(run, 1)
    leader._servers("dc1")
    for known in list(leader.router.servers("dc1"))[:1]:
        leader.router.failed(known, now=leader.now)
    assert leader.router.servers("dc1")[0].node != "server1"
    run.federation.move(Host("dc2", Role.GATEWAY, 1))
    world.run(until=7.0)
    assert [convergence.dc for convergence in run.recording.convergences] == ["dc2"]
