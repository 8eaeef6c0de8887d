"""A snapshot's way through the calls that carry it in pieces, for doors that have it as one stream.

`call` in what follows has a method answered, wherever its datacenter and its leader are.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from isthmus.errors import IsthmusError, RequestError
from isthmus.model.snapshot import (
    BEGIN,
    CLOSE,
    READ,
    SAVE,
    WRITE,
    SnapshotPiece,
    SnapshotReadRequest,
    SnapshotWriteReply,
    SnapshotWriteRequest,
)

CLOSE_TIMEOUT: Final = 2.0
"""Seconds for telling a server that its file is not needed any more."""

_NO_SERVICE: Final = "can't find service Isthmus."
_OF_CONSUL: Final = (
    "the servers there are Consul's, whose snapshots are saved and restored by their own agents:"
    " consul snapshot save, on a machine of that datacenter"
)
_READ: Final = "Isthmus.SnapshotRead"
_WRITE: Final = "Isthmus.SnapshotWrite"

Call = Callable[[str, Any], Awaitable[Any]]


async def take_snapshot(call: Call, **asked: Any) -> SnapshotPiece:
    """Have a snapshot taken; what says its name, its size and its index.

    Args:
        call: Has a method answered.
        asked: Fields of every request: datacenter, token, allow_stale.

    Raises:
        IsthmusError: As the call.
    """
    piece = SnapshotPiece()
    with _consul_named():
        while not piece.done:
            piece = await call(_READ, SnapshotReadRequest(operation=SAVE, id=piece.id, **asked))
    return piece


async def fetch_snapshot(
    call: Call, snapshot: SnapshotPiece, **asked: Any
) -> AsyncGenerator[bytes, None]:
    """The file of a snapshot that was taken; it is dropped there at the end, however that comes.

    Raises:
        RequestError: It ended early.
        IsthmusError: As the call.
    """
    offset = 0
    try:
        while offset < snapshot.size:
            request = SnapshotReadRequest(operation=READ, id=snapshot.id, offset=offset, **asked)
            data = (await call(_READ, request)).data
            if not data:
                raise RequestError("the snapshot ended early")
            offset += len(data)
            yield data
    finally:
        request = SnapshotReadRequest(operation=CLOSE, id=snapshot.id, **asked)
        with suppress(IsthmusError, TimeoutError):  # It would be dropped by itself, too.
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await call(_READ, request)


async def send_snapshot(
    call: Call, body: AsyncIterable[bytes], operation: str, *, keep: bool = False, **asked: Any
) -> SnapshotWriteReply:
    """Send a file to the leader and have something done with it.

    Args:
        call: Has a method answered.
        body: The file, in pieces of at most `PIECE_SIZE`.
        operation: `RESTORE` or `IMPORT`.
        keep: With `IMPORT`: what is there already stays as it is.
        asked: Fields of every request: datacenter, token.

    Raises:
        IsthmusError: As the call; and whatever `body` raises. The file is dropped there.
    """

    async def step(operation: str, **more: Any) -> SnapshotWriteReply:
        request = SnapshotWriteRequest(operation=operation, **asked, **more)
        reply: SnapshotWriteReply = await call(_WRITE, request)
        return reply

    with _consul_named():
        sent = await step(BEGIN)
    name = sent.id
    try:
        async for piece in body:
            sent = await step(WRITE, id=name, offset=sent.size, data=piece)
        while not sent.done:
            sent = await step(operation, id=name, keep=keep)
    except BaseException:
        with suppress(IsthmusError, TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await step(CLOSE, id=name)
        raise
    return sent


@contextmanager
def _consul_named() -> Iterator[None]:
    """Say in words why servers of Consul know none of our calls.

    Raises:
        RequestError: They are such.
    """
    try:
        yield
    except IsthmusError as error:
        if _NO_SERVICE not in str(error):
            raise
        raise RequestError(f"{_OF_CONSUL} ({error})") from error
