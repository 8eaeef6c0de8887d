"""The simulator's second gear: virtual seconds of whole agents in a second of one core.

Counted is what this process computes, so that other work on the machine does not matter.
"""

import time

from bench.figures import show
from isthmus.sim.agents import AgentFederation, run_agents
from isthmus.sim.topology import Topology

JOIN_WITHIN = 60.0
SIZES = ((3, 300.0), (10, 60.0))
"""Datacenters, and virtual seconds measured once they have joined."""
ROUNDS = 3


def main() -> None:
    """Run federations of one server and one gateway in each datacenter."""
    for datacenters, seconds in SIZES:
        joined: list[float] = []
        rates: list[float] = []

        async def measure(
            federation: AgentFederation,
            seconds: float = seconds,
            joined: list[float] = joined,
            rates: list[float] = rates,
        ) -> None:
            joined.append(await federation.joined(within=JOIN_WITHIN))
            started = time.process_time()
            await federation.sleep(seconds)
            rates.append(seconds / (time.process_time() - started))

        topology = Topology(datacenters=datacenters, servers=1, gateways=1)
        for seed in range(ROUNDS):
            run_agents(measure, topology=topology, seed=seed)
        show(f"whole agents, {datacenters} datacenters: virtual seconds", rates, "1/s")
        show(f"whole agents, {datacenters} datacenters: joined after", joined, "s")


if __name__ == "__main__":
    main()
