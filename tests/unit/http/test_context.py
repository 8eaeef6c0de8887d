"""The one callable to the data, and the ways to answer."""

import gzip
from collections.abc import Callable

import msgspec
import pytest

from isthmus.errors import (
    RPC_RATE_EXCEEDED,
    ConnectionLost,
    EngineError,
    IsthmusError,
    MalformedPacket,
    NoLeader,
    NotFound,
    PermissionDenied,
    RemoteError,
    RequestError,
)
from isthmus.http.context import CallFailed, Context
from isthmus.http.request import Query, Request
from isthmus.http.response import GZIP_SIZE_MIN, Response
from isthmus.model.catalog import IndexedNodes, IndexedServices
from isthmus.model.query import DatacenterRequest, Empty, QueryMeta
from isthmus.units import Duration
from support.http import FakeCache, FakeLocal, FakeRpc, make_client

META = QueryMeta(index=7, known_leader=True)


def make_context(rpc: FakeRpc | None = None, *, pretty: bool = False) -> Context:
    return Context(rpc or FakeRpc(), FakeLocal(), pretty=pretty, kv_value_size_max=1024)


def make_request(target: str = "/", **headers: str) -> Request:
    encoded = {name.replace("_", "-").encode(): text.encode() for name, text in headers.items()}
    request = Request("GET", target, encoded, b"", peer="127.0.0.1")
    request.query = Query.parse(request.raw_query)
    return request


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NoLeader(), 500),
        (NotFound("gone"), 500),  # Only the text tells what clients may know.
        (ConnectionLost("lost"), 500),
        (EngineError("disk full", operation="commit"), 500),
        (MalformedPacket("bad reply"), 500),
        (PermissionDenied(), 403),
        (RemoteError("rpc error making call: Permission denied: token lacks it"), 403),
        (RemoteError("rpc error making call: ACL not found"), 403),
    ],
)
async def test_failed_call_is_answered_by_its_text(error: IsthmusError, status: int) -> None:
    context = make_context(FakeRpc(Status_Ping=error))
    with pytest.raises(CallFailed) as caught:
        await context.call("Status.Ping", Empty(), Empty)
    assert (str(caught.value), caught.value.status) == (str(error), status)


async def test_call_that_the_agent_does_not_make_is_answered_429_without_a_text() -> None:
    refused = RequestError(RPC_RATE_EXCEEDED, status=429)
    with pytest.raises(CallFailed) as caught:
        await make_context(FakeRpc(Status_Ping=refused)).call("Status.Ping", Empty(), Empty)
    assert (str(caught.value), caught.value.status) == ("", 429)


async def test_fault_of_ours_passes() -> None:
    def ask(request: object) -> object:
        raise AssertionError("ours")

    with pytest.raises(AssertionError, match="ours"):
        await make_context(FakeRpc(Status_Ping=ask)).call("Status.Ping", Empty(), Empty)


@pytest.mark.parametrize(
    ("always", "target", "indented"),
    [(False, "/", False), (False, "/?pretty", True), (True, "/", True)],
)
def test_json_is_indented_where_it_is_wanted(always: bool, target: str, indented: bool) -> None:
    response = make_context(pretty=always).json(make_request(target), {"A": 1})
    assert response.body == (b'{\n    "A": 1\n}\n' if indented else b'{"A":1}')


def test_json_tells_of_a_reply_only_when_there_is_one() -> None:
    context = make_context()
    assert context.json(make_request(), 1).headers == [("Content-Type", "application/json")]
    assert context.json(make_request(), 1, meta=META).header("X-Consul-Index") == "7"


class Views:
    """Answers one source, and counts how often it is shown."""

    def __init__(self, size: int) -> None:
        self.context = make_context()
        self.source = ("x" * size,)
        self.count = 0

    def _view(self) -> object:
        self.count += 1
        return self.source

    def ask(
        self, target: str = "/", *, variant: str = "all", level: str = "", **headers: str
    ) -> Response:
        return self.context.cached(
            make_request(target, **headers),
            self.source,
            variant,
            self._view,
            meta=META,
            level=level,
        )


def test_same_source_is_encoded_no_more_once_it_is_kept() -> None:
    views = Views(10)
    bodies = {views.ask().body for _ in range(9)}
    assert bodies == {b'["xxxxxxxxxx"]'}
    assert views.count == 2  # What is asked for once only is not kept.


def test_views_and_indentations_are_kept_apart() -> None:
    views = Views(10)
    for _ in range(5):
        for target in ("/", "/?pretty"):
            for variant in ("all", "some"):
                views.ask(target, variant=variant)
    assert views.count == 8


def test_nothing_is_never_kept() -> None:
    """All empty replies may share one empty tuple, and their views differ."""
    context = make_context()
    views: tuple[Callable[[], object], ...] = (list, dict, list)
    bodies = [context.cached(make_request(), (), "v", view, meta=META).body for view in views * 3]
    assert bodies == [b"[]", b"{}", b"[]"] * 3


def test_large_body_is_packed_for_who_takes_it() -> None:
    views = Views(GZIP_SIZE_MIN)
    plain, packed = views.ask(), views.ask(accept_encoding="gzip")
    assert (plain.packed, plain.header("Content-Encoding")) == (False, None)
    assert (packed.packed, packed.header("Content-Encoding")) == (True, "gzip")
    assert gzip.decompress(packed.body) == plain.body
    assert views.ask().body == plain.body  # What was kept packed is not sent plain.


def test_small_body_is_sent_as_it_is() -> None:
    response = Views(10).ask(accept_encoding="gzip")
    assert (response.packed, response.header("Content-Encoding")) == (False, None)


def test_consistency_is_told_as_the_reply_has_it_or_else_as_asked() -> None:
    header = "X-Consul-Effective-Consistency"
    views = Views(10)
    assert views.ask(level="").header(header) is None
    assert views.ask(level="leader").header(header) == "leader"
    meta = QueryMeta(consistency_level="stale")
    response = views.context.cached(
        make_request(), views.source, "v", list, meta=meta, level="leader"
    )
    assert response.header(header) == "stale"


# The agent's cache ----------------------------------------------------------------------------

SERVICES = IndexedServices(index=7, known_leader=True, services={"web": ()})


async def test_answers_out_of_the_cache_say_so() -> None:
    rpc = FakeRpc(Catalog_ListServices=SERVICES)
    cache = FakeCache(rpc)
    client = make_client(rpc, cache=cache)
    first = await client.get("/v1/catalog/services?cached")
    assert (first.header("X-Cache"), first.header("Age")) == ("MISS", None)
    cache.hit, cache.age = True, 12.4
    second = await client.get("/v1/catalog/services?cached", cache_control="max-age=9")
    assert (second.header("X-Cache"), second.header("Age")) == ("HIT", "12")
    assert second.header("X-Consul-Index") == "7"
    assert cache.asked[-1][1].max_age == Duration.of(9)


async def test_datacenters_come_out_of_the_cache_too() -> None:
    rpc = FakeRpc(Catalog_ListDatacenters=("dc1",))
    client = make_client(rpc, cache=FakeCache(rpc, hit=True))
    response = await client.get("/v1/catalog/datacenters?cached")
    assert (response.header("X-Cache"), response.header("Age")) == ("HIT", "0")


@pytest.mark.parametrize("target", ["/v1/catalog/services", "/v1/catalog/nodes?cached"])
async def test_cache_is_not_asked_when_nobody_wants_it_or_it_keeps_nothing(target: str) -> None:
    rpc = FakeRpc(Catalog_ListServices=SERVICES, Catalog_ListNodes=IndexedNodes(index=7))
    cache = FakeCache(rpc)
    response = await make_client(rpc, cache=cache).get(target)
    assert response.status == 200
    assert cache.asked == []
    assert response.header("X-Cache") is None


async def test_failure_behind_the_cache_is_answered_as_any() -> None:
    rpc = FakeRpc(Catalog_ListServices=RemoteError("rpc error making call: ACL not found"))
    response = await make_client(rpc, cache=FakeCache(rpc)).get("/v1/catalog/services?cached")
    assert (response.status, response.body) == (403, b"rpc error making call: ACL not found")


@pytest.mark.parametrize(
    ("query", "levels"),
    [
        ("max_stale=10s", [True]),
        ("max_stale=1s", [True, False]),
        ("stale", [True]),
        ("stale&max_stale=1s", [True, False]),
    ],
)
async def test_data_older_than_wanted_is_asked_of_the_leader(
    query: str, levels: list[bool]
) -> None:
    def answer(request: DatacenterRequest) -> IndexedServices:
        age = 5 if request.allow_stale else 0
        return msgspec.structs.replace(SERVICES, last_contact=Duration.of(age))

    rpc = FakeRpc(Catalog_ListServices=answer)
    response = await make_client(rpc).get(f"/v1/catalog/services?{query}")
    assert [request.allow_stale for _, request in rpc.calls] == levels  # type: ignore[attr-defined]
    assert response.header("X-Consul-Lastcontact") == ("5000" if levels[-1] else "0")


@pytest.mark.parametrize(
    ("query", "stale"),
    [("", True), ("?leader", False), ("?consistent", False), ("?stale", True), ("?cached", False)],
)
async def test_discovery_reads_may_be_as_old_as_the_operator_says(query: str, stale: bool) -> None:
    rpc = FakeRpc(Catalog_ListServices=SERVICES)
    client = make_client(rpc, discovery_max_stale=5.0)
    await client.get(f"/v1/catalog/services{query}")
    assert rpc.last.allow_stale == stale
    assert rpc.last.max_stale_duration == (Duration.of(5) if query == "" else 0)
