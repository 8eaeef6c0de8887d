"""Recordings as a run would make them, without a run: for what reads recordings."""

import math
from dataclasses import replace
from random import Random

from isthmus.sim.language import parse_fault
from isthmus.sim.recording import LAN, WAN, Recording
from isthmus.sim.scenario import Expect, Scenario
from isthmus.sim.topology import Host, Role, Topology


def make_scenario(*faults: str, datacenters: int = 3, **changes: object) -> Scenario:
    """A scenario with these faults."""
    topology = Topology(datacenters=datacenters)
    scenario = Scenario(
        topology=topology, faults=tuple(parse_fault(text, topology) for text in faults), seed=7
    )
    return replace(scenario, **changes)  # type: ignore[arg-type]


def make_recording(scenario: Scenario | None = None, *, seed: int = 1) -> Recording:
    """A whole run: a host is lost and found, members are forgotten and met again."""
    if scenario is None:
        scenario = make_scenario(
            "partition dc1|dc2 at 60s for 60s",
            "pause server 2 of dc3 at 150s for 45s",
            "move gateway 1 of dc2 at 4m",
            "loss 2% everywhere at 5m",
            datacenters=50,
            name="partition of two",
            about="dc1 and dc2 lose each other for a minute <here>, and gossip goes around.",
            expect=Expect(detection=300, false_positives=0),
        )
    rng, topology = Random(seed), scenario.topology
    recording = Recording(scenario)
    recording.invariants = {
        "gateway only": "no message crosses datacenters except through a gateway",
        "indexes": "no index goes back",
    }
    count = topology.datacenters * topology.servers
    for second in range(1, int(scenario.ends_at) + 1):
        lost = 3 if 100 < second < 160 else 0
        known = [float(count - rng.randrange(lost + 1)) for _ in range(count)]
        recording.sample(
            float(second),
            known=known,
            lan_rates=[290 + 40 * rng.random() for _ in range(count)],
            wan_rates=[900 + 300 * rng.random() + 200 * math.sin(second / 30) for _ in range(9)],
            gateway_rates=[20_000 + 5000 * rng.random() for _ in range(6)],
            connections=[80.0 + rng.randrange(20) for _ in range(6)],
            converged=topology.datacenters - (2 if 240 < second < 250 else 0),
        )
    victim = Host("dc3", Role.SERVER, 2)
    for host in topology.hosts(Role.SERVER):
        if host != victim:
            pool = LAN if host.dc == victim.dc else WAN
            seconds = rng.lognormvariate(1.5 if pool == LAN else 4.2, 0.15)
            recording.detected(
                150 + seconds, pool=pool, victim=victim, observer=host, seconds=seconds
            )
    recording.converged("dc2", changed_at=240, seconds=9.6)
    recording.note(60, "partition dc1|dc2 begins")
    recording.count("events", 1_234_567)
    recording.ended_at = scenario.ends_at
    return recording
