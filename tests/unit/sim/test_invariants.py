"""Every invariant can fail: each is broken here on purpose, in a federation that is well."""

from collections.abc import Callable

import msgspec
import pytest

from isthmus.gossip.roster import MemberFailed, MemberJoined, MemberStatus
from isthmus.model.federation import DELETE, FederationState, FederationStateRequest
from isthmus.sim.faults import Links, Partition
from isthmus.sim.invariants import (
    ACKNOWLEDGED,
    COUNTERS,
    CROSSINGS,
    DECLARED_DEAD,
    INDEXES,
    NAMES,
    OFFERS,
    SENTENCES,
    STATES,
    VIOLATIONS_MAX,
    WAYS,
)
from isthmus.sim.run import Run
from isthmus.sim.scenario import Scenario
from isthmus.sim.server import Server
from isthmus.sim.topology import Host, Role, Topology

BOUND = 30.0


def make_run(*, seconds: float = 5.0) -> Run:
    """A joined federation of two datacenters, a little while after its start."""
    topology = Topology(datacenters=2, servers=2, gateways=1)
    run = Run(Scenario(topology=topology, settle=BOUND, duration=1000.0))
    run.federation.world.run(until=seconds)
    run.invariants.check()
    assert not run.recording.violations
    return run


def server(run: Run, dc: str = "dc2", number: int = 1) -> Server:
    return run.federation.servers[Host(dc, Role.SERVER, number)]


def broken(run: Run) -> set[str]:
    return {violation.invariant for violation in run.recording.violations}


def violations_of(breaking: Callable[[Run], None]) -> set[str]:
    """Break something, look at once."""
    run = make_run()
    breaking(run)
    run.invariants.check()
    return broken(run)


def test_index_of_a_store_that_goes_back() -> None:
    def go_back(run: Run) -> None:
        datacenter = run.federation.datacenters["dc2"]
        datacenter.tables._table.index = 1
        run.invariants.committed(datacenter, "dc2")

    assert violations_of(go_back) == {INDEXES}


def test_index_of_a_record_that_goes_back() -> None:
    def go_back(run: Run) -> None:
        datacenter = run.federation.datacenters["dc2"]
        run.invariants.committed(datacenter, "dc2")
        state = datacenter.tables.state("dc2")
        assert state is not None
        datacenter.tables._table.put(msgspec.structs.replace(state, modify_index=0))
        run.invariants.committed(datacenter, "dc2")

    assert violations_of(go_back) == {INDEXES}


def test_gateway_that_nobody_knows_is_offered() -> None:
    def invent(run: Run) -> None:
        server(run).locator._local = ("10.9.9.9:8443",)
        server(run).candidates("dc1")

    assert violations_of(invent) == {OFFERS}


def test_gateway_of_an_old_state_is_offered() -> None:
    def keep(run: Run) -> None:
        run.federation.move(Host("dc2", Role.GATEWAY, 1))
        old = server(run).locator.local
        run.federation.world.run(until=30)
        assert server(run).locator.local != old
        server(run).locator._local = old
        server(run).candidates("dc1")

    assert violations_of(keep) == {OFFERS}


def test_message_straight_into_another_datacenter() -> None:
    def shortcut(run: Run) -> None:
        ours, theirs = server(run).process.machine, server(run, "dc1").process.machine
        run.invariants.crossing((ours, theirs))

    assert violations_of(shortcut) == {CROSSINGS}


def test_message_that_leaves_through_a_gateway_and_enters_without() -> None:
    def shortcut(run: Run) -> None:
        ours, theirs = server(run).process.machine, server(run, "dc1").process.machine
        gateway = run.federation.gateways[Host("dc2", Role.GATEWAY, 1)].machine
        run.invariants.crossing((ours, gateway, theirs))

    assert violations_of(shortcut) == {CROSSINGS}


def test_lamport_time_that_goes_back() -> None:
    def go_back(run: Run) -> None:
        clock = server(run).wan.serf.clock
        clock.increment()
        run.invariants.check()
        clock.time = 0

    assert violations_of(go_back) == {COUNTERS}


def member_named(run: Run, name: str) -> MemberJoined:
    member = server(run).wan.serf.local_member()
    return MemberJoined(msgspec.structs.replace(member, name=name))


@pytest.mark.parametrize("name", ["server3.dc2", "server1.dc3", "client1.dc1", "ghost.dc1"])
def test_member_that_does_not_exist(name: str) -> None:
    def invent(run: Run) -> None:
        run.invariants.member_event(server(run), member_named(run, name), wan=True)

    assert violations_of(invent) == {NAMES}


def test_acknowledged_state_that_the_primary_loses() -> None:
    def lose(run: Run) -> None:
        run.federation.move(Host("dc2", Role.GATEWAY, 1))
        run.federation.world.run(until=25)  # It is announced and acknowledged.
        run.invariants.check()
        assert not broken(run)
        request = FederationStateRequest(op=DELETE, state=FederationState(datacenter="dc2"))
        run.federation.datacenters["dc1"].tables.apply(request)

    assert violations_of(lose) == {ACKNOWLEDGED}


def test_live_member_that_stays_declared_dead() -> None:
    run = make_run()
    member = server(run, "dc1").wan.serf.local_member()
    gone = msgspec.structs.replace(member, status=MemberStatus.FAILED)
    run.invariants.member_event(server(run), MemberFailed(gone), wan=True)
    run.federation.world.run(until=5 + BOUND - 1)
    run.invariants.check()
    assert not broken(run)
    run.federation.world.run(until=5 + BOUND)
    run.invariants.check()
    assert broken(run) == {DECLARED_DEAD}
    assert [p.victim for p in run.recording.false_positives] == [Host("dc1", Role.SERVER, 1)]


def test_member_that_someone_never_got_to_know() -> None:
    run = make_run(seconds=BOUND)
    del server(run).wan.serf._roster._members["server1.dc1"]
    server(run).wan.serf._roster._snapshot = None
    run.invariants.check_end()
    assert broken(run) == {DECLARED_DEAD}


def test_state_that_does_not_arrive() -> None:
    """dc2's leader is stuck: it neither announces nor replicates."""
    run = make_run()
    server(run)._duties = None
    server(run)._leaving = True
    run.federation.move(Host("dc1", Role.GATEWAY, 1))
    run.federation.world.run(until=5 + BOUND + 1)
    run.invariants.check()
    assert broken(run) == {STATES}
    assert (
        "dc2 does not have the newest federation state of dc1" in run.recording.violations[0].text
    )


def test_datacenter_without_a_way() -> None:
    run = make_run(seconds=BOUND)
    server(run, "dc1").locator._local = ()
    run.invariants.check_end()
    assert broken(run) == {WAYS}


def test_nothing_that_has_a_bound_is_asked_for_while_a_fault_lasts() -> None:
    run = make_run(seconds=BOUND)
    run._active.append(Partition(links=Links(), at=0.0, duration=500.0))
    server(run, "dc1").locator._local = ()
    run.invariants.check_end()
    assert not broken(run)


def test_what_a_lasting_partition_separates_need_not_meet() -> None:
    run = make_run(seconds=BOUND)
    run._link_faults.cut.add(("dc1", "dc2"))
    server(run, "dc1").locator._local = ()
    run.invariants.check_end()
    assert not broken(run)


def test_violation_says_when_where_and_what() -> None:
    run = make_run()
    server(run).locator._local = ("10.9.9.9:8443",)
    server(run).candidates("dc1")
    (violation,) = run.recording.violations
    assert violation.at == 5.0
    assert violation.text == (
        "server1.dc2 is offered 10.9.9.9:8443 for dc1, which neither a state of its datacenter"
        " nor its configuration contains"
    )


def test_violations_of_one_kind_are_bounded() -> None:
    run = make_run()
    server(run).locator._local = ("10.9.9.9:8443",)
    for _ in range(VIOLATIONS_MAX + 10):
        server(run).candidates("dc1")
    assert len(run.recording.violations) == VIOLATIONS_MAX


def test_each_invariant_has_a_sentence_in_the_recording() -> None:
    assert make_run().recording.invariants == SENTENCES
