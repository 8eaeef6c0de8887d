"""Connections on which Consul streams a snapshot: its client agents, its servers elsewhere.

A connection is one request: ``StreamRequest``, for a restore the file, and the caller's end of
sending, after which it still reads; then ``StreamReply``, for a save the file, and our end. What
comes and goes here as one stream takes the same way as `Snapshots`' pieces, to the leader or
to another datacenter. Source: protocol/rpc.md §10.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Final

from isthmus.errors import IsthmusError, MalformedPacket, RequestError, Unavailable
from isthmus.model.query import QueryMeta
from isthmus.model.snapshot import (
    PIECE_SIZE,
    RESTORE,
    STREAM_RESTORE,
    STREAM_SAVE,
    SnapshotPiece,
    StreamReply,
    StreamRequest,
)
from isthmus.net.snapshot_transfer import Call, fetch_snapshot, send_snapshot, take_snapshot
from isthmus.net.tasks import TaskScope
from isthmus.net.tls import outlive_end
from isthmus.server.snapshot import IDLE_MAX
from isthmus.wire.msgpack import Unpacker, encode, from_plain, unpack

STREAMS_MAX: Final = 64
"""Snapshot connections that are served at once."""
REQUEST_SIZE_MAX: Final = 64 * 1024
"""Bytes of a request, the file behind it not counted."""
LINGER_MAX: Final = 30.0
"""Seconds for which a caller that is refused may go on sending, so that it reads why."""
_FIRST_SIZE: Final = 4096
_INTERNAL_ERROR: Final = "internal error"

_logger = logging.getLogger(__name__)


class SnapshotStreams:
    """Serves such connections.

    Args:
        call: Has a method answered, wherever its datacenter and its leader are.
        idle_max: Seconds without a byte, in or out, after which a connection is dropped.
    """

    def __init__(self, call: Call, *, idle_max: float = IDLE_MAX) -> None:
        self._call, self._idle_max = call, idle_max
        self._tasks = TaskScope()
        self._closed = False

    def __len__(self) -> int:
        """How many are served now."""
        return len(self._tasks)

    def protocol(self) -> asyncio.Protocol:
        """Make the protocol of a connection, from its first byte behind the type byte on."""
        reader = asyncio.StreamReader(limit=PIECE_SIZE)
        return _Connection(reader, self._connected)

    async def close(self) -> None:
        """Drop all connections, and those that still come."""
        self._closed = True
        await self._tasks.close()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._closed:
            writer.transport.abort()
        else:
            self._tasks.spawn(self._serve(reader, writer))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        exchange = _Exchange(self._call, reader, writer, self._idle_max)
        try:
            if len(self._tasks) > STREAMS_MAX:
                raise Unavailable(f"{STREAMS_MAX} snapshots are on their way; try later")
            await exchange.run()
        except (ConnectionError, TimeoutError) as error:
            _logger.info("a snapshot's connection ended early: %s", error or "it was silent")
            writer.transport.abort()
        except IsthmusError as error:
            await exchange.fail(str(error))
        except AssertionError:
            raise
        except Exception:
            _logger.exception("serving a snapshot's connection failed")
            await exchange.fail(_INTERNAL_ERROR)
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        finally:
            writer.close()


class _Exchange:
    """The request of one connection, and its answer."""

    def __init__(
        self,
        call: Call,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        idle_max: float,
    ) -> None:
        self._call, self._reader, self._writer = call, reader, writer
        self._idle_max = idle_max
        self._rest = b""  # What came behind the request.
        self._has_answered = False

    async def run(self) -> None:
        """Do what is asked.

        Raises:
            IsthmusError: It was not done.
            ConnectionError, TimeoutError: The caller is gone, or as good as.
        """
        request = await self._request()
        asked: dict[str, Any] = {"datacenter": request.datacenter, "token": request.token}
        if request.op == STREAM_SAVE:
            asked["allow_stale"] = request.allow_stale
            snapshot = await take_snapshot(self._call, **asked)
            await self._answer(_reply(snapshot))
            async with aclosing(fetch_snapshot(self._call, snapshot, **asked)) as pieces:
                async for piece in pieces:
                    await self._write(piece)
        elif request.op != STREAM_RESTORE:
            raise RequestError(f"unrecognized snapshot op {request.op}")
        elif request.allow_stale:
            raise RequestError("stale not allowed for restore")
        else:
            reply = await send_snapshot(self._call, self._file(), RESTORE, **asked)
            await self._answer(StreamReply(index=reply.index, known_leader=True))

    async def fail(self, text: str) -> None:
        """Tell why it was not done; in the middle of a file nothing but its end can."""
        if self._has_answered:
            _logger.info("a snapshot broke off: %s", text)
            self._writer.transport.abort()
            return
        try:
            async with asyncio.timeout(LINGER_MAX):
                await self._answer(StreamReply(error=text))
                await self._rest_of_input()
        except (ConnectionError, TimeoutError):
            self._writer.transport.abort()

    async def _request(self) -> StreamRequest:
        unpacker = Unpacker(size_max=REQUEST_SIZE_MAX)
        fed = b""
        while True:
            data = await self._read(_FIRST_SIZE)
            if not data:
                raise ConnectionResetError("there was no whole request")
            fed += data
            try:
                unpacker.feed(data)
                packed = unpacker.take()
                if packed is not None:
                    self._rest = fed[len(packed) :]
                    request: StreamRequest = from_plain(StreamRequest, unpack(packed))
                    return request
            except MalformedPacket as error:
                raise RequestError(f"failed to decode request: {error}") from error

    async def _file(self) -> AsyncGenerator[bytes, None]:
        """What the caller sends until it ends."""
        if self._rest:
            yield self._rest
        while data := await self._read(PIECE_SIZE):
            yield data

    async def _rest_of_input(self) -> None:
        """Take what still comes: a connection closed over unread bytes takes our answer along."""
        while await self._read(PIECE_SIZE):
            pass

    async def _answer(self, reply: StreamReply) -> None:
        self._has_answered = True
        await self._write(encode(reply))

    async def _read(self, size: int) -> bytes:
        async with asyncio.timeout(self._idle_max):
            return await self._reader.read(size)

    async def _write(self, data: bytes) -> None:
        self._writer.write(data)
        async with asyncio.timeout(self._idle_max):
            await self._writer.drain()


class _Connection(asyncio.StreamReaderProtocol):
    """A connection whose caller may end before we do, with TLS as without."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], None],
    ) -> None:
        super().__init__(reader, connected)
        self._input = reader

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        outlive_end(transport, self._input.feed_eof)


def _reply(snapshot: SnapshotPiece) -> StreamReply:
    return StreamReply(**{name: getattr(snapshot, name) for name in QueryMeta.__struct_fields__})
