"""Storage in etcd: somebody else's, or one that the servers of the datacenter run themselves."""

import asyncio
import logging
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Final

from isthmus.agent.engines import ServerStorage, departed, other_servers, presence
from isthmus.agent.platform import Platform
from isthmus.agent.storage import StorageKeeper
from isthmus.agent.storage_peers import StorageKeeperConfig
from isthmus.config.model import AgentConfig
from isthmus.engine.etcd import EtcdEngine
from isthmus.engine.etcd_access import EtcdAccess
from isthmus.engine.etcd_api import CallFailed
from isthmus.engine.etcd_members import (
    ClusterKeeper,
    EtcdCluster,
    ManagedEtcdEngine,
    MemberElection,
    Successors,
)
from isthmus.engine.etcd_process import (
    OPERATIONS_MAX,
    REQUEST_SIZE_MAX,
)
from isthmus.engine.etcd_room import RoomKeeper
from isthmus.errors import NoLeader, RequestError, Unavailable
from isthmus.gossip.roster import Member
from isthmus.model.storage import StorageMember, StorageReply, StorageRequest
from isthmus.net.files import LocalFiles
from isthmus.net.tasks import TaskScope
from isthmus.server.forward import RemoteCaller
from isthmus.server.server import Server
from isthmus.store.engine import EngineUnavailable, Limits

logger = logging.getLogger(__name__)

LEASE_TIME: Final = 5.0
"""Seconds after which a leader is replaced whose etcd goes on leading without it."""
CARE_INTERVAL: Final = 1.0
"""Seconds between two rounds of the leader's care for the cluster's members."""
SILENCE_INTERVAL: Final = 0.25
"""Seconds between two questions who leads, while we do and our own etcd does not answer."""
LEAVE_TIMEOUT: Final = 10.0
LEAVE_RETRY: Final = 0.5
DEAD_TIME: Final = 30.0
"""Seconds that a failed server stays a member: a machine may restart in that time."""


class ManagedStorage(ServerStorage):
    """An etcd that the servers of the datacenter form and run.

    Attributes:
        keeper: Keeps our member.
        cluster: Calls about the cluster.
        members: Knows when we should lead.

    Args:
        config: The agent's.
        platform: Clock, chance, disk.
        node_id: Our server id.
        caller: Calls other servers.
        lan: Members of the LAN pool, as of now.
        rng: Source of jitter.
    """

    needs_others = True

    def __init__(
        self,
        config: AgentConfig,
        platform: Platform,
        *,
        node_id: str,
        caller: RemoteCaller,
        lan: Callable[[], tuple[Member, ...]],
        rng: Random,
    ) -> None:
        self._scope = TaskScope()
        self._leaving = self._keeps_room = False
        self._member = platform.member(config, node_id)
        process = self._member.process
        self.keeper = StorageKeeper(
            StorageKeeperConfig(
                datacenter=config.datacenter,
                member=StorageMember(
                    server_id=node_id, node=config.node_name, peer_url=process.config.peer_url
                ),
                peer_host=process.config.peer_host,
                expect=config.bootstrap_expect or int(config.bootstrap),
                directory=self._member.folder,
            ),
            process,
            servers=lambda: other_servers(lan(), own_id=node_id, dc=config.datacenter),
            caller=caller,
            files=LocalFiles(),
            wall=platform.wall,
            entropy=platform.entropy,
        )
        process.when_removed(self._removed)
        self.cluster = EtcdCluster(process.config.access)
        self.members = MemberElection(self.cluster, rng=rng)
        engine = self._etcd = ManagedEtcdEngine(
            self.cluster,
            process.config.access,
            datacenter=config.datacenter,
            cluster=_new_uuid(platform),
            wall=platform.wall,
            limits=Limits(OPERATIONS_MAX, REQUEST_SIZE_MAX),
            lease_time=LEASE_TIME,
        )
        super().__init__(config, engine, self.members, node_id=node_id, lan=lan)

    async def open(self) -> None:
        """Know what we knew before; then `answer` may be called.

        Raises:
            Locked: Another process has the storage: its etcd must not be taken for a leftover.
        """
        self._member.take()
        await self.keeper.open()

    async def run(self, server: Server) -> None:
        """See `ServerStorage.run`."""
        await self.keeper.run()
        self._keep_room(server)  # A storage that is full cannot even be opened.
        await self._started(server)
        self.serve(server)

    async def _started(self, server: Server) -> None:
        """Start a server, again while that fails: its cluster may lose its majority meanwhile."""
        while True:
            try:
                await server.start()
            except EngineUnavailable as error:
                logger.warning("the storage cannot be opened yet: %s", error)
                await asyncio.sleep(CARE_INTERVAL)
            else:
                return

    def serve(self, server: Server) -> None:
        """Look after the cluster on behalf of a server that runs on it."""
        self._keep_room(server)
        self._scope.spawn(self.members.watch(server.replica.look, heard=server.replica.heard_at))
        self._scope.spawn(self._care(server))
        self._scope.spawn(self._make_way(server))
        self._scope.spawn(self._pass_on(server))

    async def leave(self, server: Server) -> None:
        """Take our member out of the cluster while all are there to agree, and hand over first."""
        try:
            members = await self.cluster.members()
            own = [member for member in members if member.name == self._own_id]
            if not own or len(members) < 2:
                return
            if server.is_leader:
                await server.replica.resign()
            self._leaving = True
            await self._remove_own(own[0].number)
        except (CallFailed, NoLeader) as error:
            logger.warning("our storage member stays in the cluster as we leave: %s", error)
            self._leaving = False
            return
        await self.keeper.leave()

    async def _remove_own(self, number: int) -> None:
        """Remove our member; etcd refuses while it has known the others for some seconds only."""
        clock = asyncio.get_running_loop()
        deadline = clock.time() + LEAVE_TIMEOUT
        while True:
            try:
                await self.cluster.remove(number)
            except CallFailed as error:
                if "not found" in error.details:
                    return  # An earlier call did it, and its answer was lost.
                if clock.time() >= deadline:
                    raise
                await asyncio.sleep(LEAVE_RETRY)
            else:
                return

    async def close(self) -> None:
        """Stop our member."""
        await self._scope.close()
        await self.cluster.close()
        await self.keeper.close()
        await self._member.close()

    def wake(self) -> None:
        """A server came or went."""
        self.keeper.wake()

    async def answer(self, request: StorageRequest) -> StorageReply:
        """See `ServerStorage.answer`."""
        return await self.keeper.answer(request)

    async def voters(self) -> Mapping[str, bool]:
        """See `ServerStorage.voters`."""
        try:
            members = await self.cluster.members()
        except CallFailed as error:
            raise Unavailable(f"the storage does not say who keeps it: {error}") from error
        return {member.name: not member.is_learner for member in members if member.name}

    async def remove(self, server_id: str) -> None:
        """Remove a server's member.

        Raises:
            RequestError: etcd refuses, since the majority would be in danger.
        """
        try:
            for member in await self.cluster.members():
                if member.name == server_id:
                    await self.cluster.remove(member.number)
        except CallFailed as error:
            raise RequestError(f"the storage does not let it go: {error.details}") from error

    async def _care(self, server: Server) -> None:
        """While we lead: promote who has caught up, remove who is gone."""
        clock = asyncio.get_running_loop()
        keeper = ClusterKeeper(
            self.cluster,
            presence=lambda: presence(self._lan(), dc=self._config.datacenter),
            left=lambda: departed(self._lan(), dc=self._config.datacenter),
            dead_after=lambda: DEAD_TIME,
            cleanup=lambda: server.store.autopilot.get().cleanup_dead_servers,
            quorum_min=lambda: server.store.autopilot.get().min_quorum,
            stable_after=lambda: server.store.autopilot.get().server_stabilization_time.seconds,
        )
        while True:
            await asyncio.sleep(CARE_INTERVAL)
            if not server.is_leader:
                continue
            try:
                await keeper.look(now=clock.time())
            except CallFailed as error:
                logger.debug("could not look after the storage's members: %s", error)

    def _keep_room(self, server: Server) -> None:
        """Keep room in our member's database from now on."""
        if not self._keeps_room:
            self._keeps_room = True
            self._scope.spawn(self._look_for_room(server))

    async def _look_for_room(self, server: Server) -> None:
        async def hand_over() -> None:
            if server.is_leader:
                await server.replica.resign()
            else:
                await self.cluster.hand_over()

        clock = asyncio.get_running_loop()
        keeper = RoomKeeper(
            self.cluster, quota=self._config.storage.quota_bytes, hand_over=hand_over
        )
        while True:
            await asyncio.sleep(CARE_INTERVAL)
            try:
                await keeper.look(now=clock.time())
            except (CallFailed, NoLeader) as error:
                logger.debug("could not look after our member's room: %s", error)

    async def _make_way(self, server: Server) -> None:
        """While we lead, and our etcd is silent: see whether another server has taken over.

        Else what is in flight here would wait for an answer that nobody needs any more.
        """
        while True:
            await asyncio.sleep(SILENCE_INTERVAL)
            if not server.is_leader or self.members.answers:
                continue
            leader = await server.search.find()
            if leader is not None and server.is_leader and not self.members.answers:
                await self._etcd.give_up()
                await server.replica.give_up(
                    f"our etcd does not answer, and server {leader.node} leads"
                )

    async def _pass_on(self, server: Server) -> None:
        """While we cannot lead, since what is stored is newer than we are, have others lead etcd.

        Else the datacenter would wait until one of them takes a leadership that is free for long.
        """
        successors = Successors(self.cluster)
        while True:
            await asyncio.sleep(CARE_INTERVAL)
            status, leader = self.members.status, server.replica.leader
            if server.replica.is_loaded or status is None or not status.leads:
                continue
            try:
                wanted = await successors.look(leader.server_id if leader else "")
            except CallFailed as error:
                logger.debug("could not have another server lead: %s", error)
            else:
                if wanted:
                    logger.warning("this server cannot read the data: server %s may lead", wanted)

    def _removed(self) -> None:
        """The cluster has removed our member while we were away: begin anew."""
        if not self._leaving:
            self._scope.spawn(self.keeper.begin_anew())


def external_engine(config: AgentConfig, platform: Platform) -> EtcdEngine:
    """The engine on an etcd that somebody else runs."""
    storage = config.storage
    prefix = storage.prefix or f"/isthmus/{config.datacenter}/"
    endpoints = [
        endpoint.removeprefix("https://").removeprefix("http://").rstrip("/")
        for endpoint in storage.endpoints
    ]
    return EtcdEngine(
        EtcdAccess(
            endpoints=tuple(endpoints),
            ca_file=Path(storage.ca_file) if storage.ca_file else None,
            cert_file=Path(storage.cert_file) if storage.cert_file else None,
            key_file=Path(storage.key_file) if storage.key_file else None,
            username=storage.username,
            password=storage.password,
        ),
        datacenter=config.datacenter,
        cluster=_new_uuid(platform),
        wall=platform.wall,
        root=(prefix if prefix.endswith("/") else prefix + "/").encode(),
        limits=Limits(storage.max_txn_ops, storage.max_request_bytes),
        lease_time=storage.lease_ttl,
    )


def _new_uuid(platform: Platform) -> str:
    return str(uuid.UUID(bytes=platform.entropy(16), version=4))
