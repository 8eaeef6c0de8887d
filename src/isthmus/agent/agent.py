"""The server agent: every part, built, connected, started and stopped in order.

Only this package knows everyone. Who talks to whom::

    HTTP ─┐                                   ┌─ store, engine
          ├─ Server.call ─┬─ endpoints ───────┘
    RPC ──┘               └─ Forwarder ── RpcPool ── gateways or servers of other datacenters
    gossip pools ── events ── Router, catalog; what changed wakes the federation duties
    store ── watches ── locator, announcements, gateway routes
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from isthmus.agent import settings
from isthmus.agent.api import server_figures
from isthmus.agent.coordinates import WanCoordinates
from isthmus.agent.doctor import Doctor, Surroundings
from isthmus.agent.engines import CurrentStorage, lan_servers, make_storage, move_to_etcd
from isthmus.agent.events import announce_leadership
from isthmus.agent.federation import Federation
from isthmus.agent.joining import Joining
from isthmus.agent.keyring import ServerPools, keyring_file, snapshot_file
from isthmus.agent.members import (
    COMPATIBLE_BUILD,
    address_problem,
    server_tags,
    wan_member_problem,
)
from isthmus.agent.membership import LanMembership, WanMembership, server_of
from isthmus.agent.metrics import AgentMetrics, CrossDcCalls
from isthmus.agent.node import NodeAgent, made
from isthmus.agent.platform import Platform
from isthmus.agent.ports import listening
from isthmus.agent.status import Clocks, FederationStatus
from isthmus.agent.tables import StoreTables, Tables
from isthmus.config.model import OFF, AgentConfig
from isthmus.errors import InvalidRequest, NoLeader
from isthmus.federation.replication import ReplicationStatus
from isthmus.federation.router import federation_states_supported
from isthmus.gossip.roster import MemberStatus
from isthmus.model.address import lan_address, wan_address
from isthmus.model.coordinate import distance
from isthmus.model.diagnosis import DoctorReport
from isthmus.model.federation import FederationState
from isthmus.model.network import Networks
from isthmus.model.record import Record
from isthmus.names import host_port, wan_name
from isthmus.net.gossip import (
    Member,
    MemberJoined,
    PoolConfig,
    PoolEvent,
)
from isthmus.net.listener import ListenerConfig, ServerListener
from isthmus.net.network import Inbound
from isthmus.rpc.sniff import Speaks
from isthmus.server.leader import FederationDuties, feed_locator
from isthmus.server.operator import LanServer
from isthmus.server.server import Server, ServerConfig
from isthmus.server.snapshot_stream import SnapshotStreams
from isthmus.store.store import Store

if TYPE_CHECKING:
    from isthmus.net.grpc_pipe import GrpcServer

logger = logging.getLogger(__name__)

HANDOVER_TIMEOUT: Final = 1.0
"""Seconds that a leader that stops waits for the next one."""
HANDOVER_PAUSE: Final = 0.2
"""Seconds that calls which came meanwhile have to be answered by it."""


class Agent(NodeAgent):
    """A server agent.

    Args:
        config: Checked configuration.
        platform: Network, clock, chance, threads and disk.
    """

    def __init__(self, config: AgentConfig, platform: Platform) -> None:
        super().__init__(config, platform)
        self._wan_networks = Networks(config.gossip.serf_wan_allowed_cidrs)
        self._duties: FederationDuties | None = None
        self._duties_task: asyncio.Task[None] | None = None
        self._lan_members: LanMembership | None = None
        self._is_complete = self._moving = False
        self._feature_seen = False
        self._gateways_seen: object = None
        self._grpc: GrpcServer | None = None
        self._gateway_hosts: set[str] = set()

    # Life ----------------------------------------------------------------------------------------

    async def _start(self) -> None:
        config = self.config
        self.federation = Federation(
            config,
            self._network,
            rng=self._rng,
            changed=self._federation_changed,
            populated=self._locator_populated,
            far=self._wan_distance,
        )
        self._calls = CrossDcCalls(self.federation.forwarder)
        self._make_doctor()
        self._storage = make_storage(
            config,
            self._platform,
            node_id=self.node_id,
            caller=self.federation.pool,
            lan=self._lan_pool_members,
            rng=self._rng,
        )
        await self._storage.open()
        self.server = self._make_server()
        self._closers += [self._close_storage, self.server.stop, self.federation.close]
        if not self._storage.needs_others:
            await self.server.start()
        listener = await self._start_listener()
        self._closers.append(listener.close)
        self._make_local()
        await self._start_gossip()
        self._make_http()
        await self._open_dns()
        self.metrics = AgentMetrics(
            config.telemetry,
            host=self._platform.host_name,
            server=self.server,
            calls=self._calls,
            report=self.status.report,
            pools=lambda: {"lan": self.lan, "wan": self.wan},
            listener=listener,
            http=self._http,
            dns=self.dns.door,
            lan_events=self._lan_events,
            lan_roles=self._lan_roles,
            wall=self._wall,
            clock=asyncio.get_running_loop().time,
        )
        self._start_metrics()
        await self._open_http()
        if self._storage.needs_others:
            self._spawn(self._storage.run(self.server))
        self._start_duties()
        self._platform.started()

    async def _withdraw(self) -> None:
        """Hand the leadership over first: whoever is calling us is served by the next leader."""
        if not self._is_complete or not self.server.engine.shared:
            return
        replica = self.server.replica
        if not replica.is_leader:
            return
        with contextlib.suppress(NoLeader, TimeoutError):
            await replica.resign()
            async with asyncio.timeout(HANDOVER_TIMEOUT):
                while replica.leader is None:
                    await replica.leader_changed(HANDOVER_TIMEOUT)
                await asyncio.sleep(HANDOVER_PAUSE)

    async def _leave(self) -> None:
        if self._duties_task is not None:
            # The primary prunes our record when we have left: it must not be written again.
            self._duties_task.cancel()
            await asyncio.wait({self._duties_task})
        await self._storage.leave(self.server)
        await super()._leave()

    async def rpc(self, method: str, request: Record) -> Any:
        """See `NodeAgent.rpc`."""
        return await self.server.call(method, request)

    def _answers_here(self, allow_stale: bool) -> bool:
        """See `NodeAgent._answers_here`."""
        server = self.server
        return not server.engine.shared or (allow_stale and server.replica.is_loaded)

    def figures(self) -> Mapping[str, Mapping[str, str]]:
        """See `NodeAgent.figures`."""
        return server_figures(
            self.server,
            bootstrap=self._identity.bootstrap,
            peer_count=len(self._lan_servers()) - 1,
        )

    async def move_storage(self) -> None:
        """Keep the data in an etcd that other servers can join; it is served all the time.

        Raises:
            InvalidRequest: It is in etcd already, or nowhere.
            EngineError, Unavailable: It could not be done; the data is where it was.
        """
        if self._moving:
            raise InvalidRequest("the data is being moved already")
        self._moving = True
        try:
            self._storage = await move_to_etcd(
                self.config,
                self._platform,
                node_id=self.node_id,
                caller=self.federation.pool,
                lan=self._lan_pool_members,
                rng=self._rng,
                server=self.server,
            )
        finally:
            self._moving = False

    async def _close_storage(self) -> None:
        await self._storage.close()

    async def diagnose(self, dc: str) -> DoctorReport:
        """See `NodeAgent.diagnose`."""
        return await self.doctor.examine(dc)

    # Parts ---------------------------------------------------------------------------------------

    def _make_doctor(self) -> None:
        config, federation = self.config, self.federation
        self.clocks = Clocks(
            dc=config.datacenter,
            primary_dc=config.primary_datacenter,
            remote=self._calls,
            datacenters=federation.router.datacenters,
            wall=self._wall,
        )
        self.status = FederationStatus(
            config,
            states=self._federation_states,
            is_leader=lambda: self.server.is_leader,
            router=federation.router,
            locator=federation.locator,
            outcomes=federation.outcomes,
            clocks=self.clocks,
            members=lambda: self.wan.members() if self.wan is not None else (),
            replication=self._replication,
            wall=self._wall,
        )
        self.doctor = Doctor(
            Surroundings(
                config=config,
                tls=lambda: self._tls.config,
                network=self._network,
                federation=federation,
                states=self._federation_states,
                wan=lambda: self.wan,
                lan=lambda: self.lan,
                replication=self._replication,
                clocks=self.clocks,
                wall=self._wall,
            )
        )

    def _federation_states(self) -> Sequence[FederationState]:
        return self.server.store.federation.list().value

    def _replication(self) -> ReplicationStatus | None:
        return None if self._duties is None else self._duties.replication

    def _make_server(self) -> Server:
        config = self.config
        return Server(
            ServerConfig(
                datacenter=config.datacenter,
                primary_datacenter=config.primary_datacenter,
                node_name=config.node_name,
                node_id=self.node_id,
                rpc_address=host_port(config.addresses.advertise, config.ports.server),
                default_query_time=config.http.default_query_time,
                max_query_time=config.http.max_query_time,
                session_ttl_min=config.session_ttl_min,
                hold_time=config.performance.rpc_hold_timeout,
            ),
            Store(autopilot=settings.autopilot_config(config)),
            self._storage.engine,
            forward=self._calls,
            rng=self._rng,
            wall=self._wall,
            federation_states_enabled=self._federation_states_enabled,
            report=self.status.report,
            wan=WanCoordinates(self.federation.router, dc=config.datacenter, pool=lambda: self.wan),
            gossip=ServerPools(config.datacenter, lan=lambda: self.lan, wan=lambda: self.wan),
            election=self._storage.election,
            peers=self.federation.pool,
            leadership_changed=self._leadership_changed,
            storage=lambda request: self._storage.answer(request),
            snapshots=settings.snapshot_config(config),
            storage_servers=CurrentStorage(lambda: self._storage),
            lan_servers=self._lan_servers,
        )

    def _lan_servers(self) -> list[LanServer]:
        """All servers of our datacenter, us included."""
        config = self.config
        address = host_port(config.addresses.advertise, config.ports.server)
        return lan_servers(
            self._lan_pool_members(),
            own=LanServer(
                server_id=self.node_id,
                node=config.node_name,
                address=address,
                alive=True,
                version=COMPATIBLE_BUILD,
            ),
            dc=config.datacenter,
        )

    def _listener_config(self, config: AgentConfig) -> ListenerConfig:
        """The server port, with the certificates that are in use now."""
        return ListenerConfig.of_tls(
            self._tls,
            handshake_timeout=config.limits.rpc_handshake_timeout,
            connections_per_client=config.limits.rpc_max_conns_per_client,
        )

    async def _start_listener(self) -> ServerListener:
        config = self.config
        gateways = config.connect.mesh_gateway_wan_federation
        snapshots = SnapshotStreams(self.server.call)
        self._closers.append(snapshots.close)
        listener = ServerListener(
            self._network,
            self._listener_config(config),
            self.server,
            on_gossip_packets=self._accept_packets if gateways else None,
            on_gossip_stream=self._accept_stream if gateways else None,
            handlers={Speaks.GRPC: self._grpc_protocol, Speaks.SNAPSHOT: snapshots.protocol},
            is_gateway=self._is_gateway,
        )
        with listening(config, "server RPC", "bind_addr", config.addresses.bind, port="server"):
            await listener.start(config.addresses.bind, config.ports.server)
        self.reloading.add(lambda new: listener.reconfigure(self._listener_config(new)))
        return listener

    def _grpc_protocol(self) -> asyncio.Protocol:
        """What serves a connection of an agent of Consul that follows the health of services."""
        if self._grpc is None:
            # The library takes time and memory that only who is asked for it shall spend.
            from isthmus.net.grpc_pipe import GrpcServer
            from isthmus.server.subscriptions import Subscriptions

            self._grpc = GrpcServer([Subscriptions(self.server)])
            self._closers.append(self._grpc.close)
        return self._grpc.protocol()

    def _tags(self) -> dict[str, str]:
        return server_tags(self._identity, wan=False)

    def _tables(self) -> Tables:
        return StoreTables(self.server.store, self.server.blocking)

    def _http_tables(self) -> Server:
        return self.server

    async def _start_gossip(self) -> None:
        config, federation = self.config, self.federation
        lan_members = self._lan_members = LanMembership(
            dc=config.datacenter,
            own_name=config.node_name,
            rpc=self.rpc,
            rng=self._rng,
            leads=lambda: self.server.is_leader,
        )
        wan_members = WanMembership(
            federation.router, changed=self._federation_changed, departed=self._dc_departed
        )
        await self._open_lan()
        assert self.lan is not None
        if config.ports.serf_wan != OFF:
            gateways = federation.locator is not None
            carrier = await self._gossip.call(made(federation.gossip_carrier)) if gateways else None
            with listening(
                config, "WAN gossip", "serf_wan", config.addresses.serf_wan, port="serf_wan"
            ):
                self.wan = await self._gossip.open_pool(
                    PoolConfig(
                        name=wan_name(config.node_name, config.datacenter),
                        bind_host=config.addresses.serf_wan,
                        bind_port=config.ports.serf_wan,
                        advertise_host=config.addresses.advertise_wan,
                        tags=server_tags(self._identity, wan=True),
                        gossip=settings.gossip_config(config, wan=True),
                        keys=settings.gossip_keys(config),
                        keyring_file=keyring_file(config, wan=True),
                        snapshot_file=snapshot_file(config, wan=True),
                        rejoin_after_leave=config.join.rejoin_after_leave,
                        merge_check=self._check_wan_members,
                        carrier=carrier,
                        route_by_name=gateways,
                    ),
                    on_event=wan_members.receive,
                )
            if gateways:
                # What is sent before a gateway is known is lost, and was counted as sent.
                self.wan.hold()
        lan_members.use(self.lan, self.wan)
        self._spawn(lan_members.reconcile())
        self._spawn(lan_members.flood())
        self._spawn(
            announce_leadership(self.server.replica, self.lan.user_event, node=config.node_name)
        )

    def _start_duties(self) -> None:
        config = self.config
        self._is_complete = True
        self._leadership_changed()
        if self.federation.locator is not None:
            self._spawn(
                feed_locator(self.server, self.federation.locator, self.federation.locator_told)
            )
        self._spawn(self.clocks.run(self.server))
        self._spawn(self.doctor.watch())
        assert self.lan is not None
        self._start_node_duties(
            Joining(
                config,
                self.federation,
                known_dcs=self._known_dcs,
                lan=self.lan,
                wan=self.wan,
                rng=self._rng,
            )
        )

    def _leadership_changed(self) -> None:
        """Another server leads, or nobody, or we do: our duties begin and end with that."""
        if not self._is_complete:
            return
        leads = self.server.is_leader
        if leads and self._duties_task is None:
            self._begin_duties()
        elif not leads and self._duties_task is not None:
            self._duties_task.cancel()
            self._duties_task = self._duties = None
        if self._lan_members is not None:
            self._lan_members.leadership_changed()

    def _begin_duties(self) -> None:
        config = self.config
        self._duties = FederationDuties(
            dc=config.datacenter,
            primary_dc=config.primary_datacenter,
            tables=self.server,
            remote=self._calls.fetching(config.primary_datacenter),
            locator=self.federation.locator,
            enabled=self._federation_states_enabled,
            known_dcs=self.federation.router.datacenters,
            wall=self._wall,
            rng=self._rng,
            token=config.acl.tokens.get("replication", ""),
            on_locator=self.federation.locator_told,
        )
        self._duties_task = self._spawn(self._duties.run())

    def _known_dcs(self) -> set[str]:
        return {state.datacenter for state in self.server.store.federation.list().value}

    def _receive_lan_event(self, event: PoolEvent) -> None:
        assert self._lan_members is not None
        self._lan_members.receive(event)
        self.events.receive(event)
        if (
            isinstance(event, MemberJoined)
            and event.member.name != self.config.node_name
            and not self._storage.is_shared
        ):
            self._warn_of_second_server(event.member)
        self._storage.wake()
        self._federation_changed()

    def _lan_roles(self) -> list[str]:
        members = self._lan_pool_members()
        return [one.tags.get("role", "") for one in members if one.status is MemberStatus.ALIVE]

    def _warn_of_second_server(self, member: Member) -> None:
        if server_of(member) is not None:
            logger.error(
                "server %s is in our datacenter too, and this one keeps its data for itself: both "
                "lead, apart from each other, with different data; stop one of them, and use "
                "bootstrap_expect on all servers of a datacenter",
                member.name,
                extra={"dc": self.config.datacenter},
            )

    # What changes --------------------------------------------------------------------------------

    def _federation_changed(self) -> None:
        """A member, a gateway or the locator changed: whoever waits tries again."""
        self.clocks.wake()
        if self._duties is not None:
            self._duties.wake()
        if self._joining is not None:
            self._joining.wake()

    def _locator_populated(self) -> None:
        if self.wan is not None:
            self.wan.release()

    def _wan_distance(self, member: str) -> float:
        """Seconds to a member of the WAN pool and back; infinite when that is unknown."""
        where = self.wan.coordinate_of(member) if self.wan is not None else None
        if self.wan is None or where is None:
            return math.inf
        return distance(self.wan.coordinate(), where)

    def _dc_departed(self, dc: str) -> None:
        self.federation.outcomes.forget(dc)
        if self._duties is not None:
            self._duties.datacenter_departed()

    def _federation_states_enabled(self) -> bool:
        """Source: protocol/federation.md §9.3: true once, true until the restart."""
        if not self._feature_seen:
            lan = self.lan.members() if self.lan is not None else ()
            servers = [server for member in lan if (server := server_of(member)) is not None]
            dcs = {self.config.datacenter, self.config.primary_datacenter}
            servers += self.federation.router.servers(self.config.primary_datacenter)
            self._feature_seen = len(self.server.store.federation) > 0 or (
                federation_states_supported(servers, dcs)
            )
        return self._feature_seen

    def _is_gateway(self, host: str) -> bool:
        """Whether an address is a gateway's, behind which whole datacenters come."""
        gateways = self.server.store.federation.gateways().value
        if gateways is not self._gateways_seen:
            self._gateways_seen = gateways
            self._gateway_hosts = {
                address(gateway)[0]
                for found in gateways.values()
                for gateway in found
                for address in (lan_address, wan_address)
            }
        return host in self._gateway_hosts

    def _accept_packets(self, inbound: Inbound) -> None:
        if self.wan is None:
            inbound.close()
        else:
            self.wan.accept_packets(inbound)

    def _accept_stream(self, inbound: Inbound) -> None:
        if self.wan is None:
            inbound.close()
        else:
            self.wan.accept_stream(inbound)

    def _check_wan_members(self, members: Sequence[Member]) -> str | None:
        config = self.config
        problems = (
            wan_member_problem(member.name, member.tags, server_of(member)) for member in members
        )
        return next(filter(None, problems), None) or address_problem(
            members,
            self._wan_networks,
            own_name=wan_name(config.node_name, config.datacenter),
            key="serf_wan_allowed_cidrs",
        )
