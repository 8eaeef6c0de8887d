"""The state change subscription: agents of Consul follow the health of services over gRPC.

A subscriber gets all instances of a service, and then what changes. Both come from the same
blocking read that other callers use, here or in the datacenter that was asked for.
Source: protocol/rpc.md §9.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Any, Final, Protocol

import grpc

from isthmus.errors import IsthmusError, MalformedPacket, PermissionDenied
from isthmus.model.catalog import CheckServiceNode, IndexedCheckServiceNodes, ServiceRequest
from isthmus.units import Duration
from isthmus.wire import subscribe
from isthmus.wire.subscribe import SubscribeRequest, Topic

BATCH_MAX: Final = 256
"""Instances in one event: a message stays far below gRPC's limit of 4 MiB."""
_WAIT: Final = Duration.of(600)
_Key = tuple[str, str]


class Calls(Protocol):
    """Answers calls; `server.server.Server` does."""

    async def call(self, method: str, request: Any) -> Any:
        """Answer one call."""


class StartOver(IsthmusError):
    """The index went back, as after a restore: the subscriber has to begin anew."""


async def follow(calls: Calls, request: SubscribeRequest) -> AsyncIterator[bytes]:
    """Events for a subscriber, encoded, without end.

    Args:
        calls: Answers our reads.
        request: What to follow.

    Raises:
        MalformedPacket: There is no such topic.
        StartOver: The index went back.
        IsthmusError: The read failed.
    """
    if request.topic not in {Topic.SERVICE_HEALTH, Topic.CONNECT_HEALTH} or not request.key:
        raise MalformedPacket(f"no topic {request.topic} can be followed for {request.key!r}")
    known: dict[_Key, CheckServiceNode] = {}
    index = 0
    while True:
        reply = await _read(calls, request, index)
        if reply.index < index:
            raise StartOver("the index of the data went back")
        nodes = {_key(each): each for each in reply.nodes or ()}
        changed = [each for key, each in nodes.items() if known.get(key) != each]
        gone = [each for key, each in known.items() if key not in nodes]
        first = index == 0
        if first and request.index:
            yield subscribe.encode_new_snapshot(reply.index)
        for event in _batches(reply.index, changed, gone):
            yield event
        if first:
            yield subscribe.encode_end_of_snapshot(reply.index)
        known, index = nodes, max(reply.index, 1)


async def _read(
    calls: Calls, request: SubscribeRequest, min_index: int
) -> IndexedCheckServiceNodes:
    reply = await calls.call(
        "Health.ServiceNodes",
        ServiceRequest(
            datacenter=request.datacenter,
            service_name=request.key,
            connect=request.topic == Topic.CONNECT_HEALTH,
            token=request.token,
            allow_stale=True,
            min_query_index=min_index,
            max_query_time=_WAIT if min_index else Duration(0),
        ),
    )
    assert isinstance(reply, IndexedCheckServiceNodes)
    return reply


def _key(instance: CheckServiceNode) -> _Key:
    return (
        instance.node.node if instance.node is not None else "",
        instance.service.id if instance.service is not None else "",
    )


def _batches(
    index: int, changed: list[CheckServiceNode], gone: list[CheckServiceNode]
) -> list[bytes]:
    """Events that tell of all changes, a bounded number in each."""
    return [
        *(subscribe.encode_updates(index, (), part) for part in _parts(gone)),
        *(subscribe.encode_updates(index, part, ()) for part in _parts(changed)),
    ]


def _parts(instances: list[CheckServiceNode]) -> Iterator[tuple[CheckServiceNode, ...]]:
    for start in range(0, len(instances), BATCH_MAX):
        yield tuple(instances[start : start + BATCH_MAX])


class Subscriptions(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types.
    """The gRPC service.

    Args:
        calls: Answers our reads.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """What handles a method; None: not ours."""
        if details.method != subscribe.METHOD:
            return None
        return grpc.unary_stream_rpc_method_handler(self._subscribe)

    async def _subscribe(self, data: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            async for event in follow(self._calls, subscribe.decode_request(data)):
                yield event
        except StartOver as error:
            await context.abort(grpc.StatusCode.ABORTED, str(error))
        except MalformedPacket as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except PermissionDenied as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        except IsthmusError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
