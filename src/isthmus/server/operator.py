"""The servers of our datacenter, for operators: who stores, who votes, how each of them is.

The leader asks every server how far its copy is, as Consul's autopilot does; what is healthy is
decided by the settings in the store. Source: protocol/rpc.md §6 "Operator".
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from isthmus.errors import InvalidRequest, IsthmusError, NoLeader, RequestError
from isthmus.model.operator import (
    LEADER,
    NON_VOTER,
    VOTER,
    AutopilotConfig,
    AutopilotHealthReply,
    AutopilotServer,
    AutopilotServerHealth,
    AutopilotState,
    RaftConfigurationResponse,
    RaftRemovePeerRequest,
    RaftServer,
    RaftStats,
)
from isthmus.model.query import Empty
from isthmus.model.timestamp import Timestamp
from isthmus.names import split_host_port
from isthmus.net.client import ServerTarget
from isthmus.server.forward import RemoteCaller
from isthmus.server.replica import Replica
from isthmus.units import Duration, parse_duration

logger = logging.getLogger(__name__)

LOOK_INTERVAL: Final = 2.0  # Consul's.
STATS_TIMEOUT: Final = 1.5
TRANSFER_TIMEOUT: Final = 5.0
_ALIVE, _FAILED = 1, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LanServer:
    """A server of our datacenter, as the LAN pool knows it.

    Attributes:
        address: ``host:port`` of its RPC port.
        alive: Whether the pool believes so.
        version: Its build.
    """

    server_id: str
    node: str
    address: str
    alive: bool
    version: str = ""
    read_replica: bool = False


class StorageServers(Protocol):
    """Who keeps the datacenter's data."""

    async def voters(self) -> Mapping[str, bool]:
        """Server ids, and whether each counts for the majority.

        Raises:
            Unavailable: The storage does not answer.
        """

    async def remove(self, server_id: str) -> None:
        """Remove a server.

        Raises:
            RequestError: It is none of them, or must stay.
        """


class Operator:
    """Answers operators, and looks after what it answers while we lead.

    Args:
        dc: Our datacenter.
        own_id: Our server id.
        replica: Our copy of the data.
        settings: What holds for servers that come and go.
        storage: Who keeps the data.
        servers: All servers of the LAN pool, us included.
        caller: Calls them; None: there is only us.
        term: The storage's election that we know of.
        wall: Reads the calendar clock.
    """

    def __init__(
        self,
        *,
        dc: str,
        own_id: str,
        replica: Replica,
        settings: Callable[[], AutopilotConfig],
        storage: StorageServers,
        servers: Callable[[], Sequence[LanServer]],
        caller: RemoteCaller | None,
        wall: Callable[[], datetime],
    ) -> None:
        self._dc, self._own_id, self._replica = dc, own_id, replica
        self._settings, self._storage = settings, storage
        self._servers, self._caller, self._wall = servers, caller, wall
        self.seen: AutopilotHealthReply | None = None
        self._stable: dict[str, tuple[bool, Timestamp]] = {}

    # One server -------------------------------------------------------------------------------

    def stats(self) -> RaftStats:
        """How far our own copy is."""
        replica = self._replica
        leader = replica.leader
        contact = replica.last_contact if leader is not None else None
        return RaftStats(
            last_contact="never" if contact is None else str(Duration.of(round(contact, 6))),
            last_term=leader.epoch if leader is not None else 0,
            last_index=replica.store.index,
        )

    async def _stats_of(self, server: LanServer) -> RaftStats | None:
        """Of another server; None when it does not say."""
        if server.server_id == self._own_id:
            return self.stats()
        if self._caller is None or not server.alive:
            return None
        host, port = split_host_port(server.address)
        try:
            stats = await self._caller.call(
                ServerTarget(self._dc, server.node, host, port),
                "Status.RaftStats",
                Empty(),
                RaftStats,
                timeout=STATS_TIMEOUT,
                repeatable=True,
            )
        except IsthmusError as error:
            logger.debug("server %s does not say how it is: %s", server.node, error)
            return None
        assert isinstance(stats, RaftStats)
        return stats

    # All of them ------------------------------------------------------------------------------

    async def configuration(self) -> RaftConfigurationResponse:
        """Who keeps the data.

        Raises:
            Unavailable: The storage does not answer.
        """
        known = {server.server_id: server for server in self._servers()}
        leader = self._replica.leader
        found = []
        for server_id, votes in (await self._storage.voters()).items():
            server = known.get(server_id)
            found.append(
                RaftServer(
                    id=server_id,
                    node=server.node if server else "(unknown)",
                    address=server.address if server else "",
                    leader=leader is not None and leader.server_id == server_id,
                    voter=votes,
                )
            )
        return RaftConfigurationResponse(
            servers=tuple(sorted(found, key=lambda one: (one.node, one.id)))
        )

    async def health(self) -> AutopilotHealthReply:
        """How each server is, asked now.

        Raises:
            Unavailable: The storage does not answer.
        """
        voters = await self._storage.voters()
        servers = [server for server in self._servers() if server.server_id]
        stats = await asyncio.gather(*(self._stats_of(server) for server in servers))
        found = [
            self._judge(server, one, votes=voters.get(server.server_id))
            for server, one in zip(servers, stats, strict=True)
        ]
        self._stable = {one.id: (one.healthy, one.stable_since) for one in found}
        found += [_missing(server_id) for server_id in voters if server_id not in self._stable]
        healthy_voters = sum(one.healthy and one.voter for one in found)
        count = sum(one.voter for one in found)
        self.seen = AutopilotHealthReply(
            healthy=bool(found) and all(one.healthy for one in found),
            failure_tolerance=max(0, healthy_voters - (count // 2 + 1)),
            servers=tuple(sorted(found, key=lambda one: (one.name, one.id))),
        )
        return self.seen

    def _judge(
        self, server: LanServer, stats: RaftStats | None, *, votes: bool | None
    ) -> AutopilotServerHealth:
        """How one is. One that is in no storage of ours (`votes` is None) is not well."""
        settings, leader = self._settings(), self._replica.leader
        leads = leader is not None and leader.server_id == server.server_id
        contact = Duration(0)
        healthy = server.alive and stats is not None and leader is not None and votes is not None
        if stats is not None and leader is not None:
            if stats.last_contact == "never":
                healthy = False
            else:
                contact = parse_duration(stats.last_contact)
            behind = self._replica.store.index - stats.last_index
            healthy = (
                healthy
                and (leads or contact <= _contact_limit(settings))
                and stats.last_term == leader.epoch
                and behind <= settings.max_trailing_logs
            )
        before = self._stable.get(server.server_id)
        since = before[1] if before and before[0] == healthy else Timestamp.of(self._wall())
        return AutopilotServerHealth(
            id=server.server_id,
            name=server.node,
            address=server.address,
            serf_status=_ALIVE if server.alive else _FAILED,
            version=server.version,
            leader=leads,
            last_contact=contact,
            last_term=stats.last_term if stats else 0,
            last_index=stats.last_index if stats else 0,
            healthy=healthy,
            voter=bool(votes),
            stable_since=since,
        )

    async def state(self) -> AutopilotState:
        """Everything about the servers. Raises as `health`."""
        health = await self.health()
        replicas = {server.server_id for server in self._servers() if server.read_replica}
        servers = {
            one.id: AutopilotServer(
                id=one.id,
                name=one.name,
                address=one.address,
                node_status="alive" if one.serf_status == _ALIVE else "failed",
                version=one.version,
                last_contact=one.last_contact,
                last_term=one.last_term,
                last_index=one.last_index,
                healthy=one.healthy,
                stable_since=one.stable_since,
                read_replica=one.id in replicas,
                status=LEADER if one.leader else VOTER if one.voter else NON_VOTER,
                meta={"consul-network-segment": ""},
                node_type="voter" if one.voter else "non-voter",
            )
            for one in health.servers or ()
        }
        return AutopilotState(
            healthy=health.healthy,
            failure_tolerance=health.failure_tolerance,
            optimistic_failure_tolerance=health.failure_tolerance,
            servers=servers,
            leader=next((one.id for one in health.servers or () if one.leader), ""),
            voters=tuple(one.id for one in health.servers or () if one.voter),
        )

    async def watch(self) -> None:
        """While we lead, look now and then, so that it is known since when a server is as it is."""
        while True:
            if self._replica.is_leader:
                try:
                    await self.health()
                except IsthmusError as error:
                    logger.debug("could not look after the servers: %s", error)
            await asyncio.sleep(LOOK_INTERVAL)

    # What operators change --------------------------------------------------------------------

    async def remove(self, request: RaftRemovePeerRequest) -> None:
        """Remove a server from the storage.

        Raises:
            RequestError: It is none of them, or must stay; nothing changed.
        """
        if request.address:
            found = [
                server.id
                for server in (await self.configuration()).servers or ()
                if server.address == request.address
            ]
            if not found:
                raise RequestError(
                    f'address "{request.address}" was not found in the Raft configuration'
                )
            server_id = found[0]
        else:
            server_id = request.id
            if server_id not in await self._storage.voters():
                raise RequestError(f'id "{server_id}" was not found in the Raft configuration')
        logger.warning("removing server %s from the storage, as an operator wants", server_id)
        await self._storage.remove(server_id)

    async def transfer(self, server_id: str) -> None:
        """Hand our leadership to a server, or to any; return when another leads.

        Raises:
            NoLeader: We do not lead.
            RequestError: There is no such server that votes, or none took it.
        """
        voters = await self._storage.voters()
        others = [one for one, votes in voters.items() if votes and one != self._own_id]
        if server_id == self._own_id:
            return
        if server_id and server_id not in others:
            raise InvalidRequest(f"server {server_id} does not vote in this datacenter")
        if not others:
            raise InvalidRequest("there is no other server that could lead")
        await self._replica.resign(server_id)
        clock = asyncio.get_running_loop()
        deadline = clock.time() + TRANSFER_TIMEOUT
        while (leader := self._replica.leader) is None or leader.server_id == self._own_id:
            if clock.time() >= deadline:
                raise NoLeader
            await self._replica.leader_changed(deadline - clock.time())


def _contact_limit(settings: AutopilotConfig) -> Duration:
    """An idle server looks for its leader twice a second only, so less says nothing."""
    return max(settings.last_contact_threshold, _CONTACT_MIN)


_CONTACT_MIN: Final = Duration.of(1.0)


def _missing(server_id: str) -> AutopilotServerHealth:
    """A server that keeps data and that the LAN pool does not know."""
    return AutopilotServerHealth(id=server_id, name="(unknown)", serf_status=_FAILED, voter=True)
