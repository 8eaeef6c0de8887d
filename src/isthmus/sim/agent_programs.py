"""The programs of a federation of whole agents: servers, clients, gateways, each on its own host.

A program may be started, paused, killed and started anew; each run has an event loop and chances
of its own.
"""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Protocol
from uuid import UUID

from isthmus.agent.agent import Agent
from isthmus.agent.client import ClientAgent
from isthmus.config.model import AgentConfig
from isthmus.gateway.registration import GatewayService
from isthmus.gossip.roster import MemberStatus
from isthmus.model.federation import FederationState
from isthmus.names import GATEWAY_PORT, HTTP_PORT, wan_name
from isthmus.sim.agent_gateway import ForwardingGateway
from isthmus.sim.agent_platform import Disk, SimulatedMachine
from isthmus.sim.fabric import Fabric, Host, HostNetwork
from isthmus.sim.loop import HostLoop, Timeline


class Stage(Protocol):
    """Where programs run: `isthmus.sim.agents.AgentFederation`."""

    seed: int
    timeline: Timeline
    fabric: Fabric

    def end(self, loop: HostLoop) -> None:
        """Bury the loop of a program that was killed."""


class Program:
    """A program on a host of its own: an agent or a gateway.

    Attributes:
        name: Of its host: ``server1.dc2``.
        dc: Its datacenter.
        host: Where it runs.
        loop: Of this run of it; None while it does not run.
        run_count: Runs so far.
        exit_code: Of the last run, once it ended by itself.
    """

    def __init__(self, stage: Stage, name: str, dc: str, host: Host) -> None:
        self._stage = stage
        self.name, self.dc, self.host = name, dc, host
        self.loop: HostLoop | None = None
        self.run_count = 0
        self.exit_code: int | None = None

    @property
    def is_running(self) -> bool:
        """Whether it runs and is not paused."""
        return self.loop is not None and not self.loop.paused

    def start(self) -> None:
        """Run it."""
        assert self.loop is None
        self.run_count += 1
        self.exit_code = None
        self.loop = self._stage.timeline.loop(self.name)
        task = self.loop.create_task(self._main(self.loop))
        task.add_done_callback(self._ended)

    def kill(self) -> None:
        """End it as SIGKILL does: connections are reset, nothing is said."""
        if self.loop is None:
            return
        loop, self.loop = self.loop, None
        self.host.kill()
        self._stage.end(loop)

    async def _main(self, loop: HostLoop) -> int:
        raise NotImplementedError

    def _ended(self, task: "asyncio.Task[int]") -> None:
        if self.loop is None or task.cancelled():
            return
        error = task.exception()
        self.exit_code = 1 if error is not None else task.result()
        if self.exit_code:
            why = f": {error!r}" if error is not None else ""
            self.loop.defects.append(f"{self.name} ended with exit code {self.exit_code}{why}")
        self._stage.timeline.call_later(0.0, self.kill)

    def seed(self, what: str) -> str:
        """Seed of a chance of this run."""
        return f"{self._stage.seed} {self.name} {self.run_count} {what}"


class AgentProgram(Program):
    """A server agent.

    Attributes:
        config: Its configuration; a change takes effect at the next start.
        disk: What outlives it.
        agent: Of this run.
    """

    agent: Agent

    def __init__(self, stage: Stage, name: str, host: Host, config: AgentConfig) -> None:
        super().__init__(stage, name, config.datacenter, host)
        self.config = config
        self.disk = Disk(uuid_of(stage.seed, name, "cluster"))

    def kill(self) -> None:
        """See `Program.kill`; what was committed stays."""
        self.disk.seal()
        super().kill()

    @property
    def is_up(self) -> bool:
        """Whether it runs and has come as far as its pools."""
        return self.is_running and getattr(self, "agent", None) is not None and self._has_pools

    @property
    def _has_pools(self) -> bool:
        return self.agent.wan is not None and hasattr(self.agent, "local")

    @property
    def member_name(self) -> str:
        """Its name in the WAN pool."""
        return wan_name(self.config.node_name, self.dc)

    def states(self) -> Sequence[FederationState]:
        """Federation states that it has."""
        found: Sequence[FederationState] = self.agent.server.store.federation.list().value
        return found

    def members(self) -> dict[str, MemberStatus]:
        """Members of the WAN pool as it sees them."""
        assert self.agent.wan is not None
        return {member.name: member.status for member in self.agent.wan.members()}

    async def _main(self, loop: HostLoop) -> int:
        machine = SimulatedMachine(
            self._stage.fabric, self.host, loop, self.disk, seed=self.seed("agent")
        )
        self.agent = Agent(self.config, machine)
        return await self.agent.run()


class ClientProgram(Program):
    """A client agent.

    Attributes:
        config: Its configuration.
        agent: Of this run.
    """

    agent: ClientAgent

    def __init__(self, stage: Stage, name: str, host: Host, config: AgentConfig) -> None:
        super().__init__(stage, name, config.datacenter, host)
        self.config = config
        self._disk = Disk(uuid_of(stage.seed, name, "cluster"))  # It keeps no data.

    @property
    def is_up(self) -> bool:
        """Whether it runs and is in its pool."""
        return self.is_running and getattr(self, "agent", None) is not None and self._has_pool

    @property
    def _has_pool(self) -> bool:
        return self.agent.lan is not None

    async def _main(self, loop: HostLoop) -> int:
        machine = SimulatedMachine(
            self._stage.fabric, self.host, loop, self._disk, seed=self.seed("agent")
        )
        self.agent = ClientAgent(self.config, machine)
        return await self.agent.run()


class GatewayProgram(Program):
    """A mesh gateway.

    Attributes:
        server: The agent it registers with.
        gateway: Of this run.
    """

    gateway: ForwardingGateway

    def __init__(self, stage: Stage, name: str, host: Host, server: AgentProgram) -> None:
        super().__init__(stage, name, server.dc, host)
        self.server = server

    async def _main(self, loop: HostLoop) -> int:
        rng = Random(self.seed("gateway"))
        network = HostNetwork(self._stage.fabric, self.host, entropy=rng.randbytes)
        loop.network = network
        lan, wan = self.host.addresses
        service = GatewayService(
            id=self.name.partition(".")[0],
            lan=(lan, GATEWAY_PORT),
            wan=(wan, GATEWAY_PORT),
            exposes_servers=True,
        )
        agent = (self.server.host.addresses[0], HTTP_PORT)
        self.gateway = ForwardingGateway(network, service, agent=agent, rng=rng)
        await self.gateway.run()
        return 0


def uuid_of(*parts: object) -> str:
    """A UUID that follows from what it is for."""
    return str(UUID(bytes=Random(" ".join(map(str, parts))).randbytes(16), version=4))
