"""Whole agents in one process: federations of production code on virtual time.

Every agent is what ships, from its HTTP door to its gossip pools, each on an event loop of its
own; gateways run beside them; an operator drives them through their HTTP doors and does to hosts
and links what fate does. The same seed gives the same run::

    async def rehearse(federation: AgentFederation) -> None:
        await federation.joined(within=30)
        federation.cut("dc1", "dc2")
        await federation.sleep(600)
        federation.heal("dc1", "dc2")
        await federation.joined(within=180)

    run_agents(rehearse, topology=Topology(datacenters=3, servers=1), seed=7)
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import Any, Final, TypeVar

from isthmus.config.model import (
    AddressConfig,
    AgentConfig,
    ConnectConfig,
    JoinConfig,
    PortConfig,
    TlsConfig,
)
from isthmus.gateway.agent import Reply
from isthmus.gossip.roster import MemberStatus
from isthmus.model.address import lan_address, wan_address
from isthmus.model.federation import FederationState
from isthmus.names import GATEWAY_PORT, host_port, server_name
from isthmus.sim.agent_gateway import request
from isthmus.sim.agent_programs import (
    AgentProgram,
    ClientProgram,
    GatewayProgram,
    Program,
    uuid_of,
)
from isthmus.sim.fabric import Fabric, HostNetwork
from isthmus.sim.handshake import Certificate
from isthmus.sim.loop import HostLoop, Timeline, describe_waiting
from isthmus.sim.network import Network as Links
from isthmus.sim.topology import Role, Topology
from isthmus.sim.trace import Trace, TraceHandler

T = TypeVar("T")

CA_FILE: Final = "ca.pem"
POLL_INTERVAL: Final = 0.1
"""Virtual seconds between two looks at a condition that is waited for."""
CLIENTS_MAX: Final = 50
"""Client agents of a datacenter; that many addresses are theirs."""
HTTP_TIMEOUT: Final = 30.0
_TOLD_LINES: Final = 30


class NotInTime(AssertionError):
    """Something that must come true did not within its bound."""


class AgentFederation:
    """Datacenters of one server and some gateways each, and an operator.

    Made by `run_agents`. Its methods are for the operator's scenario.

    Args:
        topology: What is built; one server for each datacenter.
        seed: Of every chance.
        change: Changes the configuration of each agent.
        sink: Given every line of the trace.

    Attributes:
        servers: By datacenter.
        clients: By name, ``client1.dc2``.
        gateways: By name, ``gateway1.dc2``.
        failures: What went wrong in any program: tasks that died, checks that failed.
        quiet_since: Moment of the last disturbance of each datacenter; infinite while it lasts.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        seed: int,
        change: Callable[[AgentConfig], AgentConfig] = lambda config: config,
        sink: Callable[[str], None] | None = None,
    ) -> None:
        if topology.servers != 1 or topology.clients > CLIENTS_MAX:
            raise ValueError(
                f"whole agents run one server and at most {CLIENTS_MAX} clients in each datacenter"
            )
        self.topology, self.seed = topology, seed
        self.timeline = Timeline()
        self.trace = Trace(lambda: self.timeline.now, sink=sink)
        rng = Random(f"{seed} network")
        self.links = Links(rng, within=topology.lan, between=topology.wan)
        for (source, target), model in topology.pairs.items():
            self.links.set_link(source, target, model)
        self.fabric = Fabric(self.timeline, self.links, random=rng.random, trace=self.trace)
        self._loop = self.timeline.loop("operator")
        self._buried: set[HostLoop] = set()
        self.failures: list[str] = []
        self.servers: dict[str, AgentProgram] = {}
        self.clients: dict[str, ClientProgram] = {}
        self.gateways: dict[str, GatewayProgram] = {}
        self.quiet_since: dict[str, float] = dict.fromkeys(topology.names, 0.0)
        self._faults: dict[str, set[str]] = {dc: set() for dc in topology.names}
        self._moves = 0
        for number, dc in enumerate(topology.names, 1):
            self._build(number, dc, change)
        self.programs: dict[str, Program] = {
            program.name: program
            for program in (
                *self.servers.values(),
                *self.clients.values(),
                *self.gateways.values(),
            )
        }

    def _build(self, number: int, dc: str, change: Callable[[AgentConfig], AgentConfig]) -> None:
        server = next(self.topology.hosts(Role.SERVER, dc))
        address = f"10.{number // 250}.{number % 250}.1"
        host = self.fabric.host(server.name, dc=dc, addresses=[address])
        config = change(self._config(dc, server.node, address))
        names = (server_name(dc, config.domain, server.node), server_name(dc, config.domain))
        self.fabric.certificates[config.tls.cert_file] = Certificate(CA_FILE, names)
        self.servers[dc] = AgentProgram(self, server.name, host, config)
        for client in self.topology.hosts(Role.CLIENT, dc):
            own = f"10.{number // 250}.{number % 250}.{200 + client.number}"
            made = self.fabric.host(client.name, dc=dc, addresses=[own])
            joining = self._client_config(dc, client.node, own, server=address)
            self.clients[client.name] = ClientProgram(self, client.name, made, change(joining))
        for gateway in self.topology.hosts(Role.GATEWAY, dc):
            addresses = self._gateway_addresses(number, gateway.number)
            made = self.fabric.host(gateway.name, dc=dc, addresses=addresses, is_gateway=True)
            self.fabric.names[_public_name(gateway.name)] = (addresses[1],)
            self.gateways[gateway.name] = GatewayProgram(self, gateway.name, made, self.servers[dc])

    def _config(self, dc: str, node: str, address: str) -> AgentConfig:
        topology = self.topology
        primary = dc == topology.primary
        ways_in = tuple(
            host_port(_public_name(gateway.name), GATEWAY_PORT)
            for gateway in topology.hosts(Role.GATEWAY, topology.primary)
        )
        return AgentConfig(
            datacenter=dc,
            primary_datacenter=topology.primary,
            node_name=node,
            node_id=uuid_of(self.seed, dc, node),
            server=True,
            bootstrap=True,
            addresses=AddressConfig(
                bind=address,
                serf_lan=address,
                serf_wan=address,
                advertise=address,
                advertise_wan=address,
                http=("127.0.0.1", address),
                tagged={"lan": address, "lan_ipv4": address, "wan": address, "wan_ipv4": address},
            ),
            ports=PortConfig(),
            connect=ConnectConfig(
                enabled=True,
                mesh_gateway_wan_federation=True,
                primary_gateways=() if primary else ways_in,
            ),
            tls=TlsConfig(
                ca_file=CA_FILE,
                cert_file=f"{dc}-{node}.pem",
                key_file=f"{dc}-{node}-key.pem",
                verify_incoming=True,
                verify_outgoing=True,
                verify_server_hostname=True,
            ),
        )

    def _client_config(self, dc: str, node: str, address: str, *, server: str) -> AgentConfig:
        config = replace(
            self._config(dc, node, address),
            server=False,
            bootstrap=False,
            connect=ConnectConfig(),
            join=JoinConfig(retry_join=(server,)),
        )
        name = f"client.{dc}.{config.domain}"
        self.fabric.certificates[config.tls.cert_file] = Certificate(CA_FILE, (name,))
        return config

    def _gateway_addresses(self, number: int, gateway: int) -> list[str]:
        """LAN and WAN address of a datacenter's gateway."""
        high, low = number // 250, number % 250
        return [f"10.{high}.{low}.{100 + gateway}", f"172.{16 + high}.{low}.{gateway}"]

    # Running ------------------------------------------------------------------------------------

    def run(self, scenario: Callable[["AgentFederation"], Awaitable[T]]) -> T:
        """Start all programs and run a scenario to its end; everything is gone afterwards.

        Raises:
            AssertionError: What the scenario, or a check of the whole run, found wrong.
        """
        with self._logging():
            try:
                for program in self.programs.values():
                    program.start()
                result = self.timeline.run(self._loop, self._drive(scenario))
                self.check()
                return result
            except BaseException as error:
                error.add_note(f"seed {self.seed}, {self.timeline.now:.3f} virtual seconds")
                for line in list(self.trace.logged)[-_TOLD_LINES:]:
                    error.add_note(line)
                raise
            finally:
                self._buried.update(self.timeline.loops)
                self.timeline.close()

    async def _drive(self, scenario: Callable[["AgentFederation"], Awaitable[T]]) -> T:
        return await scenario(self)

    @contextmanager
    def _logging(self) -> Iterator[None]:
        """Take down what agents log, and let nobody else hear it."""
        logger = logging.getLogger("isthmus")
        handler = TraceHandler(self.trace, self._buried.__contains__)
        before = (logger.level, logger.propagate)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.level, logger.propagate = before
            logger.setLevel(before[0])

    def end(self, loop: HostLoop) -> None:
        """Bury the loop of a program that was killed."""
        self.failures += loop.defects
        loop.defects = []
        self._buried.add(loop)
        self.timeline.remove(loop)
        loop.bury()

    def check(self) -> None:
        """Check that nothing went wrong in any program until now.

        Raises:
            AssertionError: It lists what did.
        """
        for loop in self.timeline.loops:
            self.failures += loop.defects
            loop.defects = []
        found = [*self.fabric.violations, *self.failures]
        assert not found, "\n".join(found)

    # Waiting ------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Virtual seconds since the start."""
        return self.timeline.now

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        await asyncio.sleep(seconds)

    async def eventually(
        self, condition: Callable[[], bool], *, within: float, what: str | Callable[[], str]
    ) -> float:
        """Wait until something is true; return the seconds it took.

        Raises:
            NotInTime: It was not `within` seconds; tells which tasks wait, and where.
        """
        began = self.now
        while not condition():
            self.check()
            if self.now - began > within:
                waiting = describe_waiting(self.timeline.loops)
                text = what if isinstance(what, str) else what()
                raise NotInTime(f"not within {within:g} s: {text}; tasks that wait:\n{waiting}")
            await asyncio.sleep(POLL_INTERVAL)
        return self.now - began

    async def joined(self, *, within: float) -> float:
        """Wait until all running servers are one federation (`is_joined`); return the seconds.

        Raises:
            NotInTime: They are not.
        """
        return await self.eventually(
            lambda: not self.missing(),
            within=within,
            what=lambda: f"one federation: {'; '.join(self.missing())}",
        )

    def missing(self) -> list[str]:
        """What is missing for the running servers to be one federation: nothing, if they are.

        Each sees all the others alive, and each has the federation states that the primary has,
        which are of every datacenter.
        """
        missing = []
        wanted = self.newest_states()
        running = [server for server in self.servers.values() if server.is_running]
        alive = sorted(server.member_name for server in running)
        for server in running:
            if not server.is_up:
                missing.append(f"{server.name} has not started")
                continue
            seen = server.members()
            dead = [name for name in alive if seen.get(name) is not MemberStatus.ALIVE]
            if dead:
                missing.append(f"{server.name} does not see {', '.join(dead)} alive")
            have = _contents(server)
            for dc in [other.dc for other in running]:
                if wanted and dc not in wanted:
                    missing.append(f"the primary has no state of {dc}")
                elif wanted and have.get(dc) != wanted[dc]:
                    missing.append(f"{server.name} has not the newest state of {dc}")
        return missing

    def newest_states(self) -> Mapping[str, object]:
        """What of each state the primary has that must be the same everywhere; by datacenter."""
        primary = self.servers[self.topology.primary]
        return _contents(primary) if primary.is_up else {}

    def known_states(self) -> Sequence[Mapping[str, object]]:
        """The same of every server that is up."""
        return [_contents(server) for server in self.servers.values() if server.is_up]

    # The operator -------------------------------------------------------------------------------

    async def http(
        self, dc: str, method: str, target: str, body: bytes = b"", *, timeout: float = HTTP_TIMEOUT
    ) -> Reply:
        """Make a request to a datacenter's server, or to a client by its name, on its own host.

        Raises:
            Unavailable: No answer.
        """
        agent = self.clients[dc] if dc in self.clients else self.servers[dc]
        network = HostNetwork(self.fabric, agent.host, entropy=bytes)
        address = ("127.0.0.1", agent.config.ports.http)
        reply = await request(network, address, method, target, body=body, timeout=timeout)
        self.trace.add("http", f"{dc} {method} {target} {reply.status} {len(reply.body)}")
        return reply

    async def json(self, dc: str, target: str, *, timeout: float = HTTP_TIMEOUT) -> Any:
        """Read JSON from a datacenter's server, or from a client by its name.

        Raises:
            Unavailable: No answer.
            AssertionError: It refused.
        """
        reply = await self.http(dc, "GET", target, timeout=timeout)
        assert reply.status == 200, f"{target} of {dc}: {reply.status} {reply.text}"
        return json.loads(reply.body)

    # Fate ---------------------------------------------------------------------------------------

    def cut(self, source: str, target: str, *, one_way: bool = False) -> None:
        """Let nothing get from one datacenter to another any more."""
        self._note(f"cut {source}{'>' if one_way else '|'}{target}")
        self.links.cut(source, target)
        if not one_way:
            self.links.cut(target, source)
        self.disturb(f"cut {source} {target}", source, target)

    def heal(self, source: str, target: str) -> None:
        """Undo `cut`, of both ways."""
        self._note(f"heal {source}|{target}")
        for one, other in ((source, target), (target, source)):
            self.links.heal(one, other)
            self.calm(f"cut {one} {other}", source, target)

    def isolate(self, dc: str) -> None:
        """Cut a datacenter off from all others."""
        for other in self.topology.names:
            if other != dc:
                self.cut(dc, other)

    def rejoin(self, dc: str) -> None:
        """Undo `isolate`."""
        for other in self.topology.names:
            if other != dc:
                self.heal(dc, other)

    def pause(self, name: str) -> None:
        """Freeze a program: nothing of it runs, what arrives waits."""
        self._note(f"pause {name}")
        program = self.programs[name]
        if program.loop is not None:
            program.loop.paused = True
        self.disturb(f"pause {name}", program.dc)

    def resume(self, name: str) -> None:
        """Undo `pause`."""
        self._note(f"resume {name}")
        program = self.programs[name]
        if program.loop is not None:
            program.loop.paused = False
        self.calm(f"pause {name}", program.dc)

    def crash(self, name: str) -> None:
        """Kill a program."""
        self._note(f"crash {name}")
        self.programs[name].kill()
        self.disturb(f"crash {name}", self.programs[name].dc)

    def restart(self, name: str) -> None:
        """Start a program, with what it has kept; end it before, if it runs."""
        self._note(f"restart {name}")
        program = self.programs[name]
        program.kill()
        program.start()
        self.calm(f"crash {name}", program.dc)

    def leave(self, name: str) -> None:
        """Let an agent say good-bye and end, as its operator would."""
        self._note(f"leave {name}")
        program = self.programs[name]
        assert isinstance(program, AgentProgram | ClientProgram)
        self.disturb(f"crash {name}", program.dc)
        if program.loop is not None and program.is_up:
            agent = program.agent
            program.loop.call_soon_threadsafe(lambda: agent.stop(leave=True))

    def drift(self, name: str, rate: float) -> None:
        """Let a program's clock run at `rate` seconds per true second until its next start."""
        self._note(f"drift {name} {rate:g}")
        program = self.programs[name]
        if program.loop is not None:
            program.loop.drift(rate)

    def move_gateway(self, name: str) -> str:
        """Start a gateway anew at another WAN address; return the address, with its port.

        The name server knows at once: `primary_gateways` are names, so a secondary finds the
        primary even if its only gateway moves.
        """
        program = self.gateways[name]
        program.kill()
        self._moves += 1
        wan = f"192.168.{self._moves // 250}.{self._moves % 250 + 1}"
        self.fabric.readdress(program.host, [program.host.addresses[0], wan])
        self.fabric.names[_public_name(name)] = (wan,)
        self._note(f"move {name} to {wan}")
        program.start()
        self.calm(f"crash {name}", program.dc)
        return host_port(wan, GATEWAY_PORT)

    def _note(self, text: str) -> None:
        self.trace.add("fate", text)

    def disturb(self, fault: str, *dcs: str) -> None:
        """Something disturbs these datacenters from now on, until `calm`."""
        for dc in dcs:
            self._faults[dc].add(fault)
            self.quiet_since[dc] = float("inf")

    def calm(self, fault: str, *dcs: str) -> None:
        """It is over; that it happened is a disturbance of this moment."""
        for dc in dcs:
            self._faults[dc].discard(fault)
            if not self._faults[dc]:
                self.quiet_since[dc] = self.now


def run_agents(
    scenario: Callable[[AgentFederation], Coroutine[Any, Any, T]],
    *,
    topology: Topology | None = None,
    seed: int = 1,
    change: Callable[[AgentConfig], AgentConfig] = lambda config: config,
) -> T:
    """Build a federation of whole agents, start it, and run a scenario in it.

    Args:
        scenario: What the operator does and expects.
        topology: What is built; None: three datacenters with one gateway each.
        seed: Of every chance.
        change: Changes the configuration of each agent.

    Raises:
        AssertionError: What went wrong; its notes say when and what was logged before.
    """
    topology = topology or Topology(datacenters=3, servers=1, gateways=1)
    return AgentFederation(topology, seed=seed, change=change).run(scenario)


def _public_name(gateway: str) -> str:
    """Name by which the name server knows a gateway's WAN address."""
    return f"{gateway}.example"


def _content(state: FederationState) -> object:
    """What of a state must be the same everywhere: not where it stands in a store."""
    return tuple(
        (gateway.service.id, wan_address(gateway), lan_address(gateway), gateway.service.meta)
        for gateway in state.mesh_gateways or ()
        if gateway.service is not None
    )


def _contents(server: AgentProgram) -> Mapping[str, object]:
    return {state.datacenter: _content(state) for state in server.states()}
