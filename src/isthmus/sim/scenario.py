"""One rehearsal: what is built, what goes wrong, how long it runs, and what is expected of it."""

import math
from dataclasses import dataclass, field
from typing import Final

from isthmus.gossip.config import GossipConfig
from isthmus.gossip.suspicion import SuspicionTimes
from isthmus.sim.contradictions import check_faults
from isthmus.sim.faults import FAULTS_MAX, Fault, HostFault
from isthmus.sim.topology import Topology

DURATION_MIN: Final = 120.0
"""A run that says nothing else lasts at least so long."""
DURATION_MAX: Final = 7 * 86400.0
SEED_MAX: Final = 2**63 - 1
_SETTLE_MIN: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect:
    """What a run has to show, besides that every invariant holds; None: anything will do.

    Attributes:
        detection: Seconds from a host's end until the last observer declares it dead.
        converged_within: Seconds from a change of a federation state, or from the end of the last
            fault if that is later, until every datacenter has the newest.
        members_within: Seconds from the end of the last fault until all servers know all members.
        false_positives: Declarations of death about members that lived and could be reached.
    """

    detection: float | None = None
    converged_within: float | None = None
    members_within: float | None = None
    false_positives: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A whole run; the same scenario with the same seed gives the same recording.

    Attributes:
        name: For titles and file names.
        about: What it shows, in a few sentences.
        topology: What is built.
        faults: What goes wrong.
        duration: Virtual seconds; None: until all has had time to heal (`ends_at`).
        seed: Seed of every random choice.
        lan: Gossip settings of the LAN pools.
        wan: Gossip settings of the WAN pool.
        settle: Seconds within which all must be well again once the last fault is over; None:
            what the pool's size and timing suggest (`settle_time`).
        expect: What the run has to show.
        arguments: Command line that runs it, behind ``isthmus sim`` and without the seed; None: it
            is made from the fields.
    """

    name: str = "federation"
    about: str = ""
    topology: Topology = field(default_factory=Topology)
    faults: tuple[Fault, ...] = ()
    duration: float | None = None
    seed: int = 1
    lan: GossipConfig = field(default_factory=GossipConfig.lan)
    wan: GossipConfig = field(default_factory=GossipConfig.wan)
    settle: float | None = None
    expect: Expect = field(default_factory=Expect)
    arguments: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= SEED_MAX:
            raise ValueError(f"seed: {self.seed} is not within 0 to {SEED_MAX}")
        if self.duration is not None and not 0 < self.duration <= DURATION_MAX:
            raise ValueError(f"duration: {self.duration:g} s is not within 0 to {DURATION_MAX:g} s")
        if self.settle is not None and not 0 < self.settle <= DURATION_MAX:
            raise ValueError(f"settle: {self.settle:g} s is not within 0 to {DURATION_MAX:g} s")
        if len(self.faults) > FAULTS_MAX:
            raise ValueError(f"{len(self.faults)} faults; at most {FAULTS_MAX} fit")
        check_faults(self.faults, self.topology, ends_at=self.ends_at)

    @property
    def healed_at(self) -> float:
        """Moment of the last thing that a fault does: its end, or its beginning if it has none."""
        moments = [0.0]
        for fault in self.faults:
            turns = (
                [(at, until) for at, until, _ in fault.turns(self.topology)]
                if isinstance(fault, HostFault)
                else [(fault.at, fault.until)]
            )
            moments += [at if until is None else until for at, until in turns]
        return max(moments)

    @property
    def settle_time(self) -> float:
        """Seconds within which all must be well again once the last fault is over."""
        if self.settle is not None:
            return self.settle
        count = self.topology.datacenters * self.topology.servers
        suspicion = SuspicionTimes.of(self.wan, member_count=count)
        return _SETTLE_MIN + math.ceil(2 * suspicion.timeout_min)

    @property
    def ends_at(self) -> float:
        """Virtual seconds the run lasts."""
        if self.duration is not None:
            return self.duration
        return max(DURATION_MIN, self.healed_at + self.settle_time if self.faults else 0.0)
