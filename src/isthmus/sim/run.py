"""Runs one scenario: builds the world, lets things go wrong in time, samples, checks.

The same scenario gives the same recording, whatever machine it runs on.
"""

import gc
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from isthmus.sim.faults import (
    Crash,
    Drift,
    Fault,
    HostFault,
    Leave,
    LinkFault,
    Move,
    Pause,
    Restart,
)
from isthmus.sim.federation import Federation
from isthmus.sim.invariants import Invariants
from isthmus.sim.link_faults import LinkFaults
from isthmus.sim.member import Member as PoolMember
from isthmus.sim.recording import Recording, SimulationStopped
from isthmus.sim.scenario import Scenario
from isthmus.sim.topology import Host

SAMPLE_INTERVAL: Final = 1.0
"""Seconds between two samples, and two looks of the invariants, in a small federation."""
SAMPLES_TARGET: Final = 3600
"""Samples of a long run: the interval grows so that there are no more."""
LARGE: Final = 300
"""Servers above which samples are taken less often, in proportion."""
RESTART_TIME: Final = 0.5
"""Seconds that a restarted process is away that nobody said how long."""
COLLECT_AFTER: Final = 200_000
"""New objects after which Python looks for cyclic garbage; see `patient_collector`."""


class Run:
    """One run of a scenario.

    Attributes:
        recording: What it measures.
        federation: What is simulated.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.recording = Recording(scenario)
        self._active: list[Fault] = []
        self._disturbed_at = 0.0
        self.invariants = Invariants(
            self.recording,
            bound=scenario.settle_time,
            quiet_since=self.quiet_since,
            unreachable=self.unreachable,
        )
        self.federation = Federation(scenario, self.invariants)
        self._link_faults = LinkFaults(self.federation.world.network, scenario.topology)
        self.invariants.watch(self.federation)
        self.federation.build()
        self._sizes: dict[object, int] = {}
        self._sampled_at = 0.0
        for fault in scenario.faults:
            self._plan(fault)

    def run(self, progress: Callable[[float], None] | None = None) -> Recording:
        """Let it happen; `progress` is told the share that is done and may stop it."""
        world, recording, end = self.federation.world, self.recording, self.scenario.ends_at
        interval = self._interval()
        steps = math.ceil(end / interval)
        try:
            for step in range(1, steps + 1):
                world.run(until=min(step * interval, end))
                self.invariants.check()
                self._sample()
                if progress is not None:
                    progress(step / steps)
        except SimulationStopped:
            recording.interrupted = True
        recording.ended_at = world.now
        self.invariants.check_end()
        self._total()
        return recording

    def quiet_since(self) -> float | None:
        """Since when nothing is disturbed; None while a fault lasts that will end."""
        if any(fault.duration is not None for fault in self._active):
            return None
        return self._disturbed_at

    def unreachable(self, one: str, other: str) -> bool:
        """Whether a partition keeps two datacenters apart."""
        cut = self._link_faults.cut
        return (one, other) in cut or (other, one) in cut

    # Faults ---------------------------------------------------------------------------------------

    def _plan(self, fault: Fault) -> None:
        world = self.federation.world
        if isinstance(fault, HostFault):
            for at, until, host in fault.turns(self.scenario.topology):
                world.at(at, partial(self._befall, fault, host))
                if until is not None:
                    world.at(until, partial(self._spare, fault, host))
            return
        world.at(fault.at, partial(self._begin, fault))
        if fault.until is not None:
            world.at(fault.until, partial(self._end, fault))

    def _disturb(self, text: str) -> None:
        self._disturbed_at = self.federation.world.now
        self.recording.note(self._disturbed_at, text)

    def _begin(self, fault: LinkFault) -> None:
        self._active.append(fault)
        self._disturb(f"begins: {fault}")
        self._link_faults.begin(fault)

    def _end(self, fault: LinkFault) -> None:
        self._active.remove(fault)
        self._disturb(f"ends: {fault}")
        self._link_faults.end(fault)

    def _befall(self, fault: HostFault, host: Host) -> None:
        federation = self.federation
        self._disturb(f"{fault.verb} {host}")
        if fault.duration is not None:
            self._active.append(fault)
        match fault:
            case Pause():
                federation.pause(host)
            case Crash():
                federation.crash(host)
            case Restart():
                federation.crash(host)
                if fault.duration is None:
                    federation.world.after(RESTART_TIME, partial(federation.start, host))
            case Leave():
                federation.leave(host)
            case Move():
                federation.move(host)
            case Drift():
                federation.drift(host, fault.factor)

    def _spare(self, fault: HostFault, host: Host) -> None:
        federation = self.federation
        self._active.remove(fault)
        self._disturb(f"{fault.verb} of {host} is over")
        match fault:
            case Pause():
                federation.resume(host)
            case Crash() | Restart() | Leave():
                federation.start(host)
            case Drift():
                federation.drift(host, 1.0)
            case Move():
                pass  # It stays where it went.

    # Measures -------------------------------------------------------------------------------------

    def _interval(self) -> float:
        large = self.federation.server_count / LARGE
        return max(SAMPLE_INTERVAL, self.scenario.ends_at / SAMPLES_TARGET, large)

    def _sample(self) -> None:
        federation, now = self.federation, self.federation.world.now
        seconds = now - self._sampled_at
        self._sampled_at = now
        servers = federation.running_servers()
        gateways = [gateway for gateway in federation.gateways.values() if gateway.process.running]

        def rate(what: object, size: int) -> float:
            before = self._sizes.get(what, 0)
            self._sizes[what] = size
            return (size - before) / seconds

        self.recording.sample(
            now,
            known=[server.known_count for server in servers],
            lan_rates=[rate(server.lan, _sent_size(server.lan)) for server in servers],
            wan_rates=[rate(server.wan, _sent_size(server.wan)) for server in servers],
            gateway_rates=[
                rate(gateway, gateway.forwarded_size + gateway.machine.bytes_forwarded)
                for gateway in gateways
            ],
            connections=[len(gateway.connections) for gateway in gateways],
            converged=len(federation.datacenters) - self.invariants.behind_count,
        )

    def _total(self) -> None:
        recording, federation = self.recording, self.federation
        for server in federation.servers.values():
            for member in (server.lan, server.wan):
                recording.count("packets", member.packets_sent)
                recording.count("streams", member.streams_opened)
        recording.counters["trace"] = federation.world.digest


def _sent_size(member: PoolMember) -> int:
    return member.packet_bytes_sent + member.stream_bytes_sent


def simulate(scenario: Scenario, *, progress: Callable[[float], None] | None = None) -> Recording:
    """Run a scenario.

    Args:
        scenario: What to build, what goes wrong, how long, and the seed of all chance.
        progress: Told the share that is done, 0 to 1; may raise `SimulationStopped`.

    Returns:
        What was measured, and every violation of an invariant.
    """
    with patient_collector():
        return Run(scenario).run(progress)


@contextmanager
def patient_collector() -> Iterator[None]:
    """Let Python look for cyclic garbage seldom.

    A run makes next to none of it, but keeps millions of objects, through which each look goes.
    """
    first, *others = gc.get_threshold()
    if first:  # Zero: somebody switched the collector off.
        gc.set_threshold(max(first, COLLECT_AFTER), *others)
    try:
        yield
    finally:
        gc.set_threshold(first, *others)
