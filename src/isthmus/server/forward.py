"""Calls to other datacenters: pick a server, call it, try the next, say what was wrong.

Source: protocol/rpc.md §7. Better than Consul: every server of the datacenter is tried, reads
are repeated when a connection breaks under them, and every call has a deadline.
"""

import logging
from typing import Any, Final, Protocol

from isthmus.errors import (
    CALL_PREFIX,
    CONNECT_PREFIX,
    ConnectionLost,
    DialFailed,
    NoPathToDatacenter,
    ProtocolError,
    RemoteError,
    Unavailable,
)
from isthmus.federation.router import Router, ServerInfo
from isthmus.model.methods import METHODS
from isthmus.model.query import QueryOptions
from isthmus.model.record import Record
from isthmus.net.pool import ServerTarget
from isthmus.units import SECOND

logger = logging.getLogger(__name__)

CALL_TIMEOUT: Final = 60.0  # Consul's rpc_client_timeout, from 1.21 on.
HOLD_TIME: Final = 7.0  # Consul's rpc_hold_timeout.
QUERY_TIME_DEFAULT: Final = 300.0  # Consul's default_query_time.
QUERY_TIME_MAX: Final = 600.0  # Consul's max_query_time.
_JITTER: Final = 1 / 16
_ATTEMPTS_MAX: Final = 3


class RemoteCaller(Protocol):
    """Calls one server; `net.pool.RpcPool` is one."""

    async def call(
        self,
        target: ServerTarget,
        method: str,
        request: Record,
        reply_type: Any,
        *,
        timeout: float,
        repeatable: bool = False,
    ) -> Any:
        """Call and decode the reply.

        Raises RemoteError, DialFailed, ConnectionLost, Unavailable or ProtocolError.
        """


class Forwarder:
    """Carries calls to servers of other datacenters."""

    def __init__(self, router: Router, caller: RemoteCaller) -> None:
        self._router, self._caller = router, caller

    def datacenters(self) -> tuple[str, ...]:
        """Datacenters that have servers."""
        return self._router.datacenters()

    async def call(self, dc: str, method: str, request: Record, reply: Any) -> Any:
        """Have a server of `dc` answer.

        Raises:
            NoPathToDatacenter: No server of it is known.
            RemoteError: A server answered with an error; its text stands behind `CALL_PREFIX`.
            Unavailable: No server could be reached. A write surely did not take effect when
                the error is a `DialFailed`, and may have when it is a `ConnectionLost`.
        """
        servers = self._router.servers(dc)
        if not servers:
            raise NoPathToDatacenter(dc)
        repeatable = METHODS[method].read
        failure: Unavailable | None = None
        for attempt in range(max(_ATTEMPTS_MAX, len(servers))):
            server = servers[attempt % len(servers)]
            if isinstance(failure, DialFailed) and attempt >= len(servers):
                break  # Every server was dialled once; the pool has tried every gateway.
            try:
                return await self._call(server, method, request, reply)
            except RemoteError as error:
                raise RemoteError(CALL_PREFIX + str(error)) from error
            except DialFailed as error:
                failure = error
            except (ConnectionLost, ProtocolError) as error:
                failure = ConnectionLost(str(error))
            self._router.failed(server)
            logger.warning(
                "call to another datacenter failed: %s",
                failure,
                extra={"dc": dc, "node": server.node, "rpc": method},
            )
            if isinstance(failure, ConnectionLost) and not repeatable:
                break  # It may have taken effect.
        assert failure is not None
        raise _with_prefix(failure) from failure

    async def _call(self, server: ServerInfo, method: str, request: Record, reply: Any) -> Any:
        target = ServerTarget(server.dc, server.node, server.host, server.port)
        return await self._caller.call(
            target,
            method,
            request,
            reply,
            timeout=call_timeout(request),
            repeatable=METHODS[method].read,
        )


def call_timeout(request: Record) -> float:
    """Seconds a remote call may take: longer for a blocking read than for anything else."""
    if not isinstance(request, QueryOptions) or not request.min_query_index:
        return CALL_TIMEOUT
    wait = request.max_query_time / SECOND if request.max_query_time > 0 else QUERY_TIME_DEFAULT
    return min(wait, QUERY_TIME_MAX) * (1 + _JITTER) + HOLD_TIME


def _with_prefix(failure: Unavailable) -> Unavailable:
    """The failure with the text that Consul puts before it."""
    if isinstance(failure, DialFailed):
        if failure.step == "no gateway known":
            return failure  # Its text starts with Consul's own.
        return DialFailed(
            CONNECT_PREFIX + str(failure),
            dc=failure.dc,
            node=failure.node,
            gateway=failure.gateway,
            step=failure.step,
        )
    return ConnectionLost(CALL_PREFIX + str(failure))
