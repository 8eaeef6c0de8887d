"""``/v1/operator/keyring``: the gossip keys of all datacenters.

Consul answers 500 as soon as one datacenter fails, without a word about the others. Here a list
is 200 while any pool told its keys, and the entry of one that did not has ``Error`` and
``Messages``; a change that failed somewhere is 500, and its text ends with the pools that made it.

Source: protocol/http-api.md §6.8.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from isthmus.errors import InvalidRequest, RequestError
from isthmus.http.context import Context
from isthmus.http.decode import decode
from isthmus.http.request import Request
from isthmus.http.response import Response
from isthmus.http.routing import Handler, Route
from isthmus.model.keyring import (
    INSTALL,
    LIST,
    RELAY_FACTOR_MAX,
    REMOVE,
    USE,
    KeyringRequest,
    KeyringResponse,
    KeyringResponses,
)
from isthmus.model.record import Record
from isthmus.model.registration import join_faults

_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE: Final = frozenset({"", "0", "f", "F", "false", "FALSE", "False"})


class _Key(Record, frozen=True, kw_only=True):
    """Body of a change."""

    key: str = ""


async def list_keys(context: Context, request: Request) -> Response:
    """The keys of every pool, and how many members have them."""
    responses = await _operate(context, request, LIST)
    if all(response.error for response in responses):
        raise RequestError(join_faults(list(_faults(responses))))
    return context.json(request, list(responses))


def _change(operation: str) -> Handler:
    """Make the handler of a change."""

    async def change(context: Context, request: Request) -> Response:
        key = decode(_Key, request.body).key
        responses = await _operate(context, request, operation, key)
        if any(response.error for response in responses):
            raise RequestError(_told(responses))
        return Response()

    return change


async def _operate(
    context: Context, request: Request, operation: str, key: str = ""
) -> Sequence[KeyringResponse]:
    reply = await context.call(
        "Internal.KeyringOperation",
        KeyringRequest(
            datacenter=context.local.datacenter,
            operation=operation,
            key=key,
            token=request.token,
            relay_factor=_relay_factor(request),
            local_only=_local_only(request, operation),
            allow_stale=True,  # Any server will do: gossip takes over.
        ),
        KeyringResponses,
    )
    return reply.responses or ()


def _relay_factor(request: Request) -> int:
    text = request.query.first("relay-factor")
    if not text:
        return 0
    try:
        factor = int(text)
    except ValueError:
        raise InvalidRequest(
            f"Bad request: Error parsing relay factor: strconv.Atoi: {_unparsed(text)}"
        ) from None
    if not 0 <= factor <= RELAY_FACTOR_MAX:
        raise InvalidRequest(
            "Bad request: Invalid relay-factor: "
            f"Relay factor must be in range: [0, {RELAY_FACTOR_MAX}]"
        )
    return factor


def _local_only(request: Request, operation: str) -> bool:
    text = request.query.first("local-only")
    if text not in _TRUE | _FALSE:
        raise InvalidRequest(
            f"Bad request: Error parsing local-only: strconv.ParseBool: {_unparsed(text)}"
        )
    if text in _TRUE and operation != LIST:
        raise InvalidRequest(
            "Bad request: Invalid use of local-only: local-only can only be set for list requests"
        )
    return text in _TRUE


def _unparsed(text: str) -> str:
    """What Go says of a text that it cannot parse."""
    return f"parsing {msgspec.json.encode(text).decode()}: invalid syntax"


def _faults(responses: Sequence[KeyringResponse]) -> Iterator[str]:
    """What failed: one line for each pool, one for each member that said why."""
    for response in responses:
        if response.error:
            yield f"{response.pool} error: {response.error}"
            for member, text in sorted((response.messages or {}).items()):
                yield f"{member}: {text}"


def _told(responses: Sequence[KeyringResponse]) -> str:
    """What failed where, and where it was done all the same."""
    done = [
        f"{response.pool} ({response.num_nodes} member{'s' * (response.num_nodes != 1)})"
        for response in responses
        if not response.error
    ]
    return join_faults(list(_faults(responses))) + (f"done in: {', '.join(done)}" if done else "")


ROUTES: Final = (
    Route(
        "/v1/operator/keyring",
        {
            "GET": list_keys,
            "POST": _change(INSTALL),
            "PUT": _change(USE),
            "DELETE": _change(REMOVE),
        },
    ),
)
