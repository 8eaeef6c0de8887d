"""Calls of a simulated server to other datacenters."""

from isthmus.model.federation import IndexedFederationStates
from isthmus.model.query import DatacenterRequest
from isthmus.sim.calls import CALLS_MAX, CONFIG, Answer
from isthmus.sim.run import Run
from isthmus.sim.scenario import Scenario
from isthmus.sim.server import Server
from isthmus.sim.topology import Host, Role, Topology

SECONDARY = Host("dc2", Role.SERVER, 2)  # It does not lead: its calls are all ours.
PRIMARY = [Host("dc1", Role.SERVER, number) for number in (1, 2)]


class Calls:
    """A joined federation of two datacenters, and a server that calls."""

    def __init__(self) -> None:
        topology = Topology(datacenters=2, servers=2, gateways=2)
        self.run = Run(Scenario(topology=topology, duration=10_000.0))
        self.federation = self.run.federation
        self.federation.world.run(until=2.0)
        self.server: Server = self.federation.servers[SECONDARY]
        self.answers: list[tuple[float, Answer | str]] = []

    def list(self, *, after: int = 0, timeout: float = 400.0, dc: str = "dc1") -> None:
        """Ask a server of the primary for all states."""
        self.server._servers(dc)
        request = DatacenterRequest(datacenter=dc, min_query_index=after)
        self.server._caller.call(
            dc,
            "FederationState.List",
            request,
            lambda answer: self.answers.append((self.federation.world.now, answer)),
            timeout=timeout,
        )
        self.federation.world.arm(self.server)

    def wait(self, seconds: float) -> None:
        self.federation.world.run(until=self.federation.world.now + seconds)


def test_answer_takes_the_way_there_and_back() -> None:
    calls = Calls()
    calls.list()
    calls.wait(1.0)
    ((at, answer),) = calls.answers
    assert isinstance(answer, IndexedFederationStates)
    assert [state.datacenter for state in answer.states or ()] == ["dc1", "dc2"]
    assert 2.2 < at < 2.4  # A handshake of two round trips of 80 ms, and one for the call.


def test_second_call_uses_the_connection_of_the_first() -> None:
    calls = Calls()
    calls.list()
    calls.wait(1.0)
    calls.list()
    calls.wait(1.0)
    assert calls.answers[1][0] - 3.0 < 0.12
    assert len(calls.server._caller._links) == 1


def test_idle_connection_is_closed() -> None:
    calls = Calls()
    calls.list()
    calls.wait(CONFIG.idle_timeout + 2 * CONFIG.probe_interval)
    assert len(calls.server._caller._links) == 0


def test_blocking_call_is_answered_when_the_index_passes() -> None:
    calls = Calls()
    calls.list(after=calls.federation.datacenters["dc1"].tables.states_index)
    calls.wait(20.0)
    assert calls.answers == []
    calls.federation.move(Host("dc1", Role.GATEWAY, 1))
    calls.wait(1.0)
    ((_, answer),) = calls.answers
    assert isinstance(answer, IndexedFederationStates)


def test_server_that_crashed_is_passed_over() -> None:
    calls = Calls()
    calls.federation.crash(PRIMARY[0])
    calls.list()
    calls.wait(2.0)
    assert isinstance(calls.answers[0][1], IndexedFederationStates)


def test_call_under_a_connection_that_breaks_is_repeated_over_another_gateway() -> None:
    calls = Calls()
    calls.list(after=calls.federation.datacenters["dc1"].tables.states_index)
    calls.wait(3.0)
    (link,) = calls.server._caller._links.values()
    assert link.connection is not None
    broken = link.connection
    name = broken.path[1].name
    calls.federation.crash(Host("dc2", Role.GATEWAY, int(name[len("gateway")])))
    calls.wait(0.3)
    assert calls.answers == []
    (link,) = calls.server._caller._links.values()
    assert link.connection is not None
    assert (broken.is_open, link.connection.is_open) == (False, True)
    assert link.connection.path[1] is not broken.path[1]


def test_silent_connection_is_given_up() -> None:
    calls = Calls()
    calls.list(after=calls.federation.datacenters["dc1"].tables.states_index)
    calls.wait(3.0)
    calls.federation.world.network.cut("dc1", "dc2")
    calls.wait(60.0)
    ((_, answer),) = calls.answers
    assert isinstance(answer, str)
    assert "no answer from gateway" in answer


def test_call_without_any_way_fails_with_every_gateway_in_its_text() -> None:
    calls = Calls()
    for number in (1, 2):
        calls.federation.crash(Host("dc2", Role.GATEWAY, number))
    calls.list()
    calls.wait(5.0)
    ((_, answer),) = calls.answers
    assert isinstance(answer, str)
    assert answer.count("connection refused") == 2


def test_call_ends_with_its_time() -> None:
    calls = Calls()
    calls.list(after=calls.federation.datacenters["dc1"].tables.states_index, timeout=7.0)
    calls.wait(7.5)
    assert calls.answers == [(9.0, "rpc timeout")]


def test_unknown_datacenter_and_too_many_calls_are_refused_at_once() -> None:
    calls = Calls()
    calls.list(dc="dc9")
    assert calls.answers == [(2.0, "No path to datacenter dc9")]
    for _ in range(CALLS_MAX + 1):
        calls.list(after=99)
    assert len(calls.answers) == 2
