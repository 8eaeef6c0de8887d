"""etcd's v3 API over gRPC: the messages and calls that we use, and their errors.

Source: the public field numbers of etcd's v3 API.
"""

import asyncio
import contextlib
import itertools
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from isthmus.engine.etcd_access import EtcdAccess
from isthmus.engine.grpc_channel import GrpcChannel, GrpcError, Metadata, connect
from isthmus.errors import EngineError
from isthmus.store.engine import EngineUnavailable, NoSpace, TooLarge
from isthmus.wire.protobuf import make_messages

CALL_TIMEOUT: Final = 5.0
CONNECT_TIMEOUT: Final = 1.0
"""Seconds after which an endpoint that does not answer is given up for the next one."""

_FIELDS: Final[Mapping[str, str]] = {
    "KeyValue": "key:bytes=1 create_revision:int64=2 mod_revision:int64=3 version:int64=4 "
    "value:bytes=5 lease:int64=6",
    "Event": "type:int32=1 kv:KeyValue=2 prev_kv:KeyValue=3",
    "ResponseHeader": "cluster_id:uint64=1 member_id:uint64=2 revision:int64=3 raft_term:uint64=4",
    "RangeRequest": "key:bytes=1 range_end:bytes=2 limit:int64=3 revision:int64=4 "
    "serializable:bool=7 keys_only:bool=8 count_only:bool=9",
    "RangeResponse": "header:ResponseHeader=1 kvs:KeyValue*=2 more:bool=3 count:int64=4",
    "PutRequest": "key:bytes=1 value:bytes=2 lease:int64=3",
    "PutResponse": "header:ResponseHeader=1",
    "DeleteRangeRequest": "key:bytes=1 range_end:bytes=2",
    "DeleteRangeResponse": "header:ResponseHeader=1 deleted:int64=2",
    "RequestOp": "request_range:RangeRequest=1 request_put:PutRequest=2 "
    "request_delete_range:DeleteRangeRequest=3",
    "ResponseOp": "response_range:RangeResponse=1 response_put:PutResponse=2 "
    "response_delete_range:DeleteRangeResponse=3",
    "Compare": "result:int32=1 target:int32=2 key:bytes=3 create_revision:int64=5 "
    "mod_revision:int64=6",
    "TxnRequest": "compare:Compare*=1 success:RequestOp*=2 failure:RequestOp*=3",
    "TxnResponse": "header:ResponseHeader=1 succeeded:bool=2 responses:ResponseOp*=3",
    "CompactionRequest": "revision:int64=1 physical:bool=2",
    "CompactionResponse": "header:ResponseHeader=1",
    "WatchRequest": "create_request:WatchCreateRequest=1",
    "WatchCreateRequest": "key:bytes=1 range_end:bytes=2 start_revision:int64=3 fragment:bool=8",
    "WatchResponse": "header:ResponseHeader=1 watch_id:int64=2 created:bool=3 canceled:bool=4 "
    "compact_revision:int64=5 cancel_reason:string=6 fragment:bool=7 events:Event*=11",
    "LeaseGrantRequest": "TTL:int64=1 ID:int64=2",
    "LeaseGrantResponse": "header:ResponseHeader=1 ID:int64=2 TTL:int64=3 error:string=4",
    "LeaseRevokeRequest": "ID:int64=1",
    "LeaseRevokeResponse": "header:ResponseHeader=1",
    "LeaseKeepAliveRequest": "ID:int64=1",
    "LeaseKeepAliveResponse": "header:ResponseHeader=1 ID:int64=2 TTL:int64=3",
    "Member": "ID:uint64=1 name:string=2 peerURLs:string*=3 clientURLs:string*=4 isLearner:bool=5",
    "MemberAddRequest": "peerURLs:string*=1 isLearner:bool=2",
    "MemberAddResponse": "header:ResponseHeader=1 member:Member=2 members:Member*=3",
    "MemberRemoveRequest": "ID:uint64=1",
    "MemberRemoveResponse": "header:ResponseHeader=1 members:Member*=2",
    "MemberUpdateRequest": "ID:uint64=1 peerURLs:string*=2",
    "MemberUpdateResponse": "header:ResponseHeader=1 members:Member*=2",
    "MemberListRequest": "linearizable:bool=1",
    "MemberListResponse": "header:ResponseHeader=1 members:Member*=2",
    "MemberPromoteRequest": "ID:uint64=1",
    "MemberPromoteResponse": "header:ResponseHeader=1 members:Member*=2",
    "StatusRequest": "",
    "StatusResponse": "header:ResponseHeader=1 version:string=2 dbSize:int64=3 leader:uint64=4 "
    "raftIndex:uint64=5 raftTerm:uint64=6 raftAppliedIndex:uint64=7 errors:string*=8 "
    "dbSizeInUse:int64=9 isLearner:bool=10",
    "DefragmentRequest": "",
    "DefragmentResponse": "header:ResponseHeader=1",
    "AlarmMember": "memberID:uint64=1 alarm:int32=2",
    "AlarmRequest": "action:int32=1 memberID:uint64=2 alarm:int32=3",
    "AlarmResponse": "header:ResponseHeader=1 alarms:AlarmMember*=2",
    "MoveLeaderRequest": "targetID:uint64=1",
    "MoveLeaderResponse": "header:ResponseHeader=1",
    "AuthenticateRequest": "name:string=1 password:string=2",
    "AuthenticateResponse": "header:ResponseHeader=1 token:string=2",
}
MESSAGES: Final = make_messages("isthmus.etcd", _FIELDS)
"""Message classes by name, as in ``MESSAGES["RangeRequest"](key=b"a")``."""

MOD: Final = 2
"""Target of a comparison: the revision of a key's last change, 0 while it does not exist."""
DELETE_EVENT: Final = 1
ALARM_NOSPACE: Final = 1
ALARM_GET: Final = 0
ALARM_DISARM: Final = 2

_CALLS: Final = {
    "Range": ("KV", "RangeRequest", "RangeResponse"),
    "Txn": ("KV", "TxnRequest", "TxnResponse"),
    "Compact": ("KV", "CompactionRequest", "CompactionResponse"),
    "LeaseGrant": ("Lease", "LeaseGrantRequest", "LeaseGrantResponse"),
    "LeaseRevoke": ("Lease", "LeaseRevokeRequest", "LeaseRevokeResponse"),
    "MemberAdd": ("Cluster", "MemberAddRequest", "MemberAddResponse"),
    "MemberRemove": ("Cluster", "MemberRemoveRequest", "MemberRemoveResponse"),
    "MemberUpdate": ("Cluster", "MemberUpdateRequest", "MemberUpdateResponse"),
    "MemberList": ("Cluster", "MemberListRequest", "MemberListResponse"),
    "MemberPromote": ("Cluster", "MemberPromoteRequest", "MemberPromoteResponse"),
    "Status": ("Maintenance", "StatusRequest", "StatusResponse"),
    "Defragment": ("Maintenance", "DefragmentRequest", "DefragmentResponse"),
    "Alarm": ("Maintenance", "AlarmRequest", "AlarmResponse"),
    "MoveLeader": ("Maintenance", "MoveLeaderRequest", "MoveLeaderResponse"),
    "Authenticate": ("Auth", "AuthenticateRequest", "AuthenticateResponse"),
}
_PATH: Final = "/etcdserverpb.{}/{}"
_METHODS: Final[Mapping[str, tuple[str, Any]]] = {
    name: (_PATH.format(service, name), MESSAGES[answers])
    for name, (service, _, answers) in _CALLS.items()
}
"""Path of each call, and the message that answers it."""
_KEEP_ALIVE: Final = _PATH.format("Lease", "LeaseKeepAlive")
_WATCH: Final = _PATH.format("Watch", "Watch")


def compare_revision(key: bytes, revision: int) -> Any:
    """A guard: the key's last change was at `revision`; 0: it does not exist."""
    return MESSAGES["Compare"](target=MOD, key=key, mod_revision=revision)


def put(key: bytes, value: bytes, *, lease: int = 0) -> Any:
    """An operation of a transaction: put a key."""
    return MESSAGES["RequestOp"](
        request_put=MESSAGES["PutRequest"](key=key, value=value, lease=lease)
    )


def delete(key: bytes, end: bytes = b"") -> Any:
    """An operation of a transaction: delete a key, or all keys from `key` on before `end`."""
    return MESSAGES["RequestOp"](
        request_delete_range=MESSAGES["DeleteRangeRequest"](key=key, range_end=end)
    )


def get(key: bytes) -> Any:
    """An operation of a transaction: read a key."""
    return MESSAGES["RequestOp"](request_range=MESSAGES["RangeRequest"](key=key))


class CallFailed(EngineError):
    """An endpoint answered with an error, or not at all.

    Attributes:
        status: gRPC's name of the code, such as ``UNAVAILABLE``.
        details: etcd's text.
        sent: Whether the request may have reached an endpoint.
    """

    def __init__(self, method: str, status: str, details: str, *, sent: bool) -> None:
        super().__init__(f"etcd {method}: {status}: {details}", operation=method)
        self.status, self.details, self.sent = status, details, sent


class EtcdClient:
    """Calls to one etcd cluster, at one endpoint at a time."""

    def __init__(self, access: EtcdAccess) -> None:
        self._access = access
        self._context: ssl.SSLContext | None = None
        self._order = itertools.cycle(access.endpoints)
        self.endpoint = next(self._order)
        self._channel: GrpcChannel | None = None
        self._retired: list[GrpcChannel] = []
        """Connections that take no more calls and still have some."""
        self._connecting: asyncio.Task[None] | None = None
        self._metadata: Metadata = ()

    async def call(self, method: str, request: Any, *, timeout: float = CALL_TIMEOUT) -> Any:
        """One call to the current endpoint; when that is away, to the others.

        Args:
            method: Name of the call, as ``Txn``.
            request: Its message.
            timeout: Seconds for the answer, once connected.

        Raises:
            CallFailed: With etcd's own error, or that of the last endpoint tried.
        """
        failure: CallFailed | None = None
        for _ in self._access.endpoints:
            try:
                return await self._call_here(method, request, timeout=timeout)
            except CallFailed as error:
                failure = error
                if error.sent or error.status != "UNAVAILABLE":
                    break
        assert failure is not None
        raise failure

    async def _call_here(self, method: str, request: Any, *, timeout: float) -> Any:
        channel = await self._connect()
        path, answer = _METHODS[method]
        data = request.SerializeToString()
        try:
            found = await channel.call(path, data, timeout=timeout, metadata=self._metadata)
        except GrpcError as error:
            if error.status == "DEADLINE_EXCEEDED":
                self._leave(channel)
            if error.status != "UNAUTHENTICATED" or not self._access.username:
                raise _failed(method, error) from error
            await self._authenticate(channel)
            try:
                found = await channel.call(path, data, timeout=timeout, metadata=self._metadata)
            except GrpcError as again:
                raise _failed(method, again) from again
        return answer.FromString(found)

    async def _connect(self) -> GrpcChannel:
        """Be connected to the current endpoint; without an answer the next one becomes it.

        Raises:
            CallFailed: It does not answer; nothing was sent.
        """
        while self._channel is None or not self._channel.is_open:
            if self._connecting is None:
                self._connecting = asyncio.get_running_loop().create_task(self._open_channel())
                self._connecting.add_done_callback(self._connected)
            try:
                await asyncio.shield(self._connecting)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                raise _given_up() from None
        return self._channel

    def _connected(self, task: asyncio.Task[None]) -> None:
        if self._connecting is task:
            self._connecting = None
        if not task.cancelled():
            task.exception()  # Whoever waits for it is told; nobody may.

    async def _open_channel(self) -> None:
        """Connect for all who wait.

        Raises:
            CallFailed: The endpoint does not answer; the next one is the current one now.
        """
        self._retired = [channel for channel in self._retired if not channel.is_lost]
        self._retire()
        endpoint = self.endpoint
        if self._context is None:
            self._context = self._access.context()
        try:
            channel = await connect(endpoint, self._context, timeout=CONNECT_TIMEOUT)
        except GrpcError as error:
            self._move_on()
            raise _failed("connect", error) from error
        try:
            if self._access.username:
                await self._authenticate(channel)
        except BaseException:
            channel.close()
            await channel.closed()
            raise
        self._channel = channel

    async def _authenticate(self, channel: GrpcChannel) -> None:
        path, answer = _METHODS["Authenticate"]
        request = MESSAGES["AuthenticateRequest"](
            name=self._access.username, password=self._access.password
        )
        try:
            found = await channel.call(path, request.SerializeToString(), timeout=CALL_TIMEOUT)
        except GrpcError as error:
            raise _failed("Authenticate", error) from error
        self._metadata = (("token", answer.FromString(found).token),)

    def _leave(self, channel: GrpcChannel) -> None:
        """Use another endpoint, if there is one, than that which hangs."""
        if channel is self._channel and len(self._access.endpoints) > 1:
            self._retire()
            self._move_on()

    def _retire(self) -> None:
        """Begin no more calls on the present connection."""
        if self._channel is not None:
            self._channel.retire()
            self._retired.append(self._channel)
            self._channel, self._metadata = None, ()

    def _move_on(self) -> None:
        """Use the next endpoint from now on, with the certificates that we have by then."""
        self.endpoint = next(self._order)
        if self._context is not None:
            with contextlib.suppress(EngineUnavailable):
                self._context = self._access.context()

    async def keep_alive(self, lease: int, *, timeout: float = CALL_TIMEOUT) -> int:
        """Renew a lease within so many seconds; its remaining seconds, 0 when it is gone.

        Raises:
            CallFailed: The endpoint did not answer.
        """
        channel = await self._connect()
        request = MESSAGES["LeaseKeepAliveRequest"](ID=lease).SerializeToString()
        answers = channel.stream(_KEEP_ALIVE, request, metadata=self._metadata)
        try:
            async with asyncio.timeout(timeout), contextlib.aclosing(answers):
                async for answer in answers:
                    return int(MESSAGES["LeaseKeepAliveResponse"].FromString(answer).TTL)
        except TimeoutError:
            self._leave(channel)
            raise CallFailed(
                "LeaseKeepAlive", "DEADLINE_EXCEEDED", "no answer in time", sent=True
            ) from None
        except GrpcError as error:
            raise _failed("LeaseKeepAlive", error) from error
        return 0

    async def watch(self, key: bytes, end: bytes, start: int) -> AsyncIterator[Any]:
        """Yield WatchResponses from a revision on; ends when the endpoint has no leader.

        Raises:
            CallFailed: The stream broke, or was not begun.
        """
        channel = await self._connect()
        if self._access.username:
            # With a token that has run out, etcd answers nothing here.
            await self._authenticate(channel)
        create = MESSAGES["WatchCreateRequest"](
            key=key, range_end=end, start_revision=start, fragment=True
        )
        request = MESSAGES["WatchRequest"](create_request=create).SerializeToString()
        metadata = (*self._metadata, ("hasleader", "true"))
        parse = MESSAGES["WatchResponse"].FromString
        try:
            async with contextlib.aclosing(
                channel.stream(_WATCH, request, metadata=metadata)
            ) as answers:
                async with asyncio.timeout(CALL_TIMEOUT):
                    answer = await anext(answers)  # That it is begun.
                yield parse(answer)
                async for answer in answers:
                    yield parse(answer)
        except TimeoutError:
            raise CallFailed("Watch", "UNAVAILABLE", "it was not begun", sent=True) from None
        except StopAsyncIteration:
            return
        except GrpcError as error:
            raise _failed("Watch", error) from error

    async def close(self) -> None:
        """Close the connection; a later call opens one again."""
        connecting = self._connecting
        if connecting is not None:
            connecting.cancel()
            await asyncio.wait({connecting})
        channel, self._channel, self._metadata = self._channel, None, ()
        retired, self._retired = self._retired, []
        for each in (channel, *retired):
            if each is not None:
                each.close()
                await each.closed()


def _failed(method: str, error: GrpcError) -> CallFailed:
    return CallFailed(method, error.status, error.details, sent=error.sent)


def _given_up() -> CallFailed:
    return CallFailed("connect", "UNAVAILABLE", "the connection was given up", sent=False)


def translated(error: CallFailed, operation: str) -> EngineError:
    """The engine's error for etcd's."""
    text = error.details
    if "too many operations" in text or "too large" in text or "larger than max" in text:
        return TooLarge(text, operation=operation)
    if "space exceeded" in text:
        return NoSpace(
            f"{text}: compact and defragment etcd, or raise its quota", operation=operation
        )
    return EngineUnavailable(error.text, operation=operation)
