"""``/v1/snapshot``: all data of a datacenter, as one file; and Consul's files, to be imported.

Source: protocol/http-api.md §6.5. The file travels between servers in pieces
(`model.snapshot`); here it is one body, in neither direction held in memory.
"""

from collections.abc import AsyncGenerator
from typing import Any, Final

from isthmus.http.context import Context
from isthmus.http.options import read_options
from isthmus.http.request import Request
from isthmus.http.response import Response, meta_headers
from isthmus.http.routing import Route
from isthmus.model.snapshot import IMPORT, PIECE_SIZE, RESTORE, SnapshotWriteReply
from isthmus.net.snapshot_transfer import Call, fetch_snapshot, send_snapshot, take_snapshot

_TYPE: Final = ("Content-Type", "application/x-gzip")


async def save(context: Context, request: Request) -> Response:
    """Take a snapshot and answer it."""
    options = read_options(request, context.local.datacenter)
    asked: dict[str, Any] = {
        "datacenter": options.datacenter,
        "token": options.token,
        "allow_stale": options.allow_stale,
    }
    call = _caller(context)
    snapshot = await take_snapshot(call, **asked)
    response = Response(200, [_TYPE, *meta_headers(snapshot)])
    response.packed = True
    response.stream_size = snapshot.size
    response.stream = fetch_snapshot(call, snapshot, **asked)
    return response


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
    return await send_snapshot(
        _caller(context),
        _body(request),
        operation,
        keep="keep" in request.query,
        datacenter=options.datacenter,
        token=options.token,
    )


def _caller(context: Context) -> Call:
    return lambda method, request: context.call(method, request, object)


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
