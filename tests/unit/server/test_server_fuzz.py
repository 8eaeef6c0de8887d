"""Whatever the fields of a request: an answer that can be sent, or an error of ours."""

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.errors import IsthmusError
from isthmus.model.methods import METHODS
from isthmus.model.record import Record
from isthmus.net.listener import PeerInfo
from isthmus.server.endpoints import HANDLERS
from isthmus.wire import gojson, msgpack
from support.records import values
from support.servers import make_server

_OURS: Mapping[str, Any] = {"min_query_index": 0, "datacenter": "", "target_datacenter": ""}
"""Nobody waits, and nobody is asked elsewhere."""


def tamed(request: Record) -> Record:
    known = {name: value for name, value in _OURS.items() if name in request.__struct_fields__}
    return msgspec.structs.replace(request, **known)


calls = st.sampled_from(sorted(HANDLERS)).flatmap(
    lambda method: st.tuples(st.just(method), values(METHODS[method].request).map(tamed))
)
peers = st.sampled_from(
    [
        None,
        PeerInfo("127.0.0.1", 1),
        PeerInfo("127.0.0.1", 1, is_client=True),
        PeerInfo("127.0.0.1", 1, dcs=frozenset({"dc2"})),
    ]
)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(calls, peers), max_size=8))
def test_any_request_is_answered_or_refused(script: list[Any]) -> None:
    async def play() -> None:
        server = make_server()
        await server.start()
        try:
            for (method, request), peer in script:
                try:
                    async with asyncio.timeout(5):
                        answer = await server.call(method, request, peer)
                except IsthmusError:
                    continue
                msgpack.encode(answer)
                if isinstance(answer, Record):
                    gojson.encode(answer)
            assert server.is_leader
        finally:
            await server.stop()

    asyncio.run(play())
