"""What goes wrong in a simulation, when, where and for how long.

A fault prints as the text of the fault language that parses to it (`sim/language.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import ClassVar, Final, TypeAlias

from isthmus.sim.amounts import format_rate, format_seconds, format_share
from isthmus.sim.network import LinkModel
from isthmus.sim.topology import Host, Role, Topology

FAULT_AT: Final = 10.0
"""Seconds after the start at which a fault begins that does not say when."""
FAULTS_MAX: Final = 1000


class Scope(StrEnum):
    """Which links a fault may touch."""

    BETWEEN = "between"
    WITHIN = "within"
    EVERYWHERE = "everywhere"


@dataclass(frozen=True, slots=True)
class Links:
    """Links between datacenters, or within them.

    Attributes:
        left: Datacenters on one side (with `WITHIN`: those whose LAN is meant); empty: every one.
        right: Datacenters on the other side; empty: every one.
        one_way: Only what `left` sends to `right`.
        scope: Between datacenters, within them, or all links there are.
    """

    left: tuple[str, ...] = ()
    right: tuple[str, ...] = ()
    one_way: bool = False
    scope: Scope = Scope.BETWEEN

    def covers(self, source: str, target: str) -> bool:
        """Whether traffic from datacenter `source` to `target` (maybe itself) is meant."""
        if self.scope is Scope.EVERYWHERE:
            return True
        if self.scope is Scope.WITHIN:
            return source == target and (not self.left or source in self.left)
        if source == target:
            return False
        return self._one_way(source, target) or (not self.one_way and self._one_way(target, source))

    def _one_way(self, source: str, target: str) -> bool:
        return (not self.left or source in self.left) and (not self.right or target in self.right)

    def __str__(self) -> str:
        """As the fault language has it: ``dc1|dc2``, ``dc1>*``, ``within dc1``, ``everywhere``."""
        if self.scope is Scope.EVERYWHERE:
            return "everywhere"
        left = format_datacenters(self.left)
        if self.scope is Scope.WITHIN:
            return f"within {left}"
        return f"{left}{'>' if self.one_way else '|'}{format_datacenters(self.right)}"


@dataclass(frozen=True, slots=True)
class Hosts:
    """Hosts of one role.

    Attributes:
        role: Servers, clients or gateways.
        number: Which one of each datacenter, from 1; None: every one.
        datacenters: Of which datacenters; empty: of every one.
    """

    role: Role
    number: int | None
    datacenters: tuple[str, ...] = ()

    def of(self, topology: Topology) -> Iterator[Host]:
        """The hosts meant, in order of datacenter and number."""
        for dc in self.datacenters or topology.names:
            if self.number is not None:
                yield Host(dc, self.role, self.number)
            else:
                yield from topology.hosts(self.role, dc)

    def __str__(self) -> str:
        """As the fault language has it: ``server 2 of dc3``, ``every gateway of *``."""
        of = format_datacenters(self.datacenters)
        if self.number is None:
            return f"every {self.role} of {of}"
        return f"{self.role} {self.number} of {of}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Timed:
    """What all faults have.

    Attributes:
        at: Seconds after the start at which it begins.
        duration: Seconds until all is as before; None: until the run ends.
    """

    verb: ClassVar[str]

    at: float = FAULT_AT
    duration: float | None = None

    @property
    def until(self) -> float | None:
        """Seconds after the start at which it is over; None: never."""
        return None if self.duration is None else self.at + self.duration

    def _time(self) -> str:
        lasting = "" if self.duration is None else f" for {format_seconds(self.duration)}"
        return f" at {format_seconds(self.at)}{lasting}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition(_Timed):
    """Nothing gets through on these links; open connections fall silent, they are not closed."""

    verb: ClassVar[str] = "partition"

    links: Links

    def __str__(self) -> str:
        return f"{self.verb} {self.links}{self._time()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss(_Timed):
    """A share of all packets is lost, besides those the link loses anyway.

    Attributes:
        share: From 0 to 1.
    """

    verb: ClassVar[str] = "loss"

    links: Links
    share: float

    def change(self, link: LinkModel) -> LinkModel:
        """The link with this fault."""
        return replace(link, loss=_either(link.loss, self.share))

    def __str__(self) -> str:
        return f"{self.verb} {format_share(self.share)} {self.links}{self._time()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplication(_Timed):
    """A share of all packets arrives twice.

    Attributes:
        share: From 0 to 1.
    """

    verb: ClassVar[str] = "duplication"

    links: Links
    share: float

    def change(self, link: LinkModel) -> LinkModel:
        """The link with this fault."""
        return replace(link, duplication=_either(link.duplication, self.share))

    def __str__(self) -> str:
        return f"{self.verb} {format_share(self.share)} {self.links}{self._time()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reordering(_Timed):
    """A share of all packets is overtaken by later ones.

    Attributes:
        share: From 0 to 1.
    """

    verb: ClassVar[str] = "reordering"

    links: Links
    share: float

    def change(self, link: LinkModel) -> LinkModel:
        """The link with this fault."""
        return replace(link, reordering=_either(link.reordering, self.share))

    def __str__(self) -> str:
        return f"{self.verb} {format_share(self.share)} {self.links}{self._time()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency(_Timed):
    """All that is sent on these links takes longer.

    Attributes:
        extra: Seconds added, one way.
    """

    verb: ClassVar[str] = "latency"

    links: Links
    extra: float

    def change(self, link: LinkModel) -> LinkModel:
        """The link with this fault."""
        return replace(link, extra=link.extra + self.extra)

    def __str__(self) -> str:
        return f"{self.verb} +{format_seconds(self.extra)} {self.links}{self._time()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth(_Timed):
    """These links carry less.

    Attributes:
        limit: Bytes per second.
    """

    verb: ClassVar[str] = "bandwidth"

    links: Links
    limit: int

    def change(self, link: LinkModel) -> LinkModel:
        """The link with this fault."""
        return replace(link, bandwidth=min(link.bandwidth or self.limit, self.limit))

    def __str__(self) -> str:
        return f"{self.verb} {format_rate(self.limit)} {self.links}{self._time()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _OnHosts(_Timed):
    """What faults of hosts have.

    Attributes:
        hosts: Whom it befalls.
        apart: Seconds between one host's turn and the next's; 0: all at once.
    """

    hosts: Hosts
    apart: float = 0.0

    def turns(self, topology: Topology) -> Iterator[tuple[float, float | None, Host]]:
        """For each host the moment it begins, the moment it is over (None: never), and the host."""
        for turn, host in enumerate(self.hosts.of(topology)):
            at = self.at + turn * self.apart
            yield at, None if self.duration is None else at + self.duration, host

    def __str__(self) -> str:
        return f"{self.verb} {self.hosts}{self._time()}{self._apart()}"

    def _apart(self) -> str:
        return f" {format_seconds(self.apart)} apart" if self.apart else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause(_OnHosts):
    """The process stands still, as a stopped or starved one does, and then goes on."""

    verb: ClassVar[str] = "pause"

    __str__ = _OnHosts.__str__


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash(_OnHosts):
    """The process is gone without a word; after `duration` it is started again."""

    verb: ClassVar[str] = "crash"

    __str__ = _OnHosts.__str__


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart(_OnHosts):
    """The process is stopped, if it runs, and started: after `duration`, without one at once."""

    verb: ClassVar[str] = "restart"

    __str__ = _OnHosts.__str__


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave(_OnHosts):
    """The host says good-bye and stops, as ``isthmus leave`` does."""

    verb: ClassVar[str] = "leave"

    __str__ = _OnHosts.__str__


@dataclass(frozen=True, slots=True, kw_only=True)
class Move(_OnHosts):
    """The host's address changes; connections to the old one are dead."""

    verb: ClassVar[str] = "move"

    __str__ = _OnHosts.__str__


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift(_OnHosts):
    """The host's clock runs at another speed.

    Attributes:
        factor: Its seconds per true second: 1.05 is 5 % fast.
    """

    verb: ClassVar[str] = "drift"

    factor: float = field(default=1.0)

    def __str__(self) -> str:
        return f"{self.verb} {self.hosts} {self.factor:g}{self._time()}{self._apart()}"


LinkFault: TypeAlias = Partition | Loss | Duplication | Reordering | Latency | Bandwidth
"""Faults of links. All but `Partition` have ``change(link) -> link``; several may add up."""
HostFault: TypeAlias = Pause | Crash | Restart | Leave | Move | Drift
"""Faults of hosts: ``turns(topology)`` says who, when and until when."""
Fault: TypeAlias = LinkFault | HostFault


def format_datacenters(names: tuple[str, ...]) -> str:
    """Datacenters as the fault language has them: ``*``, ``dc1,dc3``, ``dc1..dc5``."""
    if not names:
        return "*"
    runs = list[list[int]]()
    for number in (int(name.removeprefix("dc")) for name in names):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(
        f"dc{run[0]}..dc{run[-1]}" if len(run) > 2 else ",".join(f"dc{number}" for number in run)
        for run in runs
    )


def _either(first: float, second: float) -> float:
    """Probability that at least one of two independent things happens."""
    return 1 - (1 - first) * (1 - second)
