"""``/v1/snapshot``: all data of a datacenter, as one file; and Consul's files, to be imported.

Source: protocol/http-api.md §6.5. The file travels between servers in pieces
(`model.snapshot`); here it is one body, in neither direction held in memory.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, Final

from isthmus.errors import IsthmusError, RequestError
from isthmus.http.context import Context
from isthmus.http.options import read_options
from isthmus.http.request import Request
from isthmus.http.response import Response, meta_headers
from isthmus.http.routing import Route
from isthmus.model.snapshot import (
    BEGIN,
    CLOSE,
    IMPORT,
    PIECE_SIZE,
    READ,
    RESTORE,
    SAVE,
    WRITE,
    SnapshotPiece,
    SnapshotReadRequest,
    SnapshotWriteReply,
    SnapshotWriteRequest,
)

CLOSE_TIMEOUT: Final = 2.0
_TYPE: Final = ("Content-Type", "application/x-gzip")
_READ: Final = "Isthmus.SnapshotRead"
_WRITE: Final = "Isthmus.SnapshotWrite"


async def save(context: Context, request: Request) -> Response:
    """Take a snapshot and answer it."""
    options = read_options(request, context.local.datacenter)
    fixed: dict[str, Any] = {
        "datacenter": options.datacenter,
        "token": options.token,
        "allow_stale": options.allow_stale,
    }
    piece = SnapshotPiece()
    while not piece.done:
        piece = await context.call(
            _READ, SnapshotReadRequest(operation=SAVE, id=piece.id, **fixed), SnapshotPiece
        )
    response = Response(200, [_TYPE, *meta_headers(piece)])
    response.packed = True
    response.stream_size = piece.size
    response.stream = _pieces(context, piece, fixed)
    return response


async def _pieces(
    context: Context, snapshot: SnapshotPiece, fixed: dict[str, Any]
) -> AsyncGenerator[bytes, None]:
    """The file, piece by piece."""
    offset = 0
    try:
        while offset < snapshot.size:
            asked = SnapshotReadRequest(operation=READ, id=snapshot.id, offset=offset, **fixed)
            data = (await context.call(_READ, asked, SnapshotPiece)).data
            if not data:
                raise RequestError("the snapshot ended early")
            offset += len(data)
            yield data
    finally:
        asked = SnapshotReadRequest(operation=CLOSE, id=snapshot.id, **fixed)
        with suppress(IsthmusError, TimeoutError):  # It would be dropped by itself, too.
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await context.call(_READ, asked, SnapshotPiece)


async def restore(context: Context, request: Request) -> Response:
    """Put the snapshot in the body in the place of all data."""
    await _send(context, request, RESTORE)
    return Response()


async def import_consul(context: Context, request: Request) -> Response:
    """Write what is in the snapshot of Consul's in the body; with ``keep`` only what is new."""
    reply = await _send(context, request, IMPORT)
    return context.json(request, {"Index": reply.index, "Kinds": list(reply.kinds or ())})


async def _send(context: Context, request: Request, operation: str) -> SnapshotWriteReply:
    """Send the body to the leader and have something done with it."""
    options = read_options(request, context.local.datacenter)
    fixed: dict[str, Any] = {"datacenter": options.datacenter, "token": options.token}

    async def call(operation: str, **more: Any) -> SnapshotWriteReply:
        asked = SnapshotWriteRequest(operation=operation, **fixed, **more)
        return await context.call(_WRITE, asked, SnapshotWriteReply)

    sent = await call(BEGIN)
    name = sent.id
    try:
        async for piece in _body(request):
            sent = await call(WRITE, id=name, offset=sent.size, data=piece)
        while not sent.done:
            sent = await call(operation, id=name, keep="keep" in request.query)
    except BaseException:
        with suppress(IsthmusError, TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await call(CLOSE, id=name)
        raise
    return sent


async def _body(request: Request) -> AsyncGenerator[bytes, None]:
    if request.stream is not None:
        async for piece in request.stream.pieces(PIECE_SIZE):
            yield piece
        return
    for start in range(0, len(request.body), PIECE_SIZE):
        yield request.body[start : start + PIECE_SIZE]


ROUTES: Final = (
    Route("/v1/snapshot", {"GET": save, "PUT": restore}, tells_state=True, streams=True),
    Route("/v1/isthmus/snapshot/import", {"PUT": import_consul}, streams=True),
)
