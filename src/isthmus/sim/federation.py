"""A whole federation in the simulator's first gear: production cores on a heap of virtual time."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import Final

from isthmus.agent.members import (
    Identity,
    lan_member_problem,
    server_tags,
    wan_member_problem,
)
from isthmus.agent.membership import server_of
from isthmus.gossip.config import GossipConfig
from isthmus.gossip.outputs import JoinFinished
from isthmus.gossip.roster import Member
from isthmus.gossip.serf import LeaveFinished, MergeCheck
from isthmus.model.coordinate import ORIGIN
from isthmus.model.federation import FederationState
from isthmus.model.timestamp import Timestamp
from isthmus.names import GATEWAY_PORT, SERF_LAN_PORT, SERF_WAN_PORT, SERVER_PORT
from isthmus.sim.datacenter import Datacenter, RemoteRoutes
from isthmus.sim.gateways import CHECK_INTERVAL, Connection, Gateway
from isthmus.sim.member import Member as PoolMember
from isthmus.sim.network import Machine
from isthmus.sim.pool import Pool
from isthmus.sim.scenario import Scenario
from isthmus.sim.server import ALIVE, EPOCH, Monitor, Server
from isthmus.sim.topology import Host, Role
from isthmus.sim.ways import NoWay, Way, Ways
from isthmus.sim.world import Process, ProcessState, World
from isthmus.wire.coordinate import encode_ack

COORDINATES_MAX: Final = 100
"""Hosts above which each ack carries the origin in place of its sender's coordinate: as many bytes.
Nothing that is measured follows coordinates, and reckoning with them takes most of a run's time."""
PRIMARY_GATEWAYS: Final = f"gateways.primary.example:{GATEWAY_PORT}"
"""What secondaries have in `primary_gateways`."""
REGISTER_DELAY: Final = 0.05
"""Seconds from the start of a gateway until the catalog has it."""


class Federation:
    """Datacenters, their servers, clients and gateways, and all that befalls them.

    Attributes:
        world: Time, network, processes.
        primary: Name of the primary datacenter.
        datacenters: By name.
        servers: Every server that was ever started, as it is now.
        clients: Members of LAN pools that are no servers.
        gateways: Every gateway.
        gone_at: When a host stopped answering: crashed, stopped or paused.

    Args:
        scenario: Topology, settings and seed.
        monitor: Is told what the invariants are about.
    """

    def __init__(self, scenario: Scenario, monitor: Monitor) -> None:
        self.scenario, self.monitor = scenario, monitor
        topology = scenario.topology
        self.world = World(
            seed=scenario.seed, within=topology.lan, between=topology.wan, trace=True
        )
        for (source, target), link in topology.pairs.items():
            self.world.network.set_link(source, target, link)
        self.primary = topology.primary
        self.server_count = topology.datacenters * topology.servers
        remote_routes: RemoteRoutes = {}
        self.datacenters = {
            name: Datacenter(
                name,
                committed=self._committed,
                gateways_changed=self._gateways_changed,
                remote_routes=remote_routes,
            )
            for name in topology.names
        }
        self.servers: dict[Host, Server] = {}
        self.clients: dict[Host, PoolMember] = {}
        self.gateways: dict[Host, Gateway] = {}
        self.gone_at: dict[Host, float] = {}
        self._machines: dict[Host, Machine] = {}
        self._by_machine: dict[str, Server] = {}
        self._processes: dict[str, Process] = {}
        self._starts: dict[Host, int] = {}
        small = topology.host_count <= COORDINATES_MAX
        ack_payload = b"" if small else encode_ack(ORIGIN)
        self._lan_pools = {
            name: Pool(
                self.world,
                config=self._gossip(scenario.lan),
                ack_payload=ack_payload,
                port=SERF_LAN_PORT,
                merge_check=_lan_check(name),
                on_event=self._lan_event,
                on_join=self._join_finished,
            )
            for name in topology.names
        }
        self._wan_pool = Pool(
            self.world,
            config=self._gossip(scenario.wan),
            ack_payload=ack_payload,
            port=SERF_WAN_PORT,
            route=lambda source, target: self._server_of(source).wan_path(target),
            merge_check=_check_wan,
            on_event=self._wan_event,
            on_join=self._join_finished,
        )
        self._counted: tuple[tuple[Member, ...], int] = (), 0
        self._telling: set[str] = set()
        self._moves = 0
        self._ways = Ways(self.world.network, self.datacenters, self._processes.get, self._resolve)
        for role in Role:
            for host in topology.hosts(role):
                self._machines[host] = self.world.machine(host.name, host.dc)

    # Building -------------------------------------------------------------------------------------

    def build(self) -> None:
        """Start every process, in order; call it once."""
        topology = self.scenario.topology
        for host in topology.hosts(Role.GATEWAY):
            process = self.world.process(host.name, self._machines[host])
            gateway = self.gateways[host] = Gateway(host, process)
            self._ways.place(gateway)
        for host in topology.hosts(Role.SERVER):
            self.datacenters[host.dc].add_server(host.node, self._machines[host])
        for gateway in self.gateways.values():
            self.datacenters[gateway.host.dc].register(gateway)
        if topology.warm:
            self._fill_tables()
        for host in topology.hosts(Role.SERVER):
            self._make_server(host)
        for host in topology.hosts(Role.CLIENT):
            self._start_client(host)
        if topology.warm:
            self._fill_pools()
            self.monitor.filled()
        for host, server in self.servers.items():
            self._run_server(host, server, warm=topology.warm)
        for host, client in self.clients.items():
            self._run_client(host, client)

    def _fill_tables(self) -> None:
        """Every datacenter has every federation state."""
        states = [
            FederationState(
                datacenter=name,
                mesh_gateways=datacenter.tables.gateways,
                updated_at=Timestamp.of(EPOCH),
                primary_modify_index=index,
                create_index=index,
                modify_index=index,
            )
            for index, (name, datacenter) in enumerate(self.datacenters.items(), start=1)
        ]
        for datacenter in self.datacenters.values():
            datacenter.tables.fill(states, index=len(states))

    def _fill_pools(self) -> None:
        """Every pool is joined, and nobody has anything to tell."""
        for pool in (*self._lan_pools.values(), self._wan_pool):
            pool.converge()

    def _gossip(self, config: GossipConfig) -> GossipConfig:
        """A pool's settings; in a large federation without moving network coordinates."""
        if self.scenario.topology.host_count <= COORDINATES_MAX:
            return config
        return replace(config, coordinates=False)

    def _seed(self, host: Host, what: str) -> int:
        """Chance of one part of one start of one host, whatever else happens."""
        start = self._starts.get(host, 0)
        return Random(f"{self.scenario.seed} {host.name} {start} {what}").getrandbits(64)

    def _make_server(self, host: Host) -> Server:
        """A fresh process with both pools open; `_run_server` sets it going."""
        machine = self._machines[host]
        process = self.world.process(host.name, machine)
        server = Server(self, host, process, self._seed(host, "server"))
        identity = Identity(
            node=host.node,
            node_id=_node_id(host),
            dc=host.dc,
            rpc_port=SERVER_PORT,
            wan_port=SERF_WAN_PORT,
            bootstrap=False,
            expect=self.scenario.topology.servers,
            uses_tls=True,
        )
        lan_tags, wan_tags = (server_tags(identity, wan=wan) for wan in (False, True))
        self._by_machine.pop(machine.name, None)  # That each knows itself is no news.
        server.lan = self._lan_pools[host.dc].add(host.node, process, tags=lan_tags)
        server.wan = self._wan_pool.add(host.name, process, tags=wan_tags)
        self.servers[host] = self._by_machine[machine.name] = server
        self._processes[machine.address] = process
        return server

    def _run_server(self, host: Host, server: Server, *, warm: bool) -> None:
        self.gone_at.pop(host, None)
        server.start(warm=warm)

    def _start_client(self, host: Host) -> PoolMember:
        process = self.world.process(host.name, self._machines[host])
        tags = {"role": "node", "dc": host.dc, "segment": "", "id": _node_id(host)}
        client = self._lan_pools[host.dc].add(host.node, process, tags=tags)
        self.clients[host] = client
        return client

    def _run_client(self, host: Host, client: PoolMember) -> None:
        self.gone_at.pop(host, None)
        if not self.scenario.topology.warm or self._starts.get(host, 0):
            client.join(*(self.servers[server].lan for server in self.servers_of(host.dc)))

    # What servers need (`server.Surroundings`) ----------------------------------------------------

    def server(self, dc: str, node: str) -> Server | None:
        """A server by its place, if its process is alive."""
        for host in self.servers_of(dc):
            if host.node == node:
                server = self.servers[host]
                return server if server.process.alive else None
        return None

    def server_on(self, machine: Machine) -> Server | None:
        """The server on a machine, as it was started last."""
        return self._by_machine.get(machine.name)

    def servers_of(self, dc: str) -> Sequence[Host]:
        """All servers of a datacenter, running or not."""
        return list(self.scenario.topology.hosts(Role.SERVER, dc))

    def machine_of(self, host: Host) -> Machine:
        """Machine of a host."""
        return self._machines[host]

    def count_alive(self, members: tuple[Member, ...]) -> int:
        """How many members are alive; counted once for all that look at the same ones."""
        if members is not self._counted[0]:
            self._counted = members, [member.status for member in members].count(ALIVE)
        return self._counted[1]

    def primary_gateways(self) -> Sequence[str]:
        """What `primary_gateways` is configured to: a host name, as it is advised."""
        return (PRIMARY_GATEWAYS,)

    def _resolve(self, address: str) -> Sequence[str]:
        """The name in the configuration stands for the gateways that the primary's catalog has."""
        if address != PRIMARY_GATEWAYS:
            return ()
        registered = self.datacenters[self.primary].gateways
        return [registered[node].addresses[1] for node in sorted(registered)]

    def find(self, server: Server, candidates: Sequence[str], dc: str, node: str) -> Way | NoWay:
        """Dial over gateways."""
        return self._ways.find(
            server.process.machine, candidates, dc=dc, node=node, now=self.world.now
        )

    def connect(self, server: Server, way: Way, lost: Callable[[float], None]) -> Connection | None:
        """Open a connection on a way; None: what leads there is gone."""
        target = self.server_on(way.path[-1])
        if target is None or not target.process.alive:
            return None
        if any(not gateway.process.alive for gateway in way.gateways):
            return None
        holders = [gateway.connections for gateway in way.gateways]
        self.monitor.crossing(way.path)
        return Connection(way.path, [*holders, target.inbound], way.gateways, lost)

    # What happens to hosts ------------------------------------------------------------------------

    def crash(self, host: Host) -> None:
        """A process is gone without a word; its system closes its connections."""
        match host.role:
            case Role.SERVER:
                process = self.servers[host].process
            case Role.CLIENT:
                process = self.clients[host].process
            case Role.GATEWAY:
                process = self.gateways[host].process
        if not process.alive:
            return
        self.gone_at.setdefault(host, self.world.now)
        self.world.crash(process)
        if host.role is Role.SERVER:
            server = self.servers[host]
            server.stop()
            self._break(server.inbound, process.machine)
        elif host.role is Role.GATEWAY:
            gateway = self.gateways[host]
            self._break(gateway.connections, process.machine)
            self.world.after(
                self.world.rng.random() * CHECK_INTERVAL, partial(self._check, gateway, process)
            )

    def start(self, host: Host) -> None:
        """Start a host that does not run."""
        match host.role:
            case Role.SERVER:
                if not self.servers[host].process.alive:
                    self._starts[host] = self._starts.get(host, 0) + 1
                    self.datacenters[host.dc].add_server(host.node, self._machines[host])
                    self._run_server(host, self._make_server(host), warm=False)
            case Role.CLIENT:
                if not self.clients[host].process.alive:
                    self._starts[host] = self._starts.get(host, 0) + 1
                    self._run_client(host, self._start_client(host))
            case Role.GATEWAY:
                gateway = self.gateways[host]
                if not gateway.process.alive:
                    gateway.start(self.world.process(host.name, self._machines[host]))
                    self._register_soon(gateway)

    def pause(self, host: Host) -> None:
        """Its process stands still."""
        process = self.process_of(host)
        if process.running:
            self.gone_at.setdefault(host, self.world.now)
            self.world.pause(process)

    def resume(self, host: Host) -> None:
        """Its process goes on."""
        process = self.process_of(host)
        if process.state is ProcessState.PAUSED:
            self.gone_at.pop(host, None)
            self.world.resume(process)

    def move(self, host: Host) -> None:
        """Its address changes: it goes on elsewhere, the old address is dead."""
        if host.role is not Role.GATEWAY:
            running = self.process_of(host).alive
            self.crash(host)
            self._processes.pop(self._machines[host].address, None)
            self._settle_elsewhere(host)
            if running:
                self.start(host)
            return
        gateway = self.gateways[host]
        old, running = gateway.machine, gateway.process.alive
        self._ways.remove(gateway)
        if running:
            self.world.crash(gateway.process)
        self._break(gateway.connections, old)
        self._settle_elsewhere(host)
        gateway.start(self.world.process(host.name, self._machines[host]))
        self._ways.place(gateway)
        if running:
            self._register_soon(gateway)
        else:
            self.world.crash(gateway.process)

    def _settle_elsewhere(self, host: Host) -> None:
        self._moves += 1
        self._machines[host] = self.world.machine(f"{host.name}#{self._moves}", host.dc)

    def leave(self, host: Host) -> None:
        """It says good-bye and stops."""
        match host.role:
            case Role.SERVER:
                server = self.servers[host]
                if server.process.running:
                    server.leave()
            case Role.CLIENT:
                client = self.clients[host]
                if client.process.running:
                    client.leave()
            case Role.GATEWAY:
                gateway = self.gateways[host]
                if gateway.process.alive:
                    self.crash(host)
                    self.datacenters[host.dc].deregister(gateway)

    def drift(self, host: Host, factor: float) -> None:
        """Its clock runs at another speed from now on."""
        process = self.process_of(host)
        if process.alive:
            self.world.drift(process, factor)

    def process_of(self, host: Host) -> Process:
        """Process of a host, as it was started last."""
        match host.role:
            case Role.SERVER:
                return self.servers[host].process
            case Role.CLIENT:
                return self.clients[host].process
            case Role.GATEWAY:
                return self.gateways[host].process

    def reachable(self, one: Host, other: Host) -> bool:
        """Whether two hosts that run can reach each other now."""
        network = self.world.network
        here, there = self._machines[one], self._machines[other]
        if network.link(here, there).cut or network.link(there, here).cut:
            return False
        return one.dc == other.dc or all(
            any(gateway.process.running for gateway in self.gateways_of(dc))
            for dc in (one.dc, other.dc)
        )

    def gateways_of(self, dc: str) -> list[Gateway]:
        """All gateways of a datacenter, running or not."""
        return [self.gateways[host] for host in self.scenario.topology.hosts(Role.GATEWAY, dc)]

    def running_servers(self) -> list[Server]:
        """Servers whose process runs, in order."""
        return [server for server in self.servers.values() if server.process.running]

    def _server_of(self, member: PoolMember) -> Server:
        return self._by_machine[member.machine.name]

    def _lan_event(self, member: PoolMember, event: object) -> None:
        server = self._by_machine.get(member.machine.name)
        if server is not None:
            server.lan_event(event)
        elif isinstance(event, LeaveFinished):
            self.world.after(0.0, partial(self.world.crash, member.process))

    def _wan_event(self, member: PoolMember, event: object) -> None:
        server = self._by_machine.get(member.machine.name)
        if server is None:
            return
        server.wan_event(event)
        if isinstance(event, LeaveFinished):
            host = server.host
            self.datacenters[host.dc].remove_server(host.node)
            self.world.after(0.0, partial(self.crash, host))

    def _join_finished(self, member: PoolMember, finished: JoinFinished) -> None:
        server = self._by_machine.get(member.machine.name)
        if server is not None:
            server.join_finished(member, finished)

    def _break(self, connections: dict[Connection, None], machine: Machine) -> None:
        for connection in list(connections):
            connection.break_at(machine, self.world.network)

    def _check(self, gateway: Gateway, process: Process) -> None:
        """Its agent's check finds a gateway gone."""
        if gateway.process is process and not process.alive:
            gateway.critical = True
            datacenter = self.datacenters[gateway.host.dc]
            if gateway.host.node in datacenter.gateways:
                datacenter.register(gateway)

    def _register_soon(self, gateway: Gateway) -> None:
        process = gateway.process
        self.gone_at.pop(gateway.host, None)

        def register() -> None:
            if gateway.process is process and process.alive:
                gateway.critical = False
                self.datacenters[gateway.host.dc].register(gateway)

        self.world.after(REGISTER_DELAY, register)

    # What a datacenter's servers are told ---------------------------------------------------------

    def _committed(self, datacenter: Datacenter, about: str) -> None:
        self.monitor.committed(datacenter, about)
        if datacenter.name not in self._telling:
            self._telling.add(datacenter.name)
            self.world.after(0.0, partial(self._tell, datacenter))

    def _tell(self, datacenter: Datacenter) -> None:
        """The leader reads what it wrote at once, the others when it has reached them."""
        self._telling.discard(datacenter.name)
        lan = self.scenario.topology.lan
        for host in self.servers_of(datacenter.name):
            server = self.servers.get(host)
            if server is not None and server.process.alive:
                delay = 0.0 if host.node == datacenter.leader else lan.median
                server.post(server.tables_changed, delay=delay)

    def _gateways_changed(self, datacenter: Datacenter) -> None:
        self.monitor.gateways_changed(datacenter)
        for host in self.servers_of(datacenter.name):
            server = self.servers.get(host)
            if server is not None and server.process.alive:
                server.post(server.gateways_changed)


def _node_id(host: Host) -> str:
    role = list(Role).index(host.role)
    number = int(host.dc.removeprefix("dc")) << 24 | role << 20 | host.number
    return f"00000000-0000-0000-0000-{number:012x}"


def _lan_check(dc: str) -> MergeCheck:
    def check(members: Sequence[Member]) -> str | None:
        problems = (
            lan_member_problem(member.name, member.tags, own_name="", own_id="", dc=dc)
            for member in members
        )
        return next(filter(None, problems), None)

    return check


def _check_wan(members: Sequence[Member]) -> str | None:
    problems = (
        wan_member_problem(member.name, member.tags, server_of(member)) for member in members
    )
    return next(filter(None, problems), None)
