import gzip
import logging

import pytest

from isthmus.errors import EngineError, MalformedPacket, NoLeader, RemoteError, RequestError
from isthmus.http.request import Request
from isthmus.http.response import GZIP_SIZE_MIN
from isthmus.model.catalog import IndexedNodes, Node
from isthmus.model.kv import DirEntry, IndexedDirEntries
from support.http import FakeRpc, as_dict, as_json, make_client

COMMON = {"Vary": "Accept-Encoding", "X-Consul-Default-Acl-Policy": "allow"}


async def test_requests_are_in_the_log_without_their_tokens(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = make_client(FakeRpc(KVS_Get=IndexedDirEntries(index=1)))
    with caplog.at_level(logging.DEBUG, "isthmus.http"):
        await client.get("/v1/kv/a?raw&token=s3cret&dc=dc1")
        await client.get("/v1/kv/a")
    first, second = caplog.records
    assert (first.getMessage(), vars(first)["method"]) == ("request finished", "GET")
    assert vars(first)["url"] == "/v1/kv/a?raw&token=<hidden>&dc=dc1"
    assert (vars(first)["from"], vars(first)["status"]) == ("127.0.0.1", 404)
    assert vars(second)["url"] == "/v1/kv/a"


async def test_wrong_method_is_told_which_are_right() -> None:
    response = await make_client().request("POST", "/v1/catalog/nodes")
    assert (response.status, response.body) == (405, b"method POST not allowed")
    assert response.header("allow") == "OPTIONS,GET"


@pytest.mark.parametrize("method", ["HEAD", "PATCH"])
async def test_head_is_a_wrong_method(method: str) -> None:
    response = await make_client().request(method, "/v1/kv/a")
    assert response.status == 405
    assert response.header("Allow") == "OPTIONS,GET,PUT,DELETE"


async def test_options_lists_methods_without_a_body() -> None:
    response = await make_client().request("OPTIONS", "/v1/kv/a")
    assert (response.status, response.body) == (200, b"")
    assert as_dict(response) == {"Allow": "OPTIONS,GET,PUT,DELETE", **COMMON}


@pytest.mark.parametrize("path", ["/v1/nope", "/v1/status/leader/", "/ui/x"])
async def test_unknown_path_is_404_without_a_body(path: str) -> None:
    response = await make_client().get(path)
    assert (response.status, response.headers, response.body) == (404, [], b"")


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("//v1/kv/a?raw", "/v1/kv/a?raw"),
        ("/v1/kv", "/v1/kv/"),
        ("/v1/kv/a//b%20c", "/v1/kv/a/b%20c"),
    ],
)
async def test_unclean_path_is_redirected(target: str, location: str) -> None:
    response = await make_client().get(target)
    assert (response.status, response.header("Location")) == (301, location)


@pytest.mark.parametrize("target", ["/v1/kv/a%00", "/v1/kv/%07", "/v1/kv/a%E2%80%AE"])
async def test_unprintable_path_is_refused(target: str) -> None:
    response = await make_client().get(target)
    assert (response.status, response.body) == (400, b"")


async def test_path_with_bytes_that_are_no_text_is_let_through() -> None:
    client = make_client(FakeRpc(KVS_Get=IndexedDirEntries(index=1)))
    assert (await client.get("/v1/kv/%FF")).status == 404
    assert client.rpc.last.key == "\udcff"


async def test_malformed_escapes_are_refused() -> None:
    assert (await make_client().get("/v1/kv/%zz")).status == 400
    response = await make_client().get("/v1/kv/a?x=%zz")
    assert (response.status, response.body, as_dict(response)) == (500, b"", COMMON)


async def test_root_says_who_answers() -> None:
    response = await make_client().get("/")
    assert (response.status, response.body) == (200, b"Consul Agent")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NoLeader(), 500),
        (RequestError("Must provide node", status=400), 500),
        (RemoteError("rpc error making call: Permission denied"), 403),
        (RequestError("ACL not found"), 403),
        (MalformedPacket("broken"), 500),
        (EngineError("disk is full", operation="commit"), 500),
    ],
)
async def test_failed_call_is_500_or_403_by_its_text(error: Exception, status: int) -> None:
    response = await make_client(FakeRpc(Status_Leader=error)).get("/v1/status/leader")
    assert (response.status, response.body.decode()) == (status, str(error))
    assert response.header("Content-Type") == "text/plain; charset=utf-8"
    assert response.header("X-Consul-Index") is None


async def test_failed_state_query_still_tells_state() -> None:
    response = await make_client(FakeRpc(Catalog_ListNodes=NoLeader())).get("/v1/catalog/nodes")
    assert response.status == 500
    assert response.header("X-Consul-Index") == "1"
    assert response.header("X-Consul-Knownleader") == "false"


async def test_our_own_mistake_is_500_and_hides_its_text(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_request: object) -> object:
        raise ValueError("secret")

    response = await make_client(FakeRpc(Status_Leader=fail)).get("/v1/status/leader")
    assert (response.status, response.body) == (500, b"Internal error")
    assert "a request failed" in caplog.text


async def test_failed_assertion_is_never_answered() -> None:
    def fail(_request: object) -> object:
        raise AssertionError

    with pytest.raises(AssertionError):
        await make_client(FakeRpc(Status_Leader=fail)).get("/v1/status/leader")


@pytest.mark.parametrize("target", ["/", "/v1/nope", "/v1/status/leader", "//x", "/v1/kv/%07"])
async def test_configured_headers_are_on_every_answer(target: str) -> None:
    client = make_client(FakeRpc(Status_Leader="x"), response_headers={"X-Site": "north"})
    assert (await client.get(target)).header("X-Site") == "north"


async def test_long_answer_is_compressed_on_request() -> None:
    entry = DirEntry(key="a", value=b"x" * GZIP_SIZE_MIN)
    client = make_client(FakeRpc(KVS_Get=IndexedDirEntries(index=1, entries=(entry,))))
    plain = await client.get("/v1/kv/a")
    packed = await client.get("/v1/kv/a", accept_encoding="deflate, gzip")
    assert plain.header("Content-Encoding") is None
    assert packed.header("Content-Encoding") == "gzip"
    assert gzip.decompress(packed.body) == plain.body


async def test_short_answer_is_not_compressed() -> None:
    client = make_client(FakeRpc(Status_Leader="x"))
    response = await client.get("/v1/status/leader", accept_encoding="gzip")
    assert response.header("Content-Encoding") is None


@pytest.mark.parametrize("target", ["/v1/catalog/nodes?pretty", "/v1/catalog/nodes?pretty=0"])
async def test_pretty_indents_by_four_and_ends_the_line(target: str) -> None:
    client = make_client(FakeRpc(Catalog_ListNodes=IndexedNodes(index=3)))
    assert (await client.get("/v1/catalog/nodes")).body == b"[]"
    client = make_client(FakeRpc(Status_Leader="x", Status_Peers=("a", "b")), pretty=True)
    assert (await client.get("/v1/status/peers")).body == b'[\n    "a",\n    "b"\n]\n'


async def test_oversize_body_is_refused_and_ends_the_connection() -> None:
    client = make_client()
    request = Request("PUT", "/v1/kv/a", oversize=524289)
    assert client.door.body_limit(request) == 524288
    response = await client.door.handle(request)
    assert (response.status, response.close) == (413, True)
    assert response.body.startswith(
        b"Request body(524289 bytes) too large, max size: 524288 bytes. See "
    )


@pytest.mark.parametrize("coding", ["", "gzip"])
async def test_repeated_reads_of_unchanged_data_have_the_same_answer(coding: str) -> None:
    nodes = tuple(Node(node=f"n{number}") for number in range(20))
    client = make_client(FakeRpc(Catalog_ListNodes=IndexedNodes(index=3, nodes=nodes)))
    answers = [await client.get("/v1/catalog/nodes", accept_encoding=coding) for _ in range(4)]
    assert len({answer.body for answer in answers}) == 1
    assert answers[3].body is answers[2].body  # Kept since the second time.
    assert all(answer.header("Content-Encoding") == (coding or None) for answer in answers)
    assert b"n19" in (gzip.decompress(answers[3].body) if coding else answers[3].body)


async def test_changed_data_is_encoded_anew() -> None:
    client = make_client()
    for name in ("a", "b", "c"):
        reply = IndexedNodes(index=3, nodes=(Node(node=name),))
        client.rpc.answers["Catalog.ListNodes"] = reply
        for _ in range(3):
            (node,) = as_json(await client.get("/v1/catalog/nodes"))
            assert node["Node"] == name
