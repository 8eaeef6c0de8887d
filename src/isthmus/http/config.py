"""``/v1/config``: config entries. Source: protocol/http-api.md §6.6."""

from typing import Final

import msgspec

from isthmus.errors import InvalidRequest, MalformedPacket, NotFound, RequestError
from isthmus.http.context import Context
from isthmus.http.decode import decode_object
from isthmus.http.options import parse_uint, read_options, refuse_namespace
from isthmus.http.request import Request
from isthmus.http.response import Response, meta_headers
from isthmus.http.routing import Route
from isthmus.model.config_entry import (
    CONFIG_ENTRY_TYPES,
    MESH,
    MESH_NAME,
    UPSERT,
    UPSERT_CAS,
    ConfigEntryListAllRequest,
    ConfigEntryQuery,
    ConfigEntryRequest,
    ConfigEntryResponse,
    IndexedConfigEntries,
    IndexedGenericConfigEntries,
)
from isthmus.model.query import Empty
from isthmus.units import quote
from isthmus.wire.written_entry import read_entry

_PREFIX: Final = "Bad request: Request decoding failed: "


async def apply(context: Context, request: Request) -> Response:
    """Write an entry: in any case, or if it has not changed."""
    try:
        entry = read_entry(decode_object(request.body, prefix=_PREFIX))
    except MalformedPacket as error:
        raise InvalidRequest(f"{_PREFIX}{error}") from None
    refuse_namespace(request)
    operation = UPSERT
    if cas := request.query.first("cas"):
        operation = UPSERT_CAS
        entry = msgspec.structs.replace(entry, modify_index=_index(cas))
    command = ConfigEntryRequest(
        op=operation,
        datacenter=request.query.first("dc") or context.local.datacenter,
        entry=entry,
        token=request.token,
    )
    return context.json(request, await context.call("ConfigEntry.Apply", command, bool))


def _index(text: str) -> int:
    index = parse_uint(text)
    if index is None:
        fault = "value out of range" if text.isascii() and text.isdigit() else "invalid syntax"
        raise RequestError(f"strconv.ParseUint: parsing {quote(text)}: {fault}")
    return index


async def get(context: Context, request: Request) -> Response:
    """Read one entry, all of a kind, or all."""
    kind, slash, name = request.argument.partition("/")
    options = read_options(request, context.local.datacenter, namespaced=True)
    options.filter = ""  # Not a parameter of this endpoint.
    if not (kind or slash):
        # One reply of a List holds one kind, as far as Consul's servers can read it.
        everything = ConfigEntryListAllRequest(
            **options.fields(),  # type: ignore[arg-type]
            kinds=tuple(CONFIG_ENTRY_TYPES),
        )
        found = await context.call("ConfigEntry.ListAll", everything, IndexedGenericConfigEntries)
        return context.json(request, found.entries, meta=found)
    question = ConfigEntryQuery(**options.fields(), kind=kind, name=name)  # type: ignore[arg-type]
    if not slash:
        listed = await context.call("ConfigEntry.List", question, IndexedConfigEntries)
        return context.json(request, listed.entries, meta=listed)
    reply = await context.call("ConfigEntry.Get", question, ConfigEntryResponse)
    if reply.entry is None:
        response = Response.text(404, f"Config entry not found for {quote(kind)} / {quote(name)}")
        response.headers += meta_headers(reply)
        return response
    return context.json(request, reply.entry, meta=reply)


async def delete(context: Context, request: Request) -> Response:
    """Delete an entry; one that is not there is no error."""
    kind, slash, name = request.argument.partition("/")
    if not slash:
        raise NotFound("Must provide both a kind and name to delete")
    record = CONFIG_ENTRY_TYPES.get(kind)
    if record is None:
        raise InvalidRequest(f"invalid config entry kind: {kind}")
    refuse_namespace(request)
    if not name:
        return context.json(request, {})  # No entry is without one, so there is none.
    command = ConfigEntryRequest(
        datacenter=request.query.first("dc") or context.local.datacenter,
        entry=record(kind=kind, name=MESH_NAME if kind == MESH else name),
        token=request.token,
    )
    await context.call("ConfigEntry.Delete", command, Empty)
    return context.json(request, {})


ROUTES: Final = (
    Route("/v1/config", {"PUT": apply}),
    Route("/v1/config/", {"GET": get, "DELETE": delete}),
)
