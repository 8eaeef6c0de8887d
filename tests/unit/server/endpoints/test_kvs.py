"""``KVS``: texts, results and shapes."""

import asyncio

import pytest

from isthmus.errors import RequestError
from isthmus.model import kv as ops
from isthmus.model.kv import DirEntry, KeyListRequest, KeyRequest, KVSRequest
from isthmus.server.server import Server
from isthmus.units import Duration


def write(op: str, key: str, value: bytes = b"v", index: int = 0) -> KVSRequest:
    return KVSRequest(op=op, dir_ent=DirEntry(key=key, value=value, modify_index=index))


async def test_set_answers_false_as_consul_does(server: Server) -> None:
    assert await server.call("KVS.Apply", write(ops.KV_SET, "a")) is False
    assert await server.call("KVS.Apply", write(ops.KV_DELETE, "a")) is False


async def test_compare_and_set_says_whether_it_took_place(server: Server) -> None:
    assert await server.call("KVS.Apply", write(ops.KV_CAS, "a")) is True
    assert await server.call("KVS.Apply", write(ops.KV_CAS, "a")) is False
    assert await server.call("KVS.Apply", write(ops.KV_CAS, "a", b"2", 2)) is True
    assert await server.call("KVS.Apply", write(ops.KV_DELETE_CAS, "a", index=2)) is False
    assert await server.call("KVS.Apply", write(ops.KV_DELETE_CAS, "a", index=3)) is True


@pytest.mark.parametrize(
    ("op", "key", "text", "status"),
    [
        (ops.KV_SET, "", "Must provide key", 500),
        (ops.KV_DELETE, "", "Must provide key", 500),
        ("bogus", "a", "raft apply failed: Invalid KVS operation 'bogus'", 500),
        (ops.KV_LOCK, "a", "raft apply failed: missing session", 500),
        (ops.KV_UNLOCK, "a", "raft apply failed: missing session", 500),
    ],
)
async def test_bad_writes_are_refused(
    server: Server, op: str, key: str, text: str, status: int
) -> None:
    with pytest.raises(RequestError) as caught:
        await server.call("KVS.Apply", write(op, key))
    assert (str(caught.value), caught.value.status) == (text, status)


async def test_whole_table_may_be_deleted(server: Server) -> None:
    await server.call("KVS.Apply", write(ops.KV_SET, "a"))
    await server.call("KVS.Apply", write(ops.KV_DELETE_TREE, ""))
    reply = await server.call("KVS.List", KeyRequest(key=""))
    assert (reply.entries, reply.index) == (None, 3)


async def test_missing_keys_answer_none_and_an_index(server: Server) -> None:
    for method, request in (
        ("KVS.Get", KeyRequest(key="a")),
        ("KVS.List", KeyRequest(key="a")),
    ):
        reply = await server.call(method, request)
        assert (reply.entries, reply.index, reply.known_leader) == (None, 1, True)
    keys = await server.call("KVS.ListKeys", KeyListRequest(prefix="a"))
    assert (keys.keys, keys.index) == (None, 1)


async def test_large_values_pass(server: Server) -> None:
    value = bytes(2 * 1024 * 1024)
    await server.call("KVS.Apply", write(ops.KV_SET, "big", value))
    reply = await server.call("KVS.Get", KeyRequest(key="big"))
    assert reply.entries[0].value == value


async def test_keys_are_listed_and_folded(server: Server) -> None:
    for key in ("a/b", "a/c", "d"):
        await server.call("KVS.Apply", write(ops.KV_SET, key))
    reply = await server.call("KVS.ListKeys", KeyListRequest(seperator="/"))
    assert reply.keys == ("a/", "d")
    listed = await server.call("KVS.List", KeyRequest(key="a/"))
    assert [entry.key for entry in listed.entries] == ["a/b", "a/c"]


async def test_reader_of_an_empty_table_does_not_miss_the_first_write(server: Server) -> None:
    """An answer's index is never 0, so no write may have index 1."""
    index = (await server.call("KVS.Get", KeyRequest(key="a"))).index
    reading = asyncio.ensure_future(
        server.call("KVS.Get", KeyRequest(key="a", min_query_index=index))
    )
    await asyncio.sleep(0)
    await server.call("KVS.Apply", write(ops.KV_SET, "a"))
    reply = await reading
    assert reply.entries[0].key == "a"
    assert reply.index > index


async def test_write_elsewhere_does_not_end_a_blocking_read(server: Server) -> None:
    await server.call("KVS.Apply", write(ops.KV_SET, "other"))
    index = (await server.call("KVS.Get", KeyRequest(key="a"))).index
    await server.call("KVS.Apply", write(ops.KV_SET, "other", b"2"))
    blocked = KeyRequest(key="a", min_query_index=index, max_query_time=Duration.of(0.001))
    reply = await server.call("KVS.Get", blocked)
    assert reply.entries is None
