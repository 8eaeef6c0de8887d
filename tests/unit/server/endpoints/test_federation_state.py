"""``FederationState``: what a Consul secondary sent and got, and the rules around it."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from isthmus.errors import FEDERATION_STATES_DISABLED, PermissionDenied, RequestError
from isthmus.model.federation import (
    DELETE,
    UPSERT,
    FederationState,
    FederationStateQuery,
    FederationStateRequest,
    FederationStateResponse,
    IndexedFederationStates,
)
from isthmus.model.methods import METHODS
from isthmus.model.query import DatacenterRequest
from isthmus.model.timestamp import Timestamp
from isthmus.net.listener import PeerInfo
from isthmus.server.server import Server
from isthmus.wire import msgpack
from support.servers import WALL, make_server

CAPTURE = Path(__file__).parents[3] / "vectors" / "federation" / "rpc_federation_state.json"
MESSAGES: list[dict[str, Any]] = json.loads(CAPTURE.read_text())["messages"]


def captured(direction: str, method: str) -> list[bytes]:
    """Bodies of all messages of one method."""
    return [
        bytes.fromhex(message["body_hex"])
        for message in MESSAGES
        if message["dir"] == direction and message["header"]["ServiceMethod"] == method
    ]


def normal(data: bytes) -> Any:
    """Maps of Go have no order: compare what is in them."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(data)
    return list(unpacker)


async def test_captured_write_is_stored_and_answered_as_it_came(server: Server) -> None:
    (body,) = captured("request", "FederationState.Apply")
    request = msgpack.decode(FederationStateRequest, body)
    assert await server.call("FederationState.Apply", request) is True
    reply = await server.call("FederationState.Get", FederationStateQuery(datacenter="dc2"))
    sent = normal(body)[0]["State"]
    got = normal(msgpack.encode(reply))[0]["State"]
    indexes = {"CreateIndex": 2, "ModifyIndex": 2, "PrimaryModifyIndex": 2}
    assert got == sent | indexes


@pytest.mark.parametrize("body", captured("response", "FederationState.List"))
async def test_captured_list_survives_the_store(server: Server, body: bytes) -> None:
    """What Consul's primary lists, written here, is listed the same but for our indexes."""
    theirs = msgpack.decode(IndexedFederationStates, body)
    for state in theirs.states or ():
        await server.apply(FederationStateRequest(op=UPSERT, state=state))
    reply = await server.call("FederationState.List", DatacenterRequest(datacenter="dc1"))
    ours = msgspec.structs.replace(
        reply,
        index=theirs.index,
        states=tuple(
            msgspec.structs.replace(
                state, create_index=old.create_index, modify_index=old.modify_index
            )
            for state, old in zip(reply.states, theirs.states or (), strict=True)
        ),
    )
    assert normal(msgpack.encode(ours)) == normal(body)


@pytest.mark.parametrize("body", captured("response", "FederationState.Get"))
def test_captured_get_is_understood_in_full(body: bytes) -> None:
    reply = msgpack.decode(FederationStateResponse, body)
    assert normal(msgpack.encode(reply)) == normal(body)


@pytest.mark.parametrize(
    "method", ["FederationState.Get", "FederationState.List", "FederationState.ListMeshGateways"]
)
async def test_captured_queries_are_answered_in_the_captured_shape(
    server: Server, method: str
) -> None:
    (apply,) = captured("request", "FederationState.Apply")
    await server.call("FederationState.Apply", msgpack.decode(FederationStateRequest, apply))
    for body in captured("request", method):
        request: Any = msgpack.decode(METHODS[method].request, body)
        changes: dict[str, Any] = {
            "datacenter": "dc2" if method.endswith("Get") else "dc1",
            "min_query_index": 0,
        }
        if method.endswith("Get"):
            changes["target_datacenter"] = "dc1"
        reply = await server.call(method, msgspec.structs.replace(request, **changes))
        (answered,) = normal(msgpack.encode(reply))
        (wanted,) = normal(captured("response", method)[0])
        assert answered.keys() == wanted.keys()
        assert answered["KnownLeader"] is True
        assert answered["Index"] == server.store.index


async def test_time_of_a_write_is_filled_in_only_when_it_is_missing(server: Server) -> None:
    given = Timestamp.of_unix(1_600_000_000, 5)
    for dc, updated_at, wanted in (
        ("dc2", Timestamp(), Timestamp.of(WALL)),
        ("dc3", given, given),
    ):
        state = FederationState(datacenter=dc, updated_at=updated_at)
        await server.call("FederationState.Apply", FederationStateRequest(op=UPSERT, state=state))
        reply = await server.call("FederationState.Get", FederationStateQuery(datacenter=dc))
        assert reply.state.updated_at == wanted


async def test_delete_answers_false(server: Server) -> None:
    state = FederationState(datacenter="dc2")
    await server.call("FederationState.Apply", FederationStateRequest(op=UPSERT, state=state))
    request = FederationStateRequest(op=DELETE, state=state)
    assert await server.call("FederationState.Apply", request) is False
    reply = await server.call("FederationState.List", DatacenterRequest())
    assert (reply.states, reply.index) == ((), 3)


async def test_absent_record_is_none_without_an_error(server: Server) -> None:
    reply = await server.call("FederationState.Get", FederationStateQuery(datacenter="dc9"))
    assert (reply.state, reply.index) == (None, 1)


async def test_empty_lists_are_not_nil(server: Server) -> None:
    assert (await server.call("FederationState.List", DatacenterRequest())).states == ()
    reply = await server.call("FederationState.ListMeshGateways", DatacenterRequest())
    assert reply.datacenter_nodes == {}


async def test_filter_is_ignored(server: Server) -> None:
    reply = await server.call("FederationState.List", DatacenterRequest(filter="a == b"))
    assert reply.states == ()


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("FederationState.Apply", FederationStateRequest()),
        ("FederationState.Get", FederationStateQuery(datacenter="dc1")),
        ("FederationState.List", DatacenterRequest()),
        ("FederationState.ListMeshGateways", DatacenterRequest()),
    ],
)
async def test_feature_is_checked_before_the_request(method: str, request_: Any) -> None:
    server = make_server(enabled=lambda: False)
    await server.start()
    with pytest.raises(RequestError) as caught:
        await server.call(method, request_)
    assert str(caught.value) == FEDERATION_STATES_DISABLED
    await server.stop()


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (FederationStateRequest(op=UPSERT), "invalid request: missing federation state datacenter"),
        (
            FederationStateRequest(op="bogus", state=FederationState(datacenter="dc2")),
            "Invalid federation state operation: bogus",
        ),
    ],
)
async def test_bad_writes_are_refused(
    server: Server, request_: FederationStateRequest, text: str
) -> None:
    with pytest.raises(RequestError) as caught:
        await server.call("FederationState.Apply", request_)
    assert str(caught.value) == text


def write_of(dc: str) -> FederationStateRequest:
    return FederationStateRequest(op=UPSERT, state=FederationState(datacenter=dc))


@pytest.mark.parametrize(
    "dcs",
    [
        {"dc2"},  # Its own record, under whatever case.
        {"dc1"},  # A server of our own datacenter passes it on.
        {"dc3", "dc2"},  # A certificate of several datacenters.
        set[str](),  # No certificate: verify_incoming is off.
    ],
)
async def test_servers_write_their_own_record(server: Server, dcs: set[str]) -> None:
    peer = PeerInfo("127.0.0.2", 1, dcs=frozenset(dcs))
    assert await server.call("FederationState.Apply", write_of("DC2"), peer) is True


@pytest.mark.parametrize("op", [UPSERT, DELETE])
@pytest.mark.parametrize("primary", ["dc1", "dc4"])
async def test_servers_of_another_datacenter_write_no_foreign_record(op: str, primary: str) -> None:
    """Nor through a server that would forward it under its own name: there is no forwarder."""
    server = make_server(primary=primary)
    await server.start()
    request = msgspec.structs.replace(write_of("dc3"), op=op)
    peer = PeerInfo("127.0.0.2", 1, dcs=frozenset({"dc2"}))
    with pytest.raises(PermissionDenied, match=r"^Permission denied: .* of dc2, .* of dc3$"):
        await server.call("FederationState.Apply", request, peer)
    assert len(server.store.federation) == 0
    await server.stop()


async def test_a_clients_certificate_writes_no_record(server: Server) -> None:
    peer = PeerInfo("127.0.0.2", 1, ("client.dc2.consul",), is_client=True)
    with pytest.raises(PermissionDenied, match=r"no server's: it names client\.dc2\.consul$"):
        await server.call("FederationState.Apply", write_of("dc2"), peer)
    assert len(server.store.federation) == 0
