"""What a run measures: samples and events at virtual times, appended as the run goes on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from isthmus.sim.scenario import Scenario
from isthmus.sim.topology import Host

SAMPLES_MAX: Final = 20_000
"""Samples of one run; whoever samples chooses the interval so that they suffice."""
EVENTS_MAX: Final = 200_000
"""Events of each kind that are kept; further ones are only counted (`Recording.dropped`)."""
LAN: Final = "lan"
WAN: Final = "wan"

EventT = TypeVar("EventT")


class SimulationStopped(Exception):
    """Raised by the progress callback: end the run now and return what was measured so far."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Smallest, median, largest and mean of many values of one moment."""

    low: float
    middle: float
    high: float
    mean: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Spread of `values`; of none: all 0."""
        if not values:
            return cls(0.0, 0.0, 0.0, 0.0)
        ordered = sorted(values)
        mean = math.fsum(ordered) / len(ordered)
        return cls(ordered[0], ordered[len(ordered) // 2], ordered[-1], mean)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The state of the federation at one moment.

    Attributes:
        at: Virtual seconds since the start.
        known: WAN members that a running server takes to be alive.
        alive: Servers that run.
        lan_rate: Bytes per second a server sent into its LAN pool since the sample before.
        wan_rate: The same for the WAN pool.
        gateway_rate: Bytes per second a gateway forwarded since the sample before.
        connections: Connections open at a gateway.
        converged: Datacenters that have the newest federation states.
    """

    at: float
    known: Spread
    alive: int
    lan_rate: Spread
    wan_rate: Spread
    gateway_rate: Spread
    connections: Spread
    converged: int


@dataclass(frozen=True, slots=True)
class Detection:
    """An observer declared a host dead that had gone, or stood still.

    Attributes:
        at: When it did so.
        pool: `LAN` or `WAN`.
        victim: Who had gone.
        observer: Who says so.
        seconds: From the victim's end to `at`.
    """

    at: float
    pool: str
    victim: Host
    observer: Host
    seconds: float


@dataclass(frozen=True, slots=True)
class FalsePositive:
    """An observer declared a host dead that ran and could be reached.

    Attributes:
        at: When it did so.
        pool: `LAN` or `WAN`.
        victim: Who was well.
        observer: Who is mistaken.
    """

    at: float
    pool: str
    victim: Host
    observer: Host


@dataclass(frozen=True, slots=True)
class Convergence:
    """A federation state changed, and the datacenters learnt of it.

    Attributes:
        dc: Whose state.
        changed_at: When its gateways changed.
        seconds: From then until the last datacenter had it; None: not before the run ended.
    """

    dc: str
    changed_at: float
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant did not hold.

    Attributes:
        at: When that was seen.
        invariant: Which one, by its name.
        text: Who and what.
    """

    at: float
    invariant: str
    text: str


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth telling that happened: a fault began, a leader changed."""

    at: float
    text: str


@dataclass(slots=True)
class Recording:
    """All that one run measured.

    Attributes:
        scenario: What was run.
        samples: In order of time.
        detections: True ones.
        false_positives: Mistaken ones.
        convergences: One for each change of a federation state.
        invariants: What was checked: name → one sentence.
        violations: In order of time.
        notes: In order of time.
        counters: Totals of the whole run: ``events``, ``probes``, ``packets``, …
        dropped: Events beyond `EVENTS_MAX`, by kind.
        ended_at: Virtual seconds reached.
        interrupted: The run was stopped before its end.
    """

    scenario: Scenario
    samples: list[Sample] = field(default_factory=list)
    detections: list[Detection] = field(default_factory=list)
    false_positives: list[FalsePositive] = field(default_factory=list)
    convergences: list[Convergence] = field(default_factory=list)
    invariants: dict[str, str] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    ended_at: float = 0.0
    interrupted: bool = False

    def sample(
        self,
        at: float,
        *,
        known: Sequence[float],
        lan_rates: Sequence[float],
        wan_rates: Sequence[float],
        gateway_rates: Sequence[float],
        connections: Sequence[float],
        converged: int,
    ) -> None:
        """Append a sample.

        Args:
            at: Virtual seconds since the start; later than the sample before.
            known: For each running server, the WAN members it takes to be alive, itself included.
            lan_rates: For each running server, bytes per second sent into its LAN pool.
            wan_rates: The same for the WAN pool.
            gateway_rates: For each running gateway, bytes per second forwarded.
            connections: For each running gateway, open connections.
            converged: Datacenters that have the newest federation states.
        """
        assert not self.samples or at > self.samples[-1].at
        assert len(self.samples) < SAMPLES_MAX
        self.samples.append(
            Sample(
                at=at,
                known=Spread.of(known),
                alive=len(known),
                lan_rate=Spread.of(lan_rates),
                wan_rate=Spread.of(wan_rates),
                gateway_rate=Spread.of(gateway_rates),
                connections=Spread.of(connections),
                converged=converged,
            )
        )

    def detected(
        self, at: float, *, pool: str, victim: Host, observer: Host, seconds: float
    ) -> None:
        """Append a detection of a host that is really gone."""
        self._append("detections", self.detections, Detection(at, pool, victim, observer, seconds))

    def mistaken(self, at: float, *, pool: str, victim: Host, observer: Host) -> None:
        """Append a declaration of death about a host that runs and can be reached."""
        self._append(
            "false_positives", self.false_positives, FalsePositive(at, pool, victim, observer)
        )

    def converged(self, dc: str, *, changed_at: float, seconds: float | None) -> None:
        """Append a change of a federation state and how long its way everywhere took."""
        self._append("convergences", self.convergences, Convergence(dc, changed_at, seconds))

    def violated(self, at: float, invariant: str, text: str) -> None:
        """Append a violation of an invariant that `invariants` names."""
        assert invariant in self.invariants
        self._append("violations", self.violations, Violation(at, invariant, text))

    def note(self, at: float, text: str) -> None:
        """Append something worth telling."""
        self._append("notes", self.notes, Note(at, text))

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a total."""
        self.counters[name] = self.counters.get(name, 0) + amount

    def _append(self, kind: str, events: list[EventT], event: EventT) -> None:
        if len(events) < EVENTS_MAX:
            events.append(event)
        else:
            self.dropped[kind] = self.dropped.get(kind, 0) + 1
