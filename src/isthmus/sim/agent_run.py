"""Runs a scenario with whole agents: the second gear of `sim/run.py`, as exact as it is slow.

What is measured is what an operator would see from outside: members, bytes, connections, states.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Final

from isthmus.config.model import AgentConfig, GossipTimers
from isthmus.gossip.config import GossipConfig
from isthmus.gossip.roster import MemberStatus
from isthmus.sim.agent_invariants import BOUND, PROGRAMS, SENTENCES, InvariantBroken, Invariants
from isthmus.sim.agent_programs import AgentProgram
from isthmus.sim.agents import AgentFederation
from isthmus.sim.faults import Crash, Drift, HostFault, Leave, LinkFault, Move, Pause, Restart
from isthmus.sim.invariants import CROSSINGS
from isthmus.sim.link_faults import LinkFaults, pairs_of
from isthmus.sim.recording import WAN, Recording, SimulationStopped
from isthmus.sim.scenario import Scenario
from isthmus.sim.topology import Host, Role

SAMPLES_TARGET: Final = 3600
LOOK_INTERVAL: Final = 0.25
"""Seconds between two looks at who takes whom for dead."""
RESTART_TIME: Final = 0.5
"""Seconds that a restarted program is away that nobody said how long."""


class AgentRun:
    """One run of a scenario.

    Attributes:
        recording: What it measures.
        federation: What runs.

    Raises:
        ValueError: The scenario is not for whole agents; says why.
    """

    def __init__(self, scenario: Scenario) -> None:
        _check(scenario)
        self.scenario = scenario
        self.recording = Recording(scenario)
        self.recording.invariants.update(SENTENCES)
        self.federation = AgentFederation(
            scenario.topology, seed=scenario.seed, change=partial(_with_gossip, scenario)
        )
        bound = BOUND if scenario.settle is None else scenario.settle
        Invariants(self.federation, bound=bound)
        self._link_faults = LinkFaults(self.federation.links, scenario.topology)
        self._sizes: dict[str, int] = {}
        self._sampled_at = 0.0
        self._away_since: dict[str, float] = {}  # Programs that do not run, or stand still.
        self._dead: set[tuple[str, str]] = set()  # Who takes whom for dead.
        self._changed_at: dict[str, float] = {}  # States that have news for somebody.
        self._states: dict[str, object] = {}

    def run(self, progress: Callable[[float], None] | None = None) -> Recording:
        """Let it happen; `progress` is told the share that is done and may stop it."""
        recording, federation = self.recording, self.federation
        for fault in self.scenario.faults:
            self._plan(fault)
        try:
            federation.run(partial(self._drive, progress))
        except SimulationStopped:
            recording.interrupted = True
        except InvariantBroken as broken:
            recording.violated(federation.now, broken.invariant, str(broken))
        except AssertionError as error:
            kind = CROSSINGS if federation.fabric.violations else PROGRAMS
            recording.violated(federation.now, kind, str(error))
        recording.ended_at = federation.now
        for dc, changed_at in self._changed_at.items():
            recording.converged(dc, changed_at=changed_at, seconds=None)
        recording.counters["turns"] = federation.timeline.turn_count
        recording.counters["deliveries"] = federation.trace.count
        return recording

    async def _drive(
        self, progress: Callable[[float], None] | None, federation: AgentFederation
    ) -> None:
        end = self.scenario.ends_at
        interval = max(1.0, end / SAMPLES_TARGET)
        looks = max(1, round(interval / LOOK_INTERVAL))
        steps = math.ceil(end / interval)
        for step in range(1, steps + 1):
            until = min(step * interval, end)
            for look in range(looks, 0, -1):
                await federation.sleep(max(0.0, (until - federation.now) / look))
                self._look()
            self._sample()
            if progress is not None:
                progress(step / steps)

    # Faults ---------------------------------------------------------------------------------------

    def _plan(self, fault: HostFault | LinkFault) -> None:
        timeline = self.federation.timeline
        if isinstance(fault, HostFault):
            for at, until, host in fault.turns(self.scenario.topology):
                timeline.call_at(at, self._befall, fault, host)
                if until is not None:
                    timeline.call_at(until, self._spare, fault, host)
            return
        timeline.call_at(fault.at, self._begin, fault)
        if fault.until is not None:
            timeline.call_at(fault.until, self._end, fault)

    def _begin(self, fault: LinkFault) -> None:
        self._note(f"begins: {fault}")
        self._link_faults.begin(fault)
        self.federation.disturb(str(fault), *self._touched(fault))

    def _end(self, fault: LinkFault) -> None:
        self._note(f"ends: {fault}")
        self._link_faults.end(fault)
        self.federation.calm(str(fault), *self._touched(fault))

    def _touched(self, fault: LinkFault) -> Sequence[str]:
        pairs = pairs_of(fault.links, self.scenario.topology.names)
        return sorted({dc for pair in pairs for dc in pair})

    def _befall(self, fault: HostFault, host: Host) -> None:
        federation, name = self.federation, host.name
        self._note(f"{fault.verb} {host}")
        match fault:
            case Pause():
                federation.pause(name)
            case Crash():
                federation.crash(name)
            case Restart():
                federation.crash(name)
                if fault.duration is None:
                    federation.timeline.call_later(RESTART_TIME, self._start, host)
            case Leave():
                federation.leave(name)
            case Move():
                federation.move_gateway(name)
            case Drift():
                federation.drift(name, fault.factor)
        if isinstance(fault, Pause | Crash | Restart | Leave):
            self._away_since[name] = federation.now

    def _spare(self, fault: HostFault, host: Host) -> None:
        self._note(f"{fault.verb} of {host} is over")
        match fault:
            case Pause():
                self.federation.resume(host.name)
                self._away_since.pop(host.name, None)
            case Crash() | Restart() | Leave():
                self._start(host)
            case Drift():
                self.federation.drift(host.name, 1.0)
            case Move():
                pass  # It stays where it went.

    def _start(self, host: Host) -> None:
        self._away_since.pop(host.name, None)
        self.federation.restart(host.name)

    def _note(self, text: str) -> None:
        self.recording.note(self.federation.now, text)

    # Measures -------------------------------------------------------------------------------------

    def _look(self) -> None:
        """See who takes whom for dead, and which states are news."""
        servers = [server for server in self.federation.servers.values() if server.is_up]
        for observer in servers:
            seen = observer.members()
            for victim in self.federation.servers.values():
                pair = (observer.name, victim.name)
                if seen.get(victim.member_name) is not MemberStatus.FAILED:
                    self._dead.discard(pair)
                elif pair not in self._dead:
                    self._dead.add(pair)
                    self._declared_dead(observer, victim)
        self._look_at_states()

    def _declared_dead(self, observer: AgentProgram, victim: AgentProgram) -> None:
        now, recording = self.federation.now, self.recording
        who, whom = _host(observer), _host(victim)
        since = self._away_since.get(victim.name)
        if since is not None:
            recording.detected(now, pool=WAN, victim=whom, observer=who, seconds=now - since)
        elif not self._is_cut(observer.dc, victim.dc):
            recording.mistaken(now, pool=WAN, victim=whom, observer=who)

    def _is_cut(self, one: str, other: str) -> bool:
        cut = self._link_faults.cut
        return (one, other) in cut or (other, one) in cut

    def _look_at_states(self) -> None:
        federation, now = self.federation, self.federation.now
        newest = federation.newest_states()
        for dc, state in newest.items():
            if self._states.get(dc) != state:
                self._states[dc] = state
                self._changed_at[dc] = now
        for dc in list(self._changed_at):
            if all(states.get(dc) == newest.get(dc) for states in federation.known_states()):
                changed_at = self._changed_at.pop(dc)
                self.recording.converged(dc, changed_at=changed_at, seconds=now - changed_at)

    def _sample(self) -> None:
        federation, now = self.federation, self.federation.now
        seconds = now - self._sampled_at
        self._sampled_at = now
        servers = [server for server in federation.servers.values() if server.is_up]
        gateways = [gateway for gateway in federation.gateways.values() if gateway.is_running]
        sent = federation.fabric.sent_sizes

        def rate(what: str, size: int) -> float:
            before = self._sizes.get(what, 0)
            self._sizes[what] = size
            return (size - min(before, size)) / seconds

        newest = federation.newest_states()
        self.recording.sample(
            now,
            known=[
                sum(status is MemberStatus.ALIVE for status in server.members().values())
                for server in servers
            ],
            lan_rates=[
                rate(f"{server.name} udp", sent.get((server.name, "udp"), 0)) for server in servers
            ],
            wan_rates=[
                rate(f"{server.name} tcp", sent.get((server.name, "tcp"), 0)) for server in servers
            ],
            gateway_rates=[
                rate(gateway.name, gateway.gateway.forwarded_size) for gateway in gateways
            ],
            connections=[gateway.gateway.connection_count for gateway in gateways],
            converged=sum(states == newest for states in federation.known_states()),
        )


def simulate_agents(
    scenario: Scenario, *, progress: Callable[[float], None] | None = None
) -> Recording:
    """Run a scenario with whole agents.

    Args:
        scenario: What to build, what goes wrong, how long, and the seed of all chance. One server
            and no clients in each datacenter; agents always start cold.
        progress: Told the share that is done, 0 to 1; may raise `SimulationStopped`.

    Returns:
        What was measured, and the first violation of an invariant, which ends the run.

    Raises:
        ValueError: The scenario asks for what whole agents cannot do; says what.
    """
    return AgentRun(scenario).run(progress)


_TIMERS: Final = tuple(field.name for field in fields(GossipTimers))


def _check(scenario: Scenario) -> None:
    topology = scenario.topology
    if topology.servers != 1 or topology.clients:
        raise ValueError(
            "whole agents run one server and no clients in each datacenter: set servers to 1"
        )
    for fault in scenario.faults:
        if isinstance(fault, Move) and fault.hosts.role is not Role.GATEWAY:
            raise ValueError(f"{fault}: of whole agents only gateways can move")
        if isinstance(fault, Leave) and fault.hosts.role is not Role.SERVER:
            raise ValueError(f"{fault}: of whole agents only servers can leave")
    for name, gossip, default in (
        ("lan", scenario.lan, GossipConfig.lan()),
        ("wan", scenario.wan, GossipConfig.wan()),
    ):
        settable = {key: getattr(gossip, key) for key in (*_TIMERS, "reconnect_timeout")}
        if replace(default, **settable) != gossip:
            known = ", ".join(_TIMERS)
            raise ValueError(f"gossip of the {name}: an agent's configuration has only {known}")


def _with_gossip(scenario: Scenario, config: AgentConfig) -> AgentConfig:
    def timers(gossip: GossipConfig) -> GossipTimers:
        return GossipTimers(**{name: getattr(gossip, name) for name in _TIMERS})

    return replace(
        config,
        gossip=replace(
            config.gossip,
            lan=timers(scenario.lan),
            wan=timers(scenario.wan),
            reconnect_timeout_lan=scenario.lan.reconnect_timeout,
            reconnect_timeout_wan=scenario.wan.reconnect_timeout,
        ),
    )


def _host(server: AgentProgram) -> Host:
    return Host(server.dc, Role.SERVER, 1)
