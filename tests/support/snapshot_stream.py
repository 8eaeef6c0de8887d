"""A caller as Consul's: one snapshot request on a connection, whose end it sends first."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from isthmus.model.snapshot import StreamReply, StreamRequest
from isthmus.wire.msgpack import Unpacker, encode, from_plain, unpack

DEADLINE = 10.0


class StreamCaller:
    """A connection, in clear or with TLS begun behind its first byte.

    Like Go's, its TLS can end in one direction: a close-notify goes out and reading goes on.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None

    async def start_tls(self, context: ssl.SSLContext) -> None:
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname="server.dc1.consul"
        )
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                self._incoming.write(await self._reader.read(65536))
        self._flush()

    async def send(self, data: bytes) -> None:
        if self._tls is None:
            self._writer.write(data)
        elif data:
            self._tls.write(data)
            self._flush()
        await self._writer.drain()

    async def end(self) -> None:
        """Send no more; go on reading."""
        if self._tls is None:
            self._writer.write_eof()
            return
        try:
            self._tls.unwrap()
        except ssl.SSLWantReadError:
            self._flush()

    async def answer(self) -> bytes:
        """All that comes until the other side's end."""
        async with asyncio.timeout(DEADLINE):
            if self._tls is None:
                return await self._reader.read()
            found = b""
            while True:
                try:
                    data = self._tls.read(65536)
                except ssl.SSLZeroReturnError:  # Both have ended.
                    return found
                except ssl.SSLWantReadError:
                    self._incoming.write(await self._reader.read(65536) or self._cut())
                    continue
                if not data:
                    return found
                found += data

    async def ask(self, request: StreamRequest, file: bytes = b"") -> tuple[StreamReply, bytes]:
        """A whole exchange; the answer and what stands behind it."""
        await self.send(encode(request))
        await self.send(file)
        await self.end()
        return split(await self.answer())

    def _flush(self) -> None:
        self._writer.write(self._outgoing.read())

    def _cut(self) -> bytes:
        raise ConnectionResetError("ended without a close-notify")


def split(answer: bytes) -> tuple[StreamReply, bytes]:
    """The reply and what stands behind it."""
    unpacker = Unpacker()
    unpacker.feed(answer)
    packed = unpacker.take()
    assert packed is not None
    reply: StreamReply = from_plain(StreamReply, unpack(packed))
    return reply, answer[len(packed) :]


@asynccontextmanager
async def stream_caller(
    port: int, *, context: ssl.SSLContext | None = None, preamble: bytes = b"\x05"
) -> AsyncIterator[StreamCaller]:
    """Connect; the last byte of `preamble` goes inside TLS if there is a context."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    caller = StreamCaller(reader, writer)
    try:
        if context is not None:
            await caller.send(b"\x03")
            async with asyncio.timeout(DEADLINE):
                await caller.start_tls(context)
        await caller.send(preamble)
        yield caller
    finally:
        writer.close()
