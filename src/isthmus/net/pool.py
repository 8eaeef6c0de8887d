"""Calls to other servers: one yamux connection per server, shared by all callers.

The first caller dials, the others wait for it, each for its own time; a failed dial fails all
of them at once. Source: protocol/rpc.md §2 "Pool", §7.
"""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

from isthmus.errors import (
    DEADLINE,
    ConnectionLost,
    DialFailed,
    RemoteError,
    Unavailable,
    located,
)
from isthmus.model.record import Record
from isthmus.net.client import (
    Call,
    ClientConnection,
    NotOpened,
    PoolConfig,
    ServerDialer,
    ServerTarget,
    Suspicious,
)
from isthmus.net.connections import ConnectionSet
from isthmus.net.tasks import TaskScope
from isthmus.rpc.calls import Reply
from isthmus.rpc.replies import Replies
from isthmus.wire.blob import encode_message
from isthmus.wire.netrpc import RequestHeader


class RpcPool:
    """Calls servers over pooled connections. Belongs to one event loop.

    Args:
        dialer: How servers are reached.
        config: Limits.
        on_silent: Told when a connection through a gateway (``host:port``) shows no sign of life.
        stand_in: Names the server to repeat a read on whose connection shows no sign of life;
            None: the same one, over a new connection.
    """

    def __init__(
        self,
        dialer: ServerDialer,
        config: PoolConfig | None = None,
        *,
        on_silent: Callable[[ServerTarget, str], None] | None = None,
        stand_in: Callable[[ServerTarget], ServerTarget] | None = None,
    ) -> None:
        self._dialer, self._config = dialer, config or PoolConfig()
        self._on_silent = on_silent
        self._stand_in = stand_in or (lambda target: target)
        self._entries: dict[ServerTarget, _Entry] = {}
        self._open = ConnectionSet()
        self._scope = TaskScope()
        self._closed = False
        self._sequence = itertools.count(1)
        self._call_count = 0
        self._replies = Replies()

    @property
    def call_count(self) -> int:
        """Calls in flight."""
        return self._call_count

    @property
    def connection_count(self) -> int:
        """Connections, those being dialled included."""
        return len(self._entries)

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
        """Call a server.

        Args:
            target: The server.
            method: ``Service.Method``.
            request: The argument.
            reply_type: What to decode the reply to, as in `isthmus.model.methods`.
            timeout: Seconds for all of it: dialling, a place among the streams, the answer.
            repeatable: Whether it may be sent twice (a read): then it does not wait for a
                connection that shows no sign of life, but is sent on another one as well.

        Returns:
            The reply, a `reply_type`.

        Raises:
            RemoteError: The server answered with an error text.
            DialFailed: No connection to it; the call did not take effect.
            ConnectionLost: The connection ended, or time ran out, before the answer; whether
                the call took effect is unknown.
            Unavailable: Too much is in flight; the call did not take effect.
            ProtocolError: The answer cannot be understood.
        """
        if self._call_count >= self._config.calls_max:
            raise Unavailable(f"{self._call_count} RPC calls in flight, more are refused")
        body = encode_message(request)
        header = RequestHeader(next(self._sequence), method)
        self._call_count += 1
        started = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(timeout):
                reply = await self._call(target, header, body, repeatable=repeatable)
        except TimeoutError:
            entry = self._entries.get(target)
            if entry is not None and entry.connection is None:
                raise _dial_timed_out(target, timeout) from None
            if entry is not None and entry.connection is not None:
                self._suspect(target, entry.connection, since=started)
            raise ConnectionLost(
                f"no answer to {method} from server {target.node} of datacenter {target.dc}"
                f" within {timeout:g} s"
            ) from None
        finally:
            self._call_count -= 1
        if reply.error:
            entry = self._entries.get(target)
            through = entry.connection.gateway if entry and entry.connection else ""
            raise RemoteError(reply.error, gateway=through)
        return self._replies.decode(reply_type, reply.body)

    def forget(self, target: ServerTarget) -> None:
        """Use the connection to a server no more; calls on it are finished."""
        entry = self._entries.get(target)
        if entry is not None and entry.connection is not None:
            del self._entries[target]
            entry.connection.retire()

    async def close(self) -> None:
        """Close all connections: calls in flight fail, further ones get `Unavailable`."""
        self._closed = True
        await self._scope.close()
        for entry in list(self._entries.values()):
            if entry.connection is not None:
                entry.connection.shut()
        self._entries.clear()
        await self._open.close()

    def _suspect(
        self, target: ServerTarget, connection: "ClientConnection", *, since: float
    ) -> None:
        """Give up a connection that has been silent for the time of a whole call.

        What it goes through may hang while its TCP connection stays up; the next call is to
        find another way, which yamux's keepalive would allow only after 40 s.
        """
        if connection.heard_at < since:
            self.forget(target)

    async def _call(
        self, target: ServerTarget, header: RequestHeader, body: bytes, *, repeatable: bool
    ) -> Reply:
        while True:
            connection, fresh = await self._connection(target)
            try:
                return await connection.call(header, body, repeatable=repeatable)
            except Suspicious as suspicion:
                return await self._call_again(target, connection, suspicion.call, header, body)
            except NotOpened:
                # Nothing was sent. A pooled connection may just have ended: dial, once.
                if fresh:
                    raise ConnectionLost(
                        f"server {target.node} of datacenter {target.dc} closes its connections"
                    ) from None

    async def _call_again(
        self,
        target: ServerTarget,
        connection: "ClientConnection",
        pending: "Call",
        header: RequestHeader,
        body: bytes,
    ) -> Reply:
        """The connection of a call has become suspect: call on another one as well.

        The first answer counts. An error counts once there is no other call that may succeed.
        """
        assert pending.answered is not None
        second = asyncio.get_running_loop().create_task(
            self._call(self._stand_in(target), header, body, repeatable=False)
        )
        try:
            running: set[asyncio.Future[Reply]] = {pending.answered, second}
            while running:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for answer in done:
                    if answer.exception() is None:
                        return answer.result()
            # Both failed; why there is no second way tells an operator more.
            return await second
        finally:
            connection.finish(pending)
            if not second.done():
                second.cancel()
                await asyncio.wait({second})
            if not second.cancelled():
                second.exception()  # Seen: the other call's answer counted.

    async def _connection(self, target: ServerTarget) -> "tuple[ClientConnection, bool]":
        """The connection to a server, and whether it was dialled for this call."""
        if self._closed:
            raise Unavailable("this agent is stopping, it calls no server any more")
        entry = self._entries.get(target)
        if entry is None or (entry.connection is not None and not entry.connection.is_usable):
            if entry is None and len(self._entries) >= self._config.connections_max:
                raise Unavailable(f"{len(self._entries)} RPC connections, more are refused")
            entry = self._entries[target] = _Entry()
            self._scope.spawn(self._dial(target, entry))
        if entry.connection is not None:
            return entry.connection, False
        try:
            return await asyncio.shield(entry.dialled), True
        except Unavailable as error:
            raise _again(error) from error

    def _silent(self, target: ServerTarget, entry: "_Entry") -> None:
        """A connection shows no sign of life: new calls dial anew, its own go on for a while."""
        assert entry.connection is not None
        if self._entries.get(target) is entry:
            del self._entries[target]
        if self._on_silent is not None and entry.connection.gateway:
            self._on_silent(target, entry.connection.gateway)

    async def _dial(self, target: ServerTarget, entry: "_Entry") -> None:
        def lost() -> None:
            if self._entries.get(target) is entry:
                del self._entries[target]

        try:
            entry.connection = await self._dialer.dial_server(
                lambda: ClientConnection(
                    target, self._config, self._open, lost, lambda: self._silent(target, entry)
                ),
                target,
                timeout=self._config.dial_timeout,
            )
        except Unavailable as error:
            lost()
            entry.dialled.set_exception(error)
            entry.dialled.exception()  # The callers may all have given up.
        except BaseException:
            lost()
            entry.dialled.cancel()
            raise
        else:
            entry.dialled.set_result(entry.connection)


class _Entry:
    """A server's connection, or the dial that will bring it."""

    def __init__(self) -> None:
        self.connection: ClientConnection | None = None
        self.dialled: asyncio.Future[ClientConnection] = asyncio.get_running_loop().create_future()


def _dial_timed_out(target: ServerTarget, timeout: float) -> DialFailed:
    dc, node = target.dc, target.node
    text = f"dial took longer than {timeout:g} s"
    return DialFailed(
        located(text, dc=dc, node=node, gateway="", step=DEADLINE),
        dc=dc,
        node=node,
        gateway="",
        step=DEADLINE,
    )


def _again(error: Unavailable) -> Unavailable:
    """The same error for another caller, without the tracebacks of the others."""
    if isinstance(error, DialFailed):
        return DialFailed(
            str(error), dc=error.dc, node=error.node, gateway=error.gateway, step=error.step
        )
    return Unavailable(str(error))
