"""The keys of gossip in all pools at once: ``Internal.KeyringOperation``.

The server that an operator asks has three things done at the same time: the WAN pool and its own
LAN pool are asked by gossip, and of every other datacenter one server is asked to do the same in
its LAN pool. In Consul a datacenter that cannot be reached fails the whole call, although the
others did what was asked. Here each answers for itself, and one that does not answer is named.

Source: protocol/gossip.md §14.7, protocol/rpc.md §5.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from isthmus.errors import IsthmusError, NoPathToDatacenter, RequestError
from isthmus.model.keyring import (
    LIST,
    OPERATIONS,
    RELAY_FACTOR_MAX,
    KeyringRequest,
    KeyringResponse,
    KeyringResponses,
    decode_key,
)
from isthmus.server.endpoints.context import Context, Handler

FAN_OUT_TIMEOUT: Final = 30.0
"""Seconds after which a datacenter that has not answered is named as such."""
FAN_OUT_MAX: Final = 64
"""Datacenters asked at the same time."""

NO_ANSWER: Final = "the datacenter did not carry it out"
"""Error of a datacenter whose pool we know nothing of; its message says why."""


async def keyring_operation(context: Context, request: KeyringRequest) -> KeyringResponses:
    """List or change the keys of all pools, or only of our LAN pool.

    Every pool gets one entry: the WAN pool's first, then our LAN pool's, then the others by name.

    Raises:
        RequestError: The operation or the key is none; nothing was done anywhere.
    """
    _check(request)
    if request.forwarded or request.local_only:
        responses: Sequence[KeyringResponse] = await _of_pool(context, request, wan=False)
    else:
        responses = await _of_all(context, replace(request, forwarded=True))
    return KeyringResponses(
        responses=tuple(responses),
        index=context.store.index or 1,
        known_leader=bool(context.leader()),
    )


def _check(request: KeyringRequest) -> None:
    if request.operation not in OPERATIONS:
        known = ", ".join(OPERATIONS)
        raise RequestError(f'unknown keyring operation "{request.operation}", expected {known}')
    if request.relay_factor > RELAY_FACTOR_MAX:
        raise RequestError(f"Relay factor must be in range: [0, {RELAY_FACTOR_MAX}]")
    if request.operation == LIST:
        return
    if request.local_only:
        raise RequestError("argument error: LocalOnly can only be used for List operations")
    try:
        decode_key(request.key)
    except ValueError as error:
        raise RequestError(f"invalid gossip key: {error}") from None


async def _of_all(context: Context, request: KeyringRequest) -> Sequence[KeyringResponse]:
    deadline = asyncio.get_running_loop().time() + FAN_OUT_TIMEOUT
    slots = asyncio.Semaphore(FAN_OUT_MAX)
    others = sorted(_known_datacenters(context) - {context.dc})
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(_of_pool(context, request, wan=wan)) for wan in (True, False)]
        asked += [
            tasks.create_task(_of_datacenter(context, request, dc, slots, deadline))
            for dc in others
        ]
    return [response for task in asked for response in task.result()]


def _known_datacenters(context: Context) -> set[str]:
    """Datacenters with members in the WAN pool, and those cut off that have a federation state."""
    states = context.store.federation.list().value
    return {*context.datacenters(), *(state.datacenter for state in states)}


async def _of_pool(
    context: Context, request: KeyringRequest, *, wan: bool
) -> Sequence[KeyringResponse]:
    try:
        response = await context.gossip.keys(request, wan=wan)
    except IsthmusError as error:
        return [_silent(context.dc, error, wan=wan)]
    return [] if response is None else [response]


async def _of_datacenter(
    context: Context, request: KeyringRequest, dc: str, slots: asyncio.Semaphore, deadline: float
) -> Sequence[KeyringResponse]:
    try:
        async with asyncio.timeout_at(deadline), slots:
            if context.remote is None:
                raise NoPathToDatacenter(dc)
            reply = await context.remote.call(
                dc, "Internal.KeyringOperation", replace(request, datacenter=dc), KeyringResponses
            )
    except IsthmusError as error:
        return [_silent(dc, error)]
    except TimeoutError:
        return [_silent(dc, TimeoutError(f"no answer within {FAN_OUT_TIMEOUT:g} s"))]
    assert isinstance(reply, KeyringResponses)
    return reply.responses or [_silent(dc, RequestError("its server answered without a pool"))]


def _silent(dc: str, error: Exception, *, wan: bool = False) -> KeyringResponse:
    """The entry of a pool that did not answer."""
    return KeyringResponse(
        wan=wan, datacenter=dc, messages={dc: str(error)}, keys={}, primary_keys={}, error=NO_ANSWER
    )


METHODS: Final[Mapping[str, Handler]] = {"KeyringOperation": keyring_operation}
