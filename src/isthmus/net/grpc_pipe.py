"""A gRPC server behind connections that others accepted.

The gRPC library takes no connection but from its own listening sockets. So it listens on a socket
file that only we can reach, and each connection that we accepted is piped to it.
Source: protocol/rpc.md §9.
"""

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from isthmus.net.tasks import TaskScope

STREAMS_MAX: Final = 16_384
"""Calls that run at once, of all connections; more are refused as exhausted."""
GRACE: Final = 0.2
"""Seconds that running calls have to end when the server stops."""
_SOCKET: Final = "grpc.sock"
_PIECE_SIZE: Final = 64 * 1024
_PING_INTERVAL_MIN: Final = 5_000  # Milliseconds; Consul's agents ping every 30 s.

_logger = logging.getLogger(__name__)


class GrpcServer:
    """Serves gRPC on connections that are given to it; starts with the first.

    Args:
        handlers: What it serves.
    """

    def __init__(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._handlers = tuple(handlers)
        self._directory: Path | None = None
        self._server: Any = None
        self._starting = asyncio.Lock()
        self._pipes: set[_Pipe] = set()
        self._tasks = TaskScope()
        self._closed = False

    @property
    def connection_count(self) -> int:
        """Connections that are open."""
        return len(self._pipes)

    def protocol(self) -> asyncio.Protocol:
        """Make the protocol of a connection that speaks gRPC from its next byte on."""
        return _Pipe(self)

    async def _ready(self) -> Path:
        """Our socket file, once something listens there.

        Raises:
            OSError: There is no place for it.
        """
        async with self._starting:
            if self._directory is None:
                directory = Path(tempfile.mkdtemp(prefix="isthmus-grpc-"))  # Of mode 0700.
                try:
                    self._server = self._make(directory / _SOCKET)
                    await self._server.start()
                except BaseException:
                    shutil.rmtree(directory, ignore_errors=True)
                    raise
                self._directory = directory
        return self._directory / _SOCKET

    def _make(self, path: Path) -> Any:
        server = grpc.aio.server(
            maximum_concurrent_rpcs=STREAMS_MAX,
            options=(
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", _PING_INTERVAL_MIN),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", _PING_INTERVAL_MIN),
            ),
        )
        server.add_generic_rpc_handlers(self._handlers)
        server.add_insecure_port(f"unix:{path}")
        return server

    async def close(self) -> None:
        """End all calls and connections; new ones are closed at once."""
        self._closed = True
        await self._tasks.close()
        if (server := self._server) is not None:
            self._server = None  # Its library fails when it is stopped twice.
            await server.stop(GRACE)
        for pipe in list(self._pipes):
            pipe.close()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)


class _Pipe(asyncio.Protocol):
    """The near end of a pipe: the peer's connection."""

    def __init__(self, server: GrpcServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._far: asyncio.Transport | None = None
        self._before = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if self._server._closed:
            transport.abort()
            return
        self._transport = transport
        self._server._pipes.add(self)
        self._server._tasks.spawn(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            path = await self._server._ready()
            far, _ = await loop.create_unix_connection(lambda: _Far(self), str(path))
        except OSError as error:
            _logger.warning("a gRPC connection could not be served: %s", error)
            self.close()
            return
        if self._transport is None:
            far.abort()  # The peer went meanwhile.
            return
        self._far = far
        if self._before:
            far.write(bytes(self._before))
            self._before.clear()
        self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._far is not None:
            self._far.write(data)
            return
        # What came with the type byte; more is not read before the other end is there.
        self._before += data
        if self._transport is not None and len(self._before) >= _PIECE_SIZE:
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        if self._far is not None:
            self._far.pause_reading()

    def resume_writing(self) -> None:
        if self._far is not None:
            self._far.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._server._pipes.discard(self)
        if self._far is not None:
            self._far.close()

    def send(self, data: bytes) -> None:
        """Pass on what our server said."""
        if self._transport is not None:
            self._transport.write(data)

    def hold(self, held: bool) -> None:
        """Read no more of the peer while our server does not take it, or go on."""
        if self._transport is None:
            return
        if held:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def close(self) -> None:
        """End the connection once what was written has left."""
        if self._transport is not None:
            self._transport.close()


class _Far(asyncio.Protocol):
    """The far end: our gRPC server."""

    def __init__(self, near: _Pipe) -> None:
        self._near = near

    def data_received(self, data: bytes) -> None:
        self._near.send(data)

    def pause_writing(self) -> None:
        self._near.hold(True)

    def resume_writing(self) -> None:
        self._near.hold(False)

    def connection_lost(self, error: Exception | None) -> None:
        self._near.close()
