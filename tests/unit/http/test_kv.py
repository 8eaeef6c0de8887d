import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.http.kv import encode_entry
from isthmus.model.kv import DirEntry, IndexedDirEntries, IndexedKeyList
from isthmus.wire import gojson
from support.http import FakeRpc, as_dict, as_json, make_client

ENTRY = DirEntry(key="a/b", value=b"x", flags=7, create_index=3, modify_index=4, lock_index=1)
META = {
    "X-Consul-Index": "4",
    "X-Consul-Knownleader": "true",
    "X-Consul-Lastcontact": "0",
    "X-Consul-Query-Backend": "blocking-query",
    "Vary": "Accept-Encoding",
    "X-Consul-Default-Acl-Policy": "allow",
}


def found(*entries: DirEntry) -> IndexedDirEntries:
    return IndexedDirEntries(index=4, known_leader=True, entries=entries or None)


async def test_key_is_a_list_of_one() -> None:
    client = make_client(FakeRpc(KVS_Get=found(ENTRY)))
    response = await client.get("/v1/kv/a/b")
    assert response.body == (
        b'[{"LockIndex":1,"Key":"a/b","Flags":7,"Value":"eA==","CreateIndex":3,"ModifyIndex":4}]'
    )
    assert as_dict(response) == {"Content-Type": "application/json", **META}


async def test_missing_key_is_404_with_the_index() -> None:
    response = await make_client(FakeRpc(KVS_Get=found())).get("/v1/kv/a")
    assert (response.status, response.body, as_dict(response)) == (404, b"", META)


async def test_key_is_unescaped_once() -> None:
    client = make_client(FakeRpc(KVS_Get=found()))
    await client.get("/v1/kv/uni%C3%A9/%20sp/100%25")
    assert client.rpc.last.key == "unié/ sp/100%"


async def test_recurse_lists_a_prefix() -> None:
    client = make_client(FakeRpc(KVS_List=found(ENTRY, ENTRY)))
    response = await client.get("/v1/kv/?recurse")
    assert [entry["Key"] for entry in as_json(response)] == ["a/b", "a/b"]
    assert client.rpc.last.key == ""


async def test_raw_is_the_value_and_cannot_be_run_as_a_page() -> None:
    response = await make_client(FakeRpc(KVS_Get=found(ENTRY))).get("/v1/kv/a/b?raw")
    assert response.body == b"x"
    assert response.header("Content-Security-Policy") == "sandbox"
    assert response.header("X-Content-Type-Options") == "nosniff"
    empty = found(DirEntry(key="a"))
    assert (await make_client(FakeRpc(KVS_Get=empty)).get("/v1/kv/a?raw")).body == b""


async def test_keys_are_folded_at_the_separator() -> None:
    reply = IndexedKeyList(index=4, known_leader=True, keys=("a/", "b"))
    client = make_client(FakeRpc(KVS_ListKeys=reply))
    response = await client.get("/v1/kv/?keys&separator=/")
    assert as_json(response) == ["a/", "b"]
    assert (client.rpc.last.prefix, client.rpc.last.seperator) == ("", "/")


async def test_no_keys_is_404() -> None:
    client = make_client(FakeRpc(KVS_ListKeys=IndexedKeyList(index=4, known_leader=True)))
    response = await client.get("/v1/kv/x?keys")
    assert (response.status, as_dict(response)) == (404, META)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_key_must_be_named(method: str) -> None:
    response = await make_client().request(method, "/v1/kv/")
    assert (response.status, response.body) == (400, b"Missing key name")


@pytest.mark.parametrize(
    ("query", "op", "entry"),
    [
        ("", "set", DirEntry(key="a", value=b"v")),
        ("?flags=9", "set", DirEntry(key="a", value=b"v", flags=9)),
        ("?cas=0", "cas", DirEntry(key="a", value=b"v")),
        ("?cas=12", "cas", DirEntry(key="a", value=b"v", modify_index=12)),
        ("?acquire=s", "lock", DirEntry(key="a", value=b"v", session="s")),
        ("?release=s", "unlock", DirEntry(key="a", value=b"v", session="s")),
    ],
)
async def test_put_says_what_is_to_be_done(query: str, op: str, entry: DirEntry) -> None:
    client = make_client(FakeRpc(KVS_Apply=True))
    response = await client.put(f"/v1/kv/a{query}", b"v")
    assert (response.status, response.body) == (200, b"true")
    assert (client.rpc.last.op, client.rpc.last.dir_ent) == (op, entry)
    assert client.rpc.last.datacenter == "dc1"


@pytest.mark.parametrize(
    ("target", "op", "entry"),
    [
        ("a", "delete", DirEntry(key="a")),
        ("?recurse", "delete-tree", DirEntry()),
        ("a?cas=3&dc=dc2", "delete-cas", DirEntry(key="a", modify_index=3)),
    ],
)
async def test_delete_says_what_is_to_be_done(target: str, op: str, entry: DirEntry) -> None:
    client = make_client(FakeRpc(KVS_Apply=True))
    await client.request("DELETE", f"/v1/kv/{target}")
    assert (client.rpc.last.op, client.rpc.last.dir_ent) == (op, entry)


async def test_lost_write_is_false() -> None:
    client = make_client(FakeRpc(KVS_Apply=False))
    assert (await client.put("/v1/kv/a?cas=1", b"v")).body == b"false"


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("cas=abc", 500, 'strconv.ParseUint: parsing "abc": invalid syntax'),
        ("flags=-1", 500, 'strconv.ParseUint: parsing "-1": invalid syntax'),
        (f"cas={2**64}", 500, f'strconv.ParseUint: parsing "{2**64}": value out of range'),
        ("acquire=a&release=b", 400, "Conflicting flags: acquire=a&release=b"),
        ("cas=1&acquire=a", 400, "Conflicting flags: acquire=a&cas=1"),
    ],
)
async def test_bad_flags_are_refused_in_consuls_words(query: str, status: int, text: str) -> None:
    response = await make_client().put(f"/v1/kv/a?{query}", b"v")
    assert (response.status, response.body.decode()) == (status, text)


async def test_namespaces_are_refused() -> None:
    for method in ("GET", "PUT", "DELETE"):
        response = await make_client().request(method, "/v1/kv/a?ns=x")
        assert response.status == 400
        assert b"Namespaces are a Consul Enterprise feature" in response.body


@settings(deadline=None)
@given(
    st.builds(
        DirEntry,
        key=st.text(st.characters(codec="utf-8")) | st.just("\udcff"),
        value=st.none() | st.binary(),
        flags=st.integers(0, 2**64 - 1),
        session=st.sampled_from(["", "s"]),
        modify_index=st.integers(0, 2**64 - 1),
    )
)
def test_entry_is_encoded_as_any_record(entry: DirEntry) -> None:
    assert encode_entry(entry) == gojson.encode(entry)


async def test_no_keys_at_all_are_an_empty_list_and_under_a_prefix_404() -> None:
    client = make_client(FakeRpc(KVS_ListKeys=IndexedKeyList(index=4, known_leader=True)))
    response = await client.get("/v1/kv/?keys")
    assert (response.status, response.body) == (200, b"[]")
    assert (await client.get("/v1/kv/a?keys")).status == 404


async def test_separator_may_be_misspelt_as_it_was_at_first() -> None:
    client = make_client(FakeRpc(KVS_ListKeys=IndexedKeyList(keys=("a/",))))
    await client.get("/v1/kv/?keys&seperator=/")
    assert client.rpc.last.seperator == "/"
    await client.get("/v1/kv/?keys&seperator=/&separator=-")
    assert client.rpc.last.seperator == "-"


async def test_raw_of_many_is_no_raw() -> None:
    client = make_client(FakeRpc(KVS_List=found(ENTRY)))
    response = await client.get("/v1/kv/a?raw&recurse")
    assert as_json(response)[0]["Key"] == "a/b"


async def test_flags_that_conflict_are_told_in_order_and_escaped() -> None:
    response = await make_client().put("/v1/kv/a?release=b/c&cas=1&acquire=", b"v")
    assert (response.status, response.body) == (
        400,
        b"Conflicting flags: acquire=&cas=1&release=b%2Fc",
    )


@pytest.mark.parametrize(("done", "shown"), [(True, b"true"), (False, b"false")])
@pytest.mark.parametrize(("query", "op"), [("acquire", "lock"), ("release", "unlock")])
async def test_locks_are_taken_and_given_up(done: bool, shown: bytes, query: str, op: str) -> None:
    client = make_client(FakeRpc(KVS_Apply=done))
    response = await client.put(f"/v1/kv/a?{query}=s&flags=3&dc=dc2", b"v")
    assert (response.status, response.body) == (200, shown)
    request = client.rpc.last
    assert (request.op, request.datacenter) == (op, "dc2")
    assert request.dir_ent == DirEntry(key="a", value=b"v", flags=3, session="s")
