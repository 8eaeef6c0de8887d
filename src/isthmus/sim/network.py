"""The network of a simulation: machines in groups, links between them, cuts.

A link belongs to a direction: from one group (a datacenter) to another, within a group, or from one
machine to another. It says when a message arrives, or that it is lost. All chance comes from the
one source that the world gives, in the order in which messages are sent.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise
from random import Random
from statistics import NormalDist
from typing import Final, TypeAlias

ANY: Final = "*"
"""In a rule: every other group."""

BACKLOG_MAX: Final = 1.0
"""Seconds of traffic that wait for a link of limited bandwidth; further packets are dropped."""
RETRANSMISSIONS_MAX: Final = 6
"""Times that a stream sends a lost message again; after that it is not delivered."""
RETRANSMISSION_TIMEOUT: Final = 0.2
"""Seconds until the first of them; each further one waits twice as long."""
REORDERED_DELAY: Final = 4.0
"""A packet that is overtaken takes up to so many medians longer."""
LOST: Final = -1.0
"""Latency of what does not arrive."""
_QUANTILES: Final = 1024
"""Resolution of a latency distribution."""

_Pair: TypeAlias = tuple[str, str]


class Shape(StrEnum):
    """How latencies are distributed about their median."""

    CONSTANT = "constant"
    UNIFORM = "uniform"
    LOGNORMAL = "lognormal"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkModel:
    """What one direction of a link does to what is sent over it.

    Attributes:
        median: Latency one way, in seconds.
        shape: Distribution of the latency.
        spread: Constant: no meaning. Uniform: half of the width, as a share of the median, 0 to 1.
            Lognormal: sigma of the logarithm.
        extra: Seconds added to every latency.
        loss: Share of the packets that are lost, 0 to 1. Streams send what is lost again, later.
        duplication: Share of the packets that arrive twice, 0 to 1.
        reordering: Share of the packets that are held back so that others overtake, 0 to 1.
        bandwidth: Bytes per second; what is too much for it queues; 0: unlimited.
    """

    median: float = 0.0005
    shape: Shape = Shape.LOGNORMAL
    spread: float = 0.25
    extra: float = 0.0
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    bandwidth: int = 0

    def __post_init__(self) -> None:
        if not (0 < self.median < math.inf and 0 <= self.extra < math.inf):
            raise ValueError("the latency of a link must be finite and more than zero")
        if not 0 <= self.spread <= (1 if self.shape is Shape.UNIFORM else 8):
            raise ValueError(f"spread of {self.spread} makes no sense for a {self.shape} latency")
        for name in ("loss", "duplication", "reordering"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share of all packets, from 0 to 1")
        if self.bandwidth < 0:
            raise ValueError("bandwidth is a number of bytes per second; 0: unlimited")

    @classmethod
    def lan(cls) -> "LinkModel":
        """Half a millisecond, as within a datacenter."""
        return cls()

    @classmethod
    def wan(cls) -> "LinkModel":
        """Forty milliseconds, as between datacenters of neighbouring regions."""
        return cls(median=0.040, spread=0.1)

    @lru_cache(maxsize=4096)  # noqa: B019 - records are few, small and immutable.
    def quantiles(self) -> Sequence[float]:
        """Latencies of equal probability, in rising order; the last one twice, for a rounding."""
        if self.shape is Shape.CONSTANT or not self.spread:
            return (self.median + self.extra,) * 2
        shares = [(step + 0.5) / _QUANTILES for step in range(_QUANTILES)]
        if self.shape is Shape.UNIFORM:
            factors = [1 + self.spread * (2 * share - 1) for share in shares]
        else:
            normal = NormalDist()
            factors = [math.exp(self.spread * normal.inv_cdf(share)) for share in shares]
        factors.append(factors[-1])
        return tuple([self.median * factor + self.extra for factor in factors])


class Machine:
    """A place in the network: one address, one or more processes.

    Attributes:
        name: Unique in the network.
        group: Name of the datacenter it is in.
        address: Textual IP address.
        bytes_forwarded: Bytes that it passed on for others, as a gateway.
    """

    __slots__ = ("address", "bytes_forwarded", "group", "name")

    def __init__(self, name: str, group: str, address: str) -> None:
        self.name, self.group, self.address = name, group, address
        self.bytes_forwarded = 0


class Link:
    """One direction between two groups, or two machines.

    Attributes:
        model: What it does.
        cut: Whether nothing gets through.
        plain: Whether a packet's fate is one draw: no queue, no duplicates, nothing held back.
        typical: Median latency in seconds, what is added to it included.
    """

    __slots__ = (
        "_free_at",
        "_loss",
        "_quantiles",
        "_random",
        "_scale",
        "cut",
        "model",
        "plain",
        "typical",
    )

    def __init__(self, model: LinkModel, random: Callable[[], float]) -> None:
        self._random = random
        self._free_at = 0.0
        self.cut = False
        self.change(model)

    def change(self, model: LinkModel) -> None:
        """Behave like `model` from now on; what is under way arrives as it would have."""
        self.model = model
        self.plain = not (model.duplication or model.reordering or model.bandwidth)
        self.typical = model.median + model.extra
        self._loss, self._quantiles = model.loss, model.quantiles()
        steps = len(self._quantiles) - 1
        self._scale = steps / (1 - model.loss) if model.loss < 1 else 0.0

    def latency(self, chance: float) -> float:
        """Seconds that a packet takes whose draw, 0 to 1, is `chance`; `LOST`, below 0: never."""
        if self.cut or chance < self._loss:
            return LOST
        return self._quantiles[int((chance - self._loss) * self._scale)]

    def round_trip(self) -> tuple[float, float]:
        """Seconds there and back, each as from `latency` with a draw of its own."""
        if self.cut:
            self._random()
            self._random()
            return LOST, LOST
        loss, scale, quantiles = self._loss, self._scale, self._quantiles
        there, back = self._random(), self._random()
        return (
            LOST if there < loss else quantiles[int((there - loss) * scale)],
            LOST if back < loss else quantiles[int((back - loss) * scale)],
        )

    def carry(self, size: int, chance: float, *, now: float) -> Sequence[float]:
        """Moments at which a packet of `size` bytes arrives: none, one, or two."""
        latency = self.latency(chance)
        if latency < 0:
            return ()
        queued = self._queue(size, now=now)
        if queued is None:
            return ()
        model = self.model
        arrival = queued + latency
        if model.reordering and self._random() < model.reordering:
            arrival += self._random() * REORDERED_DELAY * model.median
        if model.duplication and self._random() < model.duplication:
            return arrival, arrival + self._random() * model.median
        return (arrival,)

    def stream(self, size: int, *, now: float) -> float | None:
        """Moment at which a message of a stream arrives; None: not within all its repetitions."""
        if self.cut:
            return None
        queued = self._queue(size, now=now, patient=True)
        assert queued is not None
        wait = RETRANSMISSION_TIMEOUT
        for _ in range(RETRANSMISSIONS_MAX + 1):
            latency = self.latency(self._random())
            if latency >= 0:
                return queued + latency
            queued += wait
            wait *= 2
        return None

    def _queue(self, size: int, *, now: float, patient: bool = False) -> float | None:
        """Moment at which all of it is on the link; None: too much waits already."""
        if not self.model.bandwidth:
            return now
        start = max(now, self._free_at)
        if start - now > BACKLOG_MAX and not patient:
            return None
        self._free_at = start + size / self.model.bandwidth
        return self._free_at


class Network:
    """Machines and the links between them.

    A rule names a group, a machine, or `ANY` (every other group). The most exact rule counts: one
    about machines before one about their groups, those before `ANY`. A link of limited bandwidth
    between two groups is shared by all their machines; within a group each machine has its own.

    Args:
        rng: Source of every chance.
        within: Links between the machines of one group.
        between: Links between the machines of two groups.
        changing: Called before a rule changes.
    """

    def __init__(
        self,
        rng: Random,
        *,
        within: LinkModel | None = None,
        between: LinkModel | None = None,
        changing: Callable[[], None] = lambda: None,
    ) -> None:
        self.chance = self._random = rng.random
        """A draw from 0 to 1, the next of the network's."""
        self.rules = 0
        """Rises whenever a rule changes."""
        self._changing = changing
        self._models: dict[_Pair, LinkModel] = {}
        self._cuts: set[_Pair] = set()
        self._links: dict[_Pair, Link] = {}
        """Links with a state of their own: those of a rule, and those that queue."""
        self._ways: dict[_Pair, Link] = {}
        """The link of each pair of groups (or machines, if a rule names one) looked up so far."""
        self._named: set[str] = set()
        """Machines that a rule names."""
        self._severed = Link(LinkModel(), self._random)
        self._severed.cut = True
        self.machines: dict[str, Machine] = {}
        self.by_address: dict[str, Machine] = {}
        self._within = Link(within or LinkModel.lan(), self._random)
        self._between = Link(between or LinkModel.wan(), self._random)

    def add(self, name: str, group: str, *, address: str = "") -> Machine:
        """A new machine; without an address it gets one.

        Raises:
            ValueError: Its name or its address is taken.
        """
        number = len(self.machines) + 1
        address = address or f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        if name in self.machines or address in self.by_address:
            raise ValueError(f"there is a machine {name}, or one at {address}, already")
        machine = Machine(name, group, address)
        self.machines[name] = self.by_address[address] = machine
        return machine

    # --- Rules ----------------------------------------------------------------------------------

    def set_defaults(self, *, within: LinkModel, between: LinkModel) -> None:
        """Change the links that no rule is about."""
        self._changing()
        self._within.change(within)
        self._between.change(between)
        self._refresh()

    def set_link(self, source: str, target: str, model: LinkModel) -> None:
        """What is sent from `source` to `target` goes over such a link; one way."""
        self._changing()
        self._models[source, target] = model
        self._refresh()

    def reset_link(self, source: str, target: str) -> None:
        """Undo `set_link`."""
        self._changing()
        self._models.pop((source, target), None)
        self._refresh()

    def cut(self, source: str, target: str) -> None:
        """Nothing gets from `source` to `target` any more; one way."""
        self._changing()
        self._cuts.add((source, target))
        self._refresh()

    def heal(self, source: str, target: str) -> None:
        """Undo `cut`."""
        self._changing()
        self._cuts.discard((source, target))
        self._refresh()

    def heal_all(self) -> None:
        """Undo every `cut`."""
        self._changing()
        self._cuts.clear()
        self._refresh()

    def _refresh(self) -> None:
        """Look every way up anew; links that queue keep what waits for them."""
        self.rules += 1
        self._ways.clear()
        names = {name for pair in (*self._models, *self._cuts) for name in pair}
        self._named = names & self.machines.keys()

    # --- Ways -----------------------------------------------------------------------------------

    def link(self, source: Machine, target: Machine) -> Link:
        """The link from one machine to another; the same object for all that share it."""
        same = source.group == target.group
        if not (self._models or self._cuts):
            link = self._within if same else self._between
            if not link.model.bandwidth:
                return link
        exact = same or source.name in self._named or target.name in self._named
        way = (source.name, target.name) if exact else (source.group, target.group)
        found = self._ways.get(way)
        if found is None:
            found = self._ways[way] = self._find(source, target)
        return found

    def latency(self, source: Machine, target: Machine) -> float:
        """Median seconds from one machine to another."""
        return self.link(source, target).typical

    def uniform(self, group: str) -> Link | None:
        """The link between any two machines of a group, if there is one and it is plain."""
        if self._named:
            return None
        machine = next(known for known in self.machines.values() if known.group == group)
        link = self.link(machine, machine)
        return link if link.plain else None

    def plain_links(self, path: Sequence[Machine]) -> list[Link] | None:
        """The links of a path, if none has a memory: what is drawn for it now holds later, too."""
        links = []
        for source, target in pairwise(path):
            link = self.link(source, target)
            if not link.plain:
                return None
            links.append(link)
        return links

    @staticmethod
    def travel(links: Iterable[Link]) -> float:
        """Seconds that a message of a stream takes over plain links; `LOST`: it does not come."""
        seconds = 0.0
        for link in links:
            arrival = link.stream(0, now=seconds)
            if arrival is None:
                return LOST
            seconds = arrival
        return seconds

    def carry(
        self, path: Sequence[Machine], size: int, *, now: float, reliable: bool
    ) -> Sequence[float]:
        """Moments at which `size` bytes, sent along `path`, arrive at its end.

        Args:
            path: The machines, sender first; what stands beside each other has a link.
            size: Bytes.
            now: Virtual seconds.
            reliable: As a part of a stream: what is lost is sent again, nothing comes twice.
        """
        for source, target in pairwise(path[:-1]):
            arrival = self.link(source, target).stream(size, now=now)
            if arrival is None:
                return ()
            now = arrival
        last = self.link(path[-2], path[-1])
        if reliable:
            arrival = last.stream(size, now=now)
            return () if arrival is None else (arrival,)
        return last.carry(size, self._random(), now=now)

    def _find(self, source: Machine, target: Machine) -> Link:
        same = source.group == target.group
        pairs = list(_rules(source, target))
        if any(pair in self._cuts for pair in pairs):
            return self._severed
        rule = next((pair for pair in pairs if pair in self._models), None)
        link = self._within if same else self._between
        model = link.model if rule is None else self._models[rule]
        if model.bandwidth:
            own = (source.name, source.group) if same else (source.group, target.group)
            rule = own if rule is None or ANY in rule or same else rule
        elif rule is None:
            return link
        link = self._links.setdefault(rule, Link(model, self._random))
        if link.model != model:
            link.change(model)
        return link


def _rules(source: Machine, target: Machine) -> Iterator[_Pair]:
    """The rules that may be about a pair, the most exact first."""
    yield source.name, target.name
    yield source.name, target.group
    yield source.group, target.name
    if source.group != target.group:
        yield source.name, ANY
        yield ANY, target.name
    yield source.group, target.group
    if source.group != target.group:
        yield source.group, ANY
        yield ANY, target.group
