"""Which way a dial through gateways takes, and why there is none."""

from collections.abc import Callable

import pytest

from isthmus.model.federation import DELETE, FederationStateRequest
from isthmus.sim.federation import PRIMARY_GATEWAYS
from isthmus.sim.gateways import outside_address
from isthmus.sim.run import Run
from isthmus.sim.scenario import Scenario
from isthmus.sim.topology import Host, Role, Topology
from isthmus.sim.ways import HANDSHAKE_TRIPS, NoWay, Way

GATEWAYS = [Host("dc2", Role.GATEWAY, number) for number in (1, 2)]
PRIMARY = [Host("dc1", Role.GATEWAY, number) for number in (1, 2)]
TARGET = Host("dc1", Role.SERVER, 1)


def make_run() -> Run:
    return Run(Scenario(topology=Topology(datacenters=2, servers=2, gateways=2)))


def find(run: Run, *candidates: str, node: str = "server1") -> Way | NoWay:
    federation = run.federation
    server = federation.servers[Host("dc2", Role.SERVER, 1)]
    found = candidates or tuple(federation.gateways[host].addresses[0] for host in GATEWAYS)
    return federation.find(server, found, "dc1", node)


def names(way: Way | NoWay) -> list[str]:
    assert isinstance(way, Way)
    return [machine.name for machine in way.path]


def test_way_leads_through_a_gateway_of_each_side() -> None:
    way = find(make_run())
    ours, theirs = names(way)[1:3]
    assert names(way) == ["server1.dc2", ours, theirs, "server1.dc1"]
    assert ours == "gateway1.dc2"
    assert theirs in {"gateway1.dc1", "gateway2.dc1"}
    assert isinstance(way, Way)
    assert way.seconds > HANDSHAKE_TRIPS * 2 * 0.040  # Across the WAN and back.


def test_configured_name_leads_straight_to_the_primarys_gateways() -> None:
    way = find(make_run(), PRIMARY_GATEWAYS)
    assert names(way) == ["server1.dc2", "gateway1.dc1", "server1.dc1"]
    assert isinstance(way, Way)
    assert way.address == PRIMARY_GATEWAYS


def test_any_server_will_do() -> None:
    run = make_run()
    run.federation.crash(TARGET)
    assert names(find(run, node="*"))[-1] == "server2.dc1"


def test_gateway_that_crashed_is_passed_over() -> None:
    run = make_run()
    run.federation.crash(GATEWAYS[0])
    way = find(run)
    assert names(way)[1] == "gateway2.dc2"
    assert way.tried == (run.federation.gateways[GATEWAYS[0]].addresses[0],)


def test_remote_gateway_that_crashed_is_passed_over_by_ours() -> None:
    run = make_run()
    run.federation.crash(PRIMARY[0])
    for _ in range(4):
        assert names(find(run))[2] == "gateway2.dc1"


def test_inside_address_leads_nowhere_from_outside() -> None:
    run = make_run()
    inside, outside = run.federation.gateways[PRIMARY[0]].addresses
    assert isinstance(find(run, inside), NoWay)
    assert isinstance(find(run, outside), Way)
    assert outside.startswith(outside_address(run.federation.gateways[PRIMARY[0]].machine))


def crash_server(run: Run) -> None:
    run.federation.crash(TARGET)


def pause_server(run: Run) -> None:
    run.federation.pause(TARGET)


def crash_all_gateways(run: Run) -> None:
    for host in PRIMARY:
        run.federation.crash(host)


def hang_all_gateways(run: Run) -> None:
    for host in GATEWAYS:
        run.federation.pause(host)


def cut_there(run: Run) -> None:
    run.federation.world.network.cut("dc2", "dc1")


def cut_back(run: Run) -> None:
    run.federation.world.network.cut("dc1", "dc2")


def forget(run: Run) -> None:
    assert isinstance(find(run), Way)  # The route was known, too.
    tables = run.federation.datacenters["dc2"].tables
    tables.apply(FederationStateRequest(op=DELETE, state=tables.state("dc1")))
    assert tables.state("dc1") is None


@pytest.mark.parametrize(
    ("fault", "hangs", "text"),
    [
        (crash_server, False, "connection refused by server1.dc1"),
        (pause_server, True, "server1.dc1 accepts and hangs"),
        (crash_all_gateways, False, "connection refused by gateway"),
        (hang_all_gateways, True, "gateway1.dc2 accepts and hangs"),
        (cut_there, True, "no answer from gateway"),
        (cut_back, True, "no answer from gateway"),
        (forget, False, "no route to dc1"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_no_way(fault: Callable[[Run], None], hangs: bool, text: str) -> None:
    run = make_run()
    fault(run)
    way = find(run)
    assert isinstance(way, NoWay)
    assert (way.hangs, len(way.tried)) == (hangs, 2)
    assert text in way.text


def test_old_address_of_a_gateway_that_moved_does_not_answer() -> None:
    run = make_run()
    old = run.federation.gateways[GATEWAYS[0]].addresses[0]
    run.federation.move(GATEWAYS[0])
    way = find(run, old)
    assert isinstance(way, NoWay)
    assert way.text == f"{old}: no such host answers"
    assert isinstance(find(run, run.federation.gateways[GATEWAYS[0]].addresses[0]), Way)


def test_no_candidates_is_no_way_at_once() -> None:
    run = make_run()
    server = run.federation.servers[Host("dc2", Role.SERVER, 1)]
    way = run.federation.find(server, (), "dc1", "server1")
    assert way == NoWay((), 0.0, "no gateway is known", hangs=False)
