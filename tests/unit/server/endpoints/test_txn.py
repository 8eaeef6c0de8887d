"""``Txn``: what is wrong before anything is done, what is filled in, what a read answers."""

import pytest

from isthmus.errors import RequestError
from isthmus.model import kv as verbs
from isthmus.model import txn as model
from isthmus.model.catalog import RegisterRequest
from isthmus.model.kv import KV_LOCK, KV_SET, DirEntry, KVSRequest
from isthmus.model.session import SESSION_CREATE, SESSION_DESTROY, Session, SessionRequest
from isthmus.model.txn import (
    TxnOp,
    TxnReadRequest,
    TxnReadResponse,
    TxnRequest,
    TxnResponse,
)
from isthmus.server.endpoints.txn import OPERATIONS_MAX
from isthmus.server.server import Server
from isthmus.units import SECOND, Duration
from support.transactions import check, faults, key, node, service


async def apply(server: Server, *ops: TxnOp) -> TxnResponse:
    reply = await server.call("Txn.Apply", TxnRequest(ops=ops))
    assert isinstance(reply, TxnResponse)
    return reply


async def read(server: Server, *ops: TxnOp, consistent: bool = False) -> TxnReadResponse:
    request = TxnReadRequest(ops=ops, require_consistent=consistent)
    reply = await server.call("Txn.Read", request)
    assert isinstance(reply, TxnReadResponse)
    return reply


async def test_everything_of_a_registration_is_filled_in(server: Server) -> None:
    reply = await apply(
        server,
        node("set", node="n", address="10.0.0.9", datacenter="elsewhere"),
        service("set", "n", service="web"),
        check("set", node="n", name="c", service_id="web", status="passing"),
    )
    first, second, third = reply.results or ()
    assert first.node is not None
    assert second.service is not None
    assert third.check is not None
    assert first.node.datacenter == "dc1"
    assert (second.service.id, second.service.weights is None) == ("web", False)
    assert (third.check.check_id, third.check.service_name) == ("c", "web")


async def test_what_cannot_be_right_is_told_before_anything_is_done(server: Server) -> None:
    reply = await apply(
        server,
        key(verbs.KV_SET, ""),
        key(model.KV_GET, "none"),
        node("set", address="10.0.0.9"),
        node("set", node="n", id="x"),
        service("set", "n", id="web"),
        service("set", "n", service="web", address="0.0.0.0"),
        key(verbs.KV_DELETE_TREE, ""),
    )
    assert faults(reply) == [
        (0, "Must provide key"),
        (2, "Must provide node"),
        (3, "Bad node ID: uuid string is wrong length"),
        (4, "Must provide service name with ID"),
        (5, "Invalid service address"),
    ]


async def test_gateway_that_cannot_work_is_refused(server: Server) -> None:
    reply = await apply(
        server, service("set", "n", id="p", service="p", kind="connect-proxy", port=1)
    )
    ((number, what),) = faults(reply)
    assert number == 0
    assert "Proxy.DestinationServiceName must be non-empty" in what


async def test_read_answers_results_and_what_it_knows(server: Server) -> None:
    await server.call("KVS.Apply", KVSRequest(op=KV_SET, dir_ent=DirEntry(key="a", value=b"1")))
    before = server.store.index
    reply = await read(server, key(model.KV_GET, "a"), consistent=True)
    (result,) = reply.results or ()
    assert result.kv is not None
    assert (result.kv.value, reply.index, reply.known_leader) == (b"1", 1, True)
    assert server.store.index == before


async def test_read_tells_faults_of_either_kind(server: Server) -> None:
    assert faults(await read(server, key(model.KV_GET, "none"))) == [
        (0, 'key "none" doesn\'t exist')
    ]
    reply = await read(server, key(model.KV_GET_TREE, ""))
    assert faults(reply) == [(0, "Must provide key")]
    assert (reply.index, reply.known_leader) == (1, True)


async def test_read_writes_nothing(server: Server) -> None:
    before = server.store.index
    reply = await read(server, key(verbs.KV_SET, "a"))
    assert faults(reply) == [(0, "cannot insert in read-only transaction")]
    assert (server.store.index, server.store.kv.get("a").value) == (before, None)


async def test_closed_lock_is_told_with_what_else_cannot_be_right(server: Server) -> None:
    await server.call("Catalog.Register", RegisterRequest(node="x", address="10.0.0.1"))
    wanted = Session(node="x", lock_delay=Duration(60 * SECOND))
    ids = [
        await server.call("Session.Apply", SessionRequest(op=SESSION_CREATE, session=wanted))
        for _ in range(2)
    ]
    entry = DirEntry(key="a", session=ids[0])
    assert await server.call("KVS.Apply", KVSRequest(op=KV_LOCK, dir_ent=entry))
    lost = SessionRequest(op=SESSION_DESTROY, session=Session(id=ids[0]))
    await server.call("Session.Apply", lost)
    reply = await apply(
        server,
        key(verbs.KV_LOCK, "a", session=ids[1]),
        key(model.KV_GET, "none"),
        key(verbs.KV_SET, ""),
    )
    assert faults(reply) == [
        (0, 'failed to lock key "a" due to lock delay'),
        (2, "Must provide key"),
    ]
    entry = DirEntry(key="a", session=ids[1])
    assert await server.call("KVS.Apply", KVSRequest(op=KV_LOCK, dir_ent=entry)) is False


@pytest.mark.parametrize("ops", [None, ()])
async def test_empty_transaction_is_done(server: Server, ops: tuple[TxnOp, ...] | None) -> None:
    reply = await server.call("Txn.Apply", TxnRequest(ops=ops))
    assert (reply.results, reply.errors) == ((), None)


@pytest.mark.parametrize("method", ["Txn.Apply", "Txn.Read"])
async def test_call_with_too_many_operations_is_refused(server: Server, method: str) -> None:
    request = TxnRequest if method == "Txn.Apply" else TxnReadRequest
    ops = (key(model.KV_GET_TREE, "a"),) * (OPERATIONS_MAX + 1)
    with pytest.raises(RequestError, match=r"too many operations \(1025 > 1024\)"):
        await server.call(method, request(ops=ops))
    assert (await server.call(method, request(ops=ops[1:]))).results == ()
