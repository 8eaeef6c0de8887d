"""Links, queues, cuts, and which rule counts."""

from collections.abc import Sequence
from random import Random
from statistics import median

import pytest

from isthmus.sim.network import (
    ANY,
    BACKLOG_MAX,
    LOST,
    RETRANSMISSION_TIMEOUT,
    RETRANSMISSIONS_MAX,
    LinkModel,
    Machine,
    Network,
    Shape,
)

STEADY = LinkModel(median=0.010, shape=Shape.CONSTANT)


class Net:
    """A network of two datacenters with two machines each."""

    def __init__(self, *, within: LinkModel = STEADY, between: LinkModel = STEADY) -> None:
        self.changes = 0
        self.network = Network(
            Random(1), within=within, between=between, changing=self._note_change
        )
        self.a1, self.a2 = self.add("a1", "a"), self.add("a2", "a")
        self.b1, self.b2 = self.add("b1", "b"), self.add("b2", "b")

    def add(self, name: str, group: str) -> Machine:
        return self.network.add(name, group)

    def _note_change(self) -> None:
        self.changes += 1

    def carry(self, *path: Machine, size: int = 100, now: float = 0.0) -> tuple[float, ...]:
        return _rounded(self.network.carry(path, size, now=now, reliable=False))

    def stream(self, *path: Machine, size: int = 100, now: float = 0.0) -> tuple[float, ...]:
        return _rounded(self.network.carry(path, size, now=now, reliable=True))


def _rounded(arrivals: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(arrival, 9) for arrival in arrivals)


@pytest.mark.parametrize(
    ("model", "low", "high"),
    [
        (STEADY, 0.010, 0.010),
        (LinkModel(median=0.1, shape=Shape.UNIFORM, spread=0.5), 0.05, 0.15),
        (LinkModel(median=0.1, spread=0.2, extra=1.0), 1.04, 1.25),
    ],
)
def test_latencies_follow_their_distribution(model: LinkModel, low: float, high: float) -> None:
    net = Net(within=model)
    seen = [net.carry(net.a1, net.a2)[0] for _ in range(2000)]
    assert low <= min(seen)
    assert max(seen) <= high
    assert median(seen) == pytest.approx(model.median + model.extra, rel=0.05)


def test_a_share_of_packets_is_lost() -> None:
    net = Net(within=LinkModel(loss=0.2))
    arrived = sum(len(net.carry(net.a1, net.a2)) for _ in range(2000))
    assert 1500 < arrived < 1700
    assert not Net(within=LinkModel(loss=1.0)).carry(net.a1, net.a2)


def test_duplicates_arrive_twice_and_reordered_ones_late() -> None:
    net = Net(within=LinkModel(median=0.01, shape=Shape.CONSTANT, duplication=1.0))
    first, second = net.carry(net.a1, net.a2)
    assert first == 0.01 < second <= 0.02
    net = Net(within=LinkModel(median=0.01, shape=Shape.CONSTANT, reordering=1.0))
    arrivals = [net.carry(net.a1, net.a2)[0] for _ in range(100)]
    assert min(arrivals) < 0.02
    assert max(arrivals) > 0.03


def test_streams_send_again_what_is_lost() -> None:
    net = Net(within=LinkModel(median=0.01, shape=Shape.CONSTANT, loss=0.5))
    arrivals = [net.stream(net.a1, net.a2) for _ in range(400)]
    delays = {round(arrival[0], 3) for arrival in arrivals if arrival}
    waits = (0, RETRANSMISSION_TIMEOUT, 3 * RETRANSMISSION_TIMEOUT)
    assert {round(0.01 + wait, 3) for wait in waits} <= delays
    given_up = sum(not arrival for arrival in arrivals) / len(arrivals)
    assert given_up == pytest.approx(0.5 ** (RETRANSMISSIONS_MAX + 1), abs=0.02)


def test_bandwidth_queues_and_drops_what_is_too_much() -> None:
    slow = LinkModel(median=0.01, shape=Shape.CONSTANT, bandwidth=1000)
    net = Net(between=slow)
    assert net.carry(net.a1, net.b1) == (0.11,)
    assert net.carry(net.a2, net.b2) == (0.21,), "the way is shared"
    assert net.carry(net.b1, net.a1) == (0.11,), "not with the way back"
    assert net.stream(net.a1, net.b1, size=1000) == (1.21,)
    assert net.carry(net.a1, net.b1) == (), f"more than {BACKLOG_MAX} s wait"
    assert net.stream(net.a1, net.b1, size=1000) == (2.21,), "streams wait"
    assert net.carry(net.a1, net.b1, now=5.0) == (5.11,)


def test_machines_of_a_group_have_a_bandwidth_each() -> None:
    net = Net(within=LinkModel(median=0.01, shape=Shape.CONSTANT, bandwidth=1000))
    assert net.carry(net.a1, net.a2) == (0.11,)
    assert net.carry(net.a2, net.a1) == (0.11,)
    assert net.carry(net.a1, net.a2) == (0.21,)


def test_cuts_are_one_way_and_heal() -> None:
    net = Net()
    net.network.cut("a", "b")
    assert not net.carry(net.a1, net.b1)
    assert not net.stream(net.a1, net.b1)
    assert net.carry(net.b1, net.a1)
    assert net.carry(net.a1, net.a2)
    net.network.heal("a", "b")
    assert net.carry(net.a1, net.b1)
    net.network.cut("a1", "a2")
    assert not net.carry(net.a1, net.a2)
    assert net.carry(net.a2, net.a1)
    net.network.heal_all()
    assert net.carry(net.a1, net.a2)
    assert net.changes == 4


def test_cut_of_any_spares_the_own_group() -> None:
    net = Net()
    net.network.cut("a", ANY)
    assert not net.carry(net.a1, net.b1)
    assert net.carry(net.a1, net.a2)
    assert net.carry(net.b1, net.a1)


def test_the_most_exact_rule_counts() -> None:
    net = Net()
    rules = [(ANY, "b", 0.1), ("a", ANY, 0.2), ("a", "b", 0.3), ("a1", "b", 0.4), ("a1", "b1", 0.5)]
    for source, target, seconds in rules:
        model = LinkModel(median=seconds, shape=Shape.CONSTANT)
        net.network.set_link(source, target, model)
        assert net.carry(net.a1, net.b1) == (seconds,)
    assert net.carry(net.a2, net.b1) == (0.3,)
    assert net.carry(net.b1, net.a1) == (0.010,)
    net.network.reset_link("a1", "b1")
    assert net.carry(net.a1, net.b1) == (0.4,)


def test_defaults_can_change() -> None:
    net = Net()
    fast, slow = (LinkModel(median=m, shape=Shape.CONSTANT) for m in (0.001, 1.0))
    net.network.set_defaults(within=fast, between=slow)
    assert net.carry(net.a1, net.a2) == (0.001,)
    assert net.carry(net.a1, net.b1) == (1.0,)
    assert net.network.latency(net.a1, net.b1) == 1.0


def test_a_queue_survives_a_change_of_another_rule() -> None:
    net = Net(between=LinkModel(median=0.01, shape=Shape.CONSTANT, bandwidth=1000))
    net.carry(net.a1, net.b1)
    net.network.cut("b", "a")
    assert net.carry(net.a1, net.b1) == (0.21,)


def test_paths_add_up_and_break_at_every_hop() -> None:
    net = Net()
    path = (net.a1, net.a2, net.b1, net.b2)
    assert net.stream(*path) == (0.03,)
    links = net.network.plain_links(path)
    assert links is not None
    assert net.network.travel(links) == pytest.approx(0.03)
    net.network.cut("b1", "b2")
    assert net.stream(*path) == ()
    broken = net.network.plain_links(path)
    assert broken is not None
    assert net.network.travel(broken) == LOST


def test_path_over_a_link_that_queues_cannot_be_drawn_beforehand() -> None:
    net = Net(between=LinkModel(bandwidth=1000))
    assert net.network.plain_links((net.a1, net.a2)) is not None
    assert net.network.plain_links((net.a1, net.a2, net.b1)) is None


def test_uniform_link_is_none_where_pairs_differ_or_queue() -> None:
    net = Net()
    link = net.network.uniform("a")
    assert link is not None
    assert link is net.network.link(net.a1, net.a2)
    net.network.set_link("a", "a", LinkModel(loss=0.5))
    changed = net.network.uniform("a")
    assert changed is not None
    assert changed.model.loss == 0.5
    net.network.set_link("a1", "a2", LinkModel(loss=0.6))
    assert net.network.uniform("a") is None
    assert Net(within=LinkModel(bandwidth=1)).network.uniform("a") is None


def test_machines_get_addresses_and_names_are_unique() -> None:
    net = Net()
    assert len({m.address for m in net.network.machines.values()}) == 4
    assert net.network.by_address[net.a1.address] is net.a1
    with pytest.raises(ValueError, match="a machine a1"):
        net.add("a1", "b")


@pytest.mark.parametrize(
    "fields",
    [
        {"median": 0.0},
        {"extra": -1.0},
        {"loss": 1.5},
        {"duplication": -0.1},
        {"bandwidth": -1},
        {"shape": Shape.UNIFORM, "spread": 1.5},
    ],
)
def test_links_that_make_no_sense_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        LinkModel(**fields)  # type: ignore[arg-type]
