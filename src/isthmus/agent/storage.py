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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from isthmus.agent.storage_files import (
    CLUSTER_FILE,
    PLAN_FILE,
    PROMISE_FILE,
    RECOVER_FILE,
    Cluster,
    StorageNotes,
    as_data,
    as_dict,
    as_text,
    promises_as_dict,
    promises_of,
)
from isthmus.agent.storage_members import EtcdCalls, MemberServices
from isthmus.engine.etcd_api import MESSAGES, CallFailed, EtcdClient
from isthmus.engine.etcd_certificates import (
    Authority,
    keep_certificate,
    make_authority,
    make_request,
    needs_renewal,
    own_key,
    sign,
)
from isthmus.engine.etcd_process import EtcdProcess
from isthmus.errors import InvalidRequest, IsthmusError, RequestError, Unavailable
from isthmus.model.reminders import Reminders
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
    StorageMember,
    StorageReply,
    StorageRequest,
)
from isthmus.net.client import ServerTarget
from isthmus.net.files import Files
from isthmus.net.tasks import TaskScope
from isthmus.server.formation import (
    FORM_TIME,
    Coordinate,
    Join,
    Promise,
    Promises,
    Torn,
    Wait,
    clusters_of,
    decide,
)
from isthmus.server.forward import RemoteCaller

logger = logging.getLogger(__name__)

METHOD: Final = "Isthmus.Storage"
STEP_INTERVAL: Final = 0.5
"""Seconds between two looks at the other servers while there is no cluster."""
CALL_TIMEOUT: Final = 5.0
START_TIMEOUT: Final = 60.0
"""Seconds for our member to be part of a cluster that works; a warning follows, then again."""
OVERTAKEN_INTERVAL: Final = 5.0
"""Seconds between two questions whether others formed the cluster without us."""
RENEWAL_INTERVAL: Final = 6 * 3600.0
UNSTARTED_TIME: Final = 10.0
"""Seconds in which etcd has begun to run as a member, or it never will."""
TORN_INTERVAL: Final = 30.0
"""Seconds between two questions whether others of our datacenter are in another cluster."""
_WARNING_INTERVAL: Final = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageKeeperConfig:
    """Who we are.

    Attributes:
        datacenter: Our datacenter.
        member: Us, as a member of the cluster.
        peer_host: IP address in `member.peer_url`.
        expect: How many servers make up a new datacenter; 0: we only join.
        directory: Where the keeper's files are.
    """

    datacenter: str
    member: StorageMember
    peer_host: str
    expect: int
    directory: Path


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
        self._servers, self._caller = servers, caller
        self._wall, self._entropy = wall, entropy
        self._notes = StorageNotes(files, config.directory)
        self._client = client or EtcdClient(process.config.access)
        self._services = MemberServices(self._client, config.member, wall=wall)
        self._promises = Promises()
        self._cluster: Cluster | None = None
        self._step = asyncio.Event()
        self._warnings = Reminders(_WARNING_INTERVAL)
        self._telling: list[asyncio.Task[None]] = []
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
        noted = await self._notes.read(PROMISE_FILE)
        if noted is not None:
            self._promises = promises_of(noted)
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
        plan = await self._notes.read(PLAN_FILE)
        if plan is not None:
            await self._carry_out(plan)
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
        if await self._notes.read(PLAN_FILE) is not None:
            await self._keep_authority()
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
        for telling in self._telling:
            telling.cancel()
        self._telling.clear()
        await self._process.stop()
        if self._process.has_data:
            place = self._process.archive(f"{why}-{int(self._wall().timestamp())}")
            logger.warning("the data of the earlier member is kept in %s", place)
        await self._forget_cluster()

    async def _forget_cluster(self) -> None:
        self._cluster = None
        await self._notes.write(PLAN_FILE, {})
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
        servers = dict(self._servers())
        answers = dict(
            zip(
                servers,
                await asyncio.gather(*(self._ask(target) for target in servers.values())),
                strict=True,
            )
        )
        decision = decide(
            own_id=self._config.member.server_id, expect=self._config.expect, answers=answers
        )
        match decision:
            case Wait(reason):
                self._warn(f"waiting for the storage of this datacenter: {reason}")
            case Torn(clusters):
                text = _two_clusters(self._config.datacenter, clusters)
                self._warn(f"this server joins none of them: {text}", level=logging.ERROR)
            case Join(candidates):
                for server in candidates:
                    if await self._join(servers[server]):
                        return
            case Coordinate(others):
                await self._form({server: servers[server] for server in others})

    async def _ask(self, target: ServerTarget) -> StorageReply | None:
        """What a server says of itself; None when it does not answer."""
        try:
            return await self._call(target, StorageRequest(operation=STATUS))
        except RequestError as error:  # It keeps its data otherwise, or is no isthmus at all.
            self._warn(f"server {target.node} has no part in the storage: {error}")
            return None
        except IsthmusError as error:
            logger.debug("server %s does not say whether it has data: %s", target.node, error)
            return None

    async def _form(self, others: Mapping[str, ServerTarget]) -> None:
        """Form the cluster, if all of them promise."""
        config = self._config
        token = uuid.UUID(bytes=self._entropy(16), version=4).hex
        everyone = (
            config.member,
            *(StorageMember(server_id=one, node=target.node) for one, target in others.items()),
        )
        own = self._promise_of(token, config.member.server_id, everyone)
        obstacle = self._promises.obstacle(own)
        if obstacle is not None:
            self._warn(f"waiting: {self._why_not(obstacle)}")
            return
        await self._keep_promises(self._promises.adding(own))
        members, requests = [config.member], {config.member.server_id: self._own_request()}
        try:
            for server, target in others.items():
                reply = await self._call(
                    target,
                    StorageRequest(
                        operation=PROMISE,
                        token=token,
                        coordinator=config.member.server_id,
                        members=everyone,
                    ),
                )
                if reply.member.server_id != server or not reply.request:
                    raise InvalidRequest(f"server {target.node} answered for another one")
                members.append(reply.member)
                requests[server] = reply.request
            if self._promises.token != token:
                raise InvalidRequest("this server promised itself to another attempt meanwhile")
            if not 0 <= self._wall().timestamp() - own.made_at <= FORM_TIME:
                raise InvalidRequest("the promises took too long")
        except IsthmusError as error:
            self._warn(f"could not form the storage cluster: {error}")
            await self._release(token, others)
            return
        authority = make_authority(f"Storage of {config.datacenter}", wall=self._wall())
        plan = {
            "token": token,
            "members": [as_dict(member) for member in members],
            "certificates": {
                server: as_text(sign(authority, request, name=server, wall=self._wall()))
                for server, request in requests.items()
            },
            "ca": as_text(authority.certificate),
            "ca_key": as_text(authority.key),
        }
        await self._notes.write(PLAN_FILE, plan)
        logger.info(
            "forming the storage cluster with %s",
            ", ".join(member.node for member in members[1:]) or "nobody else",
        )
        await self._carry_out(plan)

    async def _release(self, token: str, others: Mapping[str, ServerTarget]) -> None:
        for target in others.values():
            with contextlib.suppress(IsthmusError):
                await self._call(target, StorageRequest(operation=CANCEL, token=token))
        await self._keep_promises(self._promises.without(token))

    async def _carry_out(self, plan: dict[str, Any]) -> None:
        """Start our own member of a planned cluster, and go on telling the others to."""
        own = self._config.member.server_id
        members = tuple(StorageMember(**member) for member in plan["members"])
        if self._cluster is None:
            await self._enter(
                Cluster(plan["token"], members, new=True),
                ca=as_data(plan["ca"]),
                certificate=as_data(plan["certificates"][own]),
            )
        for member in members:
            if member.server_id != own:
                request = StorageRequest(
                    operation=START,
                    token=plan["token"],
                    coordinator=own,
                    members=members,
                    certificate=as_data(plan["certificates"][member.server_id]),
                    ca=as_data(plan["ca"]),
                )
                self._telling.append(self._scope.spawn(self._tell_to_start(member, request)))

    async def _tell_to_start(self, member: StorageMember, request: StorageRequest) -> None:
        """Until it has heard."""
        while True:
            target = self._servers().get(member.server_id)
            if target is not None:
                try:
                    await self._call(target, request)
                except RequestError as error:
                    self._warn(f"server {member.node} does not start its storage: {error}")
                except IsthmusError as error:
                    logger.debug("could not tell %s to start: %s", member.node, error)
                else:
                    return
            await asyncio.sleep(STEP_INTERVAL)

    async def _join(self, target: ServerTarget) -> bool:
        """Ask a member to add us; whether it did."""
        try:
            reply = await self._call(
                target,
                StorageRequest(
                    operation=JOIN, sender=self._config.member, request=self._own_request()
                ),
            )
        except IsthmusError as error:
            self._warn(f"could not join the storage cluster through {target.node}: {error}")
            return False
        if not reply.members or not reply.certificate or not reply.ca:
            self._warn(f"server {target.node} could not let us join its storage cluster")
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
        await self._keep_promises(Promises())
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
            for target in self._servers().values():
                try:
                    await self._call(target, request)
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
            if not self._servers() and len(cluster.members) == 1:
                return
            self._warn(
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
                self._warn(
                    "the storage cluster has no leader; it needs a majority of its servers: check "
                    "that they run and reach each other on their peer ports "
                    f"({', '.join(self._peers())})"
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
        answers = await asyncio.gather(*(self._ask(t) for t in self._servers().values()))
        if any(
            answer is not None and answer.state == MEMBER and answer.token != cluster.token
            for answer in answers
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
            answers = await asyncio.gather(*(self._ask(t) for t in self._servers().values()))
            clusters = clusters_of([*answers, self._status()])
            others = {
                node for token in clusters if token != cluster.token for node in clusters[token]
            }
            if others & before:
                logger.error("%s", _two_clusters(self._config.datacenter, clusters.values()))
            before = others

    def _peers(self) -> list[str]:
        return [member.peer_url for member in self._cluster.members] if self._cluster else []

    async def _keep_authority(self) -> None:
        """Keep the authority in the storage itself, then forget the plan."""
        plan = await self._notes.read(PLAN_FILE)
        if plan is None:
            return
        authority = Authority(as_data(plan["ca"]), as_data(plan["ca_key"]))
        while True:
            try:
                await self._services.keep_authority(authority)
            except Unavailable as error:
                logger.debug("could not keep the storage's authority yet: %s", error)
                await asyncio.sleep(STEP_INTERVAL)
            else:
                break
        self._scope.spawn(self._forget_plan())

    async def _forget_plan(self) -> None:
        """Once every member has started."""
        while True:
            try:
                started = await self._services.all_started()
            except Unavailable:
                started = False
            if started:
                await self._notes.write(PLAN_FILE, {})  # It holds the authority's key no more.
                return
            await asyncio.sleep(STEP_INTERVAL)

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
        await self._keep_promises(self._promises.without(request.token))
        return self._status()

    def _status(self) -> StorageReply:
        cluster = self._cluster
        if cluster is not None:
            state, token = MEMBER, cluster.token
        else:
            token = self._promises.token
            state = PROMISED if token else NO_STORAGE
        return StorageReply(
            member=self._config.member, state=state, expect=self._config.expect, token=token
        )

    async def _answer_promise(self, request: StorageRequest) -> StorageReply:
        if self._cluster is not None:
            raise InvalidRequest(f"{self._config.member.node} is in a storage cluster already")
        promise = self._promise_of(request.token, request.coordinator, request.members or ())
        obstacle = self._promises.obstacle(promise)
        if obstacle is not None:
            raise InvalidRequest(self._why_not(obstacle))
        await self._keep_promises(self._promises.adding(promise))
        return StorageReply(
            member=self._config.member,
            state=PROMISED,
            expect=self._config.expect,
            token=request.token,
            request=self._own_request(),
        )

    def _why_not(self, obstacle: Promise) -> str:
        """Why a promise cannot be made; with what an operator can do if that lasts."""
        servers = self._servers()
        away = [
            server
            for server in obstacle.members
            if server not in servers and server != self._config.member.server_id
        ]
        text = f"{self._config.member.node} has promised itself to another attempt"
        if not away:
            return text
        return (
            f"{text}, which servers that are away now may have finished without it: start "
            f"{', '.join(away)}; if they are gone for good, stop {self._config.member.node} and "
            f"remove {self._config.directory / PROMISE_FILE} there"
        )

    async def _answer_start(self, request: StorageRequest) -> StorageReply:
        if self._cluster is not None:
            if self._cluster.token != request.token:
                raise InvalidRequest(f"{self._config.member.node} is in another storage cluster")
            return self._status()
        if self._promises.token != request.token:
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

    # Small steps ------------------------------------------------------------------------------

    async def _call(self, target: ServerTarget, request: StorageRequest) -> StorageReply:
        reply: StorageReply = await self._caller.call(
            target, METHOD, request, StorageReply, timeout=CALL_TIMEOUT
        )
        return reply

    def _own_request(self) -> bytes:
        files = self._process.config.files
        return make_request(
            own_key(files),
            name=self._config.member.server_id,
            addresses=[self._config.peer_host],
        )

    def _promise_of(
        self, token: str, coordinator: str, members: Sequence[StorageMember]
    ) -> Promise:
        """One that is made now."""
        servers = tuple(member.server_id for member in members)
        return Promise(token, coordinator, self._wall().timestamp(), servers)

    async def _keep_promises(self, promises: Promises) -> None:
        """On the disk first."""
        if promises != self._promises:
            await self._notes.write(PROMISE_FILE, promises_as_dict(promises))
        self._promises = promises

    def _warn(self, text: str, *, level: int = logging.WARNING) -> None:
        """Log once in a while."""
        if self._warnings.due(text, now=asyncio.get_running_loop().time()):
            logger.log(level, "%s", text)


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
