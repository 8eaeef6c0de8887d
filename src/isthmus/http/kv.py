"""``/v1/kv``: keys and values. Source: protocol/http-api.md §6.4, "KV case"."""

import base64
from operator import itemgetter
from typing import Final
from urllib.parse import parse_qsl, urlencode

import msgspec

from isthmus.errors import InvalidRequest, RequestError
from isthmus.http.context import Context
from isthmus.http.options import parse_uint, read_options, refuse_namespace
from isthmus.http.request import Request
from isthmus.http.response import JSON, Response, meta_headers
from isthmus.http.routing import Route
from isthmus.model.kv import (
    KV_CAS,
    KV_DELETE,
    KV_DELETE_CAS,
    KV_DELETE_TREE,
    KV_LOCK,
    KV_SET,
    KV_UNLOCK,
    DirEntry,
    IndexedDirEntries,
    IndexedKeyList,
    KeyListRequest,
    KeyRequest,
    KVSRequest,
)
from isthmus.wire import gojson

_MISSING_KEY: Final = "Missing key name"
_RAW_HEADERS: Final = (
    ("Content-Security-Policy", "sandbox"),
    ("X-Content-Type-Options", "nosniff"),
)
_PLAIN_SAFE: Final = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/-_.:+=@ "
)


async def get(context: Context, request: Request) -> Response:
    """Read a key, the keys under a prefix with their values, or only their names."""
    query = request.query
    if query and "keys" in query:
        return await _keys(context, request)
    options = read_options(request, context.local.datacenter, namespaced=True)
    recurse = bool(query) and "recurse" in query
    if not (request.argument or recurse):
        raise InvalidRequest(_MISSING_KEY)
    reply = await context.call(
        "KVS.List" if recurse else "KVS.Get",
        KeyRequest(**options.fields(), key=request.argument),  # type: ignore[arg-type]
        IndexedDirEntries,
    )
    entries = reply.entries
    if not entries:
        return Response(404, meta_headers(reply))
    if query and "raw" in query and not recurse:
        return Response(200, _raw_headers(reply), entries[0].value or b"")
    if len(entries) == 1 and not context.is_pretty(request):
        return Response(200, [JSON, *meta_headers(reply)], b"[" + encode_entry(entries[0]) + b"]")
    return Response(200, [JSON, *meta_headers(reply)], context.encode(request, entries))


def _raw_headers(reply: IndexedDirEntries) -> list[tuple[str, str]]:
    return [("Content-Type", "text/plain"), *meta_headers(reply), *_RAW_HEADERS]


def encode_entry(entry: DirEntry) -> bytes:
    """JSON of one key as `wire.gojson` would write it; this is the most read answer of all."""
    if entry.session or not _PLAIN_SAFE.issuperset(entry.key):
        return gojson.encode(entry)
    value = b"null"
    if entry.value is not None:
        value = b'"%b"' % base64.b64encode(entry.value)
    return (
        b'{"LockIndex":%d,"Key":"%b","Flags":%d,"Value":%b,"CreateIndex":%d,"ModifyIndex":%d}'
        % (
            entry.lock_index,
            entry.key.encode(),
            entry.flags,
            value,
            entry.create_index,
            entry.modify_index,
        )
    )


async def _keys(context: Context, request: Request) -> Response:
    query = request.query
    options = read_options(request, context.local.datacenter, namespaced=True)
    reply = await context.call(
        "KVS.ListKeys",
        KeyListRequest(
            **options.fields(),  # type: ignore[arg-type]
            prefix=request.argument,
            # Misspelt in the first releases, and accepted ever since.
            seperator=query.first("separator" if "separator" in query else "seperator"),
        ),
        IndexedKeyList,
    )
    if not reply.keys and request.argument:
        return Response(404, meta_headers(reply))
    return context.json(request, reply.keys or (), meta=reply)


async def put(context: Context, request: Request) -> Response:
    """Write a key: in any case, if it has not changed, or taking or giving up its lock."""
    query = request.query
    refuse_namespace(request)
    if not request.argument:
        raise InvalidRequest(_MISSING_KEY)
    _refuse_conflicts(request, "cas", "acquire", "release")
    flags, index, operation, session = 0, 0, KV_SET, ""
    if "flags" in query:
        flags = _number(query.first("flags"))
    if "cas" in query:
        operation, index = KV_CAS, _number(query.first("cas"))
    if "acquire" in query:
        operation, session = KV_LOCK, query.first("acquire")
    if "release" in query:
        operation, session = KV_UNLOCK, query.first("release")
    entry = DirEntry(
        key=request.argument,
        flags=flags,
        value=request.body or None,
        session=session,
        modify_index=index,
    )
    return await _apply(context, request, operation, entry)


async def delete(context: Context, request: Request) -> Response:
    """Delete a key, all keys under a prefix, or a key if it has not changed."""
    query = request.query
    refuse_namespace(request)
    _refuse_conflicts(request, "recurse", "cas")
    recurse = "recurse" in query
    if not (request.argument or recurse):
        raise InvalidRequest(_MISSING_KEY)
    operation, index = KV_DELETE_TREE if recurse else KV_DELETE, 0
    if "cas" in query:
        operation, index = KV_DELETE_CAS, _number(query.first("cas"))
    return await _apply(
        context, request, operation, DirEntry(key=request.argument, modify_index=index)
    )


async def _apply(context: Context, request: Request, operation: str, entry: DirEntry) -> Response:
    done = await context.call(
        "KVS.Apply",
        KVSRequest(
            datacenter=request.query.first("dc") or context.local.datacenter,
            op=operation,
            dir_ent=entry,
            token=request.token,
        ),
        bool,
    )
    # What cannot fail answers false on the wire all the same (protocol/rpc.md §6).
    succeeded = done or operation in {KV_SET, KV_DELETE, KV_DELETE_TREE}
    return context.json(request, succeeded)


def _number(text: str) -> int:
    """Parse a number as Go does.

    Raises:
        RequestError: It is none; a 500, as Consul has it.
    """
    number = parse_uint(text)
    if number is not None:
        return number
    fault = "value out of range" if text.isascii() and text.isdigit() else "invalid syntax"
    quoted = msgspec.json.encode(text).decode()
    raise RequestError(f"strconv.ParseUint: parsing {quoted}: {fault}")


def _refuse_conflicts(request: Request, *names: str) -> None:
    """Refuse parameters of which only one may be given.

    Raises:
        InvalidRequest: Two or more are given.
    """
    given = [name for name in names if name in request.query]
    if len(given) > 1:
        parameters = sorted(parse_qsl(request.raw_query, keep_blank_values=True), key=itemgetter(0))
        raise InvalidRequest(f"Conflicting flags: {urlencode(parameters)}")


ROUTES: Final = (
    Route(
        "/v1/kv/",
        {"GET": get, "PUT": put, "DELETE": delete},
        kv_limit=True,
        repeats="KVS.Get",
    ),
)
