"""Transactions as captured."""

from isthmus.model.kv import DirEntry
from isthmus.model.txn import (
    TxnKVOp,
    TxnOp,
    TxnReadRequest,
    TxnReadResponse,
    TxnRequest,
    TxnResponse,
)
from isthmus.wire import msgpack
from support.rpc_vectors import load


def test_captured_transaction_sets_a_key_and_reads_it() -> None:
    request = msgpack.decode(TxnRequest, load("txn-apply-request").body)
    assert request.ops == (
        TxnOp(kv=TxnKVOp(verb="set", dir_ent=DirEntry(key="t", value=b"v"))),
        TxnOp(kv=TxnKVOp(verb="get", dir_ent=DirEntry(key="t"))),
    )


def test_captured_reply_has_a_result_of_every_kind() -> None:
    reply = msgpack.decode(TxnResponse, load("txn-apply-response").body)
    assert reply.errors is None
    written, read, node, service, check = reply.results or ()
    assert written.kv is not None
    assert read.kv is not None
    assert (written.kv.value, read.kv.value, read.kv.lock_index) == (None, b"x", 1)
    assert node.node is not None
    assert service.service is not None
    assert check.check is not None
    assert (node.node.node, service.service.port, check.check.check_id) == ("n1", 80, "serfHealth")


def test_captured_faults_name_their_operations() -> None:
    reply = msgpack.decode(TxnResponse, load("txn-apply-rolled-back-response").body)
    assert reply.results is None
    assert [(error.op_index, error.what) for error in reply.errors or ()] == [
        (0, 'key "none" doesn\'t exist'),
        (1, 'failed index check for key "v", current modify index 504 != 1'),
    ]


def test_captured_read_asks_for_a_node_a_service_and_a_check() -> None:
    request = msgpack.decode(TxnReadRequest, load("txn-read-request").body)
    node, service, check = request.ops or ()
    assert node.node is not None
    assert service.service is not None
    assert check.check is not None
    assert {node.node.verb, service.service.verb, check.check.verb} == {"get"}
    assert (service.service.node, service.service.service.id) == ("beta", "consul")
    reply = msgpack.decode(TxnReadResponse, load("txn-read-response").body)
    assert (reply.index, reply.known_leader, len(reply.results or ())) == (1, True, 1)
