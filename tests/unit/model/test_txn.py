"""Transactions as captured."""

from isthmus.model.kv import DirEntry
from isthmus.model.txn import TxnKVOp, TxnOp, TxnRequest
from isthmus.wire import msgpack
from support.rpc_vectors import load


def test_captured_transaction_sets_a_key_and_reads_it() -> None:
    request = msgpack.decode(TxnRequest, load("txn-apply-request").body)
    assert request.ops == (
        TxnOp(kv=TxnKVOp(verb="set", dir_ent=DirEntry(key="t", value=b"v"))),
        TxnOp(kv=TxnKVOp(verb="get", dir_ent=DirEntry(key="t"))),
    )
