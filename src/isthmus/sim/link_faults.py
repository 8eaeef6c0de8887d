"""Faults of links on the simulator's network: several may last at once, and add up."""

from collections.abc import Callable, Sequence
from typing import Protocol

from isthmus.sim.faults import LinkFault, Links, Partition, Scope
from isthmus.sim.network import LinkModel
from isthmus.sim.topology import Topology


class LinkRules(Protocol):
    """What is asked of the network; `isthmus.sim.network.Network` has it."""

    def set_link(self, source: str, target: str, model: LinkModel) -> None:
        """Let one direction be so."""

    def reset_link(self, source: str, target: str) -> None:
        """Undo `set_link`."""

    def cut(self, source: str, target: str) -> None:
        """Let nothing through in one direction."""

    def heal(self, source: str, target: str) -> None:
        """Undo `cut`."""


class LinkFaults:
    """The faults of links that last now.

    Args:
        network: Where they show.
        topology: The undisturbed links.

    Attributes:
        cut: Pairs of datacenters, one way each, that nothing gets through between.
    """

    def __init__(self, network: LinkRules, topology: Topology) -> None:
        self._network, self._topology = network, topology
        self._active: list[LinkFault] = []
        self.cut: set[tuple[str, str]] = set()

    def begin(self, fault: LinkFault) -> None:
        """A fault begins."""
        self._active.append(fault)
        self._set(fault)

    def end(self, fault: LinkFault) -> None:
        """A fault that began is over."""
        self._active.remove(fault)
        self._set(fault)

    def _set(self, changed: LinkFault) -> None:
        """Let every link that a fault concerns be as all faults that last want it."""
        network, topology = self._network, self._topology
        for source, target in pairs_of(changed.links, topology.names):
            link, cut = topology.link(source, target), False
            for fault in self._active:
                if not fault.links.covers(source, target):
                    continue
                if isinstance(fault, Partition):
                    cut = True
                else:
                    link = fault.change(link)
            self._set_link(source, target, link)
            change: Callable[[str, str], None] = network.cut if cut else network.heal
            if cut is not ((source, target) in self.cut):
                change(source, target)
                (self.cut.add if cut else self.cut.discard)((source, target))

    def _set_link(self, source: str, target: str, link: LinkModel) -> None:
        topology = self._topology
        if link != topology.link(source, target) or (source, target) in topology.pairs:
            self._network.set_link(source, target, link)
        else:
            self._network.reset_link(source, target)


def pairs_of(links: Links, names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of datacenters that a fault's links may cover, one way each, in a fixed order."""
    if links.scope is Scope.WITHIN:
        return [(name, name) for name in links.left or names]
    if links.scope is Scope.BETWEEN and (links.left or links.right):
        left, right = links.left or names, links.right or names
        pairs = {(a, b) for a in left for b in right} | {(b, a) for a in left for b in right}
        return sorted(pair for pair in pairs if links.covers(*pair))
    return [(a, b) for a in names for b in names if links.covers(a, b)]
