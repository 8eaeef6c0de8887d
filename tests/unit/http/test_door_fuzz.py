"""Whatever a client asks of whichever endpoint: an answer, and never one that hides a bug."""

import asyncio
import json
import logging
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.http.context import Context
from isthmus.http.door import ROUTES, Door
from isthmus.http.request import Request
from isthmus.model.agent import CheckDefinition, ServiceDefinition
from isthmus.model.catalog import RegisterRequest
from isthmus.server.server import Server
from isthmus.wire import gojson
from support.http import FakeLocal
from support.records import values
from support.servers import make_server

words = st.sampled_from(
    ["", "a", "a/b", "alpha", "any", "passing", "%00", "%", "%zz", "%ff", "../x", "a//b", "dc1"]
) | st.text(max_size=8)  # fmt: skip
NAMES = (
    "recurse keys raw separator cas flags acquire release index wait dc stale consistent pretty "
    "near node-meta filter tag passing token ns hash wan reason prune cached max_stale note"
)
parameters = st.sampled_from(NAMES.split())
queries = st.lists(
    st.tuples(parameters, words | st.sampled_from(["-1", "0", "1", "18446744073709551616", "1s"])),
    max_size=4,
).map(lambda pairs: "&".join(f"{name}={value}" for name, value in pairs))
records = st.sampled_from([RegisterRequest, ServiceDefinition, CheckDefinition]).flatmap(values)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Node", "Name", "ID", "Service", "Check", "Port", "TTL", "Tags"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=6,
).map(lambda value: json.dumps(value).encode())
bodies = st.binary(max_size=40) | records.map(gojson.encode) | json_values
headers = st.dictionaries(
    st.sampled_from(
        [b"x-consul-token", b"cache-control", b"accept-encoding", b"content-type", b"authorization"]
    ),
    st.binary(max_size=20),
    max_size=2,
)
requests = st.builds(
    lambda route, method, word, query, header, body: Request(
        method, f"{route.path}{word}?{query}", header, body, peer="127.0.0.1"
    ),
    st.sampled_from(ROUTES),
    st.sampled_from(["GET", "PUT", "DELETE", "POST", "HEAD", "OPTIONS", "PATCH"]),
    words,
    queries,
    headers,
    bodies,
)


class Complaints(logging.Handler):
    """Keeps what the door logs about bugs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.seen.append(record)


async def play(script: list[Request], complaints: Complaints) -> None:
    server: Server = make_server()
    await server.start()

    async def rpc(method: str, request: Any) -> object:
        if "min_query_index" in request.__struct_fields__:
            request = msgspec.structs.replace(request, min_query_index=0)
        return await server.call(method, request)

    door = Door(Context(rpc, FakeLocal(), pretty=False, kv_value_size_max=1024))
    try:
        for request in script:
            async with asyncio.timeout(5):
                response = await door.handle(request)
            assert 100 <= response.status < 600
            assert isinstance(response.body, bytes)
            assert not complaints.seen, (request.method, request.raw_path, request.body)
    finally:
        await server.stop()


@settings(deadline=None, max_examples=200)
@given(st.lists(requests, max_size=8))
def test_any_request_is_answered_without_a_bug(script: list[Request]) -> None:
    complaints = Complaints()
    logger = logging.getLogger("isthmus")
    logger.addHandler(complaints)
    try:
        asyncio.run(play(script, complaints))
    finally:
        logger.removeHandler(complaints)
