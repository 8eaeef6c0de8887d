"""``/v1/txn``: several operations, all or none. Source: protocol/http-api.md §6.4, "Txn body"."""

import base64
import string
from typing import Final

import msgspec

from isthmus.errors import InvalidRequest, RequestError
from isthmus.http.context import Context
from isthmus.http.decode import decode_list
from isthmus.http.options import read_options
from isthmus.http.request import Request
from isthmus.http.response import JSON, Response, meta_headers
from isthmus.http.routing import Route
from isthmus.model.catalog import (
    ConnectProxyConfig,
    NodeService,
    ServiceAddress,
    ServiceConnect,
    Weights,
)
from isthmus.model.kv import DirEntry
from isthmus.model.record import Record, Uint
from isthmus.model.txn import (
    GET,
    KV_WRITES,
    OPERATION_COUNT_MAX,
    TxnCheckOp,
    TxnError,
    TxnKVOp,
    TxnNodeOp,
    TxnOp,
    TxnReadRequest,
    TxnReadResponse,
    TxnRequest,
    TxnResponse,
    TxnServiceOp,
    TxnSessionOp,
)

_PARSE_FAILED: Final = "Failed to parse body: "
_TYPE: Final = "api.TxnOps"
_META: Final = frozenset({"X-Consul-Knownleader", "X-Consul-Lastcontact"})
_ALPHABET: Final = frozenset(string.ascii_letters + string.digits + "+/=")


class _KVTxnOp(Record, frozen=True, kw_only=True):
    """Operation on a key; `value` is base64."""

    verb: str = ""
    key: str = ""
    value: str | None = None
    flags: Uint = 0
    index: Uint = 0
    session: str = ""
    namespace: str = ""


class _Service(Record, frozen=True, kw_only=True):
    """A service as its agent would show it."""

    kind: str = ""
    id: str = ""
    service: str = ""
    tags: tuple[str, ...] | None = None
    meta: dict[str, str] | None = None
    port: int = 0
    address: str = ""
    socket_path: str = ""
    tagged_addresses: dict[str, ServiceAddress] | None = None
    weights: Weights | None = None
    enable_tag_override: bool = False
    create_index: Uint = 0
    modify_index: Uint = 0
    content_hash: str = ""
    proxy: ConnectProxyConfig | None = None
    connect: ServiceConnect | None = None
    namespace: str = ""
    datacenter: str = ""


class _ServiceTxnOp(Record, frozen=True, kw_only=True):
    """Operation on a service of a node."""

    verb: str = ""
    node: str = ""
    service: _Service = _Service()


class _TxnOp(Record, frozen=True, kw_only=True):
    """One operation as callers write it."""

    kv: _KVTxnOp | None = None
    node: TxnNodeOp | None = None
    service: _ServiceTxnOp | None = None
    check: TxnCheckOp | None = None
    session: TxnSessionOp | None = None


async def txn(context: Context, request: Request) -> Response:
    """Carry out a transaction; 409 when it is rolled back."""
    wanted = decode_list(_TxnOp, request.body, type_name=_TYPE, prefix=_PARSE_FAILED)
    if len(wanted) > OPERATION_COUNT_MAX:
        raise RequestError(
            f"Transaction contains too many operations ({len(wanted)} > {OPERATION_COUNT_MAX})",
            status=413,
        )
    ops = tuple([op for one in wanted for op in _converted(context, one)])
    if any(_writes(op) for op in ops):
        return await _apply(context, request, ops)
    return await _read(context, request, ops)


async def _apply(context: Context, request: Request, ops: tuple[TxnOp, ...]) -> Response:
    dc = request.query.first("dc") or context.local.datacenter
    reply = await context.call(
        "Txn.Apply", TxnRequest(datacenter=dc, ops=ops, token=request.token), TxnResponse
    )
    return _answer(context, request, reply, reply.errors)


async def _read(context: Context, request: Request, ops: tuple[TxnOp, ...]) -> Response:
    options = read_options(request, context.local.datacenter)
    question = TxnReadRequest(**options.fields(), ops=ops)  # type: ignore[arg-type]
    reply = await context.call("Txn.Read", question, TxnReadResponse)
    response = _answer(context, request, reply, reply.errors)
    response.headers += [header for header in meta_headers(reply) if header[0] in _META]
    return response


def _answer(
    context: Context,
    request: Request,
    reply: TxnResponse | TxnReadResponse,
    errors: tuple[TxnError, ...] | None,
) -> Response:
    return Response(409 if errors else 200, [JSON], context.encode(request, reply))


def _writes(op: TxnOp) -> bool:
    """Whether an operation may change something."""
    if op.kv is not None:
        return op.kv.verb in KV_WRITES
    others = (op.node, op.service, op.check)
    return any(other is not None and other.verb != GET for other in others) or bool(op.session)


def _converted(context: Context, op: _TxnOp) -> tuple[TxnOp, ...]:
    """An operation as servers have it; none if it says nothing.

    Raises:
        RequestError: A value is too large, or not base64.
    """
    if op.kv is not None:
        return (TxnOp(kv=_key(op.kv, context.kv_value_size_max)),)
    if op.node is not None:
        return (TxnOp(node=op.node),)
    if op.service is not None:
        service = TxnServiceOp(
            verb=op.service.verb, node=op.service.node, service=_service(op.service.service)
        )
        return (TxnOp(service=service),)
    if op.check is not None:
        return (TxnOp(check=op.check),)
    return () if op.session is None else (TxnOp(session=op.session),)


def _key(op: _KVTxnOp, size_max: int) -> TxnKVOp:
    value = _decoded(op.value or "")
    if len(value) > size_max:
        name = msgspec.json.encode(op.key).decode()
        raise RequestError(
            f"Value for key {name} is too large ({len(value)} > {size_max} bytes)", status=413
        )
    entry = DirEntry(
        key=op.key,
        value=value or None,
        flags=op.flags,
        session=op.session,
        modify_index=op.index,
    )
    return TxnKVOp(verb=op.verb, dir_ent=entry)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        wrong = next((at for at, letter in enumerate(text) if letter not in _ALPHABET), len(text))
        raise InvalidRequest(f"{_PARSE_FAILED}illegal base64 data at input byte {wrong}") from None


def _service(service: _Service) -> NodeService:
    return NodeService(
        kind=service.kind,
        id=service.id,
        service=service.service,
        tags=service.tags,
        address=service.address,
        tagged_addresses=service.tagged_addresses or None,
        meta=service.meta,
        port=service.port,
        socket_path=service.socket_path,
        weights=service.weights,
        enable_tag_override=service.enable_tag_override,
        proxy=service.proxy or ConnectProxyConfig(),
        connect=service.connect or ServiceConnect(),
        modify_index=service.modify_index,
    )


ROUTES: Final = (Route("/v1/txn", {"PUT": txn}, txn_limit=True),)
