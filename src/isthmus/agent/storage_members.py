"""What a member of the storage cluster does for other servers: let them in, sign, note moves.

Source: design of storage, §10 "Later", "TLS".
"""

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, Protocol

import msgpack

from isthmus.agent.storage_files import Cluster
from isthmus.engine.etcd_api import MESSAGES, CallFailed, compare_revision, get, put
from isthmus.engine.etcd_certificates import Authority, sign
from isthmus.errors import InvalidRequest, Unavailable
from isthmus.model.storage import MEMBER, StorageMember, StorageReply, StorageRequest

logger = logging.getLogger(__name__)

MEMBERS_MAX: Final = 7
_AUTHORITY_KEY: Final = b"m/storage-ca"


class EtcdCalls(Protocol):
    """Calls our member; `EtcdClient` is one."""

    async def call(self, method: str, request: Any) -> Any:
        """One call; raises `CallFailed`."""

    async def close(self) -> None:
        """Close the connection."""


class MemberServices:
    """Changes of the cluster on behalf of other servers. All need a majority.

    Args:
        client: Calls our member.
        own: Us, as a member.
        wall: Reads the calendar clock.
    """

    def __init__(
        self, client: EtcdCalls, own: StorageMember, *, wall: Callable[[], datetime]
    ) -> None:
        self._client, self._own, self._wall = client, own, wall

    async def keep_authority(self, authority: Authority) -> None:
        """Keep who signs the members' certificates in the storage itself, unless it is there.

        Raises:
            Unavailable: The storage is away; nothing is known.
        """
        value = msgpack.packb([authority.certificate, authority.key])
        request = MESSAGES["TxnRequest"](
            compare=[compare_revision(_AUTHORITY_KEY, 0)], success=[put(_AUTHORITY_KEY, value)]
        )
        await self._call("Txn", request)

    async def authority(self) -> Authority:
        """Who signs the members' certificates.

        Raises:
            Unavailable: It is not in the storage yet, or the storage is away.
        """
        answer = await self._call("Txn", MESSAGES["TxnRequest"](success=[get(_AUTHORITY_KEY)]))
        found = answer.responses[0].response_range.kvs
        if not found:
            raise Unavailable("the storage cluster is being formed, ask again")
        certificate, key = msgpack.unpackb(found[0].value)
        return Authority(certificate, key)

    async def admit(self, cluster: Cluster | None, request: StorageRequest) -> StorageReply:
        """Add a server as a learner; it is promoted when it has caught up.

        Raises:
            InvalidRequest: It cannot join; the text says why.
            Unavailable: Not now: ask again, or another server.
        """
        sender = request.sender
        if cluster is None:
            raise InvalidRequest(f"{self._own.node} is in no storage cluster yet")
        if not sender.server_id or not sender.peer_url or not request.request:
            raise InvalidRequest("incomplete request to join a storage cluster")
        authority = await self.authority()
        certificate = sign(authority, request.request, name=sender.server_id, wall=self._wall())
        listed = (await self._call("MemberList", MESSAGES["MemberListRequest"]())).members
        earlier = [
            member
            for member in listed
            if sender.peer_url in member.peerURLs or member.name == sender.server_id
        ]
        if len(listed) - len(earlier) >= MEMBERS_MAX:
            raise InvalidRequest(f"a datacenter has at most {MEMBERS_MAX} servers")
        for member in earlier:
            # It has no data, so this is what it was before it lost its disk, or an attempt that
            # came to nothing.
            logger.info("replacing storage member %s", sender.node)
            await self._call("MemberRemove", MESSAGES["MemberRemoveRequest"](ID=member.ID))
        added = await self._call(
            "MemberAdd", MESSAGES["MemberAddRequest"](peerURLs=[sender.peer_url], isLearner=True)
        )
        members = [
            StorageMember(server_id=member.name, peer_url=member.peerURLs[0])
            for member in added.members
            if member.ID != added.member.ID and member.name
        ]
        return StorageReply(
            member=self._own,
            state=MEMBER,
            token=cluster.token,
            members=(*members, sender),
            certificate=certificate,
            ca=authority.certificate,
        )

    async def sign(self, request: StorageRequest) -> StorageReply:
        """Sign the certificate of a member. Raises as `admit`."""
        authority = await self.authority()
        if not request.request:
            raise InvalidRequest("there is no request to sign")
        certificate = sign(
            authority, request.request, name=request.sender.server_id, wall=self._wall()
        )
        return StorageReply(member=self._own, certificate=certificate, ca=authority.certificate)

    async def move(self, sender: StorageMember) -> None:
        """Note where a member listens now, before it starts there. Raises as `admit`."""
        listed = await self._call("MemberList", MESSAGES["MemberListRequest"]())
        for member in listed.members:
            if member.name == sender.server_id:
                await self._call(
                    "MemberUpdate",
                    MESSAGES["MemberUpdateRequest"](ID=member.ID, peerURLs=[sender.peer_url]),
                )
                return
        raise InvalidRequest(f"{sender.node} is no member of our storage cluster")

    async def all_started(self) -> bool:
        """Whether every member has been started. Raises as `authority`."""
        listed = await self._call("MemberList", MESSAGES["MemberListRequest"]())
        return all(member.name for member in listed.members)

    async def _call(self, method: str, request: Any) -> Any:
        try:
            return await self._client.call(method, request)
        except CallFailed as error:
            raise Unavailable(str(error)) from error
