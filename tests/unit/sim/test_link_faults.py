from random import Random

import pytest

from isthmus.sim.faults import Latency, Links, Loss, Partition, Scope
from isthmus.sim.link_faults import LinkFaults, pairs_of
from isthmus.sim.network import LinkModel, Machine, Network, Shape
from isthmus.sim.topology import Topology

PLAIN = LinkModel(median=0.01, shape=Shape.CONSTANT)
SLOW = LinkModel(median=0.1, shape=Shape.CONSTANT)
TOPOLOGY = Topology(datacenters=3, lan=PLAIN, wan=PLAIN, pairs={("dc1", "dc3"): SLOW})


class Lab:
    def __init__(self) -> None:
        self.network = Network(Random(1), within=PLAIN, between=PLAIN)
        self.machines: dict[str, Machine] = {dc: self.network.add(dc, dc) for dc in TOPOLOGY.names}
        for (source, target), model in TOPOLOGY.pairs.items():
            self.network.set_link(source, target, model)
        self.faults = LinkFaults(self.network, TOPOLOGY)

    def model(self, source: str, target: str) -> LinkModel:
        return self.network.link(self.machines[source], self.machines[target]).model

    def is_cut(self, source: str, target: str) -> bool:
        return self.network.link(self.machines[source], self.machines[target]).cut


def test_two_faults_of_one_link_add_up_and_end_apart() -> None:
    lab, links = Lab(), Links(("dc1",), ("dc2",))
    loss, latency = Loss(links=links, share=0.5), Latency(links=links, extra=1.0)
    lab.faults.begin(loss)
    lab.faults.begin(latency)
    assert (lab.model("dc1", "dc2").loss, lab.model("dc2", "dc1").extra) == (0.5, 1.0)
    assert lab.model("dc2", "dc3") == PLAIN
    lab.faults.end(loss)
    assert (lab.model("dc1", "dc2").loss, lab.model("dc1", "dc2").extra) == (0.0, 1.0)
    lab.faults.end(latency)
    assert lab.model("dc1", "dc2") == PLAIN


def test_link_cut_twice_is_whole_when_both_are_over() -> None:
    lab = Lab()
    one = Partition(links=Links(("dc1",), ("dc2",)))
    other = Partition(links=Links(("dc1",), one_way=True))
    lab.faults.begin(one)
    lab.faults.begin(other)
    lab.faults.end(one)
    assert lab.is_cut("dc1", "dc2")
    assert not lab.is_cut("dc2", "dc1")
    assert lab.faults.cut == {("dc1", "dc2"), ("dc1", "dc3")}
    lab.faults.end(other)
    assert not lab.is_cut("dc1", "dc2")
    assert lab.faults.cut == set()


def test_link_of_its_own_is_itself_again_afterwards() -> None:
    lab = Lab()
    fault = Loss(links=Links(scope=Scope.EVERYWHERE), share=0.25)
    lab.faults.begin(fault)
    assert (lab.model("dc1", "dc3").median, lab.model("dc1", "dc3").loss) == (0.1, 0.25)
    assert lab.model("dc1", "dc1").loss == 0.25
    lab.faults.end(fault)
    assert lab.model("dc1", "dc3") == SLOW
    assert lab.model("dc1", "dc1") == PLAIN


@pytest.mark.parametrize(
    ("links", "pairs"),
    [
        (Links(("dc1",), ("dc2",)), {("dc1", "dc2"), ("dc2", "dc1")}),
        (Links(("dc1",), ("dc2",), one_way=True), {("dc1", "dc2")}),
        (Links(("dc2",), scope=Scope.WITHIN), {("dc2", "dc2")}),
        (Links(("dc1",), one_way=True), {("dc1", "dc2"), ("dc1", "dc3")}),
        (Links(), {(a, b) for a in TOPOLOGY.names for b in TOPOLOGY.names if a != b}),
    ],
)
def test_pairs_are_those_that_the_links_cover(links: Links, pairs: set[tuple[str, str]]) -> None:
    found = pairs_of(links, TOPOLOGY.names)
    assert set(found) == pairs
    assert len(found) == len(pairs)
    assert all(links.covers(*pair) for pair in found)
