"""Forms the storage cluster of a datacenter, joins it, and keeps our member of it.

A server without data asks the others how far they are (`server.formation` decides what follows),
then either forms a cluster with them or joins theirs. What it learns is on disk before it counts:

``promise.json``   the attempts that we promised to start in
``plan.json``      coordinator only, until everyone has started: the cluster, its certificates, and
                   the authority that signed them
``cluster.json``   the cluster that our member is in

Source: design of storage, §10.
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final

from isthmus.agent.storage_files import CLUSTER_FILE, RECOVER_FILE, Cluster, StorageNotes
from isthmus.agent.storage_forming import STEP_INTERVAL, Former
from isthmus.agent.storage_members import EtcdCalls, MemberServices
from isthmus.agent.storage_peers import StorageKeeperConfig, StoragePeers
from isthmus.agent.storage_pledges import Pledges
from isthmus.engine.etcd_api import MESSAGES, CallFailed, EtcdClient
from isthmus.engine.etcd_certificates import (
    keep_certificate,
    make_request,
    needs_renewal,
    own_key,
    sign,
)
from isthmus.engine.etcd_process import EtcdProcess
from isthmus.errors import InvalidRequest, IsthmusError
from isthmus.model.storage import (
    CANCEL,
    JOIN,
    MEMBER,
    MOVE,
    NO_STORAGE,
    PROMISE,
    PROMISED,
    SIGN,
    START,
    STATUS,
    StorageReply,
    StorageRequest,
)
from isthmus.net.client import ServerTarget
from isthmus.net.files import Files
from isthmus.net.tasks import TaskScope
from isthmus.server.formation import Coordinate, Join, Torn, Wait, clusters_of, decide
from isthmus.server.forward import RemoteCaller

logger = logging.getLogger(__name__)

START_TIMEOUT: Final = 60.0
"""Seconds for our member to be part of a cluster that works; a warning follows, then again."""
OVERTAKEN_INTERVAL: Final = 5.0
"""Seconds between two questions whether others formed the cluster without us."""
RENEWAL_INTERVAL: Final = 6 * 3600.0
UNSTARTED_TIME: Final = 10.0
"""Seconds in which etcd has begun to run as a member, or it never will."""
TORN_INTERVAL: Final = 30.0
"""Seconds between two questions whether others of our datacenter are in another cluster."""


class StorageKeeper:
    """Keeps this server's member of the storage cluster.

    Args:
        config: Who we are.
        process: Our member.
        servers: The other living servers of our datacenter by server id.
        caller: Calls them.
        files: Reads and writes the keeper's files.
        wall: Reads the calendar clock.
        entropy: Makes that many random bytes.
        client: Calls our member; None: over the network.
    """

    def __init__(
        self,
        config: StorageKeeperConfig,
        process: EtcdProcess,
        *,
        servers: Callable[[], Mapping[str, ServerTarget]],
        caller: RemoteCaller,
        files: Files,
        wall: Callable[[], datetime],
        entropy: Callable[[int], bytes],
        client: EtcdCalls | None = None,
    ) -> None:
        self._config, self._process = config, process
        self._wall, self._entropy = wall, entropy
        self._notes = StorageNotes(files, config.directory)
        self._client = client or EtcdClient(process.config.access)
        self._services = MemberServices(self._client, config.member, wall=wall)
        self._peers = StoragePeers(servers, caller)
        self._pledges = Pledges(config, self._notes, wall=wall, living=servers)
        self._former = Former(
            config,
            self._notes,
            self._peers,
            self._pledges,
            self._services,
            request=self._own_request,
            enter=self._enter,
            is_member=lambda: self.is_member,
            wall=wall,
            entropy=entropy,
        )
        self._cluster: Cluster | None = None
        self._step = asyncio.Event()
        self._renewing: asyncio.Task[None] | None = None
        self._scope = TaskScope()
        self._is_entering = True
        """Whether `run` has yet to bring our member into a cluster."""
        self._was_removed = False
        """Whether the cluster has removed our member, and we have not joined again yet."""

    # Life -------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Read what we know from earlier; then `answer` may be called.

        Raises:
            Unavailable: A file cannot be read; the text names it.
        """
        await self._pledges.open()
        cluster = await self._notes.read(CLUSTER_FILE)
        if cluster is not None:
            self._cluster = Cluster.of(cluster)
            if not self._process.has_data and (self._cluster.started or not self._cluster.new):
                # A member without its data must not go by its old name: it would forget what it
                # has voted for.
                logger.warning("the data of our storage member is gone: joining again")
                await self._forget_cluster()

    async def run(self) -> None:
        """Return once our member is part of a cluster that works.

        Raises:
            EngineUnavailable: There is no fit etcd to run.
        """
        if not self._process.is_started:
            await self._process.check()
        await self._former.go_on()
        self._is_entering = True
        while True:
            if self._was_removed:
                logger.warning("our storage member was removed: joining again")
                self._was_removed = False
                await self._abandon("removed")
            await self._find_cluster()
            try:
                await self._start_member()
            except _Overtaken as error:
                logger.warning("%s", error)
                await self._abandon("overtaken")
            except _Removed:
                continue
            else:
                break
        self._is_entering = False
        await self._note_started()
        await self._former.finish()
        if self._renewing is None:
            self._renewing = self._scope.spawn(self._renew())
            self._scope.spawn(self._watch_for_others())

    async def _find_cluster(self) -> None:
        """Form a cluster with others or join theirs, unless we know one."""
        while self._cluster is None:
            await self._form_or_join()
            if self._cluster is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(STEP_INTERVAL):
                        await self._step.wait()
                self._step.clear()

    async def _note_started(self) -> None:
        """From now on our member has something to lose."""
        cluster = self._cluster
        if cluster is not None and not cluster.started:
            self._cluster = replace(cluster, started=True)
            await self._notes.write(CLUSTER_FILE, self._cluster.as_dict())

    async def close(self) -> None:
        """Stop our member and everything else."""
        await self._former.close()
        await self._scope.close()
        await self._client.close()
        await self._process.stop()

    async def leave(self) -> None:
        """Stop our member, which the cluster has let go, and put its data aside."""
        await self._abandon("left")

    async def begin_anew(self) -> None:
        """Join again: the cluster removed our member while we were away for too long.

        `run` does so itself if it is on its way, or has yet to begin.
        """
        self._was_removed = True
        self._step.set()
        if not self._is_entering:
            await self.run()

    async def _abandon(self, why: str) -> None:
        """Leave a cluster that is not ours any more; its data stays beside."""
        self._former.cease()
        await self._process.stop()
        if self._process.has_data:
            place = self._process.archive(f"{why}-{int(self._wall().timestamp())}")
            logger.warning("the data of the earlier member is kept in %s", place)
        await self._forget_cluster()

    async def _forget_cluster(self) -> None:
        self._cluster = None
        await self._former.forget()
        await self._notes.write(CLUSTER_FILE, {})

    def wake(self) -> None:
        """A server came or went: look again soon."""
        self._step.set()

    @property
    def is_member(self) -> bool:
        """Whether we know a cluster that we are part of."""
        return self._cluster is not None

    # Forming and joining ----------------------------------------------------------------------

    async def _form_or_join(self) -> None:
        servers = dict(self._peers.known())
        answers = await self._peers.ask_all()
        decision = decide(
            own_id=self._config.member.server_id, expect=self._config.expect, answers=answers
        )
        match decision:
            case Wait(reason):
                self._peers.warn(f"waiting for the storage of this datacenter: {reason}")
            case Torn(clusters):
                text = _two_clusters(self._config.datacenter, clusters)
                self._peers.warn(f"this server joins none of them: {text}", level=logging.ERROR)
            case Join(candidates):
                for server in candidates:
                    if await self._join(servers[server]):
                        return
            case Coordinate(others):
                await self._former.form({server: servers[server] for server in others})

    async def _join(self, target: ServerTarget) -> bool:
        """Ask a member to add us; whether it did."""
        try:
            reply = await self._peers.call(
                target,
                StorageRequest(
                    operation=JOIN, sender=self._config.member, request=self._own_request()
                ),
            )
        except IsthmusError as error:
            self._peers.warn(f"could not join the storage cluster through {target.node}: {error}")
            return False
        if not reply.members or not reply.certificate or not reply.ca:
            self._peers.warn(f"server {target.node} could not let us join its storage cluster")
            return False
        logger.info("joining the storage cluster through %s", target.node)
        await self._enter(
            Cluster(reply.token, reply.members, new=False),
            ca=reply.ca,
            certificate=reply.certificate,
        )
        return True

    async def _enter(self, cluster: Cluster, *, ca: bytes, certificate: bytes) -> None:
        """Be part of a cluster from now on."""
        keep_certificate(self._process.config.files, ca=ca, certificate=certificate)
        await self._notes.write(CLUSTER_FILE, cluster.as_dict())
        self._cluster = cluster
        await self._pledges.fulfil()
        self._step.set()

    # Our member -------------------------------------------------------------------------------

    async def _start_member(self) -> None:
        cluster = self._cluster
        assert cluster is not None
        if self._process.is_started:  # Before we were: `agent.member`.
            await self._until_ready()
            return
        own = self._config.member
        known = cluster.peer_url(own.server_id)
        alone = self._process.has_data and await self._notes.read(RECOVER_FILE) is not None
        moved = known not in {None, own.peer_url}
        if self._process.has_data and moved and not alone:
            await self._tell_new_address(cluster)
        if alone:
            cluster = await self._found_alone(cluster)
        await self._process.start(cluster.formation, alone=alone)
        await self._until_ready()
        if alone:
            if moved:
                await self._services.move(own)  # Nobody else could.
            await self._notes.write(RECOVER_FILE, {})

    async def _found_alone(self, cluster: Cluster) -> Cluster:
        """A cluster of ours alone; who still has data of the earlier one is not in it."""
        logger.warning("going on as the only member of the storage, as an operator wants")
        token = uuid.UUID(bytes=self._entropy(16), version=4).hex
        self._cluster = replace(cluster, token=token, members=(self._config.member,))
        await self._notes.write(CLUSTER_FILE, self._cluster.as_dict())
        return self._cluster

    async def _tell_new_address(self, cluster: Cluster) -> None:
        """Have another member say where we are now, before ours starts."""
        request = StorageRequest(operation=MOVE, sender=self._config.member)
        while True:
            for target in self._peers.known().values():
                try:
                    await self._peers.call(target, request)
                except IsthmusError as error:
                    logger.debug("could not tell %s our new address: %s", target.node, error)
                else:
                    members = tuple(
                        self._config.member
                        if member.server_id == self._config.member.server_id
                        else member
                        for member in cluster.members
                    )
                    self._cluster = replace(cluster, members=members)
                    await self._notes.write(CLUSTER_FILE, self._cluster.as_dict())
                    return
            if not self._peers.known() and len(cluster.members) == 1:
                return
            self._peers.warn(
                "this server has another address than before; waiting for another server to tell "
                "the storage cluster"
            )
            await asyncio.sleep(STEP_INTERVAL)

    async def _until_ready(self) -> None:
        """Wait until our member has a leader and votes; warn when that takes long.

        A learner answers nothing yet; the leader's server lets it vote once it has caught up.
        """
        clock = asyncio.get_running_loop()
        started = asked = clock.time()
        while True:
            try:
                status = await self._client.call("Status", MESSAGES["StatusRequest"]())
            except CallFailed:
                status = None
            if self._was_removed:
                raise _Removed
            if status is not None and status.leader and not status.isLearner:
                return
            if clock.time() - asked > OVERTAKEN_INTERVAL:
                asked = clock.time()
                await self._check_overtaken()
            if clock.time() - started > UNSTARTED_TIME:
                self._check_unstarted()
            if clock.time() - started > START_TIMEOUT:
                members = self._cluster.members if self._cluster else ()
                self._peers.warn(
                    "the storage cluster has no leader; it needs a majority of its servers: check "
                    "that they run and reach each other on their peer ports "
                    f"({', '.join(member.peer_url for member in members)})"
                )
            await asyncio.sleep(0.1)

    def _check_unstarted(self) -> None:
        """See whether our etcd cannot even begin in the cluster that let us in.

        It compares the members that we were told of with those that it finds, and does not start
        if others came or went meanwhile.

        Raises:
            _Overtaken: So it is.
        """
        cluster = self._cluster
        if cluster is not None and not cluster.new and not self._process.has_data:
            raise _Overtaken("our storage member did not start where it was let in: joining again")

    async def _check_overtaken(self) -> None:
        """See whether those that we were to form a cluster with are in another one.

        Raises:
            _Overtaken: So it is, and ours has never worked: we promised, were away, and our
                promise ran out.
        """
        cluster = self._cluster
        if cluster is None or cluster.started or not cluster.new:
            return
        answers = await self._peers.ask_all()
        if any(
            answer is not None and answer.state == MEMBER and answer.token != cluster.token
            for answer in answers.values()
        ):
            raise _Overtaken("others formed the storage cluster without us: joining theirs")

    async def _watch_for_others(self) -> None:
        """Tell an operator, again and again, of servers that are in another cluster than we are.

        It takes twice the servers that were expected, or data of another datacenter, or a member
        that was made to go on alone beside others that live. It must last: who formed a cluster
        that never worked is about to join ours.
        """
        before: set[str] = set()
        while True:
            await asyncio.sleep(TORN_INTERVAL)
            cluster = self._cluster
            if cluster is None:
                continue
            answers = await self._peers.ask_all()
            clusters = clusters_of([*answers.values(), self._status()])
            others = {
                node for token in clusters if token != cluster.token for node in clusters[token]
            }
            if others & before:
                logger.error("%s", _two_clusters(self._config.datacenter, clusters.values()))
            before = others

    async def _renew(self) -> None:
        """Have our certificate signed again before it runs out."""
        while True:
            files = self._process.config.files
            held = files.certificate.read_bytes()
            if needs_renewal(held, addresses=[self._config.peer_host], wall=self._wall()):
                try:
                    authority = await self._services.authority()
                    certificate = sign(
                        authority,
                        self._own_request(),
                        name=self._config.member.server_id,
                        wall=self._wall(),
                    )
                    keep_certificate(files, ca=authority.certificate, certificate=certificate)
                    logger.info("renewed the certificate of our storage member")
                except IsthmusError as error:
                    logger.warning("could not renew our storage certificate: %s", error)
            await asyncio.sleep(RENEWAL_INTERVAL)

    # What others ask --------------------------------------------------------------------------

    async def answer(self, request: StorageRequest) -> StorageReply:
        """Answer a step of another server.

        Raises:
            RequestError: It cannot be done; the text says why. Nothing changed.
            Unavailable: Our storage does not answer now; ask again or another server.
        """
        steps = {
            STATUS: self._answer_status,
            PROMISE: self._answer_promise,
            CANCEL: self._answer_cancel,
            START: self._answer_start,
            JOIN: self._answer_join,
            SIGN: self._services.sign,
            MOVE: self._answer_move,
        }
        step = steps.get(request.operation)
        if step is None:
            raise InvalidRequest(f"unknown storage operation: {request.operation}")
        return await step(request)

    async def _answer_status(self, request: StorageRequest) -> StorageReply:
        return self._status()

    async def _answer_cancel(self, request: StorageRequest) -> StorageReply:
        await self._pledges.release(request.token)
        return self._status()

    def _status(self) -> StorageReply:
        cluster = self._cluster
        if cluster is not None:
            state, token = MEMBER, cluster.token
        else:
            token = self._pledges.token
            state = PROMISED if token else NO_STORAGE
        return StorageReply(
            member=self._config.member, state=state, expect=self._config.expect, token=token
        )

    async def _answer_promise(self, request: StorageRequest) -> StorageReply:
        if self._cluster is not None:
            raise InvalidRequest(f"{self._config.member.node} is in a storage cluster already")
        await self._pledges.give(request.token, request.coordinator, request.members or ())
        return StorageReply(
            member=self._config.member,
            state=PROMISED,
            expect=self._config.expect,
            token=request.token,
            request=self._own_request(),
        )

    async def _answer_start(self, request: StorageRequest) -> StorageReply:
        if self._cluster is not None:
            if self._cluster.token != request.token:
                raise InvalidRequest(f"{self._config.member.node} is in another storage cluster")
            return self._status()
        if self._pledges.token != request.token:
            raise InvalidRequest(f"{self._config.member.node} has not promised itself to this")
        if not request.members or not request.certificate or not request.ca:
            raise InvalidRequest("incomplete description of a storage cluster")
        await self._enter(
            Cluster(request.token, request.members, new=True),
            ca=request.ca,
            certificate=request.certificate,
        )
        return self._status()

    async def _answer_join(self, request: StorageRequest) -> StorageReply:
        return await self._services.admit(self._cluster, request)

    async def _answer_move(self, request: StorageRequest) -> StorageReply:
        await self._services.move(request.sender)
        return self._status()

    def _own_request(self) -> bytes:
        """For our certificate."""
        files = self._process.config.files
        return make_request(
            own_key(files),
            name=self._config.member.server_id,
            addresses=[self._config.peer_host],
        )


def _two_clusters(datacenter: str, clusters: Iterable[tuple[str, ...]]) -> str:
    """What is wrong, and what to do."""
    return (
        f"datacenter {datacenter} has several storage clusters, which take different writes: "
        f"{' and '.join(', '.join(nodes) for nodes in sorted(clusters))}. Decide whose data is to "
        "stay; stop all servers of the other clusters, move the folder storage in the data_dir of "
        "each away, and start them: they join the cluster that is left"
    )


class _Overtaken(Exception):
    """Our member will never work in the cluster that it is to be in; the text says why."""


class _Removed(Exception):
    """The cluster has removed our member."""
