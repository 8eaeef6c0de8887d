"""Calls to other datacenters: pick a server, call it, try the next, say what was wrong.

Source: protocol/rpc.md §7. Better than Consul: every server of the datacenter is tried, reads
are repeated when a connection breaks under them, and every call has a deadline.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Any, Final, Protocol

from isthmus.errors import (
    ACL,
    CALL_PREFIX,
    CONNECT_PREFIX,
    NO_GATEWAY,
    REMOTE_SERVER,
    ConnectionLost,
    DialFailed,
    NoPathToDatacenter,
    ProtocolError,
    RemoteError,
    Unavailable,
    located,
)
from isthmus.federation.attempts import CallAttempts
from isthmus.federation.router import Router, ServerInfo
from isthmus.model.methods import METHODS
from isthmus.model.prepared_query import PreparedQueryExecuteRemoteRequest
from isthmus.model.query import QueryOptions
from isthmus.model.record import Record
from isthmus.net.client import ServerTarget
from isthmus.net.wan import RPC_DIAL_TIMEOUT
from isthmus.units import SECOND

logger = logging.getLogger(__name__)

CALL_TIMEOUT: Final = 60.0  # Consul's rpc_client_timeout, from 1.21 on.
HOLD_TIME: Final = 7.0  # Consul's rpc_hold_timeout.
QUERY_TIME_DEFAULT: Final = 300.0  # Consul's default_query_time.
QUERY_TIME_MAX: Final = 600.0  # Consul's max_query_time.
_JITTER: Final = 1 / 16


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


class Witness(Protocol):
    """Is told how calls to other datacenters end."""

    def call_answered(self, dc: str, node: str) -> None:
        """A server carried the call out."""

    def call_refused(self, dc: str, node: str) -> float:
        """A server denied the call to the token; for how many seconds its datacenter has."""

    def call_failed(
        self, dc: str, *, node: str, gateway: str, step: str, text: str, dialled: bool
    ) -> float:
        """No server of `dc` answered; for how many seconds none has.

        Args:
            dc: The datacenter.
            node: Server that was tried last; empty when none is known.
            gateway: ``host:port`` that the call led through; empty for none.
            step: What failed, one of `errors.STEPS`.
            text: The error.
            dialled: Whether there was a connection.
        """

    def why(self, dc: str) -> str:
        """What is known of why `dc` cannot be reached; empty when nothing speaks against it."""


class Forwarder:
    """Carries calls to servers of other datacenters.

    Args:
        router: Knows the servers.
        caller: Calls one.
        witness: Is told how calls end, and how long they have failed.
        far: Seconds to a member of the WAN pool and back; infinite when that is unknown.
    """

    def __init__(
        self,
        router: Router,
        caller: RemoteCaller,
        witness: Witness | None = None,
        *,
        far: Callable[[str], float] = lambda name: math.inf,
    ) -> None:
        self._router, self._caller, self._witness = router, caller, witness
        self._far = far

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
        clock = asyncio.get_running_loop()
        attempts = CallAttempts(
            self._router, dc, repeatable=METHODS[method].read, now=clock.time(), far=self._far
        )
        deadline = clock.time() + total_timeout(request)
        server = attempts.next()
        if server is None:
            raise NoPathToDatacenter(dc, self._witness.why(dc) if self._witness else "")
        failure: DialFailed | ConnectionLost | None = None
        while server is not None:
            last = server
            try:
                answer = await self._call(
                    server, method, request, reply, left=deadline - clock.time()
                )
            except RemoteError as error:
                attempts.answered(server)
                raise self._remote(error, server) from error
            except DialFailed as error:
                failure = error
                attempts.dial_failed(server, now=clock.time())
            except ConnectionLost as error:
                failure = error
                attempts.connection_lost(server, now=clock.time())
            except ProtocolError as error:
                failure = ConnectionLost(str(error))
                attempts.connection_lost(server, now=clock.time())
            else:
                attempts.answered(server)
                if self._witness is not None:
                    self._witness.call_answered(server.dc, server.node)
                return answer
            logger.debug(  # The witness warns, once for all calls.
                "call to another datacenter failed: %s",
                failure,
                extra={"dc": dc, "node": server.node, "rpc": method},
            )
            server = attempts.next() if clock.time() < deadline else None
        assert failure is not None
        raise self._described(failure, last) from failure

    async def _call(
        self, server: ServerInfo, method: str, request: Record, reply: Any, *, left: float
    ) -> Any:
        target = ServerTarget(server.dc, server.node, server.host, server.port)
        return await self._caller.call(
            target,
            method,
            request,
            reply,
            timeout=min(call_timeout(request), left),
            repeatable=METHODS[method].read,
        )

    def _remote(self, error: RemoteError, server: ServerInfo) -> RemoteError:
        """A server's own error with Consul's prefix before and the place behind it."""
        dc, gateway, lasting = server.dc, error.gateway, ""
        step = ACL if error.status == 403 else REMOTE_SERVER
        if self._witness is not None:
            if step == ACL:
                lasting = _lasting(self._witness.call_refused(dc, server.node))
            else:
                self._witness.call_answered(dc, server.node)
        text = located(
            CALL_PREFIX + str(error), dc=dc, node=server.node, gateway=gateway, step=step
        )
        return RemoteError(text + lasting, gateway=gateway)

    def _described(self, failure: DialFailed | ConnectionLost, server: ServerInfo) -> Unavailable:
        """The failure with Consul's text before it; behind it the place, and since when."""
        dc, text = server.dc, str(failure)
        if isinstance(failure, ConnectionLost):
            text = located(
                CALL_PREFIX + text,
                dc=dc,
                node=server.node,
                gateway=failure.gateway,
                step=failure.step,
            )
        elif failure.step != NO_GATEWAY:  # That text starts with Consul's own.
            text = CONNECT_PREFIX + text
        if self._witness is not None:
            text += _lasting(
                self._witness.call_failed(
                    dc,
                    node=server.node,
                    gateway=failure.gateway,
                    step=failure.step,
                    text=str(failure),
                    dialled=isinstance(failure, ConnectionLost),
                )
            )
        if isinstance(failure, ConnectionLost):
            return ConnectionLost(text, gateway=failure.gateway, step=failure.step)
        return DialFailed(
            text, dc=failure.dc, node=failure.node, gateway=failure.gateway, step=failure.step
        )


def call_timeout(request: Record) -> float:
    """Seconds a remote call may take: longer for a blocking read than for anything else."""
    if not isinstance(request, QueryOptions) or not request.min_query_index:
        return CALL_TIMEOUT
    wait = request.max_query_time / SECOND if request.max_query_time > 0 else QUERY_TIME_DEFAULT
    return min(wait, QUERY_TIME_MAX) * (1 + _JITTER) + HOLD_TIME


def total_timeout(request: Record) -> float:
    """Seconds that all attempts of a call may take together; infinite for most.

    The failover of a prepared query goes on to the next datacenter after the time of one dial.
    """
    return RPC_DIAL_TIMEOUT if isinstance(request, PreparedQueryExecuteRemoteRequest) else math.inf


def _lasting(seconds: float) -> str:
    """How long a trouble has lasted, to stand behind its text; nothing about a new one."""
    return f", for {seconds:.1f} s now" if seconds >= 0.05 else ""
