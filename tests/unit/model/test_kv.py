"""Keys and values as captured."""

from isthmus.model.kv import KV_SET, DirEntry, IndexedDirEntries, KVSRequest
from isthmus.wire import msgpack
from support.rpc_vectors import load


def test_captured_write_and_read_are_of_one_key() -> None:
    write = msgpack.decode(KVSRequest, load("kvs-apply-request").body)
    read = msgpack.decode(IndexedDirEntries, load("kvs-get-response").body)
    assert (write.op, write.dir_ent) == (KV_SET, DirEntry(key="x/y", value=b"val", flags=7))
    assert read.entries == (
        DirEntry(key="x/y", value=b"val", flags=7, create_index=29, modify_index=29),
    )
