"""The coordinator of a storage cluster that is formed: promises, certificates, the start of all.

Once all have promised, the plan is on our disk before anybody starts, so that it is carried out
even if we die at any step. It is forgotten when everyone has started, since it holds the key of the
authority, which the storage itself keeps from then on. Source: design of storage, §10.
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Final, Protocol

from isthmus.agent.storage_files import (
    PLAN_FILE,
    Cluster,
    StorageNotes,
    as_data,
    as_dict,
    as_text,
)
from isthmus.agent.storage_members import MemberServices
from isthmus.agent.storage_peers import StorageKeeperConfig, StoragePeers
from isthmus.agent.storage_pledges import Pledges
from isthmus.engine.etcd_certificates import Authority, make_authority, sign
from isthmus.errors import InvalidRequest, IsthmusError, RequestError, Unavailable
from isthmus.model.storage import CANCEL, PROMISE, START, StorageMember, StorageRequest
from isthmus.net.client import ServerTarget
from isthmus.net.tasks import TaskScope

logger = logging.getLogger(__name__)

STEP_INTERVAL: Final = 0.5
"""Seconds between two looks at the other servers while there is no cluster."""


class Enter(Protocol):
    """Makes us part of a cluster."""

    def __call__(self, cluster: Cluster, *, ca: bytes, certificate: bytes) -> Awaitable[None]:
        """What it says is on the disk when it is done."""


class Former:
    """Forms a cluster with others and has all of them start.

    Args:
        config: Who we are.
        notes: Where the plan is kept.
        peers: The other servers.
        pledges: Our own promises.
        services: What our member does for others, once it works.
        request: Makes a request for our certificate.
        enter: Makes us part of the cluster.
        is_member: Whether we are part of one already.
        wall: Reads the calendar clock.
        entropy: Makes that many random bytes.
    """

    def __init__(
        self,
        config: StorageKeeperConfig,
        notes: StorageNotes,
        peers: StoragePeers,
        pledges: Pledges,
        services: MemberServices,
        *,
        request: Callable[[], bytes],
        enter: Enter,
        is_member: Callable[[], bool],
        wall: Callable[[], datetime],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._config, self._notes, self._peers, self._pledges = config, notes, peers, pledges
        self._services, self._request = services, request
        self._enter, self._is_member = enter, is_member
        self._wall, self._entropy = wall, entropy
        self._scope = TaskScope()
        self._telling: list[asyncio.Task[None]] = []

    async def close(self) -> None:
        """Stop whatever is under way; the plan stays."""
        await self._scope.close()

    async def form(self, others: Mapping[str, ServerTarget]) -> None:
        """Form the cluster, if all of them promise."""
        config, wall = self._config, self._wall
        token = uuid.UUID(bytes=self._entropy(16), version=4).hex
        everyone = (
            config.member,
            *(StorageMember(server_id=one, node=target.node) for one, target in others.items()),
        )
        try:
            own = await self._pledges.give(token, config.member.server_id, everyone)
        except InvalidRequest as error:
            self._peers.warn(f"waiting: {error}")
            return
        members, requests = [config.member], {config.member.server_id: self._request()}
        try:
            for server, target in others.items():
                reply = await self._peers.call(
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
            self._pledges.check(own)
        except IsthmusError as error:
            self._peers.warn(f"could not form the storage cluster: {error}")
            await self._release(token, others)
            return
        authority = make_authority(f"Storage of {config.datacenter}", wall=wall())
        plan = {
            "token": token,
            "members": [as_dict(member) for member in members],
            "certificates": {
                server: as_text(sign(authority, request, name=server, wall=wall()))
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

    async def go_on(self) -> None:
        """Carry out the plan of an earlier life, if there is one."""
        plan = await self._notes.read(PLAN_FILE)
        if plan is not None:
            await self._carry_out(plan)

    async def _release(self, token: str, others: Mapping[str, ServerTarget]) -> None:
        for target in others.values():
            with contextlib.suppress(IsthmusError):
                await self._peers.call(target, StorageRequest(operation=CANCEL, token=token))
        await self._pledges.release(token)

    async def _carry_out(self, plan: dict[str, Any]) -> None:
        """Start our own member of a planned cluster, and go on telling the others to."""
        own = self._config.member.server_id
        members = tuple(StorageMember(**member) for member in plan["members"])
        if not self._is_member():
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
            target = self._peers.known().get(member.server_id)
            if target is not None:
                try:
                    await self._peers.call(target, request)
                except RequestError as error:
                    self._peers.warn(f"server {member.node} does not start its storage: {error}")
                except IsthmusError as error:
                    logger.debug("could not tell %s to start: %s", member.node, error)
                else:
                    return
            await asyncio.sleep(STEP_INTERVAL)

    async def finish(self) -> None:
        """Our member works: have the storage keep its authority, and forget the plan after that."""
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
        self._scope.spawn(self._forget_when_started())

    async def _forget_when_started(self) -> None:
        """Forget the plan once every member has started."""
        while True:
            try:
                started = await self._services.all_started()
            except Unavailable:
                started = False
            if started:
                await self.forget()
                return
            await asyncio.sleep(STEP_INTERVAL)

    def cease(self) -> None:
        """The cluster is not ours any more: nobody is told to start in it from now on."""
        for telling in self._telling:
            telling.cancel()
        self._telling.clear()

    async def forget(self) -> None:
        """There is no plan any more."""
        await self._notes.write(PLAN_FILE, {})
